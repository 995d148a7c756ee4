"""A terminal of any size for the command line, and what a user sees in it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import select
import signal
import struct
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import FLSIM

PATIENCE = 30.0


def squeezed(text: str) -> str:
    """``text`` without any space."""
    return "".join(text.split())


class Terminal:
    """A process with a terminal of its own."""

    def __init__(self, pid: int, fd: int, columns: int, rows: int) -> None:
        pyte = pytest.importorskip("pyte", reason="pyte is not installed")
        self._pid = pid
        self._fd = fd
        self._screen: Any = pyte.HistoryScreen(columns, rows, history=10_000)
        self._stream: Any = pyte.ByteStream(self._screen)
        self.raw = b""
        """All bytes that came."""
        self.before = termios.tcgetattr(fd)

    @property
    def lines(self) -> list[str]:
        """The lines on the screen, without the empty ones at its end."""
        return "\n".join(line.rstrip() for line in self._screen.display).rstrip().split("\n")

    @property
    def scrolled(self) -> str:
        """All that there is, also what has left the screen, without spaces and ends of lines: a screen breaks lines."""
        columns = range(self._screen.columns)
        above = ["".join(line[i].data for i in columns) for line in self._screen.history.top]
        return squeezed("".join([*above, *self._screen.display]))

    @property
    def cursor_is_hidden(self) -> bool:
        """Whether the cursor is hidden."""
        return bool(self._screen.cursor.hidden)

    @property
    def as_it_was(self) -> bool:
        """Whether the terminal is as it was before, with its cursor."""
        return not self.cursor_is_hidden and termios.tcgetattr(self._fd) == self.before

    def see(self, seen: Callable[[], bool]) -> None:
        """Read until this is to be seen."""
        end = time.monotonic() + PATIENCE
        while not seen():
            assert time.monotonic() < end, f"it is not to be seen on the screen:\n{self.scrolled}"
            assert self._read(end - time.monotonic()), f"the process ended before it was seen:\n{self.scrolled}"

    def see_text(self, text: str) -> None:
        """Read until this text is on the screen."""
        self.see(lambda: squeezed(text) in self.scrolled)

    def type(self, text: str) -> None:
        """Type this."""
        os.write(self._fd, text.encode())

    def end(self) -> int:
        """Read until the process ends, and return its exit code."""
        end = time.monotonic() + PATIENCE
        while self._read(end - time.monotonic()):
            pass
        pid, self._pid = self._pid, 0
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    def close(self) -> None:
        """End the process where it has not ended."""
        if self._pid:
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
        os.close(self._fd)

    def _read(self, seconds: float) -> bool:
        ready, _, _ = select.select([self._fd], [], [], max(0.0, seconds))
        if not ready:
            pytest.fail(f"nothing more came to the screen:\n{self.scrolled}")
        try:
            data = os.read(self._fd, 65536)
        except OSError:  # Linux: EIO where the process has ended
            return False
        self.raw += data
        self._stream.feed(data)
        return bool(data)


@contextlib.contextmanager
def terminal(
    *args: str | Path,
    command: str | Path = FLSIM,
    columns: int = 120,
    rows: int = 40,
    env: dict[str, str] | None = None,
    stdout: Path | None = None,
) -> Iterator[Terminal]:
    """Run a command in a terminal; ``stdout`` is a file where it does not go there."""
    pytest.importorskip("pyte", reason="pyte is not installed")
    variables = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES", "PYTHONBREAKPOINT")}
    variables |= {"TERM": "xterm", "PYTHONUTF8": "1", **(env or {})}
    ours, theirs = pty.openpty()
    fcntl.ioctl(ours, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    pid = os.fork()
    if pid == 0:
        os.close(ours)
        os.login_tty(theirs)
        if stdout is not None:
            os.dup2(os.open(stdout, os.O_WRONLY | os.O_CREAT), 1)
        os.execve(command, [str(command), *map(str, args)], variables)
    shown = Terminal(pid, ours, columns, rows)
    os.close(theirs)
    try:
        yield shown
    finally:
        shown.close()

"""What ``breakpoint()`` does in apps: in the driver a prompt with the terminal to itself, in a worker an error."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TextIO

from flsim.events import Paused, Resumed

if TYPE_CHECKING:
    from flsim.events import Observers


class Terminal:
    """The terminal of a run, as it was before anybody drew on it. Prompts take turns at it."""

    def __init__(self, observers: Observers) -> None:
        self.turn = threading.RLock()
        self.stdin: TextIO = sys.stdin
        self.stdout: TextIO = sys.stdout
        self.stderr: TextIO = sys.stderr
        self._observers = observers
        self._paused = False
        self._settings = self._read_settings()
        self._used = False

    def pause(self) -> None:
        """Have the observers leave the terminal alone."""
        self._used = True
        if not self._paused:
            self._paused = True
            self._observers.put(Paused())
            self._observers.flush()

    def resume(self) -> None:
        """Give the terminal back to the observers."""
        if self._paused:
            self._paused = False
            self._observers.put(Resumed())

    def give_away(self) -> None:
        """Leave the terminal, and the standard streams, to somebody else for the rest of the run."""
        self.pause()
        sys.stdout, sys.stderr = self.stdout, self.stderr

    def restore(self) -> None:
        """Undo what a prompt did to it that was interrupted while it read a line."""
        if self._used and self._settings is not None:
            import termios

            termios.tcsetattr(self.stdin, termios.TCSADRAIN, self._settings)

    def _read_settings(self) -> Any:
        if self.stdin is None or self.stdin.closed or not self.stdin.isatty():
            return None
        import termios

        return termios.tcgetattr(self.stdin)


class Hook:
    """``sys.breakpointhook`` for the time of a run, in the driver.

    It opens Python's debugger. Where ``PYTHONBREAKPOINT`` or a hook that was set before names another one, that one
    gets the terminal for the rest of the run, and stops one frame below the app's.
    """

    def __init__(self, terminal: Terminal, quit: Callable[[BaseException], None]) -> None:
        self.pid = os.getpid()
        self._terminal = terminal
        self._quit = quit
        self._before = sys.breakpointhook

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        named = os.environ.get("PYTHONBREAKPOINT")
        if named == "0":
            return None
        if named or self._before is not sys.__breakpointhook__ or _pdb_is_anothers():
            self._terminal.give_away()
            return self._before(*args, **kwargs)
        from flsim.prompt import Prompt

        return Prompt(self._terminal, self._quit, *args, **kwargs).set_trace(sys._getframe(1))


def _pdb_is_anothers() -> bool:
    """Whether somebody put another debugger into the place of Python's, as pytest does."""
    pdb = sys.modules.get("pdb")
    return pdb is not None and getattr(pdb.set_trace, "__module__", "") != "pdb"


@contextlib.contextmanager
def breakpoints(observers: Observers, quit: Callable[[BaseException], None]) -> Iterator[None]:
    """In the driver, for the time of a run: ``breakpoint()`` opens a prompt in either app.

    Args:
        quit: called with ``bdb.BdbQuit`` when the user quits there, in whatever thread.
    """
    terminal, before = Terminal(observers), sys.breakpointhook
    sys.breakpointhook = Hook(terminal, quit)
    try:
        yield
    finally:
        sys.breakpointhook = before
        terminal.restore()


class _Refused:
    """Leases at work in this process, which may be several at once, and the hook that was there before them."""

    turn = threading.Lock()
    leases = 0
    before: Any = None


@contextlib.contextmanager
def refused_in_workers() -> Iterator[None]:
    """Around a lease: where this process is a worker's, ``breakpoint()`` raises RuntimeError."""
    if isinstance(sys.breakpointhook, Hook) and sys.breakpointhook.pid == os.getpid():
        yield
        return
    with _Refused.turn:
        _Refused.leases += 1
        if _Refused.leases == 1:
            _Refused.before, sys.breakpointhook = sys.breakpointhook, _refuse
    try:
        yield
    finally:
        with _Refused.turn:
            _Refused.leases -= 1
            if _Refused.leases == 0:
                sys.breakpointhook = _Refused.before


def _refuse(*args: Any, **kwargs: Any) -> None:
    if os.environ.get("PYTHONBREAKPOINT") != "0":
        raise RuntimeError("breakpoint() needs a terminal, and a worker has none: run the app with --backend serial")

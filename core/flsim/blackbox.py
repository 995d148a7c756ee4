"""The black box of a worker process: a file that says what the process was at, and outlives it.

An exit code does not come back from every backend, and a hang has none. So each worker process that is a lease's own
writes the lease and the message that it is at into a file in the run's folder, and what ends it is written behind that:
the stack of a message that ran too long, of a crash, or the memory that it held. On a host where that folder is not in
reach, the same goes to the worker's stderr.
"""

from __future__ import annotations

import faulthandler
import mmap
import os
import struct
import tempfile
import threading
from pathlib import Path
from typing import NamedTuple

from flsim.envelope import clean, describe
from flsim.errors import Cause, WorkerLost
from flsim.family import end_orphans, lead_group

HEAD = struct.Struct("=QQQQ")
"""The beginning of the file, which is written over: a :class:`Head`."""

_PEAK, _PEAK_AT = struct.Struct("=Q"), 16
"""The third of these."""

WORDS = 16 * 1024
"""Bytes read of what follows."""

PATIENCE = 3.0
"""Seconds that a worker which was lost may take to die."""

OVER_MEMORY = "flsim: over its memory: "
_OVER_TIME = "Timeout ("  # how faulthandler begins


class Head(NamedTuple):
    """What a process is at."""

    lease: int
    message: int
    peak: int
    """The most bytes of memory that it has held."""
    pid: int


def boxes_in(folder: Path) -> dict[Path, Head]:
    """The black boxes in a run's folder."""
    found = {}
    for file in folder.glob("worker-*"):
        with file.open("rb") as f:
            head = f.read(HEAD.size)
        if len(head) == HEAD.size:
            found[file] = Head(*HEAD.unpack(head))
    return found


class BlackBox:
    """In the worker: the file of this process for one run.

    Args:
        folder: the run's, on the driver's host.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.kept = os.access(folder, os.W_OK | os.X_OK)
        """Whether the driver will find the file."""
        self._fd = 2
        self._head: mmap.mmap | bytearray = bytearray(HEAD.size)
        self._peak = 0
        if self.kept:
            self._fd = tempfile.mkstemp(prefix="worker-", dir=folder)[0]
            os.write(self._fd, self._head)  # so that there is room for it; words follow
            self._head = mmap.mmap(self._fd, HEAD.size)  # it is written for each message, and so without a call
            lead_group()
        self._pid = os.getpid()
        faulthandler.enable(self._fd)

    def at(self, lease: int, message: int = 0) -> None:
        """Say what this process is at: which lease, and which of its messages."""
        self._peak = 0
        HEAD.pack_into(self._head, 0, lease, message, 0, self._pid)

    def held(self, now: int) -> None:
        """Say how many bytes this message holds: the most of it is kept."""
        if now > self._peak:
            self._peak = now
            # Its own bytes alone: this is another thread than that which says what the process is at.
            _PEAK.pack_into(self._head, _PEAK_AT, now)

    def end_after(self, seconds: float) -> None:
        """End this process with its stack in the file, unless :meth:`go_on` comes first. Needs no GIL."""
        faulthandler.dump_traceback_later(seconds, exit=True, file=self._fd)

    def go_on(self) -> None:
        """The message has ended in time."""
        faulthandler.cancel_dump_traceback_later()

    def end(self, words: str) -> None:
        """Write this, and end the process now."""
        os.write(self._fd, words.encode() + b"\n")
        os._exit(1)

    def close(self) -> None:
        """Write no more to it."""
        if isinstance(self._head, mmap.mmap):
            self._head.close()
            os.close(self._fd)


_box: BlackBox | None = None  # of this process, since faulthandler is


def black_box(folder: str) -> BlackBox:
    """The one of this process, for the run of this folder."""
    global _box
    if _box is None or _box.folder != folder:
        before, _box = _box, BlackBox(folder)
        if before is not None:
            before.close()
    return _box


class BlackBoxes:
    """In the driver: those of a run's workers.

    Args:
        folder: the run's.
        near: whether all workers are on this host.
    """

    def __init__(self, folder: Path, near: bool) -> None:
        self.folder = folder
        self._near: bool | None = near or None

    def heard(self, kept: bool) -> None:
        """A worker has answered, and says whether it keeps its box here."""
        self._near = kept and self._near is not False

    def explain(self, lost: WorkerLost, lease: int, limit: float | None, seconds: float) -> WorkerLost:
        """What is known of a worker that was lost, once its box is read.

        Args:
            lost: what the backend says.
            limit: the ``time_limit`` of each message of the lease.
            seconds: since the lease was pulled.
        """
        try:
            found = self._take(lease)
        except OSError as e:  # the driver may have no file left to open
            detail = f"{lost}; what it was at cannot be read: {describe(e)}"
            return WorkerLost(lost.cause, detail, lost.traceback)
        if not lost.cause.charges:
            return lost
        if found is None:
            if self._near:  # it would have left one, had it begun
                return WorkerLost(Cause.NOT_STARTED, lost.detail)
            if limit is not None and seconds >= limit:
                text = f"{_over(limit)}, as far as can be told from here: its worker died, and its log says of what"
                return WorkerLost(Cause.TIME_LIMIT, text)
            return lost
        message, peak, words = found
        if not message:  # it was still loading the app
            return WorkerLost(Cause.NOT_STARTED, str(lost), words)
        if words.startswith(_OVER_TIME):
            return WorkerLost(Cause.TIME_LIMIT, _over(limit), words)
        if words.startswith(OVER_MEMORY):
            return WorkerLost(Cause.MEMORY, words.removeprefix(OVER_MEMORY).strip())
        held = f"; it had held up to {mebibytes(peak)}" if peak else ""
        crash = next((name for begins, name in _CRASHES.items() if words.startswith(begins)), "")
        known = f" ({crash})" if crash and crash not in str(lost) else ""
        return WorkerLost(Cause.SIGNAL if crash else lost.cause, f"{lost}{known}{held}", words)

    def close(self) -> None:
        """The run is over, and its workers are dead, or others'."""
        for head in boxes_in(self.folder).values():
            if head.pid:
                end_orphans(head.pid)

    def _take(self, lease: int) -> tuple[int, int, str] | None:
        """The box of the worker that was at this lease: at which message, the memory it held at most, and the words in
        it. What the worker has started is ended."""
        for file, head in boxes_in(self.folder).items():
            if head.lease == lease:
                with file.open("rb") as f:
                    f.seek(HEAD.size)
                    words = clean(f.read(WORDS).decode(errors="replace"), WORDS)
                file.unlink()
                if head.pid:
                    # It is heard that a worker is lost a moment before it is dead.
                    threading.Thread(target=end_orphans, args=(head.pid, PATIENCE), daemon=True).start()
                return head.message, head.peak, words
        return None


_CRASHES = {
    "Fatal Python error: Segmentation fault": "SIGSEGV",
    "Fatal Python error: Bus error": "SIGBUS",
    "Fatal Python error: Aborted": "SIGABRT",
    "Fatal Python error: Floating": "SIGFPE",  # "exception", or "point exception", by the version of Python
    "Fatal Python error: Illegal instruction": "SIGILL",
}
"""How faulthandler begins, and the signal that it has seen: not every backend is told of it."""


def _over(limit: float | None) -> str:
    return "it ran longer than its time_limit" + ("" if limit is None else f" of {limit:g} s")


def mebibytes(size: int) -> str:
    """A size, for people."""
    return f"{size / 2**20:,.0f} MiB"

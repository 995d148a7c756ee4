"""What a worker process holds of memory: kept below its kind's limit while a message runs, and looked at between."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from functools import cache
from pathlib import Path

from flsim.blackbox import OVER_MEMORY, BlackBox, mebibytes
from flsim.host import host_cpus, host_memory

LOOK_EVERY = 0.05
"""Seconds between two looks while a message with a limit runs."""

NOTE_EVERY = 0.2
"""… and while one without a limit does, so that it is known what a worker held that something else has killed."""

HOLDS = 0.8
"""Share of its limit above which a process that holds it between messages is replaced, …"""

GROWN = 0.1
"""… if it has grown by this share since its first lease: one that is large from the start would be no smaller anew."""

_PAGE = os.sysconf("SC_PAGE_SIZE")
_PROC = Path("/proc")


def measurable() -> bool:
    """Whether this host tells what a process holds."""
    return (_PROC / "self/statm").exists()


def held(pid: int | str = "self") -> int:
    """Bytes of private memory of a process: what it would give back if it ended. Files and shared memory that are
    mapped, as a model that many messages carry is, do not count. 0 where it has ended."""
    try:
        _, resident, shared, *_ = (_PROC / str(pid) / "statm").read_bytes().split()
    except OSError:
        return 0
    return (int(resident) - int(shared)) * _PAGE


def _started() -> list[str]:
    """The pids of the processes that this one has started, and they in turn."""
    started: list[str] = []
    look_at = [str(os.getpid())]
    while look_at:
        try:
            threads = list(_PROC.glob(f"{look_at.pop()}/task/*/children"))
        except OSError:  # the app has as many files open as this process may have
            break
        for children in threads:
            try:
                found = children.read_text().split()
            except OSError:  # the thread has ended
                continue
            started += found
            look_at += found
    return started


class MemoryGuard:
    """Ends this process when a message makes it hold more than ``limit``: from a thread, which needs the GIL now and
    then, so that a call that keeps it is met when it lets go."""

    def __init__(self) -> None:
        self._change = threading.Condition()
        self._watched: tuple[BlackBox, int] | None = None
        threading.Thread(target=self._watch, name="flsim-memory", daemon=True).start()

    def begin(self, box: BlackBox, limit: int) -> None:
        """A message begins that may hold ``limit`` bytes."""
        with self._change:
            self._watched = box, limit
            self._change.notify()

    def note(self, box: BlackBox | None) -> None:
        """What this process holds is written to ``box`` now and then, until None comes in its place."""
        with self._change:
            self._watched = None if box is None else (box, 0)

    def end(self) -> None:
        """It has ended: what it holds at that moment is looked at, too."""
        with self._change:
            self._look()
            self._watched = None

    def _watch(self) -> None:
        with self._change:
            while True:
                self._look()
                limited = self._watched is not None and self._watched[1]
                self._change.wait(LOOK_EVERY if limited else NOTE_EVERY)

    def _look(self) -> None:
        if self._watched is None:
            return
        box, limit = self._watched
        started = _started()
        now = held() + sum(map(held, started))
        box.held(now)
        if limit and now > limit:
            for pid in started:  # or they would keep what they hold
                with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile
                    os.kill(int(pid), signal.SIGKILL)
            box.end(f"{OVER_MEMORY}it held {mebibytes(now)} of memory, and may hold {mebibytes(limit)}")


_guard: MemoryGuard | None = None  # of this process: one thread is enough


def memory_guard() -> MemoryGuard:
    """The one of this process."""
    global _guard
    if _guard is None:
        _guard = MemoryGuard()
    return _guard


@cache
def _share(cpus: float) -> float:
    """Bytes of a process that needs so many cpus: half of what their share of the host has in memory. Looked up once,
    since what a container leaves is told by a dozen files."""
    return 0.5 * host_memory() * min(1.0, max(cpus, 0.01) / host_cpus())


_first = 0  # bytes that this process held after its first lease


def outgrown(limit: int, cpus: float) -> str:
    """Why this process had better be replaced before its next lease; empty where it need not.

    Args:
        limit: bytes that a message of its kind may hold; 0: its share of the host's memory.
        cpus: that its kind needs.
    """
    global _first
    now = held()
    if not _first:
        _first = now
    most = HOLDS * limit if limit else _share(cpus)
    if now <= most or now - _first <= GROWN * (limit or most):
        return ""
    return f"it has grown from {mebibytes(_first)} to {mebibytes(now)}"

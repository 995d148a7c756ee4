"""What a worker has started: found by its process group, and ended where it outlives it. By /proc, so on Linux."""

from __future__ import annotations

import contextlib
import os
import select
import signal
from pathlib import Path

_PROC = Path("/proc")


def lead_group() -> None:
    """Make this process the leader of a process group, which what it starts from now on belongs to, and what that
    starts in turn. It is none that a terminal's Ctrl-C goes to."""
    with contextlib.suppress(PermissionError):  # it leads a session, and so a group
        os.setpgid(0, 0)


def end_orphans(leader: int, patience: float = 0.0) -> None:
    """Kill what is left of a process group, once its leader is dead: one that lives may need what it has started.

    A resource tracker is left alone: it removes what the others leave, and then ends.

    Args:
        patience: seconds that the leader, which is on its way out, may take.
    """
    if not hasattr(os, "pidfd_open") or not _dead(leader, patience):
        return
    for path in _PROC.glob("[0-9]*"):
        pid = int(path.name)
        if pid != leader and _field(pid, 2) == str(leader) and not _is_tracker(path):
            with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile
                os.kill(pid, signal.SIGKILL)


def _dead(pid: int, patience: float) -> bool:
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        waiting = select.poll()
        waiting.register(process, select.POLLIN)
        return bool(waiting.poll(patience * 1000))
    finally:
        os.close(process)


def _field(pid: int, at: int) -> str:
    """A field of the stat of a process, counted from its state; empty where it has ended."""
    try:
        return (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()[at]
    except OSError:
        return ""


def _is_tracker(path: Path) -> bool:
    try:
        return b"resource_tracker" in (path / "cmdline").read_bytes()
    except OSError:
        return False

"""What a worker has started: found by its process group, and ended where it outlives it. By /proc, so on Linux."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

_PROC = Path("/proc")


def lead_group() -> None:
    """Make this process the leader of a process group, which what it starts from now on belongs to, and what that
    starts in turn. It is none that a terminal's Ctrl-C goes to."""
    with contextlib.suppress(PermissionError):  # it leads a session, and so a group
        os.setpgid(0, 0)


def end_orphans(leader: int) -> None:
    """Kill what is left of a process group, once its leader is dead: one that lives may need what it has started.

    A resource tracker is left alone: it removes what the others leave, and then ends.
    """
    if (_PROC / str(leader)).exists() and _field(leader, 0) != "Z":
        return
    for path in _PROC.glob("[0-9]*"):
        pid = int(path.name)
        if pid != leader and _field(pid, 2) == str(leader) and not _is_tracker(path):
            with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile
                os.kill(pid, signal.SIGKILL)


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

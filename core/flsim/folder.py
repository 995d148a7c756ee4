"""Temporary folders: made, held, removed, and swept where nobody was left to remove them."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from pathlib import Path

LOCK = "lock"


class HeldFolder:
    """A temporary folder of mode 0700, held by this process.

    The process holds a lock on a file in it, which goes with the process however it ends: so the folders of
    processes that were killed are told from those in use, and are removed when the next is made.

    Args:
        prefix: of the folder's name; folders of the same prefix are swept.
    """

    def __init__(self, prefix: str) -> None:
        _sweep(prefix)
        self.path = Path(tempfile.mkdtemp(prefix=prefix))
        self._lock = os.open(self.path / "new", os.O_RDWR | os.O_CREAT, 0o600)
        _try_lock(self._lock)
        (self.path / "new").rename(self.path / LOCK)  # so that nobody finds it unlocked

    def remove(self) -> None:
        """Remove it with all that is in it."""
        os.close(self._lock)
        shutil.rmtree(self.path, ignore_errors=True)  # a worker that is being killed may still write to it


def lock(file: Path) -> int:
    """Make a file, and hold it as long as this process lives. Closing what is returned lets go of it."""
    held = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
    with contextlib.suppress(ImportError, OSError):  # not a POSIX system, or a file system that knows no locks
        import fcntl

        fcntl.flock(held, fcntl.LOCK_EX)
    return held


def is_locked(file: Path) -> bool:
    """Whether a process holds this file."""
    try:
        import fcntl

        looked_at = os.open(file, os.O_RDONLY)
    except (ImportError, OSError):
        return False
    try:
        fcntl.flock(looked_at, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(looked_at)
    return False


def _sweep(prefix: str) -> None:
    for folder in Path(tempfile.gettempdir()).glob(prefix + "*"):
        try:
            lock = os.open(folder / LOCK, os.O_RDWR)
        except OSError:
            continue  # another user's, or one that is just being made or removed
        try:
            if _try_lock(lock):
                shutil.rmtree(folder, ignore_errors=True)  # another process may sweep it at the same time
        finally:
            os.close(lock)


def _try_lock(lock: int) -> bool:
    try:
        import fcntl
    except ImportError:  # not a POSIX system: nothing is swept there
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True

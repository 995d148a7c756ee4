"""The folder of a run's temporary files: made, held, removed, and swept where nobody was left to remove it."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

PREFIX = "flsim-run-"
LOCK = "lock"


@contextlib.contextmanager
def run_folder() -> Iterator[Path]:
    """A folder of mode 0700 that is removed afterwards.

    The driver holds a lock on a file in it, which goes with the driver however it ends: so the folders of drivers
    that were killed are told from those at work, and are removed here first.
    """
    _sweep()
    folder = Path(tempfile.mkdtemp(prefix=PREFIX))
    lock = os.open(folder / "new", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        _try_lock(lock)
        (folder / "new").rename(folder / LOCK)  # so that nobody finds it unlocked
        yield folder
    finally:
        os.close(lock)
        shutil.rmtree(folder, ignore_errors=True)  # a worker that is being killed may still write to it


def _sweep() -> None:
    for folder in Path(tempfile.gettempdir()).glob(PREFIX + "*"):
        try:
            lock = os.open(folder / LOCK, os.O_RDWR)
        except OSError:
            continue  # another user's, or one that is just being made or removed
        try:
            if _try_lock(lock):
                shutil.rmtree(folder, ignore_errors=True)  # another driver may sweep it at the same time
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

"""For a conftest.py: nothing may be left behind by a test.

::

    from flsim.testing.leaks import *  # noqa: F403
"""

import gc
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from flsim.testing.watch import children, until

__all__ = ["folder_for_temporary_files", "nothing_is_left_behind"]


@pytest.fixture(scope="session", autouse=True)
def folder_for_temporary_files() -> Iterator[Path]:
    """Temporary files of this session, and of the processes that it starts, have a folder of their own, so that what
    is left in it was left by a test. Its path is short: a socket's may hold 107 bytes."""
    folder = Path(tempfile.mkdtemp(prefix="t-"))
    before = os.environ.get("TMPDIR")
    os.environ["TMPDIR"] = tempfile.tempdir = str(folder)
    yield folder
    tempfile.tempdir = None
    if before is None:
        del os.environ["TMPDIR"]
    else:
        os.environ["TMPDIR"] = before
    shutil.rmtree(folder)


@pytest.fixture(autouse=True)
def nothing_is_left_behind(folder_for_temporary_files: Path) -> Iterator[None]:
    """No thread, process, temporary folder or shared memory of a test outlives it by more than a few seconds."""
    before, shared = _left(), _shared_memory()

    def left() -> list[set[object]]:
        unused = {name for name in new & _shared_memory() if not _mapped(name)}
        return [*(now - then for now, then in zip(_left(), before, strict=True)), set(unused)]

    yield
    gc.collect()  # a semaphore goes with its last object
    new = _shared_memory() - shared  # once, since other programs may make and remove some all the time
    what = "threads, processes, folders and shared memory"
    assert until(lambda: not any(left()), PATIENCE), f"{what} are left behind: {left()}"


PATIENCE = 5.0


def _left() -> tuple[set[object], set[object], set[object]]:
    threads = {t.name for t in threading.enumerate() if t.is_alive()}
    return set(threads), set(children()), {p.name for p in Path(tempfile.gettempdir()).glob("flsim-*")}


SHARED = Path("/dev/shm")


def _shared_memory() -> set[str]:
    return {p.name for p in SHARED.iterdir() if p.is_file()} if SHARED.is_dir() else set()


def _mapped(name: str) -> bool:
    """Whether a process uses this shared memory: what other programs are at is not ours to judge."""
    for maps in Path("/proc").glob("[0-9]*/maps"):
        try:
            if f"{SHARED / name}" in maps.read_text():
                return True
        except OSError:  # it ended meanwhile, or is another user's
            continue
    return False

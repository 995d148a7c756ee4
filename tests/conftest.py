"""What all tests share: nothing may be left behind."""

import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from flsim.testing.watch import children


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


def _left() -> tuple[set[str], set[int], set[str]]:
    threads = {t.name for t in threading.enumerate() if t.is_alive()}
    return threads, children(), {p.name for p in Path(tempfile.gettempdir()).glob("flsim-*")}


@pytest.fixture(autouse=True)
def nothing_is_left_behind(folder_for_temporary_files: Path) -> Iterator[None]:
    """No thread, process or temporary folder of a test outlives it."""
    before = _left()
    yield
    end = time.monotonic() + 5
    while True:
        now = _left()
        threads, processes, folders = now[0] - before[0], now[1] - before[1], now[2] - before[2]
        if not (threads or processes or folders):
            return
        if time.monotonic() > end:
            pytest.fail(f"left behind: threads {threads}, processes {processes}, folders {folders}")
        time.sleep(0.05)  # a process that was killed takes a moment to be gone

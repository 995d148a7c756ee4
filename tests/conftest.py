"""What all tests share: nothing may be left behind."""

import os
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from flsim.testing.checks import _children


def _left() -> tuple[set[str], set[int], set[str]]:
    threads = {t.name for t in threading.enumerate() if t.is_alive()}
    folders = {p.name for p in Path(tempfile.gettempdir()).glob("flsim-*") if p.stat().st_uid == os.getuid()}
    return threads, _children(), folders


@pytest.fixture(autouse=True)
def nothing_is_left_behind() -> Iterator[None]:
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

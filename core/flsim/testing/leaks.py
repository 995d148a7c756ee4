"""For a conftest.py: nothing may be left behind by a test.

::

    from flsim.testing.leaks import *  # noqa: F403
"""

import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from flsim.testing.watch import children, until

__all__ = ["ctrl_c_is_heard", "folder_for_temporary_files", "nothing_is_left_behind"]


@pytest.fixture(scope="session", autouse=True)
def ctrl_c_is_heard() -> None:
    """A shell's background job without job control ignores SIGINT and SIGQUIT, and so would all that tests start from
    it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGQUIT) is signal.SIG_IGN:
        signal.signal(signal.SIGQUIT, signal.SIG_DFL)


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
    """No thread, process or temporary folder of a test outlives it by more than a few seconds."""
    before = _left()

    def left() -> list[set[object]]:
        return [now - then for now, then in zip(_left(), before, strict=True)]

    yield
    assert until(lambda: not any(left()), PATIENCE), f"threads, processes and folders are left behind: {left()}"


PATIENCE = 5.0


def _left() -> tuple[set[object], set[object], set[object]]:
    threads = {t.name for t in threading.enumerate() if t.is_alive()}
    return set(threads), set(children()), {p.name for p in Path(tempfile.gettempdir()).glob("flsim-*")}

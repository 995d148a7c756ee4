"""For a conftest.py: nothing may be left behind by a test.

::

    from flsim.testing.leaks import *  # noqa: F403
"""

import os
import re
import shutil
import signal
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from flsim.testing.watch import children, open_files, until

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
    """No thread, process, open file or temporary folder of a test outlives it by more than a few seconds."""
    before = _left()
    yield
    assert until(lambda: not _left() - before, PATIENCE), f"this is left behind: {dict(_left() - before)}"


PATIENCE = 5.0

KEPT = re.compile("socket|anon_inode:|/memfd:doublemapper|/dev/|/usr/|.*/site-packages/|.*/session_[^/]*/logs/")
"""Open files that a library may keep for the rest of the process: those of an event loop, as jupyter_client does; what
it reads from, as matplotlib its fonts; the log of Ray's last connection. Those of a backend are counted by the check
``what_starts_again_and_again_leaves_nothing``, with all others, from its second start on."""


def _left() -> Counter[tuple[str, object]]:
    """How many there are of each."""
    there: Counter[tuple[str, object]] = Counter()
    there.update(("thread", t.name) for t in threading.enumerate() if t.is_alive())
    there.update(("process", pid) for pid in children())
    there.update(("folder", p.name) for p in Path(tempfile.gettempdir()).glob("flsim-*"))
    files, trackers = open_files(), _of_trackers()
    there.update(("open file", name) for fd, name in files.items() if fd not in trackers and not KEPT.match(name))
    return there


def _of_trackers() -> set[object]:
    """The pipes to Python's and loky's resource trackers, which stay as long as this process."""
    modules = (sys.modules.get(f"{of}.resource_tracker") for of in ("multiprocessing", "loky.backend"))
    return {module._resource_tracker._fd for module in modules if module is not None}

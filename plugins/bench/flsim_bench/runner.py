"""Runs one order in a process of its own, watches its memory, and sees that nothing of it is left."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import psutil

import flsim_bench
from flsim.folder import HeldFolder
from flsim_bench.play import MEGA
from flsim_bench.way import Order

SAMPLE = 0.1
"""Seconds between two looks at the memory of all processes."""

MARK = "FLSIM_BENCH_CELL"
"""The environment variable by which the processes of a cell are known."""

PATIENCE = 5.0
"""Seconds that the processes of a cell have to end by themselves, once it has ended or was interrupted."""

TAIL = 2000
"""Characters that are shown of what a cell has printed, where it failed."""


class CellFailed(Exception):
    """A cell gave no result. Says why."""


@dataclass(frozen=True, slots=True)
class Result:
    """What a cell gave."""

    values: dict[str, float]
    """By measure, the median of the rounds."""
    series: dict[str, list[float]]
    versions: dict[str, str]


@dataclass(frozen=True, slots=True)
class Runner:
    """Runs cells.

    Args:
        limit: seconds that a cell may take.
        flower: the Python that has Flower; None: there is none.
        spare: the share of the host's memory that a cell has to leave, where its memory is watched.
    """

    limit: float
    flower: Path | None = None
    spare: float = 0.05

    def run(self, order: Callable[[Path, Path], Order], *, memory: bool) -> Result:
        """Measure.

        Args:
            order: makes the order, given a folder for temporary files and one in memory.
            memory: whether the memory of all processes is watched.

        Raises:
            CellFailed: there is no result.
        """
        held = HeldFolder("flsim-b-")  # a short name, since the paths of sockets may have 107 bytes
        try:
            with tempfile.TemporaryDirectory(
                prefix="flsim-b-", dir=_in_memory(), ignore_cleanup_errors=True
            ) as memory_:
                return self._run(order(held.path, Path(memory_)), held.path, memory)
        finally:
            held.remove()

    def _run(self, order: Order, folder: Path, memory: bool) -> Result:
        files = folder / "order.json", folder / "result.json"
        files[0].write_text(json.dumps(dataclasses.asdict(order)))
        python, environment = self._python(order, folder)
        mark = uuid.uuid4().hex
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                [python, "-m", "flsim_bench.cell", *map(str, files)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=folder,
                # Ctrl-C in a terminal is for us, and we end it.
                start_new_session=True,
                env={**os.environ, **environment, "TMPDIR": str(folder), MARK: mark},
            )
            try:
                seconds, most = self._watch(process, memory)
            finally:
                with _undisturbed():
                    _end(process, mark)
        if process.returncode or not files[1].exists():
            raise CellFailed(_why(process.returncode, folder / "log"))
        result = json.loads(files[1].read_text())
        values = {name: median(v) for name, v in result["values"].items() if v}
        values |= {"process": seconds, "processes": most / MEGA}
        return Result(values, result["series"], result["versions"])

    def _python(self, order: Order, folder: Path) -> tuple[str, Mapping[str, str]]:
        if order.way != "flower":
            return sys.executable, {}
        assert self.flower is not None
        # Of all that is installed here, Flower's Python sees this package alone.
        path = folder / "path"
        path.mkdir()
        (path / "flsim_bench").symlink_to(Path(flsim_bench.__file__).parent)
        return str(self.flower), {"PYTHONPATH": str(path), "FLWR_HOME": str(folder / "flwr")}

    def _watch(self, process: subprocess.Popen[bytes], memory: bool) -> tuple[float, int]:
        """Wait for the end. Returns how long it took, and the most memory that there was. Raises CellFailed where it
        takes too long, or so much memory that the host would come to a halt."""
        begun, most = time.monotonic(), 0
        while (left := begun + self.limit - time.monotonic()) > 0:
            try:
                process.wait(min(SAMPLE, left) if memory else left)
                return time.monotonic() - begun, most
            except subprocess.TimeoutExpired:
                if memory:
                    most = max(most, _memory(process.pid))
                    self._check_host(most)
        raise CellFailed(f"it did not end within {self.limit:g} s")

    def _check_host(self, used: int) -> None:
        host = psutil.virtual_memory()
        if host.available < self.spare * host.total:
            raise CellFailed(
                f"it had {used / MEGA:,.0f} MB, and left the host {host.available / MEGA:,.0f} MB of its "
                f"{host.total / MEGA:,.0f} MB"
            )


def _in_memory() -> str | None:
    """Where files are in memory; None: the system has no such place."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def _memory(pid: int) -> int:
    """Bytes of a process and its descendants: what several share counts once, where the system tells (Linux)."""
    total = 0
    with contextlib.suppress(psutil.NoSuchProcess):
        root = psutil.Process(pid)
        for process in [root, *root.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):  # it ended meanwhile, or is ending
                full = process.memory_full_info()
                total += getattr(full, "pss", full.uss)
    return total


def _end(process: subprocess.Popen[bytes], mark: str) -> None:
    """End a cell and all that it has started; where it has ended, this only looks."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(PATIENCE)
    assert process.stdin is not None
    process.stdin.close()
    started = _of(process.pid, mark)
    if not _gone(started):  # what ends by itself has had its time
        for one in filter(_lives, started):
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        _gone(started)
    process.wait()


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Not even a second Ctrl-C keeps a cell from being ended."""
    if threading.current_thread() is not threading.main_thread():  # where there are no signals
        yield
        return
    before = {s: signal.signal(s, signal.SIG_IGN) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for signal_, handler in before.items():
            signal.signal(signal_, handler)


def _gone(processes: list[psutil.Process]) -> bool:
    """Wait until they are gone, at most :data:`PATIENCE`. Returns whether they are."""
    end = time.monotonic() + PATIENCE
    while any(map(_lives, processes)):
        if time.monotonic() > end:
            return False
        time.sleep(0.01)  # they are no children of ours, so there is nothing to wait on
    return True


def _lives(process: psutil.Process) -> bool:
    """Whether it runs: who has ended may stay a zombie until somebody asks how."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _of(session: int, mark: str) -> list[psutil.Process]:
    """The processes of a cell: of its session, or with its mark, which one that writes its title has lost."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):  # it ended meanwhile, or is another user's
            if os.getsid(process.pid) == session or process.environ().get(MARK) == mark:
                found.append(process)
    return found


def _why(code: int, log: Path) -> str:
    ended = f"it ended with code {code}" if code >= 0 else f"it was ended by {signal.Signals(-code).name}"
    printed = log.read_text(errors="replace").strip()
    if not printed:
        return f"{ended} and printed nothing"
    last = printed.splitlines()[-1]
    return f"{last} ({ended})" if len(last) < TAIL else f"…{last[-TAIL:]} ({ended})"

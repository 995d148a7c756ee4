# mypy: untyped-calls-exclude="distributed"
"""Nothing may be left behind by a test; and clusters as others run them, which the tests start and end."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from distributed import Client
from distributed.security import Security

from flsim.testing.leaks import *  # noqa: F403  # fixtures
from flsim.testing.watch import kill, until

HOST = ("--host", "127.0.0.1", "--dashboard-address", "127.0.0.1:0", "--no-dashboard")

GUARD = """
import os, psutil, subprocess, sys
if os.fork():
    os._exit(0)  # what follows is no child of the tests, which look for children that were left behind
os.setsid()
subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)
sys.stdin.read()
for process in psutil.Process().children(recursive=True):
    if "resource_tracker" not in " ".join(process.cmdline()):  # which removes the semaphores that the others leave
        process.kill()
"""
"""Runs a command, and ends with all that it has started when its stdin does, at the latest with the tests."""


@dataclass
class Cluster:
    """A scheduler, and workers to choose."""

    folder: Path
    tls: tuple[str, ...] = ()
    security: Security | None = None
    address: str = ""
    workers: int = 0
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self, *workers: tuple[str, ...]) -> Cluster:
        """Start the scheduler, and a process for each tuple of options of ``dask worker``."""
        file = self.folder / "scheduler.json"
        self.run("scheduler", "--port", "0", *HOST, *self.tls, "--scheduler-file", str(file))
        for options in workers:
            self.add(*options)
        assert until(lambda: file.exists() and "address" in file.read_text(), 30), "the scheduler does not start"
        with Client(scheduler_file=str(file), security=self.security, set_as_default=False) as client:
            self.address = client.scheduler.address
            if workers:
                client.wait_for_workers(len(workers), timeout=30)
        self.workers = len(workers)
        return self

    def add(self, *options: str) -> None:
        """Start a worker."""
        where = ("--scheduler-file", str(self.folder / "scheduler.json"), "--local-directory", str(self.folder))
        self.run("worker", *where, *HOST, *self.tls, *options)

    def run(self, *command: str) -> None:
        """Start a process."""
        guarded = [sys.executable, "-c", GUARD, sys.executable, "-m", "dask", *command]
        # As on another host: in another directory, with another HOME, without the tests' own path.
        environment = {**os.environ, "TMPDIR": str(self.folder), "HOME": str(self.folder)}
        with (self.folder / "log").open("ab") as log:
            process = subprocess.Popen(
                guarded, stdin=subprocess.PIPE, stdout=log, stderr=log, env=environment, cwd=self.folder
            )
        process.wait()
        self.processes.append(process)

    def client(self) -> Client:
        """A client beside flsim's."""
        return Client(self.address, security=self.security, set_as_default=False)

    def settle(self) -> None:
        """Wait until all workers are there; replace those that are still at a lease which nobody wants any more."""

        def at_something(dask_worker: Any) -> int | None:
            return os.getpid() if dask_worker.active_threads else None

        with self.client() as client:
            client.wait_for_workers(self.workers, timeout=30)
            # One that has just been killed may be there still, and then does not answer.
            for pid in filter(None, client.run(at_something, on_error="ignore").values()):
                kill(pid)
            client.wait_for_workers(self.workers, timeout=30)

    def kill(self, process: subprocess.Popen[bytes]) -> None:
        """Kill a process, with all that it has started."""
        assert process.stdin is not None
        process.stdin.close()

    def end(self) -> None:
        """Kill all of it."""
        for process in self.processes:
            self.kill(process)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two workers of one thread, and one of two threads with a licence; for all tests that leave it as it was."""
    made = Cluster(tmp_path_factory.mktemp("cluster"))
    try:
        yield made.start(("--nthreads", "1"), ("--nthreads", "1"), ("--nthreads", "2", "--resources", "licence=1"))
    finally:
        made.end()


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Cluster]:
    """A cluster that a test starts, with the workers that it wants, and may break."""
    made = Cluster(tmp_path)
    try:
        yield made
    finally:
        made.end()

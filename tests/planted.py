"""Backends with one planted fault each, to check the checks. Each is a good backend but for a line."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import random
import subprocess
import sys
import threading
import time
import warnings
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import replace
from typing import BinaryIO

from flsim_pool.backend import PoolBackend

from flsim.backend import BackendSpec, HostOptions, RunInfo
from flsim.errors import Cause, WorkerLost
from flsim.payload import Frames
from flsim.resources import Place, Resources
from flsim.worker import run_lease
from flsim_serial.backend import SerialBackend


class LosesAReply(SerialBackend):
    """The third future is never completed."""

    count = 0

    def submit(self, frames: Frames, need: Resources, place: Place, devices: tuple[int, ...] = ()) -> Future[Frames]:
        future = super().submit(frames, need, place, devices)
        self.count += 1
        return Future() if self.count == 3 else future


class _Twice(Future[Frames]):
    def set_result(self, result: Frames) -> None:
        super().set_result(result)
        self._invoke_callbacks()  # type: ignore[attr-defined]  # what completing it once more would do


class CompletesTwice(SerialBackend):
    """A future calls back twice."""

    def submit(self, frames: Frames, need: Resources, place: Place, devices: tuple[int, ...] = ()) -> Future[Frames]:
        future, inner = _Twice(), super().submit(frames, need, place, devices)
        inner.add_done_callback(lambda f: future.set_result(f.result()))
        return future


class RunsTooManyAtOnce(PoolBackend):
    """It has twice the cpus that it was given."""

    def __init__(self, options: HostOptions) -> None:
        super().__init__(replace(options, cpus=2 * options.resources().cpus))


class IgnoresAResource(PoolBackend):
    """It says that it has whatever is asked for."""

    def capacity(self) -> list[Place]:
        return [Place("here", Resources(cpus=2, custom={"no such thing": 100}), 32)]


class LeaksAProcess(SerialBackend):
    """A child process outlives stop."""

    def start(self, run: RunInfo) -> None:
        super().start(run)
        LEAKED.append(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]))


LEAKED: list[subprocess.Popen[bytes]] = []
"""For the test that ends them."""


class WritesTheJobDown(SerialBackend):
    """What the workers are told lies in a file."""

    def start(self, run: RunInfo) -> None:
        super().start(run)
        (run.folder / "job").write_bytes(run.job)


class LeaksAFile(SerialBackend):
    """Each start leaves a file open."""

    def start(self, run: RunInfo) -> None:
        super().start(run)
        OPENED.append((run.folder / "log").open("wb"))


OPENED: list[BinaryIO] = []
"""For the test that closes them."""


class HangsOnStop(SerialBackend):
    """Stop takes its time."""

    def stop(self) -> None:
        super().stop()
        time.sleep(4)  # this is the fault


class DropsEqualSubmissions(SerialBackend):
    """What was answered once is answered from memory."""

    def __init__(self, options: HostOptions) -> None:
        super().__init__(options)
        self._known: dict[bytes, Future[Frames]] = {}

    def submit(self, frames: Frames, need: Resources, place: Place, devices: tuple[int, ...] = ()) -> Future[Frames]:
        if frames.header not in self._known:
            self._known[frames.header] = super().submit(frames, need, place, devices)
        return self._known[frames.header]


class MixesUpSeeds(SerialBackend):
    """Each message is taken for its node's next one."""

    def submit(self, frames: Frames, need: Resources, place: Place, devices: tuple[int, ...] = ()) -> Future[Frames]:
        *rest, messages = pickle.loads(frames.header)
        messages = [(id_, node, k + 1, *more) for id_, node, k, *more in messages]
        return super().submit(Frames(pickle.dumps((*rest, messages)), frames.buffers), need, place)


class DrawsBesideACall(SerialBackend):
    """A thread of its own draws from ``random`` while a ClientApp runs."""

    def submit(self, frames: Frames, need: Resources, place: Place, devices: tuple[int, ...] = ()) -> Future[Frames]:
        threading.Timer(0.5, random.random).start()
        return super().submit(frames, need, place)


class OneDeathFailsItsNeighbours(PoolBackend):
    """One pool of two workers: when one dies, all futures of the pool fail."""

    def start(self, run: RunInfo) -> None:
        super().start(run)
        self._pool = ProcessPoolExecutor(2)

    def submit(self, frames: Frames, need: Resources, place: Place, devices: tuple[int, ...] = ()) -> Future[Frames]:
        future: Future[Frames] = Future()
        try:
            inner = self._pool.submit(run_lease, frames)
        except RuntimeError:
            self._pool = ProcessPoolExecutor(2)
            inner = self._pool.submit(run_lease, frames)

        def done(inner: Future[Frames]) -> None:
            if inner.exception() is None:
                future.set_result(inner.result())
            else:
                future.set_exception(WorkerLost(Cause.UNKNOWN, str(inner.exception())))

        inner.add_done_callback(done)
        return future

    def stop(self) -> None:
        super().stop()
        self._pool.shutdown(wait=True)


class ForksTheDriver(OneDeathFailsItsNeighbours):
    """Its workers are forks of the driver, from its start."""

    def start(self, run: RunInfo) -> None:
        PoolBackend.start(self, run)
        self._pool = ProcessPoolExecutor(2, multiprocessing.get_context("fork"))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python says from 3.12 on what is wrong with that
            self._pool.submit(os.getpid).result()  # by then both are there


def spec_of(cls: type) -> BackendSpec:
    """The spec of a planted backend."""
    honours = {"cpus", "isolation", "custom"} if issubclass(cls, PoolBackend) else {"cpus"}
    return BackendSpec(cls.__name__, cls.__doc__ or "", f"planted:{cls.__name__}", HostOptions, frozenset(honours))

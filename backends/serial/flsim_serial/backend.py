"""SerialBackend: one lease at a time, in a thread of the driver's process."""

from __future__ import annotations

import contextlib
import math
import os
import queue
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future

from flsim.backend import Backend, HostOptions, RunInfo
from flsim.payload import Frames
from flsim.resources import Place, Resources
from flsim.worker import run_lease

PATIENCE = 1.0
"""Seconds that ``stop`` waits for the message at work. A thread cannot be killed: it runs on as a daemon."""


class SerialBackend(Backend):
    """Runs leases in one daemon thread, so that the ServerApp keeps the main thread and its Ctrl-C."""

    def __init__(self, options: HostOptions) -> None:
        self._place = Place("this process", options.resources(), leases=1)
        self._devices = options.devices()
        self._environment = contextlib.ExitStack()
        self._queue: queue.SimpleQueue[tuple[Future[Frames], Frames] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def start(self, run: RunInfo) -> None:
        if gpus := math.ceil(max((need.gpus for need in run.needs), default=0)):
            # For the whole process, and so for all kinds: a library that has used a gpu stays on it.
            self._environment.enter_context(_visible(self._devices[:gpus]))
        self._thread = threading.Thread(target=self._work, name="flsim-serial", daemon=True)
        self._thread.start()

    def capacity(self) -> list[Place]:
        return [self._place]

    def submit(self, frames: Frames, need: Resources, place: Place, devices: tuple[int, ...] = ()) -> Future[Frames]:
        if self._thread is None:
            raise RuntimeError("the serial backend is not started")
        future: Future[Frames] = Future()
        self._queue.put((future, frames))
        return future

    def stop(self) -> None:
        thread, self._thread = self._thread, None
        if thread is not None:
            self._queue.put(None)
            thread.join(PATIENCE)
            self._environment.close()

    def _work(self) -> None:
        while (item := self._queue.get()) is not None:
            future, frames = item
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(run_lease(frames))
                except BaseException as e:  # a quit at a breakpoint passes run_lease; the driver must see it
                    future.set_exception(e)


@contextlib.contextmanager
def _visible(devices: Sequence[str]) -> Iterator[None]:
    before = os.environ.get("CUDA_VISIBLE_DEVICES")
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(devices)
    try:
        yield
    finally:
        if before is None:
            del os.environ["CUDA_VISIBLE_DEVICES"]
        else:
            os.environ["CUDA_VISIBLE_DEVICES"] = before

"""SerialBackend: one lease at a time, in a thread of the driver's process."""

from __future__ import annotations

import queue
import threading
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
        self._queue: queue.SimpleQueue[tuple[Future[Frames], Frames] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def start(self, run: RunInfo) -> None:
        self._thread = threading.Thread(target=self._work, name="flsim-serial", daemon=True)
        self._thread.start()

    def capacity(self) -> list[Place]:
        return [self._place]

    def submit(self, frames: Frames, need: Resources, place: Place) -> Future[Frames]:
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

    def _work(self) -> None:
        while (item := self._queue.get()) is not None:
            future, frames = item
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(run_lease(frames))
                except BaseException as e:  # a quit at a breakpoint passes run_lease; the driver must see it
                    future.set_exception(e)

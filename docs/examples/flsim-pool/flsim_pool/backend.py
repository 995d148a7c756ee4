"""PoolBackend: a ProcessPoolExecutor of one worker for each slot, since a broken pool fails all its futures."""

import math
import multiprocessing
import os
import signal
import threading
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

from flsim.backend import Backend, HostOptions, RunInfo
from flsim.errors import Cause, WorkerLost
from flsim.payload import Frames
from flsim.resources import Place, Resources
from flsim.worker import run_lease


class PoolBackend(Backend):
    """Runs each lease in a process that has nothing else to do meanwhile."""

    def __init__(self, options: HostOptions) -> None:
        resources = options.resources()
        self._place = Place("this host", resources, leases=16 * math.ceil(resources.cpus))
        self._run: RunInfo | None = None
        self._slots: set[_Slot] = set()

    def start(self, run: RunInfo) -> None:
        self._run = run

    def capacity(self) -> list[Place]:
        return [self._place]

    def submit(self, frames: Frames, need: Resources, place: Place, devices: tuple[int, ...] = ()) -> Future[Frames]:
        if self._run is None:
            raise RuntimeError("the pool backend is not started")
        slot = next((s for s in self._slots if s.future is None), None)
        if slot is None:
            slot = _Slot()
            self._slots.add(slot)
        future = slot.future = Future[Frames]()
        future.set_running_or_notify_cancel()
        try:
            inner = slot.pool.submit(run_lease, frames)
        except BrokenProcessPool:  # it died while it was idle
            self._drop(slot)
            future.set_exception(WorkerLost(Cause.NOT_STARTED, "worker died while it was idle"))
        else:
            inner.add_done_callback(lambda inner: self._done(slot, inner, future))
        return future

    def abort(self, future: Future[Frames]) -> None:
        for slot in list(self._slots):
            if slot.future is future and not future.done():
                slot.aborted = True
                slot.kill()

    def stop(self) -> None:
        self._run = None
        for slot in list(self._slots):
            slot.aborted = True
            slot.kill()
            slot.pool.shutdown(wait=True)
        self._slots.clear()

    def _done(self, slot: "_Slot", inner: "Future[Frames]", future: Future[Frames]) -> None:
        """The slot is free, or gone, before anybody hears of it."""
        if inner.exception() is None:
            slot.future = None
            if inner.result().outgrown:  # a new one takes its place
                self._drop(slot)
            future.set_result(inner.result())
            return
        self._drop(slot)
        if slot.aborted:
            future.set_exception(WorkerLost(Cause.ABORTED, "its worker was ended"))
        else:  # the standard library does not tell how
            future.set_exception(WorkerLost(Cause.UNKNOWN, "worker died"))

    def _drop(self, slot: "_Slot") -> None:
        self._slots.discard(slot)
        slot.pool.shutdown(wait=False)


class _Slot:
    """One worker process."""

    def __init__(self) -> None:
        self.pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), initializer=_begin)
        self.future: Future[Frames] | None = None
        self.aborted = False
        self._pid = self.pool.submit(os.getpid)

    def kill(self) -> None:
        if self._pid.exception() is None:
            os.kill(self._pid.result(), signal.SIGKILL)


def _begin() -> None:
    """In the worker: leave Ctrl-C to the driver, and end with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    driver = multiprocessing.parent_process()
    assert driver is not None

    def end_with_driver() -> None:
        driver.join()
        os._exit(1)

    threading.Thread(target=end_with_driver, daemon=True).start()

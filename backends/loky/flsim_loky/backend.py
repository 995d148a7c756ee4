"""LokyBackend: worker processes of this host, one executor of one worker for each slot.

A broken executor fails all its futures, so a slot has one of its own: the death of a worker costs one lease.
"""

from __future__ import annotations

import math
import multiprocessing
import multiprocessing.resource_tracker
import os
import re
import signal
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from multiprocessing.connection import Connection
from typing import Any

import loky.backend.resource_tracker
from loky.process_executor import BrokenProcessPool, ProcessPoolExecutor, ShutdownExecutorError

from flsim.backend import Backend, HostOptions, RunInfo
from flsim.envelope import describe
from flsim.errors import AppLoadError, BackendBroken, Cause, WorkerLost
from flsim.job import prepare
from flsim.payload import Frames, Shared
from flsim.resources import Place, Resources, slots
from flsim.segments import Exchange, Location, Memory, Part, Replies, arrived
from flsim.worker import run_lease
from flsim_loky.output import Outputs, write_to

SLOTS_PER_CPU = 16
"""More leases at once than this, per cpu, are refused, however little each needs."""


class LokyBackend(Backend):
    """Runs each lease in a process that has nothing else to do meanwhile."""

    def __init__(self, options: HostOptions) -> None:
        resources = options.resources()
        self._place = Place("this host", resources, leases=SLOTS_PER_CPU * math.ceil(resources.cpus))
        self._run: RunInfo | None = None
        self._memory: Memory | None = None
        self._outputs: Outputs | None = None
        self._devices = options.devices()
        self._idle: list[_Slot] = []
        self._slots: set[_Slot] = set()

    def start(self, run: RunInfo) -> None:
        self._run = run
        self._memory = Memory(run.folder)
        # Each worker holds the reading end. The writing end is the driver's alone, so it closes with the driver.
        self._driver_lives, self._driver = multiprocessing.Pipe(duplex=False)
        self._outputs = Outputs(run.announce)
        _start_trackers()
        # Those that have a gpu are begun when it is known which.
        at_once = max((slots(self._place, need) for need in run.needs if not need.gpus), default=0)
        self._idle = [self._new_slot(()) for _ in range(min(at_once, run.nodes))]

    def capacity(self) -> list[Place]:
        return [self._place]

    def submit(self, frames: Frames, need: Resources, place: Place, devices: tuple[int, ...] = ()) -> Future[Frames]:
        if self._run is None or self._memory is None:
            raise RuntimeError("the loky backend is not started")
        future: Future[Frames] = Future()
        future.set_running_or_notify_cancel()
        # From the end: the one that was at work last, whose caches are warm. A process stays on its devices.
        at = next((i for i in range(len(self._idle) - 1, -1, -1) if self._idle[i].devices == devices), None)
        slot = self._new_slot(devices) if at is None else self._idle.pop(at)
        try:
            inner = slot.submit(frames, future)
        except BrokenProcessPool as e:  # it died while it was idle
            self._drop(slot)
            future.set_exception(WorkerLost(Cause.NOT_STARTED, _lost(e).detail))
        except ShutdownExecutorError:  # an abort has met it when the lease that it was for was just done
            self._drop(slot)
            future.set_exception(WorkerLost(Cause.NOT_STARTED, "its worker was ended"))
        except BackendBroken as e:
            self._drop(slot)
            future.set_exception(e)
        else:
            inner.add_done_callback(lambda inner: self._done(slot, inner, future))
        return future

    def abort(self, future: Future[Frames]) -> None:
        for slot in list(self._slots):
            if slot.future is future and not future.done():
                slot.executor.shutdown(wait=True, kill_workers=True)

    def share(self, buffers: Sequence[memoryview], messages: int) -> Shared | None:
        return None if self._memory is None else self._memory.share(buffers, messages)

    def stop(self) -> None:
        if self._run is None:
            return
        self._run = None
        for slot in list(self._slots):
            # Idle workers are killed, too: a thread that an app left behind in one would keep it for ever.
            slot.executor.shutdown(wait=True, kill_workers=True)
            self._drop(slot)
        self._idle.clear()
        if self._memory is not None:
            self._memory.close()
        if self._outputs is not None:
            self._outputs.stop()
        multiprocessing.active_children()  # this lets go of those that have died, and of their semaphores
        self._driver_lives.close()
        self._driver.close()

    def _new_slot(self, devices: tuple[int, ...]) -> _Slot:
        assert self._run is not None
        assert self._memory is not None
        assert self._outputs is not None
        visible = ",".join(self._devices[i] for i in devices) if self._devices else None
        slot = _Slot(self._run, self._memory, self._outputs, self._driver_lives, devices, visible)
        self._slots.add(slot)
        return slot

    def _drop(self, slot: _Slot) -> None:
        if slot in self._slots:
            self._slots.remove(slot)
            slot.close()

    def _done(self, slot: _Slot, inner: Future[Any], future: Future[Frames]) -> None:
        """Called in the executor's own thread. The slot is free, or gone, before anybody hears of it."""
        error = inner.exception()
        if error is None:
            try:
                frames = slot.take(inner.result())
            except OSError as e:
                error = BackendBroken(f"a worker's reply cannot be mapped: {describe(e)}")
        if error is None:
            slot.future = None
            if frames.outgrown:
                self._drop(slot)
            else:
                self._idle.append(slot)
            future.set_result(frames)
            return
        self._drop(slot)
        if isinstance(error, ShutdownExecutorError):
            error = WorkerLost(Cause.ABORTED, "its worker was ended")
        elif isinstance(error, BrokenProcessPool):
            error = _lost(error)
        future.set_exception(error)


class _Slot:
    """One worker process, begun at once: it loads the app while the driver gets ready.

    Args:
        devices: of the place, that it has for its whole life.
        visible: what CUDA_VISIBLE_DEVICES says there; None: what it says here.
    """

    def __init__(
        self,
        run: RunInfo,
        memory: Memory,
        outputs: Outputs,
        driver_lives: Connection,
        devices: tuple[int, ...],
        visible: str | None,
    ) -> None:
        threads = {need.threads for need in run.needs}
        env = dict.fromkeys(_THREAD_VARIABLES, str(min(threads))) if len(threads) == 1 else {}
        # By itself, loky ends a worker that has grown by 300 MB, without a word. The engine's rule says so.
        env["LOKY_MAX_MEMORY_LEAK_SIZE"] = "1e18"
        if visible is not None:
            env["CUDA_VISIBLE_DEVICES"] = visible
        self.devices = devices
        self._output, writing = outputs.new()
        self.executor = ProcessPoolExecutor(1, initializer=_begin, initargs=(driver_lives, writing), env=env)
        self.executor.submit(_load, run.job)  # which starts the process
        writing.close()
        self.future: Future[Frames] | None = None
        self._exchange = Exchange(memory)

    def submit(self, frames: Frames, future: Future[Frames]) -> Future[Any]:
        """Run a lease that completes ``future``.

        Raises:
            BrokenProcessPool: the worker is dead.
            BackendBroken: there is no room for what the lease carries.
        """
        self.future = future
        self._output.lease()
        parts = self._exchange.out(frames.buffers)
        inner: Future[Any] = self.executor.submit(_run, frames.header, parts, self._exchange.replies)
        return inner

    def take(self, back: tuple[bytes, list[Any], bool]) -> Frames:
        """What :func:`_run` gave. Raises OSError where what is large in it cannot be mapped."""
        header, buffers, outgrown = back
        return Frames(header, self._exchange.back(buffers), outgrown)

    def close(self) -> None:
        """Let go of it; the process ends with its lease."""
        self.executor.shutdown(wait=False)
        self._exchange.close()


def _start_trackers() -> None:
    """Start Python's and loky's resource trackers now: on their way they unblock SIGINT in this thread, and the
    workers would inherit that."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    multiprocessing.resource_tracker.ensure_running()
    loky.backend.resource_tracker.ensure_running()
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _lost(error: BrokenProcessPool) -> WorkerLost:
    """How the worker ended: loky tells it in the text of its error only."""
    match = re.search(r"\w+\((-?\d+)\)", str(error).partition("exit codes")[2])
    if match is None:
        return WorkerLost(Cause.UNKNOWN, "worker died, and its exit code is not known")
    code = int(match[1])
    if code >= 0:
        return WorkerLost(Cause.EXITED, f"worker exited with code {code}")
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    hint = " (probably out of memory, where nobody sent it)" if name == "SIGKILL" else ""
    return WorkerLost(Cause.SIGNAL, f"worker killed by {name}{hint}")


# ---- in the worker

# Set where they are the same for the whole life of a process, since a library reads them when it is loaded.
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


def _begin(driver_lives: Connection, output: Connection) -> None:
    write_to(output)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Else it is loky's own, of which a child that a ClientApp spawns knows nothing: each would die as it starts, and a
    # Pool would start them for ever.
    multiprocessing.set_start_method("spawn", force=True)
    threading.Thread(target=_end_with_driver, args=(driver_lives,), name="flsim-lifeline", daemon=True).start()


def _end_with_driver(driver_lives: Connection) -> None:
    """Wait, without polling, for the driver's end of the pipe to close: nothing is ever sent."""
    try:
        driver_lives.recv_bytes()
    except (EOFError, OSError):
        if os.getpgrp() == os.getpid():  # since its first lease: what ClientApps have started ends with it
            os.killpg(0, signal.SIGKILL)
        os._exit(1)


def _run(header: bytes, parts: Sequence[Part], replies: Location) -> tuple[bytes, list[Any], bool]:
    """Run a lease, in the worker."""
    frames = run_lease(Frames(header, arrived(parts)), Replies(replies).keep)
    return frames.header, frames.buffers, frames.outgrown


def _load(job: bytes) -> None:
    try:
        prepare(job)
    except AppLoadError:
        return  # the first lease meets it again, and reports it

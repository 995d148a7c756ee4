"""RayBackend: a lease is a task of Ray, which gives it a worker process."""

from __future__ import annotations

import bdb
import contextlib
import pickle
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any

import ray
from ray import exceptions
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from flsim.backend import Backend, RunInfo
from flsim.envelope import describe
from flsim.errors import BackendBroken, Cause, WorkerLost
from flsim.payload import Frames, Shared
from flsim.resources import UNIT, Place, Resources, slots
from flsim_ray import lease, memory
from flsim_ray.cluster import connection
from flsim_ray.nodes import Watcher
from flsim_ray.plugin import RayOptions

ray.cloudpickle.register_pickle_by_value(lease)  # type: ignore[no-untyped-call]  # Ray leaves it untyped


class RayBackend(Backend):
    """Runs each lease as a task of its own: at the place where the engine counted room for it, or where Ray finds
    room, should that one be full or gone."""

    def __init__(self, options: RayOptions) -> None:
        self._options = options
        self._run: RunInfo | None = None
        self._connection = contextlib.ExitStack()
        self._ours = True
        self._watcher: Watcher | None = None
        self._places: dict[str, Place] = {}
        """By Ray's id of the node, as the engine knows them."""
        self._leases: dict[Future[Frames], _Lease] = {}
        """Those at work. Whoever takes one out of it completes its future."""
        if options.address is not None:
            self.patience = options.wait

    def start(self, run: RunInfo) -> None:
        self._ours = self._connection.enter_context(connection(self._options, run.folder))
        self._task, self._task_once = (ray.remote(max_calls=n)(lease.run) for n in (lease.CALLS, 1))
        self._watcher = Watcher(run.changed)
        self._places = self._watcher.places
        self._run = run
        if self._ours and self._options.address is None:
            self._load_apps(run)

    def capacity(self) -> list[Place]:
        if self._watcher is not None and self._watcher.broken is not None:
            for future in list(self._leases):
                self._fail(future, self._watcher.broken)
        elif self._watcher is not None and self._watcher.places is not self._places:
            self._places = self._watcher.places
            for future, at_work in list(self._leases.items()):
                if not any(slots(p, at_work.need) for p in self._places.values()):
                    self._fail(future, WorkerLost(Cause.LEFT, f"no host is left that has {at_work.need}"))
                    at_work.cancel()  # or Ray would wait for such a host for ever
        return list(self._places.values())

    def submit(self, frames: Frames, need: Resources, place: Place, devices: tuple[int, ...] = ()) -> Future[Frames]:
        if self._run is None or self._watcher is None:
            raise RuntimeError("the ray backend is not started")
        future: Future[Frames] = Future()
        node = next((id_ for id_, p in self._places.items() if p.name == place.name), None)
        if self._watcher.broken is not None:
            future.set_exception(self._watcher.broken)
        elif node is None:
            future.set_exception(WorkerLost(Cause.NOT_STARTED, f"host {place.name} has left the cluster"))
        else:
            # Where hosts have several devices, a process that has used one could be given another, and CUDA would
            # stay with the first.
            once = need.gpus and any(p.resources.gpus > 1 for p in self._places.values())
            task = (self._task_once if once else self._task).options(**_options(need, node))
            parts = [None if isinstance(b, _Shared) else lease.out_of_band(b) for b in frames.buffers]
            ref = task.remote(frames.header, parts, *(b.ref for b in frames.buffers if isinstance(b, _Shared)))
            self._leases[future] = _Lease(ref, need)
            ref.future().add_done_callback(partial(self._done, future))
        return future

    def share(self, buffers: Sequence[memoryview], messages: int) -> Shared | None:
        if self._run is None or messages == 1 or sum(b.nbytes for b in buffers) < lease.LARGE:
            return None  # what one message carries is put into the store with its lease
        try:
            ref: Any = ray.put([pickle.PickleBuffer(b) for b in buffers])
        except exceptions.RayError as e:
            raise BackendBroken(f"Ray's object store does not take the model: {describe(e)}") from e
        memory.let_go(ray.get(ref))
        return _Shared(ref)

    def abort(self, future: Future[Frames]) -> None:
        at_work = self._leases.get(future)
        if at_work is not None:
            at_work.cancel()

    def stop(self) -> None:
        self._run = None
        if self._watcher is not None:
            self._watcher.stop()
            self._watcher = None
        for future, at_work in list(self._leases.items()):
            if not self._ours:  # else Ray ends what is at work with the connection
                at_work.cancel()
            self._fail(future, WorkerLost(Cause.ABORTED, "the run has ended"))
        self._connection.close()

    def _load_apps(self, run: RunInfo) -> None:
        """Have the workers load the apps while the driver gets ready."""
        ((node, place),) = self._places.items()
        load = ray.remote(lease.load)
        needs = [n for n in run.needs if not n.gpus]  # a worker that has had no gpu gets none later
        for need in sorted(needs, key=lambda n: slots(place, n))[-1:]:
            for _ in range(min(slots(place, need), run.nodes)):
                load.options(**_options(need, node)).remote(run.job)

    def _done(self, future: Future[Frames], inner: Future[lease.Reply]) -> None:
        """Called in a thread of Ray's."""
        at_work = self._leases.pop(future, None)
        if at_work is None or not future.set_running_or_notify_cancel():
            return
        error = inner.exception()
        if error is None:
            header, buffers = inner.result()
            future.set_result(Frames(header, lease.in_place(buffers)))  # who has outgrown its share has ended itself
        else:
            future.set_exception(self._failure(error, at_work))

    def _fail(self, future: Future[Frames], error: Exception) -> None:
        if self._leases.pop(future, None) is not None and future.set_running_or_notify_cancel():
            future.set_exception(error)

    def _failure(self, error: BaseException, at_work: _Lease) -> BaseException:
        """What a lease's future fails with, where its task failed with ``error``."""
        for kind, cause in _CAUSES:
            if isinstance(error, kind):
                return WorkerLost(cause, describe(error))
        if isinstance(error, (exceptions.WorkerCrashedError, exceptions.TaskCancelledError)):
            if at_work.aborted:
                return WorkerLost(Cause.ABORTED, "its worker was ended")
            return WorkerLost(Cause.UNKNOWN, "worker died: it exited, was killed, or crashed; Ray does not tell which")
        if isinstance(error, exceptions.RayTaskError) and isinstance(error.cause, bdb.BdbQuit):
            return error.cause
        return BackendBroken(f"a task of Ray failed with {describe(error)}")


_CAUSES = (
    (exceptions.OutOfMemoryError, Cause.MEMORY),
    (exceptions.NodeDiedError, Cause.LEFT),
    (exceptions.LocalRayletDiedError, Cause.LEFT),
    (exceptions.ObjectLostError, Cause.LEFT),  # the reply, with its host
)


class _Shared(Shared):
    """Buffers in Ray's object store, as long as there is a reference."""

    def __init__(self, ref: Any) -> None:
        self.ref = ref

    def buffers(self) -> list[memoryview]:
        return [memoryview(b).toreadonly() for b in ray.get(self.ref)]

    def close(self) -> None:
        self.ref = None


@dataclass(slots=True)
class _Lease:
    ref: Any
    need: Resources
    aborted: bool = False

    def cancel(self) -> None:
        """Kill its worker, or take it out of Ray's queue."""
        # Ray's C++ may abort the driver where a task is cancelled that has just completed. Without fetch_local=False,
        # one that has completed on another host looks as if it had not.
        if not ray.wait([self.ref], timeout=0, fetch_local=False)[0]:
            self.aborted = True
            ray.cancel(self.ref, force=True)


def _options(need: Resources, node: str) -> dict[str, Any]:
    """The options of a task with this need."""
    return {
        "num_cpus": _booked(need.cpus),
        "num_gpus": _booked(need.gpus),
        "memory": need.memory or None,
        "resources": {name: _booked(amount) for name, amount in need.custom.items()},
        "scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=True, _spill_on_unavailable=True),
        "max_retries": 0,
        "retry_exceptions": False,
    }


def _booked(amount: float) -> float:
    """An amount as the engine books it; Ray takes no more digits, either."""
    return int(amount * UNIT) / UNIT

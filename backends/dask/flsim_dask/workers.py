"""Workers: what a Dask scheduler has, as places, and the lease that each is at.

A lease is pinned to its worker, so that a death costs it alone and Dask's own retries are never reached. The task of a
worker that died would then wait for ever, so the lease is ended here, as soon as the scheduler reports the worker's
removal.
"""

from __future__ import annotations

import asyncio
import bdb
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import distributed
from distributed.scheduler import KilledWorker

from flsim.envelope import describe
from flsim.errors import BackendBroken, Cause, WorkerLost
from flsim.payload import Frames
from flsim.resources import Place, Resources
from flsim_dask import worker as in_worker
from flsim_dask.connection import Connection

LARGE = 64 * 1024
"""Buffers of so many bytes go to the worker ahead of the task, and stay there until its next lease, which mostly
carries the same model. The rest goes with the task, through the scheduler …"""

INLINE = 1024 * 1024
"""… as long as it is not more than this."""

RELEASE_AFTER = 0.01
"""Seconds after which a task is released. The scheduler holds messages to a worker back for 5 ms after each, and the
place's next lease should not wait behind this one's release."""

LOOK_AGAIN = 1.0
"""Seconds after which the workers are looked at once more where there were new ones: what became of them in the moment
before the scheduler began to tell of them has not been heard."""

WATCH = 1.0
"""Seconds between looks at whether the scheduler is there: Dask's client notices, and tells nobody who has no task."""

OPEN = ("init", "running")
"""States of a worker, as Dask calls them, in which it takes tasks: in a moment, or now."""


@dataclass(slots=True, eq=False)
class _Lease:
    address: str
    future: Future[Frames]
    task: distributed.Future[list[bytes]] | None = None
    """Once the scheduler has it."""


@dataclass(slots=True, eq=False)
class _Worker:
    place: Place
    nanny: bool
    status: str
    """As Dask calls it."""
    aborted: bool = False
    out_of_memory: bool = False
    """Its nanny is about to end it for that."""
    lease: _Lease | None = None
    carried: dict[int, tuple[bytes, distributed.Future[bytes]]] = field(default_factory=dict)
    """The buffers that it has, by their identity here."""

    @property
    def takes_leases(self) -> bool:
        return self.status in OPEN and not self.aborted


class Workers:
    """The workers of a cluster. All is done on the connection's event loop, so that nothing here needs a lock.

    Args:
        cpus: what each worker offers; None: as many as it has threads.
        changed: called when the places have changed.
        announce: shows the user a line.
        gone: says what it means that the scheduler is gone, and what to do.
    """

    def __init__(
        self,
        connection: Connection,
        cpus: float | None,
        changed: Callable[[], None],
        announce: Callable[[str], None],
        gone: Callable[[], str],
    ) -> None:
        self._connection = connection
        self._client = connection.client
        self._loop = connection.loop
        self._cpus = cpus
        self._changed = changed
        self._announce = announce
        self._gone = gone
        self._workers: dict[str, _Worker] = {}
        self._places: list[Place] = []
        self._broken: BackendBroken | None = None
        self._stale = False
        self._looking = False
        connection.call(self._open())

    # ---- for the engine's thread

    def places(self) -> list[Place]:
        """The workers that take leases now. Raises BackendBroken once the scheduler is gone."""
        if self._broken is not None:
            raise self._broken
        return self._places

    def submit(self, frames: Frames, need: Resources, place: Place) -> Future[Frames]:
        """Run a lease at ``place``."""
        lease = _Lease(place.name, Future())
        self._loop.call_soon_threadsafe(self._take, lease, frames, need)
        return lease.future

    def abort(self, future: Future[Frames]) -> None:
        """End the worker that has this lease."""
        self._loop.call_soon_threadsafe(self._connection.spawn, self._abort(future))

    def close(self) -> None:
        """Let go of all leases and of the cluster."""
        self._connection.call(self._close())

    # ---- leases

    def _take(self, lease: _Lease, frames: Frames, need: Resources) -> None:
        if not self._connection.alive:
            self._break()
        worker = self._workers.get(lease.address)
        if self._broken is not None:
            lease.future.set_exception(self._broken)
        elif worker is None or not worker.takes_leases:
            lease.future.set_exception(WorkerLost(Cause.NOT_STARTED, f"worker {lease.address} is gone"))
        else:
            worker.lease = lease
            self._connection.spawn(self._run(worker, lease, frames, need))

    async def _run(self, worker: _Worker, lease: _Lease, frames: Frames, need: Resources) -> None:
        try:
            arguments = await self._carry(lease.address, worker, frames)
            if lease.future.done():
                return
            lease.task = self._client.submit(
                in_worker.run,
                lease.address,
                *arguments,
                workers=[lease.address],
                allow_other_workers=False,
                pure=False,
                resources=dict(need.custom) or None,
            )
            header, *buffers = await lease.task
        except Exception as e:  # what Dask raises is of many kinds
            self._failed(lease, e)
        else:
            self._end(lease, Frames(header, list(buffers)))

    async def _carry(self, address: str, worker: _Worker, frames: Frames) -> list[Any]:
        """The arguments of the task. What is large is sent ahead of it, where the worker does not have it already."""
        parts = [part if isinstance(part, bytes) else bytes(part) for part in (frames.header, *frames.buffers)]
        limit = LARGE if sum(len(p) for p in parts if len(p) < LARGE) <= INLINE else 0
        large = {id(p): p for p in parts if len(p) >= limit}
        ahead = {i: p for i, p in large.items() if i not in worker.carried}
        if ahead:
            sent = await self._client.scatter(list(ahead.values()), workers=[address], hash=False)
            worker.carried |= {i: (p, future) for (i, p), future in zip(ahead.items(), sent, strict=True)}
        worker.carried = {i: worker.carried[i] for i in large}
        small = [None if id(p) in large else p for p in parts]
        return [small, *(worker.carried[id(p)][1] for p in parts if id(p) in large)]

    def _failed(self, lease: _Lease, error: Exception) -> None:
        if lease.future.done():
            return  # it was let go of, and this is how its task ends
        if not self._connection.alive:
            self._break()
        elif isinstance(error, bdb.BdbQuit):
            self._end(lease, error)
        elif not isinstance(error, KilledWorker):  # the worker's removal is reported next, and ends the lease
            text = (
                f"Dask cannot run a lease on worker {lease.address}: {describe(error)}\n"
                "The scheduler and the workers need flsim-dask as it is here: pip install flsim-dask"
            )
            self._end(lease, BackendBroken(text))

    def _end(self, lease: _Lease, outcome: Frames | Exception) -> None:
        worker = self._workers.get(lease.address)
        if worker is not None and worker.lease is lease:
            worker.lease = None
        if lease.task is not None:
            self._loop.call_later(RELEASE_AFTER, lease.task.release)
        if lease.future.done():
            return
        if isinstance(outcome, Exception):
            lease.future.set_exception(outcome)
        else:
            lease.future.set_result(outcome)

    async def _abort(self, future: Future[Frames]) -> None:
        worker = next((w for w in self._workers.values() if w.lease is not None and w.lease.future is future), None)
        if worker is None or worker.lease is None:
            return
        lease, address = worker.lease, worker.lease.address
        if future.running():  # otherwise the worker is at something of others, and the lease is only withdrawn
            worker.aborted = True
            self._publish()
            if worker.nanny:
                await self._client.run(in_worker.kill, address, workers=[address], nanny=True, on_error="ignore")
            else:
                self._announce(f"worker {address} has no nanny, so it cannot be ended; it gets no more leases")
        self._end(lease, WorkerLost(Cause.ABORTED, f"its worker {address} was ended"))

    # ---- workers

    async def _open(self) -> None:
        self._client.subscribe_topic("all", self._on_cluster)
        self._client.subscribe_topic("worker-restart-memory", self._on_memory)
        await self._look()
        self._watcher = self._connection.spawn(self._watch())

    async def _close(self) -> None:
        self._watcher.cancel()
        for address, worker in self._workers.items():
            if worker.lease is not None:
                self._end(worker.lease, WorkerLost(Cause.ABORTED, "the run is over"))
            self._unsubscribe(address)
        self._workers.clear()
        self._unsubscribe("all")
        self._unsubscribe("worker-restart-memory")

    def _unsubscribe(self, topic: str) -> None:
        if self._connection.alive:
            self._client.unsubscribe_topic(topic)

    def _look_soon(self) -> None:
        self._connection.spawn(self._look())

    async def _look(self) -> None:
        """See which workers there are, again if that changes meanwhile."""
        self._stale = True
        if self._looking:
            return
        self._looking = True
        try:
            while self._stale:
                self._stale = False
                found = (await self._client.scheduler.identity(n_workers=-1))["workers"]
        except OSError:
            self._break()
        else:
            self._found(found)
        finally:
            self._looking = False

    def _found(self, found: Mapping[str, Mapping[str, Any]]) -> None:
        for address in self._workers.keys() - found.keys():
            self._remove(address, {"expected": True})
        new = found.keys() - self._workers.keys()
        for address, about in found.items():
            if address in new:
                self._workers[address] = _Worker(self._place(address, about), bool(about["nanny"]), about["status"])
                self._client.subscribe_topic(address, partial(self._on_worker, address))
            else:
                self._set_status(address, self._workers[address], about["status"])
        if new:
            self._loop.call_later(LOOK_AGAIN, self._look_soon)
        self._publish()

    def _place(self, address: str, about: Mapping[str, Any]) -> Place:
        cpus = self._cpus if self._cpus is not None else about["nthreads"]
        memory = about["memory_limit"] or 0  # a worker without a limit has no memory that could be booked
        return Place(address, Resources(cpus=cpus, memory=memory, custom=about["resources"]), leases=1)

    def _set_status(self, address: str, worker: _Worker, status: str) -> None:
        worker.status = status
        if not worker.takes_leases and worker.lease is not None and not worker.lease.future.running():
            self._end(worker.lease, WorkerLost(Cause.NOT_STARTED, f"worker {address} is {status}"))

    def _remove(self, address: str, about: Mapping[str, Any]) -> None:
        worker = self._workers.get(address)
        if worker is None:
            return
        if worker.lease is not None:
            self._end(worker.lease, _lost(address, worker, worker.lease, about))
        del self._workers[address]
        self._unsubscribe(address)

    def _publish(self) -> None:
        places = [worker.place for worker in self._workers.values() if worker.takes_leases]
        if places != self._places:
            self._places = places
            self._changed()

    # ---- what the scheduler tells

    async def _on_cluster(self, event: tuple[float, Any]) -> None:
        match event[1]:
            case {"action": "add-worker"}:
                self._look_soon()
            case {"action": "remove-worker", "worker": address}:
                self._stale = True
                self._remove(address, event[1])
                self._publish()

    async def _on_memory(self, event: tuple[float, Any]) -> None:
        if (worker := self._workers.get(event[1]["worker"])) is not None:
            worker.out_of_memory = True

    async def _on_worker(self, address: str, event: tuple[float, Any]) -> None:
        worker = self._workers.get(address)
        if worker is None:
            return
        match event[1]:
            case str(key):  # in_worker.run says that it has begun
                lease = worker.lease
                if lease is not None and lease.task is not None and lease.task.key == key:
                    lease.future.set_running_or_notify_cancel()
            case {"action": "worker-status-change", "status": status}:
                self._stale = True
                self._set_status(address, worker, status)
                self._publish()

    async def _watch(self) -> None:
        while self._connection.alive:
            await asyncio.sleep(WATCH)
        self._break()

    def _break(self) -> None:
        if self._broken is None:
            self._broken = BackendBroken(self._gone())
            self._changed()
        for worker in self._workers.values():
            if worker.lease is not None:
                self._end(worker.lease, self._broken)


def _lost(address: str, worker: _Worker, lease: _Lease, about: Mapping[str, Any]) -> WorkerLost:
    """How a lease was lost with its worker, by what the scheduler says of the worker's removal."""
    if worker.aborted:
        return WorkerLost(Cause.ABORTED, f"its worker {address} was ended")
    if about["expected"] or worker.status.startswith("clos"):
        return WorkerLost(Cause.LEFT, f"worker {address} has left the cluster")
    if lease.task is not None and lease.task.key in about["lost-computed-tasks"]:
        return WorkerLost(Cause.LEFT, f"worker {address} died before its reply was fetched")
    if not lease.future.running():
        return WorkerLost(Cause.NOT_STARTED, f"worker {address} died before it began the lease")
    if worker.out_of_memory:
        return WorkerLost(Cause.MEMORY, f"worker {address} was ended by its nanny, for it had too much memory")
    return WorkerLost(Cause.UNKNOWN, f"worker {address} died; Dask does not tell how")

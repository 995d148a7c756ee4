"""Workers: what a Dask scheduler has, as places, and what it tells of them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any

from flsim.errors import BackendBroken, Cause, WorkerLost
from flsim.payload import Frames, Shared
from flsim.resources import Place, Resources
from flsim.segments import Memory
from flsim_dask import worker as in_worker
from flsim_dask.calls import Calls
from flsim_dask.connection import Connection
from flsim_dask.leases import Lease, LeaseFuture, Leases, Way, Worker
from flsim_dask.plugin import GPU
from flsim_dask.tasks import Tasks

LOOK_AGAIN = 1.0
"""Seconds after which the workers are looked at once more where there were new ones: what became of them in the moment
before the scheduler began to tell of them has not been heard."""

WATCH = 1.0
"""Seconds between looks at whether the scheduler is there: Dask's client notices, and tells nobody who has no task."""


class Workers:
    """The workers of a cluster. All is done on the connection's event loop, so that nothing here needs a lock.

    Args:
        memory: which the driver shares with the workers, where all of them are on its host.
        cpus: what each worker offers; None: as many as it has threads.
        changed: called when the places have changed.
        announce: shows the user a line.
        gone: says what it means that the scheduler is gone, and what to do.
    """

    def __init__(
        self,
        connection: Connection,
        memory: Memory | None,
        cpus: float | None,
        changed: Callable[[], None],
        announce: Callable[[str], None],
        gone: Callable[[], str],
    ) -> None:
        self._connection = connection
        self._client = connection.client
        self._way: Way = Tasks(connection) if memory is None else Calls(connection, memory, self._end)
        self._leases = Leases(connection, self._way, self._break, self._replace)
        self._cpus = cpus
        self._changed = changed
        self._announce = announce
        self._gone = gone
        self._workers: dict[str, Worker] = {}
        self._places: list[Place] = []
        self._broken: BackendBroken | None = None
        self._stale = False
        self._looking = False
        self._replacing: list[asyncio.Task[None]] = []
        connection.call(self._open())

    # ---- for the engine's thread

    def places(self) -> list[Place]:
        """The workers that take leases now. Raises BackendBroken once the scheduler is gone."""
        if self._broken is not None:
            raise self._broken
        return self._places

    def submit(self, frames: Frames, need: Resources, place: Place) -> Future[Frames]:
        """Run a lease at ``place``."""
        future = LeaseFuture()
        self._connection.loop.call_soon_threadsafe(self._take, future, frames, need, place)
        return future

    def share(self, buffers: Sequence[memoryview], messages: int) -> Shared | None:
        """Have buffers ready for each worker that will want them; None where they go with their lease."""
        return self._way.share(buffers, messages)

    def abort(self, future: Future[Frames]) -> None:
        """End the worker that has this lease."""
        self._connection.loop.call_soon_threadsafe(lambda: self._connection.spawn(self._abort(future)))

    def close(self) -> None:
        """Let go of all leases and of the cluster."""
        self._connection.call(self._close())

    # ---- leases

    def _take(self, future: LeaseFuture, frames: Frames, need: Resources, place: Place) -> None:
        if not self._connection.alive:
            self._break()
        worker = self._workers.get(place.name)
        if self._broken is not None:
            future.set_exception(self._broken)
        elif worker is None:
            future.set_exception(WorkerLost(Cause.NOT_STARTED, f"worker {place.name} is gone"))
        elif not worker.takes_leases:
            future.set_exception(WorkerLost(Cause.LEFT, f"worker {place.name} takes no lease: {worker.status}"))
        else:
            self._leases.begin(worker, future, frames, need)

    async def _abort(self, future: Future[Frames]) -> None:
        leases = (lease for worker in self._workers.values() for lease in worker.leases)
        lease = next((lease for lease in leases if lease.future is future), None)
        if lease is None:
            return
        address = lease.worker.address
        begun = await self._has_begun(lease)
        if future.done():
            return
        if begun:
            lease.worker.aborted = True
            self._publish()
            if lease.worker.nanny:
                await self._kill(address)
            else:
                self._announce(f"worker {address} has no nanny, so it cannot be ended; it gets no more leases")
        self._leases.end(lease, WorkerLost(Cause.ABORTED, f"aborted at worker {address}"))

    def _replace(self, worker: Worker) -> None:
        """Have its nanny replace a worker that has nothing else to do."""
        if worker.nanny:  # else nobody would
            worker.aborted = True
            self._publish()
            self._replacing.append(self._connection.spawn(self._kill(worker.address)))

    def _end(self, worker: Worker) -> None:
        """Make sure that a worker which cannot be called has ended, as it has in all likelihood."""
        self._connection.spawn(self._kill(worker.address))

    async def _kill(self, address: str) -> None:
        # The scheduler does not know it any more; or is gone itself, which is said elsewhere.
        with contextlib.suppress(KeyError, OSError):
            await self._client.run(in_worker.kill, address, workers=[address], nanny=True, on_error="ignore")

    async def _has_begun(self, lease: Lease) -> bool:
        """Whether the worker is at it; otherwise it is at something of others, and need not be ended."""
        if lease.future.running():
            return True
        address = lease.worker.address
        said = await self._client.run(in_worker.is_at, lease.key, workers=[address], on_error="ignore")
        return bool(said.get(address, False))

    # ---- workers

    async def _open(self) -> None:
        self._client.subscribe_topic("all", self._on_cluster)
        self._client.subscribe_topic("worker-restart-memory", self._on_memory)
        await self._look()
        self._watcher = self._connection.spawn(self._watch())

    async def _close(self) -> None:
        self._watcher.cancel()
        await asyncio.gather(*self._replacing)
        for worker in self._workers.values():
            self._leases.end_all(worker, WorkerLost(Cause.ABORTED, "the run is over"))
        self._way.close()
        for topic in (*self._workers, "all", "worker-restart-memory"):
            self._unsubscribe(topic)
        self._workers.clear()

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
                self._workers[address] = Worker(self._place(address, about), bool(about["nanny"]), about["status"])
                self._client.subscribe_topic(address, partial(self._on_worker, address))
            else:
                self._set_status(self._workers[address], about["status"])
        if new:
            self._connection.loop.call_later(LOOK_AGAIN, self._look_soon)
        self._publish()

    def _place(self, address: str, about: Mapping[str, Any]) -> Place:
        cpus = self._cpus if self._cpus is not None else about["nthreads"]
        memory = about["memory_limit"] or 0  # a worker without a limit has no memory that could be booked
        custom = dict(about["resources"])
        gpus = custom.pop(GPU, 0.0)
        gpus = gpus if gpus < 1 else float(int(gpus))
        return Place(address, Resources(cpus=cpus, gpus=gpus, memory=memory, custom=custom), leases=1)

    def _set_status(self, worker: Worker, status: str) -> None:
        worker.status = status
        self._publish()
        if not worker.takes_leases:
            self._leases.end_unstarted(worker, f"worker {worker.address} is {status}")

    def _remove(self, address: str, about: Mapping[str, Any]) -> None:
        if (worker := self._workers.pop(address, None)) is not None:
            self._unsubscribe(address)
            self._publish()
            self._leases.lost(worker, about)
            if worker.runner is not None:
                worker.runner.cancel()  # if it is still being made, which nobody else would tell

    def _publish(self) -> None:
        """Tell what the places are, where that has changed: before leases end, lest they go where nothing is."""
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

    async def _on_memory(self, event: tuple[float, Any]) -> None:
        if (worker := self._workers.get(event[1]["worker"])) is not None:
            worker.out_of_memory = True

    async def _on_worker(self, address: str, event: tuple[float, Any]) -> None:
        worker = self._workers.get(address)
        if worker is None:
            return
        match event[1]:
            case str(key):  # a lease has begun, of a cluster that was joined, or of a ClientApp that has no file left
                self._leases.begun(worker, key)
            case {"action": "worker-status-change", "status": status}:
                self._stale = True
                self._set_status(worker, status)

    async def _watch(self) -> None:
        while self._connection.alive:
            await asyncio.sleep(WATCH)
        self._break()

    def _break(self) -> None:
        if self._broken is None:
            self._broken = BackendBroken(self._gone())
            self._changed()
        for worker in self._workers.values():
            self._leases.end_all(worker, self._broken)

"""Leases: each is one task, pinned to its worker.

So a death costs one lease alone, and Dask's own retries are never reached. But the task of a worker that died waits for
ever, so who hears of the death ends the lease, by :meth:`Leases.lost`.
"""

from __future__ import annotations

import bdb
import pickle
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from distributed.scheduler import KilledWorker

from flsim.envelope import describe
from flsim.errors import BackendBroken, Cause, WorkerLost
from flsim.payload import Frames, Shared
from flsim.resources import Place, Resources
from flsim.segments import Exchange, Memory, Placed
from flsim_dask import worker as in_worker
from flsim_dask.connection import Connection
from flsim_dask.plugin import GPU

LARGE = 64 * 1024
"""Buffers of so many bytes go to the worker ahead of the task. The rest goes with it, through the scheduler …"""

INLINE = 1024 * 1024
"""… as long as it is not more than this."""

RELEASE_AFTER = 0.01
"""Seconds after which a task is released. The scheduler holds messages to a worker back for 5 ms after each, and the
place's next lease should not wait behind this one's release."""


class DaskShared(Shared):
    """Buffers that are sent to each worker which has a lease that carries them, and stay there until this is closed.

    Args:
        buffers: they are copied.
        connection: through which they are sent.
    """

    def __init__(self, buffers: Sequence[memoryview], connection: Connection) -> None:
        self._arrays = [in_worker.as_array(bytes(b)) for b in buffers]
        self._connection = connection
        self._at: dict[Worker, Any] = {}

    async def at(self, worker: Worker) -> Any:
        """The Dask future that keeps them at ``worker``. On the connection's event loop."""
        if worker not in self._at:
            self._at[worker] = await self._connection.ahead(self._arrays, worker.address)
        return self._at[worker]

    def buffers(self) -> list[memoryview]:
        return [memoryview(array).toreadonly() for array in self._arrays]

    def close(self) -> None:
        self._connection.call_soon(self._at.clear)


OPEN = ("init", "running")
"""States of a worker, as Dask calls them, in which it takes tasks: in a moment, or now."""


@dataclass(slots=True, eq=False)
class Worker:
    """A worker, and what it is at."""

    place: Place
    nanny: bool
    status: str
    """As Dask calls it."""
    aborted: bool = False
    out_of_memory: bool = False
    """Its nanny is about to end it for that."""
    leases: set[Lease] = field(default_factory=set)
    """One, as its place takes; but a place that comes back may be asked what is installed there beside it."""

    @property
    def address(self) -> str:
        """Where it is, and what its place is called."""
        return self.place.name

    @property
    def takes_leases(self) -> bool:
        """Whether a task that is sent to it now is begun."""
        return self.status in OPEN and not self.aborted


class LeaseFuture(Future[Frames]):
    """Of a lease. It runs when its worker says so: by an event, or in shared memory, which is looked at when asked."""

    exchange: Exchange | None = None

    def running(self) -> bool:
        """Whether the worker has begun it."""
        exchange = self.exchange
        return super().running() or (exchange is not None and exchange.begun and not self.done())


@dataclass(slots=True, eq=False)
class Lease:
    """What is at a worker, or on its way there."""

    worker: Worker
    future: LeaseFuture
    task: Any = None
    """Its distributed.Future, once the scheduler has it."""
    exchange: Exchange | None = None
    """Of a worker on this host, for what is large in it."""


class Leases:
    """Runs leases. All is done on the connection's event loop.

    Args:
        memory: which the driver shares with the workers, where all of them are on its host.
        gone: called when a lease meets that the scheduler is gone.
        outgrown: called when a worker says that it is to be replaced, before its lease ends.
    """

    def __init__(
        self,
        connection: Connection,
        memory: Memory | None,
        gone: Callable[[], None],
        outgrown: Callable[[Worker], None],
    ) -> None:
        self._connection = connection
        self._memory = memory
        self._gone = gone
        self._outgrown = outgrown
        self._unreleased: dict[str, Any] = {}

    def begin(self, worker: Worker, future: LeaseFuture, frames: Frames, need: Resources) -> None:
        """Have ``worker`` run a lease that completes ``future``."""
        lease = Lease(worker, future)
        worker.leases.add(lease)
        self._connection.spawn(self._run(lease, frames, need))

    def begun(self, worker: Worker, key: str) -> None:
        """``worker`` has begun the lease whose task has this key."""
        for lease in worker.leases:
            if lease.task is not None and lease.task.key == key and not lease.future.running():
                lease.future.set_running_or_notify_cancel()

    def end(self, lease: Lease, outcome: Frames | Exception) -> None:
        """Complete the lease, unless it is, and forget its task."""
        lease.worker.leases.discard(lease)
        if lease.exchange is not None:
            lease.future.exchange = None
            lease.exchange.close()
            lease.exchange = None
        if lease.task is not None:
            self._unreleased[lease.task.key] = lease.task
            self._connection.loop.call_later(RELEASE_AFTER, self._release, lease.task.key)
        if lease.future.done():
            return
        if isinstance(outcome, Exception):
            lease.future.set_exception(outcome)
        else:
            lease.future.set_result(outcome)

    def lost(self, worker: Worker, about: Mapping[str, Any]) -> None:
        """The scheduler has removed ``worker``, and says this about it."""
        for lease in list(worker.leases):
            cause, what = _how(lease, about)
            self.end(lease, WorkerLost(cause, f"worker {worker.address} {what}"))

    def end_all(self, worker: Worker, error: Exception) -> None:
        """End what ``worker`` is at."""
        for lease in list(worker.leases):
            self.end(lease, error)

    def end_unstarted(self, worker: Worker, reason: str) -> None:
        """End what ``worker`` has not begun, and will not soon: it pauses, or leaves."""
        for lease in list(worker.leases):
            if not lease.future.running():
                self.end(lease, WorkerLost(Cause.LEFT, reason))

    def close(self) -> None:
        """Release what is not yet released."""
        for key in list(self._unreleased):
            self._release(key)

    async def _run(self, lease: Lease, frames: Frames, need: Resources) -> None:
        address = lease.worker.address
        if lease.future.done():
            return
        try:
            arguments = await self._carry(lease, frames)
            if lease.future.done():
                return
            lease.task = self._connection.client.submit(
                in_worker.run,
                address,
                *arguments,
                workers=[address],
                allow_other_workers=False,
                pure=False,
                resources=_declared(need) or None,
            )
            outgrown, header, *buffers = await lease.task
            if lease.future.done():
                return
            buffers = [b if isinstance(b, tuple) else memoryview(b).toreadonly() for b in buffers]
            if lease.exchange is not None:
                buffers = _mapped(lease.exchange, buffers)
        except Exception as e:  # what Dask raises is of many kinds
            self._failed(lease, e)
        else:
            if outgrown:
                self._outgrown(lease.worker)
            self.end(lease, Frames(header, buffers, outgrown))

    async def _carry(self, lease: Lease, frames: Frames) -> list[Any]:
        """The arguments of the task. What is large is in shared memory, or is sent ahead of it, where the worker does
        not have it already."""
        everything = [frames.header, *frames.buffers]
        if self._memory is not None:
            lease.exchange = lease.future.exchange = Exchange(self._memory)
            parts = [p if isinstance(p, Placed) else bytes(p) for p in lease.exchange.out(everything)]
            return [pickle.dumps((parts, lease.exchange.replies))]
        plain = [part for part in everything if not isinstance(part, DaskShared)]
        limit = LARGE if sum(len(p) for p in plain if len(p) < LARGE) <= INLINE else 0
        small: list[bytes | None] = []
        large: list[Any] = []
        for part in everything:
            if isinstance(part, DaskShared):
                large.append(await part.at(lease.worker))
            elif len(part) >= limit:
                large.append(await self._connection.ahead([in_worker.as_array(part)], lease.worker.address))
            else:
                small.append(bytes(part))
                continue
            small.append(None)
        return [pickle.dumps((small, None)), *large]

    def _failed(self, lease: Lease, error: Exception) -> None:
        if lease.future.done():
            return  # it was let go of, and this is how its task ends
        if not self._connection.alive:
            self._gone()
        elif isinstance(error, (bdb.BdbQuit, BackendBroken)):
            self.end(lease, error)
        elif not isinstance(error, KilledWorker):  # the worker's removal is reported next, and ends the lease
            text = f"Dask cannot run a lease on worker {lease.worker.address}: {describe(error)}"
            if not isinstance(error, OSError):
                text += "\nThe scheduler and the workers need flsim-dask as it is here: pip install flsim-dask"
            self.end(lease, BackendBroken(text))

    def _release(self, key: str) -> None:
        if (task := self._unreleased.pop(key, None)) is not None:
            task.release()


def _mapped(exchange: Exchange, buffers: list[Any]) -> list[Any]:
    try:
        return exchange.back(buffers)
    except OSError as e:
        raise BackendBroken(f"a worker's reply cannot be mapped: {describe(e)}") from e


def _declared(need: Resources) -> dict[str, float]:
    """What of a need Dask's scheduler knows: the resources that workers declare."""
    return {**need.custom, **({GPU: need.gpus} if need.gpus else {})}


def _how(lease: Lease, about: Mapping[str, Any]) -> tuple[Cause, str]:
    """How a lease was lost with its worker."""
    worker = lease.worker
    if worker.aborted:
        return Cause.ABORTED, "was ended"
    if about["expected"] or worker.status.startswith("clos"):
        return Cause.LEFT, "has left the cluster"
    if lease.task is not None and lease.task.key in about["lost-computed-tasks"]:
        return Cause.LEFT, "died before its reply was fetched"
    if not lease.future.running():
        return Cause.NOT_STARTED, "died before it began the lease"
    if worker.out_of_memory:
        return Cause.MEMORY, "was ended by its nanny, for it had too much memory"
    return Cause.UNKNOWN, "died; Dask does not tell how"

"""Leases: each is pinned to its worker, so a death costs one lease alone, and Dask's own retries are never reached.

On a joined cluster a lease is a task (:mod:`flsim_dask.tasks`), on one of this host a call (:mod:`flsim_dask.calls`).
Either way nobody ends the lease of a worker that died but who hears of the death, by :meth:`Leases.lost`.
"""

from __future__ import annotations

import bdb
import uuid
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from distributed.scheduler import KilledWorker

from flsim.envelope import describe
from flsim.errors import BackendBroken, Cause, WorkerLost
from flsim.payload import Frames, Shared
from flsim.resources import Place, Resources

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from flsim.segments import Exchange
    from flsim_dask.connection import Connection

OPEN = ("init", "running")
"""States of a worker, as Dask calls them, in which it begins leases: in a moment, or now."""


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
    runner: asyncio.Future[Any] | None = None
    """Of a worker on this host: the Dask future of what is called there, as soon as it is made."""

    @property
    def address(self) -> str:
        """Where it is, and what its place is called."""
        return self.place.name

    @property
    def takes_leases(self) -> bool:
        """Whether one that is sent to it now is begun."""
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
    key: str = field(default_factory=lambda: f"lease-{uuid.uuid4().hex}")
    task: Any = None
    """Its distributed.Future, once the scheduler has it. Of a worker of a joined cluster."""
    exchange: Exchange | None = None
    """For what is large in it. Of a worker on this host."""


class Way(Protocol):
    """How leases go to workers and back. All but *share* is done on the connection's event loop."""

    def share(self, buffers: Sequence[memoryview], messages: int) -> Shared | None:
        """As :meth:`flsim.backend.Backend.share`."""

    async def run(self, lease: Lease, frames: Frames, need: Resources) -> Frames | None:
        """The reply; None where the lease was let go of meanwhile, or is lost with its worker, as is heard next. Raises
        what Dask raises."""

    def forget(self, lease: Lease) -> None:
        """The lease has ended."""

    def close(self) -> None:
        """All have."""


class Leases:
    """Runs leases. All is done on the connection's event loop.

    Args:
        way: how they go there and back.
        gone: called when a lease meets that the scheduler is gone.
        outgrown: called when a worker says that it is to be replaced, before its lease ends.
    """

    def __init__(
        self, connection: Connection, way: Way, gone: Callable[[], None], outgrown: Callable[[Worker], None]
    ) -> None:
        self._connection = connection
        self._way = way
        self._gone = gone
        self._outgrown = outgrown

    def begin(self, worker: Worker, future: LeaseFuture, frames: Frames, need: Resources) -> None:
        """Have ``worker`` run a lease that completes ``future``."""
        lease = Lease(worker, future)
        worker.leases.add(lease)
        self._connection.spawn(self._run(lease, frames, need))

    def begun(self, worker: Worker, key: str) -> None:
        """``worker`` has begun the lease that has this key."""
        for lease in worker.leases:
            if lease.key == key and not lease.future.running():
                lease.future.set_running_or_notify_cancel()

    def end(self, lease: Lease, outcome: Frames | Exception) -> None:
        """Complete the lease, unless it is."""
        lease.worker.leases.discard(lease)
        self._way.forget(lease)
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

    async def _run(self, lease: Lease, frames: Frames, need: Resources) -> None:
        if lease.future.done():
            return
        try:
            reply = await self._way.run(lease, frames, need)
        except Exception as e:  # what Dask raises is of many kinds
            self._failed(lease, e)
            return
        if reply is not None and not lease.future.done():
            if reply.outgrown:
                self._outgrown(lease.worker)
            self.end(lease, reply)

    def _failed(self, lease: Lease, error: Exception) -> None:
        if lease.future.done():
            return  # it was let go of, and this is how its task or call ends
        if not self._connection.alive:
            self._gone()
        elif isinstance(error, (bdb.BdbQuit, BackendBroken)):
            self.end(lease, error)
        elif not isinstance(error, KilledWorker):  # the worker's removal is reported next, and ends the lease
            text = f"Dask cannot run a lease on worker {lease.worker.address}: {describe(error)}"
            if not isinstance(error, OSError):
                text += "\nThe scheduler and the workers need flsim-dask as it is here: pip install flsim-dask"
            self.end(lease, BackendBroken(text))


def _how(lease: Lease, about: Mapping[str, Any]) -> tuple[Cause, str]:
    """How a lease was lost with its worker."""
    worker = lease.worker
    if worker.aborted:
        return Cause.ABORTED, "was ended"
    if about["expected"] or worker.status.startswith("clos"):
        return Cause.LEFT, "has left the cluster"
    if lease.key in about["lost-computed-tasks"]:
        return Cause.LEFT, "died before its reply was fetched"
    if not lease.future.running():
        return Cause.NOT_STARTED, "died before it began the lease"
    if worker.out_of_memory:
        return Cause.MEMORY, "was ended by its nanny, for it had too much memory"
    return Cause.UNKNOWN, "died; Dask does not tell how"

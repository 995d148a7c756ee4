"""Calls: the leases of a cluster of this host. It has no other users, so its scheduler need not know of them.

Each worker has an actor, and a lease is a call of it: one message from the driver to the worker, and one back. A task
takes ten, and eight of them are the scheduler's to read or to send. The call is the message that Dask's Actor would
send, and not made by one: some calls of an Actor that fail never end, and to make it changes Dask's configuration for
all of the process.
"""

from __future__ import annotations

import asyncio
import pickle
from typing import TYPE_CHECKING, Any

from flsim.envelope import describe
from flsim.errors import BackendBroken
from flsim.payload import Frames, Shared
from flsim.segments import Exchange, Memory, Placed
from flsim_dask import worker as in_worker

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from flsim.resources import Resources
    from flsim_dask.connection import Connection
    from flsim_dask.leases import Lease, Worker


class Calls:
    """Leases as calls of an actor in their worker.

    Args:
        memory: which the driver shares with the workers, for what is large.
        unreachable: called when a worker cannot be called; it has to end then, if it has not.
    """

    def __init__(self, connection: Connection, memory: Memory, unreachable: Callable[[Worker], None]) -> None:
        self._connection = connection
        self._memory = memory
        self._unreachable = unreachable

    def share(self, buffers: Sequence[memoryview], messages: int) -> Shared | None:
        """As :meth:`flsim.backend.Backend.share`."""
        return self._memory.share(buffers, messages)

    async def run(self, lease: Lease, frames: Frames, need: Resources) -> Frames | None:
        """As :meth:`flsim_dask.leases.Way.run`. The need is the place's to know."""
        exchange = lease.exchange = lease.future.exchange = Exchange(self._memory)
        everything = exchange.out([frames.header, *frames.buffers])
        parts = [p if isinstance(p, Placed) else bytes(p) for p in everything]
        argument = pickle.dumps((lease.worker.address, lease.key, parts, exchange.replies))
        try:
            runner = await self._runner(lease.worker)
            if lease.future.done():
                return None
            rpc = self._connection.client.rpc(lease.worker.address)
            answer = await rpc.actor_execute(actor=runner.key, function="run", args=[argument])
        except OSError:
            if not self._connection.alive:
                raise
            if not lease.future.done():
                self._unreachable(lease.worker)
            return None
        if lease.future.done():
            return None
        if answer["status"] != "OK":
            raise answer["exception"]
        outgrown, header, *buffers = pickle.loads(answer["result"])
        try:
            return Frames(header, exchange.back(buffers), outgrown)
        except OSError as e:
            raise BackendBroken(f"a worker's reply cannot be mapped: {describe(e)}") from e

    def forget(self, lease: Lease) -> None:
        """Let go of the memory that was for it."""
        if lease.exchange is not None:
            lease.future.exchange = None
            lease.exchange.close()
            lease.exchange = None

    def close(self) -> None:
        """There is nothing left to do."""

    async def _runner(self, worker: Worker) -> Any:
        """The Dask future of the worker's actor, once it is made. Raises OSError where it cannot be."""
        if worker.runner is None:
            worker.runner = asyncio.ensure_future(self._new_runner(worker.address))
        return await worker.runner

    async def _new_runner(self, address: str) -> Any:
        made = self._connection.client.submit(
            in_worker.Runner, actor=True, workers=[address], allow_other_workers=False, pure=False
        )
        error = await made.exception()
        if error is not None:  # that the worker was lost, in all likelihood
            raise OSError(f"the actor cannot be made: {describe(error)}") from error
        return made

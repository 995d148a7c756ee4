"""Tasks: the leases of a joined cluster. Its scheduler knows of each, and so do its other users."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from flsim.payload import Frames, Shared
from flsim_dask import worker as in_worker
from flsim_dask.plugin import GPU

if TYPE_CHECKING:
    from flsim.resources import Resources
    from flsim_dask.connection import Connection
    from flsim_dask.leases import Lease, Worker

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


class Tasks:
    """Leases as tasks, each pinned to its worker."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._unreleased: dict[str, Any] = {}

    def share(self, buffers: Sequence[memoryview], messages: int) -> Shared | None:
        """As :meth:`flsim.backend.Backend.share`."""
        if messages == 1 or sum(b.nbytes for b in buffers) < LARGE:
            return None
        return DaskShared(buffers, self._connection)

    async def run(self, lease: Lease, frames: Frames, need: Resources) -> Frames | None:
        """As :meth:`flsim_dask.leases.Way.run`."""
        arguments = await self._carry(lease, frames)
        if lease.future.done():
            return None
        lease.task = self._connection.client.submit(
            in_worker.run,
            *arguments,
            key=lease.key,
            workers=[lease.worker.address],
            allow_other_workers=False,
            pure=False,
            resources=_declared(need) or None,
        )
        outgrown, header, *arrays = await lease.task
        return Frames(header, [memoryview(array).toreadonly() for array in arrays], outgrown)

    def forget(self, lease: Lease) -> None:
        """Release its task, in a moment."""
        if lease.task is not None:
            self._unreleased[lease.key] = lease.task
            self._connection.loop.call_later(RELEASE_AFTER, self._release, lease.key)

    def close(self) -> None:
        """Release what is not yet released."""
        for key in list(self._unreleased):
            self._release(key)

    async def _carry(self, lease: Lease, frames: Frames) -> list[Any]:
        """The arguments of the task. What is large is sent ahead of it, where the worker does not have it already."""
        everything = [frames.header, *frames.buffers]
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
        return [pickle.dumps((lease.worker.address, lease.key, small, None)), *large]

    def _release(self, key: str) -> None:
        if (task := self._unreleased.pop(key, None)) is not None:
            task.release()


def _declared(need: Resources) -> dict[str, float]:
    """What of a need Dask's scheduler knows: the resources that workers declare."""
    return {**need.custom, **({GPU: need.gpus} if need.gpus else {})}

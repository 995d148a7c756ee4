"""Connection: a Dask client, and the event loop that it lives on, in a thread of its own."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from distributed import Client
from distributed.security import Security
from distributed.utils import silence_logging_cmgr

from flsim_dask.worker import let_dask_draw_apart

T = TypeVar("T")

PATIENCE = 10.0
"""Seconds that a scheduler has to answer."""

CONNECTIONS = 4096
"""So many the client may have open. A lease on this host holds one until it ends, and with as many workers as Dask's
usual 512 none would be left to abort one."""


class Connection:
    """A client that is connected to a scheduler, until :meth:`close`.

    The loop is ours, and not one that Dask starts: Dask leaves its thread behind where no scheduler answers.

    Args:
        address: the scheduler's.
        security: what lets us in; None: what Dask's configuration says.
        direct: whether what a worker gets and gives goes past the scheduler; None: what Dask's configuration says.

    Raises whatever Dask raises where it cannot connect.
    """

    client: Any
    """A distributed.Client in its asynchronous mode. Its methods are typed in part only."""

    def __init__(self, address: str, security: Security | None, direct: bool | None) -> None:
        let_dask_draw_apart()
        self.loop = asyncio.new_event_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._drive, name="flsim-dask", daemon=True)
        self._thread.start()
        try:
            self.client = self.call(self._connect(address, security, direct))
        except BaseException:
            self._end()
            raise
        self._stream = self.client.scheduler_comm
        if hasattr(self._stream, "interval"):  # not documented: Dask holds messages back for 10 ms, which we need not
            self._stream.interval = 0.0005

    @property
    def alive(self) -> bool:
        """Whether the scheduler is still there, and the same: Dask's client connects again, to whoever it is."""
        return self.client.status == "running" and self.client.scheduler_comm is self._stream

    def call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run this on the loop, and wait for its result. To be called from other threads."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result()

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run this on the loop. To be called there."""
        task = self.loop.create_task(coroutine)
        self._tasks.add(task)  # since the loop holds tasks weakly
        task.add_done_callback(self._tasks.discard)
        return task

    def call_soon(self, callback: Callable[[], object]) -> None:
        """Have the loop call this, from whatever thread, unless it has ended."""
        with contextlib.suppress(RuntimeError):  # that it is closed
            self.loop.call_soon_threadsafe(callback)

    async def ahead(self, arrays: list[Any], address: str) -> Any:
        """Send arrays to a worker. Returns the Dask future that keeps them there."""
        (future,) = await self.client.scatter([arrays], workers=[address], hash=False)
        return future

    def close(self) -> None:
        """Close the client, and end the thread."""
        try:
            self.call(self._disconnect())
        finally:
            self._end()

    async def _connect(self, address: str, security: Security | None, direct: bool | None) -> Any:
        return await Client(  # type: ignore[no-untyped-call]  # distributed is typed in part
            address,
            security=security,
            direct_to_workers=direct,
            name="flsim",
            timeout=PATIENCE,
            connection_limit=CONNECTIONS,
            asynchronous=True,
            set_as_default=False,
        )

    async def _disconnect(self) -> None:
        # A client that has lost its scheduler logs how it tries to find it again. That it is lost is said elsewhere.
        with contextlib.nullcontext() if self.alive else silence_logging_cmgr(logging.CRITICAL):
            await self.client.close()

    def _drive(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self.loop) as runner:  # which cancels what is left, and closes it
            runner.get_loop().run_forever()

    def _end(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()

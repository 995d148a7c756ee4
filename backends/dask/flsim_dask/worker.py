"""What runs in Dask's own processes. The scheduler imports this module, too, so it imports nothing of size."""

from __future__ import annotations

import os
import signal
import threading
from typing import Any

# A worker may have several threads, and several runs may use it at the same time.
_ONE_AT_A_TIME = threading.Lock()


def run(address: str, small: list[bytes | None], *large: bytes) -> list[bytes]:
    """Run a lease, in a worker.

    Args:
        address: the worker's, as the scheduler knows it.
        small: the header and the buffers of the lease, in order; None stands for a large one.
        large: the large ones, in order.

    Returns:
        The header and the buffers of the reply.
    """
    from distributed import get_worker
    from distributed.utils import sync

    from flsim.payload import Frames
    from flsim.worker import run_lease

    left = iter(large)
    header, *buffers = [next(left) if part is None else part for part in small]
    worker = get_worker()
    with _ONE_AT_A_TIME:
        # This tells the driver that the lease has begun. The scheduler's answer is waited for, since a ClientApp may
        # end this process before a message that is only queued has left it.
        sync(worker.loop, worker.scheduler.log_event, topic=address, msg=worker.get_current_task())
        reply = run_lease(Frames(header, list(buffers)))
    return [reply.header, *map(bytes, reply.buffers)]


def kill(address: str, dask_worker: Any) -> None:
    """Kill the worker at ``address``. Runs in its nanny, which Dask passes as ``dask_worker``."""
    if dask_worker.worker_address == address and dask_worker.pid is not None:
        os.kill(dask_worker.pid, signal.SIGKILL)

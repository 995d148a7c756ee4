"""What runs in Dask's own processes. The scheduler imports this module, too, so it imports nothing of size."""

from __future__ import annotations

import contextlib
import pickle
import random
import sys
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flsim.payload import Frames
    from flsim.pickling import Buffer

# A worker may have several threads, and several runs may use it at the same time.
_ONE_AT_A_TIME = threading.Lock()
_at_work: set[str] = set()
"""The key of the lease that this process is at."""


DRAWING = ("dask.sizeof", "distributed.comm.core", "distributed.utils_comm", "tornado.ioloop")
"""Modules of Dask's event loop that draw from the module ``random`` at any moment: to sample what a list weighs, with
each message that has more than ten parts; which worker to ask; how long to wait."""


def let_dask_draw_apart() -> None:
    """Give these modules a generator of their own, in this process. ``random`` is the apps', and what they draw from
    it has to repeat."""
    for name in DRAWING:
        module: Any = sys.modules.get(name)
        if getattr(module, "random", None) is random:
            module.random = random.Random()


def run(lease: bytes, *ahead: list[Any]) -> list[Any]:
    """Run a lease, as a task.

    Args:
        lease: a pickle of the worker's address, as the scheduler knows it; the lease's key; the header and the buffers
            of the lease, in order, where None stands for what was sent ahead; and None.
        ahead: what was sent ahead: the buffers of each, in order, as arrays.

    Returns:
        Whether this worker has outgrown its share, then the header of the reply, and its buffers as arrays.
    """
    reply = _run(lease, ahead)
    return [reply.outgrown, reply.header, *map(as_array, reply.buffers)]


class Runner:
    """Runs leases in a worker of a cluster of this host: an actor, which the driver calls straight, past the scheduler.
    What is large goes there and back in shared memory."""

    def run(self, lease: bytes) -> bytes:
        """As :func:`run`, where the last of the lease says where in shared memory the replies go. Returns a pickle, of
        places there where the buffers are there. That this worker cannot be reached is an OSError for who calls, so no
        other is raised here."""
        from flsim.envelope import describe
        from flsim.errors import BackendBroken

        try:
            reply = _run(lease, ())
        except OSError as e:
            raise BackendBroken(f"a worker of the local Dask cluster cannot run a lease: {describe(e)}") from e
        return pickle.dumps((reply.outgrown, reply.header, *reply.buffers))


def _run(lease: bytes, ahead: Sequence[list[Any]]) -> Frames:
    from distributed import get_worker
    from distributed.utils import sync

    from flsim.payload import Frames, copies_but_last
    from flsim.segments import Replies, arrived
    from flsim.worker import run_lease

    address, key, parts, replies = pickle.loads(lease)
    left = iter(ahead)
    arguments: list[Any] = []
    for part in parts:
        arguments += [memoryview(array).toreadonly() for array in next(left)] if part is None else arrived([part])
    header, *buffers = arguments
    kept = None if replies is None else Replies(replies)
    keep = copies_but_last if kept is None else kept.keep
    let_dask_draw_apart()
    worker = get_worker()
    with _ONE_AT_A_TIME:
        _at_work.add(key)
        try:
            if kept is None or not kept.begin():
                # This, too, tells the driver that the lease has begun. The scheduler's answer is waited for, since a
                # ClientApp may end this process before a message that is only queued has left it.
                sync(worker.loop, worker.scheduler.log_event, topic=address, msg=key)
            return run_lease(Frames(header, buffers), keep)
        finally:
            _at_work.discard(key)


def as_array(buffer: Buffer) -> Any:
    """``buffer`` as an array, which Dask sends without a copy where it can, by whatever way it goes."""
    import numpy as np

    return np.frombuffer(buffer, np.uint8)


def is_at(key: str) -> bool:
    """Whether this worker has begun the lease that has this key, and not ended it."""
    return key in _at_work


def kill(address: str, dask_worker: Any) -> None:
    """Kill the worker at ``address``, with what its ClientApp has started. Runs in its nanny, which Dask passes as
    ``dask_worker``."""
    import psutil

    if dask_worker.worker_address != address or dask_worker.pid is None:
        return  # it is gone already
    worker = psutil.Process(dask_worker.pid)
    for process in (worker, *worker.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()

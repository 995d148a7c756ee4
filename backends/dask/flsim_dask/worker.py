"""What runs in Dask's own processes. The scheduler imports this module, too, so it imports nothing of size."""

from __future__ import annotations

import contextlib
import pickle
import random
import sys
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flsim.pickling import Buffer

# A worker may have several threads, and several runs may use it at the same time.
_ONE_AT_A_TIME = threading.Lock()
_at_work: set[str] = set()
"""The key of the task whose lease this process is at."""


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


def run(address: str, lease: bytes, *ahead: list[Any]) -> list[Any]:
    """Run a lease, in a worker.

    Args:
        address: the worker's, as the scheduler knows it.
        lease: a pickle of two: the header and the buffers of the lease, in order, where None stands for what was sent
            ahead; and where in shared memory the replies go, or None.
        ahead: what was sent ahead: the buffers of each, in order, as arrays.

    Returns:
        Whether this worker has outgrown its share, then the header of the reply, and its buffers as arrays, or where
        in shared memory they are.
    """
    from distributed import get_worker
    from distributed.utils import sync

    from flsim.payload import Frames, copies_but_last
    from flsim.segments import Replies, arrived
    from flsim.worker import run_lease

    parts, replies = pickle.loads(lease)
    left = iter(ahead)
    arguments: list[Any] = []
    for part in parts:
        arguments += [memoryview(array).toreadonly() for array in next(left)] if part is None else arrived([part])
    header, *buffers = arguments
    kept = None if replies is None else Replies(replies)
    keep = copies_but_last if kept is None else kept.keep
    let_dask_draw_apart()
    worker = get_worker()
    key = str(worker.get_current_task())
    with _ONE_AT_A_TIME:
        _at_work.add(key)
        try:
            if kept is None or not kept.begin():
                # This, too, tells the driver that the lease has begun. The scheduler's answer is waited for, since a
                # ClientApp may end this process before a message that is only queued has left it.
                sync(worker.loop, worker.scheduler.log_event, topic=address, msg=key)
            reply = run_lease(Frames(header, buffers), keep)
        finally:
            _at_work.discard(key)
    back = [b if isinstance(b, tuple) else as_array(b) for b in reply.buffers]
    return [reply.outgrown, reply.header, *back]


def as_array(buffer: Buffer) -> Any:
    """``buffer`` as an array, which Dask sends without a copy where it can, by whatever way it goes."""
    import numpy as np

    return np.frombuffer(buffer, np.uint8)


def is_at(key: str) -> bool:
    """Whether this worker has begun the lease whose task has this key, and not ended it."""
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

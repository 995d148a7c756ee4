"""What runs in Ray's workers. It goes there by value: their hosts need flsim-engine, and not this package."""

from __future__ import annotations

import pickle
import signal
from collections.abc import Sequence
from typing import Any

from flsim.errors import AppLoadError
from flsim.job import prepare
from flsim.payload import Frames, copies_but_last
from flsim.pickling import Buffer
from flsim.worker import run_lease

LARGE = 100_000
"""Bytes from which Ray keeps a value in its object store, where it is read in place."""

CALLS = 2**31 - 1
"""Leases after which a worker ends, as its task's ``max_calls``: more than there are, and the way to end one early."""

Reply = tuple[bytes, list[Any]]
"""A header, and its buffers as :func:`out_of_band` gives them."""


def run(header: bytes, buffers: list[Any], *shared: list[Any]) -> Reply:
    """Run a lease.

    Args:
        header: of its frames.
        buffers: of its frames, as :func:`out_of_band` gives them; None stands for what is shared.
        shared: the buffers of each, in order. Ray has them here before it begins the task.
    """
    end_at_sigterm()
    left = iter(shared)
    parts = [b for buffer in buffers for b in (next(left) if buffer is None else (buffer,))]
    frames = run_lease(Frames(header, in_place(parts)), copies_but_last)
    if frames.outgrown:
        _end_after_this()
    return frames.header, [out_of_band(b) for b in frames.buffers]


def end_at_sigterm() -> None:
    """Have SIGTERM end this process, as any other worker's. Ray's handler raises SystemExit in whatever runs: in the
    app's code, whose error it would be taken for. A handler of the app's own stays."""
    if getattr(signal.getsignal(signal.SIGTERM), "__module__", "").startswith("ray."):
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _end_after_this() -> None:
    """Have Ray end this process when the task is done, and its result has gone. There is no public way, so Ray's count
    of the calls is set such that this is the last; without that count, the process stays."""
    from ray._private.worker import global_worker

    calls = getattr(global_worker.function_actor_manager, "_num_task_executions", {})
    for function in calls:
        calls[function] = CALLS - 1


def load(job: bytes) -> None:
    """Load the apps, ahead of the first lease."""
    end_at_sigterm()
    try:
        prepare(job)
    except AppLoadError:
        return  # the first lease meets it again, and reports it


def out_of_band(buffer: Buffer) -> Any:
    """``buffer`` such that Ray copies a large one once, into its object store. The small ones stay beside the header: a
    view of one would hold all that came with it in the store."""
    return pickle.PickleBuffer(buffer) if len(buffer) >= LARGE else bytes(buffer)


def in_place(buffers: Sequence[Any]) -> list[Buffer]:
    """What :func:`out_of_band` gave, on the other side: the large ones are read-only views of the object store."""
    return [b if isinstance(b, bytes) else memoryview(b).toreadonly() for b in buffers]

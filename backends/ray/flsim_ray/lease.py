"""What runs in Ray's workers. It goes there by value: their hosts need flsim-engine, and not this package."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from typing import Any

from flsim.errors import AppLoadError
from flsim.job import prepare
from flsim.payload import Buffer, Frames
from flsim.worker import run_lease

LARGE = 100_000
"""Bytes from which Ray keeps a value in its object store, where it is read in place."""

CALLS = 2**31 - 1
"""Leases after which a worker ends, as its task's ``max_calls``: more than there are, and the way to end one early."""

Reply = tuple[bytes, list[Any]]
"""A header, and its buffers as :func:`out_of_band` gives them."""


def run(header: bytes, buffers: list[Any]) -> Reply:
    """Run a lease.

    Args:
        header: of its frames.
        buffers: of its frames, as :func:`out_of_band` gives them.
    """
    frames = run_lease(Frames(header, in_place(buffers)))
    if frames.outgrown:
        _end_after_this()
    return frames.header, out_of_band(frames.buffers)


def _end_after_this() -> None:
    """Have Ray end this process when the task is done, and its result has gone. There is no public way, so Ray's count
    of the calls is set such that this is the last; without that count, the process stays."""
    from ray._private.worker import global_worker

    calls = getattr(global_worker.function_actor_manager, "_num_task_executions", {})
    for function in calls:
        calls[function] = CALLS - 1


def load(job: bytes) -> None:
    """Load the apps, ahead of the first lease."""
    try:
        prepare(job)
    except AppLoadError:
        return  # the first lease meets it again, and reports it


def out_of_band(buffers: Sequence[Buffer]) -> list[Any]:
    """``buffers`` such that Ray copies the large ones once, into its object store. The small ones stay beside the
    header: a view of one would hold all that came with it in the store."""
    return [pickle.PickleBuffer(b) if len(b) >= LARGE else bytes(b) for b in buffers]


def in_place(buffers: Sequence[Any]) -> list[Buffer]:
    """What :func:`out_of_band` gave, on the other side: the large ones are read-only views of the object store."""
    return [b if isinstance(b, bytes) else memoryview(b) for b in buffers]

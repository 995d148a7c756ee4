"""What runs in Ray's workers. It goes there by value: their hosts need flsim-engine, and not this package."""

from __future__ import annotations

import os
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flsim.errors import AppLoadError
from flsim.job import prepare
from flsim.payload import Buffer, Frames
from flsim.worker import run_lease

LARGE = 100_000
"""Bytes from which Ray keeps a value in its object store, where it is read in place."""

Reply = tuple[bytes, list[Any], bool]
"""A header, its buffers as :func:`out_of_band` gives them, and whether this worker could have left a mark."""


def run(header: bytes, buffers: list[Any], mark: str) -> Reply:
    """Run a lease.

    Args:
        header: of its frames.
        buffers: of its frames, as :func:`out_of_band` gives them.
        mark: a file that is there while the lease runs, if its folder, the driver's own, is in reach.
    """
    marks = os.access(Path(mark).parent, os.W_OK)
    frames = run_lease(Frames(header, in_place(buffers)), mark if marks else None)
    if marks:
        Path(mark).unlink()
    return frames.header, out_of_band(frames.buffers), marks


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

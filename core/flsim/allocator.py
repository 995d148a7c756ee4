"""The memory that a worker process has freed stays its own, for the next message's arrays.

By default glibc gives a large block back to the system when it is freed, and takes another for the next array: each of
its pages then costs a fault, which takes longer than to fill it. A worker makes arrays of the same sizes for message
after message.
"""

from __future__ import annotations

import ctypes
import functools

KEPT = 256 * 1024**2
"""Bytes of freed memory that a process keeps at most, and the size from which a block is given back at once."""

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt(3)


@functools.cache
def keep_freed_memory() -> None:
    """From now on, in this process. Where the allocator is not glibc's nothing changes."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt.argtypes = [ctypes.c_int, ctypes.c_int]
    # Both, or neither: a threshold that is set is no longer adapted by glibc itself.
    if mallopt(_MMAP_THRESHOLD, KEPT):
        mallopt(_TRIM_THRESHOLD, KEPT)

"""Pages of Ray's object store that lie in the driver's memory, too."""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Sequence
from typing import Any

_madvise = ctypes.CDLL(None, use_errno=True).madvise
_madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


def let_go(buffers: Sequence[Any]) -> None:
    """Take buffers of the object store out of this process's memory, to which they count as soon as they were written
    or read here. They stay in the store, and come back when they are touched.

    A Python mmap offers this, but the mapping is Ray's own.

    Raises:
        OSError: the system refused.
    """
    import numpy as np

    page = mmap.PAGESIZE
    for buffer in buffers:
        array = np.frombuffer(buffer, np.uint8)
        first = -(-array.ctypes.data // page) * page
        size = (array.ctypes.data + array.nbytes) // page * page - first
        if size > 0 and _madvise(first, size, mmap.MADV_DONTNEED):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), "madvise")

"""Bytes: how content is encoded, and the Frames in which a lease travels.

Arrays leave the pickle out of band (protocol 5), so they are copied once, where content is encoded, and are
read in place where it is decoded.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from flsim.envelope import describe
from flsim.records import RecordDict

Buffer = bytes | bytearray | memoryview

INLINE = 4096
"""Arrays below this many bytes stay in the pickle: a frame of their own would cost more than the copy."""


@dataclass(slots=True)
class Frames:
    """What passes between the engine and a worker: a short header, and the buffers beside it.

    A backend carries both, in order, and looks into neither. Who joins them into one ``bytes`` has copied
    the model.
    """

    header: bytes
    buffers: list[Buffer]
    outgrown: bool = False
    """Of a reply: the worker has grown, and is to be replaced before its next lease."""


class Blob(NamedTuple):
    """Encoded content: a pickle, and its out-of-band buffers in order."""

    pickled: bytes
    buffers: tuple[Buffer, ...]

    @property
    def nbytes(self) -> int:
        """The size of all of it."""
        return len(self.pickled) + sum(memoryview(b).nbytes for b in self.buffers)


EMPTY = Blob(b"", ())
"""A node state that holds nothing."""


class Encoder:
    """Encodes the contents of one push: what several of them carry, by identity, is encoded once.

    Use one Encoder only while nothing changes what it encodes: it takes memory that it has seen for unchanged.
    """

    def __init__(self) -> None:
        self._blobs: dict[int, tuple[Any, Blob]] = {}
        self._copies: dict[tuple[int, int], tuple[memoryview, bytes]] = {}

    def encode(self, content: Any) -> Blob:
        """Encode ``content``, copying its buffers. Raises whatever its pickling raises."""
        known = self._blobs.get(id(content))
        if known is not None:
            return known[1]
        blob = encode(content, self._copy)
        self._blobs[id(content)] = (content, blob)  # holding the content keeps its id its own
        return blob

    def _copy(self, raw: memoryview) -> bytes:
        key = (_address(raw), raw.nbytes)
        known = self._copies.get(key)
        if known is None:
            known = self._copies[key] = raw, bytes(raw)  # holding the memory keeps its address its own
        return known[1]


def encode(content: Any, copy: Callable[[memoryview], Buffer] = bytes) -> Blob:
    """Encode ``content``: records by pickle, anything else by cloudpickle (so that what a script's
    ``__main__`` defines goes by value).

    Args:
        copy: takes the memory of an array and returns what stands for it in the Blob.
    """
    buffers: list[Buffer] = []

    def out_of_band(buffer: pickle.PickleBuffer) -> bool:
        raw = buffer.raw()
        if raw.nbytes < INLINE:
            return True
        buffers.append(copy(raw))
        return False

    if type(content) is RecordDict:
        pickled = pickle.dumps(content, protocol=5, buffer_callback=out_of_band)
    else:
        import cloudpickle

        pickled = cloudpickle.dumps(content, protocol=5, buffer_callback=out_of_band)
    return Blob(pickled, tuple(buffers))


def decode(pickled: bytes, buffers: list[Buffer] | tuple[Buffer, ...]) -> Any:
    """Decode content. Its arrays are read-only views of ``buffers``. Raises whatever unpickling raises."""
    return pickle.loads(pickled, buffers=buffers)


def unencodable(content: Any, error: BaseException) -> str:
    """Name the part of ``content`` that raised ``error`` on encoding, as far as it can be told."""
    where = type(content).__name__
    parts = dict(content) if isinstance(content, (dict, RecordDict)) else {}
    for key, value in parts.items():
        try:
            encode(value)
        except BaseException as e:  # whatever a user's __reduce__ raises; it is what we look for
            return f"{where}[{key!r}] ({type(value).__name__}) cannot be encoded: {describe(e)}"
    return f"{where} cannot be encoded: {describe(error)}"


def _address(raw: memoryview) -> int:
    import numpy as np

    return int(np.frombuffer(raw, np.uint8).__array_interface__["data"][0])

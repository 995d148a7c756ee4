"""Flower's Array: over memory that is not its own, and made by one copy."""

from __future__ import annotations

import functools
import io
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from flwr.app import Array

if TYPE_CHECKING:
    from numpy.typing import NDArray

NUMPY = "numpy.ndarray"
"""The serialization of Arrays that hold what :func:`numpy.save` writes."""

HEADER = 4096
"""Bytes in which the header of all but very odd dtypes lies."""


class MappedArray(Array):
    """An Array whose bytes lie in shared memory, or wherever else they arrived.

    ``numpy()`` copies from there, once, into an array of its own, since apps write into what they get. ``data`` makes
    the ``bytes`` when somebody asks for them. In all else it is an Array: Flower knows it by its type, its fields and
    the name of its class.
    """

    @classmethod
    def over(cls, dtype: str, shape: tuple[int, ...], stype: str, raw: NDArray[np.uint8]) -> MappedArray:
        """One whose bytes are ``raw``."""
        made = cls.__new__(cls)
        # Past Array's __setattr__, which is for those who change one.
        made.__dict__.update(dtype=dtype, shape=shape, stype=stype, _raw=raw)
        return made

    @property
    def data(self) -> bytes:
        """The bytes, copied the first time."""
        here = self.__dict__
        raw = here.get("_raw")
        if raw is not None and "data" not in here:
            here["data"] = raw.tobytes()
            here.pop("_raw", None)  # afterwards: another thread may look for either
        return cast("bytes", here["data"])

    @data.setter
    def data(self, value: bytes) -> None:
        self.__dict__.pop("_raw", None)
        self.__dict__["data"] = value

    def numpy(self) -> Any:
        """What :func:`numpy.load` makes of the bytes: writable, and the caller's own."""
        raw = self.__dict__.get("_raw")
        if raw is None or self.stype != NUMPY or (view := _loaded(raw)) is None:
            return super().numpy()
        return view.copy(order="K")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Array):
            return NotImplemented
        mine = (self.dtype, self.shape, self.stype, self.data)
        return mine == (other.dtype, other.shape, other.stype, other.data)

    __hash__ = None  # type: ignore[assignment]  # as Array's

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return Array, (self.dtype, tuple(self.shape), self.stype, self.data)


MappedArray.__qualname__ = Array.__qualname__  # which Flower hashes into an object's id


def raw_of(array: Array) -> NDArray[np.uint8]:
    """The bytes of an Array, as a view that is not copied."""
    raw = array.__dict__.get("_raw")
    return np.frombuffer(array.data, np.uint8) if raw is None else raw


@functools.cache
def make_arrays_fast() -> None:
    """From now on, in this process, have Arrays made of numpy's by one copy. To write into a growing file in memory, as
    :func:`numpy.save` does for Flower, takes twenty times as long; the bytes are the same."""
    original = Array.from_numpy_ndarray

    @functools.wraps(original)
    def from_numpy_ndarray(ndarray: Any) -> Array:
        if type(ndarray) is not np.ndarray or not ndarray.flags.c_contiguous or not ndarray.size:
            return original(ndarray)
        if ndarray.dtype.kind not in "biufc":
            return original(ndarray)
        head = io.BytesIO()
        np.lib.format.write_array_header_1_0(head, np.lib.format.header_data_from_array_1_0(ndarray))
        data = b"".join((head.getvalue(), ndarray.reshape(-1).view(np.uint8).data))
        return Array(str(ndarray.dtype), ndarray.shape, NUMPY, data)

    setattr(Array, "from_numpy_ndarray", staticmethod(from_numpy_ndarray))  # noqa: B010  # mypy knows it as a method


def values_of(array: Array) -> NDArray[Any]:
    """What an Array holds, as numpy's, and nowhere else; its bytes where numpy does not read them."""
    try:
        return array.numpy()
    except (TypeError, ValueError, EOFError, OSError):
        return np.frombuffer(array.data, np.uint8)


def _loaded(raw: NDArray[np.uint8]) -> NDArray[Any] | None:
    """A view of what :func:`numpy.save` has written; None where :func:`numpy.load` has to look at it."""
    head = io.BytesIO(raw[:HEADER].tobytes())
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    try:
        shape, fortran, dtype = read[np.lib.format.read_magic(head)](head)
    except (KeyError, ValueError):
        return None
    count = int(np.prod(shape, dtype=np.int64))
    if dtype.hasobject or not count * dtype.itemsize or head.tell() + count * dtype.itemsize != raw.nbytes:
        return None
    flat = np.frombuffer(raw, dtype, count, head.tell())
    return flat.reshape(shape[::-1]).transpose() if fortran else flat.reshape(shape)

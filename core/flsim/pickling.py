"""Pickles whose bytes lie beside them: arrays, large ``bytes``, and the tensors of torch."""

from __future__ import annotations

import io
import pickle
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from flsim.envelope import describe
from flsim.records import ConfigRecord, RecordDict

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Buffer = bytes | bytearray | memoryview

INLINE = 4096
"""Arrays and ``bytes`` of fewer bytes stay in the pickle: a buffer of their own would cost more than the copy."""

_REFERS = b"\0"
"""Begins what :func:`encode` gives where its ``bytes`` are out of band; a pickle alone begins otherwise."""


def encode(content: Any) -> tuple[bytes, list[memoryview]]:
    """Encode ``content``: records by pickle, anything else by cloudpickle (so that what a script's ``__main__`` defines
    goes by value).

    Returns:
        The pickle, and the memory of what lies beside it, in order and not copied: it is the content's own. Nothing
        in it is shorter than :data:`INLINE`.

    Raises whatever the pickling raises.
    """
    beside: list[memoryview] = []
    if type(content) is RecordDict and not _has_large_bytes(content):
        return pickle.dumps(content, protocol=5, buffer_callback=_taking(beside)), beside
    pickler = _pickler()(beside)
    pickled = pickler.pickled(content)
    if pickler.texts:
        return _REFERS + pickled, [*beside, *(memoryview(text) for text in reversed(pickler.texts))]
    return pickled, beside


def decode(pickled: bytes, buffers: Sequence[Buffer]) -> Any:
    """Decode content. Its arrays are views of ``buffers``, read-only where those are. Raises whatever unpickling
    raises."""
    if pickled[0]:
        return pickle.loads(pickled, buffers=buffers)
    return _Unpickler(pickled[1:], buffers).load()


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


def _taking(beside: list[memoryview]) -> Any:
    def out_of_band(buffer: pickle.PickleBuffer) -> bool:
        raw = buffer.raw()
        if raw.nbytes < INLINE:
            return True
        beside.append(raw)
        return False

    return out_of_band


def _has_large_bytes(content: RecordDict) -> bool:
    for record in content.values():
        if type(record) is ConfigRecord:
            for value in record.values():
                if type(value) is bytes:
                    if len(value) >= INLINE:
                        return True
                elif type(value) is list and any(type(v) is bytes and len(v) >= INLINE for v in value):
                    return True
    return False


_made: type[Any] | None = None


def _pickler() -> type[Any]:
    """The class of :func:`_make_pickler`: made when it is needed, since cloudpickle takes a while to import."""
    global _made
    if _made is None:
        _made = _make_pickler()
    return _made


def _make_pickler() -> type[Any]:
    import cloudpickle

    class Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # cloudpickle is not typed
        """Pickles anything, and leaves out what is large: buffers go to ``beside``, ``bytes`` to ``texts``."""

        def __init__(self, beside: list[memoryview]) -> None:
            self._file = io.BytesIO()
            super().__init__(self._file, protocol=5, buffer_callback=_taking(beside))
            self.texts: list[bytes] = []
            self._at: dict[int, int] = {}

        def pickled(self, content: Any) -> bytes:
            self.dump(content)
            return self._file.getvalue()

        def persistent_id(self, obj: Any) -> int | None:
            if type(obj) is not bytes or len(obj) < INLINE:
                return None
            at = self._at.get(id(obj))
            if at is None:
                at = self._at[id(obj)] = len(self.texts)
                self.texts.append(obj)  # which keeps its id its own
            return at

        def reducer_override(self, obj: Any) -> Any:
            torch = sys.modules.get("torch")
            if torch is not None and type(obj) is torch.Tensor and _is_plain(torch, obj):
                flat = obj.detach().contiguous().reshape(-1).view(torch.uint8).numpy()
                return _tensor, (flat, obj.dtype, tuple(obj.shape), obj.requires_grad)
            return super().reducer_override(obj)

    return Pickler


class _Unpickler(pickle.Unpickler):
    def __init__(self, pickled: bytes, buffers: Sequence[Buffer]) -> None:
        super().__init__(io.BytesIO(pickled), buffers=buffers)
        self._buffers = buffers

    def persistent_load(self, pid: Any) -> bytes:
        buffer = self._buffers[-1 - pid]
        return buffer if isinstance(buffer, bytes) else bytes(buffer)


def _is_plain(torch: Any, tensor: Any) -> bool:
    """Whether its values are all that there is to a tensor."""
    return (
        tensor.layout == torch.strided
        and tensor.device.type == "cpu"
        and tensor.is_leaf
        and not tensor.is_quantized
        and not tensor.is_conj()
        and not tensor.is_neg()
        and not tensor._backward_hooks
        and not vars(tensor)
    )


def _tensor(flat: NDArray[np.uint8], dtype: Any, shape: tuple[int, ...], requires_grad: bool) -> Any:
    """A tensor of its own memory: torch knows none that is read-only."""
    import torch

    values = torch.frombuffer(bytearray(flat), dtype=dtype) if flat.size else torch.empty(0, dtype=dtype)
    return values.reshape(shape).requires_grad_(requires_grad)

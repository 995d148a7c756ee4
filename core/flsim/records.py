"""RecordDict and its three kinds of record: what messages carry and what nodes keep.

The names and their meaning are Flower's (``flwr.app.RecordDict``). Arrays are numpy's: reading one gives it
read-only and uncopied; ``to_numpy_ndarrays`` and ``to_torch_state_dict`` give copies to write into.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, cast

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[Any]

V = TypeVar("V")
R = TypeVar("R", bound="ArrayRecord | MetricRecord | ConfigRecord")


class _Record(MutableMapping[str, V]):
    """A dict from str to values of a checked type."""

    __slots__ = ("_items",)

    def __init__(self, items: Mapping[str, Any] | None = None) -> None:
        self._items: dict[str, V] = {}
        if items is not None:
            for key in items:
                self[key] = items[key]

    def _checked(self, key: str, value: Any) -> V:
        raise NotImplementedError

    def __getitem__(self, key: str) -> V:
        return self._items[key]

    def __setitem__(self, key: str, value: Any) -> None:
        if not isinstance(key, str):
            raise TypeError(f"{type(self).__name__} keys are str, not {type(key).__name__}: {key!r}")
        self._items[key] = self._checked(key, value)

    def __delitem__(self, key: str) -> None:
        del self._items[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._items!r})"

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and self._items == other._items

    __hash__ = None  # type: ignore[assignment]  # as of any mutable mapping

    def copy(self) -> Any:
        """A record of its own with the same values (arrays are read-only, so they are shared)."""
        return _restore(
            type(self), {k: v.copy() if isinstance(v, (list, _Record)) else v for k, v in self._items.items()}
        )

    __copy__ = copy

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (type(self), self._items)


class ArrayRecord(_Record["Array"]):
    """Names to numpy arrays, in order: a model's weights, or whatever else is an array.

    Takes a mapping from names to arrays (a torch state dict is one), or a sequence of arrays, named "0",
    "1", … in order. Arrays are kept as read-only views of what was given, without a copy; tensors are copied.

    Raises:
        TypeError: a value is not an array, or holds Python objects.
    """

    __slots__ = ()

    def __init__(self, arrays: Mapping[str, Any] | Sequence[Any] | None = None) -> None:
        if arrays is not None and not isinstance(arrays, Mapping):
            if not isinstance(arrays, (list, tuple)):
                raise TypeError(f"arrays are a mapping from names, or a list, not {type(arrays).__name__}")
            arrays = {str(i): a for i, a in enumerate(arrays)}
        super().__init__(arrays)

    def _checked(self, key: str, value: Any) -> Array:
        import numpy as np

        if hasattr(value, "detach"):  # a torch tensor; torch itself is not imported for it
            try:
                value = value.detach().cpu().numpy().copy()  # a state dict is the live weights
            except TypeError as e:
                raise TypeError(f"array {key!r}: {e}; convert it to a dtype that numpy has") from None
        if not isinstance(value, (np.ndarray, np.generic)):
            raise TypeError(f"array {key!r} is a numpy array or a torch tensor, not {type(value).__name__}")
        if type(value).__module__.startswith("numpy.ma"):
            raise TypeError(f"array {key!r} is masked; fill its gaps, for the mask would be lost")
        array = np.asarray(value)
        if array.dtype.hasobject:
            raise TypeError(f"array {key!r} has dtype {array.dtype}; Python objects cannot be sent as an array")
        return _read_only(array)

    @classmethod
    def from_numpy_ndarrays(cls, arrays: Iterable[Array]) -> ArrayRecord:
        """A record of ``arrays``, named "0", "1", … in order."""
        return cls(list(arrays))

    @classmethod
    def from_torch_state_dict(cls, state_dict: Mapping[str, Any]) -> ArrayRecord:
        """A record of a torch ``state_dict``, each tensor under its name."""
        return cls(state_dict)

    def __eq__(self, other: object) -> bool:
        import numpy as np

        return (
            isinstance(other, ArrayRecord)
            and list(self) == list(other)
            and all(a.dtype == other[k].dtype and np.array_equal(a, other[k]) for k, a in self.items())
        )

    __hash__ = None  # as of any mutable mapping

    def to_numpy_ndarrays(self, *, copy: bool = True) -> list[Array]:
        """The arrays in order: copies to write into, or with ``copy=False`` read-only views."""
        return [a.copy() if copy else a for a in self._items.values()]

    def to_torch_state_dict(self, *, copy: bool = True) -> dict[str, Any]:
        """Names to torch tensors: copies, or with ``copy=False`` views that must not be written to."""
        import torch

        with warnings.catch_warnings():
            # torch warns of each tensor that shares read-only memory: it is what copy=False asks for.
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            return {k: torch.from_numpy(a.copy() if copy else a) for k, a in self._items.items()}


class MetricRecord(_Record["int | float | list[int] | list[float]"]):
    """Names to numbers, or to lists of numbers.

    Raises:
        TypeError: a value is no int, float, or list of them (numpy's scalars are converted).
    """

    __slots__ = ()

    def _checked(self, key: str, value: Any) -> int | float | list[int] | list[float]:
        if type(value) is float or type(value) is int:
            return value
        if isinstance(value, (list, tuple)):
            return [_number(key, v) for v in value]
        return _number(key, value)


Scalar = bool | int | float | str | bytes
_SCALARS = frozenset((bool, int, float, str, bytes))


class ConfigRecord(_Record["Scalar | list[Scalar]"]):
    """Names to bool, int, float, str, bytes, or to lists of them.

    Raises:
        TypeError: a value is of another type.
    """

    __slots__ = ()

    def _checked(self, key: str, value: Any) -> Scalar | list[Scalar]:
        if type(value) in _SCALARS:
            return cast("Scalar", value)
        if isinstance(value, (list, tuple)):
            scalars = [plain(v) for v in value]
            if all(type(v) in _SCALARS for v in scalars):
                return scalars
        elif type(scalar := plain(value)) in _SCALARS:
            return cast("Scalar", scalar)
        raise TypeError(
            f"config {key!r} is a bool, int, float, str, bytes or a list of them, not {type(value).__name__}"
        )


class RecordDict(_Record[Any]):
    """Names to records: the content of a message, or the state of a node.

    Raises:
        TypeError: a value is not an ArrayRecord, MetricRecord or ConfigRecord.
    """

    __slots__ = ()

    def _checked(self, key: str, value: Any) -> Any:
        if type(value) in _NUMBER:
            return value
        raise TypeError(f"record {key!r} is an ArrayRecord, MetricRecord or ConfigRecord, not {type(value).__name__}")

    def __reduce__(self) -> tuple[Any, ...]:
        # The records inside go as plain dicts: a call of __reduce__ for each would double the time.
        return _restore_record_dict, ({k: (_NUMBER[type(r)], r._items) for k, r in self._items.items()},)

    @property
    def array_records(self) -> MutableMapping[str, ArrayRecord]:
        """The ArrayRecords, by name; what is put in there is put in here."""
        return _View(self, ArrayRecord)

    @property
    def metric_records(self) -> MutableMapping[str, MetricRecord]:
        """The MetricRecords, by name; what is put in there is put in here."""
        return _View(self, MetricRecord)

    @property
    def config_records(self) -> MutableMapping[str, ConfigRecord]:
        """The ConfigRecords, by name; what is put in there is put in here."""
        return _View(self, ConfigRecord)


class _View(MutableMapping[str, R]):
    """The records of one kind in a RecordDict."""

    __slots__ = ("_all", "_kind")

    def __init__(self, all_: RecordDict, kind: type[R]) -> None:
        self._all = all_
        self._kind = kind

    def __getitem__(self, key: str) -> R:
        record = self._all[key]
        if type(record) is not self._kind:
            raise KeyError(key)
        return record

    def __setitem__(self, key: str, value: R) -> None:
        if type(value) is not self._kind:
            raise TypeError(f"record {key!r} is a {self._kind.__name__} here, not {type(value).__name__}")
        self._all[key] = value

    def __delitem__(self, key: str) -> None:
        self[key]
        del self._all[key]

    def __iter__(self) -> Iterator[str]:
        return (k for k, r in self._all.items() if type(r) is self._kind)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __repr__(self) -> str:
        return repr(dict(self))


def plain(value: Any) -> Any:
    """``value``, or where it is a scalar of numpy's, or of another library that has arrays, Python's own."""
    item = getattr(value, "item", None)
    return item() if callable(item) and getattr(value, "ndim", 1) == 0 else value


def _number(key: str, value: Any) -> int | float:
    value = plain(value)
    if type(value) is float or type(value) is int:
        return value
    raise TypeError(f"metric {key!r} is an int, a float or a list of them, not {type(value).__name__}: {value!r}")


def _read_only(array: Array) -> Array:
    view: np.ndarray[Any, Any] = array.view()
    view.flags.writeable = False
    return view


# What pickle calls. Values were checked when they were put in, so they are not checked again.

_KINDS: tuple[type[Any], ...] = (ArrayRecord, MetricRecord, ConfigRecord)
_NUMBER = {kind: i for i, kind in enumerate(_KINDS)}


def _restore(cls: type[Any], items: dict[str, Any]) -> Any:
    record: Any = object.__new__(cls)
    record._items = items
    if cls is ArrayRecord:
        for array in items.values():
            if array.flags.writeable:  # it travelled in-band
                array.flags.writeable = False
    return record


def _restore_record_dict(items: dict[str, tuple[int, dict[str, Any]]]) -> RecordDict:
    return cast("RecordDict", _restore(RecordDict, {k: _restore(_KINDS[n], i) for k, (n, i) in items.items()}))

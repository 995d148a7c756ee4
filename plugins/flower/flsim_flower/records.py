"""Flower's RecordDict as the engine carries it: arrays beside, and all else in one small pickle."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

import flsim
from flsim.pickling import INLINE
from flsim_flower.array import MappedArray, raw_of, values_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SMALL, _LARGE = "flower", "arrays"
"""The names of the two records that a Flower RecordDict becomes."""

_ARRAYS, _METRICS, _CONFIGS = range(3)
_Items = dict[str, Any] | list[tuple[str, str, tuple[int, ...], str, bytes | int]]


def pack(records: RecordDict) -> flsim.RecordDict:
    """The engine's form of ``records``, whose arrays are not copied: their bytes do not change.

    What is small is copied here, so that what is done to ``records`` afterwards is not seen.
    """
    packed = flsim.RecordDict()
    if not records:
        return packed
    large: list[NDArray[np.uint8]] = []
    small = [(name, *_packed(record, large)) for name, record in records.items()]
    packed[_SMALL] = flsim.ConfigRecord({"records": pickle.dumps(small, protocol=5)})
    if large:
        packed[_LARGE] = flsim.ArrayRecord(large)
    return packed


def unpack(packed: flsim.RecordDict) -> RecordDict:
    """Flower's form of what :func:`pack` has made. Its large arrays lie where the engine has put them."""
    records = RecordDict()
    if not packed:
        return records
    large = list(packed[_LARGE].values()) if _LARGE in packed else []
    for name, kind, items in pickle.loads(packed[_SMALL]["records"]):
        records[name] = _unpacked(kind, items, large)
    return records


def plain(records: RecordDict) -> flsim.RecordDict:
    """``records`` with their arrays as numpy's, as a run's result has them."""
    made = flsim.RecordDict()
    for name, record in records.items():
        if isinstance(record, ArrayRecord):
            made[name] = flsim.ArrayRecord({k: values_of(a) for k, a in record.items()})
        else:
            kind = flsim.MetricRecord if isinstance(record, MetricRecord) else flsim.ConfigRecord
            made[name] = kind(dict(record))
    return made


def _packed(record: ArrayRecord | MetricRecord | ConfigRecord, large: list[NDArray[np.uint8]]) -> tuple[int, _Items]:
    if not isinstance(record, ArrayRecord):
        return _METRICS if isinstance(record, MetricRecord) else _CONFIGS, dict(record.items())
    items = []
    for name, array in record.items():
        raw = raw_of(array)
        if raw.nbytes < INLINE:
            data: bytes | int = array.data
        else:
            data = len(large)
            large.append(raw)
        items.append((name, array.dtype, tuple(array.shape), array.stype, data))
    return _ARRAYS, items


def _unpacked(kind: int, items: Any, large: list[Any]) -> ArrayRecord | MetricRecord | ConfigRecord:
    if kind == _METRICS:
        return MetricRecord(items)
    if kind == _CONFIGS:
        return ConfigRecord(items)
    record = ArrayRecord()  # which would make Arrays of its own of those that it is called with
    for name, dtype, shape, stype, data in items:
        if isinstance(data, bytes):
            record[name] = Array(dtype, shape, stype, data)
        else:
            record[name] = MappedArray.over(dtype, shape, stype, large[data])
    return record

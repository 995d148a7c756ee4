"""Weighted means of replies, for arrays and metrics."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from flsim.errors import NoReplies
from flsim.message import Message
from flsim.records import ArrayRecord, ConfigRecord, MetricRecord, RecordDict


def weighted_mean(replies: Iterable[Message], weighted_by_key: str = "num-examples") -> RecordDict:
    """The mean of the replies' arrays and metrics, weighted by the metric ``weighted_by_key`` of each.

    Replies are taken one by one and in the order given (so it works on ``grid.stream`` in constant memory), and
    accumulated in float64; the order of ``send_and_receive`` and of an ordered stream makes the result
    repeatable. This is FedAvg's aggregation (McMahan et al., 2017, arXiv:1602.05629).

    Args:
        replies: error replies among them are skipped.
        weighted_by_key: a metric that each reply has, such as its number of examples; it is not averaged itself.

    Returns:
        Records of the same names: arrays of the shape and dtype they came with (whole numbers and bools are rounded),
        metrics as floats. ConfigRecords are left out.

    Raises:
        NoReplies: no reply with content is left; lists the reasons of the errors.
        ValueError: a reply lacks the weight, or differs from the first in its records, names or shapes;
            the weights sum to zero.
    """
    mean: _Mean | None = None
    errors: list[str] = []
    for reply in replies:
        node = reply.metadata.src_node_id
        if reply.has_error():
            errors.append(f"node {node}: {reply.error}")
            continue
        if mean is None:
            mean = _Mean(weighted_by_key)
        mean.add(node, reply.content)
    if mean is None:
        reasons = "; ".join(errors[:10]) + (f"; and {len(errors) - 10} more" if len(errors) > 10 else "")
        raise NoReplies(f"no reply to aggregate: {reasons or 'there was none at all'}")
    return mean.result()


class _Mean:
    def __init__(self, key: str) -> None:
        self._key = key
        self._total = 0.0
        self._first = -1
        self._arrays: dict[str, dict[str, Any]] = {}
        self._dtypes: dict[str, dict[str, Any]] = {}
        self._metrics: dict[str, dict[str, Any]] = {}

    def add(self, node: int, content: RecordDict) -> None:
        import numpy as np

        weight = self._weight(node, content)
        arrays, metrics = content.array_records, content.metric_records
        if self._first < 0:
            self._first = node
            self._begin(node, arrays, metrics)
        self._compare(node, self._arrays, arrays)
        self._compare(node, self._metrics, {r: _without(rec, self._key) for r, rec in metrics.items()})
        self._total += weight
        for r, rec in arrays.items():
            for k, array in rec.items():
                total = self._arrays[r][k]
                if not np.can_cast(array.dtype, total.dtype, "same_kind"):
                    raise ValueError(
                        f"the array {k!r} of node {node} is of dtype {array.dtype}, not {self._dtypes[r][k]}"
                    )
                total += np.multiply(array, weight, dtype=total.dtype)
        for r, sums in self._metrics.items():
            for k in sums:
                sums[k] = sums[k] + weight * np.asarray(metrics[r][k], np.float64)

    def _begin(self, node: int, arrays: Mapping[str, ArrayRecord], metrics: Mapping[str, MetricRecord]) -> None:
        import numpy as np

        for r, record in arrays.items():
            for k, array in record.items():
                if array.dtype.kind not in "biufc":
                    raise ValueError(f"the array {k!r} of node {node} is of dtype {array.dtype}, which has no mean")
            self._dtypes[r] = {k: a.dtype for k, a in record.items()}
            self._arrays[r] = {k: np.zeros(a.shape, np.result_type(a.dtype, np.float64)) for k, a in record.items()}
        for r, metric_record in metrics.items():
            self._metrics[r] = {k: np.zeros(np.shape(v)) for k, v in _without(metric_record, self._key).items()}

    def result(self) -> RecordDict:
        import numpy as np

        if not self._total:
            raise ValueError(f"the weights {self._key!r} of all replies sum to zero")
        mean = RecordDict()
        for r, sums in self._arrays.items():
            out = {}
            for k, total in sums.items():
                total /= self._total
                dtype = self._dtypes[r][k]
                out[k] = (np.rint(total) if dtype.kind in "biu" else total).astype(dtype)
            mean[r] = ArrayRecord(out)
        for r, sums in self._metrics.items():
            mean[r] = MetricRecord({k: (v / self._total).tolist() for k, v in sums.items()})
        return mean

    def _weight(self, node: int, content: Any) -> float:
        if not isinstance(content, RecordDict):
            raise ValueError(f"the reply of node {node} holds a {type(content).__name__}, not a RecordDict")
        for record in content.metric_records.values():
            if self._key in record:
                weight = record[self._key]
                if isinstance(weight, list) or not 0 <= weight < math.inf:
                    raise ValueError(f"the weight {self._key!r} of node {node} is {weight!r}")
                return float(weight)
        names = [k for rec in content.metric_records.values() for k in rec]
        raise ValueError(f"the reply of node {node} has no metric {self._key!r} to be weighted by; it has {names}")

    def _compare(self, node: int, ours: dict[str, dict[str, Any]], theirs: Any) -> None:
        import numpy as np

        def shapes(records: Any) -> dict[str, tuple[int, ...]]:
            named = {f"{r}.{k}": np.shape(v) for r, rec in records.items() for k, v in rec.items()}
            return named | dict.fromkeys(records, ())

        a, b = shapes(ours), shapes(theirs)
        if a != b:
            names = sorted(n for n in a.keys() | b.keys() if a.get(n) != b.get(n))
            shown = ", ".join(f"{n} is {_shape(b.get(n))}, not {_shape(a.get(n))}" for n in names[:3])
            more = f", and {len(names) - 3} more" if len(names) > 3 else ""
            raise ValueError(f"the reply of node {node} does not match that of node {self._first}: {shown}{more}")


def _shape(shape: tuple[int, ...] | None) -> str:
    return "missing" if shape is None else f"of shape {shape}"


def _without(record: MetricRecord | ConfigRecord, key: str) -> dict[str, Any]:
    return {k: v for k, v in record.items() if k != key}

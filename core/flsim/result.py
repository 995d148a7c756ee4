"""RunResult: what a run gives back, and the digest that says whether two runs came to the same."""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flsim.fleet import Scalar
from flsim.linkstate import Count
from flsim.records import ArrayRecord, RecordDict


@dataclass(frozen=True, slots=True)
class RunResult:
    """What a run gives back."""

    app: str
    state: RecordDict
    """What the ServerApp left in its ``context.state``."""
    digest: str
    """sha256 of ``state``, in hex: equal for equal results, bit by bit."""
    metrics: tuple[Mapping[str, Scalar], ...]
    """What the ServerApp reported, in order: each with ``round``, and ``node`` where it is one client's."""
    counts: Mapping[str, Count]
    """What became of the messages, per message type."""
    seconds: float
    """From the call of the ServerApp to its return."""
    seed: int
    backend: str
    options: Mapping[str, Any]
    """The backend's options as they were resolved."""
    nodes: int

    @property
    def sent(self) -> int:
        """Messages pushed."""
        return sum(c.sent for c in self.counts.values())

    @property
    def answered(self) -> int:
        """Messages that got content."""
        return sum(c.answered for c in self.counts.values())

    @property
    def messages_per_second(self) -> float:
        """Messages ended, with content or an error, per second of the run."""
        return self.sent / self.seconds if self.seconds else 0.0

    def to_json(self) -> dict[str, Any]:
        """What ``flsim run --json`` prints: all but the arrays of the state."""
        return {
            "app": self.app,
            "backend": self.backend,
            "options": dict(self.options),
            "nodes": self.nodes,
            "seed": self.seed,
            "digest": self.digest,
            "seconds": self.seconds,
            "messages_per_second": self.messages_per_second,
            "counts": {
                type_: {
                    "sent": c.sent,
                    "answered": c.answered,
                    "errors": dict(c.errors),
                    "reasons": [{"code": k[0], "reason": k[1], "messages": n} for k, n in c.reasons.most_common()],
                }
                for type_, c in self.counts.items()
            },
            "metrics": [{k: _json(v) for k, v in m.items()} for m in self.metrics],
        }


def _json(value: Scalar) -> Scalar | None:
    """``value``; None for an infinity or what is no number, since JSON has neither."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def digest(state: RecordDict) -> str:
    """sha256 over each record's name, each array's name, dtype, shape and bytes, and each value, in order.

    No id and no clock goes in, so equal results have equal digests, whoever computed them.
    """
    sha = hashlib.sha256()

    def put(*parts: bytes) -> None:
        for part in parts:
            sha.update(struct.pack("<Q", len(part)))
            sha.update(part)

    for name, record in state.items():
        put(type(record).__name__.encode(), name.encode())
        if isinstance(record, ArrayRecord):
            import numpy as np

            for key, array in record.items():
                put(key.encode(), array.dtype.str.encode(), repr(array.shape).encode())
                sha.update(np.ascontiguousarray(array).view(np.uint8).data if array.ndim else array.tobytes())
        else:
            for key, value in record.items():
                put(key.encode(), type(value).__name__.encode(), repr(value).encode())
    return sha.hexdigest()

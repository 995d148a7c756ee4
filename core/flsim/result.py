"""RunResult: what a run gives back, and the digest that says whether two runs came to the same."""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flsim.errors import ConfigError
from flsim.fleet import Scalar
from flsim.linkstate import Count
from flsim.records import ArrayRecord, RecordDict
from flsim.settings import Setting

if TYPE_CHECKING:
    import pandas
    import pyarrow

    from flsim.runs import KeptRun


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
    settings: Mapping[str, Setting] = field(default_factory=dict)
    """What the run went by, under the names of the keys of [tool.flsim], with where each value came from."""
    run_dir: Path | None = None
    """The folder in which it is recorded; None: it is not."""
    status: str = "finished"
    """Of a run that was opened from its folder also ``failed``, ``interrupted``, ``running`` or ``killed``. Then
    ``state`` is empty and ``digest`` is, too."""
    error: str = ""
    """Why it failed."""

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

    def table(self, name: str = "metrics") -> Mapping[str, Sequence[Any]]:
        """A table of the run: its columns by name, all of one length.

        Args:
            name: ``metrics``, with a row for each report; or of a run that is recorded ``messages``, ``leases`` or
                ``lost``, whose columns docs/runs.md describes.

        Raises:
            ConfigError: the run is not recorded.
            UnknownName: it has no such table.
        """
        if name == "metrics":
            names = dict.fromkeys(["round", *(key for m in self.metrics for key in m)])
            return {key: [m.get(key) for m in self.metrics] for key in names}
        return self._kept(name).table(name)

    def to_pandas(self, table: str = "metrics") -> pandas.DataFrame:
        """A :meth:`table` as a DataFrame. Raises ConfigError where pandas is not installed; otherwise as there."""
        from flsim.tables import to_pandas

        return to_pandas(self.table(table), self._types(table))

    def to_arrow(self, table: str = "metrics") -> pyarrow.Table:
        """A :meth:`table` as Arrow's. Raises ConfigError where pyarrow is not installed; otherwise as there."""
        from flsim.tables import to_arrow

        return to_arrow(self.table(table), self._types(table))

    def _types(self, table: str) -> Mapping[str, type]:
        return {"round": int, "node": int} if table == "metrics" else self._kept(table).types(table)

    def _kept(self, table: str) -> KeptRun:
        if self.run_dir is None:
            raise ConfigError(f"this run has no table {table!r}, since it was not recorded; give flsim.run a runs_dir")
        from flsim.runs import kept_run

        return kept_run(self.run_dir)

    def _repr_html_(self) -> str:
        from flsim.curves import to_html

        return to_html(self)

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
            "run_dir": None if self.run_dir is None else str(self.run_dir),
            "metrics": [{k: _json(v) for k, v in m.items()} for m in self.metrics],
        }


def _json(value: Scalar) -> Scalar:
    """``value``; ``"nan"``, ``"inf"`` or ``"-inf"`` for what JSON has no number for, which ``float`` reads."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


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

"""Runs that were recorded, as arrays: what docs/runs.md describes, read from a run's folder."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from flsim.envelope import clean
from flsim.errors import ConfigError
from flsim.message import ErrorCode
from flsim.result import RunResult
from flsim_record.folder import DATABASE
from flsim_record.kept import Kept
from flsim_record.schema import TABLES, read
from flsim_record.tables import metric_of

Array = npt.NDArray[Any]

CHUNK = 50_000
"""Rows read at a time."""

TEXT = 300
"""Characters that are shown of a text that came from a client."""


@dataclass(frozen=True, slots=True)
class Messages:
    """The messages of which a row was kept, in the order of their ids. Times are seconds since the run began."""

    id: Array
    node: Array
    lease: Array
    """-1: no worker had a part in it."""
    type: Array
    """Its place among the run's types."""
    worker: Array
    """Its place among the run's workers; -1: none answered."""
    attempts: Array
    pushed: Array
    ended: Array
    decode: Array
    execute: Array
    encode: Array
    bytes_out: Array
    bytes_back: Array
    code: Array
    """Of its error; -1: it got content."""


@dataclass(frozen=True, slots=True)
class Leases:
    """The leases, in the order of their ids."""

    id: Array
    worker: Array
    """Its place among the run's workers; -1: none is known."""
    pulled: Array
    returned: Array
    """Or when its worker was lost; NaN: it was still at work when the record ends."""
    messages: Array
    memory: Array
    """Bytes that the worker's process had held at most by then; 0: not known."""
    lost: Array
    """1: its worker was lost with it, and so is not known."""


@dataclass(frozen=True, slots=True)
class Curve:
    """A metric as it was reported."""

    name: str
    """As it is shown."""
    rounds: Array
    at: Array
    values: Array


@dataclass(frozen=True, slots=True)
class Failure:
    """Messages that ended with the same error."""

    type: str
    code: str
    reason: str
    messages: int


@dataclass(frozen=True, slots=True)
class Lost:
    """A worker that was lost."""

    at: float
    cause: str
    detail: str
    messages: int
    lease: int


@dataclass(frozen=True, slots=True)
class Report:
    """What one call of ``grid.report`` gave."""

    at: float
    round: int
    node: int | None
    metrics: Mapping[str, bool | int | float | str]


@dataclass(frozen=True, slots=True)
class RecordedRun:
    """A run, as far as it was recorded."""

    folder: Path
    about: Mapping[str, Any]
    """What run.json says."""
    result: RunResult
    seconds: float
    """How long it took, or as long as is known of it."""
    end: float
    """When the last that is known of it was: its clock begins before the ServerApp is called."""
    types: tuple[str, ...]
    workers: tuple[str, ...]
    messages: Messages
    leases: Leases
    curves: tuple[Curve, ...]
    node_curves: tuple[Curve, ...]
    """Metrics of single nodes: the means over those that reported in a round."""
    failures: tuple[Failure, ...]
    lost: tuple[Lost, ...]
    reasons: Mapping[int, str]
    """Why messages failed, by their id: of the first ones."""

    @property
    def name(self) -> str:
        """Its folder's."""
        return self.folder.name

    @property
    def label(self) -> str:
        """Its backend and its id, which tell it from others in a table."""
        return f"{self.result.backend} {self.about['id']}"

    @property
    def lease_ends(self) -> Array:
        """When each lease came back or was lost; of one at work, when the record ends."""
        return np.where(np.isfinite(self.leases.returned), self.leases.returned, self.end)

    @property
    def left_out(self) -> int:
        """Messages that ended, and of which no row was kept."""
        ended = sum(c.answered + sum(c.errors.values()) for c in self.result.counts.values())
        return max(0, ended - len(self.messages.id))

    def reason(self, at: int) -> str:
        """Why the message at this place failed: its code's name, and the reason where it is known."""
        name = code_name(int(self.messages.code[at]))
        reason = self.reasons.get(int(self.messages.id[at]), "")
        return f"{name}: {reason}" if reason else name


UNKNOWN = "type not known"
"""Of messages whose lease the driver did not come to write down before it was killed."""

REASONS = 2000
"""Of so many messages that failed the reason is read."""


def load(folder: Path) -> RecordedRun:
    """Read the run in a folder. Raises ConfigError where there is none that can be read."""
    kept = Kept(folder)
    try:
        with closing(_open(folder / DATABASE)) as db:
            return _load(kept, db)
    except (OSError, sqlite3.Error) as e:
        raise ConfigError(f"what was recorded in {folder} cannot be read: {e}") from e


def _open(file: Path) -> sqlite3.Connection:
    """The database of a run; an empty one where it has none yet."""
    if file.exists():
        return read(file)
    empty = sqlite3.connect(":memory:")
    empty.executescript(TABLES)
    return empty


def _load(kept: Kept, db: sqlite3.Connection) -> RecordedRun:
    result = kept.result()
    workers = _texts(db, "SELECT worker FROM leases WHERE worker <> '' GROUP BY worker ORDER BY min(pulled), worker")
    type_of: dict[str, int] = {}
    worker_of: dict[Any, int] = {name: i for i, name in enumerate(workers)}

    def type_at(name: str | None) -> int:
        return type_of.setdefault(UNKNOWN if name is None else name, len(type_of))

    def worker_at(name: str | None) -> int:
        return worker_of.get(name, -1)

    of: tuple[Any, ...] = (int, worker_at, float, _nan, int, _zero, _there)
    query = "SELECT lease, worker, pulled, returned, messages, peak_memory, lost FROM leases ORDER BY lease"
    leases = Leases(*_columns(db, query, of))
    of = (
        int, int, _none, type_at, worker_at, int, float, _nan, _zero, _zero, _zero, int, int, _none,
    )  # fmt: skip
    query = """SELECT message, node, lease, type, worker, attempts, pushed, ended, decode, execute, encode, bytes_out,
               bytes_back, code FROM messages ORDER BY message"""
    messages = Messages(*_columns(db, query, of))
    lost = tuple(
        Lost(at, c, shown(d or ""), n or 0, lease)
        for at, c, d, n, lease in db.execute("SELECT at, cause, detail, messages, lease FROM lost")
    )
    curves = _curves(db, "SELECT name, round, at, value FROM reports WHERE node IS NULL AND {numbers} ORDER BY rowid")
    means = """SELECT name, round, max(at), avg(value) FROM reports WHERE node IS NOT NULL AND {numbers}
               GROUP BY name, round ORDER BY min(rowid)"""
    clocks = (messages.pushed, messages.ended, leases.pulled, leases.returned, *(c.at for c in curves))
    ends = [0.0, *(float(np.nanmax(v)) for v in clocks if np.isfinite(v).any()), *(gone.at for gone in lost)]
    failures = db.execute(
        "SELECT type, code, reason, count(*) FROM messages WHERE code IS NOT NULL GROUP BY 1, 2, 3 ORDER BY 4 DESC"
    )
    reasons = db.execute("SELECT message, reason FROM answers WHERE code IS NOT NULL LIMIT ?", (REASONS,))
    return RecordedRun(
        kept.folder, kept.about, result, result.seconds or max(ends), max(result.seconds, *ends), tuple(type_of),
        workers, messages, leases, curves, _curves(db, means),
        tuple(Failure(t or UNKNOWN, code_name(c), shown(r or ""), n) for t, c, r, n in failures),
        lost, {m: shown(r or "") for m, r in reasons},
    )  # fmt: skip


def ended_without(run: RecordedRun) -> dict[int, list[int]]:
    """By lease, the places of the messages that ended when it was lost, as far as that is known."""
    found: dict[int, list[int]] = {}
    m = run.messages
    for at in np.flatnonzero((m.lease >= 0) & (m.worker < 0) & (m.code >= 0)).tolist():
        found.setdefault(int(m.lease[at]), []).append(at)
    return found


def code_name(code: int) -> str:
    """The name of an error's code."""
    return ErrorCode.name_of(code)


def shown(text: str) -> str:
    """A text of the app's as it is shown: on one line, cut, without what a terminal would obey."""
    return clean(" ".join(text.split()), TEXT)


def reports(run: RecordedRun) -> Iterator[Report]:
    """All that the ServerApp reported, in order, read as it is asked for. Raises ConfigError."""
    query = "SELECT report, at, round, node, name, type, value FROM reports ORDER BY rowid"
    try:
        with closing(_open(run.folder / DATABASE)) as db:
            for _, rows in groupby(db.execute(query), key=itemgetter(0)):
                given = list(rows)
                _, at, round, node, *_ = given[0]
                yield Report(at, round, node, {shown(n): metric_of(t, v) for *_, n, t, v in given if t})
    except (OSError, sqlite3.Error) as e:
        raise ConfigError(f"what was recorded in {run.folder} cannot be read: {e}") from e


def _none(value: int | None) -> int:
    return -1 if value is None else value


def _there(value: object) -> int:
    return int(value is not None)


def _zero(value: float | None) -> float:
    return value or 0.0


def _nan(value: float | None) -> float:
    return float("nan") if value is None else value


def _texts(db: sqlite3.Connection, query: str) -> tuple[str, ...]:
    return tuple(str(row[0]) for row in db.execute(query))


FLOATS = (float, _nan, _zero)


def _columns(db: sqlite3.Connection, query: str, of: Sequence[Any]) -> list[Array]:
    """The columns of a query as arrays, each value by way of a function."""
    cursor = db.execute(query)
    parts: list[list[Array]] = [[np.zeros(0, float if f in FLOATS else np.int64)] for f in of]
    while rows := cursor.fetchmany(CHUNK):
        for part, function, values in zip(parts, of, zip(*rows, strict=True), strict=True):
            made = values if function in (int, float) else list(map(function, values))
            part.append(np.array(made, part[0].dtype))
    return [np.concatenate(part) for part in parts]


def _curves(db: sqlite3.Connection, query: str) -> tuple[Curve, ...]:
    found: dict[str, list[tuple[int, float, float]]] = {}
    for name, round, at, value in db.execute(query.format(numbers="type IN ('int', 'float', 'bool')")):
        found.setdefault(name, []).append((round, at, _nan(value)))
    return tuple(
        Curve(shown(name), *(np.array(c, float) for c in zip(*rows, strict=True))) for name, rows in found.items()
    )

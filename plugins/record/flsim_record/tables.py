"""What happens in a run as rows of its tables, written in batches."""

from __future__ import annotations

import math
import sqlite3
import time
from array import array
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flsim.events import PLAIN, Announced, Event, LostWorker, Pulled, Reported, Returned, ServerAppCalled
from flsim_record.folder import decimal
from flsim_record.packed import COLUMNS, insert, packed, unpack
from flsim_record.schema import create, finish

if TYPE_CHECKING:
    from flsim.fleet import Scalar
    from flsim.heart import Entry
    from flsim.message import Error
    from flsim.wire import Outcome

WRITE_EVERY = 0.5
"""Seconds between two writes: what a killed driver loses at most, and as much again where it was busy."""

BUSY = 1000
"""Messages that end between two writes, beyond which their rows are packed."""

NOTES = 10_000
"""Notes that are kept at most: what the children of ClientApps write on loky is one a line."""

FAILED_MORE = 10
"""Of messages beyond the bound, those that failed are kept until they are one for so many within it."""

Row = tuple[Any, ...]


class Tables:
    """Gathers events, and writes them from the thread that brings them.

    Args:
        file: of the database, which is made when something is written first.
        rows: of how many messages a row is kept, at most, and so many values of metrics of single nodes.
    """

    def __init__(self, file: Path, rows: int) -> None:
        self._file = file
        self._database: sqlite3.Connection | None = None
        self._left = rows
        self._failed_left = rows // FAILED_MORE
        self._values_left = rows
        self._notes_left = NOTES
        self._begun: float | None = None
        self._written = time.monotonic()
        self._plain = array("d")
        """The values of :data:`PLAIN` of messages, row after row."""
        self._others: list[Row] = []
        """The rows of all other messages."""
        self._pulled: dict[int, Row] = {}
        """The leases at work, as their rows are until they come back."""
        self._open: set[int] = set()
        """Those of them that have a row."""
        self._start: list[Row] = []
        self._leases: list[Row] = []
        self._lost: list[Row] = []
        self._reports: list[Row] = []
        self._notes: list[Row] = []
        self._reported = 0
        self.counts: dict[str, list[int]] = {}
        """By message type: how many ended, how many of them failed, and of how many there is a row."""

    def take(self, event: Event) -> None:
        """Take what happened."""
        match event:
            case Returned():
                self._returned(event)
            case Pulled():
                at = self._time(event.at)
                self._pulled[event.lease] = (event.lease, event.type, event.kind, event.place, event.messages, at)
            case LostWorker():
                at = self._time(event.at)
                self._lost.append((at, event.lease, event.cause, event.detail, event.messages))
                self._lease_ended(event.lease, at, None, None, event.cause)
            case Reported():
                self._report(event)
            case Announced():
                self._note(self._time(event.at), event.text)
            case ServerAppCalled():
                self._begun = event.at
                self._start = [(event.at,)]

    def due(self) -> bool:
        """Whether it is time to write."""
        return time.monotonic() - self._written >= WRITE_EVERY

    def write(self) -> None:
        """Write what was gathered. Raises OSError or sqlite3.Error."""
        database = self._database
        if database is None:
            database = self._database = create(self._file)
        database.execute("BEGIN")
        try:
            self._insert(database)
            database.execute("COMMIT")
        except BaseException:
            database.rollback()
            raise
        del self._plain[:]
        for rows in (self._others, self._start, self._leases, self._lost, self._reports, self._notes):
            rows.clear()
        self._written = time.monotonic()

    def close(self) -> None:
        """Write the rest, all of it as rows, and close the file. Raises OSError or sqlite3.Error."""
        self.write()
        rows = packed(self._file)
        if self._database is not None and rows.exists():
            unpack(self._database, rows, doubted=False)
            rows.unlink()
        self.abandon()

    def abandon(self) -> None:
        """Close the file as it is."""
        if self._database is not None:
            database, self._database = self._database, None
            finish(database)

    def _insert(self, database: sqlite3.Connection) -> None:
        if len(self._plain) > BUSY * len(PLAIN):
            with packed(self._file).open("ab") as file:
                self._plain.tofile(file)
        else:
            insert(database, f"INTO answers ({COLUMNS})", len(PLAIN), self._plain.tolist())
        fresh = [(*row, None, None, None, None) for lease, row in self._pulled.items() if lease not in self._open]
        if self._left > 0:
            self._leases += fresh
            self._open = set(self._pulled)
        for into, rows in (
            ("INTO answers", self._others),
            ("OR REPLACE INTO leases", self._leases),
            ("INTO start", self._start),
            ("INTO lost", self._lost),
            ("INTO reports", self._reports),
            ("INTO notes", self._notes),
            ("OR REPLACE INTO counts", [(type_, *count) for type_, count in self.counts.items()]),
        ):
            if rows:
                insert(database, into, len(rows[0]), list(chain.from_iterable(rows)))

    def _time(self, at: float) -> float:
        return at - (at if self._begun is None else self._begun)

    def _lease_ended(self, lease: int, at: float, worker: str | None, peak: int | None, lost: str | None) -> None:
        row = self._pulled.pop(lease, None)
        if row is not None and (self._left > 0 or lease in self._open):
            self._leases.append((*row, at, worker, peak, lost))

    def _returned(self, event: Returned) -> None:
        if event.lease is not None:
            self._lease_ended(event.lease, self._time(event.at), event.worker, event.peak_memory, None)
        if plain := len(event.plain) // len(PLAIN):
            kept = min(plain, self._left)
            self._left -= kept
            self._plain.extend(event.plain[: kept * len(PLAIN)])
            self._count(event.message_type, plain, 0, kept)
        for entry, error, outcome in event.others:
            self._other(event, entry, error, outcome)

    def _other(self, event: Returned, entry: Entry, error: Error | None, outcome: Outcome | None) -> None:
        kept = True
        if self._left > 0:
            self._left -= 1
        elif error is not None and self._failed_left > 0:
            self._failed_left -= 1
        else:
            kept = False
        self._count(entry.type, 1, int(error is not None), int(kept))
        if kept:
            begun = self._begun or 0.0
            clocks = (None, None, None) if outcome is None else (outcome.decode, outcome.execute, outcome.encode)
            back = 0 if outcome is None else outcome.reply.nbytes
            lease = event.lost if event.lease is None else event.lease
            code, reason = (None, None) if error is None else (int(error.code), error.reason)
            self._others.append((
                entry.id, entry.node, lease, entry.pushed, *clocks, entry.payload.blob.nbytes,
                back, entry.attempts, entry.type, event.at - begun, code, reason,
            ))  # fmt: skip

    def _count(self, type_: str, ended: int, failed: int, kept: int) -> None:
        count = self.counts.setdefault(type_, [0, 0, 0])
        count[0] += ended
        count[1] += failed
        count[2] += kept

    def _note(self, at: float, text: str) -> None:
        self._notes_left -= 1
        if self._notes_left > 0:
            self._notes.append((at, text))
        elif not self._notes_left:
            self._notes.append((at, "no more notes are kept"))

    def _report(self, event: Reported) -> None:
        at = self._time(event.at)
        values: list[tuple[str, Scalar | None]] = list(event.metrics.items()) or [("", None)]
        if event.node is not None:
            if self._values_left <= 0:
                return
            if len(values) >= self._values_left:
                self._note(at, "record_rows is reached: no more metrics of single nodes are kept")
            values = values[: self._values_left]
            self._values_left -= len(values)
        self._reports += [
            (self._reported, at, event.round, event.node, name, *_column(value)) for name, value in values
        ]
        self._reported += 1


def _column(value: Scalar | None) -> tuple[str, Any]:
    """The type of a metric, and its value as SQLite has it: it has no integers beyond 64 bits, and keeps what is no
    number as NULL. Of a report without any, both are empty."""
    if value is None:
        return "", None
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        text = decimal(value)
        return ("str", hex(value)) if text is None else ("int", text)
    return type(value).__name__, None if isinstance(value, float) and math.isnan(value) else value


def metric_of(type_: str, value: Any) -> bool | int | float | str:
    """A metric as it was reported."""
    match type_:
        case "bool":
            return bool(value)
        case "int":
            return int(value)
        case "float":
            return math.nan if value is None else float(value)
    return str(value)

"""What happens in a run as rows of its tables, written in batches."""

from __future__ import annotations

import math
import sqlite3
import time
from collections import Counter
from pathlib import Path
from typing import Any

from flsim.events import Announced, Event, LostWorker, Pulled, Reported, Returned, RunStarted
from flsim_record.schema import create, finish

WRITE_EVERY = 0.5
"""Seconds between two writes: what a killed driver loses at most, and as much again where it was busy."""

AT_ONCE = 5000
"""Messages after which it is written, however soon."""

CHUNK = 200
"""Rows to a statement. SQLite lets go of the GIL for as long as one runs, and takes it back after each."""

FAILED_MORE = 10
"""Of messages beyond the bound, those that failed are kept until they are one for so many within it."""

_COLUMNS = 14
_INSERT = "INSERT INTO answers VALUES "
_ROW = f"({','.join('?' * _COLUMNS)})"
_MANY = _INSERT + ",".join([_ROW] * CHUNK)


class Tables:
    """Gathers events, and writes them from the thread that brings them.

    Args:
        file: of the database, which is made when something is written first.
        rows: of how many messages a row is kept, at most.
    """

    def __init__(self, file: Path, rows: int) -> None:
        self._file = file
        self._database: sqlite3.Connection | None = None
        self._left = rows
        self._failed_left = rows // FAILED_MORE
        self._begun: float | None = None
        self._written = time.monotonic()
        self._returned: list[Returned] = []
        self._gathered = 0
        self._pulled: dict[int, tuple[Any, ...]] = {}
        """The leases at work, as their rows are until they come back."""
        self._open: set[int] = set()
        """Those of them that have a row."""
        self._leases: list[tuple[Any, ...]] = []
        self._lost: list[tuple[Any, ...]] = []
        self._reports: list[tuple[Any, ...]] = []
        self._notes: list[tuple[Any, ...]] = []
        self._reported = 0
        self.counts: dict[str, list[int]] = {}
        """By message type: how many ended, how many of them failed, and of how many there is a row."""

    def take(self, event: Event) -> None:
        """Take what happened."""
        match event:
            case Returned():
                self._returned.append(event)
                self._gathered += len(event)
                if event.lease is not None:
                    self._lease_ended(event)
            case Pulled():
                pulled = self._time(event.at)
                self._pulled[event.lease] = (event.lease, event.kind, event.place, event.messages, pulled)
            case LostWorker():
                at = self._time(event.at)
                self._lost.append((at, event.lease, event.cause, event.detail, event.messages))
                if (row := self._pulled.pop(event.lease, None)) is not None:
                    self._leases.append((*row, at, None, None, event.cause))
            case Reported():
                self._report(event)
            case Announced():
                self._notes.append((self._time(event.at), event.text))
            case RunStarted():
                self._begun = event.at

    def due(self) -> bool:
        """Whether it is time to write."""
        return self._gathered >= AT_ONCE or time.monotonic() - self._written >= WRITE_EVERY

    def write(self) -> None:
        """Write what was gathered. Raises sqlite3.Error."""
        database = self._database
        if database is None:
            database = self._database = create(self._file)
        answers = self._answers()
        full = self._left <= 0
        database.execute("BEGIN")
        try:
            whole = len(answers) - len(answers) % CHUNK
            for at in range(0, whole, CHUNK):
                database.execute(_MANY, [value for row in answers[at : at + CHUNK] for value in row])
            database.executemany(_INSERT + _ROW, answers[whole:])
            if not full:
                fresh = [(*row, None, None, None, None) for n, row in self._pulled.items() if n not in self._open]
                database.executemany("INSERT OR REPLACE INTO leases VALUES (?,?,?,?,?,?,?,?,?)", self._leases + fresh)
                self._open = set(self._pulled)
            database.executemany("INSERT INTO lost VALUES (?,?,?,?,?)", self._lost)
            database.executemany("INSERT INTO reports VALUES (?,?,?,?,?,?,?)", self._reports)
            database.executemany("INSERT INTO notes VALUES (?,?)", self._notes)
            counts = [(type_, *count) for type_, count in self.counts.items()]
            database.executemany("INSERT OR REPLACE INTO counts VALUES (?,?,?,?)", counts)
            database.execute("COMMIT")
        except sqlite3.Error:
            database.rollback()
            raise
        for rows in (self._leases, self._lost, self._reports, self._notes):
            rows.clear()
        self._written = time.monotonic()

    def close(self) -> None:
        """Write the rest, and close the file. Raises sqlite3.Error."""
        self.write()
        self.abandon()

    def abandon(self) -> None:
        """Close the file as it is."""
        if self._database is not None:
            database, self._database = self._database, None
            finish(database)

    def _time(self, at: float) -> float:
        return at - (at if self._begun is None else self._begun)

    def _lease_ended(self, event: Returned) -> None:
        if event.lease is None or (row := self._pulled.pop(event.lease, None)) is None:
            return
        peak = next((a.peak_memory for a in event.answers()), None)
        self._leases.append((*row, self._time(event.at), event.worker, peak, None))

    def _answers(self) -> list[tuple[Any, ...]]:
        """The rows of the messages that ended, and none where there is no room for them."""
        begun = self._begun or 0.0
        rows = []
        for event in self._returned:
            lease, ended = event.lease, event.at - begun
            rows += [
                (id_, type_, node, lease, attempts, pushed - begun, ended, decode, execute, encode, out, back, code,
                 reason or None)
                for (id_, node, type_, _, code, reason, decode, execute, encode, _, _, attempts, pushed, out, back)
                in event.answers()
            ]  # fmt: skip
        self._returned.clear()
        self._gathered = 0
        kept = rows[: max(0, self._left)]
        beyond = [row for row in rows[len(kept) :] if row[-2] is not None][: self._failed_left]
        self._left -= len(kept)
        self._failed_left -= len(beyond)
        kept += beyond
        for at, some in enumerate((rows, [r for r in rows if r[-2] is not None], kept)):
            for type_, n in Counter(row[1] for row in some).items():
                self.counts.setdefault(type_, [0, 0, 0])[at] += n
        return kept

    def _report(self, event: Reported) -> None:
        at = self._time(event.at)
        self._reports += [
            (self._reported, at, event.round, event.node, name, type(value).__name__, _column(value))
            for name, value in event.metrics.items()
        ]
        if not event.metrics:
            self._reports.append((self._reported, at, event.round, event.node, "", "", None))
        self._reported += 1


def _column(value: bool | int | float | str) -> Any:
    """A metric as SQLite has it: it has no integers beyond 64 bits, and keeps what is no number as NULL."""
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return str(value)
    return None if isinstance(value, float) and math.isnan(value) else value


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

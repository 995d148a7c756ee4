"""Kept: a run, read from its folder."""

from __future__ import annotations

import contextlib
import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from flsim.errors import ConfigError, UnknownName
from flsim.linkstate import Count
from flsim.message import ErrorCode
from flsim.records import RecordDict
from flsim.result import RunResult
from flsim.settings import Setting
from flsim_record.folder import DATABASE, read_json
from flsim_record.schema import columns_of, read
from flsim_record.state import STATE_JSON, load_state
from flsim_record.tables import metric_of

TABLES = {
    "messages": "message",
    "leases": "lease",
    "lost": "at",
    "metrics": "report, name",
    "notes": "at",
}
"""The tables of a run, and by what they are sorted."""


TYPES: dict[str, type] = {"INTEGER": int, "REAL": float, "TEXT": str}
"""What the types of SQLite are in Python."""

CUT = "not kept"
"""What stands in place of the code of errors that have no row."""

BATCH = 50_000
"""Rows that are read at once."""


class Kept:
    """A run that is in ``folder``: over, under way, or killed.

    Raises:
        ConfigError: there is none, or it cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.about = read_json(folder)
        """run.json; its ``status`` is ``killed`` where nobody was left to write another."""
        self._scope: contextlib.ExitStack | None = None
        self._database: sqlite3.Connection | None = None

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """All that is read of the database within is as it was at one moment: it is opened once for it, when it is
        asked first."""
        if self._scope is not None:
            yield
            return
        try:
            with contextlib.ExitStack() as self._scope:
                yield
        finally:
            self._scope = self._database = None

    def result(self) -> RunResult:
        """What it gave back, or as far as it came."""
        with self.at_once():
            return self._result()

    def seconds(self) -> float:
        """How long it took; of a run that is not over, how long until the last that is known of it."""
        if self.about["seconds"] is not None:
            return float(self.about["seconds"])
        clocks = {"answers": "ended", "leases": "returned", "reports": "at"}
        lasts = self.rows(" UNION ALL ".join(f"SELECT max({clock}) FROM {table}" for table, clock in clocks.items()))
        return max((last for (last,) in lasts if last is not None), default=0.0)

    def metrics(self) -> tuple[dict[str, Any], ...]:
        """What was reported, in order: each with ``round``, and ``node`` where it is one client's."""
        reports: dict[int, dict[str, Any]] = {}
        query = "SELECT report, round, node, name, type, value FROM reports ORDER BY rowid"
        for report, round, node, name, type_, value in self.rows(query):
            metrics = reports.setdefault(report, {"round": round, **({} if node is None else {"node": node})})
            if type_:
                metrics[name] = metric_of(type_, value)
        return tuple(reports.values())

    def table(self, name: str) -> Mapping[str, Sequence[Any]]:
        """The columns of a table. Raises UnknownName."""
        names = self.columns(name)
        rows = [row for batch in self.batches(name) for row in batch]
        return dict(zip(names, zip(*rows, strict=True), strict=True)) if rows else dict.fromkeys(names, ())

    def columns(self, name: str) -> dict[str, str]:
        """The columns of a table, with their types in SQLite. Raises UnknownName."""
        if name not in TABLES:
            raise UnknownName("table", name, TABLES)
        return columns_of(name)

    def types(self, name: str) -> dict[str, type]:
        """The types of these columns. Raises UnknownName."""
        return {column: TYPES[type_] for column, type_ in self.columns(name).items()}

    def batches(self, name: str) -> Iterator[list[tuple[Any, ...]]]:
        """The rows of a table, many at once, so that few are in memory. Raises ConfigError or UnknownName."""
        query = f"SELECT {', '.join(self.columns(name))} FROM {name} ORDER BY {TABLES[name]}"
        with self._reading() as database:
            if database is not None:
                cursor = database.execute(query)
                while rows := cursor.fetchmany(BATCH):
                    yield rows

    def rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """What a query of the database gives; nothing where there is no database yet. Raises ConfigError."""
        with self._reading() as database:
            return [] if database is None else database.execute(query, values).fetchall()

    def _result(self) -> RunResult:
        about = self.about
        result = about.get("result", {})
        settings = {name: Setting(s["value"], s["from"]) for name, s in about["settings"].items()}
        prefix = f"backends.{about['backend']}."
        return RunResult(
            app=about["app"],
            state=load_state(self.folder) if (self.folder / STATE_JSON).exists() else RecordDict(),
            digest=result.get("digest", ""),
            metrics=self.metrics(),
            counts=self._counts(),
            seconds=self.seconds(),
            seed=about["seed"],
            backend=about["backend"],
            options={n.removeprefix(prefix): s.value for n, s in settings.items() if n.startswith(prefix)},
            nodes=about["nodes"],
            settings=settings,
            run_dir=self.folder,
            status=about["status"],
            error=about.get("error", {}).get("text", ""),
        )

    def _counts(self) -> dict[str, Count]:
        told = self.about.get("result", {}).get("counts")
        if told is not None:
            return {
                type_: Count(
                    c["sent"], c["answered"], Counter(c["errors"]),
                    Counter({(r["code"], r["reason"]): r["messages"] for r in c["reasons"]}),
                )
                for type_, c in told.items()
            }  # fmt: skip
        totals = self.rows("SELECT type, ended, failed FROM counts")
        counts = {type_: Count(ended, ended - failed) for type_, ended, failed in totals}
        failed = {type_: n for type_, _, n in totals}
        query = "SELECT type, code, reason, count(*) FROM answers WHERE code IS NOT NULL GROUP BY 1, 2, 3"
        for type_, code, reason, n in self.rows(query):
            name = ErrorCode.name_of(code)
            counts[type_].errors[name] += n
            counts[type_].reasons[name, (reason or "").partition("\n")[0]] += n
        for type_, count in counts.items():
            if cut := failed[type_] - count.errors.total():
                count.errors[CUT] = cut
        return counts

    @contextlib.contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection | None]:
        file = self.folder / DATABASE
        try:
            with self.at_once():
                if self._database is None and self._scope is not None and file.is_file():
                    self._database = self._scope.enter_context(contextlib.closing(read(file)))
                    self._database.execute("BEGIN")
                yield self._database
        except (OSError, sqlite3.Error) as e:
            raise ConfigError(f"{file} cannot be read: {e}") from e

"""The tables of run.sqlite."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from pathlib import Path

from flsim.folder import is_locked
from flsim_record.folder import LOCK
from flsim_record.packed import packed, unpack

TABLES = """
CREATE TABLE start (clock REAL NOT NULL);
CREATE TABLE answers (
    message     INTEGER PRIMARY KEY,
    node        INTEGER NOT NULL,
    lease       INTEGER,
    clock       REAL NOT NULL,
    decode      REAL,
    execute     REAL,
    encode      REAL,
    bytes_out   INTEGER NOT NULL,
    bytes_back  INTEGER NOT NULL,
    attempts    INTEGER NOT NULL DEFAULT 1,
    type        TEXT,
    ended       REAL,
    code        INTEGER,
    reason      TEXT
);
CREATE TABLE leases (
    lease       INTEGER PRIMARY KEY,
    type        TEXT NOT NULL,
    kind        TEXT NOT NULL,
    place       TEXT NOT NULL,
    messages    INTEGER NOT NULL,
    pulled      REAL NOT NULL,
    returned    REAL,
    worker      TEXT,
    peak_memory INTEGER,
    lost        TEXT
);
CREATE TABLE lost (at REAL NOT NULL, lease INTEGER NOT NULL, cause TEXT NOT NULL, detail TEXT, messages INTEGER);
CREATE TABLE reports (
    report      INTEGER NOT NULL,
    at          REAL NOT NULL,
    round       INTEGER NOT NULL,
    node        INTEGER,
    name        TEXT NOT NULL,
    type        TEXT NOT NULL,
    value
);
CREATE TABLE notes (at REAL NOT NULL, text TEXT NOT NULL);
CREATE TABLE counts (type TEXT PRIMARY KEY, ended INTEGER NOT NULL, failed INTEGER NOT NULL, kept INTEGER NOT NULL);
CREATE VIEW messages AS
    SELECT message, coalesce(leases.type, answers.type) AS type, node, lease, attempts,
           clock - coalesce((SELECT start.clock FROM start), answers.clock) AS pushed, pulled,
           coalesce(returned, ended) AS ended, decode, execute, encode, bytes_out, bytes_back, worker, peak_memory,
           code, reason
    FROM answers LEFT JOIN leases USING (lease);
CREATE VIEW metrics AS
    SELECT report, at, round, node, name,
           CAST(CASE WHEN type <> 'str' THEN value END AS REAL) AS number,
           CAST(CASE WHEN type = 'str' THEN value END AS TEXT) AS text
    FROM reports WHERE type <> '';
"""
"""``answers`` has what is a message's own, and not what all messages of a lease share: ``messages`` has both together;
``metrics`` are the numbers and texts of ``reports``. While a run is busy, rows of ``answers`` lie in another file
(:mod:`flsim_record.packed`).

Times are seconds since ``ServerAppCalled``; docs/runs.md says what each column is.
"""

CACHE = 8 * 1024
"""KiB that SQLite may keep in memory."""


def create(file: Path) -> sqlite3.Connection:
    """A new database, to be written by the thread that makes it while others read it.

    In WAL mode what is committed outlives a kill of this process. It is not forced to the disk with each commit, so a
    crash of the host may cost the last of it, and no more.
    """
    # Under another name until all its tables are there; while they are empty, nothing needs to be forced to the disk.
    new = file.with_name(f"{file.name}.new")
    with contextlib.closing(sqlite3.connect(new, isolation_level=None)) as empty:
        empty.execute("PRAGMA synchronous = OFF")
        empty.executescript(f"BEGIN;{TABLES}COMMIT;")
    new.replace(file)
    made = sqlite3.connect(file, isolation_level=None)
    for pragma in ("synchronous = OFF", "journal_mode = WAL", "synchronous = NORMAL", f"cache_size = -{CACHE}"):
        made.execute(f"PRAGMA {pragma}")
    return made


def finish(database: sqlite3.Connection) -> None:
    """Nothing more comes: all of it goes into the one file, which can then be copied, and read where nothing can be
    written."""
    for pragma in ("wal_checkpoint(TRUNCATE)", "synchronous = OFF", "journal_mode = DELETE"):
        database.execute(f"PRAGMA {pragma}")
    database.close()


def read(file: Path) -> sqlite3.Connection:
    """A database to read from, also while it is written, and where who wrote it was killed. Raises OSError or
    sqlite3.Error."""
    # What a killed process left beside it is taken in, which writes to it, where that may be.
    may_write = os.access(file.parent, os.W_OK) and os.access(file, os.W_OK)
    mode = "rw" if may_write else "ro"
    database = sqlite3.connect(f"{file.absolute().as_uri()}?mode={mode}", uri=True, isolation_level=None)
    rows = packed(file)
    if not rows.exists():
        return database
    try:
        if may_write and not is_locked(file.with_name(LOCK)):
            unpack(database, rows, doubted=True)
            rows.unlink(missing_ok=True)
            return database
        with contextlib.closing(database):
            copy = sqlite3.connect(":memory:", isolation_level=None)
            database.backup(copy)
        unpack(copy, rows, doubted=True)
        return copy
    except FileNotFoundError:  # somebody else has just taken them in
        database.close()
        return read(file)


def columns_of(name: str) -> dict[str, str]:
    """The columns of a table or a view, with their types, as :data:`TABLES` has them."""
    with contextlib.closing(sqlite3.connect(":memory:")) as database:
        database.executescript(TABLES)
        found = {row[1]: row[2] for row in database.execute(f"PRAGMA table_info({name})")}
    return {**found, **{column: type_ for column, type_ in _MADE.items() if column in found}}


_MADE = {"type": "TEXT", "pushed": "REAL", "ended": "REAL", "number": "REAL", "text": "TEXT"}
"""Columns that views make: versions of SQLite differ in the types that they tell of them."""

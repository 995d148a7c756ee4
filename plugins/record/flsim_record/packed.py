"""Rows of answers on their way into their table.

SQLite takes most of a microsecond for a row, and messages that end by the thousands a second would wait for that. So
their rows are appended to a file, and go into the table when the run is over; or when it is read, where its driver was
killed before that.
"""

from __future__ import annotations

import sqlite3
from array import array
from pathlib import Path
from typing import Any

from flsim.events import PLAIN

COLUMNS = "message, node, lease, clock, decode, execute, encode, bytes_out, bytes_back"
"""Those that :data:`~flsim.events.PLAIN` goes into, as it is."""

CHUNK = 1000
"""Rows to a statement. SQLite lets go of the GIL for as long as one runs, and waits for it after each."""

ROW = len(PLAIN) * array("d").itemsize
"""Bytes of a packed row: doubles, of which SQLite makes integers again for columns of integers. They hold whole numbers
up to 2**53, and so all ids."""


def packed(file: Path) -> Path:
    """Where the rows are that are to come into the database in ``file``."""
    return file.with_suffix(".packed")


COMMITTED = "EXISTS (SELECT 1 FROM leases WHERE lease = column3 AND returned IS NOT NULL)"
"""Of a row that is unpacked: rows are packed first, and committed by what the database then knows of their lease."""


def unpack(database: sqlite3.Connection, rows: Path, *, doubted: bool) -> None:
    """Make rows of the table of all that is packed in ``rows``: what is there already is left as it is, and the end of
    a row that a kill has cut off.

    Args:
        doubted: whether there may be rows that are not committed, which are left as well. To look costs a third more.

    Raises OSError or sqlite3.Error; then the database is as before.
    """
    into = f"OR IGNORE INTO answers ({COLUMNS})"
    ends = f") WHERE {COMMITTED}" if doubted else ""
    database.execute("BEGIN IMMEDIATE")
    try:
        with rows.open("rb") as file:
            while some := file.read(CHUNK * ROW):
                values = array("d", some[: len(some) // ROW * ROW]).tolist()
                insert(database, f"{into} SELECT * FROM (" if doubted else into, len(PLAIN), values, ends)
        database.execute("COMMIT")
    except (OSError, sqlite3.Error):
        database.rollback()
        raise


def insert(database: sqlite3.Connection, into: str, width: int, values: list[Any], ends: str = "") -> None:
    """Insert rows of ``width`` values, which lie one after another; the statement ``ends`` behind them."""
    row = f"({','.join('?' * width)})"
    for at in range(0, len(values), CHUNK * width):
        some = values[at : at + CHUNK * width]
        statement = f"INSERT {into} VALUES {','.join([row] * (len(some) // width))}{ends}"
        try:
            database.execute(statement, some)
        except (UnicodeEncodeError, OverflowError):  # seldom, and so nobody looks through all values for it
            database.execute(statement, [storable(value) for value in some])


def storable(value: Any) -> Any:
    """A value as SQLite can have it: text is valid UTF-8, and whole numbers beyond 64 bits are text."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    return str(value) if isinstance(value, int) and not -(2**63) <= value < 2**63 else value

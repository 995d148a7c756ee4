"""Rows of answers on their way into their table.

SQLite takes most of a microsecond for a row. Where messages end by the thousands, that is time which they would wait
for, so their rows are kept packed, many in one value, until the run is over.
"""

from __future__ import annotations

import sqlite3
from array import array
from collections.abc import Iterable
from typing import Any

from flsim.events import PLAIN

COLUMNS = "message, node, lease, clock, decode, execute, encode, bytes_out, bytes_back"
"""Those that :data:`~flsim.events.PLAIN` goes into, as it is."""

CHUNK = 1000
"""Rows to a statement. SQLite lets go of the GIL for as long as one runs, and waits for it after each."""


class Answers:
    """The values of :data:`PLAIN`, row after row, as doubles: SQLite makes integers again of what a column has as such.

    They hold whole numbers up to 2**53, and so all ids.
    """

    def __init__(self) -> None:
        self._values = array("d")

    def __len__(self) -> int:
        return len(self._values) // len(PLAIN)

    def add(self, values: Iterable[float]) -> None:
        """Add rows, of which the values lie one after another."""
        self._values.extend(array("d", values))

    def clear(self) -> None:
        """Forget them."""
        del self._values[:]

    def pack(self, database: sqlite3.Connection) -> None:
        """Write them, packed."""
        database.execute("INSERT INTO packed VALUES (?)", (self._values.tobytes(),))

    def insert(self, database: sqlite3.Connection) -> None:
        """Write each as a row."""
        insert(database, f"INSERT INTO answers ({COLUMNS})", len(PLAIN), self._values.tolist())


def unpack(database: sqlite3.Connection) -> None:
    """Make rows of all that is packed. Raises sqlite3.Error; then all is as before."""
    database.execute("BEGIN IMMEDIATE")
    try:
        # Each gives its room to the rows that were in it.
        while packed := database.execute("SELECT rowid, answers FROM packed LIMIT 1").fetchone():
            rowid, answers = packed
            database.execute("DELETE FROM packed WHERE rowid = ?", (rowid,))
            insert(database, f"INSERT INTO answers ({COLUMNS})", len(PLAIN), array("d", answers).tolist())
        database.execute("COMMIT")
    except sqlite3.Error:
        database.rollback()
        raise


def insert(database: sqlite3.Connection, into: str, width: int, values: list[Any]) -> None:
    """Insert rows of ``width`` values, which lie one after another."""
    row = f"({','.join('?' * width)})"
    for at in range(0, len(values), CHUNK * width):
        some = values[at : at + CHUNK * width]
        database.execute(f"{into} VALUES {','.join([row] * (len(some) // width))}", some)

"""What nodes keep between their messages: in memory, and beyond a limit in an SQLite file of the run's folder."""

from __future__ import annotations

import sqlite3
from collections import OrderedDict
from itertools import accumulate, pairwise
from pathlib import Path

from flsim.errors import NoRoom
from flsim.payload import Blob

IN_MEMORY = 256 * 1024**2
"""Bytes of states that the driver holds in memory; those that changed last."""

MANY = 10_000
"""States that stay in memory at most, however small: Python's garbage collector looks at each, again and again, which
takes it 0.2 s for half a million."""

BESIDE = 300
"""Bytes that a state takes in memory beside its own."""

MOST = 500_000_000
"""A state of more bytes than this stays in memory: SQLite takes no value of more than a billion."""


class NodeStates:
    """The states of the nodes that have one, encoded. To be used from one thread.

    SQLite, since it comes with Python and was fast enough in a comparison with LMDB, of a million states of 1 kB on 2
    cores: 2.5 against 0.9 µs to write one, 7 against 2.4 to read one at random, 4 against 8.5 to replace one at random,
    where a message costs 40.

    Args:
        folder: of the run; the file is made there when it is needed, and goes with it.
        in_memory: bytes that stay in memory.
    """

    def __init__(self, folder: Path, in_memory: int = IN_MEMORY) -> None:
        self._folder = folder
        self._limit = in_memory
        self._recent: OrderedDict[int, bytes | Blob] = OrderedDict()
        """From the one that was put first to the one that was put last. Where nothing lies beside a pickle, it is kept
        alone: ``bytes`` are no work for the garbage collector."""
        self._bytes = 0
        self._file: sqlite3.Connection | None = None

    def get(self, node: int) -> Blob | None:
        """The state of ``node``, where it has one. Raises NoRoom where the file cannot be read."""
        kept = self._recent.get(node)
        if kept is not None:
            return Blob(kept, ()) if isinstance(kept, bytes) else kept
        if self._file is None:
            return None
        try:
            row = self._file.execute("SELECT pickled, beside, ends FROM states WHERE node = ?", (node,)).fetchone()
        except sqlite3.Error as e:
            raise self._failed(e) from e
        return None if row is None else _from_row(*row)

    def put(self, node: int, blob: Blob) -> None:
        """``node`` has this state now, whose buffers are ``bytes``. Raises NoRoom where it does not fit on the disk."""
        before = self._recent.pop(node, None)
        if before is not None:
            self._bytes -= _size(before)
        kept = self._recent[node] = blob if blob.buffers else blob.pickled
        self._bytes += _size(kept)
        if self._bytes > self._limit or len(self._recent) > MANY:
            self._move()

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _move(self) -> None:
        """Move the oldest to the file, until the rest fits into memory."""
        rows = []
        large = []
        while (self._bytes > self._limit or len(self._recent) > MANY) and self._recent:
            node, kept = self._recent.popitem(last=False)
            self._bytes -= _size(kept)
            if _size(kept) > MOST:
                large.append((node, kept))
            else:
                rows.append(_to_row(node, kept))
        for node, kept in large:
            self._recent[node] = kept
            self._bytes += _size(kept)
        try:
            if self._file is None:
                self._file = self._open()
            self._file.executemany("INSERT OR REPLACE INTO states VALUES (?, ?, ?, ?)", rows)
        except sqlite3.Error as e:
            raise self._failed(e) from e

    def _open(self) -> sqlite3.Connection:
        file = sqlite3.connect(self._folder / "states.sqlite", isolation_level=None)
        # Nobody else reads it, and nobody will after this process: so no journal, no flush to the disk, no commit.
        for pragma in ("journal_mode = OFF", "synchronous = OFF", "locking_mode = EXCLUSIVE", "cache_size = -65536"):
            file.execute(f"PRAGMA {pragma}")
        file.execute("CREATE TABLE states (node INTEGER PRIMARY KEY, pickled BLOB, beside BLOB, ends TEXT)")
        file.execute("BEGIN")
        return file

    def _failed(self, error: sqlite3.Error) -> NoRoom:
        return NoRoom(
            f"the states of nodes beyond {self._limit / 1e6:,.0f} MB go to {self._folder}, and cannot: {error}\n"
            "Set TMPDIR to a folder on a disk with more room."
        )


def _size(kept: bytes | Blob) -> int:
    return BESIDE + (len(kept) if isinstance(kept, bytes) else kept.nbytes)


def _to_row(node: int, kept: bytes | Blob) -> tuple[int, bytes, bytes | None, str | None]:
    if isinstance(kept, bytes):
        return node, kept, None, None
    buffers = [bytes(b) for b in kept.unshared]
    ends = accumulate(map(len, buffers), initial=0)
    return node, kept.pickled, b"".join(buffers), " ".join(map(str, ends))


def _from_row(pickled: bytes, beside: bytes | None, ends: str | None) -> Blob:
    if beside is None or ends is None:
        return Blob(pickled, ())
    return Blob(pickled, tuple([beside[begin:end] for begin, end in pairwise(map(int, ends.split()))]))

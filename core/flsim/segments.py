"""Memory that a driver shares with workers on its own host: it owns all of it, and workers open it by a path.

For backends that have such workers. What many messages carry goes into it by :meth:`Memory.share`, and what else is
large of a lease, there and back, by an :class:`Exchange`.

On Linux a segment has no name (``memfd_create``), so whatever ends the driver frees it, and /dev/shm does not limit
it; a worker finds it among the driver's open files. Elsewhere it is a file in the run's folder. It is written by system
calls and mapped where it is read: where there is no room, that is an OSError, and not the end of who writes.
"""

from __future__ import annotations

import errno
import itertools
import mmap
import os
import sys
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from flsim.envelope import describe
from flsim.errors import BackendBroken
from flsim.payload import Shared, copied
from flsim.pickling import Buffer

LARGE = 128 * 1024
"""Together with so many bytes, buffers go by shared memory: a pipe or a socket copies them several times."""

FEW = 256
"""So many files may be open for what a single message carries, and as many for replies that are held. What is beyond
goes with the lease, or is copied: open files are limited, too."""

ALIGNED = 64
"""Bytes to whose multiple a buffer begins: a line of the cache, as vector instructions like it."""

Spans = tuple[tuple[int, int], ...]
"""Where buffers are in a segment: begin and end of each, in bytes."""


class Location(NamedTuple):
    """Where a worker finds a segment."""

    path: str
    file: tuple[int, int]
    """Its device and inode. The path alone may by now be another file's: the numbers of open files are given anew, and
    a worker that was given up for lost may live on, and open it late."""

    def open(self, flags: int) -> int:
        """A descriptor of the file. Raises OSError where the driver has let go of it, or does not let this process."""
        # By now it may be that of a pipe, for which open would wait.
        fd = os.open(self.path, flags | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        if _identity(fd) != self.file:
            os.close(fd)
            raise FileNotFoundError("the driver has let go of this memory")
        return fd


class Segment:
    """Memory that the driver owns. It takes no space before something is written.

    Args:
        folder: where its file lies, on systems without nameless ones.
    """

    def __init__(self, folder: Path) -> None:
        self._file: Path | None = None
        if _nameless():
            self._fd = os.memfd_create("flsim", os.MFD_CLOEXEC)
            path = f"/proc/{os.getpid()}/fd/{self._fd}"
        else:
            self._file = folder / f"memory-{os.getpid()}-{next(_numbers)}"
            self._fd = os.open(self._file, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            path = str(self._file)
        self.location = Location(path, _identity(self._fd))

    def place(self, buffers: Sequence[memoryview]) -> Placed:
        """Put buffers into it, from its beginning. Raises OSError where there is no room."""
        return Placed(self.location, _write(self._fd, 0, buffers))

    def read(self, nbytes: int) -> memoryview:
        """Its first bytes, in place. They stay while the view is held, also when the segment is closed."""
        return _mapped(self._fd, nbytes)

    def holds_something(self) -> bool:
        """Whether anything was written to it."""
        try:
            return os.fstat(self._fd).st_size > 0
        except OSError:  # it is closed
            return False

    def close(self) -> None:
        """Let go of it."""
        os.close(self._fd)
        if self._file is not None:
            self._file.unlink()


class SharedSegment(Shared):
    """What many messages carry, in a segment of its own."""

    def __init__(self, segment: Segment, placed: Placed, forget: Callable[[SharedSegment], bool]) -> None:
        self.placed = placed
        self._segment = segment
        self._forget = forget

    def buffers(self) -> list[memoryview]:
        return self.placed.views()

    def close(self) -> None:
        if self._forget(self):  # else it went with the backend
            self._segment.close()


class Memory:
    """All that is shared by a driver. May be used from any thread.

    Args:
        folder: for files, on systems without nameless ones.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._open: set[SharedSegment] = set()
        self._over = False

    def segment(self) -> Segment:
        """A new one, which its taker closes."""
        return Segment(self._folder)

    def share(self, buffers: Sequence[memoryview], messages: int) -> SharedSegment | None:
        """As :meth:`flsim.backend.Backend.share`."""
        if sum(b.nbytes for b in buffers) < LARGE or (messages == 1 and len(self._open) >= FEW):
            return None
        try:
            segment = self.segment()
        except OSError:  # as many files are open as this process may have
            return None
        try:
            placed = segment.place(buffers)
        except OSError as e:
            segment.close()
            raise no_room(buffers, e) from e
        shared = SharedSegment(segment, placed, self._forget)
        with self._lock:
            if not self._over:
                self._open.add(shared)
                return shared
        segment.close()
        return None

    def close(self) -> None:
        """Let go of what is still shared."""
        with self._lock:
            self._over = True
            left = list(self._open)
        for shared in left:
            shared.close()

    def _forget(self, shared: SharedSegment) -> bool:
        with self._lock:
            was_open = shared in self._open
            self._open.discard(shared)
            return was_open


def no_room(buffers: Sequence[memoryview], error: OSError) -> BackendBroken:
    """That they cannot be written."""
    size = sum(b.nbytes for b in buffers) / 1e6
    return BackendBroken(
        f"there is no room for {size:,.1f} MB of shared memory: {describe(error)}\n"
        "Have fewer or smaller models on their way at a time (grid.stream), or give this process more memory."
    )


class Placed(NamedTuple):
    """Buffers in a segment, on their way to a worker."""

    location: Location
    spans: Spans

    def views(self) -> list[memoryview]:
        """The buffers, in place and read-only. Raises OSError where the driver does not let this process read them."""
        fd = self.location.open(os.O_RDONLY)
        try:
            memory = _mapped(fd, self.spans[-1][1])
        finally:
            os.close(fd)
        return [memory[begin:end] for begin, end in self.spans]


Part = Buffer | Placed
"""What a lease carries, as a worker gets it."""


class Exchange:
    """What is large of a lease, there and back, and of those that follow it at the same worker.

    It is used by one thread at a time.

    Args:
        memory: of which its segments are.
    """

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._replies = memory.segment()
        self._sent: list[Segment] = []

    @property
    def replies(self) -> Location:
        """Where the worker writes what is large in the replies of the lease that is next."""
        return self._replies.location

    @property
    def begun(self) -> bool:
        """Whether the worker has said so, by :meth:`Replies.begin`. May be asked in any thread, also once it is
        closed."""
        return self._replies.holds_something()

    def out(self, buffers: Iterable[Any]) -> list[Part]:
        """What goes to the worker in place of the buffers of its Frames. Raises BackendBroken: there is no room."""
        parts: list[Part] = []
        for is_shared, some in groupby(buffers, key=lambda b: isinstance(b, SharedSegment)):
            if is_shared:
                parts += [shared.placed for shared in some]
            else:
                parts += self._placed(list(some))
        return parts

    def back(self, buffers: Sequence[Any]) -> list[Any]:
        """The buffers of a lease's replies, as the worker's :class:`Replies` kept them. Raises OSError where what is
        large cannot be mapped."""
        self._let_go()
        end = max((b[1] for b in buffers if isinstance(b, tuple)), default=0)
        if not end:
            return list(buffers)
        memory, fresh = self._replies.read(end), self._memory.segment()
        self._replies.close()
        self._replies = fresh
        return [memory[slice(*b)] if isinstance(b, tuple) else b for b in buffers]

    def close(self) -> None:
        """Let go of it, also of what is on its way."""
        self._replies.close()
        self._let_go()

    def _placed(self, buffers: list[Buffer]) -> Sequence[Part]:
        if sum(len(b) for b in buffers) < LARGE:
            return buffers
        views = [memoryview(b) for b in buffers]
        try:
            self._sent.append(self._memory.segment())
            return [self._sent[-1].place(views)]
        except OSError as e:
            raise no_room(views, e) from e

    def _let_go(self) -> None:
        while self._sent:
            self._sent.pop().close()


def arrived(parts: Iterable[Part]) -> list[Buffer]:
    """In a worker: the buffers of a lease. Raises OSError where they cannot be mapped."""
    buffers: list[Buffer] = []
    for part in parts:
        buffers += part.views() if isinstance(part, Placed) else [part]
    return buffers


class Replies:
    """In a worker: where the driver wants what is large in the replies of a lease.

    Args:
        location: of the segment that is for them.
    """

    def __init__(self, location: Location) -> None:
        self._location = location
        self._end = 0

    def begin(self) -> bool:
        """Tell the driver that the lease has begun, which it knows even if this process ends the moment after. Returns
        whether it could: the app may have as many files open as this process may have. Raises FileNotFoundError where
        the driver has let go of the lease."""
        try:
            fd = self._location.open(os.O_RDWR)
        except OSError as e:
            if e.errno != errno.EMFILE:
                raise
            return False
        try:
            os.ftruncate(fd, 1)
        finally:
            os.close(fd)
        return True

    def keep(self, buffers: Sequence[memoryview], last: bool) -> list[bytes | tuple[int, int]]:
        """Write them behind those of the messages before, or copy them where they are small, or where the app has as
        many files open as this process may have. Raises OSError where there is no room."""
        if sum(b.nbytes for b in buffers) < LARGE:
            return [copied(b) for b in buffers]
        try:
            fd = self._location.open(os.O_RDWR)
        except OSError as e:
            if e.errno != errno.EMFILE:
                raise
            return [copied(b) for b in buffers]
        try:
            spans = _write(fd, self._end, buffers)
        finally:
            os.close(fd)
        self._end = _aligned(spans[-1][1])
        return list(spans)


_numbers = itertools.count()


def _nameless() -> bool:
    """Whether workers can open the driver's nameless files: a process that may not be traced hides its own."""
    return (
        sys.platform == "linux"
        and Path("/proc/self/fd").exists()
        and Path("/proc/self/fd").stat().st_uid == os.geteuid()
    )


def _identity(fd: int) -> tuple[int, int]:
    about = os.fstat(fd)
    return about.st_dev, about.st_ino


def _write(fd: int, begin: int, buffers: Sequence[memoryview]) -> Spans:
    """By system calls: they take space and fill it at once, without a page fault, and leave the GIL to others."""
    spans = []
    for buffer in buffers:
        at, end = begin, begin + buffer.nbytes
        while at < end:
            at += os.pwrite(fd, buffer[at - begin :], at)
        spans.append((begin, end))
        begin = _aligned(end)
    return tuple(spans)


def _aligned(at: int) -> int:
    return -(-at // ALIGNED) * ALIGNED


def _mapped(fd: int, nbytes: int) -> memoryview:
    """The first bytes of a file. Before Python 3.13 a mapping keeps a file open: where many are held, they are read."""
    if sys.version_info >= (3, 13):
        return memoryview(mmap.mmap(fd, nbytes, prot=mmap.PROT_READ, trackfd=False))
    if len(_held) >= FEW:
        return memoryview(b"".join(_pieces(fd, nbytes)))
    mapping = mmap.mmap(fd, nbytes, prot=mmap.PROT_READ)
    _held.add(mapping)
    return memoryview(mapping)


def _pieces(fd: int, nbytes: int) -> Iterator[bytes]:
    at = 0
    while at < nbytes:
        piece = os.pread(fd, nbytes - at, at)
        at += len(piece)
        yield piece


_held: weakref.WeakSet[mmap.mmap] = weakref.WeakSet()

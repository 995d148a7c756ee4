"""What surrounds the call of a ClientApp in a worker: seeds, threads, open files, and what it prints."""

from __future__ import annotations

import codecs
import contextlib
import io
import random
import sys
import threading
import traceback
import weakref
from collections.abc import Callable, Iterable, Iterator
from enum import IntEnum
from typing import Any, cast

from flsim import open_files

PRINTED_LIMIT = 64 * 1024
"""Characters kept of what one message printed."""

TEXT_LIMIT = 4096
TRACEBACK_LIMIT = 16 * 1024


_OURS = frozenset((
    "flsim.apps", "flsim.code", "flsim.debugger", "flsim.engine", "flsim.plan", "flsim.replay", "flsim.worker",
    "flsim.cli.run", "bdb", "contextlib", "importlib", "importlib._bootstrap", "importlib._bootstrap_external",
))  # fmt: skip
"""Modules that stand between the engine and the app's first line."""


def describe(error: BaseException) -> str:
    """``Type: text`` of any exception, also of one whose ``__str__`` raises; without control characters, cut."""
    try:
        text = str(error)
    except BaseException:  # the user's own __str__ may raise anything at all
        text = "<unprintable>"
    return clean(f"{type(error).__name__}: {text}" if text else type(error).__name__, TEXT_LIMIT)


def traceback_of(error: BaseException) -> str:
    """The traceback of ``error`` from the app's own first line on."""
    frames = error.__traceback__
    while frames is not None and frames.tb_frame.f_globals.get("__name__") in _OURS:
        frames = frames.tb_next
    try:
        lines = traceback.format_exception(type(error), error, frames)
    except BaseException:  # as in describe: formatting calls the user's __str__ and __repr__
        lines = [*traceback.format_tb(frames), describe(error)]
    # An endless text of the exception's own must not push out where it was raised.
    text = "".join([line if len(line) <= TEXT_LIMIT else f"{line[:TEXT_LIMIT]}…\n" for line in lines])
    return clean(text if len(text) <= TRACEBACK_LIMIT else "…" + text[-TRACEBACK_LIMIT:], TRACEBACK_LIMIT + 1)


def clean(text: str, limit: int) -> str:
    """``text`` without characters that could move a terminal, at most ``limit`` long."""
    cut = text if len(text) <= limit else text[: limit - 1] + "…"
    if cut.isprintable():
        return cut
    return "".join(c if c.isprintable() or c in "\n\t" else "�" for c in cut)


class Generators(IntEnum):
    """What a lease does with the global random generators of its process."""

    LEAVE = 0
    """Nothing: others use them at the same time."""
    SEED = 1
    """Seed them for each message: the process is the lease's own."""
    SEED_AND_RESTORE = 2
    """Seed them for each message, and put back what was there: the process is the ServerApp's, too."""


def seed_globals(entropy: int, key: tuple[int, ...]) -> None:
    """Seed ``random``, ``numpy.random`` and, where it is loaded, torch from ``SeedSequence(entropy, key)``."""
    import numpy as np

    words = np.random.SeedSequence(entropy, spawn_key=key).generate_state(7).tobytes()
    random.seed(int.from_bytes(words[:16], "little"))
    np.random.seed(int.from_bytes(words[16:20], "little"))  # an array of words would take four times as long
    if (torch := _torch()) is not None:
        torch.manual_seed(int.from_bytes(words[20:28], "little"))


@contextlib.contextmanager
def kept_globals() -> Iterator[None]:
    """Put the states of the global generators back afterwards."""
    import numpy as np

    ours, numpys, torch = random.getstate(), np.random.get_state(), _torch()
    torchs = None if torch is None else torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(ours)
        np.random.set_state(numpys)
        if torchs is not None:
            torch.set_rng_state(torchs)


def _torch() -> Any:
    torch = sys.modules.get("torch")
    return torch if hasattr(torch, "set_rng_state") else None  # it may be half imported


class _Threads:
    """Limits the threads of BLAS and OpenMP. The libraries are looked up again when modules were loaded."""

    def __init__(self) -> None:
        self._controller: Any = None
        self._modules = 0

    def stale(self) -> bool:
        """Whether there may be libraries that were not there when they were last limited."""
        return self._modules != len(sys.modules)

    def limit(self, threads: int) -> contextlib.AbstractContextManager[Any]:
        """Limit those that are loaded, until the context ends."""
        if self.stale():
            import numpy  # noqa: F401  # its BLAS must be there to be limited
            from threadpoolctl import ThreadpoolController

            self._controller = ThreadpoolController()
            self._modules = len(sys.modules)
        return cast("contextlib.AbstractContextManager[Any]", self._controller.limit(limits=threads))


class _Printed:
    """What a message at work has printed: at most :data:`PRINTED_LIMIT` characters of it."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._left = PRINTED_LIMIT
        self._decoders: dict[str, codecs.IncrementalDecoder] = {}

    def add(self, text: str) -> None:
        """Keep this, as far as there is room."""
        if self._left > 0 and text:
            self._parts.append(text[: self._left])
        self._left -= len(text)

    def add_bytes(self, stream: str, data: memoryview) -> None:
        """Keep this as the text that it is in UTF-8. A character may come in two parts."""
        if self._left <= 0:
            self._left -= data.nbytes
            return
        if stream not in self._decoders:
            self._decoders[stream] = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self.add(self._decoders[stream].decode(bytes(data)))

    def take(self) -> str:
        """What there is; the next message begins anew."""
        if not self._parts and not self._decoders:
            return ""
        while self._decoders:
            self.add(self._decoders.popitem()[1].decode(b"", True))
        count = len(self._parts)  # another thread may be printing
        text = "".join(self._parts[:count])
        del self._parts[:count]
        cut, self._left = self._left < 0, PRINTED_LIMIT
        return text[:PRINTED_LIMIT] + "… (cut)\n" if cut else text


class _Tee:
    """Stands for ``sys.stdout`` or ``sys.stderr``: keeps what is printed for a message, and passes on all else.

    An app may keep it, as a logging handler does, so that it also has to work where it is in nobody's place any more.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._through: Any = getattr(sys, name)
        self._before: Any = None
        self._original: Any = None
        self._above: Callable[[], Any] = _nothing
        """What took our place while we had it, as long as it is there: it may well write to us, so nothing is passed on
        to it."""
        self._uses = 0
        self._of_thread: dict[int, _Printed] = {}
        self._of_all: _Printed | None = None
        self._bytes = _Bytes(self, name)

    # ---- as a stream

    def write(self, text: str) -> int:
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        printed = self.printed()
        if printed is None:
            through = self.through()
            return len(text) if through is None else cast("int", through.write(text))
        printed.add(text)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        if self.printed() is None and (through := self.through()) is not None:
            through.flush()

    def isatty(self) -> bool:
        through = self.through()
        return self.printed() is None and through is not None and through.isatty()

    @property
    def buffer(self) -> _Bytes:
        if self.printed() is None:
            self.through().buffer  # noqa: B018  # a stream that has none, as a StringIO, has none through us
        return self._bytes

    def detach(self) -> _Bytes:
        """As of a TextIOWrapper, which whoever wants another encoding takes apart; others go on with it here."""
        return self.buffer

    def __getattr__(self, name: str) -> Any:
        return getattr(self.through(), name)

    def __reduce__(self) -> Any:
        return _stream, (self._name,)  # elsewhere it is the stream of that process

    # ---- around a lease, or an import

    def printed(self) -> _Printed | None:
        """Where what this thread prints belongs; None: it is passed on."""
        return self._of_all or self._of_thread.get(threading.get_ident())

    def through(self) -> Any:
        """What is passed on to: what has our place now, where that is not made of us."""
        if not self._uses:
            now = getattr(sys, self._name)
            if now is not self and now is not self._above():
                return now
        return self._through

    def begin(self, printed: _Printed | None, *, alone: bool = False) -> None:
        """Take the stream's place.

        Args:
            printed: gets what this thread prints; None: that is passed on, too.
            alone: whether it gets what any thread prints, also by ``sys.__stdout__`` or ``sys.__stderr__``.
        """
        with _changing:
            self._uses += 1
            now = getattr(sys, self._name)
            if now is not self:
                self._before = now
                if now is not self._above():
                    self._through = now
                setattr(sys, self._name, self)
            if printed is None:
                return
            self._of_thread[threading.get_ident()] = printed
            if alone:
                self._of_all = printed
                self._original = getattr(sys, f"__{self._name}__")
                setattr(sys, f"__{self._name}__", self)

    def end(self, printed: _Printed | None, *, alone: bool = False) -> None:
        """Give it back, unless others still need it."""
        with _changing:
            self._uses -= 1
            if printed is not None:
                del self._of_thread[threading.get_ident()]
            if alone:
                self._of_all = None
                if getattr(sys, f"__{self._name}__") is self:
                    setattr(sys, f"__{self._name}__", self._original)
            now = getattr(sys, self._name)
            if now is not self:
                self._above = _looked_at(now)
            elif not self._uses:
                setattr(sys, self._name, self._before)


def _nothing() -> None:
    return None


def _looked_at(stream: Any) -> Callable[[], Any]:
    """A stream that somebody else closes, and lets go of."""
    try:
        return weakref.ref(stream)
    except TypeError:  # of a class that allows none
        return lambda: stream


def _stream(name: str) -> Any:
    return getattr(sys, name)


class _Bytes(io.BufferedIOBase):
    """The ``buffer`` of a :class:`_Tee`."""

    def __init__(self, tee: _Tee, name: str) -> None:
        self._tee = tee
        self._name = name

    def write(self, data: Any) -> int:
        printed = self._tee.printed()
        if printed is None:
            return cast("int", self._tee.through().buffer.write(data))
        view = memoryview(data)
        printed.add_bytes(self._name, view)
        return view.nbytes

    def flush(self) -> None:
        self._tee.flush()

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return self._tee.isatty()

    def fileno(self) -> int:
        return cast("int", self._tee.fileno())

    def close(self) -> None:
        """It is the process's, of which a TextIOWrapper that is made of it, and goes, knows nothing."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tee.through().buffer, name)


_changing = threading.Lock()  # where leases share a process, its streams are the same


# One of each per process, since sys.stdout and the thread pools are: loggers that an app makes keep the _Tee.
_THREADS = _Threads()
_TEES: list[_Tee] = []


def limited_threads(threads: int) -> contextlib.AbstractContextManager[Any]:
    """Give BLAS and OpenMP so many threads, until the context ends: of the libraries that are loaded now."""
    return _THREADS.limit(threads)


def _tees() -> list[_Tee]:
    with _changing:
        if not _TEES:
            _TEES.extend((_Tee("stdout"), _Tee("stderr")))
    return _TEES


@contextlib.contextmanager
def around_import() -> Iterator[None]:
    """While an app is imported: what it keeps of ``sys.stdout`` and ``sys.stderr``, as a logging handler does, is what
    will catch what its messages print. Until then all passes through."""
    with contextlib.ExitStack() as stack:
        for tee in _tees():
            tee.begin(None)
            stack.callback(tee.end, None)
        yield


@contextlib.contextmanager
def around_lease(threads: int, *, restore: bool, alone: bool = False) -> Iterator[Callable[[], str]]:
    """Limit threads, restore the global generators afterwards where asked to, keep some files from the app, and catch
    what is printed.

    Args:
        alone: whether the process is the lease's own. Then what any of its threads prints is the message's that is at
            work; otherwise that of this thread alone.

    Yields a function that returns what was printed since it was last called.
    """
    printed = _Printed()

    with contextlib.ExitStack() as stack:
        if restore:
            stack.enter_context(kept_globals())
        stack.enter_context(_THREADS.limit(threads))
        for tee in _tees():
            tee.begin(printed, alone=alone)
            stack.callback(tee.end, printed, alone=alone)
        stack.enter_context(open_files.kept_back())

        def take() -> str:
            if _THREADS.stale():  # the last message has imported something
                with open_files.given_back():
                    stack.enter_context(_THREADS.limit(threads))
            return printed.take()

        yield take

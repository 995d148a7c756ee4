"""What surrounds the call of a ClientApp in a worker: seeds, threads, open files, and what it prints."""

from __future__ import annotations

import contextlib
import random
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from enum import IntEnum
from typing import Any, TextIO, cast

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


class _Tee:
    """Stands for ``sys.stdout`` or ``sys.stderr``: keeps what a thread that answers a message prints, and
    passes on what any other prints."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._through: TextIO = getattr(sys, name)
        self._printed: dict[int, list[str]] = {}
        self._left: dict[int, int] = {}

    def write(self, text: str) -> int:
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        thread = threading.get_ident()
        printed = self._printed.get(thread)
        if printed is None:
            return self._through.write(text)
        left = self._left[thread]
        if left > 0:
            printed.append(text[:left])
            self._left[thread] = left - len(text)
        return len(text)

    def flush(self) -> None:
        if threading.get_ident() not in self._printed:
            self._through.flush()

    def isatty(self) -> bool:
        return threading.get_ident() not in self._printed and self._through.isatty()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._through, name)

    def begin(self, printed: list[str]) -> None:
        current = getattr(sys, self._name)
        if current is not self:
            self._through = current
            setattr(sys, self._name, self)
        self._printed[threading.get_ident()] = printed
        self.reset()

    def reset(self) -> None:
        self._left[threading.get_ident()] = PRINTED_LIMIT

    def end(self) -> None:
        thread = threading.get_ident()
        del self._printed[thread], self._left[thread]
        if not self._printed and getattr(sys, self._name) is self:
            setattr(sys, self._name, self._through)


# One of each per process, since sys.stdout and the thread pools are: loggers that an app makes keep the _Tee.
_THREADS = _Threads()
_TEES: list[_Tee] = []


def limited_threads(threads: int) -> contextlib.AbstractContextManager[Any]:
    """Give BLAS and OpenMP so many threads, until the context ends: of the libraries that are loaded now."""
    return _THREADS.limit(threads)


@contextlib.contextmanager
def around_lease(threads: int, *, restore: bool) -> Iterator[Callable[[], str]]:
    """Limit threads, restore the global generators afterwards where asked to, keep some files from the app, and catch
    what is printed.

    Yields a function that returns what was printed since it was last called.
    """
    if not _TEES:
        _TEES.extend((_Tee("stdout"), _Tee("stderr")))
    printed: list[str] = []

    with contextlib.ExitStack() as stack:
        if restore:
            stack.enter_context(kept_globals())
        stack.enter_context(_THREADS.limit(threads))
        for tee in _TEES:
            tee.begin(printed)
            stack.callback(tee.end)
        stack.enter_context(open_files.kept_back())

        def take() -> str:
            if _THREADS.stale():  # the last message has imported something
                with open_files.given_back():
                    stack.enter_context(_THREADS.limit(threads))
            if not printed:
                return ""
            text = "".join(printed)
            printed.clear()
            for tee in _TEES:
                tee.reset()
            return text if len(text) < PRINTED_LIMIT else text[:PRINTED_LIMIT] + "… (cut)\n"

        yield take

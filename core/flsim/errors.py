"""Everything that flsim raises, in one tree of five families.

::

    FlsimError
    ├── InputError                 bad input, found before anything runs (exit code 2)
    │   ├── ConfigError            a wrong key, value or file
    │   ├── UnknownName            a name that nothing answers to; says the nearest
    │   ├── BackendUnavailable     a backend that cannot run here; says what to type
    │   └── UnsupportedResources   a need that a backend cannot honour, or that fits nowhere
    ├── AppError                   the app failed (exit code 1)
    │   ├── AppLoadError           it cannot be imported, here or in a worker
    │   ├── EncodeError            content that cannot be sent, raised by the push
    │   └── NoReplies              nothing left to aggregate
    ├── WorkerLost                 a worker took its lease with it
    ├── NoRoom                     what the run has to keep does not fit on the disk (exit code 1)
    └── BackendBroken              the backend cannot go on, and the run with it (exit code 1)
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from enum import Enum


class FlsimError(Exception):
    """Base of all errors that flsim raises."""


class InputError(FlsimError):
    """Bad input, found before anything runs."""


class ConfigError(InputError, ValueError):
    """A wrong key, value or file in the configuration or on the command line."""


class UnknownName(InputError, LookupError):
    """A name that nothing answers to."""

    def __init__(self, what: str, name: str, known: Iterable[str], hint: str = "") -> None:
        names = sorted(known)
        near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
        text = f"unknown {what} {name!r}"
        text += f"; did you mean {near[0]!r}?" if near else "."
        text += f" Known: {', '.join(names)}." if names else f" No {what} is known."
        super().__init__(text + (f" {hint}" if hint else ""))

    def __str__(self) -> str:
        return str(self.args[0])

    def __reduce__(self) -> tuple[object, ...]:
        return _unknown_name, self.args


def _unknown_name(text: str) -> UnknownName:
    error = UnknownName.__new__(UnknownName)
    error.args = (text,)
    return error


class BackendUnavailable(InputError):
    """A backend that is known but cannot run here."""


class UnsupportedResources(InputError):
    """A need that the backend cannot honour, or that fits into none of its places."""


class AppError(FlsimError):
    """The app failed."""


class AppLoadError(AppError):
    """The app, or a part of it, cannot be imported."""


class EncodeError(AppError, TypeError):
    """Content that cannot be sent; raised where it was pushed, naming the key."""


class NoReplies(AppError, ValueError):
    """No reply is left to aggregate; says why each one is missing."""


class Cause(Enum):
    """How a worker was lost."""

    EXITED = "exited"
    SIGNAL = "signal"
    MEMORY = "memory"
    UNKNOWN = "unknown"
    """It died, and the backend does not tell how."""
    LEFT = "left"
    """Its host or place is gone, or was scaled down."""
    ABORTED = "aborted"
    NOT_STARTED = "not started"
    """It died, or its place was gone, before it took the lease up."""
    TIME_LIMIT = "time limit"
    """Its message ran longer than its kind's ``time_limit``: the engine finds that out, no backend says it."""

    @property
    def charges(self) -> bool:
        """Whether a message that was alone with the worker is charged with the death."""
        return self in (Cause.EXITED, Cause.SIGNAL, Cause.MEMORY, Cause.UNKNOWN)


class WorkerLost(FlsimError):
    """A worker took its lease with it: the one way in which a lease's future fails.

    Args:
        cause: how it was lost; decides whether a message is charged.
        detail: what is known beyond it, such as "exit code 5" or "SIGKILL".
        traceback: the stack of the worker, where it left one.
    """

    def __init__(self, cause: Cause, detail: str = "", traceback: str = "") -> None:
        super().__init__(cause, detail, traceback)
        self.cause = cause
        self.detail = detail
        self.traceback = traceback

    def __str__(self) -> str:
        return self.detail or f"worker lost: {self.cause.value}"


class NoRoom(FlsimError):
    """What the run has to keep does not fit on the disk. Says which, and what to do."""


class BackendBroken(FlsimError):
    """The backend cannot go on. Says the first cause and what to do."""

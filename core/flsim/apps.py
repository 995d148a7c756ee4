"""ClientApp, ServerApp and Context: what the user of the engine writes.

The names and their meaning are Flower's (``flwr.clientapp``, ``flwr.serverapp``).
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flsim.errors import UnknownName
from flsim.records import RecordDict

if TYPE_CHECKING:
    import numpy as np

    from flsim.grid import Grid
    from flsim.message import Message

Scalar = bool | int | float | str


@dataclass(slots=True)
class Context:
    """What an app is told of where it runs, and what a node keeps.

    Attributes:
        run_id: the run; a function of its seed.
        node_id: the node, or 1 in the ServerApp.
        node_config: ``partition-id`` (0 to N-1), ``num-partitions`` (N), and what the kind of node adds.
        run_config: the app's configuration, flat (``a.b``), read-only.
        state: follows the node from message to message; the ServerApp's is the result of the run. Records
            put here stay; a change is kept only if the message got its reply.
        run_dir: in the ServerApp the folder of a run that is recorded, for files of the app's own; None where it is
            not, and in ClientApps, which may run elsewhere.
    """

    run_id: int
    node_id: int
    node_config: Mapping[str, Scalar]
    state: RecordDict
    run_config: Mapping[str, Scalar]
    _seed: tuple[int, tuple[int, ...]] = (0, ())
    _rng: np.random.Generator | None = None
    run_dir: Path | None = None

    @property
    def rng(self) -> np.random.Generator:
        """A generator of this message's own (in the ServerApp: of the run's), fixed by the run's seed."""
        if self._rng is None:
            import numpy as np

            entropy, key = self._seed
            self._rng = np.random.default_rng(np.random.SeedSequence(entropy, spawn_key=key))
        return self._rng


Handler = Callable[["Message", Context], "Message"]
Mod = Callable[["Message", Context, Handler], "Message"]
Lifespan = Callable[[Context], Iterator[None]]
Main = Callable[["Grid", Context], None]


class _WithLifespan:
    """What both apps share: code around each call."""

    _lifespan: Callable[[Context], contextlib.AbstractContextManager[None]] | None = None

    def lifespan(self, *without_parentheses: Any) -> Callable[[Lifespan], Lifespan]:
        """Register a generator of one ``yield``: what stands before it runs before the app is called, and
        what stands after it runs afterwards, also when the call raised."""

        _refuse(without_parentheses, "lifespan")

        def register(fn: Lifespan) -> Lifespan:
            if self._lifespan is not None:
                raise ValueError("this app has a lifespan already")
            if not inspect.isgeneratorfunction(fn):
                raise TypeError(f"a lifespan is a generator with one yield, and {_name(fn)} has no yield")
            self._lifespan = contextlib.contextmanager(fn)
            return fn

        return register


class ClientApp(_WithLifespan):
    """What each node does with a message: one function per message type.

    ::

        app = ClientApp()

        @app.train()
        def train(msg: Message, context: Context) -> Message: ...

    Args:
        mods: functions ``mod(msg, context, call_next) -> Message`` around each handler, the first outermost.
    """

    def __init__(self, mods: Sequence[Mod] | None = None) -> None:
        self._mods = tuple(mods or ())
        self._handlers: dict[str, Handler] = {}

    def _register(self, category: str, action: str | None, mods: Sequence[Mod] | None) -> Callable[[Handler], Handler]:
        if callable(action):
            _refuse((action,), category)
        if action is not None and not action.isidentifier():
            raise ValueError(f"an action is a Python identifier, not {action!r}")
        key = f"{category}.{action}" if action else category

        def register(fn: Handler) -> Handler:
            if key in self._handlers:
                raise ValueError(f"this ClientApp handles {key!r} already, by {_name(self._handlers[key])}")
            handler = fn
            for mod in reversed((*self._mods, *(mods or ()))):
                handler = partial(_call_mod, mod, handler)
            self._handlers[key] = handler
            return fn

        return register

    def train(self, action: str | None = None, *, mods: Sequence[Mod] | None = None) -> Callable[[Handler], Handler]:
        """Register the handler of ``train`` messages, or with ``action`` of ``train.ACTION``."""
        return self._register("train", action, mods)

    def evaluate(self, action: str | None = None, *, mods: Sequence[Mod] | None = None) -> Callable[[Handler], Handler]:
        """Register the handler of ``evaluate`` messages, or with ``action`` of ``evaluate.ACTION``."""
        return self._register("evaluate", action, mods)

    def query(self, action: str | None = None, *, mods: Sequence[Mod] | None = None) -> Callable[[Handler], Handler]:
        """Register the handler of ``query`` messages, or with ``action`` of ``query.ACTION``."""
        return self._register("query", action, mods)

    def __call__(self, message: Message, context: Context) -> Message:
        """Answer ``message``. Raises UnknownName where no handler takes its type."""
        kind = message.metadata.message_type
        handler = self._handlers.get(kind)
        if handler is None:
            raise UnknownName("message type", kind, self._handlers, "A handler is registered by @app.train().")
        if self._lifespan is None:
            return handler(message, context)
        with self._lifespan(context):
            return handler(message, context)


class ServerApp(_WithLifespan):
    """What the server does: one function that drives the run through the Grid.

    ::

        app = ServerApp()

        @app.main()
        def main(grid: Grid, context: Context) -> None: ...
    """

    _main: Main | None = None

    def main(self, *without_parentheses: Any) -> Callable[[Main], Main]:
        """Register the main function. The run ends when it returns."""
        _refuse(without_parentheses, "main")

        def register(fn: Main) -> Main:
            if self._main is not None:
                raise ValueError(f"this ServerApp has a main already: {_name(self._main)}")
            self._main = fn
            return fn

        return register

    def __call__(self, grid: Grid, context: Context) -> None:
        """Run the app. Raises ValueError where no main was registered."""
        if self._main is None:
            raise ValueError("this ServerApp has no main; register one with @app.main()")
        with self._lifespan(context) if self._lifespan else contextlib.nullcontext():
            self._main(grid, context)


def _call_mod(mod: Mod, call_next: Handler, message: Message, context: Context) -> Message:
    return mod(message, context, call_next)


def _refuse(without_parentheses: tuple[Any, ...], name: str) -> None:
    if without_parentheses:
        raise TypeError(f"write @app.{name}() with its parentheses")


def _name(fn: Any) -> str:
    while isinstance(fn, partial):  # a mod around it
        fn = fn.args[1]
    return getattr(fn, "__qualname__", repr(fn))

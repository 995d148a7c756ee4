"""``flsim run --dry-run`` of a Flower app: what it lacks, and its first message, to one node."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from flwr.app import Message
from flwr.server import server as older_api

import flsim
from flsim.code import Reference, import_reference
from flsim.errors import AppError
from flsim_flower.grid import FlowerGrid
from flsim_flower.server import Server

if TYPE_CHECKING:
    from flsim.plan import Plan


def rehearse(plan: Plan, unmet: Sequence[str]) -> list[str]:
    """Run the ServerApp until it sends its first messages, and have one of them answered.

    Args:
        unmet: what is wrong with the app's dependencies, here.

    Returns:
        Lines that say what was found.

    Raises:
        AppError: the message got an error.
        BaseException: whatever the ServerApp raises before it sends a message.
    """
    lines = [f"needs what is not here: {what}" for what in unmet]
    assert isinstance(plan.project.server, Reference)
    rehearsal = _Rehearsal(import_reference(plan.project.server))
    dataclasses.replace(plan, project=dataclasses.replace(plan.project, server=rehearsal)).run()
    reply = rehearsal.reply
    if reply is None:
        return [*lines, "the ServerApp returned without sending a message"]
    about = f"its first message, {reply.metadata.message_type!r}, to node {reply.metadata.src_node_id}"
    if reply.has_error():
        raise AppError("\n".join((*lines, f"{about}, got error {reply.error.code}: {reply.error.reason}")))
    names = ", ".join(reply.content) or "nothing"
    return [*lines, f"{about}, was answered with {names}"]


class _Ended(BaseException):
    """The rehearsal is over. No ServerApp catches it by an ``except Exception``."""


class _Rehearsal:
    def __init__(self, server: Server) -> None:
        self._server = server
        self.reply: Message | None = None

    def __call__(self, grid: flsim.Grid, context: flsim.Context) -> None:
        theirs = _FirstMessage(grid.link, self)
        try:
            with self._ends_rounds():
                self._server.run(theirs, grid, context)
        except BaseException:
            if self.reply is None:
                raise
        context.state = flsim.RecordDict()

    @contextlib.contextmanager
    def _ends_rounds(self) -> Iterator[None]:
        """The older API sends from threads of its own, and takes what is raised there for a client's failure."""
        senders = {name: getattr(older_api, name) for name in ("fit_clients", "evaluate_clients")}
        for name, send in senders.items():
            setattr(older_api, name, self._ending(send))
        try:
            yield
        finally:
            for name, send in senders.items():
                setattr(older_api, name, send)

    def _ending(self, send: Callable[..., Any]) -> Callable[..., Any]:
        def ending(*args: Any, **kwargs: Any) -> Any:
            sent = send(*args, **kwargs)
            if self.reply is not None:
                raise _Ended
            return sent

        return ending


class _FirstMessage(FlowerGrid):
    """A Grid that sends one message, waits for its reply, and ends the ServerApp."""

    def __init__(self, link: Any, rehearsal: _Rehearsal) -> None:
        super().__init__(link)
        self._rehearsal = rehearsal
        self._one = threading.Lock()

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        self._first(messages)
        return []

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        self._first(messages)
        return []

    def _first(self, messages: Iterable[Message]) -> None:
        with self._one:
            if self._rehearsal.reply is None:
                replies = super().send_and_receive(list(messages)[:1])
                if not replies:
                    return
                self._rehearsal.reply = replies[0]
        raise _Ended

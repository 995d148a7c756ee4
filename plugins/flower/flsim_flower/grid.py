"""Flower's Grid, on the engine's LinkState."""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple

from flwr.app import Error, Message, RecordDict
from flwr.serverapp import Grid

import flsim
from flsim import ErrorCode
from flsim.message import SERVER_NODE_ID
from flsim_flower.client import RETURNED
from flsim_flower.message import restored
from flsim_flower.records import pack, unpack

if TYPE_CHECKING:
    from flsim.linkstate import Inbox, LinkState

log = logging.getLogger("flwr")

ENGINES = frozenset(int(code) for code in ErrorCode if code > 8)
"""The codes that Flower does not have: they become UNKNOWN."""


class _Sent(NamedTuple):
    inbox: Inbox
    """Where its reply will be."""
    until: float
    """When its time to live ends, by the clock on the wall, which Flower's metadata go by."""
    deadline: float
    """The same by the LinkState's clock."""


class FlowerGrid(Grid):
    """How a Flower ServerApp reaches the nodes. All methods may be called from any thread of it.

    When the run fails, each method that waits or pushes raises its cause.
    """

    def __init__(self, link: LinkState) -> None:
        self._link = link
        self._run: Any = SimpleNamespace(run_id=link.run_id)
        self._sent: dict[int, _Sent] = {}
        """The messages whose reply is not taken. Changed by single operations alone, so it needs no lock."""

    # ---- the run

    def set_run(self, run: Any) -> None:
        self._run = SimpleNamespace(run_id=run) if isinstance(run, int) else run

    @property
    def run(self) -> Any:
        return copy.copy(self._run)

    # ---- the nodes

    def get_node_ids(self) -> list[int]:
        return list(self._link.fleet.node_ids())

    # ---- messages

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Send messages, and return the ids of those that have a destination.

        Raises:
            ValueError: a message is a reply, was pushed before, or has no time to live. None is sent then.
        """
        return [str(i) for i in self._push(messages)[0]]

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Take the replies that are there, in the order in which the messages were pushed. Never waits."""
        ids = dict.fromkeys(message_ids)
        known = [self._take(n, while_it_lives=True) for n in sorted({int(i) for i in ids if i.isdecimal()})]
        unknown = [self._unknown(i) for i in ids if not i.isdecimal()]
        return [reply for reply in (*known, *unknown) if reply is not None]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """Send messages and return the replies that come within ``timeout`` seconds, in the order of the messages.

        What comes later can be pulled, by ``message.metadata.message_id``.
        """
        ids, inbox = self._push(messages)
        if not ids or (timeout is not None and timeout <= 0):
            return []
        try:
            self._link.wait(inbox, lambda: not inbox.pending, timeout)
        except KeyboardInterrupt:
            self._link.cancel(ids, ErrorCode.CANCELLED, "its sender was interrupted")
            raise
        return [reply for i in ids if (reply := self._take(i)) is not None]

    # ---- inside

    def _push(self, messages: Iterable[Message]) -> tuple[list[int], Inbox]:
        link, end = self._link, self._link.fleet.end
        theirs: list[Message] = []
        for message in messages:
            _check(message, theirs)
            if not SERVER_NODE_ID < message.metadata.dst_node_id < end:
                log.error("node %s is not there: a message to it is left out", message.metadata.dst_node_id)
                continue
            theirs.append(message)
        packed: dict[int, flsim.RecordDict] = {}  # strategies give one content to many messages
        ours = []
        for message in theirs:
            content, of = message.content, message.metadata
            if (carried := packed.get(id(content))) is None:
                carried = packed[id(content)] = pack(content)
            made = flsim.Message(carried, of.dst_node_id, of.message_type, ttl=of.ttl, group_id=of.group_id)
            made.metadata.created_at = of.created_at
            ours.append(made)
        inbox = link.inbox()
        inbox.enough = max(1, len(ours))
        ids: list[int] = []
        try:
            ids = link.push(ours, inbox)
        finally:
            if not ids:
                link.drop(inbox)
        now, clock = datetime.now(UTC).isoformat(), link.clock()
        for message, id_ in zip(theirs, ids, strict=True):
            of = message.metadata
            of.__dict__.update(_message_id=str(id_), _run_id=link.run_id, _src_node_id=SERVER_NODE_ID)
            of.delivered_at = now  # so that it cannot be pushed again
            self._sent[id_] = _Sent(inbox, of.created_at + of.ttl, clock + of.ttl)
        return ids, inbox

    def _take(self, id_: int, *, while_it_lives: bool = False) -> Message | None:
        """The reply to a message; None where it is not there yet.

        Args:
            while_it_lives: whether it is to be had until the message's time to live ends, and no longer.
        """
        sent = self._sent.get(id_)
        if sent is None:
            return self._unknown(str(id_))
        inbox = sent.inbox
        with self._link.lock:
            if id_ in inbox.pending:
                return None
            reply = inbox.replies.pop(id_, None)
            self._sent.pop(id_, None)
            if not inbox.pending and not inbox.replies:
                self._link.drop(inbox)
        if reply is None or (while_it_lives and self._link.clock() > sent.deadline):
            return self._unknown(str(id_))  # another thread was faster, or the sender too slow
        return self._reply(reply, sent.until)

    def _reply(self, reply: flsim.Message, until: float) -> Message:
        of = reply.metadata
        ttl = max(0.0, until - of.created_at)
        if not reply.has_error():
            return restored(of, ttl, unpack(reply.content))
        error = reply.error
        if error.code in ENGINES and error.traceback != RETURNED:
            return restored(of, ttl, error=Error(int(ErrorCode.UNKNOWN), str(error)))
        return restored(of, ttl, error=Error(error.code, error.reason))

    def _unknown(self, id_: str) -> Message:
        # Of what is not known, some type.
        of = flsim.Metadata(self._link.run_id, "", SERVER_NODE_ID, SERVER_NODE_ID, "query", "", time.time(), None, id_)
        text = f"no reply to a message with id {id_!r} is to be had"
        return restored(of, 0.0, error=Error(int(ErrorCode.MESSAGE_UNAVAILABLE), text))


def _check(message: Message, before: list[Message]) -> None:
    if not isinstance(message, Message):
        raise TypeError(f"a Message is pushed, not {message!r}")
    of = message.metadata
    if of.reply_to_message_id:
        raise ValueError(f"a reply (to message {of.reply_to_message_id}) cannot be pushed to a node")
    if of.ttl <= 0:
        raise ValueError(f"a message has a time to live, and {of.ttl:g} s is none")
    if of.message_id or getattr(of, "delivered_at", "") or any(message is m for m in before):
        raise ValueError(f"this Message to node {of.dst_node_id} was pushed before; make a new one for each push")

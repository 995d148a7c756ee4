"""Grid: how the ServerApp reaches the nodes."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from flsim.events import Observers, Reported
from flsim.fleet import Scalar
from flsim.message import SERVER_NODE_ID, Error, ErrorCode, Message, Metadata
from flsim.records import plain

if TYPE_CHECKING:
    import numpy as np

    from flsim.linkstate import Inbox, LinkState


class Grid:
    """How the ServerApp reaches the nodes. All methods may be called from any thread of it.

    When the run fails (the backend broke, an app cannot be loaded in a worker), each method that waits or
    pushes raises its cause.
    """

    def __init__(self, link: LinkState, observers: Observers) -> None:
        self._link = link
        self._observers = observers
        self._inbox = link.inbox()
        self._reports: list[Reported] = []

    @property
    def link(self) -> LinkState:
        """Where the messages are: for a plugin that builds another library's Grid on it."""
        return self._link

    def get_node_ids(self, kind: str | None = None) -> range:
        """The ids of all nodes, or of one kind. Raises UnknownName for a kind that there is not."""
        return self._link.fleet.node_ids(kind)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Send messages and return their ids, in order. Their content is encoded now: what is done to it
        afterwards is not seen.

        Raises:
            ValueError: a destination is no node; a message is a reply or was pushed before. None is sent then.
            EncodeError: content cannot be encoded. None is sent then.
        """
        return [str(i) for i in self._link.push(list(messages), self._inbox)]

    def pull_messages(self, ids: Iterable[str] | None = None, *, timeout: float | None = 0) -> list[Message]:
        """Take the replies that are there, to the messages of these ids in their order, or to all pushed by
        :meth:`push_messages`, in the order in which they came.

        Args:
            timeout: seconds to wait until there is at least one; None: without end. Nothing is waited for
                where nothing is pending.

        An id that was never pushed, or whose reply was taken before, gets an error reply (MESSAGE_UNAVAILABLE).
        """
        inbox = self._inbox
        if ids is None:
            self._link.wait(inbox, lambda: bool(inbox.replies) or not inbox.pending, timeout)
            with self._link.lock:
                replies = list(inbox.replies.values())
                inbox.replies.clear()
            return replies
        wanted = [(i, int(i) if i.isdecimal() else -1) for i in ids]
        numbers = [n for _, n in wanted]
        self._link.wait(inbox, lambda: not numbers or any(n not in inbox.pending for n in numbers), timeout)
        with self._link.lock:
            return [
                inbox.replies.pop(number) if number in inbox.replies else self._unavailable(id_)
                for id_, number in wanted
                if number not in inbox.pending
            ]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """Send messages and return a reply to each, in their order.

        Args:
            timeout: seconds after which what is not answered is cancelled and gets a TIMEOUT error; None: no end.

        Raises as :meth:`push_messages`.
        """
        link = self._link
        inbox = link.inbox()
        sent: list[int] = []
        try:
            batch = list(messages)
            inbox.enough = max(1, len(batch))
            sent = link.push(batch, inbox)
            if not link.wait(inbox, lambda: not inbox.pending, timeout):
                link.cancel(sent, ErrorCode.TIMEOUT, f"no reply within the caller's timeout of {timeout:g} s")
            return [inbox.replies.pop(i) for i in sent]  # whoever still knows of a message does not hold its reply
        except BaseException:
            link.cancel(sent, ErrorCode.CANCELLED, "its sender was interrupted")
            raise
        finally:
            link.drop(inbox)

    def stream(
        self, messages: Iterable[Message], *, timeout: float | None = None, ordered: bool = True
    ) -> Iterator[Message]:
        """Send messages and yield a reply to each as it can be had, so that a server aggregates one at a time.

        The messages are sent when the first reply is asked for, and answered as their replies are taken: at most
        64 MiB of them wait here, and as many more as there are workers. Closing the iterator (or leaving it to be
        collected) cancels what is not answered: ask more nodes than you need, and stop.

        Args:
            timeout: as in :meth:`send_and_receive`, counted from the sending.
            ordered: yield in the order of the messages, which keeps a run repeatable; else as they come.

        Raises as :meth:`push_messages`.
        """
        link = self._link
        inbox = link.inbox()
        sent: list[int] = []
        try:
            sent = link.push(list(messages), inbox, window=True)
            end = None if timeout is None else time.monotonic() + timeout
            for expected in sent:
                yield self._next(inbox, expected if ordered else None, sent, timeout, end)
        finally:
            link.cancel(sent, ErrorCode.CANCELLED, "the stream was closed")
            link.drop(inbox)

    def cancel(self, ids: Iterable[str]) -> None:
        """Cancel messages: where one is not answered yet, its reply is an error (CANCELLED). What runs in a
        worker runs to its end, and its reply is dropped.

        Raises:
            ValueError: an id is none of a message.
        """
        numbers = []
        for id_ in ids:
            if not id_.isdecimal():
                raise ValueError(f"{id_!r} is no message id; a message has one when it was pushed")
            numbers.append(int(id_))
        self._link.cancel(numbers, ErrorCode.CANCELLED, "the ServerApp cancelled it")

    def report(self, round: int, /, *, node: int | None = None, **metrics: Scalar | np.generic) -> None:
        """Report what a round came to: shown while the run goes on, and kept in its result.

        Args:
            round: the number of the round.
            node: makes the metrics those of one client.

        Raises:
            TypeError: a metric is no bool, int, float or str (numpy's scalars are converted).
        """
        reported = Reported(int(round), {k: _scalar(k, v) for k, v in metrics.items()}, node)
        self._reports.append(reported)
        self._observers.put(reported)

    @property
    def reports(self) -> list[Reported]:
        """What was reported so far."""
        return list(self._reports)

    def _next(
        self, inbox: Inbox, expected: int | None, sent: list[int], timeout: float | None, end: float | None
    ) -> Message:
        def ready() -> bool:
            return bool(inbox.replies) if expected is None else expected in inbox.replies

        left = None if end is None else max(0.0, end - time.monotonic())
        if not self._link.wait(inbox, ready, left):
            self._link.cancel(sent, ErrorCode.TIMEOUT, f"no reply within the caller's timeout of {timeout:g} s")
        with self._link.lock:
            id_ = next(iter(inbox.replies)) if expected is None else expected
            self._link.taken(inbox, id_)
            return inbox.replies.pop(id_)

    def _unavailable(self, id_: str) -> Message:
        error = Error(int(ErrorCode.MESSAGE_UNAVAILABLE), f"no reply to a message with id {id_!r} is to be had")
        meta = Metadata(self._link.run_id, "", SERVER_NODE_ID, SERVER_NODE_ID, "", "", time.time(), None, id_)
        return Message.restore(meta, None, error)


def _scalar(key: str, value: object) -> Scalar:
    value = plain(value)
    if isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"metric {key!r} is a bool, int, float or str, not {type(value).__name__}")

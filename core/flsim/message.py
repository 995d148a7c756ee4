"""Message, what ServerApp and ClientApps exchange, with its Metadata and Error.

The names and their meaning are Flower's (``flwr.app.Message``), so that an app is ported by its imports.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

SERVER_NODE_ID = 1
"""The ServerApp's node id; virtual nodes are numbered from 2."""


class MessageType:
    """The types of message that a ClientApp has decorators for; ``train.warmup`` is a named action of ``train``."""

    TRAIN = "train"
    EVALUATE = "evaluate"
    QUERY = "query"


class ErrorCode(IntEnum):
    """Why a message was not answered with content. 0 to 8 are Flower's."""

    UNKNOWN = 0
    LOAD_CLIENT_APP_EXCEPTION = 1
    CLIENT_APP_RAISED_EXCEPTION = 2
    MESSAGE_UNAVAILABLE = 3
    WORKER_DIED = 101
    OUT_OF_MEMORY = 102
    TIME_LIMIT = 103
    TIMEOUT = 104
    MESSAGE_UNDECODABLE = 105
    REPLY_UNENCODABLE = 106
    REPLY_UNDECODABLE = 107
    REPLY_INVALID = 108
    REPLY_TOO_LARGE = 109
    CANCELLED = 110

    @classmethod
    def name_of(cls, code: int) -> str:
        """The name of ``code``, or the number itself where an app made it up."""
        try:
            return cls(code).name
        except ValueError:
            return str(code)


@dataclass(frozen=True, slots=True)
class Error:
    """What a reply carries instead of content."""

    code: int
    reason: str = ""
    traceback: str = ""
    """The ClientApp's traceback where it raised, else empty."""

    def __str__(self) -> str:
        return f"{ErrorCode.name_of(self.code)}: {self.reason}"


@dataclass(slots=True)
class Metadata:
    """Where a message comes from, where it goes, and what it answers."""

    run_id: int
    message_id: str
    """A counter, as a string; empty until the message is pushed."""
    src_node_id: int
    dst_node_id: int
    message_type: str
    """``train``, ``evaluate`` or ``query``, with ``.action`` for a named action."""
    group_id: str
    created_at: float
    """Unix time, seconds."""
    ttl: float | None
    """Seconds from push to reply; None: no limit."""
    reply_to_message_id: str


class Message:
    """An instruction to a node, or the reply to one.

    ``Message(content, dst_node_id, message_type)`` makes an instruction, ``Message(content, reply_to=msg)``
    its reply. An :class:`Error` in the place of content makes an error reply. The engine never looks
    inside the content.

    Raises:
        TypeError: neither a destination with a type, nor ``reply_to``; or both.
        ValueError: ``ttl`` is not positive.
    """

    __slots__ = ("_content", "_error", "metadata")
    _content: Any
    _error: Error | None
    metadata: Metadata

    def __init__(
        self,
        content: Any,
        dst_node_id: int | None = None,
        message_type: str | None = None,
        *,
        ttl: float | None = None,
        group_id: str = "",
        reply_to: Message | None = None,
    ) -> None:
        if reply_to is not None:
            if not isinstance(reply_to, Message):
                raise TypeError(f"reply_to is the Message that is answered, not {reply_to!r}")
            if dst_node_id is not None or message_type is not None:
                raise TypeError("a reply goes where its message came from: give reply_to alone")
            of = reply_to.metadata
            self.metadata = Metadata(
                of.run_id, "", of.dst_node_id, of.src_node_id, of.message_type,
                group_id or of.group_id, time.time(), ttl, of.message_id,
            )  # fmt: skip
        elif dst_node_id is None or message_type is None:
            raise TypeError("a message needs dst_node_id and message_type, a reply needs reply_to")
        elif type(content) is Error:
            raise TypeError("an error is a reply: give reply_to, and no destination")
        elif not isinstance(message_type, str) or not hasattr(dst_node_id, "__index__"):
            raise TypeError(
                f"a message has a node id and a type, as (content, 2, 'train'), not {dst_node_id!r}, {message_type!r}"
            )
        else:
            self.metadata = Metadata(
                0, "", SERVER_NODE_ID, int(dst_node_id), message_type, group_id, time.time(), ttl, ""
            )
        if ttl is not None and not (isinstance(ttl, (int, float)) and ttl > 0):
            raise ValueError(f"ttl is the seconds from push to reply, so it must be positive, not {ttl!r}")
        if type(content) is Error:
            self._content, self._error = None, content
        else:
            self._content, self._error = content, None

    @classmethod
    def restore(cls, metadata: Metadata, content: Any, error: Error | None = None) -> Message:
        """Put a message together from its parts, as the engine does on both sides."""
        message = cls.__new__(cls)
        message.metadata = metadata
        message._content = content
        message._error = error
        return message

    @property
    def content(self) -> Any:
        """What the message carries. Raises ValueError where it carries an error."""
        if self._error is not None:
            raise ValueError(f"this reply carries an error, not content: {self._error}")
        return self._content

    @content.setter
    def content(self, value: Any) -> None:
        if self._error is not None:
            raise ValueError("this reply carries an error; content cannot be put beside it")
        self._content = value

    @property
    def error(self) -> Error:
        """Why there is no content. Raises ValueError where there is."""
        if self._error is None:
            raise ValueError("this message carries content, not an error")
        return self._error

    def has_content(self) -> bool:
        """Whether the message carries content."""
        return self._error is None

    def has_error(self) -> bool:
        """Whether the message carries an error."""
        return self._error is not None

    def __repr__(self) -> str:
        m = self.metadata
        what = f"error={self._error}" if self._error is not None else f"content={self._content!r}"
        return f"Message({m.message_type!r}, {m.src_node_id} -> {m.dst_node_id}, id={m.message_id!r}, {what})"

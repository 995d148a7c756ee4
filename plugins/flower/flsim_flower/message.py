"""Flower's Message, of the parts that the engine carries."""

from __future__ import annotations

from typing import Any, cast

from flwr.app import Error, Message, Metadata, RecordDict

import flsim

_MESSAGE = cast("Any", Message)  # whose argument `metadata` is of all versions, and not in its signatures


def restored(of: flsim.Metadata, ttl: float, content: RecordDict | None = None, error: Error | None = None) -> Message:
    """The Message that ``of`` is about.

    Args:
        ttl: seconds from ``of.created_at`` until it is no longer valid.
    """
    metadata = Metadata(
        run_id=of.run_id,
        message_id=of.message_id,
        src_node_id=of.src_node_id,
        dst_node_id=of.dst_node_id,
        reply_to_message_id=of.reply_to_message_id,
        group_id=of.group_id,
        created_at=of.created_at,
        ttl=ttl,
        message_type=of.message_type,
    )
    return cast("Message", _MESSAGE(metadata=metadata, content=content, error=error))

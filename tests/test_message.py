"""Message, Metadata and Error: how they are made, and what they refuse."""

from __future__ import annotations

import pickle
import time
from typing import Any

import pytest
from helpers import instruction

from flsim import Error, ErrorCode, Message, RecordDict

CODES = {
    "UNKNOWN": 0,
    "LOAD_CLIENT_APP_EXCEPTION": 1,
    "CLIENT_APP_RAISED_EXCEPTION": 2,
    "MESSAGE_UNAVAILABLE": 3,
    "WORKER_DIED": 101,
    "OUT_OF_MEMORY": 102,
    "TIME_LIMIT": 103,
    "TIMEOUT": 104,
    "MESSAGE_UNDECODABLE": 105,
    "REPLY_UNENCODABLE": 106,
    "REPLY_UNDECODABLE": 107,
    "REPLY_INVALID": 108,
    "REPLY_TOO_LARGE": 109,
    "CANCELLED": 110,
}


def test_an_instruction_goes_from_the_server_to_a_node_and_has_no_id_yet() -> None:
    content = RecordDict()
    before = time.time()
    message = Message(content, 5, "train", group_id="round 3")
    meta = message.metadata
    assert message.content is content
    assert (meta.src_node_id, meta.dst_node_id, meta.message_type, meta.group_id) == (1, 5, "train", "round 3")
    assert (meta.run_id, meta.message_id, meta.reply_to_message_id, meta.ttl) == (0, "", "", None)
    assert before <= meta.created_at <= time.time()


def test_destination_and_type_may_be_given_by_name() -> None:
    meta = Message(RecordDict(), message_type="query.look", dst_node_id=3).metadata
    assert (meta.dst_node_id, meta.message_type) == (3, "query.look")


def test_a_reply_goes_back_to_the_sender_and_names_what_it_answers() -> None:
    asked = instruction(node=9, type_="evaluate", id_="41")
    meta = Message(RecordDict(), reply_to=asked).metadata
    assert (meta.src_node_id, meta.dst_node_id) == (9, 1)
    assert (meta.message_type, meta.reply_to_message_id, meta.message_id) == ("evaluate", "41", "")
    assert (meta.run_id, meta.group_id) == (asked.metadata.run_id, asked.metadata.group_id)


def test_a_reply_may_be_of_another_group() -> None:
    assert Message(RecordDict(), reply_to=instruction(), group_id="mine").metadata.group_id == "mine"


@pytest.mark.parametrize(
    "given", [{"dst_node_id": 2}, {"message_type": "train"}, {"dst_node_id": 2, "message_type": "t"}]
)
def test_a_reply_takes_no_destination_and_no_type(given: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match="give reply_to alone"):
        Message(RecordDict(), reply_to=instruction(), **given)


@pytest.mark.parametrize("given", [{}, {"dst_node_id": 2}, {"message_type": "train"}])
def test_a_message_without_destination_or_type_is_refused_with_what_it_needs(given: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match="needs dst_node_id and message_type, a reply needs reply_to"):
        Message(RecordDict(), **given)


@pytest.mark.parametrize("ttl", [0, -1, -0.5, float("nan"), float("-inf")])
@pytest.mark.parametrize("where", [{"dst_node_id": 2, "message_type": "train"}, {"reply_to": instruction()}])
def test_a_ttl_that_is_not_positive_is_refused_by_value(ttl: float, where: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"must be positive, not {ttl!r}"):
        Message(RecordDict(), ttl=ttl, **where)


def test_a_ttl_is_kept_as_it_is_given() -> None:
    assert Message(RecordDict(), 2, "train", ttl=0.5).metadata.ttl == 0.5


def test_content_may_be_anything_even_nothing() -> None:
    message = Message(None, 2, "train")
    assert message.has_content()
    assert message.content is None


def test_content_can_be_put_in_its_place() -> None:
    message = Message(RecordDict(), 2, "train")
    message.content = "other"
    assert message.content == "other"
    assert message.has_content()
    assert not message.has_error()


def test_a_message_with_content_has_no_error() -> None:
    message = Message(RecordDict(), 2, "train")
    with pytest.raises(ValueError, match="carries content, not an error"):
        _ = message.error


def test_an_error_in_the_place_of_content_makes_an_error_reply() -> None:
    error = Error(42, "not today")
    refused = Message(error, reply_to=instruction())
    assert refused.error is error
    assert refused.has_error()
    assert not refused.has_content()


def test_the_content_of_an_error_reply_cannot_be_read_and_says_which_error_it_is() -> None:
    refused = Message(Error(int(ErrorCode.TIMEOUT), "too late"), reply_to=instruction())
    with pytest.raises(ValueError, match="carries an error, not content: TIMEOUT: too late"):
        _ = refused.content
    with pytest.raises(ValueError, match="content cannot be put beside it"):
        refused.content = RecordDict()


def test_the_codes_are_those_of_the_design() -> None:
    assert {c.name: c.value for c in ErrorCode} == CODES


def test_an_error_shows_the_name_of_its_code_and_a_made_up_one_as_a_number() -> None:
    assert str(Error(103, "slow")) == "TIME_LIMIT: slow"
    assert str(Error(4711, "mine")) == "4711: mine"


def test_an_error_needs_no_reason() -> None:
    error = Error(2)
    assert (error.reason, error.traceback) == ("", "")


def test_repr_shows_type_way_id_and_what_is_carried() -> None:
    assert (
        repr(instruction(node=4, id_="12", content="weights")) == "Message('train', 1 -> 4, id='12', content='weights')"
    )
    assert "error=WORKER_DIED: exit code 5" in repr(Message(Error(101, "exit code 5"), reply_to=instruction()))


@pytest.mark.parametrize("content", [RecordDict(), Error(2, "r", "t")], ids=["content", "error"])
def test_a_message_survives_pickling(content: RecordDict | Error) -> None:
    message = Message(content, reply_to=instruction(), ttl=3.0)
    again = pickle.loads(pickle.dumps(message))
    assert again.metadata == message.metadata
    assert again.has_error() == message.has_error()
    assert (again.error if again.has_error() else again.content) == content


def test_a_type_and_a_destination_that_changed_places_are_refused() -> None:
    with pytest.raises(TypeError):
        Message(RecordDict(), "train", 2)  # type: ignore[arg-type]  # which is what this is about


def test_an_error_can_only_be_a_reply() -> None:
    with pytest.raises(TypeError, match="reply_to"):
        Message(Error(2, "no"), 2, "train")

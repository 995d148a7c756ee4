"""Bytes: what is encoded comes back equal, what many carry is encoded once, what cannot be encoded is named."""

from __future__ import annotations

import asyncio
import pickle
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from flsim import (
    ArrayRecord,
    ClientApp,
    ConfigRecord,
    ErrorCode,
    Kind,
    Message,
    MetricRecord,
    RecordDict,
    Resources,
)
from flsim.envelope import Generators
from flsim.errors import BackendBroken, Cause, WorkerLost
from flsim.events import Observers
from flsim.fleet import Fleet
from flsim.linkstate import LinkState, _reply
from flsim.payload import EMPTY, Blob, Encoder, Piece, Share, Shared, blob_of, copies, copies_but_last
from flsim.pickling import INLINE, decode, encode, unencodable
from flsim.resources import Place
from flsim.testing.wrongs import Undecodable
from flsim.wire import Outcome, Packed, Terms, pack_lease

LARGE = INLINE // 8
"""Elements of a float64 array that travels in a buffer of its own; one less is in the pickle."""


def arrays(*arrays: NDArray[Any]) -> RecordDict:
    return RecordDict({"a": ArrayRecord(list(arrays))})


def encoded(*contents: Any) -> list[Blob]:
    """What one push of these contents carries."""
    encoder = Encoder()
    for content in contents:
        encoder.add(content)
    return encoder.finish()


class MadeAsNeeded:
    """Content whose pickle holds an array that nobody else holds, as that of many a library's objects does."""

    def __init__(self, value: float) -> None:
        self.value = value

    def __reduce__(self) -> tuple[Any, ...]:
        return list, (np.full(LARGE, self.value),)


class Unwilling:
    def __reduce__(self) -> tuple[Any, ...]:
        raise RuntimeError("not me")


def test_content_comes_back_equal() -> None:
    content = RecordDict(
        {
            "small": ArrayRecord({"w": np.arange(3)}),
            "large": ArrayRecord({"w": np.arange(10_000.0), "b": np.zeros((50, 60), np.float32)}),
            "m": MetricRecord({"loss": 0.5, "curve": [1.0, 2.0]}),
            "c": ConfigRecord({"on": True, "raw": b"\0\1"}),
        }
    )
    again = blob_of(content).decoded()
    assert again == content
    assert type(again) is RecordDict


@pytest.mark.parametrize("content", [None, 3, "text", {"a": [1, 2]}, MetricRecord({"a": 1}), b"x" * 10_000], ids=repr)
def test_the_content_may_be_anything_that_pickles(content: object) -> None:
    assert blob_of(content).decoded() == content


def test_what_only_this_script_defines_travels_by_value() -> None:
    factor = 3
    assert blob_of(lambda x: x * factor).decoded()(4) == 12


def test_arrays_travel_beside_the_pickle_and_small_ones_in_it() -> None:
    blob = blob_of(arrays(np.zeros(LARGE), np.zeros(LARGE - 1), np.ones(LARGE)))
    assert [memoryview(b).nbytes for b in blob.unshared] == [INLINE, INLINE]
    assert len(blob.pickled) < 2 * INLINE
    assert blob.nbytes == len(blob.pickled) + 2 * INLINE


def test_an_empty_state_is_no_bytes() -> None:
    assert EMPTY.nbytes == 0


@pytest.mark.parametrize(
    "array",
    [
        np.asfortranarray(np.arange(6000.0).reshape(60, 100)),
        np.arange(20_000.0)[::2],
        np.arange(6000.0).reshape(60, 100)[:, ::-1],
        np.arange(24_000.0).reshape(20, 30, 40).transpose(1, 2, 0),
        np.zeros((0, 1000)),
        np.array(7.0),
        np.array(["word"] * 2000),
        np.zeros(2000, "datetime64[s]"),
        np.zeros(2000, [("x", "f8"), ("y", "i4")]),
        np.arange(2000, dtype=">i4"),
        np.zeros(5000, bool),
    ],
    ids=lambda a: f"{a.dtype.kind}{a.shape}",
)
def test_an_array_of_any_layout_and_dtype_comes_back_equal(array: NDArray[Any]) -> None:
    again = blob_of(arrays(array)).decoded()["a"]["0"]
    assert (again.dtype, again.shape) == (array.dtype, array.shape)
    assert np.array_equal(again, array)


def test_decoded_arrays_are_read_only_views_of_the_buffers() -> None:
    blob = blob_of(arrays(np.arange(float(LARGE))))
    again = blob.decoded()["a"]["0"]
    assert np.shares_memory(again, np.frombuffer(blob.unshared[0]))
    assert not again.flags.writeable


def test_what_is_done_to_an_array_afterwards_is_not_seen() -> None:
    array = np.zeros(LARGE)
    blob = blob_of(arrays(array))
    array += 1
    assert not blob.decoded()["a"]["0"].any()


# ---- large bytes, and tensors


@pytest.mark.parametrize(
    "content",
    [
        RecordDict({"c": ConfigRecord({"raw": b"x" * INLINE, "n": 1})}),
        RecordDict({"c": ConfigRecord({"raws": [b"x" * INLINE, b"y" * INLINE, b"z"]})}),
        {"raw": b"x" * INLINE, "deep": [(b"y" * 2 * INLINE, np.arange(float(LARGE)))]},
        b"x" * INLINE,
    ],
    ids=["a value", "a list", "anything", "alone"],
)
def test_large_bytes_travel_beside_the_pickle(content: Any) -> None:
    blob = blob_of(content)
    assert len(blob.pickled) < INLINE
    assert repr(blob.decoded()) == repr(content)


def test_large_bytes_are_not_copied_where_they_are_encoded() -> None:
    raw = bytes(INLINE)
    assert blob_of({"raw": raw}).buffers[0] is raw


def test_an_array_that_lies_over_bytes_is_not_copied_and_one_over_a_part_of_them_is() -> None:
    raw = bytes(range(256)) * (INLINE // 128)
    whole, part = np.frombuffer(raw, np.uint8), np.frombuffer(raw, np.uint8, INLINE, 16)
    assert blob_of(arrays(whole)).buffers[0] is raw
    assert blob_of(arrays(part)).buffers[0] == raw[16 : 16 + INLINE]
    upside_down = np.ndarray((len(raw),), np.uint8, raw, len(raw) - 1, (-1,))
    assert blob_of(arrays(upside_down)).decoded()["a"]["0"].tobytes() == raw[::-1]
    columns = np.ndarray((64, len(raw) // 64), np.uint8, raw, 0, (1, 64))
    assert np.array_equal(blob_of(arrays(columns)).decoded()["a"]["0"], columns)


def test_the_same_bytes_in_one_content_travel_once() -> None:
    raw = bytes(INLINE)
    blob = blob_of([raw, raw])
    assert len(blob.buffers) == 1
    assert blob.decoded() == [raw, raw]


def test_large_bytes_that_come_in_memory_of_another_kind_are_bytes_again() -> None:
    pickled, beside = encode({"raw": b"x" * INLINE})
    assert decode(pickled, [memoryview(bytearray(beside[0]))]) == {"raw": b"x" * INLINE}


def test_a_function_whose_constants_are_large_bytes_travels_by_value() -> None:
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(f"def answer():\n    return {b'x' * INLINE!r}", names)
    assert blob_of(names["answer"]).decoded()() == b"x" * INLINE


def test_the_tensors_of_torch_travel_as_arrays_and_can_be_written_to() -> None:
    torch = pytest.importorskip("torch")
    layer = torch.nn.Linear(60, 60)
    many = torch.arange(16.0 * LARGE).reshape(4, -1)
    content = {
        "layer": layer,
        "part": many[1:3, ::2],
        "half": torch.ones(4 * LARGE, dtype=torch.bfloat16),
        "few": torch.tensor([True, False]),
        "none": torch.zeros(0, 3),
        "one": torch.tensor(3, dtype=torch.int64),
        "leaf": torch.ones(2 * LARGE, requires_grad=True),
    }
    blob = blob_of(content)
    assert len(blob.buffers) == 4
    assert len(blob.pickled) < 2 * INLINE
    again = blob.decoded()
    for key in content.keys() - {"layer"}:
        assert torch.equal(again[key], content[key]), key
        assert again[key].dtype == content[key].dtype
        assert again[key].requires_grad == content[key].requires_grad
    assert torch.equal(again["layer"].weight, layer.weight)
    assert again["layer"].weight.requires_grad
    again["half"][0] = 2
    assert content["half"][0] == 1


def test_a_tensor_that_many_contents_carry_is_shared() -> None:
    torch = pytest.importorskip("torch")
    weights, store = torch.zeros(2 * LARGE), Store()
    shared(store, {"w": weights, "node": 1}, {"w": weights, "node": 2})
    assert [(len(buffers), messages) for buffers, messages in store.given] == [(1, 2)]


# ---- one push


def test_content_that_many_messages_carry_is_encoded_once() -> None:
    content = arrays(np.zeros(LARGE))
    one, other = encoded(content, content)
    assert one is other


def test_equal_content_that_is_not_the_same_is_encoded_by_itself() -> None:
    one, other = encoded(arrays(np.zeros(LARGE)), arrays(np.zeros(LARGE)))
    assert one.buffers[0] is not other.buffers[0]


def test_an_array_that_different_contents_carry_is_copied_once() -> None:
    weights = np.arange(float(LARGE))
    contents = [arrays(weights) for _ in range(3)]
    for node, content in enumerate(contents):
        content["c"] = ConfigRecord({"node": node})
    blobs = encoded(*contents)
    assert len({id(b.buffers[0]) for b in blobs}) == 1
    assert [b.decoded()["c"]["node"] for b in blobs] == [0, 1, 2]


def test_views_of_one_array_keep_their_own_shape_dtype_and_part() -> None:
    base = np.arange(2.0 * LARGE)
    views = [base, base[:LARGE], base[LARGE:], base.reshape(2, -1), base.view(np.int64), base.reshape(2, -1).T]
    again = blob_of(arrays(*views)).decoded()["a"]
    for array, view in zip(again.values(), views, strict=True):
        assert (array.shape, array.dtype) == (view.shape, view.dtype)
        assert np.array_equal(array, view)


def test_contents_that_live_no_longer_than_their_message_are_not_mixed_up() -> None:
    encoder = Encoder()
    for i in range(50):
        encoder.add(arrays(np.full(LARGE, float(i))))
    assert [b.decoded()["a"]["0"][0] for b in encoder.finish()] == list(range(50))


def test_arrays_that_live_no_longer_than_the_encoding_are_not_mixed_up() -> None:
    encoder = Encoder()
    for i in range(50):
        encoder.add(MadeAsNeeded(i))
    assert [b.decoded()[0] for b in encoder.finish()] == list(range(50))


# ---- what is shared


class Store:
    """A backend's ``share``, and what it was given."""

    def __init__(self, most: int = 100) -> None:
        self.given: list[tuple[list[bytes], int]] = []
        self.closed = 0
        self._most = most

    def __call__(self, buffers: Sequence[memoryview], messages: int) -> Shared | None:
        if len(self.given) == self._most:
            raise BackendBroken("full")
        self.given.append(([bytes(b) for b in buffers], messages))
        return InStore(self)


class InStore(Shared):
    def __init__(self, store: Store) -> None:
        self._store = store

    def buffers(self) -> list[bytes]:
        return []

    def close(self) -> None:
        self._store.closed += 1


def shared(store: Share, *contents: Any) -> list[Blob]:
    encoder = Encoder()
    for content in contents:
        encoder.add(content)
    return encoder.finish(store)


def test_what_the_same_messages_carry_is_shared_together_once() -> None:
    one, two, own = np.zeros(LARGE), np.ones(LARGE), np.full(LARGE, 2.0)
    store = Store()
    both, other = shared(store, arrays(one, two), arrays(two, one, own))
    assert [(len(buffers), messages) for buffers, messages in store.given] == [(2, 2), (1, 1)]
    pieces = [p for p in other.buffers if isinstance(p, Piece)]
    assert [(p.carried is both.carried[0], p.at, p.nbytes) for p in pieces] == [
        (True, 1, INLINE),
        (True, 0, INLINE),
        (False, 0, INLINE),
    ]
    assert other.nbytes == len(other.pickled) + 3 * INLINE


def test_it_is_known_how_many_messages_carry_it() -> None:
    content, store = arrays(np.zeros(LARGE)), Store()
    shared(store, content, content, arrays(*content["a"].values()))
    assert [messages for _, messages in store.given] == [3]


def test_what_a_backend_does_not_share_is_copied() -> None:
    array = np.zeros(LARGE)
    (blob,) = shared(lambda buffers, messages: None, arrays(array))
    array += 1
    assert not blob.decoded()["a"]["0"].any()


def test_where_there_is_no_room_for_all_nothing_stays_shared() -> None:
    store = Store(most=2)
    with pytest.raises(BackendBroken, match="full"):
        shared(store, *(arrays(np.full(LARGE, float(i))) for i in range(3)))
    assert store.closed == 2


def test_what_is_shared_has_its_buffers_counted_in_a_lease() -> None:
    """Where the buffers of a lease are is counted as ``run_lease`` gets them, each shared one in its place."""
    model = [np.zeros(LARGE), np.ones(LARGE)]
    blobs = shared(Store(), arrays(*model), arrays(*model, np.full(LARGE, 2.0)))
    state = blob_of(arrays(np.full(LARGE, 3.0)))
    packed = [Packed(i, 2 + i, 0, "train", "", 0.0, None, blob, state) for i, blob in enumerate(blobs)]
    frames = pack_lease(packed, Terms(1, "", b"", 0, Generators.LEAVE))
    _, _, count, contents, messages = pickle.loads(frames.header)
    assert [type(b) for b in frames.buffers] == [InStore, bytes, InStore]
    assert count == 4
    assert [contents[at][1] for message in messages for at in message[-2:]] == [(0, 1), (2,), (0, 1, 3), (2,)]


def test_what_is_shared_stays_until_its_messages_have_ended_and_its_leases_are_back() -> None:
    store = Store()

    async def go() -> None:
        link = LinkState(Fleet([Kind("k", ClientApp(), 4)]), 1, asyncio.get_running_loop(), Observers([]))
        link.share = store
        link.set_places([Place("here", Resources(cpus=1), 1)])
        content = arrays(np.zeros(LARGE))
        ids = link.push([Message(content, node, "train") for node in (2, 3)], link.inbox())
        lease = await link.pull(0)
        assert lease is not None
        assert len(lease.entries) == 1
        link.cancel(ids, ErrorCode.CANCELLED, "")
        assert store.closed == 0, "a worker may be about to read what is gone"
        link.lost(lease, WorkerLost(Cause.LEFT))
        assert store.closed == 1
        link.push([Message(content, 4, "train")], link.inbox())
        link.close()
        assert store.closed == 2

    asyncio.run(go())


def test_a_push_into_a_run_that_has_failed_shares_nothing() -> None:
    store = Store()

    async def go() -> None:
        link = LinkState(Fleet([Kind("k", ClientApp(), 4)]), 1, asyncio.get_running_loop(), Observers([]))
        link.share = store
        link.fail(BackendBroken("gone"))
        with pytest.raises(BackendBroken, match="gone"):
            link.push([Message(arrays(np.zeros(LARGE)), 2, "train")], link.inbox())

    asyncio.run(go())
    assert (len(store.given), store.closed) == (1, 1)


# ---- what a worker keeps


def test_a_reply_is_kept_as_it_is_then() -> None:
    array = np.zeros(LARGE)
    raw = array.data.cast("B")
    kept = [copies([raw], last=True)[0], copies_but_last([raw], last=False)[0], copies_but_last([raw], last=True)[0]]
    array += 1
    assert [bool(np.frombuffer(b).any()) for b in kept] == [False, False, True]


def test_a_state_in_memory_of_its_own_does_not_hold_what_came_with_it() -> None:
    everything = memoryview(bytes(3 * INLINE))
    blob = Blob(b"", (everything[:INLINE],))
    assert blob.own().buffers == (bytes(INLINE),)
    assert type(blob.own().buffers[0]) is bytes


# ---- what cannot be encoded


def test_what_cannot_be_encoded_raises_its_own_error_and_leaves_the_encoder_usable() -> None:
    encoder = Encoder()
    with pytest.raises(RuntimeError, match="not me"):
        encoder.add({"x": Unwilling()})
    encoder.add({"x": 1})
    assert [b.decoded() for b in encoder.finish()] == [{"x": 1}]


def test_the_key_that_cannot_be_encoded_is_named_with_its_type_and_the_error() -> None:
    content = {"fine": 1, "lock": threading.Lock(), "also": Unwilling()}
    text = unencodable(content, TypeError("as raised"))
    assert text == "dict['lock'] (lock) cannot be encoded: TypeError: cannot pickle '_thread.lock' object"


def test_content_without_keys_that_cannot_be_encoded_is_named_by_its_type() -> None:
    assert unencodable(Unwilling(), RuntimeError("not me")) == "Unwilling cannot be encoded: RuntimeError: not me"


def test_a_reply_whose_decoding_exits_is_an_error() -> None:
    blob = blob_of(Undecodable())
    content, error = _reply(Outcome(1, None, blob, None, "", 0.0, 0.0, 0.0, 0.0, "", 0))
    assert content is None
    assert error is not None
    assert (error.code, error.reason) == (ErrorCode.REPLY_UNDECODABLE, "SystemExit: this cannot be decoded")

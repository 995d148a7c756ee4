"""Bytes: what is encoded comes back equal, what many carry is encoded once, what cannot be encoded is named."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from flsim import ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from flsim.payload import EMPTY, INLINE, Blob, Encoder, decode, encode, unencodable

LARGE = INLINE // 8
"""Elements of a float64 array that travels in a buffer of its own; one less is in the pickle."""


def arrays(*arrays: NDArray[Any]) -> RecordDict:
    return RecordDict({"a": ArrayRecord(list(arrays))})


def back(blob: Blob) -> Any:
    return decode(*blob)


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
    again = back(encode(content))
    assert again == content
    assert type(again) is RecordDict


@pytest.mark.parametrize("content", [None, 3, "text", {"a": [1, 2]}, MetricRecord({"a": 1}), b"x" * 10_000], ids=repr)
def test_the_content_may_be_anything_that_pickles(content: object) -> None:
    assert back(encode(content)) == content


def test_what_only_this_script_defines_travels_by_value() -> None:
    factor = 3
    assert back(encode(lambda x: x * factor))(4) == 12


def test_arrays_travel_beside_the_pickle_and_small_ones_in_it() -> None:
    blob = encode(arrays(np.zeros(LARGE), np.zeros(LARGE - 1), np.ones(LARGE)))
    assert [memoryview(b).nbytes for b in blob.buffers] == [INLINE, INLINE]
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
    again = back(encode(arrays(array)))["a"]["0"]
    assert (again.dtype, again.shape) == (array.dtype, array.shape)
    assert np.array_equal(again, array)


def test_decoded_arrays_are_read_only_views_of_the_buffers() -> None:
    blob = encode(arrays(np.arange(float(LARGE))))
    again = back(blob)["a"]["0"]
    assert np.shares_memory(again, np.frombuffer(blob.buffers[0]))
    assert not again.flags.writeable


def test_what_is_done_to_an_array_afterwards_is_not_seen() -> None:
    array = np.zeros(LARGE)
    blob = Encoder().encode(arrays(array))
    array += 1
    assert not back(blob)["a"]["0"].any()


def test_the_buffers_can_be_put_elsewhere_by_who_encodes() -> None:
    placed: list[bytearray] = []

    def place(raw: memoryview) -> bytearray:
        placed.append(bytearray(raw))
        return placed[-1]

    blob = encode(arrays(np.ones(LARGE)), place)
    assert blob.buffers[0] is placed[0]
    assert back(blob)["a"]["0"].sum() == LARGE


# ---- one push


def test_content_that_many_messages_carry_is_encoded_once() -> None:
    encoder = Encoder()
    content = arrays(np.zeros(LARGE))
    assert encoder.encode(content) is encoder.encode(content)


def test_equal_content_that_is_not_the_same_is_encoded_by_itself() -> None:
    encoder = Encoder()
    one, other = encoder.encode(arrays(np.zeros(LARGE))), encoder.encode(arrays(np.zeros(LARGE)))
    assert one.buffers[0] is not other.buffers[0]


def test_an_array_that_different_contents_carry_is_copied_once() -> None:
    encoder = Encoder()
    weights = np.arange(float(LARGE))
    blobs = []
    for node in range(3):
        content = arrays(weights)
        content["c"] = ConfigRecord({"node": node})
        blobs.append(encoder.encode(content))
    assert len({id(b.buffers[0]) for b in blobs}) == 1
    assert [back(b)["c"]["node"] for b in blobs] == [0, 1, 2]


def test_views_of_one_array_keep_their_own_shape_dtype_and_part() -> None:
    base = np.arange(2.0 * LARGE)
    views = [base, base[:LARGE], base[LARGE:], base.reshape(2, -1), base.view(np.int64), base.reshape(2, -1).T]
    again = back(Encoder().encode(arrays(*views)))["a"]
    for array, view in zip(again.values(), views, strict=True):
        assert (array.shape, array.dtype) == (view.shape, view.dtype)
        assert np.array_equal(array, view)


def test_contents_that_live_no_longer_than_their_message_are_not_mixed_up() -> None:
    encoder = Encoder()
    blobs = [encoder.encode(arrays(np.full(LARGE, float(i)))) for i in range(50)]
    assert [back(b)["a"]["0"][0] for b in blobs] == list(range(50))


def test_arrays_that_live_no_longer_than_the_encoding_are_not_mixed_up() -> None:
    encoder = Encoder()
    blobs = [encoder.encode(MadeAsNeeded(i)) for i in range(50)]
    assert [back(b)[0] for b in blobs] == list(range(50))


# ---- what cannot be encoded


def test_what_cannot_be_encoded_raises_its_own_error_and_leaves_the_encoder_usable() -> None:
    encoder = Encoder()
    with pytest.raises(RuntimeError, match="not me"):
        encoder.encode({"x": Unwilling()})
    assert back(encoder.encode({"x": 1})) == {"x": 1}


def test_the_key_that_cannot_be_encoded_is_named_with_its_type_and_the_error() -> None:
    content = {"fine": 1, "lock": threading.Lock(), "also": Unwilling()}
    text = unencodable(content, TypeError("as raised"))
    assert text == "dict['lock'] (lock) cannot be encoded: TypeError: cannot pickle '_thread.lock' object"


def test_content_without_keys_that_cannot_be_encoded_is_named_by_its_type() -> None:
    assert unencodable(Unwilling(), RuntimeError("not me")) == "Unwilling cannot be encoded: RuntimeError: not me"

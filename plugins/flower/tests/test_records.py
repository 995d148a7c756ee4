"""What Flower's records are on the way, and the Array that lies where it arrived."""

from __future__ import annotations

import copy
import dataclasses
import io
import pickle
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from flwr.common.serde import array_from_proto, array_to_proto

from flsim.payload import blob_of
from flsim_flower.array import MappedArray, make_arrays_fast, raw_of
from flsim_flower.records import pack, plain, unpack

RNG = np.random.default_rng(1)
ARRAYS: dict[str, Any] = {
    "float": RNG.normal(size=(40, 50)),
    "half": RNG.normal(size=3000).astype(np.float16),
    "complex": RNG.normal(size=600) + 1j,
    "bool": RNG.normal(size=9000) > 0,
    "big-endian": RNG.normal(size=900).astype(">f8"),
    "fortran": np.asfortranarray(RNG.normal(size=(30, 40, 2))),
    "transposed": RNG.normal(size=(60, 30)).T,
    "strided": RNG.normal(size=(2000, 3))[::2, 1],
    "text": np.array(["a", "bc"] * 1000),
    "dates": np.arange(2000).astype("datetime64[s]"),
    "structured": np.zeros(700, dtype=[("a", "f4"), ("b", "i2", 3)]),
    "small": np.arange(5),
    "one": np.array(3.5),
    "none": np.zeros((0, 4)),
}


def saved(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()


def original(array: Any) -> Array:
    """As Flower makes it."""
    return Array(str(array.dtype), tuple(array.shape), "numpy.ndarray", saved(array))


def mapped(array: Array) -> MappedArray:
    return MappedArray.over(array.dtype, array.shape, array.stype, np.frombuffer(array.data, np.uint8))


def travelled(records: RecordDict) -> RecordDict:
    """As it arrives: over memory that may not be written to."""
    blob = blob_of(pack(records))
    made = blob._replace(buffers=tuple(memoryview(bytes(b)).toreadonly() for b in blob.unshared))
    return unpack(made.decoded())


# ---- on the way


def test_records_arrive_as_they_were() -> None:
    records = RecordDict({
        "weights": ArrayRecord({k: original(a) for k, a in ARRAYS.items()}),
        "config": ConfigRecord({"a": 1, "b": 2.5, "c": "x", "d": b"y" * 9000, "e": True, "f": [1, 2], "g": ["p", "q"]}),
        "metrics": MetricRecord({"m": 1, "n": 0.5, "o": [1.5, 2.5]}),
        "nothing": ArrayRecord(),
    })  # fmt: skip
    got: Any = travelled(records)
    assert got == records
    assert list(got) == list(records)
    assert list(got["weights"]) == list(ARRAYS)
    assert type(got["config"]["e"]) is bool
    for name, array in ARRAYS.items():
        assert np.array_equal(got["weights"][name].numpy(), array)


def test_no_records_cost_nothing() -> None:
    assert not pack(RecordDict())
    assert unpack(pack(RecordDict())) == RecordDict()


def test_large_arrays_lie_where_they_arrived_and_are_sent_on_from_there() -> None:
    records = RecordDict({"weights": ArrayRecord({"w": original(ARRAYS["float"])})})
    got = travelled(records)
    assert type(got["weights"]["w"]) is MappedArray
    again = pack(got)["arrays"]["0"]
    assert np.shares_memory(again, raw_of(got["weights"]["w"]))
    assert "data" not in vars(got["weights"]["w"])


def test_an_array_travels_also_after_its_object_id_was_asked_for() -> None:
    """Flower then keeps views in it that cannot be pickled."""
    array = original(ARRAYS["float"])
    assert array.object_id
    records = RecordDict({"w": ArrayRecord({"w": array, "s": original(ARRAYS["small"])})})
    assert records["w"].object_id
    assert travelled(records) == records


def test_a_result_has_numpys_arrays() -> None:
    records = RecordDict({
        "weights": ArrayRecord([ARRAYS["float"]]),
        "metrics": MetricRecord({"m": 1}),
        "config": ConfigRecord({"c": b"d"}),
        "opaque": ArrayRecord({"x": Array("", (), "mine", b"123")}),
    })  # fmt: skip
    got = plain(records)
    assert np.array_equal(got["weights"]["0"], ARRAYS["float"])
    assert (got["metrics"]["m"], got["config"]["c"], got["opaque"]["x"].tobytes()) == (1, b"d", b"123")


# ---- an Array over memory that is not its own


@pytest.mark.parametrize("name", ARRAYS)
def test_a_mapped_array_is_flowers_in_all_that_can_be_seen(name: str) -> None:
    theirs = original(ARRAYS[name])
    uses: tuple[Callable[[Any], Any], ...] = (
        lambda a: a.numpy(),
        lambda a: a.data,
        lambda a: (a.dtype, a.shape, a.stype),
        lambda a: a.object_id,
        lambda a: a.deflate(),
        lambda a: array_from_proto(array_to_proto(a)),
        lambda a: pickle.loads(pickle.dumps(a)),
        lambda a: pickle.loads(pickle.dumps(a, protocol=5)),
        lambda a: copy.deepcopy(a),
        lambda a: copy.copy(a),
        lambda a: ArrayRecord({"a": a}),
        lambda a: ArrayRecord({"a": a}).object_id,
        lambda a: ArrayRecord({"a": a}).count_bytes(),
    )
    for use in uses:
        got, expected = use(mapped(theirs)), use(original(ARRAYS[name]))  # anew: to ask for its id changes it
        if isinstance(expected, np.ndarray):
            assert np.array_equal(got, expected)
            assert (got.dtype, got.shape, got.flags.c_contiguous, got.flags.f_contiguous) == (
                expected.dtype, expected.shape, expected.flags.c_contiguous, expected.flags.f_contiguous,
            )  # fmt: skip
        else:
            assert got == expected
    assert isinstance(mapped(theirs), Array)
    assert mapped(theirs) == theirs
    assert theirs == mapped(theirs)
    assert repr(mapped(theirs)) == repr(theirs)


def test_what_an_app_reads_from_a_mapped_array_is_its_own_to_write_into() -> None:
    array = mapped(original(ARRAYS["float"]))
    array.numpy()[:] = 0
    assert np.array_equal(array.numpy(), ARRAYS["float"])


def test_the_data_of_a_mapped_array_can_be_replaced() -> None:
    array = mapped(original(ARRAYS["float"]))
    assert array.object_id == original(ARRAYS["float"]).object_id
    array.data = saved(ARRAYS["small"])
    assert np.array_equal(array.numpy(), ARRAYS["small"])
    assert array.object_id != original(ARRAYS["float"]).object_id


def test_a_mapped_array_of_objects_or_of_nonsense_is_refused_as_flowers_is() -> None:
    file = io.BytesIO()
    np.save(file, np.array([{}, 1], dtype=object), allow_pickle=True)
    for data in (file.getvalue(), b"\x93NUMPY\x09\x00 nonsense", b"short"):
        theirs = Array("x", (2,), "numpy.ndarray", data)
        with pytest.raises((ValueError, EOFError)) as expected:
            theirs.numpy()
        with pytest.raises((ValueError, EOFError)) as got:
            mapped(theirs).numpy()
        assert str(got.value) == str(expected.value)


def test_many_threads_may_read_a_mapped_array_at_once() -> None:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)  # so that they meet
    try:
        with ThreadPoolExecutor(4) as pool:
            for _ in range(300):
                array = mapped(original(ARRAYS["small"]))
                started = threading.Barrier(4)

                def read(array: Array = array, started: threading.Barrier = started) -> tuple[bytes, int]:
                    started.wait()
                    return array.data, raw_of(array).nbytes

                datas = [f.result() for f in [pool.submit(read) for _ in range(4)]]
                assert set(datas) == {(saved(ARRAYS["small"]), len(saved(ARRAYS["small"])))}
    finally:
        sys.setswitchinterval(before)


def test_more_arrays_can_be_made_of_a_mapped_ones_type() -> None:
    array = mapped(original(ARRAYS["float"]))
    assert dataclasses.replace(array, stype="mine").stype == "mine"
    assert type(array)(ARRAYS["small"]) == original(ARRAYS["small"])


def test_an_array_that_numpy_cannot_read_is_in_a_result_as_its_bytes() -> None:
    records = RecordDict({"odd": ArrayRecord({"x": Array("", (), "numpy.ndarray", b"{no array}")})})
    assert plain(records)["odd"]["x"].tobytes() == b"{no array}"


def test_an_array_of_another_serialization_is_refused_as_flowers_is() -> None:
    with pytest.raises(TypeError, match="mine"):
        mapped(Array("x", (2,), "mine", b"12")).numpy()


# ---- Arrays made of numpy's


@pytest.mark.parametrize("name", ARRAYS)
def test_an_array_that_is_made_by_one_copy_has_the_bytes_of_flowers(name: str) -> None:
    make_arrays_fast()
    array = ARRAYS[name]
    made = Array(array)
    assert (made.dtype, made.shape, made.stype, made.data) == (
        str(array.dtype), array.shape, "numpy.ndarray", saved(array),
    )  # fmt: skip
    assert type(made) is type(Array.from_numpy_ndarray(array)) is Array
    assert ArrayRecord([array])["0"] == made


def test_what_is_no_array_is_refused_as_flower_refuses_it() -> None:
    make_arrays_fast()
    with pytest.raises(AssertionError, match="Expected NumPy ndarray"):
        Array.from_numpy_ndarray([1, 2])  # type: ignore[arg-type]  # which is what this is about

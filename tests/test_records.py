"""The records: what they take, what they refuse, what reading them gives, and how they travel."""

from __future__ import annotations

import copy
import pickle
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from flsim import ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from flsim.result import digest

RECORDS = [ArrayRecord, MetricRecord, ConfigRecord, RecordDict]

FILLED: list[Callable[[], Any]] = [
    lambda: ArrayRecord({"w": np.arange(3.0), "b": np.zeros((2, 2), np.float32)}),
    lambda: MetricRecord({"loss": 0.5, "n": 3, "curve": [1.0, 2.0]}),
    lambda: ConfigRecord({"on": True, "n": 3, "rate": 0.1, "name": "x", "raw": b"\0", "list": ["a", "b"]}),
    lambda: RecordDict({"m": MetricRecord({"n": 1}), "a": ArrayRecord([np.ones(2)]), "c": ConfigRecord({"k": "v"})}),
]

filled = pytest.mark.parametrize("make", FILLED, ids=["arrays", "metrics", "config", "records"])


class Tensor:
    """What records see of a torch tensor."""

    def __init__(self, array: NDArray[Any], problem: str = "") -> None:
        self.array = array
        self.problem = problem

    def detach(self) -> Tensor:
        return self

    def cpu(self) -> Tensor:
        return self

    def numpy(self) -> NDArray[Any]:
        if self.problem:
            raise TypeError(self.problem)
        return self.array


# ---- all of them


@pytest.mark.parametrize("record", RECORDS)
def test_a_key_that_is_no_str_is_refused_by_name(record: type[Any]) -> None:
    with pytest.raises(TypeError, match=rf"{record.__name__} keys are str, not int: 3"):
        record()[3] = np.zeros(1)


@filled
def test_a_record_is_a_dict_in_the_order_given(make: Callable[[], Any]) -> None:
    record = make()
    names = list(record)
    assert len(record) == len(names)
    assert list(record.keys()) == [k for k, _ in record.items()] == names
    last = record.pop(names[-1])
    assert names[-1] not in record
    record[names[-1]] = last
    assert list(record) == names
    assert record.get("there is none") is None
    with pytest.raises(KeyError, match="there is none"):
        record["there is none"]


@filled
def test_equal_records_are_equal_and_others_are_not(make: Callable[[], Any]) -> None:
    one, other = make(), make()
    assert one == other
    del other[next(iter(other))]
    assert one != other


@filled
def test_a_record_cannot_be_hashed(make: Callable[[], Any]) -> None:
    with pytest.raises(TypeError, match="unhashable"):
        hash(make())


@filled
def test_a_record_survives_pickling(make: Callable[[], Any]) -> None:
    record = make()
    again = pickle.loads(pickle.dumps(record))
    assert type(again) is type(record)
    assert again == record
    assert list(again) == list(record)


@filled
@pytest.mark.parametrize("how", [lambda r: r.copy(), copy.deepcopy], ids=["copy", "deepcopy"])
def test_a_copy_is_a_record_of_its_own(make: Callable[[], Any], how: Callable[[Any], Any]) -> None:
    record = make()
    other = how(record)
    assert type(other) is type(record)
    assert other == record
    del other[next(iter(other))]
    assert record == make()


@pytest.mark.parametrize("make", FILLED[:3], ids=["arrays", "metrics", "config"])
def test_copy_copy_gives_a_record_of_its_own(make: Callable[[], Any]) -> None:
    record = make()
    other = copy.copy(record)
    del other[next(iter(other))]
    assert record == make()


def test_a_list_in_a_copy_is_its_own() -> None:
    record = MetricRecord({"curve": [1.0]})
    curve = record.copy()["curve"]
    curve.append(2.0)
    assert record["curve"] == [1.0]


# ---- arrays


def test_a_sequence_of_arrays_is_named_by_its_positions() -> None:
    arrays = [np.full(2, i) for i in range(12)]
    for record in (ArrayRecord(arrays), ArrayRecord(tuple(arrays)), ArrayRecord.from_numpy_ndarrays(iter(arrays))):
        assert list(record) == [str(i) for i in range(12)]
        assert [int(a[0]) for a in record.values()] == list(range(12))


def test_nothing_makes_an_empty_record() -> None:
    assert list(ArrayRecord()) == list(ArrayRecord([])) == list(ArrayRecord({})) == []


def test_an_array_is_kept_uncopied_and_read_only_while_the_original_stays_writable() -> None:
    original = np.zeros(3)
    record = ArrayRecord({"w": original})
    assert np.shares_memory(record["w"], original)
    with pytest.raises(ValueError, match="read-only"):
        record["w"][0] = 1
    original[0] = 1
    assert original.flags.writeable


def test_shape_dtype_and_memory_order_are_kept() -> None:
    given = np.asfortranarray(np.arange(6, dtype=np.int16).reshape(2, 3))
    kept = ArrayRecord({"w": given})["w"]
    assert (kept.shape, kept.dtype, kept.flags.f_contiguous) == ((2, 3), np.dtype(np.int16), True)


def test_a_numpy_scalar_becomes_an_array_without_dimensions() -> None:
    kept = ArrayRecord({"x": np.float32(0.5)})["x"]
    assert (kept.shape, kept.dtype) == ((), np.dtype(np.float32))


def test_to_numpy_ndarrays_gives_copies_to_write_into() -> None:
    record = ArrayRecord([np.zeros(2), np.ones(2)])
    first, second = record.to_numpy_ndarrays()
    first += 7
    second += 7
    assert [a.tolist() for a in record.values()] == [[0, 0], [1, 1]]


def test_to_numpy_ndarrays_without_copy_gives_read_only_views() -> None:
    record = ArrayRecord([np.zeros(2)])
    (view,) = record.to_numpy_ndarrays(copy=False)
    assert np.shares_memory(view, record["0"])
    assert not view.flags.writeable


@pytest.mark.parametrize("value", [[1.0, 2.0], 1.0, "w", None, b"bytes"], ids=repr)
def test_what_is_no_array_is_refused_by_name_and_type(value: object) -> None:
    with pytest.raises(TypeError, match=rf"array 'w' is a numpy array or a torch tensor, not {type(value).__name__}"):
        ArrayRecord({"w": value})


def test_an_array_of_python_objects_is_refused_by_name() -> None:
    with pytest.raises(TypeError, match="array 'w' has dtype object; Python objects cannot be sent"):
        ArrayRecord({"w": np.array([None])})
    with pytest.raises(TypeError, match=r"array 'w' has dtype .*'O'"):
        ArrayRecord({"w": np.zeros(2, [("a", float), ("b", object)])})


def test_one_array_in_the_place_of_a_sequence_of_them_is_refused() -> None:
    with pytest.raises(TypeError):
        ArrayRecord(np.zeros((3, 2)))  # type: ignore[arg-type]  # which is what this is about


def test_a_torch_state_dict_is_taken_without_importing_torch() -> None:
    state = {"layer.weight": Tensor(np.ones((2, 2), np.float32)), "layer.bias": Tensor(np.zeros(2, np.float32))}
    for record in (ArrayRecord(state), ArrayRecord.from_torch_state_dict(state)):
        assert list(record) == ["layer.weight", "layer.bias"]
        assert record["layer.weight"].dtype == np.float32


def test_a_tensor_that_numpy_has_no_dtype_for_is_refused_by_name() -> None:
    tensor = Tensor(np.zeros(1), "Got unsupported ScalarType BFloat16")
    with pytest.raises(TypeError, match="array 'w': Got unsupported ScalarType BFloat16; convert it"):
        ArrayRecord({"w": tensor})


@pytest.mark.parametrize("copies", [True, False])
def test_to_torch_state_dict_gives_tensors_by_name(copies: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(from_numpy=Tensor))
    record = ArrayRecord({"w": np.ones(2)})
    state = record.to_torch_state_dict(copy=copies)
    assert list(state) == ["w"]
    assert np.shares_memory(state["w"].array, record["w"]) is not copies
    assert state["w"].array.flags.writeable is copies


def test_arrays_are_equal_when_names_order_dtypes_shapes_and_values_are() -> None:
    record = ArrayRecord({"a": np.zeros(2), "b": np.ones(2)})
    assert record == ArrayRecord({"a": np.zeros(2), "b": np.ones(2)})
    assert record != ArrayRecord({"b": np.ones(2), "a": np.zeros(2)})
    assert record != ArrayRecord({"a": np.zeros(2), "b": np.zeros(2)})
    assert record != ArrayRecord({"a": np.zeros(2), "b": np.ones(2, np.float32)})
    assert record != ArrayRecord({"a": np.zeros(2), "b": np.ones((1, 2))})


def test_arrays_are_not_equal_to_metrics() -> None:
    assert ArrayRecord({"a": np.zeros(2)}) != MetricRecord({"a": 0.0})


def test_metrics_are_not_equal_to_a_config() -> None:
    assert MetricRecord({"a": 1}) != ConfigRecord({"a": 1})


@pytest.mark.parametrize("size", [3, 100_000], ids=["small", "large"])
@pytest.mark.parametrize("out_of_band", [False, True], ids=["in-band", "out-of-band"])
def test_arrays_are_read_only_after_the_way(size: int, out_of_band: bool) -> None:
    record = RecordDict({"a": ArrayRecord({"w": np.arange(size)})})
    buffers: list[pickle.PickleBuffer] = []
    pickled = pickle.dumps(record, protocol=5, buffer_callback=buffers.append if out_of_band else None)
    again = pickle.loads(pickled, buffers=[bytearray(b.raw()) for b in buffers])  # writable, as of some transports
    assert again == record
    assert len(buffers) == out_of_band
    with pytest.raises(ValueError, match="read-only"):
        again["a"]["w"][0] = 7


# ---- metrics


@pytest.mark.parametrize("value", [1, -3, 0.5, float("inf"), [1, 2], [0.5, 1.5], []], ids=repr)
def test_a_metric_is_a_number_or_a_list_of_numbers(value: Any) -> None:
    assert MetricRecord({"m": value})["m"] == value


def test_a_tuple_of_numbers_becomes_a_list() -> None:
    assert MetricRecord({"m": (1, 2)})["m"] == [1, 2]


@pytest.mark.parametrize("value", [np.float32(0.5), np.float16(2), np.int64(3), np.uint8(4), np.array(0.5)], ids=repr)
def test_a_numpy_scalar_becomes_a_python_number(value: Any) -> None:
    assert type(MetricRecord({"m": value})["m"]) in (int, float)
    assert MetricRecord({"m": [value]})["m"] == [value.item()]


def test_a_numpy_float64_becomes_a_python_float() -> None:
    record = MetricRecord({"m": np.float64(0.5), "list": [np.float64(0.5)]})
    assert type(record["m"]) is float
    assert digest(RecordDict({"m": record})) == digest(RecordDict({"m": MetricRecord({"m": 0.5, "list": [0.5]})}))


@pytest.mark.parametrize(
    ("value", "type_"),
    [
        (True, "bool"),
        ("0.5", "str"),
        (None, "NoneType"),
        (1j, "complex"),
        (np.zeros(2), "ndarray"),
        (np.bool_(1), "bool"),
        ({"a": 1}, "dict"),
        ([True], "bool"),
        ([[1.0]], "list"),
        ([1.0, "x"], "str"),
    ],
    ids=repr,
)
def test_what_is_no_number_is_refused_by_name_and_type(value: object, type_: str) -> None:
    with pytest.raises(TypeError, match=rf"metric 'm' is an int, a float or a list of them, not {type_}"):
        MetricRecord({"m": value})


def test_a_wrong_metric_leaves_the_record_as_it_was() -> None:
    record = MetricRecord({"m": 1})
    with pytest.raises(TypeError):
        record["m"] = "x"
    assert record["m"] == 1


# ---- config


@pytest.mark.parametrize("value", [True, 3, 0.5, "x", b"x", [1, "a", False, b""], []], ids=repr)
def test_a_config_value_is_a_scalar_or_a_list_of_scalars(value: Any) -> None:
    kept = ConfigRecord({"k": value})["k"]
    assert kept == value
    assert type(kept) is type(value)


def test_a_list_is_copied_when_it_is_put_in() -> None:
    values = [1, 2]
    record = ConfigRecord({"k": values})
    values.append(3)
    assert record["k"] == [1, 2]


@pytest.mark.parametrize("value", [None, {"a": 1}, 1j, [None], [[1]], np.zeros(2)], ids=repr)
def test_another_config_value_is_refused_by_name_and_type(value: object) -> None:
    with pytest.raises(TypeError, match=rf"config 'k' is a bool, int, .*not {type(value).__name__}"):
        ConfigRecord({"k": value})


@pytest.mark.parametrize("value", [np.float64(0.5), np.str_("x"), np.int64(3), np.float32(0.5)], ids=repr)
def test_a_numpy_scalar_becomes_a_python_scalar_in_a_config(value: Any) -> None:
    assert type(ConfigRecord({"k": value})["k"]) in (int, float, str)


# ---- records of records


@pytest.mark.parametrize("value", [{"a": 1}, np.zeros(2), 1, None, RecordDict()], ids=lambda v: type(v).__name__)
def test_what_is_no_record_is_refused_by_name_and_type(value: object) -> None:
    text = rf"record 'r' is an ArrayRecord, MetricRecord or ConfigRecord, not {type(value).__name__}"
    with pytest.raises(TypeError, match=text):
        RecordDict({"r": value})


def test_records_can_be_had_by_kind_in_their_order() -> None:
    content = RecordDict(
        {"m2": MetricRecord(), "a": ArrayRecord(), "m1": MetricRecord(), "c": ConfigRecord(), "b": ArrayRecord()}
    )
    assert list(content.array_records) == ["a", "b"]
    assert list(content.metric_records) == ["m2", "m1"]
    assert list(content.config_records) == ["c"]
    assert content.metric_records["m1"] is content["m1"]


def test_what_is_put_into_the_records_of_a_kind_is_in_the_content() -> None:
    content = RecordDict()
    content.metric_records["m"] = MetricRecord({"n": 1})
    assert "m" in content


# ---- the digest


def test_the_digest_tells_apart_what_differs_in_any_part() -> None:
    def of(**records: ArrayRecord | MetricRecord | ConfigRecord) -> str:
        return digest(RecordDict(records))

    zeros = np.zeros(6, np.float32)
    digests = [
        of(),
        of(a=ArrayRecord()),
        of(a=MetricRecord()),
        of(a=ArrayRecord({"w": zeros})),
        of(b=ArrayRecord({"w": zeros})),
        of(a=ArrayRecord({"v": zeros})),
        of(a=ArrayRecord({"w": zeros.reshape(2, 3)})),
        of(a=ArrayRecord({"w": zeros.view(np.int32)})),
        of(a=ArrayRecord({"w": zeros.astype(">f4")})),
        of(a=ArrayRecord({"w": -zeros})),
        of(a=MetricRecord({"w": 1})),
        of(a=MetricRecord({"w": 1.0})),
        of(a=MetricRecord({"w": [1]})),
        of(a=ConfigRecord({"w": 1})),
        of(a=ConfigRecord({"w": True})),
        of(a=ConfigRecord({"w": "1"})),
        of(a=ConfigRecord({"w": b"1"})),
        of(a=MetricRecord({"w": 1, "v": 2})),
        of(a=MetricRecord({"v": 2, "w": 1})),
        of(a=MetricRecord(), b=MetricRecord()),
        of(b=MetricRecord(), a=MetricRecord()),
    ]
    assert len(set(digests)) == len(digests)


def test_the_digest_is_of_the_values_and_not_of_how_they_lie_in_memory() -> None:
    array = np.arange(6.0).reshape(2, 3)
    layouts = [array, np.asfortranarray(array), np.repeat(array, 2, axis=1)[:, ::2]]
    assert len({digest(RecordDict({"a": ArrayRecord({"w": a})})) for a in layouts}) == 1


@pytest.mark.parametrize("array", [np.zeros((0, 3)), np.array(1.5), np.array(["a", "b"]), np.zeros(2, bool)], ids=repr)
def test_the_digest_takes_arrays_of_any_shape_and_dtype(array: NDArray[Any]) -> None:
    assert len(digest(RecordDict({"a": ArrayRecord({"w": array})}))) == 64


@pytest.mark.parametrize("dtype", ["datetime64[s]", "timedelta64[s]"])
def test_the_digest_takes_arrays_of_times(dtype: str) -> None:
    assert len(digest(RecordDict({"a": ArrayRecord({"w": np.zeros(2, dtype)})}))) == 64

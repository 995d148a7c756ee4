"""weighted_mean: what it computes, in which precision and order, and what it refuses."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from helpers import reply
from numpy.typing import NDArray

from flsim import ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict, weighted_mean
from flsim.errors import NoReplies


def content(weight: Any, array: NDArray[Any] | None = None, **metrics: Any) -> RecordDict:
    """Content with one metric record, that has the weight, and an array where one is given."""
    made = RecordDict({"metrics": MetricRecord({"num-examples": weight, **metrics})})
    if array is not None:
        made["arrays"] = ArrayRecord({"w": array})
    return made


def replies(*contents: RecordDict) -> list[Message]:
    """A reply of node 2, 3, … each."""
    return [reply(node, c) for node, c in enumerate(contents, 2)]


def mean_of(*arrays: NDArray[Any], weights: list[float] | None = None) -> NDArray[Any]:
    weights = weights or [1.0] * len(arrays)
    mean = weighted_mean(replies(*(content(w, a) for w, a in zip(weights, arrays, strict=True))))
    return mean.array_records["arrays"]["w"]


def test_arrays_and_metrics_are_averaged_by_weight() -> None:
    mean = weighted_mean(
        replies(content(1, np.array([0.0, 4.0]), loss=1.0), content(3, np.array([4.0, 0.0]), loss=0.0))
    )
    assert mean["arrays"]["w"].tolist() == [3.0, 1.0]
    assert dict(mean["metrics"]) == {"loss": 0.25}


def test_the_mean_is_numpys_average() -> None:
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal((3, 4)) for _ in range(7)]
    weights = rng.integers(1, 100, 7).tolist()
    np.testing.assert_allclose(
        mean_of(*arrays, weights=weights), np.average(arrays, axis=0, weights=weights), rtol=1e-14
    )


def test_several_records_and_arrays_keep_their_names_and_order() -> None:
    made = RecordDict(
        {
            "b": ArrayRecord({"z": np.ones(2), "a": np.ones((1, 2))}),
            "m": MetricRecord({"num-examples": 2, "curve": [1.0, 2.0], "n": 4}),
            "a": ArrayRecord({"y": np.ones(3)}),
            "more": MetricRecord({"acc": 0.5}),
        }
    )
    mean = weighted_mean(replies(made, made))
    assert {name: list(record) for name, record in mean.items()} == {
        "b": ["z", "a"],
        "a": ["y"],
        "m": ["curve", "n"],
        "more": ["acc"],
    }
    assert dict(mean["m"]) == {"curve": [1.0, 2.0], "n": 4.0}
    assert type(mean["m"]["n"]) is float


def test_configs_are_left_out_and_may_differ() -> None:
    one, other = content(1, loss=1.0), content(1, loss=3.0)
    other["config"] = ConfigRecord({"who": "me"})
    assert list(weighted_mean(replies(one, other))) == ["metrics"]


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "complex64", "int32", "int64", "uint8"])
def test_arrays_keep_their_dtype(dtype: str) -> None:
    assert mean_of(np.ones(3, dtype), np.ones(3, dtype)).dtype == dtype


def test_arrays_without_dimensions_and_without_elements_are_averaged() -> None:
    assert mean_of(np.array(1.0), np.array(3.0)).tolist() == 2.0
    assert mean_of(np.zeros((0, 3)), np.zeros((0, 3))).shape == (0, 3)


def test_sums_are_kept_in_float64() -> None:
    tiny = np.float32(2.0**-24)
    arrays = [np.ones(1, np.float32), *[np.full(1, tiny)] * 1024]
    assert mean_of(*arrays)[0] == np.float32((1 + 1024 * 2.0**-24) / 1025)


def test_float16_does_not_overflow_in_the_sum() -> None:
    big = np.full(1, 60_000, np.float16)
    assert mean_of(big, big, weights=[1000.0, 1000.0])[0] == np.float16(60_000)


def test_whole_numbers_are_rounded_and_not_cut() -> None:
    assert mean_of(np.array([1, 0]), np.array([2, 0]), np.array([2, 1])).tolist() == [2, 0]


def test_a_bool_array_is_the_majority() -> None:
    mean = mean_of(np.array([True, True]), np.array([True, False]), np.array([True, False]))
    assert mean.tolist() == [True, False]


def test_the_replies_are_left_as_they_were() -> None:
    array = np.ones(3)
    given = replies(content(1, array, loss=1.0), content(3, array * 3, loss=2.0))
    weighted_mean(given)
    assert array.tolist() == [1, 1, 1]
    assert given[0].content == content(1, np.ones(3), loss=1.0)


def test_the_sum_is_in_the_order_given() -> None:
    arrays = [np.array([x]) for x in (1e16, 1.0, -1e16, 1.0)]
    given = replies(*(content(1, a) for a in arrays))
    in_order = weighted_mean(given)["arrays"]["w"][0]
    assert in_order == (((1e16 + 1.0) - 1e16) + 1.0) / 4
    assert in_order != weighted_mean(sorted(given, key=lambda r: float(r.content["arrays"]["w"][0])))["arrays"]["w"][0]


def test_replies_are_taken_one_by_one() -> None:
    def stream() -> Iterator[Message]:
        for message in replies(*(content(1, np.ones(2)) for _ in range(5))):
            yield message
            message.content = RecordDict()  # whoever kept the message would find nothing in it

    assert weighted_mean(stream())["arrays"]["w"].tolist() == [1, 1]


def test_the_weight_may_have_another_name_and_be_a_fraction() -> None:
    made = [RecordDict({"m": MetricRecord({"share": w, "loss": x})}) for w, x in ((0.25, 1.0), (0.75, 5.0))]
    assert weighted_mean(replies(*made), weighted_by_key="share")["m"]["loss"] == 4.0


def test_a_reply_of_weight_zero_counts_for_nothing() -> None:
    assert mean_of(np.array([1.0]), np.array([9.0]), weights=[2.0, 0.0])[0] == 1.0


# ---- errors among the replies


def test_errors_are_skipped() -> None:
    given = [reply(2, Error(103, "slow")), reply(3, content(1, loss=1.0)), reply(4, Error(2, "x"))]
    assert weighted_mean(given)["metrics"]["loss"] == 1.0


def test_no_reply_left_is_an_error_that_lists_the_reasons() -> None:
    with pytest.raises(NoReplies) as raised:
        weighted_mean([reply(2, Error(103, "too slow")), reply(5, Error(101, "exit code 5"))])
    assert "node 2: TIME_LIMIT: too slow; node 5: WORKER_DIED: exit code 5" in str(raised.value)


def test_only_ten_reasons_are_listed_and_the_others_counted() -> None:
    with pytest.raises(NoReplies) as raised:
        weighted_mean(reply(node, Error(104, "late")) for node in range(2, 25))
    assert str(raised.value).count("TIMEOUT: late") == 10
    assert str(raised.value).endswith("; and 13 more")


def test_no_reply_at_all_says_so() -> None:
    with pytest.raises(NoReplies, match="there was none at all"):
        weighted_mean([])


# ---- what does not match


def test_a_reply_without_the_weight_is_named_with_what_it_has() -> None:
    given = replies(content(1, loss=1.0), RecordDict({"m": MetricRecord({"loss": 1.0, "num_examples": 3})}))
    with pytest.raises(ValueError, match=r"reply of node 3 has no metric 'num-examples'.*'loss', 'num_examples'"):
        weighted_mean(given)


@pytest.mark.parametrize("weight", [-1, -0.5, float("nan")])
def test_a_weight_that_is_none_is_refused_with_its_node(weight: float) -> None:
    with pytest.raises(ValueError, match=f"weight 'num-examples' of node 2 is {weight!r}"):
        weighted_mean(replies(content(weight, loss=1.0)))


def test_an_infinite_weight_is_refused() -> None:
    with pytest.raises(ValueError, match="node 2 is inf"):
        weighted_mean(replies(content(float("inf"), loss=1.0), content(1, loss=1.0)))


def test_a_weight_that_is_a_list_is_refused_as_such() -> None:
    with pytest.raises(ValueError, match=r"node 2 is \[1, 2\]"):
        weighted_mean(replies(content([1, 2], loss=1.0)))


def test_weights_that_sum_to_zero_are_refused() -> None:
    with pytest.raises(ValueError, match="weights 'num-examples' of all replies sum to zero"):
        weighted_mean(replies(content(0, loss=1.0), content(0, loss=2.0)))


@pytest.mark.parametrize("what", [None, "weights"])
def test_content_that_is_no_recorddict_is_named_with_its_node(what: object) -> None:
    with pytest.raises(ValueError, match=f"reply of node 2 holds a {type(what).__name__}, not a RecordDict"):
        weighted_mean([reply(2, what)])


@pytest.mark.parametrize(
    "other",
    [
        content(1, np.zeros(3)),
        content(1, np.zeros((2, 1))),
        content(1),
        content(1, np.zeros(2), extra=1.0),
        RecordDict({**content(1, np.zeros(2)), "more": ArrayRecord()}),
        RecordDict({**content(1), "arrays": ArrayRecord({"v": np.zeros(2)})}),
        RecordDict({**content(1), "arrays": ArrayRecord({"w": np.zeros(2), "v": np.zeros(2)})}),
    ],
    ids=["length", "shape", "no arrays", "metric", "record", "name", "one more"],
)
def test_a_reply_unlike_the_first_is_refused_with_both_nodes(other: RecordDict) -> None:
    with pytest.raises(ValueError, match="the reply of node 3 does not match that of node 2"):
        weighted_mean(replies(content(1, np.zeros(2)), other))


def test_lists_of_another_length_are_refused() -> None:
    with pytest.raises(ValueError, match="node 3 does not match that of node 2"):
        weighted_mean(replies(content(1, curve=[1.0, 2.0]), content(1, curve=[1.0])))


def test_the_error_of_an_unlike_reply_names_the_difference_and_not_all_shapes() -> None:
    def model(last: int) -> RecordDict:
        layers = {f"layer{i}": np.zeros(2) for i in range(200)}
        return RecordDict({**content(1), "arrays": ArrayRecord({**layers, "head": np.zeros(last)})})

    with pytest.raises(ValueError, match="head") as raised:
        weighted_mean(replies(model(2), model(3)))
    assert len(str(raised.value)) < 500


@pytest.mark.parametrize("arrays", [[np.array(["a"])] * 2, [np.zeros(1), np.zeros(1, complex)]], ids=["str", "complex"])
def test_arrays_that_cannot_be_averaged_are_refused_by_name(arrays: list[NDArray[Any]]) -> None:
    with pytest.raises(ValueError, match=r"array 'w' of node [23] is of dtype"):
        mean_of(*arrays)

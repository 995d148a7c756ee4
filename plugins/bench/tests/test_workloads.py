"""Each workload, in its smallest size, on each way: what comes back is checked where it is timed."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

import cloudpickle
import pytest

from flsim.plugins import Plugins
from flsim_bench import tasks
from flsim_bench.catalogue import MESSAGES, REFERENCES, SCALES, WORKLOADS, Case, Workload
from flsim_bench.cell import measure
from flsim_bench.play import Rounds, WrongResult, at_once, echo, fleet, gap, noop, skewed
from flsim_bench.runner import CellFailed, Runner
from flsim_bench.way import Order, Way
from flsim_bench.ways.engine import client_by_value

BACKENDS = ("serial", "loky", "pool")
INSTALLED = {b.spec.name for b in Plugins().backends() if not b.missing}


def order(case: Case, way: str, name: str, folder: Path, memory: Path) -> Order:
    options = {"cpus": 2.0} if way == "engine" else {}
    return Order(case.workload, case.params, way, name, options, 2, str(folder), str(memory))


def tiny(workload: Workload) -> list[Case]:
    return list(workload.cases["tiny"])


def check(workload: Workload, case: Case, values: dict[str, list[float]]) -> None:
    """What is not measured around the cell is there, and is a number that can be."""
    there = {m.name for m in workload.measures if not m.outside}
    if workload.name == "noop":
        there = {"latency"} if case.params["clients"] == 1 else {"throughput"}
    assert set(values) == there
    for measured in values.values():
        assert measured
        assert all(math.isfinite(v) and v > 0 for v in measured)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("workload", WORKLOADS.values(), ids=lambda w: w.name)
def test_a_workload_runs_on_a_backend(workload: Workload, backend: str, tmp_path: Path) -> None:
    if backend not in INSTALLED:
        pytest.skip(f"backend {backend} is not installed")
    for case in tiny(workload):
        values = measure(order(case, "engine", backend, tmp_path, tmp_path))["values"]
        check(workload, case, values)
        if "workers" in values:
            assert max(values["workers"]) <= (1 if backend == "serial" else 2)


@pytest.mark.parametrize("workload", WORKLOADS.values(), ids=lambda w: w.name)
def test_a_workload_runs_on_its_references(workload: Workload, tmp_path: Path) -> None:
    for name in workload.references:
        reference = REFERENCES[name]
        if not reference.library:
            for case in tiny(workload):
                told = order(case, reference.way, MESSAGES if reference.messages else "", tmp_path, tmp_path)
                check(workload, case, measure(told)["values"])
    assert not list(tmp_path.iterdir())


def test_a_worker_on_another_host_needs_no_flsim_bench() -> None:
    code = """
import sys
sys.modules["flsim_bench"] = None  # as if it were not installed
import pickle
from flsim import ConfigRecord, Context, Message, RecordDict
client = pickle.loads(sys.stdin.buffer.read())
message = Message(RecordDict({"config": ConfigRecord({"round": 40})}), 4, "query.noop")
context = Context(1, 4, {"partition-id": 2}, RecordDict(), {})
print(client(message, context).content["reply"]["value"])
"""
    pickled = cloudpickle.dumps(client_by_value())
    done = subprocess.run([sys.executable, "-c", code], input=pickled, capture_output=True, check=False)
    assert done.stdout.decode().strip() == "42", done.stderr.decode()


def test_each_workload_has_cases_at_each_scale_and_known_references() -> None:
    for workload in WORKLOADS.values():
        assert set(workload.cases) == set(SCALES)
        assert set(workload.references) <= set(REFERENCES)
        for cases in workload.cases.values():
            assert len({c.name for c in cases}) == len(cases)


class Wrong(Way):
    """Answers as it is told to."""

    def __init__(self, add: int = 0, lose: int = 0) -> None:
        self._add = add
        self._lose = lose

    def noop(self, clients: Sequence[int], round: int) -> Iterable[int]:
        return [tasks.noop(c, round) + self._add for c in clients][self._lose :]

    def echo(self, model: tasks.Array, clients: Sequence[int]) -> Iterable[tasks.Array]:
        return [tasks.echo(model) + self._add for _ in clients][self._lose :]

    def visit(self, clients: Sequence[int], size: int) -> Iterable[int]:
        return [1 + self._add for _ in clients]  # as if each state were lost


@pytest.mark.parametrize("way", [Wrong(add=1), Wrong(lose=1)], ids=["wrong values", "a reply is missing"])
def test_results_that_are_not_right_are_not_timed(way: Way) -> None:
    params = {"clients": 3, "rounds": 1, "budget": 1, "bytes": 4000}
    for play in (noop, echo):
        with pytest.raises(WrongResult):
            play(way, params)


def test_a_lost_node_state_is_found() -> None:
    params = {"clients": 3, "nodes": 6, "rounds": 2, "budget": 1, "state": 1000}
    with pytest.raises(WrongResult):
        fleet(Wrong(), params)


def test_the_first_round_is_a_warm_up_and_none_begins_after_the_budget() -> None:
    rounds = Rounds(most=5, budget=1000)
    seen = []
    for round in rounds:
        with rounds.timed(round):
            seen.append(round)
    assert seen == [0, 1, 2, 3, 4, 5]
    assert len(rounds.seconds) == 5

    rounds = Rounds(most=5, budget=-1)
    for round in rounds:
        with rounds.timed(round):
            pass
    assert len(rounds.seconds) == 1


def test_workers_are_counted_by_what_overlaps() -> None:
    assert at_once([("a", 0.0, 1.0), ("a", 1.0, 2.0)]) == 1
    assert at_once([("a", 0.0, 1.0), ("b", 0.5, 2.0), ("a", 1.0, 3.0)]) == 2


def test_a_gap_is_from_an_end_to_the_next_begin_at_the_same_worker() -> None:
    spans = [("a", 0.0, 1.0), ("b", 0.0, 5.0), ("a", 1.25, 2.0), ("a", 2.5, 3.0), ("b", 5.25, 6.0)]
    assert gap(spans) == 0.25
    assert gap(spans[:2]) == 0.0


def test_skewed_durations_have_their_mean_and_a_long_tail() -> None:
    durations = skewed(100, 0.05)
    assert sum(durations) == pytest.approx(5.0)
    assert max(durations) > 5 * 0.05
    assert durations == skewed(100, 0.05)


def test_a_cell_has_a_process_of_its_own_whose_memory_is_watched() -> None:
    (case, *_) = tiny(WORKLOADS["echo"])
    result = Runner(limit=60).run(partial(order, case, "engine", "serial"), memory=True)
    assert result.values["bandwidth"] > 0
    assert result.values["processes"] > 1  # MB
    assert result.values["process"] > 0
    assert "numpy" in result.versions


def test_what_fails_in_a_cell_is_said_with_its_error() -> None:
    (case, *_) = tiny(WORKLOADS["noop"])
    with pytest.raises(CellFailed, match=r"unknown backend 'nope'.* \(it ended with code 1\)"):
        Runner(limit=60).run(partial(order, case, "engine", "nope"), memory=False)


def test_a_cell_that_leaves_the_host_without_memory_is_ended() -> None:
    case = Case("uneven", "long", {"clients": 4, "seconds": 300.0, "rounds": 1, "budget": 1, "warm": 2})
    with pytest.raises(CellFailed, match=r"it had \d+ MB, and left the host [\d,]+ MB of its [\d,]+ MB"):
        Runner(limit=60, spare=1.1).run(partial(order, case, "engine", "serial"), memory=True)


def test_a_cell_that_takes_too_long_is_ended_with_all_that_it_started() -> None:
    case = Case("uneven", "long", {"clients": 4, "seconds": 300.0, "rounds": 1, "budget": 1, "warm": 2})
    with pytest.raises(CellFailed, match="did not end within 2 s"):
        Runner(limit=2).run(partial(order, case, "engine", "serial"), memory=False)

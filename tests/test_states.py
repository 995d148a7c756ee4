"""Node states: what was put is had again, from memory or from the disk, and memory is bounded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import flsim
from flsim import ArrayRecord, ClientApp, ConfigRecord, Context, Grid, Message, MetricRecord, RecordDict, ServerApp
from flsim.errors import NoRoom
from flsim.payload import Blob, blob_of
from flsim.states import BESIDE, NodeStates
from flsim.testing.watch import files_of_at_most

FEW = 10 * (1000 + BESIDE)
"""Room in memory for ten states of :func:`state`."""


def state(value: int) -> Blob:
    return Blob(value.to_bytes(2, "big") * 500, ())


def test_a_node_without_a_state_has_none(tmp_path: Path) -> None:
    assert NodeStates(tmp_path).get(2) is None


def test_few_states_stay_in_memory(tmp_path: Path) -> None:
    states = NodeStates(tmp_path, FEW)
    for node in range(10):
        states.put(node, state(node))
    assert not any(tmp_path.iterdir())
    assert states.get(3) == state(3)


def test_the_state_of_each_node_is_the_one_that_was_put_last(tmp_path: Path) -> None:
    states = NodeStates(tmp_path, FEW)
    for value in range(3):
        for node in range(100):
            states.put(node, state(100 * value + node))
    assert [states.get(node) for node in range(100)] == [state(200 + node) for node in range(100)]
    assert states.get(100) is None
    states.close()


def test_those_that_changed_last_are_in_memory(tmp_path: Path) -> None:
    states = NodeStates(tmp_path, FEW)
    for node in range(100):
        states.put(node, state(node))
    states.put(90, state(1))
    states.close()  # so that what is had now is in memory
    assert states.get(90) == state(1)
    assert states.get(99) == state(99)
    assert states.get(0) is None


def test_a_state_with_arrays_comes_back_from_the_disk(tmp_path: Path) -> None:
    states = NodeStates(tmp_path, in_memory=0)
    content = RecordDict(
        {"a": ArrayRecord([np.arange(1000.0), np.ones(3), np.zeros(2000)]), "c": ConfigRecord({"raw": b"x" * 9000})}
    )
    blob = blob_of(content)
    states.put(2, blob)
    assert states.get(2) == blob
    states.close()


def test_a_full_disk_is_said_with_what_to_do(tmp_path: Path) -> None:
    states = NodeStates(tmp_path, in_memory=0)
    with files_of_at_most(200_000), pytest.raises(NoRoom, match=r"go to .*, and cannot: .*\n.*TMPDIR"):
        states.put(2, Blob(bytes(100_000_000), ()))
    states.close()


def test_a_run_goes_on_where_the_states_are_on_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(NodeStates.__init__, "__defaults__", (FEW,))
    client, server = ClientApp(), ServerApp()

    @client.train()
    def train(msg: Message, context: Context) -> Message:
        visits = len(context.state["visits"]["at"]) if context.state else 0
        context.state["visits"] = MetricRecord({"at": [context.node_id] * (visits + 1)})
        context.state["filler"] = ConfigRecord({"raw": bytes(1000)})
        return Message(RecordDict({"m": MetricRecord({"visits": visits + 1})}), reply_to=msg)

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        for round in range(1, 4):
            replies = grid.send_and_receive(Message(RecordDict(), n, "train") for n in grid.get_node_ids())
            assert [r.content["m"]["visits"] for r in replies] == [round] * 100

    flsim.run(server, client, nodes=100, backend="serial", seed=1)


def test_a_run_whose_states_do_not_fit_ends_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(NodeStates.__init__, "__defaults__", (0,))
    client, server = ClientApp(), ServerApp()

    @client.train()
    def train(msg: Message, context: Context) -> Message:
        context.state["large"] = ArrayRecord([np.zeros(1_000_000)])
        return Message(RecordDict(), reply_to=msg)

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        grid.send_and_receive(Message(RecordDict(), n, "train") for n in grid.get_node_ids())

    with files_of_at_most(1_000_000), pytest.raises(NoRoom, match="TMPDIR"):
        flsim.run(server, client, nodes=100, backend="serial", seed=1)

"""Back-pressure of ``grid.stream``: workers run ahead of the ServerApp as far as there is room for their replies."""

import time
from collections.abc import Callable

import numpy as np
import pytest
from installed import skip_without

import flsim
from flsim import ArrayRecord, ClientApp, ConfigRecord, Context, Grid, Message, RecordDict, RunResult, ServerApp
from flsim.linkstate import UNTAKEN
from flsim.testing.watch import until

client = ClientApp()
calls: list[int] = []
"""The nodes that were called, in order: on serial, ClientApps run in this process."""

SIZE = UNTAKEN // 8


@client.train()
def train(msg: Message, context: Context) -> Message:
    calls.append(context.node_id)
    return Message(RecordDict({"m": ArrayRecord([np.zeros(SIZE, np.uint8)])}), reply_to=msg)


@client.query()
def query(msg: Message, context: Context) -> Message:
    calls.append(context.node_id)
    return Message(RecordDict(), reply_to=msg)


def to(*nodes: int, type_: str = "train") -> list[Message]:
    return [Message(RecordDict(), n, type_) for n in nodes]


def run(main: Callable[[Grid, Context], None]) -> RunResult:
    calls.clear()
    server = ServerApp()
    server.main()(main)
    return flsim.run(server, client, nodes=100, backend="serial", seed=7, quiet=True)


def still(seconds: float = 0.3) -> int:
    """How many calls there were once there are no more for a while."""
    while True:
        before = len(calls)
        if not until(lambda before=before: len(calls) > before, seconds):  # type: ignore[misc]
            return before


def test_workers_run_ahead_only_as_far_as_there_is_room_for_their_replies() -> None:
    def main(grid: Grid, context: Context) -> None:
        for taken, reply in enumerate(grid.stream(to(*grid.get_node_ids())), 1):
            assert reply.content["m"]["0"].nbytes == SIZE
            if taken in (1, 30):
                assert still() <= taken + 1 + 8  # one at work, and 64 MiB of replies
        assert calls == list(grid.get_node_ids())

    run(main)


def test_a_message_to_a_node_whose_turn_in_a_stream_is_held_back_does_not_wait_for_it() -> None:
    def main(grid: Grid, context: Context) -> None:
        last = grid.get_node_ids()[-1]
        for i, _ in enumerate(grid.stream(to(*grid.get_node_ids()))):
            if i == 0:
                assert last not in calls
                (answer,) = grid.send_and_receive(to(last, type_="query"), timeout=30)
                assert answer.has_content()
                assert calls.count(last) == 2  # what was pushed first came first

    run(main)


def test_two_streams_to_the_same_nodes_do_not_wait_for_each_other() -> None:
    def main(grid: Grid, context: Context) -> None:
        nodes = grid.get_node_ids()
        one, other = grid.stream(to(*nodes)), grid.stream(to(*reversed(nodes)))
        seen = [(a.metadata.src_node_id, b.metadata.src_node_id) for a, b in zip(one, other, strict=True)]
        assert seen == list(zip(nodes, reversed(nodes), strict=True))

    run(main)


def test_a_stream_that_is_closed_cancels_what_is_held_back() -> None:
    def main(grid: Grid, context: Context) -> None:
        stream = grid.stream(to(*grid.get_node_ids()))
        next(stream)
        stream.close()  # type: ignore[attr-defined]  # a generator, as its docstring says
        (answer,) = grid.send_and_receive(to(grid.get_node_ids()[-1], type_="query"), timeout=30)
        assert answer.has_content()

    counts = run(main).counts["train"]
    assert counts.answered + counts.errors["CANCELLED"] == 100
    assert counts.errors["CANCELLED"] > 50


def test_what_is_held_back_times_out_with_the_rest() -> None:
    def main(grid: Grid, context: Context) -> None:
        stream = grid.stream(to(*grid.get_node_ids()), timeout=0.5)
        first = next(stream)
        assert first.has_content()
        time.sleep(0.5)
        assert sum(not r.has_content() for r in stream) > 50

    run(main)


@pytest.mark.parametrize("backend", ["serial", "loky"])
def test_a_stream_yields_the_same_with_and_without_room(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    skip_without(backend)

    def main(grid: Grid, context: Context) -> None:
        nodes = [r.metadata.src_node_id for r in grid.stream(to(*grid.get_node_ids(), type_="query"))]
        context.state["nodes"] = ConfigRecord({"nodes": nodes})

    def digest() -> str:
        server = ServerApp()
        server.main()(main)
        return flsim.run(server, client, nodes=100, backend=backend, seed=7, quiet=True).digest

    roomy = digest()
    monkeypatch.setattr("flsim.linkstate.UNTAKEN", 1)
    assert digest() == roomy

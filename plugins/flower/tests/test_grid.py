"""Flower's Grid on the engine's LinkState: what it returns, when, and in which order."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from flowers import drive, got, messages
from flwr.app import ArrayRecord, ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from flsim_flower.grid import FlowerGrid

client = ClientApp()


@client.query()
def where(msg: Message, context: Context) -> Message:
    time.sleep(float(got(msg)["config"]["seconds"]) if "config" in msg.content else 0)
    return Message(RecordDict({"me": MetricRecord({"node": context.node_id})}), reply_to=msg)


@client.query("count")
def count(msg: Message, context: Context) -> Message:
    n = int(context.state.metric_records["n"]["n"]) + 1 if "n" in context.state else 1  # type: ignore[arg-type]
    context.state["n"] = MetricRecord({"n": n})
    return Message(RecordDict({"n": MetricRecord({"n": n})}), reply_to=msg)


@client.query("hesitant")
def hesitant(msg: Message, context: Context) -> Message:
    """Answers from the third time on."""
    n = int(context.state.metric_records["n"]["n"]) + 1 if "n" in context.state else 1  # type: ignore[arg-type]
    context.state["n"] = MetricRecord({"n": n})
    if n < 3:
        return Message(Error(77, str(n)), reply_to=msg)
    return Message(RecordDict({"n": MetricRecord({"n": n})}), reply_to=msg)


@client.query("own")
def own_message(msg: Message, context: Context) -> Message:
    assert Message(RecordDict(), 5, "train").metadata.dst_node_id == 5
    return Message(RecordDict(), reply_to=msg)


@client.query("touch")
def touch(msg: Message, context: Context) -> Message:
    """Writes over all that it was given."""
    seen = float(got(msg)["arrays"]["0"].numpy()[0])
    for name in list(msg.content):
        del got(msg)[name]
    return Message(RecordDict({"seen": MetricRecord({"first": seen})}), reply_to=msg)


@client.train()
def about(msg: Message, context: Context) -> Message:
    of = msg.metadata
    told: dict[str, Any] = {
        "id": of.message_id, "run": of.run_id == context.run_id, "from": of.src_node_id, "to": of.dst_node_id,
        "group": of.group_id, "ttl": of.ttl, "created": of.created_at, "delivered": of.delivered_at,
        "answers": of.reply_to_message_id,
    }  # fmt: skip
    return Message(RecordDict({"told": ConfigRecord(told)}), reply_to=msg)


def node_of(reply: Message) -> int:
    return int(got(reply)["me"]["node"])


def slow(node: int, seconds: float, **more: Any) -> Message:
    return Message(RecordDict({"config": ConfigRecord({"seconds": seconds})}), node, "query", **more)


# ---- nodes and metadata


def test_nodes_are_numbered_in_order_and_can_be_sampled() -> None:
    ids, _ = drive(lambda grid: grid.get_node_ids(), client, nodes=5)
    assert ids == [2, 3, 4, 5, 6]
    nodes, _ = drive(lambda grid: list(grid.get_nodes()) if hasattr(grid, "get_nodes") else None, client)
    assert nodes is None or [n.node_id for n in nodes] == [2, 3, 4]


def test_a_message_and_its_reply_say_where_they_come_from() -> None:
    def main(grid: FlowerGrid) -> tuple[Message, Message, int]:
        message = grid.create_message(RecordDict(), "train", 3, "round 1", ttl=100.0)
        (reply,) = grid.send_and_receive([message])
        return message, reply, grid.run.run_id

    (message, reply, run_id), _ = drive(main, client)
    told = got(reply)["told"]
    sent, came = message.metadata, reply.metadata
    assert (told["id"], told["answers"], told["run"]) == (sent.message_id, "", True)
    assert (told["from"], told["to"], told["group"], told["ttl"]) == (1, 3, "round 1", 100.0)
    assert (told["created"], bool(told["delivered"])) == (sent.created_at, True)
    assert (sent.run_id, sent.src_node_id, bool(sent.message_id)) == (run_id, 1, True)
    assert (came.run_id, came.src_node_id, came.dst_node_id) == (run_id, 3, 1)
    assert (came.reply_to_message_id, came.group_id, came.message_type) == (sent.message_id, "round 1", "train")
    assert 0 < came.ttl <= 100
    assert sent.created_at <= came.created_at <= time.time()


def test_the_run_that_a_grid_tells_of_can_be_set() -> None:
    grid, _ = drive(lambda grid: grid, client)
    grid.set_run(77)
    assert grid.run.run_id == 77
    assert grid.run is not grid.run


# ---- push and pull


@pytest.mark.parametrize("backend", ["serial", "loky"])
def test_replies_come_in_the_order_of_the_messages(backend: str) -> None:
    def main(grid: FlowerGrid) -> list[int]:
        order = [4, 2, 6, 3, 5]
        delays = dict(zip(order, (0.3, 0.0, 0.1, 0.0, 0.0), strict=True))
        return [node_of(r) for r in grid.send_and_receive(slow(n, delays[n]) for n in order)]

    assert drive(main, client, nodes=5, backend=backend)[0] == [4, 2, 6, 3, 5]


def test_what_is_pushed_is_pulled_when_it_is_there_and_once() -> None:
    def main(grid: FlowerGrid) -> None:
        ids = grid.push_messages(iter(messages(grid)))
        assert all(isinstance(i, str) for i in ids)
        got: list[Message] = []
        while len(got) < 3:
            got += grid.pull_messages(set(ids) - {m.metadata.reply_to_message_id for m in got})
        assert sorted(node_of(r) for r in got) == [2, 3, 4]
        again = grid.pull_messages(ids)
        assert [(r.error.code, r.metadata.reply_to_message_id) for r in again] == [(3, i) for i in ids]
        assert grid.pull_messages([]) == []

    drive(main, client)


def test_pulling_never_waits_and_what_is_pulled_is_in_the_order_of_the_push() -> None:
    def main(grid: FlowerGrid) -> list[int]:
        first = grid.push_messages([slow(2, 0.3)])
        assert grid.pull_messages(first) == []
        last, *others = grid.push_messages(messages(grid))  # a second one to node 2, which comes up after the others
        while not grid.pull_messages([last]):
            time.sleep(0.01)  # as apps do that pull
        return [node_of(r) for r in grid.pull_messages(reversed([*first, *others]))]

    assert drive(main, client)[0] == [2, 3, 4]


def test_an_id_that_never_was_gets_flowers_error() -> None:
    def main(grid: FlowerGrid) -> list[tuple[int, str]]:
        return [(r.error.code, r.metadata.reply_to_message_id) for r in grid.pull_messages(["99", "not an id"])]

    assert drive(main, client)[0] == [(3, "99"), (3, "not an id")]


def test_a_message_to_no_node_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    def main(grid: FlowerGrid) -> tuple[int, list[str], list[int]]:
        some = [Message(RecordDict(), node, "query") for node in (2, 99, 1, 3)]
        ids = grid.push_messages(some[:2])
        answered = [node_of(r) for r in grid.send_and_receive(some[2:])]
        return len(ids), [m.metadata.message_id for m in some], answered

    (pushed, ids, answered), result = drive(main, client)
    assert (pushed, answered) == (1, [3])
    assert [bool(i) for i in ids] == [True, False, False, True]
    assert result.sent == 2
    assert "node 99 is not there" in capsys.readouterr().err


@pytest.mark.parametrize("what", ["again", "twice", "reply", "dead"])
def test_what_cannot_be_pushed_is_an_error_and_nothing_of_its_push_is_sent(what: str) -> None:
    def main(grid: FlowerGrid) -> None:
        message = Message(RecordDict(), 2, "query")
        bad = [message]
        if what == "again":
            grid.send_and_receive([message])
        elif what == "twice":
            bad = [message, message]
        elif what == "reply":
            bad = [Message(RecordDict(), reply_to=message)]
            bad[0].metadata.__dict__["_reply_to_message_id"] = "1"
        else:
            message.metadata.ttl = 0.0
        with pytest.raises(ValueError, match=r"pushed|time to live"):
            grid.send_and_receive([Message(RecordDict(), 3, "query"), *bad])

    _, result = drive(main, client)
    assert result.sent == (1 if what == "again" else 0)


def test_content_is_as_it_was_when_it_was_pushed() -> None:
    """Strategies change one record from round to round."""

    def main(grid: FlowerGrid) -> list[int]:
        seconds = ConfigRecord({"seconds": 0})
        content = RecordDict({"config": seconds, "arrays": ArrayRecord([np.full(5000, 1.0)])})
        ids = grid.push_messages([Message(content, n, "query.touch") for n in (2, 3)])
        content["arrays"] = ArrayRecord([np.full(5000, 2.0)])
        ids += grid.push_messages([Message(content, n, "query.touch") for n in (2, 3)])
        came: list[Message] = []
        while len(came) < 4:
            came += grid.pull_messages([i for i in ids if i not in {m.metadata.reply_to_message_id for m in came}])
        return [int(got(m)["seen"]["first"]) for m in sorted(came, key=lambda m: int(m.metadata.reply_to_message_id))]

    assert drive(main, client)[0] == [1, 1, 2, 2]


def test_each_node_has_its_own_copy_of_what_many_get() -> None:
    def main(grid: FlowerGrid) -> list[bool]:
        content = RecordDict({"arrays": ArrayRecord([np.ones(9)])})
        replies = grid.send_and_receive(messages(grid, "query.touch", content))
        assert list(content) == ["arrays"], "on serial, too, where all is in one process"
        return [r.has_content() for r in replies]

    assert drive(main, client)[0] == [True] * 3


def test_what_many_messages_carry_is_shared_once_also_where_each_has_a_record_of_its_own() -> None:
    """Newer strategies give one content to all, older ones one to each, of the same bytes."""

    def main(grid: FlowerGrid) -> int:
        shared: list[int] = []
        link, share = grid._link, grid._link.share

        def counting(buffers: Any, n: int) -> Any:
            shared.append(len(buffers))
            return share(buffers, n) if share else None

        link.share = counting
        arrays = ArrayRecord([np.ones(10_000)])
        grid.send_and_receive([Message(RecordDict({"arrays": arrays}), n, "query.touch") for n in (2, 3, 4)])
        return sum(shared)

    assert drive(main, client)[0] == 1


# ---- time


def test_a_timeout_returns_what_is_there_and_what_comes_later_can_be_pulled() -> None:
    def main(grid: FlowerGrid) -> tuple[list[int], list[Message], Message]:
        late = slow(3, 1.0)
        early = grid.send_and_receive([slow(2, 0), late], timeout=0.5)
        while not (pulled := grid.pull_messages([late.metadata.message_id])):
            time.sleep(0.01)  # as apps do that pull
        return [node_of(r) for r in early], pulled, late

    (early, pulled, late), result = drive(main, client)
    assert early == [2]
    assert [node_of(r) for r in pulled] == [3]
    assert pulled[0].metadata.reply_to_message_id == late.metadata.message_id
    assert result.counts["query"].answered == 2


def test_patience_may_have_no_end() -> None:
    def main(grid: FlowerGrid) -> list[int]:
        return [node_of(r) for r in grid.send_and_receive([slow(2, 0)], timeout=float("inf"))]

    assert drive(main, client)[0] == [2]


@pytest.mark.parametrize("timeout", [0, -1])
def test_without_patience_nothing_is_waited_for(timeout: float) -> None:
    assert drive(lambda grid: grid.send_and_receive([slow(2, 0.1)], timeout=timeout), client)[0] == []


def test_nothing_to_send_is_nothing_to_receive() -> None:
    assert drive(lambda grid: (grid.send_and_receive([]), grid.push_messages([])), client)[0] == ([], [])


def test_a_message_whose_ttl_passes_is_answered_by_flowers_error() -> None:
    def main(grid: FlowerGrid) -> list[int | None]:
        replies = grid.send_and_receive([slow(2, 0.8, ttl=0.2), slow(3, 0)])
        return [r.error.code if r.has_error() else None for r in replies]

    assert drive(main, client)[0] == [3, None]


def test_a_reply_is_to_be_pulled_as_long_as_its_message_lives() -> None:
    def main(grid: FlowerGrid) -> tuple[list[int], list[int], float]:
        in_time = grid.send_and_receive([slow(2, 0, ttl=0.5), slow(3, 0.8)])
        ids = grid.push_messages([slow(2, 0, ttl=0.2)])
        grid.send_and_receive([slow(3, 0.4)])
        return [node_of(r) for r in in_time], [r.error.code for r in grid.pull_messages(ids)], in_time[0].metadata.ttl

    replies, late, ttl = drive(main, client)[0]
    assert (replies, late) == ([2, 3], [3])
    assert 0 <= ttl <= 0.5


# ---- threads and state


def test_two_messages_to_one_node_run_one_after_another_on_its_state() -> None:
    def main(grid: FlowerGrid) -> list[int]:
        return [got(r)["n"]["n"] for r in grid.send_and_receive(messages(grid, "query.count") * 1 + [
            Message(RecordDict(), 2, "query.count") for _ in range(3)])]  # fmt: skip

    assert drive(main, client)[0] == [1, 1, 1, 2, 3, 4]


@pytest.mark.parametrize("backend", ["serial", "loky"])
def test_many_threads_may_use_a_grid_at_a_time(backend: str) -> None:
    def main(grid: FlowerGrid) -> list[int]:
        started = threading.Barrier(16)

        def ask(node: int) -> list[int]:
            started.wait()
            return [node_of(r) for _ in range(5) for r in grid.send_and_receive([slow(node, 0)])]

        with ThreadPoolExecutor(16) as pool:
            return [node for nodes in pool.map(ask, range(2, 18)) for node in nodes]

    got, _ = drive(main, client, nodes=16, backend=backend)
    assert got == [node for node in range(2, 18) for _ in range(5)]


def test_an_error_that_a_client_makes_itself_arrives_as_it_is() -> None:
    own = ClientApp()

    @own.query()
    def query(msg: Message, context: Context) -> Message:
        return Message(Error(1234, "my own"), reply_to=msg)

    @own.query("flowers")
    def flowers(msg: Message, context: Context) -> Message:
        return Message(Error(6, "no"), reply_to=msg)

    @own.query("engines")
    def engines(msg: Message, context: Context) -> Message:
        return Message(Error(105, "mine"), reply_to=msg)

    def main(grid: FlowerGrid) -> list[tuple[int, str | None]]:
        types = ("query", "query.flowers", "query.engines")
        errors = grid.send_and_receive(Message(RecordDict(), 2, t) for t in types)
        return [(r.error.code, r.error.reason) for r in errors]

    assert drive(main, own)[0] == [(1234, "my own"), (6, "no"), (105, "mine")]


@pytest.mark.parametrize("backend", ["serial", "loky"])
def test_what_a_client_that_returns_an_error_has_kept_is_kept(backend: str) -> None:
    def main(grid: FlowerGrid) -> list[Any]:
        replies = [r for _ in range(3) for r in grid.send_and_receive([Message(RecordDict(), 2, "query.hesitant")])]
        return [(r.error.code, r.error.reason) if r.has_error() else (None, got(r)["n"]["n"]) for r in replies]

    assert drive(main, client, backend=backend)[0] == [(77, "1"), (77, "2"), (None, 3)]


def test_a_client_may_make_messages_of_its_own() -> None:
    def main(grid: FlowerGrid) -> bool:
        (reply,) = grid.send_and_receive([Message(RecordDict(), 2, "query.own")])
        return reply.has_content()

    assert drive(main, client, backend="serial")[0]
    assert drive(main, client, backend="loky")[0]

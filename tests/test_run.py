"""Whole runs through ``flsim.run``: what the app sees, and what comes back. On serial, and on loky where it matters."""

import random
import threading
import time
from collections.abc import Callable

import numpy as np
import pytest
from installed import skip_without

import flsim
from flsim import (
    ArrayRecord,
    ClientApp,
    ConfigRecord,
    Context,
    Error,
    ErrorCode,
    Grid,
    Kind,
    Message,
    MetricRecord,
    RecordDict,
    Resources,
    RunResult,
    ServerApp,
)
from flsim.backend import RunInfo
from flsim.errors import BackendBroken, ConfigError, EncodeError, UnknownName, UnsupportedResources
from flsim_serial.backend import SerialBackend

client = ClientApp()


@client.train()
def train(msg: Message, context: Context) -> Message:
    seen = ConfigRecord(
        {
            "node": context.node_id,
            "partition": context.node_config["partition-id"],
            "partitions": context.node_config["num-partitions"],
            "id": msg.metadata.message_id,
            "group": msg.metadata.group_id,
            "run": str(context.run_id),
            "label": context.node_config.get("label", ""),
        }
    )
    return Message(RecordDict({"seen": seen, **msg.content}), reply_to=msg)


@client.query("count")
def count(msg: Message, context: Context) -> Message:
    n = int(context.state["count"]["n"]) + 1 if "count" in context.state else 1
    context.state["count"] = MetricRecord({"n": n})
    return Message(RecordDict({"count": MetricRecord({"n": n})}), reply_to=msg)


@client.query("count_and_raise")
def count_and_raise(msg: Message, context: Context) -> Message:
    count(msg, context)
    raise ValueError("after the state was changed")


@client.query("count_and_reply_the_undecodable")
def count_and_reply_the_undecodable(msg: Message, context: Context) -> Message:
    count(msg, context)
    return Message(Undecodable(), reply_to=msg)


class Undecodable:
    """It pickles, and does not unpickle."""

    def __reduce__(self) -> tuple[type[int], tuple[str]]:
        return int, ("no number",)


@client.query("count_after")
def count_after(msg: Message, context: Context) -> Message:
    time.sleep(float(msg.content["plan"]["seconds"]))
    return count(msg, context)


@client.query("sleep")
def sleep(msg: Message, context: Context) -> Message:
    time.sleep(float(msg.content["plan"]["seconds"]))
    return Message(RecordDict(), reply_to=msg)


@client.evaluate("write")
def write(msg: Message, context: Context) -> Message:
    what = msg.content["plan"]["what"]
    if what == "run_config":
        context.run_config["rounds"] = 7  # type: ignore[index]  # it is read-only, which is what this is about
    else:
        msg.content["arrays"]["w"][0] = 7
    return Message(RecordDict(), reply_to=msg)


def run(main: Callable[[Grid, Context], None], *, nodes: int = 4, backend: str = "serial", **more: object) -> RunResult:
    skip_without(backend)
    server = ServerApp()
    server.main()(main)
    return flsim.run(server, client, nodes=nodes, backend=backend, quiet=True, **more)  # type: ignore[arg-type]


def to(node: int, type_: str = "train", content: RecordDict | None = None, **more: object) -> Message:
    return Message(RecordDict() if content is None else content, node, type_, **more)  # type: ignore[arg-type]


def plan(**values: bool | int | float | str) -> RecordDict:
    return RecordDict({"plan": ConfigRecord(values)})


def test_replies_come_in_the_order_of_the_messages_and_name_their_node() -> None:
    def main(grid: Grid, context: Context) -> None:
        order = [5, 2, 4, 3]
        replies = grid.send_and_receive(to(n, group_id=f"g{n}") for n in order)
        assert [r.metadata.src_node_id for r in replies] == order
        seen = [r.content["seen"] for r in replies]
        assert [(s["node"], s["partition"], s["partitions"]) for s in seen] == [(n, n - 2, 4) for n in order]
        assert [s["group"] for s in seen] == [r.metadata.group_id for r in replies] == ["g5", "g2", "g4", "g3"]
        assert [s["id"] for s in seen] == [r.metadata.reply_to_message_id for r in replies] == ["1", "2", "3", "4"]
        assert {s["run"] for s in seen} == {str(context.run_id)}
        assert all(r.metadata.dst_node_id == 1 and r.metadata.message_type == "train" for r in replies)

    result = run(main)
    assert (result.counts["train"].sent, result.counts["train"].answered) == (4, 4)


def test_an_id_is_empty_until_the_push_and_a_counter_afterwards() -> None:
    def main(grid: Grid, context: Context) -> None:
        message = to(2)
        assert message.metadata.message_id == ""
        assert grid.push_messages([message, to(3)]) == ["1", "2"]
        assert message.metadata.message_id == "1"
        with pytest.raises(ValueError, match="pushed before"):
            grid.push_messages([message])

    run(main)


def test_a_message_to_an_unknown_node_is_refused_by_name_and_none_of_its_push_is_sent() -> None:
    def main(grid: Grid, context: Context) -> None:
        with pytest.raises(ValueError, match="node 6 is not in the fleet, whose node ids are 2 to 5"):
            grid.push_messages([to(2), to(6)])
        with pytest.raises(ValueError, match="node 1 "):
            grid.send_and_receive([to(1)])

    assert run(main).sent == 0


def test_content_is_what_it_was_at_the_push() -> None:
    def main(grid: Grid, context: Context) -> None:
        weights = np.zeros(5000)
        content = RecordDict({"w": ArrayRecord({"w": weights}), "c": ConfigRecord({"round": 1})})
        ids = grid.push_messages([to(2, content=content)])
        weights[:] = 1
        content["c"]["round"] = 2
        (reply,) = grid.pull_messages(ids, timeout=None)
        assert reply.content["c"]["round"] == 1
        assert not reply.content["w"]["w"].any()

    run(main)


def test_content_that_cannot_be_encoded_is_raised_by_the_push_and_named() -> None:
    def main(grid: Grid, context: Context) -> None:
        with pytest.raises(EncodeError, match=r"message to node 3: dict\['lock'\].*pickle"):
            grid.push_messages([to(2), Message({"ok": 1, "lock": threading.Lock()}, 3, "train")])

    assert run(main).sent == 0


def test_pull_takes_what_is_there_and_says_what_is_not_to_be_had() -> None:
    def main(grid: Grid, context: Context) -> None:
        assert grid.pull_messages() == []
        ids = grid.push_messages([to(2), to(3)])
        taken: list[Message] = []
        while len(taken) < 2:
            taken += grid.pull_messages(timeout=None)
        assert {r.metadata.reply_to_message_id for r in taken} == set(ids)
        for id_ in (ids[0], "99", "no id"):
            (reply,) = grid.pull_messages([id_])
            assert reply.error.code == ErrorCode.MESSAGE_UNAVAILABLE
            assert reply.metadata.reply_to_message_id == id_

    run(main)


def test_pull_does_not_wait_without_a_timeout() -> None:
    def main(grid: Grid, context: Context) -> None:
        ids = grid.push_messages([to(2, "query.sleep", plan(seconds=0.5))])
        assert grid.pull_messages(ids) == []
        assert grid.pull_messages(ids, timeout=0.01) == []
        (reply,) = grid.pull_messages(ids, timeout=None)
        assert reply.has_content()

    run(main)


def test_a_timeout_gives_a_reply_to_each_message_and_cancels_the_rest() -> None:
    def main(grid: Grid, context: Context) -> None:
        replies = grid.send_and_receive([to(2), to(3, "query.sleep", plan(seconds=1.0)), to(4)], timeout=0.3)
        assert replies[0].has_content()
        assert [r.error.code for r in replies[1:] if r.has_error()][:1] == [ErrorCode.TIMEOUT]
        assert "0.3 s" in replies[1].error.reason
        assert [r.metadata.src_node_id for r in replies] == [2, 3, 4]

    assert run(main).counts["query.sleep"].errors == {"TIMEOUT": 1}


def test_a_message_whose_ttl_passes_is_ended_by_the_linkstate() -> None:
    def main(grid: Grid, context: Context) -> None:
        late, fine = grid.send_and_receive([to(2, "query.sleep", plan(seconds=0.5), ttl=0.1), to(3, ttl=60)])
        assert late.error.code == ErrorCode.MESSAGE_UNAVAILABLE
        assert fine.has_content()

    run(main)


def test_a_stream_yields_in_order_or_as_they_come_and_closing_it_cancels_the_rest() -> None:
    def main(grid: Grid, context: Context) -> None:
        streamed = [r.metadata.src_node_id for r in grid.stream(to(n) for n in (4, 2, 3))]
        assert streamed == [4, 2, 3]
        unordered = {r.metadata.src_node_id for r in grid.stream([to(2), to(3)], ordered=False)}
        assert unordered == {2, 3}
        stream = grid.stream([to(2), to(3), to(4, "query.sleep", plan(seconds=2.0))])
        next(stream)
        stream.close()  # type: ignore[attr-defined]  # a generator, as its docstring says

    result = run(main)
    assert result.counts["query.sleep"].errors == {"CANCELLED": 1}


def test_a_stream_with_a_timeout_yields_a_reply_to_each() -> None:
    def main(grid: Grid, context: Context) -> None:
        messages = [to(2, "query.sleep", plan(seconds=1.0)), to(3)]
        codes = [r.error.code for r in grid.stream(messages, timeout=0.1)]
        assert codes == [ErrorCode.TIMEOUT, ErrorCode.TIMEOUT]

    run(main)


def test_cancelled_messages_get_an_error_reply() -> None:
    def main(grid: Grid, context: Context) -> None:
        ids = grid.push_messages([to(2, "query.sleep", plan(seconds=0.2)), to(3), to(4)])
        grid.cancel(ids[1:])
        replies = [*grid.pull_messages(ids[1:], timeout=None), *grid.pull_messages(ids[:1], timeout=None)]
        assert [r.error.code for r in replies[:2]] == [ErrorCode.CANCELLED] * 2
        assert replies[2].has_content()
        with pytest.raises(ValueError, match="'' is no message id"):
            grid.cancel([""])

    run(main)


def test_what_is_not_answered_when_main_returns_is_cancelled() -> None:
    def main(grid: Grid, context: Context) -> None:
        grid.push_messages(to(n, "query.sleep", plan(seconds=0.2)) for n in grid.get_node_ids())

    result = run(main)
    count_ = result.counts["query.sleep"]
    assert count_.answered + count_.errors["CANCELLED"] == 4
    assert count_.errors["CANCELLED"] >= 3


def test_a_node_keeps_its_state_and_an_error_leaves_it_as_it_was() -> None:
    def main(grid: Grid, context: Context) -> None:
        for expected in (1, 2):
            (reply,) = grid.send_and_receive([to(2, "query.count")])
            assert reply.content["count"]["n"] == expected
        (reply,) = grid.send_and_receive([to(2, "query.count_and_raise")])
        assert reply.error.code == ErrorCode.CLIENT_APP_RAISED_EXCEPTION
        (reply,) = grid.send_and_receive([to(2, "query.count")])
        assert reply.content["count"]["n"] == 3
        (other,) = grid.send_and_receive([to(3, "query.count")])
        assert other.content["count"]["n"] == 1

    run(main)


@pytest.mark.parametrize("backend", ["serial", "loky"])
def test_thirty_messages_to_one_node_are_executed_one_after_another(backend: str) -> None:
    def main(grid: Grid, context: Context) -> None:
        replies = grid.send_and_receive(to(2, "query.count") for _ in range(30))
        assert [r.content["count"]["n"] for r in replies] == list(range(1, 31))

    run(main, backend=backend, options={"cpus": 3})


def test_a_late_reply_of_a_cancelled_message_changes_no_state() -> None:
    def main(grid: Grid, context: Context) -> None:
        (busy,) = grid.push_messages([to(2, "query.sleep", plan(seconds=0.3))])
        ids = grid.push_messages([to(2, "query.count")])
        grid.cancel(ids)
        grid.pull_messages([busy], timeout=None)
        (reply,) = grid.send_and_receive([to(2, "query.count")])
        assert reply.content["count"]["n"] == 1

    run(main)


def test_a_late_reply_of_a_message_that_was_at_work_changes_no_state() -> None:
    def main(grid: Grid, context: Context) -> None:
        (late,) = grid.send_and_receive([to(2, "query.count_after", plan(seconds=0.3))], timeout=0.1)
        assert late.error.code == ErrorCode.TIMEOUT
        (reply,) = grid.send_and_receive([to(2, "query.count")])  # its turn comes when the late one is back
        assert reply.content["count"]["n"] == 1

    run(main)


def test_a_reply_that_cannot_be_decoded_leaves_the_state_as_it_was() -> None:
    def main(grid: Grid, context: Context) -> None:
        (reply,) = grid.send_and_receive([to(2, "query.count_and_reply_the_undecodable")])
        assert reply.error.code == ErrorCode.REPLY_UNDECODABLE
        (reply,) = grid.send_and_receive([to(2, "query.count")])
        assert reply.content["count"]["n"] == 1

    run(main)


@pytest.mark.parametrize("what", ["run_config", "array"])
def test_a_clientapp_cannot_change_what_it_shares_with_others(what: str) -> None:
    def main(grid: Grid, context: Context) -> None:
        content = plan(what=what)
        content["arrays"] = ArrayRecord({"w": np.zeros(5000)})
        (reply,) = grid.send_and_receive([to(2, "evaluate.write", content)])
        assert reply.error.code == ErrorCode.CLIENT_APP_RAISED_EXCEPTION
        assert "read-only" in reply.error.reason or "mappingproxy" in reply.error.reason

    run(main, config={"rounds": 3})


def test_kinds_of_node_have_their_own_app_number_and_config() -> None:
    def main(grid: Grid, context: Context) -> None:
        assert grid.get_node_ids() == range(2, 7)
        assert grid.get_node_ids("phone") == range(2, 5)
        assert grid.get_node_ids("server") == range(5, 7)
        with pytest.raises(UnknownName, match="'phon'; did you mean 'phone'"):
            grid.get_node_ids("phon")
        replies = grid.send_and_receive(to(n) for n in grid.get_node_ids())
        assert [r.content["seen"]["label"] for r in replies] == ["p", "p", "p", "", ""]
        assert [r.content["seen"]["partition"] for r in replies] == [0, 1, 2, 3, 4]

    server = ServerApp()
    server.main()(main)
    kinds = [Kind("phone", client, 3, config={"label": "p"}), Kind("server", client, 2, Resources(cpus=2))]
    flsim.run(server, kinds, backend="serial", options={"cpus": 2}, quiet=True)


def test_a_function_that_makes_a_clientapp_is_called_for_each_message() -> None:
    def main(grid: Grid, context: Context) -> None:
        replies = grid.send_and_receive(to(n) for n in (2, 3))
        assert [r.content["seen"]["node"] for r in replies] == [2, 3]

    server = ServerApp()
    server.main()(main)
    flsim.run(server, client_fn, nodes=2, backend="serial", quiet=True)


def client_fn(context: Context) -> Callable[[Message, Context], Message]:
    app = ClientApp()

    @app.train()
    def mine(msg: Message, inner: Context) -> Message:
        return Message(RecordDict({"seen": ConfigRecord({"node": context.node_id})}), reply_to=msg)

    return app


def test_an_error_that_an_app_returns_is_its_reply() -> None:
    app = ClientApp()

    @app.train()
    def refuse(msg: Message, context: Context) -> Message:
        return Message(Error(42, "not today"), reply_to=msg)

    def main(grid: Grid, context: Context) -> None:
        (reply,) = grid.send_and_receive([to(2)])
        assert (reply.error.code, reply.error.reason) == (42, "not today")

    server = ServerApp()
    server.main()(main)
    assert flsim.run(server, app, nodes=1, backend="serial", quiet=True).counts["train"].errors == {"42": 1}


def test_the_result_has_state_metrics_counts_and_a_digest_that_tells_results_apart() -> None:
    def with_value(value: float) -> RunResult:
        def main(grid: Grid, context: Context) -> None:
            grid.send_and_receive(to(n) for n in grid.get_node_ids())
            grid.report(1, accuracy=value)
            grid.report(1, node=3, loss=np.float32(0.5))
            context.state["m"] = MetricRecord({"v": value})

        return run(main, seed=3)

    first, second, other = with_value(0.5), with_value(0.5), with_value(0.25)
    assert first.digest == second.digest != other.digest
    assert first.metrics == ({"round": 1, "accuracy": 0.5}, {"round": 1, "node": 3, "loss": 0.5})
    assert first.state["m"]["v"] == 0.5
    assert (first.seed, first.backend, first.nodes, first.sent, first.answered) == (3, "serial", 4, 4, 4)
    assert first.options["cpus"] is None


def test_the_seed_fixes_the_servers_generators_and_leaves_the_callers_as_they_were() -> None:
    drawn: list[tuple[float, float, float, int]] = []

    def main(grid: Grid, context: Context) -> None:
        drawn.append((context.rng.random(), np.random.random(), random.random(), context.run_id))

    random.seed(1)
    np.random.seed(1)
    for seed in (5, 5, 6):
        run(main, seed=seed)
    assert drawn[0] == drawn[1]
    assert all(a != b for a, b in zip(drawn[1], drawn[2], strict=True))
    after = random.random(), np.random.random()
    random.seed(1)
    np.random.seed(1)
    assert after == (random.random(), np.random.random())


def test_a_run_without_a_seed_draws_one_and_says_which() -> None:
    def main(grid: Grid, context: Context) -> None:
        context.state["r"] = MetricRecord({"r": context.rng.random()})

    first = run(main)
    assert run(main, seed=first.seed).digest == first.digest
    assert run(main).seed != first.seed


def test_two_runs_at_the_same_time_and_from_threads_do_not_mix() -> None:
    skip_without("loky")
    results: dict[int, RunResult] = {}
    both = threading.Barrier(2, timeout=30)

    def main(grid: Grid, context: Context) -> None:
        both.wait()
        replies = grid.send_and_receive(to(n) for n in grid.get_node_ids())
        context.state["n"] = MetricRecord({"n": len(replies)})

    def one(nodes: int) -> None:
        results[nodes] = run(main, nodes=nodes, backend="loky", options={"cpus": 1})

    threads = [threading.Thread(target=one, args=(n,)) for n in (3, 5)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert {n: r.state["n"]["n"] for n, r in results.items()} == {3: 3, 5: 5}


def test_what_a_serverapp_raises_is_raised_unchanged() -> None:
    class Mine(Exception):
        pass

    def main(grid: Grid, context: Context) -> None:
        raise Mine("as it was")

    with pytest.raises(Mine, match="as it was"):
        run(main)


@pytest.mark.parametrize("where", ["linkstate.LinkState.returned", "heart.Heart.pull", "places.Places.update"])
def test_what_the_engine_raises_by_itself_ends_the_run_with_its_cause(
    monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """In a worker loop, in a callback of the event loop, and where the capacity changes: a run that waits hears it."""

    start, told = SerialBackend.start, []

    def started(backend: SerialBackend, run: RunInfo) -> None:
        told.append(run)
        start(backend, run)

    def raises(*_: object) -> None:
        raise OSError(24, "Too many open files")

    def main(grid: Grid, context: Context) -> None:
        monkeypatch.setattr(f"flsim.{where}", raises)
        if where == "places.Places.update":
            told[0].changed()
        grid.send_and_receive([to(n, "sleep", plan(seconds=0.2)) for n in grid.get_node_ids()], timeout=10)

    monkeypatch.setattr(SerialBackend, "start", started)
    with pytest.raises(BackendBroken, match=r"the engine failed with OSError: .* Too many open files") as broken:
        run(main)
    assert isinstance(broken.value.__cause__, OSError)


def test_a_need_that_fits_nowhere_is_refused_with_what_there_is() -> None:
    def main(grid: Grid, context: Context) -> None:
        raise AssertionError("it began")

    with pytest.raises(UnsupportedResources, match=r"need 3 cpu each, which fits nowhere: this process has 2 cpu"):
        run(main, options={"cpus": 2}, resources={"cpus": 3})
    for resources, options, needed in (
        ({"gpus": 1}, {"gpus": 0}, "need 1 cpu, 1 gpu each, which fits nowhere: this process has"),
        ({"memory": "3GiB"}, {"memory": "2GiB"}, "need 1 cpu, 3 GiB each, which fits nowhere: this process has"),
        ({"custom": {"licence": 2}}, {"custom": {"licence": 1}}, "need 1 cpu, 2 licence each, which fits nowhere"),
    ):
        with pytest.raises(UnsupportedResources, match=needed):
            run(main, options=options, resources=resources)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"nodes": 0}, "nodes is a whole number, one or more, not 0"),
        ({"seed": -1}, "seed is a whole number, zero or more, not -1"),
        ({"resources": {"cpu": 1}}, "unknown resource 'cpu'; did you mean 'cpus'"),
        ({"resources": {"memory": "2 elephants"}}, "memory '2 elephants' is no size"),
        ({"options": {"cpu": 1}}, "unknown option of backend serial 'cpu'; did you mean 'cpus'"),
        ({"options": {"cpus": "many"}}, "option cpus of backend serial is of type float, not 'many'"),
    ],
)
def test_bad_input_is_refused_before_anything_runs(arguments: dict[str, object], message: str) -> None:
    def main(grid: Grid, context: Context) -> None:
        raise AssertionError("it began")

    with pytest.raises((ConfigError, UnknownName), match=message):
        run(main, **arguments)  # type: ignore[arg-type]

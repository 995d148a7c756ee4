"""What goes wrong in a Flower app: an error with Flower's code, of its own message, and of no other."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from flowers import BOTH, call, copied, drive, flsim_command, got, messages, write_project
from flwr.app import ArrayRecord, ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

import flsim
from flsim import ErrorCode
from flsim_flower.grid import FlowerGrid
from flsim_flower.records import unpack

client = ClientApp()


@client.query()
def fail(msg: Message, context: Context) -> Any:
    context.state["changed"] = MetricRecord({"n": 1})
    how = got(msg)["how"]["how"] if context.node_id == 2 else "well"
    if how == "raises":
        raise ValueError("it's wrong")
    if how == "exits":
        raise SystemExit(3)
    if how == "unprintable":
        raise Unprintable
    if how == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "changes the run_config":
        context.run_config["rounds"] = 2
    if how == "empty":
        reply = Message(RecordDict(), reply_to=msg)
        reply.__dict__["_content"] = None
        return reply
    other = Message(RecordDict(), reply_to=msg)
    other.metadata.__dict__["_reply_to_message_id"] = "999"
    returned = {"None": None, "a str": "x", "its message": msg, "a reply to another": other}
    return returned.get(how, Message(RecordDict({"n": MetricRecord({"n": 1})}), reply_to=msg))


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError


@client.query("state")
def state(msg: Message, context: Context) -> Message:
    return Message(RecordDict({"kept": ConfigRecord({"names": list(context.state)})}), reply_to=msg)


def run(how: str, backend: str = "serial") -> tuple[list[Message], list[Message], flsim.RunResult]:
    """What three nodes answer, the first of which fails so; and what each has kept."""

    def main(grid: FlowerGrid) -> tuple[list[Message], list[Message]]:
        content = RecordDict({"how": ConfigRecord({"how": how})})
        return grid.send_and_receive(messages(grid, content=content)), grid.send_and_receive(
            messages(grid, "query.state")
        )

    (replies, kept), result = drive(main, client, backend=backend, config={"rounds": 1})
    return replies, kept, result


@pytest.mark.parametrize(
    ("how", "code", "reason"),
    [
        ("raises", 2, "<class 'ValueError'>:<'it's wrong'>"),
        ("exits", 2, "<class 'SystemExit'>:<'3'>"),
        ("unprintable", 2, "Unprintable'>:<'…'>"),
        ("None", 2, "the ClientApp returned NoneType, not a Message"),
        ("a str", 2, "the ClientApp returned str, not a Message"),
        ("its message", 2, "the ClientApp returned no reply to its message"),
        ("a reply to another", 2, "the ClientApp returned no reply to its message"),
        ("empty", 2, "the ClientApp returned a Message without content"),
        ("changes the run_config", 0, "the ClientApp changed its run_config, which it must not"),
    ],
)
def test_a_fault_is_an_error_of_its_message_and_leaves_the_nodes_state(how: str, code: int, reason: str) -> None:
    replies, kept, _ = run(how)
    assert [r.has_error() for r in replies] == [True, False, False]
    assert replies[0].error.code == code
    assert reason in (replies[0].error.reason or "")
    assert [got(r)["kept"]["names"] for r in kept] == [[], ["changed"], ["changed"]]


def test_a_worker_that_dies_is_flowers_unknown_error_and_costs_no_other_message() -> None:
    replies, kept, result = run("dies", backend="loky")
    assert [r.has_error() for r in replies] == [True, False, False]
    assert replies[0].error.code == int(ErrorCode.UNKNOWN)
    assert "WORKER_DIED" in (replies[0].error.reason or "")
    assert [got(r)["kept"]["names"] for r in kept] == [[], ["changed"], ["changed"]]
    assert result.counts["query"].errors == {"WORKER_DIED": 1}


def test_the_result_has_the_traceback_of_a_client_that_raised() -> None:
    reply, _ = call(client, RecordDict({"how": ConfigRecord({"how": "raises"})}))
    assert reply.error.code == 2
    assert 'raise ValueError("it\'s wrong")' in reply.error.traceback


def test_a_message_type_that_no_function_takes_is_an_error() -> None:
    def main(grid: FlowerGrid) -> list[Message]:
        return grid.send_and_receive(messages(grid, "query.nothing"))

    replies, _ = drive(main, client, nodes=1)
    assert (replies[0].error.code, "nothing" in (replies[0].error.reason or "")) == (2, True)


def test_an_error_that_a_mod_makes_for_a_reply_arrives_with_its_reason() -> None:
    """As Flower's own mods of differential privacy do it."""
    app = ClientApp()

    def refusing(msg: Message, context: Context, call_next: Any) -> Message:
        reply = call_next(msg, context)
        return Message(Error(6, "no arrays to add noise to"), reply_to=reply)

    @app.query(mods=[refusing])
    def query(msg: Message, context: Context) -> Message:
        return Message(RecordDict(), reply_to=msg)

    reply, _ = call(app, RecordDict())
    assert (reply.error.code, reply.error.reason) == (6, "no arrays to add noise to")


def test_a_reply_may_say_in_whole_seconds_when_it_was_made() -> None:
    app = ClientApp()

    @app.query()
    def query(msg: Message, context: Context) -> Message:
        reply = Message(RecordDict(), reply_to=msg)
        reply.metadata.created_at = 1_000_000_000  # an int, which Flower takes
        return reply

    assert drive(lambda grid: grid.send_and_receive(messages(grid))[0].metadata.created_at, app)[0] == 1e9


def test_a_clients_own_configuration_is_a_copy() -> None:
    app = ClientApp()

    @app.query()
    def query(msg: Message, context: Context) -> Message:
        context.node_config["mine"] = 1
        context.state["a"] = ArrayRecord()
        return Message(RecordDict({"got": ConfigRecord(dict(context.run_config))}), reply_to=msg)

    config = {"a": 1, "b": "x"}
    reply, context = call(app, RecordDict(), **config)
    assert unpack(reply.content)["got"] == config
    assert "mine" not in context.node_config
    assert list(unpack(context.state)) == ["a"]


def test_a_run_in_which_every_client_fails_fails(tmp_path: Path) -> None:
    failing = BOTH.replace('print("the client prints")', "1 / 0")
    apps = failing.replace("    context.state", "    return\n    context.state")
    done = flsim_command("run", write_project(tmp_path, apps=apps), "-b", "serial")
    assert done.returncode == 1
    assert "every message got an error" in done.stderr
    assert "<class 'ZeroDivisionError'>:<'division by zero'>" in done.stdout


def test_a_server_that_raises_ends_the_run_with_its_traceback(tmp_path: Path) -> None:
    done = flsim_command("run", write_project(tmp_path, apps=BOTH.replace("    replies =", "    oops\n    replies =")))
    assert done.returncode == 1
    assert "NameError: name 'oops' is not defined" in done.stderr


def test_a_client_of_the_older_api_that_raises_is_left_out_of_its_round(tmp_path: Path) -> None:
    app = copied("legacy", tmp_path)
    file = app / "legacy" / "client_app.py"
    text = file.read_text()
    line = "large, small = parameters"
    file.write_text(text.replace(line, f"{line}\n        assert self.part != 3"))
    done = flsim_command("run", app, "-b", "serial", "-c", "num-server-rounds=1")
    assert done.returncode == 0
    assert "1 × <class 'AssertionError'>:<''>" in done.stdout

"""By flsim's engine, on a backend."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import cloudpickle

import flsim
import flsim_bench
from flsim import ArrayRecord, ClientApp, ConfigRecord, Context, Grid, Message, MetricRecord, RecordDict, ServerApp
from flsim_bench import tasks
from flsim_bench.way import Order, Play, Played, Way

if TYPE_CHECKING:
    from flsim_bench.tasks import Array, Span

client = ClientApp()


def drive(order: Order, play: Play) -> Played:
    """Run a ServerApp that plays."""
    played: list[Played] = []
    server = ServerApp()

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        played.append(play(GridWay(grid)))

    options = dict(order.options)
    flsim.run(server, client_by_value(), nodes=order.nodes, backend=order.name, options=options, seed=1, quiet=True)
    return played[0]


def client_by_value() -> ClientApp:
    """The ClientApp, which from now on is pickled with its code, so that workers on other hosts need flsim alone."""
    cloudpickle.register_pickle_by_value(flsim_bench)
    return client


class GridWay(Way):
    """Messages through the Grid."""

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        self._nodes = grid.get_node_ids()

    def noop(self, clients: Sequence[int], round: int) -> Iterable[int]:
        content = _config(round=round)
        return (r["value"] for r in self._ask("query.noop", clients, lambda _: content))

    def echo(self, model: Array, clients: Sequence[int]) -> Iterator[Array]:
        content = RecordDict({"model": ArrayRecord({"w": model})})
        messages = (Message(content, self._nodes[c], "query.echo") for c in clients)
        for reply in self._grid.stream(messages):
            yield reply.content["model"]["w"]

    def broadcast(self, model: Array, clients: Sequence[int]) -> Iterable[float]:
        content = RecordDict({"model": ArrayRecord({"w": model})})
        return (r["value"] for r in self._ask("query.touch", clients, lambda _: content))

    def spin(self, seconds: Sequence[float]) -> Iterable[Span]:
        return self._work("query.spin", seconds)

    def sleep(self, seconds: Sequence[float]) -> Iterable[Span]:
        return self._work("query.sleep", seconds)

    def visit(self, clients: Sequence[int], size: int) -> Iterable[int]:
        content = _config(size=size)
        return (r["value"] for r in self._ask("query.visit", clients, lambda _: content))

    def _work(self, type_: str, seconds: Sequence[float]) -> Iterable[Span]:
        replies = self._ask(type_, range(len(seconds)), lambda c: _config(seconds=seconds[c]))
        return ((r["worker"], r["begin"], r["end"]) for r in replies)

    def _ask(self, type_: str, clients: Sequence[int], content: Callable[[int], RecordDict]) -> Iterator[Any]:
        messages = (Message(content(c), self._nodes[c], type_) for c in clients)
        for reply in self._grid.send_and_receive(messages):
            yield reply.content["reply"]


def _config(**values: Any) -> RecordDict:
    return RecordDict({"config": ConfigRecord(values)})


# ---- in the worker


def _client(context: Context) -> int:
    return int(context.node_config["partition-id"])


def _reply(msg: Message, **values: Any) -> Message:
    return Message(RecordDict({"reply": MetricRecord(values)}), reply_to=msg)


def _span(msg: Message, span: Span) -> Message:
    values = dict(zip(("worker", "begin", "end"), span, strict=True))
    return Message(RecordDict({"reply": ConfigRecord(values)}), reply_to=msg)


@client.query("noop")
def noop(msg: Message, context: Context) -> Message:
    """``tasks.noop``."""
    return _reply(msg, value=tasks.noop(_client(context), msg.content["config"]["round"]))


@client.query("echo")
def echo(msg: Message, context: Context) -> Message:
    """``tasks.echo``."""
    return Message(RecordDict({"model": ArrayRecord({"w": tasks.echo(msg.content["model"]["w"])})}), reply_to=msg)


@client.query("touch")
def touch(msg: Message, context: Context) -> Message:
    """``tasks.touch``."""
    return _reply(msg, value=tasks.touch(msg.content["model"]["w"], _client(context)))


@client.query("spin")
def spin(msg: Message, context: Context) -> Message:
    """``tasks.spin``."""
    return _span(msg, tasks.spin(msg.content["config"]["seconds"]))


@client.query("sleep")
def sleep(msg: Message, context: Context) -> Message:
    """``tasks.sleep``."""
    return _span(msg, tasks.sleep(msg.content["config"]["seconds"]))


@client.query("visit")
def visit(msg: Message, context: Context) -> Message:
    """``tasks.visit``, with the node's state."""
    kept = context.state.get("kept", {"visits": 0, "bytes": b""})
    visits, state = tasks.visit(kept["visits"], kept["bytes"], msg.content["config"]["size"])
    context.state["kept"] = ConfigRecord({"visits": visits, "bytes": state})
    return _reply(msg, value=visits)

# mypy: disallow-untyped-decorators=False, disable-error-code="union-attr, arg-type"
"""By Flower's engine. Runs in Flower's own Python, with nothing of flsim but this package."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from flsim_bench import tasks
from flsim_bench.way import Order, Play, Played, Way

# Read when these are imported: no call home, and Ray stays on 127.0.0.1 (despite the name of what does that).
os.environ.update(FLWR_TELEMETRY_ENABLED="0", RAY_USAGE_STATS_ENABLED="0", RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0")

from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.simulation import run_simulation

if TYPE_CHECKING:
    from flsim_bench.tasks import Array, Span

client = ClientApp()


def drive(order: Order, play: Play) -> Played:
    """Run a ServerApp that plays. Raises what that raised, which Flower does not."""
    ended: list[Played | BaseException] = []
    server = ServerApp()

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        try:
            ended.append(play(FlowerWay(grid, order.nodes)))
        except BaseException as e:
            ended.append(e)
            raise

    run_simulation(
        server,
        client,
        num_supernodes=order.nodes,
        backend_config={
            "init_args": {"num_cpus": order.workers, "include_dashboard": False, "_temp_dir": order.folder},
            "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
        },
    )
    if not ended:
        raise RuntimeError("Flower did not call the ServerApp")
    if isinstance(ended[0], BaseException):
        raise ended[0]
    return ended[0]


class FlowerWay(Way):
    """Messages through Flower's Grid."""

    def __init__(self, grid: Grid, nodes: int) -> None:
        self._grid = grid
        self._nodes = sorted(grid.get_node_ids())
        while len(self._nodes) < nodes:  # the ServerApp is called before all nodes are there
            time.sleep(0.02)  # Flower tells nobody when they are
            self._nodes = sorted(grid.get_node_ids())

    def noop(self, clients: Sequence[int], round: int) -> Iterable[int]:
        return (r["value"] for r in self._ask("query.noop", clients, lambda c: _config(client=c, round=round)))

    def echo(self, model: Array, clients: Sequence[int]) -> Iterator[Array]:
        content = RecordDict({"model": ArrayRecord([model])})
        for reply in self._messages("query.echo", clients, lambda _: content):
            yield reply.content["model"].to_numpy_ndarrays()[0]

    def broadcast(self, model: Array, clients: Sequence[int]) -> Iterable[float]:
        arrays = ArrayRecord([model])  # one record for all, as Flower's strategies do it
        replies = self._ask("query.touch", clients, lambda c: RecordDict({"model": arrays, **_config(client=c)}))
        return (r["value"] for r in replies)

    def spin(self, seconds: Sequence[float]) -> Iterable[Span]:
        return self._work("query.spin", seconds)

    def sleep(self, seconds: Sequence[float]) -> Iterable[Span]:
        return self._work("query.sleep", seconds)

    def visit(self, clients: Sequence[int], size: int) -> Iterable[int]:
        return (r["value"] for r in self._ask("query.visit", clients, lambda _: _config(size=size)))

    def _work(self, type_: str, seconds: Sequence[float]) -> Iterable[Span]:
        replies = self._ask(type_, range(len(seconds)), lambda c: _config(seconds=seconds[c]))
        return ((r["worker"], r["begin"], r["end"]) for r in replies)

    def _ask(self, type_: str, clients: Sequence[int], content: Callable[[int], RecordDict]) -> Iterator[Any]:
        return (m.content["reply"] for m in self._messages(type_, clients, content))

    def _messages(self, type_: str, clients: Sequence[int], content: Callable[[int], RecordDict]) -> Iterator[Message]:
        for reply in self._grid.send_and_receive([Message(content(c), self._nodes[c], type_) for c in clients]):
            if reply.has_error():
                raise RuntimeError(f"Flower answered with an error: {reply.error}")
            yield reply


def _config(**values: Any) -> RecordDict:
    return RecordDict({"config": ConfigRecord(values)})


# ---- in the worker


def _reply(msg: Message, **values: Any) -> Message:
    return Message(RecordDict({"reply": MetricRecord(values)}), reply_to=msg)


def _span(msg: Message, span: Span) -> Message:
    values = dict(zip(("worker", "begin", "end"), span, strict=True))
    return Message(RecordDict({"reply": ConfigRecord(values)}), reply_to=msg)


@client.query("noop")
def noop(msg: Message, context: Context) -> Message:
    """``tasks.noop``."""
    config = msg.content["config"]
    return _reply(msg, value=tasks.noop(config["client"], config["round"]))


@client.query("echo")
def echo(msg: Message, context: Context) -> Message:
    """``tasks.echo``."""
    (model,) = msg.content["model"].to_numpy_ndarrays()
    return Message(RecordDict({"model": ArrayRecord([tasks.echo(model)])}), reply_to=msg)


@client.query("touch")
def touch(msg: Message, context: Context) -> Message:
    """``tasks.touch``."""
    (model,) = msg.content["model"].to_numpy_ndarrays()
    return _reply(msg, value=tasks.touch(model, msg.content["config"]["client"]))


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

"""A client of all that Flower's newer API has: actions, mods of both kinds, lifespan, state and both configurations."""

from collections.abc import Iterator

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.mod import message_size_mod

ENTERED: list[int] = []


def counting_mod(msg: Message, context: Context, call_next) -> Message:
    reply = call_next(msg, context)
    if "metrics" in reply.content:
        reply.content["metrics"]["mods"] = reply.content["metrics"].get("mods", 0) + 1
    return reply


app = ClientApp(mods=[counting_mod, message_size_mod])


@app.lifespan()
def lifespan(context: Context) -> Iterator[None]:
    ENTERED.append(context.node_id)
    yield
    ENTERED.pop()


def data(context: Context) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(context.node_config["partition-id"])
    x = rng.normal(size=(40, 200))
    return x, x @ np.linspace(-1, 1, 200)


def visits(context: Context) -> int:
    """How many messages this node has had, this one included. Its state holds an array of any size, too."""
    before = context.state["visits"]["count"] if "visits" in context.state else 0
    if before:
        assert context.state["kept"]["large"].numpy()[0] == before
    context.state["visits"] = MetricRecord({"count": before + 1})
    context.state["kept"] = ArrayRecord({"large": _array(np.full(2000, before + 1.0))})
    return before + 1


def _array(values: np.ndarray):
    return ArrayRecord([values])["0"]


@app.query("where")
def where(msg: Message, context: Context) -> Message:
    about = ConfigRecord({
        "partition": context.node_config["partition-id"],
        "partitions": context.node_config["num-partitions"],
        "node": context.node_id,
        "inside": [context.node_id] == ENTERED,
        "asked": msg.content["config"]["words"],
        "group": msg.metadata.group_id,
        "type": msg.metadata.message_type,
        "run": context.run_id == msg.metadata.run_id,
    })  # fmt: skip
    return Message(RecordDict({"about": about}), reply_to=msg)


@app.train(mods=[counting_mod])
def train(msg: Message, context: Context) -> Message:
    (weights,) = msg.content["arrays"].to_numpy_ndarrays()
    x, y = data(context)
    rate = context.run_config.get("model.rate", 0.5) * msg.content["config"].get("scale", 1.0)
    weights -= rate * x.T @ (x @ weights - y) / len(y) / 10
    loss = float(np.mean((x @ weights - y) ** 2))
    metrics = MetricRecord({"num-examples": len(y), "loss": loss, "visits": visits(context)})
    return Message(RecordDict({"arrays": ArrayRecord([weights]), "metrics": metrics}), reply_to=msg)


@app.evaluate()
def evaluate(msg: Message, context: Context) -> Message:
    (weights,) = msg.content["arrays"].to_numpy_ndarrays()
    x, y = data(context)
    metrics = MetricRecord({
        "num-examples": len(y), "error": float(np.abs(x @ weights - y).mean()), "visits": visits(context),
    })  # fmt: skip
    return Message(RecordDict({"metrics": metrics}), reply_to=msg)

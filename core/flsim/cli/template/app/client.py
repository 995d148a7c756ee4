"""What a node does with the model that it is sent."""

from flsim import ArrayRecord, ClientApp, Context, Message, MetricRecord, RecordDict

from . import data, model

app = ClientApp()


@app.train()
def train(msg: Message, context: Context) -> Message:
    """Train the model on the node's own points, more carefully each time that the node is asked."""
    config = context.run_config
    x, y = data.of_node(int(context.node_config["partition-id"]), int(config["points"]))
    trained = int(context.state["node"]["trained"]) if "node" in context.state else 0
    weights = model.train(
        msg.content["model"]["weights"],
        x,
        y,
        epochs=int(config["epochs"]),
        batch=int(config["batch"]),
        rate=float(config["learning-rate"]) / (1 + trained),
        rng=context.rng,
    )
    context.state["node"] = MetricRecord({"trained": trained + 1})
    loss, _ = model.evaluate(weights, x, y)
    content = {
        "model": ArrayRecord({"weights": weights}),
        "metrics": MetricRecord({"num-examples": len(y), "loss": loss}),
    }
    return Message(RecordDict(content), reply_to=msg)

"""What each node does: train the global model on its own images."""

from digits import data, model
from flsim import ArrayRecord, ClientApp, Context, Message, MetricRecord, RecordDict

app = ClientApp()


@app.train()
def train(msg: Message, context: Context) -> Message:
    config = context.run_config
    x, y = data.train_set(config, int(context.node_config["partition-id"]), int(context.node_config["num-partitions"]))
    weights = msg.content["weights"].to_numpy_ndarrays()
    loss = model.train(
        weights,
        x,
        y,
        epochs=int(config["epochs"]),
        batch=int(config["batch"]),
        rate=float(config["learning-rate"]),
        rng=context.rng,
    )
    metrics = MetricRecord({"num-examples": len(y), "loss": loss})
    return Message(RecordDict({"weights": ArrayRecord(weights), "metrics": metrics}), reply_to=msg)

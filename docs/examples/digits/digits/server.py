"""What the server does: federated averaging (McMahan et al., 2017, arXiv:1602.05629)."""

from digits import data, model
from flsim import ArrayRecord, Context, Grid, Message, MetricRecord, RecordDict, ServerApp, weighted_mean

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    config = context.run_config
    x, y = data.test_set(config)
    weights = ArrayRecord(model.init(context.rng, int(config["hidden"])))
    nodes = grid.get_node_ids()
    curve = []
    for round in range(1, int(config["rounds"]) + 1):
        chosen = context.rng.choice(nodes, int(config["sample"]), replace=False)
        content = RecordDict({"weights": weights})
        replies = grid.send_and_receive(Message(content, int(node), "train") for node in chosen)
        mean = weighted_mean(replies)
        weights = mean["weights"]
        accuracy = model.accuracy(weights.to_numpy_ndarrays(), x, y)
        curve.append(accuracy)
        grid.report(round, accuracy=accuracy, loss=mean["metrics"]["loss"])
    context.state["weights"] = weights
    context.state["curve"] = MetricRecord({"accuracy": curve})

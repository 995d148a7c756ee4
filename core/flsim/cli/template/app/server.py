"""What the server does: federated averaging (McMahan et al., 2017, arXiv:1602.05629)."""

from flsim import ArrayRecord, Context, Grid, Message, RecordDict, ServerApp, weighted_mean

from . import data, model

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """In each round, send the model to some nodes, and take the mean of what they make of it."""
    config = context.run_config
    x, y = data.held_out()
    nodes = grid.get_node_ids()
    current = ArrayRecord({"weights": model.init()})
    for round in range(1, int(config["rounds"]) + 1):
        chosen = context.rng.choice(nodes, min(int(config["sample"]), len(nodes)), replace=False)
        content = RecordDict({"model": current})
        replies = grid.send_and_receive(Message(content, int(node), "train") for node in chosen)
        current = weighted_mean(replies)["model"]
        loss, accuracy = model.evaluate(current["weights"], x, y)
        grid.report(round, loss=loss, accuracy=accuracy)
    context.state["model"] = current

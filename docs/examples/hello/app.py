"""Learn the mean of numbers that never leave their nodes."""

from flsim import ClientApp, Context, Grid, Message, MetricRecord, RecordDict, ServerApp, weighted_mean

client = ClientApp()
server = ServerApp()


@client.train()
def train(msg: Message, context: Context) -> Message:
    numbers = context.rng.normal(10.0, 2.0, size=100)  # the node's own data
    metrics = MetricRecord({"mean": numbers.mean(), "num-examples": len(numbers)})
    return Message(RecordDict({"metrics": metrics}), reply_to=msg)


@server.main()
def main(grid: Grid, context: Context) -> None:
    for round in range(1, 4):
        messages = [Message(RecordDict(), node, "train") for node in grid.get_node_ids()]
        replies = grid.send_and_receive(messages)
        mean = weighted_mean(replies)["metrics"]["mean"]
        grid.report(round, mean=mean)
    context.state["result"] = MetricRecord({"mean": mean})

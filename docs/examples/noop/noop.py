"""Ask nodes to do nothing, and time how long that takes: what the engine itself costs."""

import statistics
import time

from flsim import ClientApp, ConfigRecord, Context, Grid, Message, MetricRecord, RecordDict, ServerApp

server = ServerApp()
client = ClientApp()


@client.train()
def train(msg: Message, context: Context) -> Message:
    return Message(RecordDict({"metrics": MetricRecord({"num-examples": 1})}), reply_to=msg)


@server.main()
def main(grid: Grid, context: Context) -> None:
    sample = int(context.run_config["sample"])
    seconds = []
    for round in range(1, int(context.run_config["rounds"]) + 1):
        begun = time.perf_counter()
        nodes = grid.get_node_ids()
        chosen = nodes if sample >= len(nodes) else context.rng.choice(len(nodes), sample, replace=False) + nodes[0]
        content = RecordDict({"config": ConfigRecord({"round": round})})
        replies = grid.send_and_receive(Message(content, int(node), "train") for node in chosen)
        assert all(r.has_content() for r in replies)
        seconds.append(time.perf_counter() - begun)
    median = statistics.median(seconds)
    grid.report(len(seconds), seconds_a_round=median, messages_per_second=len(replies) / median)

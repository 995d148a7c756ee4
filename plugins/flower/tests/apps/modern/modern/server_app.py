"""A server that asks its nodes who they are, and then trains by a strategy."""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAdam

app = ServerApp()
NODES = int(os.environ.get("NODES", "4"))


@app.lifespan()
def lifespan(context: Context) -> Iterator[None]:
    context.state["lifespan"] = ConfigRecord({"entered": True})
    yield
    context.state["lifespan"]["left"] = True


@app.main()
def main(grid: Grid, context: Context) -> None:
    while len(nodes := list(grid.get_node_ids())) < NODES:
        time.sleep(0.1)  # in Flower, nodes come one by one
    words = RecordDict({"config": ConfigRecord({"words": ["who", "are", "you"]})})
    replies = list(grid.send_and_receive([Message(words, n, "query.where", group_id="first") for n in nodes]))
    answers = [r.content["about"] for r in replies]
    assert sorted(a["partition"] for a in answers) == list(range(NODES))
    assert [a["node"] for a in answers] == [r.metadata.src_node_id for r in replies]
    for a in answers:
        assert (a["partitions"], a["inside"], a["run"]) == (NODES, True, True)
        assert (a["asked"], a["group"], a["type"]) == (["who", "are", "you"], "first", "query.where")

    strategy = FedAdam(min_available_nodes=NODES, min_train_nodes=NODES, eta=0.05)
    result = strategy.start(
        grid,
        ArrayRecord([np.zeros(200)]),
        num_rounds=context.run_config.get("num-server-rounds", 3),
        train_config=ConfigRecord({"scale": 2.0}),
        evaluate_fn=lambda _, arrays: MetricRecord({"norm": float(np.linalg.norm(arrays["0"].numpy()))}),
    )
    outcome = {
        "arrays": result.arrays["0"].numpy().tolist(),
        "train": {r: dict(m) for r, m in result.train_metrics_clientapp.items()},
        "evaluate": {r: dict(m) for r, m in result.evaluate_metrics_clientapp.items()},
        "server": {r: dict(m) for r, m in result.evaluate_metrics_serverapp.items()},
    }
    context.state["final"] = result.arrays
    if file := os.environ.get("OUTCOME"):
        Path(file).write_text(json.dumps(outcome))

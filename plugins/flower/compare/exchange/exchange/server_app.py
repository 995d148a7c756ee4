"""Rounds of one model of so many bytes to all nodes. What it measures is written to the file that EXCHANGE names.

Parameters come by the environment, since ``flwr.simulation.run_simulation`` gives an app no run_config.
"""

import json
import os
import time
from pathlib import Path

import numpy as np
from flwr.app import ArrayRecord, Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    order = json.loads(os.environ["EXCHANGE"])
    while len(nodes := list(grid.get_node_ids())) < order["nodes"]:
        time.sleep(0.02)  # Flower calls the ServerApp before all nodes are there, and tells nobody when they are
    seconds = []
    for _ in range(order["rounds"] + 1):
        model = ArrayRecord([np.zeros(order["bytes"] // 8)])
        begun = time.perf_counter()
        replies = grid.send_and_receive([Message(RecordDict({"arrays": model}), n, "train") for n in nodes])
        total = sum(reply.content["arrays"].to_numpy_ndarrays()[0] for reply in replies)
        seconds.append(time.perf_counter() - begun)
        assert total[0] == len(nodes), "every node has answered, with what it got plus one"
    Path(order["file"]).write_text(json.dumps(seconds[1:]))  # the first is for what starts

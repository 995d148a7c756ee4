"""A server of Flower's older API. All values are such that their sums are the same in any order."""

import json
import os
from pathlib import Path

from flwr.common import Context
from flwr.server import ServerApp, ServerAppComponents, ServerConfig
from flwr.server.strategy import FedAvg

SEEN: dict[int, list[float]] = {}


def mean(name):
    return lambda metrics: {name: sum(n * m[name] for n, m in metrics) / sum(n for n, _ in metrics)}


def evaluate(server_round, parameters, config):
    SEEN[server_round] = [p.sum() for p in parameters]
    if file := os.environ.get("OUTCOME"):
        Path(file).write_text(json.dumps({"sums": SEEN}))
    return float(parameters[1][0]), {"sum": float(parameters[0].sum())}


def server_fn(context: Context) -> ServerAppComponents:
    strategy = FedAvg(
        min_available_clients=4,
        min_fit_clients=4,
        min_evaluate_clients=4,
        on_fit_config_fn=lambda server_round: {"round": server_round},
        fit_metrics_aggregation_fn=mean("fits"),
        evaluate_metrics_aggregation_fn=mean("part"),
        evaluate_fn=evaluate,
    )
    rounds = int(context.run_config.get("num-server-rounds", 3))
    return ServerAppComponents(strategy=strategy, config=ServerConfig(num_rounds=rounds))


app = ServerApp(server_fn=server_fn)

"""A server that drives Flower's workflows by a Driver: secure aggregation."""

import json
import os
from pathlib import Path

import numpy as np
from flwr.common import Context, ndarrays_to_parameters
from flwr.server import Driver, LegacyContext, ServerApp, ServerConfig
from flwr.server.strategy import FedAvg
from flwr.server.workflow import DefaultWorkflow, SecAggPlusWorkflow

app = ServerApp()
MEANS: list[float] = []


def evaluate(server_round, parameters, config):
    MEANS.append(float(parameters[0].mean()))
    return MEANS[-1], {}


@app.main()
def main(driver: Driver, context: Context) -> None:
    MEANS.clear()
    strategy = FedAvg(
        min_available_clients=4,
        min_fit_clients=4,
        min_evaluate_clients=4,
        initial_parameters=ndarrays_to_parameters([np.ones(1000)]),
        evaluate_fn=evaluate,
    )
    legacy = LegacyContext(context=context, config=ServerConfig(num_rounds=2), strategy=strategy)
    workflow = DefaultWorkflow(fit_workflow=SecAggPlusWorkflow(num_shares=3, reconstruction_threshold=2, timeout=60))
    workflow(driver, legacy)
    if file := os.environ.get("OUTCOME"):
        distributed = [loss for _, loss in legacy.history.losses_distributed]
        Path(file).write_text(json.dumps({"means": MEANS, "distributed": distributed}))

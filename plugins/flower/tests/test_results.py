"""What strategies come to is reported and kept, and the strategies are left as they are."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent
from typing import Any

import numpy as np
import pytest
from flowers import run_json, write_project

import flsim

NEWER = """
import copy, pickle
from dataclasses import dataclass
import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg

server, client = ServerApp(), ClientApp()

@client.train()
def train(msg, context):
    metrics = MetricRecord({"num-examples": 1, "loss": 2.5})
    return Message(RecordDict({"arrays": msg.content["arrays"], "metrics": metrics}), reply_to=msg)

def run(strategy, grid, **more):
    return strategy.start(grid, ArrayRecord([np.ones(3)]), num_rounds=1, **more)
"""

ODD = {
    "one that pickles and copies itself": """
        class Strategy(FedAvg):
            def aggregate_train(self, server_round, replies):
                again = pickle.loads(pickle.dumps(self))
                assert copy.deepcopy(self).aggregate_train.__self__ is not self
                assert again.fraction_train == self.fraction_train
                return super().aggregate_train(server_round, replies)

        @server.main()
        def main(grid, context):
            run(Strategy(fraction_evaluate=0.0), grid)
    """,
    "one whose methods are its own": """
        @server.main()
        def main(grid, context):
            strategy, calls = FedAvg(fraction_evaluate=0.0), []
            before = strategy.aggregate_train

            def mine(server_round, replies):
                calls.append(server_round)
                return before(server_round, replies)

            strategy.aggregate_train = mine
            run(strategy, grid)
            run(strategy, grid)
            assert calls == [1, 1]
            assert strategy.aggregate_train is mine
    """,
    "one that is frozen": """
        @dataclass(frozen=True)
        class Strategy(FedAvg):
            fraction_train: float = 1.0
            fraction_evaluate: float = 0.0
            min_train_nodes: int = 2
            min_evaluate_nodes: int = 2
            min_available_nodes: int = 2
            arrayrecord_key: str = "arrays"
            configrecord_key: str = "config"
            weighted_by_key: str = "num-examples"
            train_metrics_aggr_fn: object = None
            evaluate_metrics_aggr_fn: object = None

            def aggregate_train(self, server_round, replies):
                replies = list(replies)
                return replies[0].content["arrays"], replies[0].content["metrics"]

        @server.main()
        def main(grid, context):
            run(Strategy(), grid)
    """,
    "one whose start calls its base's": """
        class Strategy(FedAvg):
            def start(self, *args, **kwargs):
                assert type(self) is Strategy
                self.started = True
                return super().start(*args, **kwargs)

        @server.main()
        def main(grid, context):
            strategy = Strategy(fraction_evaluate=0.0)
            run(strategy, grid)
            assert strategy.started
    """,
}


@pytest.mark.parametrize("what", ODD)
def test_a_strategy_is_reported_and_left_as_it_is(tmp_path: Path, what: str) -> None:
    app = write_project(tmp_path, apps=NEWER + dedent(ODD[what]))
    said = run_json(app, "-b", "serial")
    assert said["metrics"][0]["train-loss"] == 2.5


BYTES = """
from flwr.client import Client, ClientApp
from flwr.common import Code, EvaluateRes, FitRes, Parameters, Status
from flwr.server import ServerApp, ServerAppComponents, ServerConfig
from flwr.server.strategy import FedAvg

MODEL = b'{"trees": [1, 2]}'

class Mine(Client):
    def fit(self, ins):
        assert ins.parameters.tensors == [MODEL]
        return FitRes(Status(Code.OK, ""), Parameters([MODEL], ""), 1, {})

class Strategy(FedAvg):
    def aggregate_fit(self, server_round, results, failures):
        assert len(results) == 2 and not failures
        return results[0][1].parameters, {"fits": len(results)}

def server_fn(context):
    strategy = Strategy(initial_parameters=Parameters([MODEL], ""), fraction_evaluate=0.0)
    return ServerAppComponents(strategy=strategy, config=ServerConfig(num_rounds=1))

server, client = ServerApp(server_fn=server_fn), ClientApp(lambda context: Mine())
"""


def test_parameters_that_are_no_arrays_are_in_the_result_as_their_bytes(tmp_path: Path) -> None:
    """As those of XGBoost."""
    result = flsim.run(write_project(tmp_path, apps=BYTES), backend="serial", quiet=True)
    assert result.state["arrays"]["0"].tobytes() == b'{"trees": [1, 2]}'
    assert result.metrics == ({"round": 1, "train-fits": 2},)


WORKFLOW = """
import numpy as np
from flwr.client import ClientApp, NumPyClient
from flwr.common import ndarrays_to_parameters
from flwr.server import LegacyContext, ServerApp, ServerConfig
from flwr.server.strategy import FedAvg
from flwr.server.workflow import DefaultWorkflow

class Client(NumPyClient):
    def fit(self, parameters, config):
        return [parameters[0] + 1], 1, {}

    def evaluate(self, parameters, config):
        return float(parameters[0][0]), 1, {}

server, client = ServerApp(), ClientApp(lambda context: Client().to_client())

@server.main()
def main(grid, context):
    strategy = FedAvg(initial_parameters=ndarrays_to_parameters([np.zeros(3)]))
    DefaultWorkflow()(grid, LegacyContext(context=context, config=ServerConfig(num_rounds=2), strategy=strategy))
"""


def test_what_a_workflow_comes_to_is_reported_and_its_arrays_are_kept(tmp_path: Path) -> None:
    result: Any = flsim.run(write_project(tmp_path, apps=WORKFLOW), backend="serial", quiet=True)
    assert [m["evaluate-loss"] for m in result.metrics] == [1.0, 2.0]
    assert any(np.array_equal(a, [2.0, 2.0, 2.0]) for r in result.state.values() for a in r.values())


def test_two_runs_of_a_workflow_come_to_the_same(tmp_path: Path) -> None:
    """Though it leaves in the state when it began."""
    app = write_project(tmp_path, apps=WORKFLOW)
    first, second = (flsim.run(app, backend="serial", seed=1, quiet=True) for _ in range(2))
    assert first.digest == second.digest
    assert first.state["config"]["current_round"] == 2

"""A client of Flower's older API."""

import numpy as np
from flwr.client import ClientApp, NumPyClient
from flwr.common import Context, MetricRecord


class Client(NumPyClient):
    def __init__(self, context: Context) -> None:
        self.part = context.node_config["partition-id"]
        self.state = context.state

    def get_parameters(self, config):
        return [np.zeros((30, 30)), np.zeros(2)]

    def fit(self, parameters, config):
        large, small = parameters
        large += self.part + config["round"]
        small[0] += 1
        before = self.state["fits"]["count"] if "fits" in self.state else 0
        self.state["fits"] = MetricRecord({"count": before + 1})
        return [large, small], 8, {"fits": before + 1}

    def evaluate(self, parameters, config):
        return float(parameters[0].sum()), 8, {"part": float(self.part)}


def client_fn(context: Context):
    return Client(context).to_client()


app = ClientApp(client_fn)

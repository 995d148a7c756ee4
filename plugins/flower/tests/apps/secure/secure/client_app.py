"""A client whose weights the server sees only in sum."""

from flwr.client import ClientApp, NumPyClient
from flwr.client.mod import secaggplus_mod
from flwr.common import Context


class Client(NumPyClient):
    def __init__(self, part: int) -> None:
        self.part = part

    def fit(self, parameters, config):
        return [p + self.part for p in parameters], 1, {}

    def evaluate(self, parameters, config):
        return float(parameters[0].mean()), 1, {}


def client_fn(context: Context):
    return Client(int(context.node_config["partition-id"])).to_client()


app = ClientApp(client_fn, mods=[secaggplus_mod])

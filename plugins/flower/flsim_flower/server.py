"""A Flower ServerApp as the engine calls one, in the driver."""

from __future__ import annotations

from typing import Any

from flwr.app import Context, RecordDict
from flwr.serverapp import ServerApp

import flsim
from flsim.errors import ConfigError
from flsim_flower.array import make_arrays_fast
from flsim_flower.grid import FlowerGrid
from flsim_flower.identity import identify
from flsim_flower.logs import follow_stderr
from flsim_flower.records import plain
from flsim_flower.results import kept_results


def server_of(app: Any) -> Server:
    """The adapter of a ServerApp. Raises ConfigError where it is none."""
    make_arrays_fast()
    follow_stderr()
    if not isinstance(app, ServerApp):
        raise ConfigError(f"serverapp is a {type(app).__name__}, and no flwr.serverapp.ServerApp")
    return Server(app)


class Server:
    """Drives a run of the engine by a Flower ServerApp."""

    def __init__(self, app: ServerApp) -> None:
        self._app = app

    def __call__(self, grid: flsim.Grid, context: flsim.Context) -> None:
        """Call the app. What it leaves in its ``context.state``, and what its strategies came to, is the result."""
        self.run(FlowerGrid(grid.link), grid, context)

    def run(self, theirs: FlowerGrid, grid: flsim.Grid, context: flsim.Context) -> None:
        """Call the app with this Grid."""
        identify(context.run_id)
        about = Context(
            run_id=context.run_id,
            node_id=context.node_id,
            node_config={},
            state=RecordDict(),
            run_config=dict(context.run_config),
        )
        with kept_results(grid) as results:
            self._app(theirs, about)
        context.state = results.added_to(plain(about.state))

"""What several test files share: Flower apps of one file each, run here, and command lines."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sysconfig
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from flwr.app import Message, RecordDict
from flwr.clientapp import ClientApp

import flsim
from flsim.fleet import Kind
from flsim.plan import make_plan
from flsim.plugins import Plugins
from flsim.project import Project
from flsim.result import RunResult
from flsim_flower.client import Client, client_of
from flsim_flower.grid import FlowerGrid
from flsim_flower.identity import identify
from flsim_flower.records import pack

APPS = Path(__file__).parent / "apps"
FLSIM = Path(sysconfig.get_path("scripts"), "flsim")

PYPROJECT = """
[project]
name = "mine"
version = "1"

[tool.flwr.app]
publisher = "me"

[tool.flwr.app.components]
serverapp = "apps:server"
clientapp = "apps:client"
"""
"""What a pyproject.toml beside :data:`BOTH`, as ``apps.py``, says."""

BOTH = """
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

server, client = ServerApp(), ClientApp()

@client.query()
def query(msg, context):
    print("the client prints")
    return Message(RecordDict({"config": ConfigRecord(dict(context.run_config))}), reply_to=msg)

@server.main()
def main(grid, context):
    replies = grid.send_and_receive([Message(RecordDict(), n, "query") for n in grid.get_node_ids()])
    context.state["config"] = replies[0].content["config"]
    context.state["nodes"] = ConfigRecord({"nodes": len(replies)})
"""


def write_project(folder: Path, pyproject: str = PYPROJECT, apps: str = BOTH) -> Path:
    """A Flower project, and its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "pyproject.toml").write_text(dedent(pyproject))
    (folder / "apps.py").write_text(dedent(apps))
    return folder


def copied(name: str, folder: Path) -> Path:
    """A copy of one of the apps, of its own name."""
    return Path(shutil.copytree(APPS / name, folder / name))


def skip_without(backend: str) -> None:
    """Skip where a backend is not installed."""
    if backend not in {b.spec.name for b in Plugins().backends() if not b.missing}:
        pytest.skip(f"backend {backend} is not installed")


def version() -> tuple[int, ...]:
    """Of flwr."""
    return tuple(int(part) for part in metadata.version("flwr").split(".")[:2])


def flsim_command(
    *args: str | Path, env: Mapping[str, str] | None = None, timeout: float = 100
) -> subprocess.CompletedProcess[str]:
    """Run the command line."""
    whole = {**os.environ, "NO_COLOR": "1", "COLUMNS": "200", **(env or {})}
    command = [str(FLSIM), *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, env=whole, timeout=timeout, check=False)


def run_json(*args: str | Path, env: Mapping[str, str] | None = None) -> Any:
    """What ``flsim run --json`` prints; it must not fail."""
    done = flsim_command("run", *args, "--json", env=env)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def drive(
    main: Callable[[FlowerGrid], Any],
    client: ClientApp,
    *,
    nodes: int = 3,
    backend: str = "serial",
    config: Mapping[str, Any] | None = None,
    **options: Any,
) -> tuple[Any, RunResult]:
    """Run a function on a Grid of Flower's, with a ClientApp of this process or a module, and say what it returned."""
    returned: list[Any] = []

    def server(grid: flsim.Grid, context: flsim.Context) -> None:
        identify(context.run_id)
        returned.append(main(FlowerGrid(grid.link)))

    skip_without(backend)
    kind = Kind("default", client_of(client), nodes)
    project = Project("test", server, (kind,), config=dict(config or {}))
    plan = make_plan(Plugins(), project, backend=backend, options=options, seed=1)
    result = plan.run()
    return returned[0], result


def call(app: ClientApp, content: RecordDict, **config: Any) -> tuple[flsim.Message, flsim.Context]:
    """One query to a ClientApp, without a run: the reply, and the context afterwards."""
    metadata = flsim.Metadata(5, "7", 1, 2, "query", "g", 1e9, 60.0, "")
    context = flsim.Context(5, 2, {"partition-id": 0, "num-partitions": 3}, flsim.RecordDict(), config)
    return Client(app)(flsim.Message.restore(metadata, pack(content)), context), context


def messages(grid: FlowerGrid, type_: str = "query", content: RecordDict | None = None, **more: Any) -> list[Message]:
    """One to each node."""
    made = content if content is not None else RecordDict()
    return [Message(made, node, type_, **more) for node in grid.get_node_ids()]


def got(message: Message) -> Any:
    """A message's content, of which Flower's types say that each value may be of ten types."""
    return message.content

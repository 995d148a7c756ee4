"""What several test files share: apps and plugins written to a folder, and other Pythons that run them."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from textwrap import dedent
from unittest import mock

import pytest

from flsim import ConfigRecord, Context, Error, Grid, Message, Metadata, RecordDict, ServerApp
from flsim.cli import main

FLSIM = Path(sysconfig.get_path("scripts"), "flsim")
"""The console script of this environment."""

APP = """
from flsim import ClientApp, Message, MetricRecord, RecordDict, ServerApp

server = ServerApp()
client = ClientApp()

@client.train()
def train(msg, context):
    print("the client prints")
    return Message(RecordDict({"metrics": MetricRecord({"num-examples": 1, "node": context.node_id})}), reply_to=msg)

@server.main()
def main(grid, context):
    print("the server prints")
    replies = grid.send_and_receive(Message(RecordDict(), node, "train") for node in grid.get_node_ids())
    context.state["nodes"] = MetricRecord({"nodes": [r.content["metrics"]["node"] for r in replies if r.has_content()]})
    grid.report(1, answered=len(replies))
"""
"""A file with a ServerApp and a ClientApp, both of which print."""

TABLE = """
[tool.flsim]
server = "app:server"
client = "app:client"
nodes = 3
"""
"""What a pyproject.toml beside :data:`APP`, as ``app.py``, says."""


def write(folder: Path, files: dict[str, str]) -> Path:
    """Write files, by their path in ``folder``, and return the folder."""
    for name, text in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(dedent(text), encoding="utf-8")
    return folder


def write_app(folder: Path, table: str = TABLE, **files: str) -> Path:
    """An app that is a folder: ``app.py`` is :data:`APP`; ``files`` are further modules, or others in its place."""
    modules = {f"{name}.py": text for name, text in {"app": APP, **files}.items()}
    return write(folder, {"pyproject.toml": table, **modules})


def write_plugin(
    folder: Path, module: str, text: str, *, distribution: str, version: str = "1.0", entry: str | None = None
) -> Path:
    """A plugin as an installed distribution leaves it: a module, and a ``.dist-info`` that names it."""
    info = f"{distribution.replace('-', '_')}-{version}.dist-info"
    return write(
        folder,
        {
            f"{module}.py": text,
            f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n",
            f"{info}/entry_points.txt": f"[flsim]\n{entry or module} = {module}\n",
        },
    )


def backend_plugin(name: str, target: str, *, more: str = "") -> str:
    """The text of a plugin module that offers a backend; ``more`` are further arguments of its BackendSpec."""
    return f"""
from flsim.backend import BackendSpec, HostOptions
from flsim.hooks import hookimpl

@hookimpl
def flsim_backends():
    spec = dict(name={name!r}, summary="a stranger's", target={target!r}, options=HostOptions,
                honours=frozenset({{"cpus"}}))
    spec |= dict({more})
    return [BackendSpec(**spec)]
"""


def execute(
    *command: str | Path, stdin: str | None = None, path: Iterable[Path] = (), cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; ``path`` goes in front of its ``sys.path``."""
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "FORCE_COLOR")}
    env |= {"PYTHONPATH": os.pathsep.join(map(str, path)), "COLUMNS": "200", "NO_COLOR": "1"}
    return subprocess.run(
        list(map(str, command)), input=stdin, capture_output=True, text=True, env=env, cwd=cwd, timeout=100, check=False
    )


def flsim(*args: str | Path, path: Iterable[Path] = (), cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command line."""
    return execute(FLSIM, *args, path=path, cwd=cwd)


def here(*args: str | Path) -> subprocess.CompletedProcess[str]:
    """The command line in this process, which is faster, for what is refused before anything runs."""
    out, err = io.StringIO(), io.StringIO()
    argv = mock.patch.object(sys, "argv", ["flsim", *map(str, args)])
    with redirect_stdout(out), redirect_stderr(err), argv, pytest.raises(SystemExit) as ended:
        main()
    assert isinstance(ended.value.code, int)
    return subprocess.CompletedProcess(args, ended.value.code, out.getvalue(), err.getvalue())


def python(code: str, *args: str | Path, path: Iterable[Path] = ()) -> str:
    """What a Python of its own prints that runs ``code``; it must not fail."""
    done = execute(sys.executable, "-c", dedent(code), *args, path=path)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def instruction(node: int = 2, type_: str = "train", content: object = None, id_: str = "7") -> Message:
    """A message as the node gets it."""
    metadata = Metadata(5, id_, 1, node, type_, "g", 0.0, None, "")
    return Message.restore(metadata, RecordDict() if content is None else content)


def reply(node: int, content: object) -> Message:
    """A node's reply; an Error in the place of content makes it an error reply."""
    assert content is None or isinstance(content, (RecordDict, Error, str))
    return Message(content, reply_to=instruction(node))


def server_of(main: Callable[[Grid, Context], None]) -> ServerApp:
    """A ServerApp of this ``main``."""
    server = ServerApp()
    server.main()(main)
    return server


def ask(grid: Grid, action: str, nodes: range | list[int] | None = None, **plan: bool | float | str) -> list[Message]:
    """Ask nodes, all by default, for an action of the checks' ClientApp."""
    content = RecordDict({"plan": ConfigRecord(plan)})
    chosen = grid.get_node_ids() if nodes is None else nodes
    return grid.send_and_receive(Message(content, n, f"query.{action}") for n in chosen)


def codes(replies: list[Message]) -> list[int | None]:
    """The code of each reply; None where it has content."""
    return [r.error.code if r.has_error() else None for r in replies]

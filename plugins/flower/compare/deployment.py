"""The same Flower app in Flower's own deployment and on flsim: the same final metrics.

A SuperLink and three SuperNodes of the flwr package run on the loopback interface, and ``flwr run`` hands them the app;
then flsim runs a copy of the same folder on each of its backends that is installed. Exits with 1 where what the app
writes down is not the same, but for the order in which Flower adds replies up.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

APP = Path(__file__).parents[1] / "tests" / "apps" / "modern"
SCRIPTS = sysconfig.get_path("scripts")
NODES = 3
CONFIG = "num-server-rounds=1"
"""In its deployment, Flower starts a process for each message, of some seconds."""
PATIENCE = 300.0
"""Seconds in which all has to have happened."""

CONNECTION = """
[superlink]
default = "here"

[superlink.here]
address = "127.0.0.1:{port}"
insecure = true
"""


def free_ports(count: int) -> list[int]:
    """Ports that are free now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for s in sockets:
            s.bind(("127.0.0.1", 0))
        return [s.getsockname()[1] for s in sockets]


@contextlib.contextmanager
def running(folder: Path, env: dict[str, str], *commands: list[str]) -> Iterator[None]:
    """Processes at work, each with its log in ``folder``; in the end they and their children are ended."""
    begun: list[subprocess.Popen[bytes]] = []
    try:
        for i, command in enumerate(commands):
            with open(folder / f"{i}-{command[0]}.log", "wb") as log:
                path = str(Path(SCRIPTS, command[0]))
                begun.append(subprocess.Popen([path, *command[1:]], env=env, cwd=folder, stdout=log, stderr=log))
        yield
    finally:
        # Flower's processes start others, in sessions of their own.
        known = [psutil.Process(p.pid) for p in begun if p.poll() is None]
        all_ = [*known, *(child for p in known for child in p.children(recursive=True))]
        for how in (psutil.Process.terminate, psutil.Process.kill):
            for process in all_:
                with contextlib.suppress(psutil.NoSuchProcess):
                    how(process)
            psutil.wait_procs(all_, 10)


def deployed(folder: Path) -> Any:
    """What the app writes down in a deployment."""
    (folder / "home").mkdir()
    app, outcome = Path(shutil.copytree(APP, folder / "modern")), folder / "outcome.json"
    port, *nodes = free_ports(1 + NODES)
    (folder / "home" / "config.toml").write_text(CONNECTION.format(port=port))
    env = {
        **os.environ, "FLWR_HOME": str(folder / "home"), "FLWR_TELEMETRY_ENABLED": "0", "OUTCOME": str(outcome),
        "NODES": str(NODES), "PATH": f"{SCRIPTS}{os.pathsep}{os.environ['PATH']}",
    }  # fmt: skip
    superlink = ["flower-superlink", "--insecure", "--host", "127.0.0.1", "--port", str(port)]
    supernodes = [
        ["flower-supernode", "--insecure", "--superlink", f"127.0.0.1:{port}", "--host", "127.0.0.1", "--port", str(p),
         "--node-config", f"partition-id={i} num-partitions={NODES}"]
        for i, p in enumerate(nodes)
    ]  # fmt: skip
    end = time.monotonic() + PATIENCE
    with running(folder, env, superlink, *supernodes):
        wait_for_port(port, end)
        submit = [str(Path(SCRIPTS, "flwr")), "run", str(app), "here", "--run-config", CONFIG]
        done = subprocess.run(submit, env=env, cwd=folder, capture_output=True, text=True, timeout=60, check=False)
        while time.monotonic() < end:
            with contextlib.suppress(FileNotFoundError, json.JSONDecodeError):
                return json.loads(outcome.read_text())
            time.sleep(0.5)  # the app's file is all that there is to wait for
    logs = "\n".join(f"== {log.name}\n{log.read_text()[-3000:]}" for log in sorted(folder.glob("*.log")))
    raise SystemExit(f"the deployment came to nothing:\n{done.stdout}{done.stderr}\n{logs}")


def wait_for_port(port: int, end: float) -> None:
    """Return when somebody listens there."""
    while time.monotonic() < end:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.2)  # nobody tells
    raise SystemExit(f"nobody listens on port {port}")


def simulated(folder: Path, backend: str) -> Any:
    """What the app writes down on a backend of flsim."""
    app, outcome = Path(shutil.copytree(APP, folder / backend / "modern")), folder / backend / "outcome.json"
    env = {**os.environ, "OUTCOME": str(outcome), "NODES": str(NODES)}
    run = [
        str(Path(SCRIPTS, "flsim")),
        "run",
        str(app),
        "--backend",
        backend,
        "--nodes",
        str(NODES),
        "--quiet",
        "--no-record",
    ]
    subprocess.run([*run, "--run-config", CONFIG], env=env, timeout=120, check=True)
    return json.loads(outcome.read_text())


def differences(theirs: Any, ours: Any, where: str = "") -> Iterator[str]:
    """Where two outcomes differ by more than rounding."""
    if isinstance(theirs, dict) and isinstance(ours, dict) and theirs.keys() == ours.keys():
        for key in theirs:
            yield from differences(theirs[key], ours[key], f"{where}/{key}")
    elif isinstance(theirs, list) and isinstance(ours, list) and len(theirs) == len(ours):
        for i, pair in enumerate(zip(theirs, ours, strict=True)):
            yield from differences(*pair, f"{where}/{i}")
    elif not (isinstance(theirs, float | int) and isinstance(ours, float | int)) or not math.isclose(
        theirs, ours, rel_tol=1e-9, abs_tol=1e-9
    ):
        yield f"{where}: {theirs!r} in the deployment, {ours!r} on flsim"


def main() -> None:
    """Run both and compare."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        begun = time.perf_counter()
        theirs = deployed(folder)
        print(f"deployment: {time.perf_counter() - begun:.1f} s, {theirs['evaluate']}")
        for backend in sys.argv[1:] or ["serial", "loky", "dask", "ray"]:
            begun = time.perf_counter()
            ours = simulated(folder, backend)
            print(f"{backend}: {time.perf_counter() - begun:.1f} s, {ours['evaluate']}")
            if found := list(differences(theirs, ours)):
                raise SystemExit("\n".join(found[:20]))
    print("the same")


if __name__ == "__main__":
    main()

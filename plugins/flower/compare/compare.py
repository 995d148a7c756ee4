"""The same Flower app by Flower's own engine and by flsim: milliseconds per message, side by side in one run.

Both run in this environment (``flwr[simulation]`` beside flsim), on two workers, each way in a process of its own, in
turns. Printed is the median over the rounds of all turns, without the first round of each, and how many times faster
than Flower.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

APP = Path(__file__).parent / "exchange"
CASES = ((10, 8, 20), (100, 8, 10), (10, 1_000_000, 10), (10, 10_000_000, 5))
"""Nodes, bytes, rounds."""

FLOWER = """
import sys
sys.path.insert(0, sys.argv[1])
from exchange.client_app import app as client
from exchange.server_app import app as server
from flwr.simulation import run_simulation
init = {"num_cpus": 2, "include_dashboard": False}
resources = {"num_cpus": 1, "num_gpus": 0.0}
run_simulation(server, client, int(sys.argv[2]), backend_config={"init_args": init, "client_resources": resources})
"""


def command(way: str, nodes: int) -> list[str]:
    """What to run."""
    if way == "flower":
        return [sys.executable, "-c", FLOWER, str(APP), str(nodes)]
    run = [
        "-m",
        "flsim",
        "run",
        str(APP),
        "--backend",
        way,
        "--nodes",
        str(nodes),
        "--seed",
        "1",
        "--quiet",
        "--no-record",
    ]
    return [sys.executable, *run, "-o", "cpus=2"]


def measure(way: str, nodes: int, size: int, rounds: int) -> list[float]:
    """Milliseconds per message, of each round."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "seconds.json")
        order = {"nodes": nodes, "bytes": size, "rounds": rounds, "file": str(file)}
        # Ray stays on 127.0.0.1 (despite the name of what does that), and nobody is called.
        quiet = {"FLWR_TELEMETRY_ENABLED": "0", "RAY_USAGE_STATS_ENABLED": "0"}
        env = {**os.environ, **quiet, "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "EXCHANGE": json.dumps(order)}
        done = subprocess.run(command(way, nodes), env=env, capture_output=True, text=True, timeout=300, check=False)
        if not file.exists():
            raise SystemExit(f"{way} failed:\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}")
        return [1000 * s / nodes for s in json.loads(file.read_text())]


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--backend", action="append", help="one of flsim's; repeatable (default: loky, ray, dask, serial)"
    )
    parser.add_argument("--repeat", type=int, default=2, help="turns of each way")
    parser.add_argument("--case", type=int, action="append", help="which of the four cases, from 0; repeatable")
    given = parser.parse_args()
    ways = ["flower", *(given.backend or ["loky", "ray", "dask", "serial"])]
    print(f"{'nodes':>6} {'bytes':>11} " + " ".join(f"{way:>16}" for way in ways))
    for nodes, size, rounds in [CASES[i] for i in given.case or range(len(CASES))]:
        took: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(given.repeat):
            for way in ways:
                took[way] += measure(way, nodes, size, rounds)
        medians = {way: statistics.median(t) for way, t in took.items()}
        cells = [f"{m:8.3f} ({medians['flower'] / m:4.1f} x)" for m in medians.values()]
        print(f"{nodes:6} {size:11,} " + " ".join(f"{cell:>16}" for cell in cells), flush=True)


if __name__ == "__main__":
    main()

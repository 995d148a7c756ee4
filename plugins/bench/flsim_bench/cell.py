"""One measurement, in a process of its own: ``python -m flsim_bench.cell ORDER.json RESULT.json``.

Its stdin is a pipe from who started it. When that ends, so does this.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import shutil
import signal
import sys
import threading
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from flsim_bench.play import WORKLOADS
from flsim_bench.way import Order, Played, Way

REPORTED = ("flwr", "ray", "numpy")
"""Distributions of this Python whose versions the result says, where they are installed."""


def measure(order: Order) -> dict[str, Any]:
    """Do what the order says, and return what came of it, as JSON."""
    begun = time.monotonic()
    called = ended = begun

    def play(way: Way) -> Played:
        nonlocal called, ended
        called = time.monotonic()
        played = WORKLOADS[order.workload](way, order.params)
        ended = time.monotonic()
        return played

    played: Played = importlib.import_module(f"flsim_bench.ways.{order.way}").drive(order, play)
    if order.workload == "startup":
        played.values |= {"call": [called - begun], "reply": [ended - begun], "stop": [time.monotonic() - ended]}
    return dataclasses.asdict(played) | {"versions": _versions()}


def main(order_file: Path, result_file: Path) -> None:
    """Read the order, measure, write the result at once."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    order = Order(**json.loads(order_file.read_text()))
    try:
        result = measure(order)
    finally:
        shutil.rmtree(order.memory, ignore_errors=True)  # it is memory, and who would remove it may have been killed
    written = result_file.with_suffix(".part")
    written.write_text(json.dumps(result))
    written.rename(result_file)


def _end_with_parent() -> None:
    while os.read(0, 1024):
        pass
    os.kill(os.getpid(), signal.SIGINT)


def _versions() -> dict[str, str]:
    return {d: metadata.version(d) for d in REPORTED if any(metadata.distributions(name=d))}


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))

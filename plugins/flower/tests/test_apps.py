"""Whole apps, in folders of their own: on each backend, and by Flower's own engine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from importlib import metadata, util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flowers import APPS, copied, flsim_command, run_json, skip_without

NAMES = ["modern", "legacy", "secure"]

BY_FLOWER = """
import os, sys
app, nodes = sys.argv[1], int(sys.argv[2])
sys.path.insert(0, app)
name = os.path.basename(app)
client = __import__(f"{name}.client_app", fromlist=["app"]).app
server = __import__(f"{name}.server_app", fromlist=["app"]).app
from flwr.simulation import run_simulation
init = {"num_cpus": 2, "include_dashboard": False}
run_simulation(server, client, nodes, backend_config={"init_args": init, "client_resources": {"num_cpus": 1}})
"""


def outcome(app: Path, backend: str, tmp_path: Path) -> tuple[Any, Any]:
    """What the app writes into a file, and what flsim says."""
    skip_without(backend)
    file = tmp_path / f"{app.name}-{backend}.json"
    said = run_json(app, "--backend", backend, "--seed", "1", "-o", "cpus=2", env={"OUTCOME": str(file)})
    assert not any(count["errors"] for count in said["counts"].values())
    return json.loads(file.read_text()), said


# The app of the newer API stands for the others where a cluster has to start.
@pytest.mark.parametrize(("name", "backend"), [(n, "loky") for n in NAMES] + [("modern", "dask"), ("modern", "ray")])
def test_an_app_comes_to_the_same_bit_by_bit_on_each_backend(name: str, backend: str, tmp_path: Path) -> None:
    app = copied(name, tmp_path)
    serial, told = outcome(app, "serial", tmp_path)
    other, also = outcome(app, backend, tmp_path)
    assert other == serial
    if name == "secure":  # whose state holds keys that are drawn from the system
        assert np.allclose(serial["means"], [1, 2.5, 4], atol=1e-3)
    else:
        assert also["digest"] == told["digest"]
        assert also["metrics"] == told["metrics"]


@pytest.mark.parametrize("backend", ["loky", "dask", "ray"])
def test_the_app_that_flower_itself_writes_comes_to_the_same_bit_by_bit_on_each_backend(
    backend: str, elsewhere: Path
) -> None:
    if util.find_spec("flwr.cli.new.templates") is None:
        pytest.skip("this flwr has its own apps from the network, not in its package")
    skip_without(backend)
    flwr = Path(sysconfig.get_path("scripts"), "flwr")
    quiet = {**os.environ, "FLWR_TELEMETRY_ENABLED": "0"}
    subprocess.run([flwr, "new", "mine", "--framework", "NumPy", "--username", "me"], check=True, env=quiet)

    def ran(backend: str) -> tuple[Any, Any]:
        said = run_json("mine", "--backend", backend, "--seed", "1", "-o", "cpus=2")
        with np.load(elsewhere / "final_model.npz") as saved:
            return said, saved["arr_0"].tolist()

    (serial, model), (other, also) = ran("serial"), ran(backend)
    assert serial["counts"]["train"] == {"sent": 30, "answered": 30, "errors": {}, "reasons": []}
    assert other["digest"] == serial["digest"]
    assert also == model


@pytest.mark.parametrize("name", NAMES)
def test_an_app_comes_to_what_it_comes_to_by_flowers_own_engine(name: str, tmp_path: Path) -> None:
    if util.find_spec("ray") is None or metadata.version("ray") not in str(metadata.requires("flwr")):
        pytest.skip("flwr[simulation] is not installed")
    app = copied(name, tmp_path)
    ours, _ = outcome(app, "serial", tmp_path)
    file = tmp_path / "flower.json"
    quiet = {"FLWR_TELEMETRY_ENABLED": "0", "RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
    done = subprocess.run(
        [sys.executable, "-c", BY_FLOWER, str(app), "4"],
        env={**os.environ, **quiet, "OUTCOME": str(file), "FLWR_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert file.exists(), done.stderr[-4000:]
    theirs = json.loads(file.read_text())
    assert theirs.keys() == ours.keys()
    for key in ours:  # the same but for the order in which replies are added up, and rounding where sums are hidden
        assert_close(theirs[key], ours[key], rtol=1e-3 if name == "secure" else 1e-9)


def assert_close(theirs: Any, ours: Any, rtol: float) -> None:
    if isinstance(ours, dict):
        assert theirs.keys() == ours.keys()
        for key in ours:
            assert_close(theirs[key], ours[key], rtol)
    else:
        assert np.allclose(theirs, ours, rtol=rtol, atol=1e-9), f"{theirs} is not {ours}"


def test_what_strategies_come_to_is_reported_and_is_part_of_the_result(tmp_path: Path) -> None:
    app = copied("modern", tmp_path)
    file, said = outcome(app, "serial", tmp_path)
    by_round: dict[int, dict[str, float]] = {}
    for metrics in said["metrics"]:
        by_round.setdefault(metrics.pop("round"), {}).update(metrics)
    assert [by_round[r]["train-loss"] for r in (1, 2, 3)] == [file["train"][str(r)]["loss"] for r in (1, 2, 3)]
    assert [by_round[r]["server-norm"] for r in range(4)] == [file["server"][str(r)]["norm"] for r in range(4)]
    assert by_round[3]["train-mods"] == 2, "both the app's mod and the function's"
    assert by_round[3]["evaluate-visits"] == 6, "of three rounds, each of which asks a node twice"

    _, legacy = outcome(copied("legacy", tmp_path), "serial", tmp_path)
    (last,) = [m for m in legacy["metrics"] if m["round"] == 3 and "evaluate-loss" in m]
    assert last == {"round": 3, "evaluate-loss": 9450.0, "evaluate-part": 1.5}


def test_nothing_is_written_to_the_apps_folder(tmp_path: Path) -> None:
    app = copied("modern", tmp_path)
    before = {p: p.read_bytes() if p.is_file() else b"" for p in app.rglob("*")}
    skip_without("loky")
    run_json(app, "--backend", "loky")
    assert flsim_command("run", app, "--dry-run", "--backend", "serial").returncode == 0
    assert {p: p.read_bytes() if p.is_file() else b"" for p in app.rglob("*")} == before


def test_the_same_seed_draws_the_same_nodes_and_another_others(tmp_path: Path) -> None:
    def sampled(seed: int) -> Any:
        env = {"NODES": "12"}
        args = ("--backend", "serial", "--nodes", "12", "--seed", str(seed), "--run-config", "num-server-rounds=1")
        return run_json(write(tmp_path / f"{seed}"), *args, env=env)["digest"]

    def write(folder: Path) -> Path:
        text = (APPS / "modern" / "modern" / "server_app.py").read_text()
        app = copied("modern", folder)
        drawn = text.replace("min_train_nodes=NODES, ", "fraction_train=0.2, ")
        assert drawn != text
        (app / "modern" / "server_app.py").write_text(drawn)
        return app

    one = sampled(1)
    assert sampled(2) != one
    assert run_json(
        tmp_path / "1" / "modern", "-b", "serial", "-n", "12", "--seed", "1", "-c", "num-server-rounds=1",
        env={"NODES": "12"},
    )["digest"] == one  # fmt: skip

"""The command, as a user types it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from flsim.backend import BackendSpec
from flsim.errors import ConfigError
from flsim.folder import HeldFolder
from flsim.plugins import Plugins
from flsim.testing import watch
from flsim.testing.watch import alive, children, until
from flsim_bench.choice import backend_subject, check_flower
from flsim_bench.outputs import Outputs
from flsim_bench.report import Subject

FLSIM = Path(sysconfig.get_path("scripts"), "flsim")
INSTALLED = {b.spec.name for b in Plugins().backends() if not b.missing}


def bench(*args: str | Path, **settings: Any) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "NO_COLOR": "1", "COLUMNS": "200"}
    command = [str(FLSIM), "bench", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, env=env, timeout=100, check=False, **settings)


def test_it_measures_shows_and_writes_and_shows_again_what_it_wrote(tmp_path: Path) -> None:
    files = [tmp_path / f"report.{kind}" for kind in ("json", "html")]
    done = bench(
        "noop", "--scale", "tiny", "--repeat", "2", "-b", "serial", "-b", "twice=serial", "-o", "twice.cpus=1",
        "--json", files[0], "--html", files[1],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "[1/16] noop: 20 of 20 nodes, serial: throughput" in done.stderr
    report = json.loads(files[0].read_text())
    assert {(c["case"], c["subject"]) for c in report["cells"]} == {
        (case, subject)
        for case in ("20 of 20 nodes", "one at a time")
        for subject in ("serial", "twice", "bare pool", "pool of Messages")
    }
    assert [len(v) for c in report["cells"] for v in c["values"].values()] == [2] * 8
    assert [s["options"] for s in report["subjects"]] == [{"cpus": 2}, {"cpus": 1}, {}, {}]
    assert "bench noop --scale tiny" in report["conditions"]["command"]
    assert "20 of 20 nodes" in files[1].read_text()

    again = bench("--from", files[0], "--html", tmp_path / "again.html")
    assert again.stdout == done.stdout
    assert (tmp_path / "again.html").read_text() == files[1].read_text()


def test_a_strangers_backend_appears_by_itself() -> None:
    if "pool" not in INSTALLED:
        pytest.skip("backend pool is not installed")
    done = bench("noop", "--scale", "tiny", "--repeat", "1", "--workers", "1")
    assert done.returncode == 0, done.stderr
    assert "20 of 20 nodes, pool: throughput" in done.stderr


def test_a_cell_that_fails_is_told_and_the_others_go_on() -> None:
    done = bench("uneven", "--scale", "tiny", "-r", "1", "-b", "serial", "-b", "bad=serial", "-o", "bad.memory=nope")
    assert done.returncode == 1
    assert "uneven: 4 clients of 0.01 s, bad: failed: " in done.stderr
    assert "failed: uneven: 4 clients of 0.01 s, bad: " in done.stdout
    assert "makespan against the lower bound  serial" in done.stdout


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["nop"], "unknown workload 'nop'; did you mean 'noop'? Known: broadcast, compute, echo"),
        (["--scale", "smal"], "unknown scale 'smal'; did you mean 'small'?"),
        (["-b", "lokyy"], "unknown backend 'lokyy'"),
        (["-b", "serial", "-b", "serial"], "'serial' names something else already"),
        (["-b", "flower=serial"], "'flower' names something else already"),
        (["-b", "serial", "-o", "cpus=2"], "-o takes BACKEND.KEY=VALUE, not cpus=…; backends here: serial"),
        (["-b", "serial", "-o", "loky.cpus=2"], "unknown backend 'loky'. Known: serial. It is named in -o."),
        (["-b", "serial", "-o", "serial.cpu=2"], "unknown option of backend serial 'cpu'; did you mean 'cpus'?"),
        (["-b", "serial", "-o", "serial.cpus=x"], "option cpus of backend serial is of type float, not 'x'"),
        (["--json", "no/such/folder/x.json"], "--json no/such/folder/x.json: it is a folder, or there is none"),
        (["--from", "no.json"], "--from no.json: "),
        (["--flower-python", "/no/such/python"], "/no/such/python cannot be run"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else "",
)
def test_wrong_usage_is_refused_before_anything_runs(args: list[str], said: str) -> None:
    done = bench(*args)
    assert done.returncode == 2
    assert said in done.stderr
    assert not done.stdout


@dataclass(frozen=True)
class Joins:
    """Options of a backend that starts a cluster or joins one."""

    cpus: float | None = None
    address: str | None = None

    def __post_init__(self) -> None:
        if self.cpus is not None and self.address is not None:
            raise ConfigError("cpus are for a cluster of this host")


def test_a_cluster_that_runs_keeps_its_workers_and_has_its_librarys_reference() -> None:
    spec = BackendSpec("theirs", "a stranger's", "theirs:Backend", Joins, frozenset(), requires=("other", "ray"))
    assert backend_subject("theirs", spec, {}, 2).options == {"cpus": 2}
    assert backend_subject("theirs", spec, {"cpus": 4}, 2).options == {"cpus": 4}
    joined = backend_subject("joined", spec, {"address": "127.0.0.1:6379"}, 2)
    assert joined == Subject(
        "joined", "backend", "engine", "theirs", {"address": "127.0.0.1:6379"}, own_reference="bare ray"
    )
    with pytest.raises(ConfigError, match="cpus are for a cluster of this host"):
        backend_subject("theirs", spec, {"address": "127.0.0.1:6379", "cpus": 1}, 2)


def test_a_python_without_flower_is_told_what_to_install(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho 'No package metadata was found for flwr' >&2\nexit 1\n")
    python.chmod(0o755)
    with pytest.raises(ConfigError, match=r"No package metadata .* -m pip install 'flwr\[simulation\]'"):
        check_flower(python)


def test_an_image_without_matplotlib_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("flsim_bench.outputs.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'flsim-bench\[png\]'"):
        Outputs(png=tmp_path / "x.png").check()


@pytest.mark.parametrize(("signal_", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_what_was_measured_so_far_is_shown_when_it_is_interrupted(signal_: int, code: int, tmp_path: Path) -> None:
    """Nothing is left behind, which a fixture sees."""
    command = [
        str(FLSIM),
        "bench",
        "uneven",
        "noop",
        "--scale",
        "full",
        "-b",
        "serial",
        "--json",
        str(tmp_path / "x.json"),
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("[2/"):  # the third cell begins
            break
    process.send_signal(signal_)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == code
    assert "interrupted: this is what was measured so far" in out
    report = json.loads((tmp_path / "x.json").read_text())
    assert report["interrupted"]
    assert report["cells"][0]["values"]["throughput"]


def test_the_help_lists_the_command_and_imports_none_of_its_body() -> None:
    code = (
        "import sys; from flsim.cli import commands, app; from flsim.plugins import Plugins; "
        "commands.with_commands(app.app, Plugins()); print(sorted(m for m in sys.modules if 'flsim_bench' in m))"
    )
    done = subprocess.run(
        [Path(sysconfig.get_path("scripts"), "python"), "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "['flsim_bench', 'flsim_bench.command', 'flsim_bench.plugin']"
    shown = subprocess.run([FLSIM, "--help"], capture_output=True, text=True, check=True)
    assert "bench" in shown.stdout


def test_nothing_is_left_of_it_when_it_is_killed() -> None:
    command = [str(FLSIM), "bench", "uneven", "--scale", "full", "-b", "serial"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    assert until(lambda: any("flsim_bench.cell" in watch.command(p) for p in children(process.pid)), 30)
    started = children(process.pid)
    process.kill()
    process.communicate(timeout=30)
    assert until(lambda: not any(map(alive, started)), 10), [watch.command(p) for p in started if alive(p)]
    left = HeldFolder("flsim-b-")  # which sweeps
    left.remove()

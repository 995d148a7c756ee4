"""What TensorBoard's own reader finds in the files of a run."""

from __future__ import annotations

import math
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

import pytest

import flsim
from flsim import Context, Grid, Message, MetricRecord, RecordDict, RunResult, ServerApp
from flsim.testing.apps import client

FLSIM = Path(sysconfig.get_path("scripts"), "flsim")

server = ServerApp()


@server.main()
def main(grid: Grid, context: Context) -> None:
    for round in (1, 2, 3):
        grid.send_and_receive(Message(RecordDict(), node, "query.echo") for node in grid.get_node_ids())
        grid.report(round, accuracy=round / 4, best=round == 2, phase="warm <b>up</b>", loss=math.nan)
        grid.report(round, node=3, accuracy=0.5)
    context.state["m"] = MetricRecord({"done": 1})


def run(folder: Path, app: ServerApp = server, **more: Any) -> RunResult:
    """Run with what is written into ``folder``."""
    more = {"plugins": {"tensorboard": {"folder": str(folder)}}, **more}
    config = {"rate": 0.5, "name": "x"}
    return flsim.run(app, client, nodes=2, seed=7, backend="serial", config=config, quiet=True, **more)


class Read:
    """The one run in a folder, by TensorBoard's reader."""

    def __init__(self, folder: Path) -> None:
        pytest.importorskip("tensorboard", reason="tensorboard is not installed")
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        (file,) = folder.rglob("events.*")
        self.folder = file.parent
        self.events = EventAccumulator(str(self.folder))
        self.events.Reload()

    def curve(self, tag: str) -> list[tuple[int, float]]:
        """Steps and values."""
        return [(e.step, e.value) for e in self.events.Scalars(tag)]

    def text(self, tag: str) -> list[str]:
        """What was written as text, step by step."""
        return [e.tensor_proto.string_val[0].decode() for e in self.events.Tensors(f"{tag}/text_summary")]

    def hparams(self, part: str) -> Any:
        """What is told to the hparams page: of the ``start`` or of the ``end`` of the run."""
        from tensorboard.plugins.hparams import metadata

        content = self.events.SummaryMetadata(f"_hparams_/session_{part}_info").plugin_data.content
        return getattr(metadata, f"parse_session_{part}_info_plugin_data")(content)


def test_metrics_are_curves_whose_steps_are_the_rounds(tmp_path: Path) -> None:
    run(tmp_path)
    read = Read(tmp_path)
    assert read.curve("accuracy") == [(1, 0.25), (2, 0.5), (3, 0.75)]
    assert read.curve("best") == [(1, 0), (2, 1), (3, 0)]
    assert [math.isnan(v) for _, v in read.curve("loss")] == [True] * 3
    assert read.text("phase") == ["warm <b>up</b>"] * 3
    assert set(read.events.Tags()["scalars"]) == {"accuracy", "best", "loss"}


def test_an_integer_beyond_all_floats_is_infinite(tmp_path: Path) -> None:
    beyond = ServerApp()

    @beyond.main()
    def main(grid: Grid, context: Context) -> None:
        grid.report(1, most=10**400, least=-(10**400))

    run(tmp_path, beyond)
    read = Read(tmp_path)
    assert (read.curve("most"), read.curve("least")) == ([(1, math.inf)], [(1, -math.inf)])


def test_metrics_of_single_nodes_are_curves_where_they_are_asked_for(tmp_path: Path) -> None:
    run(tmp_path, plugins={"tensorboard": {"folder": str(tmp_path), "nodes": True}})
    assert Read(tmp_path).curve("accuracy/node-3") == [(1, 0.5), (2, 0.5), (3, 0.5)]


def test_the_configuration_is_hparams_and_the_digest_stands_in_a_text(tmp_path: Path) -> None:
    result = run(tmp_path)
    read = Read(tmp_path)
    start, end = read.hparams("start"), read.hparams("end")
    told = {k: getattr(v, v.WhichOneof("kind")) for k, v in start.hparams.items()}
    assert told == {"backend": "serial", "nodes": 2, "seed": 7, "rate": 0.5, "name": "x"}
    assert end.status == 1  # STATUS_SUCCESS
    assert 0 < start.start_time_secs <= end.end_time_secs
    (text,) = read.text("run")
    assert f"| digest | {result.digest} |" in text
    assert "| ended | finished |" in text
    assert "| messages | 6 |" in text


def test_a_run_that_fails_is_marked_as_failed_with_its_error(tmp_path: Path) -> None:
    failing = ServerApp()

    @failing.main()
    def main(grid: Grid, context: Context) -> None:
        grid.report(1, accuracy=0.125)
        raise ValueError("no | <more> data")

    with pytest.raises(ValueError, match="data"):
        run(tmp_path, failing)
    read = Read(tmp_path)
    assert read.hparams("end").status == 2  # STATUS_FAILURE
    assert read.curve("accuracy") == [(1, 0.125)]
    assert r"| ended | ValueError: no \| &lt;more> data |" in read.text("run")[0]


def test_a_run_that_never_began_is_marked_as_failed(tmp_path: Path) -> None:
    with pytest.raises(flsim.errors.UnsupportedResources):
        run(tmp_path, resources={"cpus": 1e6})
    assert Read(tmp_path).hparams("end").status == 2


def test_a_recorded_run_has_its_curves_in_its_own_folder(tmp_path: Path) -> None:
    result = run(tmp_path, plugins={"tensorboard": True}, runs_dir=tmp_path / "runs")
    assert Read(tmp_path / "runs").folder == result.run_dir


def test_two_runs_in_one_folder_are_two_of_tensorboards(tmp_path: Path) -> None:
    run(tmp_path)
    run(tmp_path)
    assert len({file.parent for file in tmp_path.rglob("events.*")}) == 2


def test_nothing_is_written_where_nobody_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run(tmp_path, plugins={})
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_none_is_refused_before_anything_runs(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    command = [str(FLSIM), "run", str(tmp_path), "-p", f"tensorboard.folder={file}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert f"options of plugin tensorboard: {file} is no folder" in done.stderr

"""What MLflow's own client finds in a store in a file."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

import flsim
from flsim import Context, Grid, Message, MetricRecord, RecordDict, RunResult, ServerApp
from flsim.testing.apps import client

# MLflow's store and the newest SQLAlchemy: neither is ours.
pytestmark = pytest.mark.filterwarnings("ignore:.*noload.* loader strategy is deprecated:DeprecationWarning")

server = ServerApp()


@server.main()
def main(grid: Grid, context: Context) -> None:
    for round in (1, 2, 3):
        grid.send_and_receive(Message(RecordDict(), node, "query.echo") for node in grid.get_node_ids())
        metrics: dict[str, Any] = {"best": round == 2, "phase": f"p{round}", "loss (mean)": math.nan}
        grid.report(round, accuracy=round / 4, **metrics)
        grid.report(round, node=3, accuracy=0.5)
    context.state["m"] = MetricRecord({"done": 1})


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A store of MLflow's, in an SQLite file."""
    for library in ("sqlalchemy", "alembic"):
        pytest.importorskip(library, reason=f"{library}, which MLflow's store needs, is not installed")
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"


def run(store: str, app: ServerApp = server, **options: Any) -> RunResult:
    """Run with what is written into ``store``."""
    config = {"rate": 0.5, "name": "x"}
    more = {"runs_dir": options.pop("runs_dir", None)}
    plugins = {"mlflow": {"uri": store, **options}}
    return flsim.run(app, client, nodes=2, seed=7, backend="serial", config=config, quiet=True, plugins=plugins, **more)


def found(store: str, experiment: str) -> Run:
    """The last run of an experiment."""
    of = MlflowClient(store).get_experiment_by_name(experiment)
    assert of is not None
    return MlflowClient(store).search_runs([of.experiment_id], order_by=["attributes.start_time DESC"])[0]


def test_metrics_params_and_tags_are_those_of_the_run(store: str) -> None:
    result = run(store, experiment="one")
    there = found(store, "one")
    history = MlflowClient(store).get_metric_history(there.info.run_id, "accuracy")
    assert [(m.step, m.value) for m in history] == [(1, 0.25), (2, 0.5), (3, 0.75)]
    assert set(there.data.metrics) == {"accuracy", "best", "loss _mean_"}
    assert math.isnan(there.data.metrics["loss _mean_"])
    assert there.data.params == {"backend": "serial", "nodes": "2", "seed": "7", "rate": "0.5", "name": "x"}
    assert there.data.tags["flsim.digest"] == result.digest
    assert (there.data.tags["flsim.messages"], there.data.tags["flsim.errors"]) == ("6", "0")
    assert there.data.tags["phase"] == "p3"
    assert there.info.status == "FINISHED"


def test_metrics_of_single_nodes_are_kept_where_they_are_asked_for(store: str) -> None:
    run(store, experiment="nodes", nodes=True)
    assert found(store, "nodes").data.metrics["accuracy/node-3"] == 0.5


def test_a_run_that_fails_is_marked_as_failed_with_its_error(store: str) -> None:
    failing = ServerApp()

    @failing.main()
    def main(grid: Grid, context: Context) -> None:
        grid.report(1, accuracy=0.125)
        raise ValueError("no more data")

    with pytest.raises(ValueError, match="data"):
        run(store, failing, experiment="failing")
    there = found(store, "failing")
    assert there.info.status == "FAILED"
    assert there.data.tags["flsim.error"] == "ValueError: no more data"
    assert there.data.metrics == {"accuracy": 0.125}
    assert "flsim.digest" not in there.data.tags


def test_a_run_that_is_interrupted_is_marked_as_killed(store: str) -> None:
    interrupted = ServerApp()

    @interrupted.main()
    def main(grid: Grid, context: Context) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(store, interrupted, experiment="interrupted")
    assert found(store, "interrupted").info.status == "KILLED"


def test_more_metrics_and_params_than_one_request_takes_are_all_kept(store: str) -> None:
    many = ServerApp()

    @many.main()
    def main(grid: Grid, context: Context) -> None:
        for round in range(1, 4):
            grid.report(round, **{f"metric-{i}": i for i in range(700)})

    config = {f"key-{i}": i for i in range(250)}
    plugins = {"mlflow": {"uri": store, "experiment": "many"}}
    flsim.run(many, client, nodes=2, backend="serial", config=config, quiet=True, plugins=plugins)
    there = found(store, "many")
    assert len(there.data.metrics) == 700
    assert len(there.data.params) == 253


def test_the_experiment_is_named_by_the_environment_or_the_app(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    result = run(store)
    assert found(store, result.app).info.status == "FINISHED"
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "from-the-environment")
    run(store)
    assert found(store, "from-the-environment").info.status == "FINISHED"


def test_a_recorded_run_has_the_name_of_its_folder(store: str, tmp_path: Path) -> None:
    result = run(store, experiment="recorded", runs_dir=tmp_path)
    there = found(store, "recorded")
    assert result.run_dir is not None
    assert there.info.run_name == result.run_dir.name
    assert there.data.tags["flsim.run_dir"] == str(result.run_dir)


def test_a_store_that_is_none_is_reported_and_the_run_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    assert run("nonsense://x", experiment="x").answered == 6
    assert "MLflow does not take the experiment 'x'" in caplog.text


def test_nothing_is_written_where_nobody_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    flsim.run(server, client, nodes=2, backend="serial", quiet=True)
    assert not list(tmp_path.iterdir())

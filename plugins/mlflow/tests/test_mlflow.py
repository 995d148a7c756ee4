"""What MLflow's own client finds in a store in a file."""

from __future__ import annotations

import math
import os
import socket
import threading
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Experiment, Run, RunData, RunInfo
from mlflow.exceptions import MlflowException

import flsim
from flsim import Context, Grid, Message, MetricRecord, RecordDict, RunResult, ServerApp
from flsim.testing.apps import client
from flsim_mlflow.plugin import Options
from flsim_mlflow.writer import key_of

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
    plugins = {"mlflow": {"uri": store, "wait": 60.0, **options}}
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
    plugins = {"mlflow": {"uri": store, "experiment": "many", "wait": 60.0}}
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


def let_go(event: threading.Event) -> None:
    """Let the writer go on that waits for it, and come to its end."""
    event.set()
    for thread in threading.enumerate():
        if thread.name == "flsim-mlflow":
            thread.join()


def test_a_server_that_is_not_there_is_waited_for_at_the_end_alone_and_no_longer_than_asked(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tries = threading.Event()
    # Between two tries MLflow's client sleeps, for minutes all together: here, until the run is over.
    monkeypatch.setattr("urllib3.util.retry.Retry.sleep", lambda self, response=None: tries.wait())
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and does not listen
        try:
            assert run(f"http://127.0.0.1:{nobody.getsockname()[1]}", wait=0.1).answered == 6
        finally:
            let_go(tries)
    assert "MLflow was not told all within 0.1 s of the run's end (mlflow.wait)" in caplog.text
    assert "3 reports were left" in caplog.text


class Server(MlflowClient):
    """A server as its client sees it, that does not take metrics while it is not ``there``."""

    def __init__(self, uri: str) -> None:
        self.ended: list[str] = []

    there = threading.Event()

    def get_experiment_by_name(self, name: str) -> Experiment:
        return Experiment("1", name, "", "active")

    def create_run(self, *_: Any, **more: Any) -> Run:
        return Run(RunInfo("r", "1", "u", "RUNNING", 0, 0, "active"), RunData())

    def log_batch(self, run_id: str, metrics: Any = (), *_: Any, **more: Any) -> None:
        if metrics:
            self.there.wait()


def test_a_server_that_is_lost_in_mid_run_holds_up_no_other_observer(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("flsim_mlflow.writer.MlflowClient", Server)
    monkeypatch.setattr(Server, "there", there := threading.Event())
    try:
        result = run("http://x", wait=0.1, runs_dir=tmp_path)
    finally:
        let_go(there)
    assert "MLflow was not told all within 0.1 s" in caplog.text
    assert result.run_dir is not None
    kept = flsim.open_run(result.run_dir)
    assert kept.status == "finished"
    assert len(kept.metrics) == 6


def test_what_a_server_refuses_is_said_and_the_rest_is_written(
    store: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def log_batch(self: MlflowClient, run_id: str, **more: Any) -> None:
        if more.get("metrics"):
            raise MlflowException("no metrics today")
        take(self, run_id, **more)

    take = MlflowClient.log_batch
    monkeypatch.setattr(MlflowClient, "log_batch", log_batch)
    run(store, experiment="refused")
    there = found(store, "refused")
    assert there.info.status == "FINISHED"
    assert there.data.tags["phase"] == "p3"
    assert there.data.params["rate"] == "0.5"
    assert "MLflow does not take a part of the run: no metrics today" in caplog.text
    assert "MLflow does not have all of the run:" in caplog.text


def test_what_has_no_room_to_wait_is_counted(
    store: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("flsim_mlflow.writer.PENDING", 0)
    run(store, experiment="full")
    assert found(store, "full").info.status == "FINISHED"
    assert "0 requests failed, and 3 reports had no room to wait" in caplog.text


NAMES = ["a//b", "../x", "a/./b", "..", ".", "./a", "/", "a/../b", "..x", "a/..x", "x/", "long" * 100, "", "日本 (%)"]


def test_metrics_and_params_of_any_name_are_taken(store: str) -> None:
    odd = ServerApp()

    @odd.main()
    def main(grid: Grid, context: Context) -> None:
        metrics: dict[str, Any] = dict.fromkeys(NAMES, 0.5)
        grid.report(1, **metrics, beyond=10**400)

    plugins = {"mlflow": {"uri": store, "experiment": "odd", "wait": 60.0}}
    flsim.run(odd, client, nodes=2, backend="serial", quiet=True, plugins=plugins)
    there = found(store, "odd")
    assert there.info.status == "FINISHED"
    assert set(there.data.metrics) == {*map(key_of, NAMES), "beyond"}
    assert key_of("a//b") == "a/b"
    assert key_of("../x") == "__/x"


@pytest.mark.parametrize("raised", [KeyError("uid not found: 1234"), OSError("no username")], ids=repr)
def test_a_user_without_a_name_has_a_number(store: str, monkeypatch: pytest.MonkeyPatch, raised: Exception) -> None:
    def getuser() -> str:
        raise raised

    monkeypatch.setattr("getpass.getuser", getuser)
    run(store, experiment="nobody")
    assert found(store, "nobody").data.tags["mlflow.user"] == str(os.getuid())


@pytest.mark.parametrize("wait", [-1.0, float("nan"), float("inf")])
def test_a_wait_that_is_none_is_refused(wait: float) -> None:
    with pytest.raises(ValueError, match="is no number of seconds"):
        Options(wait=wait)


def test_nothing_is_written_where_nobody_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    flsim.run(server, client, nodes=2, backend="serial", quiet=True)
    assert not list(tmp_path.iterdir())

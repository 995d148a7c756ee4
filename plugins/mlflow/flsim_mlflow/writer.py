"""Writes what MLflow shows of a run."""

from __future__ import annotations

import getpass
import os
import re
import time
from collections.abc import Iterator, Sequence
from typing import TypeVar

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException

from flsim import __version__
from flsim.errors import ConfigError
from flsim.events import Event, Reported, RunFinished
from flsim.hooks import RunView
from flsim_mlflow.plugin import Options

T = TypeVar("T")

BATCH = 100
"""MLflow takes so many params or tags in one request, and ten times as many metrics."""

STATUS = {"finished": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}
"""How MLflow calls what became of a run."""


class MLflowWriter:
    """Observes a run: its configuration becomes params, each metric that is reported a metric whose steps are the
    rounds, and how it ended the status and tags.

    Raises:
        ConfigError: the store cannot be reached, or does not take the experiment.
    """

    def __init__(self, run: RunView, options: Options) -> None:
        self._run = run
        self._nodes = options.nodes
        self._id = ""
        name = options.experiment or os.environ.get("MLFLOW_EXPERIMENT_NAME") or run.app
        try:
            self._client = MlflowClient(options.uri)
            experiment = self._client.get_experiment_by_name(name)
            self._experiment = (
                self._client.create_experiment(name) if experiment is None else str(experiment.experiment_id)
            )
        except MlflowException as e:
            raise ConfigError(f"MLflow does not take the experiment {name!r}: {e}") from e

    def on(self, events: Sequence[Event]) -> None:
        if not self._id:
            self._begin()
        metrics: list[Metric] = []
        for event in events:
            if isinstance(event, Reported):
                metrics += self._metrics(event)
        for batch in _batches(metrics, 10 * BATCH):
            self._client.log_batch(self._id, metrics=batch)
        for event in events:
            if isinstance(event, RunFinished):
                self._finish(event)

    def close(self) -> None:
        pass

    def _begin(self) -> None:
        run = self._run
        tags = {"mlflow.source.name": run.app, "mlflow.user": getpass.getuser(), "flsim.version": __version__}
        if run.run_dir is not None:
            tags["flsim.run_dir"] = str(run.run_dir)
        name = None if run.run_dir is None else run.run_dir.name
        self._id = self._client.create_run(self._experiment, tags=tags, run_name=name).info.run_id
        config = {"backend": run.backend, "nodes": run.nodes, "seed": run.seed, **run.config}
        for batch in _batches([Param(_key(k), str(v)) for k, v in config.items()], BATCH):
            self._client.log_batch(self._id, params=batch)

    def _metrics(self, event: Reported) -> Iterator[Metric]:
        if event.node is not None and not self._nodes:
            return
        now = int(1000 * time.time())
        for name, value in event.metrics.items():
            key = _key(name if event.node is None else f"{name}/node-{event.node}")
            if isinstance(value, str):
                self._client.set_tag(self._id, key, value)  # MLflow's metrics are numbers: the last text is kept
            else:
                yield Metric(key, float(value), now, event.round)

    def _finish(self, event: RunFinished) -> None:
        tags = {"flsim.seconds": f"{event.seconds:.3f}"}
        if event.error:
            tags["flsim.error"] = event.error
        if (result := event.result) is not None:
            tags |= {"flsim.digest": result.digest, "flsim.messages": str(result.sent)}
            tags["flsim.errors"] = str(result.sent - result.answered)
        self._client.log_batch(self._id, tags=[RunTag(k, v) for k, v in tags.items()])
        self._client.set_terminated(self._id, STATUS[event.status])


def _batches(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (items[i : i + size] for i in range(0, len(items), size))


def _key(name: str) -> str:
    """A name with nothing in it that MLflow refuses."""
    return re.sub(r"[^\w.\- /]", "_", name).strip("/") or "_"

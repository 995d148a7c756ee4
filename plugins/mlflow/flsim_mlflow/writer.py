"""Writes what MLflow shows of a run."""

from __future__ import annotations

import getpass
import logging
import math
import os
import re
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from queue import SimpleQueue
from typing import TypeVar
from urllib.parse import urlsplit

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException

from flsim import __version__
from flsim.errors import ConfigError
from flsim.events import Event, Reported, RunFinished
from flsim.hooks import RunView
from flsim_mlflow.plugin import Options

log = logging.getLogger(__name__)

T = TypeVar("T")

BATCH = 100
"""MLflow takes so many params or tags in one request, and ten times as many metrics."""

PENDING = 100_000
"""Reports that wait to be written at most, while a server does not answer."""

KEY = 250
"""Characters of a name that MLflow takes."""

LOCAL = ("", "file", "sqlite")
"""The schemes of stores that are files of this host."""

STATUS = {"finished": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}
"""How MLflow calls what became of a run."""


class MLflowWriter:
    """Observes a run: its configuration becomes params, each metric that is reported a metric whose steps are the
    rounds, and how it ended the status and tags.

    A thread of its own speaks to the server, which may take minutes to say that it is not there: neither the run nor
    the other observers wait for it, but for ``options.wait`` seconds at the end. What is not written the log says.

    Raises:
        ConfigError: a store in a file cannot be opened.
    """

    def __init__(self, run: RunView, options: Options) -> None:
        self._run = run
        self._options = options
        self._experiment = options.experiment or os.environ.get("MLFLOW_EXPERIMENT_NAME") or run.app
        self._uri = options.uri or mlflow.get_tracking_uri()
        self._reports: SimpleQueue[tuple[Reported, int] | None] = SimpleQueue()
        self._dropped = 0
        self._finished: RunFinished | None = None
        self._given_up = False
        self._failed = 0
        self._thread: threading.Thread | None = None
        # To make the tables of a new one takes seconds, and never for ever.
        self._client = self._open() if urlsplit(self._uri).scheme in LOCAL else None

    def on(self, events: Sequence[Event]) -> None:
        """Take what happened."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._write, name="flsim-mlflow", daemon=True)
            self._thread.start()
        for event in events:
            if isinstance(event, RunFinished):
                self._finished = event
            elif isinstance(event, Reported) and (event.node is None or self._options.nodes):
                if self._reports.qsize() < PENDING:
                    self._reports.put((event, int(1000 * (time.time() - time.monotonic() + event.at))))
                else:
                    self._dropped += 1

    def close(self) -> None:
        """Wait until all is written, or for as long as the user lets it."""
        if self._thread is None:
            return
        self._reports.put(None)
        self._thread.join(self._options.wait)
        if self._thread.is_alive():
            self._given_up = True
            log.warning(
                "MLflow was not told all within %g s of the run's end (mlflow.wait), and is not told how it ended; "
                "%d reports were left", self._options.wait, max(0, self._reports.qsize() - 1) + self._dropped,
            )  # fmt: skip
        elif self._failed or self._dropped:
            log.warning(
                "MLflow does not have all of the run: %d requests failed, and %d reports had no room to wait",
                self._failed, self._dropped,
            )  # fmt: skip

    def _open(self) -> MlflowClient:
        try:
            return MlflowClient(self._uri)
        except (MlflowException, ImportError) as e:
            raise ConfigError(f"MLflow does not take the experiment {self._experiment!r}: {e}") from e

    def _write(self) -> None:
        """Write what is reported until the run is over."""
        try:
            client = self._client or self._open()
            run = self._begin(client)
        except Exception as e:  # whatever the client and the library of a database raise
            log.warning(
                "MLflow does not take the experiment %r, and is told nothing of the run: %s", self._experiment, e
            )
            return
        self._log(client, run, params=[Param(key, str(v)) for key, v in self._config().items()])
        over = False
        while not over and not self._given_up:
            batch = [self._reports.get()]
            while not self._reports.empty():
                batch.append(self._reports.get())
            over = None in batch
            metrics: list[Metric] = []
            texts: dict[str, str] = {}
            for report in batch:
                if report is not None:
                    self._take(*report, metrics, texts)
            self._log(client, run, metrics=metrics, tags=[RunTag(k, v) for k, v in texts.items()])
        if self._finished is not None:
            self._log(client, run, tags=[RunTag(k, v) for k, v in _ending(self._finished).items()])
            self._ask(partial(client.set_terminated, run, STATUS[self._finished.status]))

    def _begin(self, client: MlflowClient) -> str:
        experiment = client.get_experiment_by_name(self._experiment)
        of = client.create_experiment(self._experiment) if experiment is None else str(experiment.experiment_id)
        tags = {"mlflow.source.name": self._run.app, "mlflow.user": _user(), "flsim.version": __version__}
        folder = self._run.run_dir
        if folder is not None:
            tags["flsim.run_dir"] = str(folder)
        made = client.create_run(of, tags=tags, run_name=None if folder is None else folder.name)
        return str(made.info.run_id)

    def _config(self) -> dict[str, object]:
        run = self._run
        config = {"backend": run.backend, "nodes": run.nodes, "seed": run.seed, **run.config}
        return {key_of(name): value for name, value in config.items()}

    def _take(self, event: Reported, at: int, metrics: list[Metric], texts: dict[str, str]) -> None:
        for name, value in event.metrics.items():
            key = key_of(name if event.node is None else f"{name}/node-{event.node}")
            if isinstance(value, str):
                texts[key] = value  # MLflow's metrics are numbers: the last text is kept
            else:
                metrics.append(Metric(key, _number(value), at, event.round))

    def _log(
        self,
        client: MlflowClient,
        run: str,
        *,
        metrics: Sequence[Metric] = (),
        params: Sequence[Param] = (),
        tags: Sequence[RunTag] = (),
    ) -> None:
        for numbers in _batches(metrics, 10 * BATCH):
            self._ask(partial(client.log_batch, run, metrics=numbers))
        for settings in _batches(params, BATCH):
            self._ask(partial(client.log_batch, run, params=settings))
        for texts in _batches(tags, BATCH):
            self._ask(partial(client.log_batch, run, tags=texts))

    def _ask(self, request: Callable[[], object]) -> None:
        """Make a request. One that fails is counted, and the next is made all the same: the server may be back."""
        if self._given_up:
            return
        try:
            request()
        except Exception as e:  # whatever the client and the library of a database raise
            if not self._failed:
                log.warning("MLflow does not take a part of the run: %s", e)
            self._failed += 1


def _ending(event: RunFinished) -> dict[str, str]:
    """The tags that say what the run came to."""
    tags = {"flsim.seconds": f"{event.seconds:.3f}"}
    if event.error:
        tags["flsim.error"] = event.error
    if (result := event.result) is not None:
        tags |= {"flsim.digest": result.digest, "flsim.messages": str(result.sent)}
        tags["flsim.errors"] = str(result.sent - result.answered)
    return tags


def _batches(items: Sequence[T], size: int) -> list[Sequence[T]]:
    return [items[i : i + size] for i in range(0, len(items), size)]


def _number(value: float) -> float:
    try:
        return float(value)
    except OverflowError:  # an integer beyond all floats
        return math.inf if value > 0 else -math.inf


def _user() -> str:
    """The user's name; in a container, whose users need not have one, their number."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def key_of(name: str) -> str:
    """A name with nothing in it that MLflow refuses: it is a path, all of whose parts are names."""
    parts = (part for part in re.sub(r"[^\w.\- /]", "_", name[:KEY]).split("/") if part)
    # "." and "..", and what begins with "..", which MLflow takes for a way out.
    return "/".join(re.sub(r"^(\.$|\.\.)", lambda dots: "_" * len(dots[0]), part) for part in parts) or "_"

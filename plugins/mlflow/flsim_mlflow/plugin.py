"""What this plugin offers."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from flsim.events import Observer
from flsim.hooks import RunView, hookimpl


@dataclass(frozen=True, slots=True)
class Options:
    """Where it writes, and what."""

    uri: str | None = field(
        default=None, metadata={"help": "the tracking server or store; default: MLflow's own, as MLFLOW_TRACKING_URI"}
    )
    experiment: str | None = field(
        default=None, metadata={"help": "its name; default: MLFLOW_EXPERIMENT_NAME, else the app's name"}
    )
    nodes: bool = field(default=False, metadata={"help": "also metrics of single nodes, each as a curve of its own"})
    wait: float = field(
        default=10.0, metadata={"help": "seconds that the end of a run waits for what is not written yet, at most"}
    )

    def __post_init__(self) -> None:
        if not 0 <= self.wait < math.inf:
            raise ValueError(f"wait={self.wait} is no number of seconds")


@hookimpl
def flsim_options() -> type[Options]:
    """It writes nothing unless it is asked for."""
    return Options


@hookimpl
def flsim_observer(run: RunView) -> Observer | None:
    """What writes this run to MLflow."""
    options: Options | None = run.plugins.get("mlflow")
    if options is None:
        return None
    from flsim_mlflow.writer import MLflowWriter

    return MLflowWriter(run, options)

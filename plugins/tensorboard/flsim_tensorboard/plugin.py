"""What this plugin offers."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from flsim.events import Observer
from flsim.hooks import RunView, hookimpl


@dataclass(frozen=True, slots=True)
class Options:
    """Where it writes, and what."""

    folder: str | None = field(
        default=None,
        metadata={"help": "what TensorBoard is pointed at; default: that of the recorded runs, else tensorboard"},
    )
    nodes: bool = field(default=False, metadata={"help": "also metrics of single nodes, each as a curve of its own"})

    def __post_init__(self) -> None:
        if self.folder is not None and Path(self.folder).exists() and not Path(self.folder).is_dir():
            raise ValueError(f"{self.folder} is no folder")


@hookimpl
def flsim_options() -> type[Options]:
    """It writes nothing unless it is asked for."""
    return Options


@hookimpl
def flsim_observer(run: RunView) -> Observer | None:
    """What writes TensorBoard's files of this run."""
    options: Options | None = run.plugins.get("tensorboard")
    if options is None:
        return None
    from flsim_tensorboard.writer import TensorBoardWriter

    return TensorBoardWriter(run, options)

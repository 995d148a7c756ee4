"""What this plugin offers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from flsim.events import Observer
from flsim.hooks import RunView, hookimpl

if TYPE_CHECKING:
    import typer

    from flsim.runs import KeptRun


@hookimpl
def flsim_run_dir(run: RunView) -> Path:
    """A new folder for the run, with what is known of it already."""
    from flsim_record.folder import make_folder

    return make_folder(run)


@hookimpl
def flsim_observer(run: RunView) -> Observer | None:
    """The recorder of a run that has a folder of this plugin's: who makes another one keeps it."""
    if run.run_dir is None:
        return None
    from flsim_record.folder import is_run
    from flsim_record.recorder import Recorder

    if not is_run(run.run_dir):
        return None

    return Recorder(run.run_dir, run)


@hookimpl
def flsim_open_run(path: Path) -> KeptRun | None:
    """A run that was recorded."""
    from flsim_record.folder import is_run
    from flsim_record.kept import Kept

    return Kept(path) if is_run(path) else None


@hookimpl
def flsim_commands(app: typer.Typer) -> None:
    """The commands ``show`` and ``replay``."""
    from flsim_record.command import show
    from flsim_record.replay import replay

    app.command()(show)
    app.command()(replay)

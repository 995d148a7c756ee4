"""How commands are told which runs they are about."""

from __future__ import annotations

from pathlib import Path

import typer

from flsim.recording import RUNS_DIR as FOLDER

RUN_HELP = "A run's folder, by its path or name, or how its id begins or ends."

RUN = typer.Argument(..., metavar="RUN", help=RUN_HELP)
"""One run."""

RUNS = typer.Argument(None, metavar="RUN", help=RUN_HELP)
"""Any number of runs, or one that may be left out."""

RUNS_DIR = typer.Option(
    Path(FOLDER),
    "--runs-dir",
    metavar="DIR",
    show_default=False,
    help=f"The folder that holds those of runs.  [default: {FOLDER}]",
)

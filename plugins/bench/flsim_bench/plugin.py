"""What this plugin offers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flsim.hooks import hookimpl

if TYPE_CHECKING:
    import typer


@hookimpl
def flsim_commands(app: typer.Typer) -> None:
    """The command ``bench``."""
    from flsim_bench.command import bench

    app.command()(bench)

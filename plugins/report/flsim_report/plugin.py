"""What this plugin offers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flsim.hooks import hookimpl

if TYPE_CHECKING:
    import typer


@hookimpl
def flsim_commands(app: typer.Typer) -> None:
    """The commands ``report`` and ``trace``."""
    from flsim_report.command import report, trace

    app.command()(report)
    app.command()(trace)

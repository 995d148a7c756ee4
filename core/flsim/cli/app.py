"""The commands of ``flsim``."""

from __future__ import annotations

import typer

from flsim.cli.backends import backends
from flsim.cli.check import check
from flsim.cli.new import new
from flsim.cli.plugins import plugins
from flsim.cli.run import run

app = typer.Typer(
    name="flsim",
    help="Simulate federated learning: one ServerApp, many virtual nodes, on a backend of your choice.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # to import rich takes longer than all else that --help does
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
app.command()(run)
app.command()(backends)
app.command()(plugins)
app.command()(check)
app.command()(new)


def _version(show: bool) -> None:
    if show:
        from flsim import __version__

        typer.echo(f"flsim {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Show the version and exit."
    ),
) -> None:
    from flsim.plugins import refuse_namesake

    refuse_namesake()

"""``flsim plugins``: what was found, and whether it can be used."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import typer

from flsim.cli.options import option_rows, print_options

if TYPE_CHECKING:
    from flsim.plugins import Plugins


def plugins(
    context: typer.Context,
    as_json: bool = typer.Option(False, "--json", help="Print JSON instead of a table."),
) -> None:
    """List the plugins that are installed.

    For each: where it is from, the hooks that it implements, what is wrong with it, and its options.
    """
    from flsim.plugins import Plugins

    rows = _rows(context.obj if isinstance(context.obj, Plugins) else Plugins())
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return

    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else 1000, soft_wrap=not sys.stdout.isatty(), highlight=False)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("plugin", "from", "hooks", "state"):
        table.add_column(column, overflow="fold")
    for row in rows:
        state = escape(row["error"]) if row["error"] else "ok"
        origin = f"{row['distribution']} {row['version']}"
        table.add_row(
            *map(escape, (row["plugin"], origin, ", ".join(row["hooks"]))),
            f"[red]{state}[/]" if row["error"] else state,
        )
    console.print(table)
    for row in rows:
        print_options(console, f"options of {row['plugin']} (--plugin {row['plugin']}.KEY=VALUE)", row["options"])


def _rows(plugins: Plugins) -> list[dict[str, Any]]:
    from flsim.asking import options_classes

    clashes: dict[str, list[str]] = {}
    for offer in plugins.backends():
        if clash := plugins.clash(offer.spec.name):
            clashes.setdefault(str(offer.plugin), []).append(clash)
    classes = options_classes(plugins)
    return [
        {
            "plugin": p.name,
            "distribution": p.distribution,
            "version": p.version,
            "hooks": list(p.hooks),
            "options": option_rows(classes[str(p)]) if str(p) in classes else [],
            "error": p.error or "; ".join(clashes.get(str(p), [])),
        }
        for p in plugins.found
    ]

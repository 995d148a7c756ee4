"""``flsim backends``: what there is, and whether it can run here."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import typer

from flsim.cli.options import option_rows, print_options

if TYPE_CHECKING:
    from flsim.plugins import Plugins, Registered


def backends(
    as_json: bool = typer.Option(False, "--json", help="Print JSON instead of a table."),
) -> None:
    """List the backends that are installed.

    For each: where it is from, whether it can run here, what it honours, and its options.
    """
    from flsim.errors import InputError
    from flsim.plugins import Plugins

    plugins = Plugins()
    try:
        default = plugins.default_backend().spec.name
    except InputError:  # its row says why
        default = ""
    rows = [_row(b, plugins, default) for b in plugins.backends()]
    broken = [{"plugin": p.name, "distribution": p.distribution, "error": p.error} for p in plugins.found if p.error]
    if as_json:
        typer.echo(json.dumps({"backends": rows, "broken plugins": broken}, indent=2))
        return

    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else 1000, soft_wrap=not sys.stdout.isatty(), highlight=False)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("backend", "from", "can run", "honours", "what it is"):
        table.add_column(column, overflow="fold")
    for row in rows:
        can = "yes" if not row["problem"] else f"no: {row['problem']}"
        if row["default"]:
            can += " (default)"
        origin = f"{row['distribution']} {row['version']}"
        table.add_row(*map(escape, (row["name"], origin, can, ", ".join(row["honours"]), row["summary"])))
    console.print(table)
    for row in rows:
        print_options(console, f"options of {row['name']} (-o KEY=VALUE)", row["options"])
    for plugin in broken:
        text = f"plugin {plugin['plugin']} of {plugin['distribution']} cannot be used: {plugin['error']}"
        console.print(escape(text), style="red")


def _row(offer: Registered, plugins: Plugins, default: str) -> dict[str, Any]:
    from flsim.errors import InputError

    spec = offer.spec
    problem = ""
    try:
        plugins.backend(spec.name)
    except InputError as e:
        problem = str(e)
    return {
        "name": spec.name,
        "summary": spec.summary,
        "distribution": offer.plugin.distribution,
        "version": offer.plugin.version,
        "problem": problem,
        "default": not problem and spec.name == default,
        "honours": sorted(spec.honours),
        "options": option_rows(spec.options),
    }

"""``flsim run``: run an app, show what it does, and say what it came to."""

from __future__ import annotations

import contextlib
import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from flsim.linkstate import Count
    from flsim.plan import Plan
    from flsim.project import Project
    from flsim.result import RunResult


def run(
    path: Path = typer.Argument(
        ..., metavar="APP", help="A folder with a pyproject.toml, or a .py file with a ServerApp and a ClientApp."
    ),
    backend: str | None = typer.Option(
        None, "--backend", "-b", metavar="NAME", help="Where ClientApps run; 'flsim backends' lists them."
    ),
    option: list[str] = typer.Option(
        [], "--option", "-o", metavar="KEY=VALUE", help="An option of the backend, such as cpus=4. Repeatable."
    ),
    nodes: int | None = typer.Option(None, "--nodes", "-n", min=1, help="How many virtual nodes."),
    sets: list[str] = typer.Option(
        [], "--set", "-s", metavar="KEY=VALUE", help="A value of the app's configuration. Repeatable."
    ),
    cpus: float | None = typer.Option(None, "--cpus", help="Cpus that one ClientApp needs; a fraction shares one."),
    gpus: float | None = typer.Option(None, "--gpus", help="Gpus that one ClientApp needs; a fraction shares one."),
    memory: str | None = typer.Option(
        None, "--memory", metavar="SIZE", help="Memory that one ClientApp needs, such as 2GiB."
    ),
    seed: int | None = typer.Option(None, "--seed", min=0, help="Makes the run repeatable; drawn where not given."),
    dry_run: bool = typer.Option(False, "--dry-run", help="Load and check everything, say what would run, and stop."),
    as_json: bool = typer.Option(False, "--json", help="Print the result as JSON, and nothing else, to stdout."),
    quiet: bool = typer.Option(False, "--quiet", "-q", help="Show nothing but errors."),
) -> None:
    """Run an app on a backend.

    Exit codes: 0 the ServerApp returned and a message got content (or none was sent); 1 the run failed, or every
    message got an error; 2 wrong usage; 130 Ctrl-C; 143 SIGTERM.
    """
    from flsim.errors import FlsimError
    from flsim.options import parse_assignments
    from flsim.plan import make_plan
    from flsim.plugins import Plugins
    from flsim.project import load_project

    plugins = Plugins()
    project = load_project(path)
    if nodes is not None:
        project = project.with_nodes(nodes)
    project = project.with_config(parse_assignments("--set", sets))
    needs = {"cpus": cpus, "gpus": gpus, "memory": memory}
    project = project.with_resources({k: v for k, v in needs.items() if v is not None})
    plan = make_plan(plugins, project, backend=backend, options=parse_assignments("-o", option), seed=seed)
    if dry_run:
        _show_plan(plan, project, as_json)
        return
    out = sys.stdout
    try:
        with _terminated(), contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
            result = plan.run(plan.observers(plugins, None if quiet or as_json else out))
    except KeyboardInterrupt:
        print("interrupted: the run was ended", file=sys.stderr)
        raise typer.Exit(130) from None
    except _Terminated:
        print("terminated: the run was ended", file=sys.stderr)
        raise typer.Exit(143) from None
    except FlsimError:
        raise
    except BaseException as e:  # the ServerApp may raise anything, SystemExit included
        from flsim.envelope import traceback_of

        print(f"error: the ServerApp raised\n{traceback_of(e)}", end="", file=sys.stderr)
        raise typer.Exit(1) from None
    if as_json:
        typer.echo(json.dumps(result.to_json(), indent=2))
    elif not quiet:
        _show_result(result)
    if result.sent and not result.answered:
        print("error: every message got an error", file=sys.stderr)
        raise typer.Exit(1)


class _Terminated(BaseException):
    """SIGTERM came."""


@contextlib.contextmanager
def _terminated() -> Iterator[None]:
    """Make SIGTERM an exception in the main thread, as Ctrl-C is, so that what was started is ended."""

    def raise_(signum: int, frame: FrameType | None) -> None:
        raise _Terminated

    before = signal.signal(signal.SIGTERM, raise_)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _show_plan(plan: Plan, project: Project, as_json: bool) -> None:
    import dataclasses

    shown: dict[str, Any] = {
        "app": project.name,
        "server": str(project.server),
        "kinds": [
            {
                "name": k.name, "client": str(k.client), "nodes": k.nodes, "needs": str(k.resources),
                "config": dict(k.config),
            }
            for k in project.kinds
        ],
        "config": dict(project.config),
        "backend": plan.spec.name,
        "options": dataclasses.asdict(plan.options),
        "seed": plan.seed,
    }  # fmt: skip
    if as_json:
        typer.echo(json.dumps(shown, indent=2))
        return
    typer.echo(f"{shown['app']}: would run server {shown['server']}")
    for kind in shown["kinds"]:
        typer.echo(f"  {kind['nodes']:,} nodes of kind {kind['name']}: client {kind['client']}, each {kind['needs']}")
    typer.echo(f"  on {shown['backend']} with {_pairs(shown['options'])}, seed {shown['seed']}")
    typer.echo(f"  config: {_pairs(shown['config'])}")


def _pairs(values: dict[str, Any]) -> str:
    return ", ".join(f"{k}={v}" for k, v in values.items() if v is not None) or "defaults"


def _show_result(result: RunResult) -> None:
    if result.counts:
        from rich.console import Console
        from rich.table import Table

        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column("messages")
        for column in ("sent", "answered", "errors"):
            table.add_column(column, justify="right")
        for type_, count in result.counts.items():
            table.add_row(type_, f"{count.sent:,}", f"{count.answered:,}", f"{sum(count.errors.values()):,}")
        Console(file=sys.stdout, highlight=False, width=None if sys.stdout.isatty() else 100).print(table)
        for type_, count in result.counts.items():
            _show_errors(type_, count)
    typer.echo(
        f"{result.seconds:.2f} s, {result.messages_per_second:,.0f} messages/s, seed {result.seed}, "
        f"digest {result.digest[:16]}"
    )


REASONS_SHOWN = 5


def _show_errors(type_: str, count: Count) -> None:
    from flsim.envelope import clean

    for name, n in count.errors.most_common():
        typer.echo(f"  {type_}: {n:,} {name}")
        reasons = [(r, m) for (code, r), m in count.reasons.most_common() if code == name]
        for reason, m in reasons[:REASONS_SHOWN]:
            typer.echo(f"    {m:,} × {clean(reason, 200)}")
        if len(reasons) > REASONS_SHOWN:
            typer.echo(f"    … and {len(reasons) - REASONS_SHOWN} other reasons")

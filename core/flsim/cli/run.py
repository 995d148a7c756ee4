"""``flsim run``: run an app, show what it does, and say what it came to."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import json
import os
import shlex
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, TextIO

import typer

from flsim.events import Event, RunStarted
from flsim.recording import Recording

if TYPE_CHECKING:
    from flsim.plan import Plan
    from flsim.plugins import Plugins
    from flsim.result import RunResult


def run(
    ctx: typer.Context,
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
    time_limit: float | None = typer.Option(
        None, "--time-limit", metavar="SECONDS", help="Seconds that one message may run before its worker is ended."
    ),
    plugin: list[str] = typer.Option(
        [],
        "--plugin",
        "-p",
        metavar="NAME[.KEY=VALUE]",
        help="A plugin that takes part, or one of its options; NAME=false: it does not. Repeatable.",
    ),
    seed: int | None = typer.Option(None, "--seed", min=0, help="Makes the run repeatable; drawn where not given."),
    record: bool | None = typer.Option(
        None, "--record/--no-record", help="Whether to keep the run in a folder of its own; it is kept by default."
    ),
    runs_dir: Path | None = typer.Option(
        None, "--runs-dir", metavar="DIR", help="The folder that holds those of runs.  [default: runs]"
    ),
    record_rows: int | None = typer.Option(
        None,
        "--record-rows",
        min=0,
        metavar="N",
        help="Keep rows of so many messages.  [default: 1000000]",
    ),
    dry_run: bool = typer.Option(False, "--dry-run", help="Load and check everything, say what would run, and stop."),
    as_json: bool = typer.Option(False, "--json", help="Print the result as JSON, and nothing else, to stdout."),
    quiet: bool = typer.Option(False, "--quiet", "-q", help="Show nothing but errors."),
) -> None:
    """Run an app on a backend.

    Exit codes: 0 the ServerApp returned and a message got content (or none was sent); 1 the run failed, every message
    got an error, or you quit at a breakpoint; 2 wrong usage; 130 Ctrl-C; 143 SIGTERM.
    """
    with _stdout_for_json() if as_json else contextlib.nullcontext(sys.stdout) as out:
        needs = {"cpus": cpus, "gpus": gpus, "memory": memory}
        # What is given of plugins' own options stands beside what is listed here.
        listed = {*inspect.signature(run).parameters}
        given = {k: v for k, v in ctx.params.items() if k not in listed and v}
        recording = Recording(record, None if runs_dir is None else str(runs_dir), record_rows)
        plugins, plan = _plan(path, backend, option, nodes, sets, needs, time_limit, plugin, seed, given, recording)
        if dry_run:
            _show_plan(plan, out, as_json)
            return
        result = _run(plugins, plan, None if quiet else sys.stderr if as_json else out)
        if as_json:
            print(json.dumps(result.to_json(), indent=2, allow_nan=False), file=out)
        elif not quiet:
            _show_result(result, out)
    if result.sent and not result.answered:
        print("error: every message got an error", file=sys.stderr)
        if quiet or as_json:
            _show_errors(result, sys.stderr)
        raise typer.Exit(1)


def _plan(
    path: Path,
    backend: str | None,
    option: list[str],
    nodes: int | None,
    sets: list[str],
    needs: dict[str, Any],
    time_limit: float | None,
    plugin: list[str],
    seed: int | None,
    given: Mapping[str, Sequence[str]],
    recording: Recording,
) -> tuple[Plugins, Plan]:
    from flsim.asking import asked_plugins, parse_asked
    from flsim.find import find_project
    from flsim.options import make_options, parse_assignments
    from flsim.plan import make_plan
    from flsim.plugins import Plugins
    from flsim.settings import COMMAND_LINE

    # What is wrong with the command line is said before the app is imported, which may take long.
    config, options = parse_assignments("--set", sets), parse_assignments("-o", option)
    asked = parse_asked("--plugin", plugin)
    plugins = Plugins()
    asked_plugins(plugins, asked)
    if backend is not None:
        make_options(plugins.backend(backend).spec, options)
    project = find_project(plugins, path, given)
    if nodes is not None:
        project = project.with_nodes(nodes, COMMAND_LINE)
    project = project.with_config(config, COMMAND_LINE)
    project = project.with_resources({k: v for k, v in needs.items() if v is not None}, COMMAND_LINE)
    if time_limit is not None:
        project = project.with_time_limit(time_limit, COMMAND_LINE)
    plan = make_plan(
        plugins,
        project,
        backend=backend,
        options=options,
        seed=seed,
        recording=recording,
        asked=asked,
        origin=COMMAND_LINE,
    )
    return plugins, plan


def _run(plugins: Plugins, plan: Plan, out: TextIO | None) -> RunResult:
    """Run it, and exit with the code that says how it ended."""
    import bdb

    from flsim.envelope import traceback_of
    from flsim.errors import AppLoadError, BackendBroken, FlsimError

    started = _Started()
    view = plan.view(plugins, out, by_default=True)
    try:
        with _terminated(), _quarantine_shown(view.run_dir):
            return plan.run([started, *plugins.observers(view)], view.run_dir)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # all is ended: another Ctrl-C would only disturb the exit
        print("interrupted: the run was ended", file=sys.stderr)
        raise typer.Exit(130) from None
    except _Terminated:
        print("terminated: the run was ended", file=sys.stderr)
        raise typer.Exit(143) from None
    except bdb.BdbQuit:
        print("quit: the run was ended at a breakpoint", file=sys.stderr)
        raise typer.Exit(1) from None
    except BaseException as e:  # the ServerApp may raise anything, SystemExit included
        ours = isinstance(e, FlsimError) and not started.seen
        if ours or isinstance(e, (AppLoadError, BackendBroken)):
            raise
        print(f"error: the ServerApp raised\n{traceback_of(e)}", end="", file=sys.stderr)
        raise typer.Exit(1) from None


class _Started:
    """Knows whether the ServerApp was called, and so whose error it is."""

    seen = False

    def on(self, events: Sequence[Event]) -> None:
        self.seen = self.seen or any(isinstance(e, RunStarted) for e in events)

    def close(self) -> None:
        pass


@contextlib.contextmanager
def _stdout_for_json() -> Iterator[TextIO]:
    """Keep stdout for the result: what else is printed, also by children and past Python, goes to stderr."""
    sys.stdout.flush()
    ours = os.dup(1)
    os.dup2(2, 1)
    try:
        with os.fdopen(os.dup(ours), "w") as out:
            yield out
    finally:
        sys.stdout.flush()
        os.dup2(ours, 1)
        os.close(ours)


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


def _show_plan(plan: Plan, out: TextIO, as_json: bool) -> None:
    project = plan.project
    shown: dict[str, Any] = {
        "app": project.name,
        "server": str(project.server),
        "kinds": [
            {
                "name": k.name, "client": str(k.client), "nodes": k.nodes, "needs": str(k.resources),
                "time_limit": k.time_limit,
                "config": dict(k.config),
            }
            for k in project.kinds
        ],
        "config": dict(project.config),
        "backend": plan.spec.name,
        "options": dataclasses.asdict(plan.options),
        "plugins": {name: dataclasses.asdict(options) for name, options in plan.plugins.items()},
        "seed": plan.seed,
    }  # fmt: skip
    rehearse = project.rehearse
    if as_json:
        if rehearse is not None:
            shown["rehearsal"] = list(rehearse(plan))
        print(json.dumps(shown, indent=2, default=str), file=out)
        return
    print(f"{shown['app']}: would run server {shown['server']}", file=out)
    for kind in shown["kinds"]:
        count = "1 node" if kind["nodes"] == 1 else f"{kind['nodes']:,} nodes"
        text = f"  {count} of kind {kind['name']}: client {kind['client']}, each {kind['needs']}"
        if kind["time_limit"] is not None:
            text += f", at most {kind['time_limit']:g} s a message"
        print(text, file=out)
    print(f"  on {shown['backend']} with {_pairs(shown['options']) or 'its defaults'}, seed {shown['seed']}", file=out)
    for name, options in shown["plugins"].items():
        print(f"  with plugin {name}: {_pairs(options) or 'its defaults'}", file=out)
    print(f"  config: {_pairs(shown['config']) or 'none'}", file=out)
    if rehearse is not None:
        out.flush()
        for line in rehearse(plan):
            print(f"  {line}", file=out)


def _pairs(values: dict[str, Any]) -> str:
    return ", ".join(f"{k}={v}" for k, v in values.items() if v is not None)


def _show_result(result: RunResult, out: TextIO) -> None:
    if result.counts:
        from rich.console import Console
        from rich.table import Table

        from flsim.envelope import clean

        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column("messages")
        for column in ("sent", "answered", "errors"):
            table.add_column(column, justify="right")
        for type_, count in result.counts.items():
            table.add_row(
                clean(type_, 200), f"{count.sent:,}", f"{count.answered:,}", f"{sum(count.errors.values()):,}"
            )
        Console(file=out, highlight=False, width=None if out.isatty() else 100).print(table)
        _show_errors(result, out)
    print(
        f"{result.seconds:.2f} s, {result.messages_per_second:,.0f} messages/s, seed {result.seed}, "
        f"digest {result.digest[:16]}",
        file=out,
    )
    if result.run_dir is not None:
        print(f"kept in {_near(result.run_dir)}", file=out)
        _show_quarantine(result.run_dir, out)


def _show_quarantine(run_dir: Path, out: TextIO) -> None:
    from flsim.quarantine import count

    if n := count(run_dir):
        what = "1 message that cost its worker is" if n == 1 else f"{n:,} messages that cost their workers are"
        path = str(_near(run_dir))
        typed = path if os.sep in path else f".{os.sep}{path}"  # else it would be looked for in runs/
        print(f"{what} in quarantine: flsim replay {shlex.quote(typed)}", file=out)


@contextlib.contextmanager
def _quarantine_shown(run_dir: Path | None) -> Iterator[None]:
    """Say what is in quarantine of a run that fails: it may be why."""
    try:
        yield
    except BaseException:
        if run_dir is not None:
            _show_quarantine(run_dir, sys.stderr)
        raise


def _near(path: Path) -> Path:
    """A path as it is typed from here."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


REASONS_SHOWN = 5


def _show_errors(result: RunResult, out: TextIO) -> None:
    from flsim.envelope import clean

    for type_, count in result.counts.items():
        for name, n in count.errors.most_common():
            print(f"  {clean(type_, 200)}: {n:,} {name}", file=out)
            reasons = [(r, m) for (code, r), m in count.reasons.most_common() if code == name]
            for reason, m in reasons[:REASONS_SHOWN]:
                print(f"    {m:,} × {clean(reason, 200)}", file=out)
            if len(reasons) > REASONS_SHOWN:
                print(f"    … and {len(reasons) - REASONS_SHOWN} other reasons", file=out)

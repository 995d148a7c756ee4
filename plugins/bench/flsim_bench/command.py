"""``flsim bench``: backends compared on named workloads."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from flsim_bench.report import Report


def bench(
    workload: list[str] = typer.Argument(
        None,
        metavar="WORKLOAD",
        help="noop, echo, broadcast, compute, uneven, fleet, startup; all where none is given.",
    ),
    backend: list[str] = typer.Option(
        [],
        "--backend",
        "-b",
        metavar="NAME",
        help="A backend to compare, or LABEL=NAME for one that is there twice. Repeatable; "
        "all that can run here where none is given.",
    ),
    option: list[str] = typer.Option(
        [], "--option", "-o", metavar="BACKEND.KEY=VALUE", help="An option of a backend (or label). Repeatable."
    ),
    workers: int = typer.Option(2, "--workers", "-w", min=1, help="Workers of each backend and of each reference."),
    scale: str = typer.Option("small", "--scale", help="How large: tiny (seconds), small (minutes), full (hours)."),
    repeat: int = typer.Option(3, "--repeat", "-r", min=1, help="Repetitions of each cell."),
    limit: float = typer.Option(900.0, "--limit", min=1.0, metavar="SECONDS", help="What one repetition may take."),
    flower_python: Path | None = typer.Option(
        None,
        "--flower-python",
        metavar="PYTHON",
        help="A Python that has flwr with its extra simulation: the same work by Flower's engine stands beside.",
    ),
    json_file: Path | None = typer.Option(None, "--json", metavar="FILE", help="Write what was measured as JSON."),
    html_file: Path | None = typer.Option(None, "--html", metavar="FILE", help="Write one HTML page with plots."),
    png_file: Path | None = typer.Option(
        None, "--png", metavar="FILE", help="Write the plots as an image (needs the extra png of flsim-bench)."
    ),
    from_file: Path | None = typer.Option(
        None, "--from", metavar="FILE", help="Measure nothing: show what --json has written, and write --html or --png."
    ),
) -> None:
    """Compare backends on named workloads, each beside a bare reference that is measured in the same run.

    Exit codes: 0 all was measured; 1 a cell failed; 2 wrong usage; 130 Ctrl-C; 143 SIGTERM, both with what was measured
    so far.
    """
    from flsim_bench.outputs import Outputs

    outputs = Outputs(json_file, html_file, png_file)
    outputs.check()
    if from_file is not None:
        report, code = _load(from_file), 0
    else:
        report, code = _measure(workload or [], backend, option, workers, scale, repeat, limit, flower_python)
    from flsim_bench.table import show

    show(report)
    outputs.write(report)
    if code or report.failed():
        raise typer.Exit(code or 1)


def _measure(
    names: list[str],
    asked: list[str],
    options: list[str],
    workers: int,
    scale: str,
    repeat: int,
    limit: float,
    flower: Path | None,
) -> tuple[Report, int]:
    """What was measured, and the exit code where it was ended early."""
    from flsim.plugins import Plugins
    from flsim_bench.catalogue import REFERENCES
    from flsim_bench.choice import check_flower, choose_backends, choose_references, choose_workloads
    from flsim_bench.conditions import Conditions
    from flsim_bench.report import Report, Subject
    from flsim_bench.runner import Runner
    from flsim_bench.session import Session

    workloads = choose_workloads(names, scale)
    plugins = Plugins()
    subjects = choose_backends(plugins, asked, options, workers)
    references, left_out = choose_references(workloads)
    subjects += references
    if flower is not None:
        # Not resolved: the python of an environment is a link, and what it links to has another environment.
        flower = flower.absolute()
        check_flower(flower)
        subjects.append(Subject("flower", "flower", "flower"))
    used = {s.name for s in subjects}
    distributions = [r.library for r in REFERENCES.values() if r.library]
    for offer in plugins.backends():
        if offer.spec.name in used:
            distributions += [offer.plugin.distribution, *offer.spec.requires]
    report = Report(Conditions.here(distributions), scale, repeat, workers, subjects, left_out=left_out)
    session = Session(report, Runner(limit, flower), lambda line: print(line, file=sys.stderr, flush=True))
    try:
        with _sigterm_raises():
            session.run(workloads)
    except KeyboardInterrupt as e:
        report.interrupted = True
        return report, e.args[0] if e.args else 130
    return report, 0


def _load(file: Path) -> Report:
    from flsim.errors import ConfigError
    from flsim_bench.report import Report

    try:
        return Report.from_json(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise ConfigError(f"--from {file}: {e}") from e


@contextlib.contextmanager
def _sigterm_raises() -> Iterator[None]:
    """Take SIGTERM as Ctrl-C, so that the processes of a cell are ended."""

    def raise_(signum: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt(128 + signum)

    before = signal.signal(signal.SIGTERM, raise_)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)

"""``flsim report`` and ``flsim trace``: what was recorded of runs, as files to look at."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import typer

from flsim_record.arguments import RUN_HELP, RUNS_DIR

_RUN = f"{RUN_HELP.removesuffix('.')}; default: the newest."
RUNS = typer.Argument(None, metavar="RUN", help=_RUN)
RUN = typer.Argument(None, metavar="RUN", help=_RUN)


def report(
    run: list[str] = RUNS,
    runs_dir: Path = RUNS_DIR,
    out: Path = typer.Option(Path("report.html"), "--out", "-o", metavar="FILE", help="The page."),
    png: Path | None = typer.Option(
        None,
        "--png",
        metavar="FILE",
        help="Write a figure, too; as PDF or SVG where its name ends so (needs the extra png of flsim-report).",
    ),
) -> None:
    """Write runs that were kept as one HTML page: metrics, who ran what when, durations, resources, failures.

    Several runs are laid over one another. The page is one file, and needs no network. Exit codes: 0 it is written; 2
    there is no such run, it cannot be read, or the page cannot be written.
    """
    from flsim_report.outputs import check_figure, check_file, write
    from flsim_report.runs import load

    check_file("--out", out)
    if png is not None:
        check_figure("--png", png)
    runs = [load(folder) for folder in _folders(runs_dir, run or ())]
    from flsim_report.page import page

    write("--out", out, lambda file: file.write_text(page(runs), encoding="utf-8"))
    print(f"{out}: {_count(len(runs), 'run')}, {sum(len(r.messages.id) for r in runs):,} messages")
    if png is not None:
        from flsim_report.png import draw

        left_out = write("--png", png, lambda file: draw(runs, file))
        print(f"{png}: the figure" + (f", without {left_out} that it has no room for" if left_out else ""))


def trace(
    run: str | None = RUN,
    runs_dir: Path = RUNS_DIR,
    out: Path = typer.Option(
        Path("trace.json"), "--out", "-o", metavar="FILE", help="The trace; compressed where its name ends with .gz."
    ),
) -> None:
    """Write a run that was kept as a trace, in the format of Chrome's trace viewer, which ui.perfetto.dev opens.

    Exit codes: 0 it is written; 2 there is no such run, it cannot be read, or the trace cannot be written.
    """
    from flsim_report.outputs import check_file, write
    from flsim_report.runs import load
    from flsim_report.trace import write_trace

    check_file("--out", out)
    (folder,) = _folders(runs_dir, [] if run is None else [run])
    loaded = load(folder)
    with _progress(str(out), len(loaded.messages.id)) as step:
        events = write("--out", out, lambda file: write_trace(loaded, file, step))
    print(f"{out}: {_count(events, 'event')} of run {loaded.name}; open it at ui.perfetto.dev, or in chrome://tracing")


@contextlib.contextmanager
def _progress(label: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal, and nothing elsewhere: a million messages take half a minute."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(label, total=total)
        yield lambda steps: bar.advance(task, steps)


def _folders(runs_dir: Path, names: list[str] | tuple[str, ...]) -> list[Path]:
    """The folders of these runs, each once; that of the newest where none is named. Raises ConfigError."""
    from flsim.errors import ConfigError
    from flsim_record.find import find_run, folders

    if names:
        return list(dict.fromkeys(find_run(runs_dir, name) for name in names))
    newest = folders(runs_dir)[:1]
    if not newest:
        raise ConfigError(f"no run is kept in {runs_dir}: 'flsim run' keeps them in 'runs', or where --runs-dir says")
    return newest


def _count(n: int, what: str) -> str:
    return f"{n:,} {what}{'s' * (n != 1)}"

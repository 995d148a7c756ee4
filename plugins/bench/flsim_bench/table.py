"""The report as tables in a terminal."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from flsim.plots import number
from flsim_bench.catalogue import Workload
from flsim_bench.report import Report, Row


def show(report: Report) -> None:
    """Print it to stdout."""
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 140)
    for workload in report.workloads:
        console.print(_table(report, workload))
        console.print()
    for cell in report.failed():
        console.print(escape(f"failed: {cell.workload}: {cell.case}, {cell.subject}: {cell.error}"), style="red")
    for name, why in report.left_out.items():
        console.print(escape(f"left out: {name}: {why}"))
    if report.interrupted:
        console.print("interrupted: this is what was measured so far", style="yellow")
    for name, text in report.conditions.lines():
        console.print(escape(f"{name}: {text}"), soft_wrap=True, style="dim")


def _table(report: Report, workload: Workload) -> Table:
    table = Table(
        title=escape(f"{workload.name}: {workload.summary}"),
        title_justify="left",
        title_style="bold",
        header_style="bold",
        box=None,
        pad_edge=False,
    )
    for column in ("case", "measure", "of"):
        table.add_column(column, overflow="fold")
    for column in COLUMNS:
        table.add_column(column, justify="right", overflow="fold")
    last: Row | None = None
    for row in report.rows(workload):
        same_case = last is not None and row.case == last.case
        same = same_case and last is not None and row.measure == last.measure
        if last is not None and not same:
            table.add_row()
        last = row
        heads = ("" if same_case else row.case, "" if same else row.measure.title, row.subject.label)
        style = "dim" if row.subject.kind == "reference" else ""
        table.add_row(*map(escape, (*heads, *texts(row))), style=style)
    return table


COLUMNS = ("median", "lowest – highest", "against its reference", "against Flower")
"""What :func:`texts` gives."""


def texts(row: Row) -> tuple[str, str, str, str]:
    """The figures of a row as text; empty where there is none."""
    summary = row.summary
    return (
        f"{number(summary.median)} {row.measure.unit}".rstrip(),
        "" if summary.low == summary.high else f"{number(summary.low)} – {number(summary.high)}",
        "" if row.ratio is None else f"{number(row.ratio)} × {row.reference}",
        "" if row.flower is None else f"{number(row.flower)} × Flower",
    )

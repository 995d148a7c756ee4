"""The report as a figure, by matplotlib: for a paper."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from flsim_report import curves
from flsim_report.runs import RecordedRun
from flsim_report.spans import spans_of
from flsim_report.timeline import Timeline, timeline_of

COLOURS = ("#2563c9", "#c2570c", "#1d8049", "#8a46b8", "#8c6d00", "#0e7c8a", "#6b7078", "#c23d86")
DASHES = ("-", "--", ":", "-.")
PHASES = {"execute": "#2f7d6d", "decode": "#c9821b", "encode": "#8a5fc4", "transfer": "#c3c9d1", "failed": "#b3125f"}
COLOUR_OF = {**PHASES, "lost": PHASES["failed"], "open": "#7d8794"}
WITHOUT_ANSWER = {"lost": "lost with its worker", "open": "still at work"}
COLUMNS = 3
DPI = 150
TOP, ROW, HEAD, LANE = 0.4, 2.4, 0.9, 0.24
"""Inches: of the top, of a row of plots, around a timeline, and of a row in it."""

PLOTS, TIMELINES = 240, 12
"""As many are drawn at most: matplotlib draws no picture of 2**16 pixels or more."""

LABEL = 40
"""Characters of a run's name in a key."""


def draw(runs: Sequence[RecordedRun], file: Path) -> str:
    """Draw metrics, durations, and a timeline for each run, in the format in which the file's name ends.

    Returns:
        What was left out, since a picture has an end; empty where nothing was.
    """
    plots = [*curves.durations(runs), *curves.resources(runs)]
    metrics = curves.metrics(runs, over_time=False)
    shown = [*metrics[: max(0, PLOTS - len(plots))], *plots][:PLOTS]
    with rc_context({"text.parse_math": False}):  # a metric's name may have a $ in it
        _figure(runs, shown).savefig(file, dpi=DPI)
    left_out = {"plots": len(metrics) + len(plots) - len(shown), "timelines": len(runs) - TIMELINES}
    return " and ".join(f"{count:,} {what}" for what, count in left_out.items() if count > 0)


def _figure(runs: Sequence[RecordedRun], plots: Sequence[curves.Plot]) -> Figure:
    timelines = [timeline_of(run, spans_of(run)) for run in runs[:TIMELINES]]
    rows = -(-len(plots) // COLUMNS)
    heights = [ROW] * rows + [HEAD + LANE * max(1, len(t.rows)) for t in timelines]
    figure = Figure(figsize=(4.2 * COLUMNS, sum(heights) + TOP), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(len(heights), COLUMNS, height_ratios=heights)
    for i, p in enumerate(plots):
        _lines(figure.add_subplot(grid[i // COLUMNS, i % COLUMNS]), p)
    for i, (run, timeline) in enumerate(zip(runs, timelines, strict=False)):
        _timeline(figure.add_subplot(grid[rows + i, :]), run, timeline)
    names = [f"{run.result.backend} ({run.name[:LABEL]})" for run in runs]
    handles = [_handle(i) for i in range(len(runs))]
    figure.legend(handles, names, loc="outside upper left", ncols=2, frameon=False, fontsize=8)
    return figure


def _handle(i: int) -> Any:
    return Line2D([], [], **_look(i))


def _look(i: int) -> dict[str, Any]:
    return {"color": COLOURS[i % len(COLOURS)], "linestyle": DASHES[i % len(DASHES)], "linewidth": 1.5}


def _plain(axes: Any, title: str, note: str) -> None:
    axes.set_title(title, fontsize=9, loc="left")
    axes.set_xlabel(note, fontsize=7)
    axes.tick_params(labelsize=7)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _lines(axes: Any, p: curves.Plot) -> None:
    """A plot, between the same axes as on the page: their percents, since matplotlib's own end before numbers do."""
    _plain(axes, fill(p.title, 48), fill(p.note, 58))
    for line in p.lines:
        xs, ys = [p.x.at(x) for x, _ in line.points], [p.y.at(y) for _, y in line.points]
        axes.plot(xs, ys, marker="." if len(xs) == 1 else "", clip_on=False, **_look(line.colour))
    axes.set_xlim(0, 100)
    axes.set_ylim(0, 100)
    for ticks, axis in ((axes.set_xticks, p.x), (axes.set_yticks, p.y)):
        labels = axis.labels()
        ticks([at for at, _ in labels], [name for _, name in labels])


def _timeline(axes: Any, run: RecordedRun, timeline: Timeline) -> None:
    how = "" if timeline.exact else ", as shares of time"
    _plain(axes, f"{run.label}: who ran what when{how}", "seconds")
    edges = np.linspace(0, timeline.seconds, len(timeline.rows[0].areas[0][1]) + 1) if _has_areas(timeline) else None
    for at, row in enumerate(timeline.rows):
        bottom = -at - 0.4
        _bars(axes, [(m.left, m.width) for m in row.leases], (bottom + 0.2, 0.4), "transfer", timeline.seconds)
        marks: dict[str, list[tuple[float, float]]] = {}
        for item in row.items:
            for m in item.marks:
                phase = "failed" if item.failed and row.kind == "worker" else m.phase
                marks.setdefault(phase, []).append((m.left, m.width))
        for phase, of in marks.items():
            _bars(axes, of, (bottom, 0.8), phase, timeline.seconds)
        for phase, floor, top in row.areas:
            axes.stairs(
                bottom + 0.8 * top,
                edges,
                baseline=bottom + 0.8 * floor,
                fill=True,
                color=COLOUR_OF[phase],
                linewidth=0,
            )
    axes.set_yticks([-i for i in range(len(timeline.rows))], [row.worker for row in timeline.rows], fontsize=6)
    axes.set_ylim(-max(1, len(timeline.rows)) + 0.4, 0.6)
    axes.set_xlim(0, timeline.seconds)
    kinds = {row.kind for row in timeline.rows}
    named = {p: p for p in PHASES} | {kind: name for kind, name in WITHOUT_ANSWER.items() if kind in kinds}
    patches = [Patch(color=COLOUR_OF[p], label=name) for p, name in named.items()]
    axes.legend(handles=patches, loc="lower right", bbox_to_anchor=(1, 1), ncols=7, fontsize=6, frameon=False)


def _has_areas(timeline: Timeline) -> bool:
    return bool(timeline.rows and timeline.rows[0].areas)


def _bars(axes: Any, marks: list[tuple[float, float]], span: tuple[float, float], phase: str, seconds: float) -> None:
    scaled = [(left * seconds / 100, width * seconds / 100) for left, width in marks]
    # Leases that follow one another at once are still told apart.
    edge = {"edgecolor": "white", "linewidth": 0.5} if phase in WITHOUT_ANSWER else {"linewidth": 0}
    axes.broken_barh(scaled, span, facecolor=COLOUR_OF[phase], **edge)

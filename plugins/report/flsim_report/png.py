"""The report as a figure, by matplotlib: for a paper."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from flsim_report import curves
from flsim_report.runs import RecordedRun
from flsim_report.spans import spans_of
from flsim_report.timeline import Timeline, timeline_of

COLOURS = ("#2563c9", "#c2570c", "#1d8049", "#8a46b8", "#8c6d00", "#0e7c8a", "#6b7078", "#c23d86")
DASHES = ("-", "--", ":", "-.")
PHASES = {"execute": "#2f7d6d", "decode": "#c9821b", "encode": "#8a5fc4", "transfer": "#c3c9d1", "failed": "#b3125f"}
COLUMNS = 3
LABEL = 40
"""Characters of a run's name in a key."""


def draw(runs: Sequence[RecordedRun], file: Path) -> None:
    """Draw metrics, durations, and a timeline for each run, in the format in which the file's name ends."""
    spans = [spans_of(run) for run in runs]
    longest = max((run.seconds for run in runs), default=0.0) or 1.0
    timelines = [timeline_of(run, s, longest) for run, s in zip(runs, spans, strict=True)]
    plots = [*curves.metrics(runs, over_time=False), *curves.durations(runs), *curves.resources(runs)]
    rows = -(-len(plots) // COLUMNS)
    heights = [2.4] * rows + [0.9 + 0.24 * max(1, len(t.rows)) for t in timelines]
    figure = Figure(figsize=(4.2 * COLUMNS, sum(heights) + 0.4), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(len(heights), COLUMNS, height_ratios=heights)
    for i, p in enumerate(plots):
        _lines(figure.add_subplot(grid[i // COLUMNS, i % COLUMNS]), p)
    for i, (run, timeline) in enumerate(zip(runs, timelines, strict=True)):
        _timeline(figure.add_subplot(grid[rows + i, :]), run, timeline)
    names = [f"{run.result.backend} ({run.name[:LABEL]})" for run in runs]
    handles = [_handle(i) for i in range(len(runs))]
    figure.legend(handles, names, loc="outside upper left", ncols=2, frameon=False, fontsize=8)
    figure.savefig(file, dpi=150)


def _handle(i: int) -> Any:
    from matplotlib.lines import Line2D

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
    _plain(axes, p.title, p.note)
    for line in p.lines:
        xs, ys = zip(*line.points, strict=True) if line.points else ((), ())
        axes.plot(xs, ys, marker="." if len(xs) == 1 else "", **_look(line.colour))
    if p.x.log:
        axes.set_xscale("log")
    if p.lines:
        axes.set_xlim(p.x.low, p.x.high)


def _timeline(axes: Any, run: RecordedRun, timeline: Timeline) -> None:
    how = "" if timeline.exact else ", as shares of time"
    _plain(axes, f"{run.result.backend}: who ran what when{how}", "seconds")
    edges = np.linspace(0, timeline.seconds, len(timeline.rows[0].areas[0][1]) + 1) if _has_areas(timeline) else None
    for at, row in enumerate(timeline.rows):
        bottom = -at - 0.4
        _bars(axes, [(m.left, m.width) for m in row.leases], (bottom + 0.2, 0.4), "transfer", timeline.seconds)
        for phase in ("decode", "execute", "encode", "failed"):
            marks = [
                (m.left, m.width)
                for item in row.items
                for m in item.marks
                if (item.failed if phase == "failed" else m.phase == phase and not item.failed)
            ]
            _bars(axes, marks, (bottom, 0.8), phase, timeline.seconds)
        for phase, floor, top in row.areas:
            axes.stairs(
                bottom + 0.8 * top, edges, baseline=bottom + 0.8 * floor, fill=True, color=PHASES[phase], linewidth=0
            )
    axes.set_yticks([-i for i in range(len(timeline.rows))], [row.worker for row in timeline.rows], fontsize=6)
    axes.set_ylim(-max(1, len(timeline.rows)) + 0.4, 0.6)
    axes.set_xlim(0, timeline.seconds)
    patches = [Patch(color=colour, label=phase) for phase, colour in PHASES.items()]
    axes.legend(handles=patches, loc="lower right", bbox_to_anchor=(1, 1), ncols=5, fontsize=6, frameon=False)


def _has_areas(timeline: Timeline) -> bool:
    return bool(timeline.rows and timeline.rows[0].areas)


def _bars(axes: Any, marks: list[tuple[float, float]], span: tuple[float, float], phase: str, seconds: float) -> None:
    scaled = [(left * seconds / 100, width * seconds / 100) for left, width in marks]
    axes.broken_barh(scaled, span, facecolors=PHASES[phase], linewidth=0)

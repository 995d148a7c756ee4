"""The plots as one image, by matplotlib."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from flsim_bench.charts import Chart, charts
from flsim_bench.report import Report

COLUMNS = 3
COLOURS = {"backend": "#2563c9", "reference": "#9aa3af", "flower": "#c9821b"}


def draw(report: Report, file: Path) -> None:
    """Draw all charts into a PNG file."""
    parts = [(w.name, c) for w in report.workloads for c in charts(report, w)]
    rows = max(1, -(-len(parts) // COLUMNS))
    bars = max((len(c.bars) for _, c in parts), default=0)
    height = max(2.2, 0.45 * bars + 1)
    figure = Figure(figsize=(6 * COLUMNS, height * rows + 1.5), layout="constrained")
    FigureCanvasAgg(figure)
    all_axes = list(figure.subplots(rows, COLUMNS, squeeze=False).flat)
    for axes, (workload, chart) in zip(all_axes, parts, strict=False):
        _draw(axes, workload, chart)
    for axes in all_axes[len(parts) :]:
        axes.axis("off")
    conditions = (textwrap.fill(f"{name}: {text}", 200) for name, text in report.conditions.lines())
    figure.suptitle("\n".join(conditions), fontsize=9, x=0.01, horizontalalignment="left")
    figure.savefig(file, dpi=100, format="png")


def _draw(axes: Any, workload: str, chart: Chart) -> None:
    axes.set_title(f"{workload}: {chart.title}\n{chart.note}", fontsize=9, loc="left")
    axes.tick_params(labelsize=8)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    if chart.bars:
        scale = [b.value / b.share if b.share else 0 for b in chart.bars]  # of one percent of the width
        axes.barh(
            [f"{b.label}\n{b.text}" for b in chart.bars],
            [b.value for b in chart.bars],
            height=0.5,
            xerr=[
                [(b.share - b.low) * s for b, s in zip(chart.bars, scale, strict=True)],
                [(b.high - b.share) * s for b, s in zip(chart.bars, scale, strict=True)],
            ],
            color=[COLOURS[b.kind] for b in chart.bars],
        )
        axes.invert_yaxis()
        return
    assert chart.x is not None
    for line in chart.lines:
        axes.plot(*zip(*line.points, strict=True), label=line.label, marker="o" if chart.x.names else "")
    if chart.x.names:
        axes.set_yscale("log")
        axes.set_xticks(chart.x.ticks, [textwrap.fill(n, 16) for n in chart.x.names], fontsize=7)
    else:
        axes.set_ylim(bottom=0)
    axes.legend(fontsize=7)

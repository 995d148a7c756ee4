"""A run in a notebook: what it came to, and its metrics as curves.

One table and one SVG, without a script or a style sheet: who shows a notebook that is not trusted, or was exported,
strips both. Its text has the colour of the page around it, whose theme need not be the system's. So it is not a
:func:`flsim.plots.plot`.
"""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from flsim.envelope import TEXT_LIMIT, clean
from flsim.plots import thinned

if TYPE_CHECKING:
    from flsim.result import RunResult

WIDTH, HEIGHT = 260, 120
"""Of one plot, in pixels."""

LEFT, TOP, RIGHT, BOTTOM = 46, 22, 8, 18
"""What is around its curve."""

ACROSS = 3
PLOTS = 12
"""The most that are drawn."""

NAME = 28
"""Characters of a metric's name."""

Point = tuple[float, float]


def to_html(result: RunResult) -> str:
    """What a notebook shows of a run."""
    curves = curves_of(result.metrics)
    return f'<div class="flsim-run">{_summary(result)}{_svg(curves) if curves else ""}</div>'


def curves_of(metrics: Sequence[Mapping[str, object]]) -> dict[str, list[Point]]:
    """The points of each metric over the rounds, of what was reported of the whole and is a finite number."""
    curves: dict[str, list[Point]] = {}
    for report in metrics:
        round = _finite(report.get("round"))
        if "node" in report or round is None:
            continue
        for name, value in report.items():
            if name != "round" and (number := _finite(value)) is not None:
                curves.setdefault(name, []).append((round, number))
    return curves


def _finite(value: object) -> float | None:
    """A number as far as a plot can have it: a whole one may be too large for a float."""
    try:
        number = float(value) if isinstance(value, (int, float)) else math.nan
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _summary(result: RunResult) -> str:
    cells = {
        "app": result.app,
        "backend": result.backend,
        "nodes": f"{result.nodes:,}",
        "messages": f"{result.sent:,} sent, {result.answered:,} answered",
        "seconds": f"{result.seconds:.2f}",
        "seed": str(result.seed),
        "digest": result.digest[:16],
    }
    if result.status != "finished":
        cells |= {"state": result.status, "error": result.error}
    if result.run_dir is not None:
        cells["kept in"] = str(result.run_dir)
    rows = "".join(
        f'<tr><th style="text-align:left">{name}</th><td style="text-align:left">{_text(text)}</td></tr>'
        for name, text in cells.items()
        if text
    )
    return f"<table>{rows}</table>"


def _svg(curves: Mapping[str, list[Point]]) -> str:
    shown = dict(list(curves.items())[:PLOTS])
    width = min(ACROSS, len(shown)) * WIDTH
    height = math.ceil(len(shown) / ACROSS) * HEIGHT
    plots = "".join(
        f'<g transform="translate({i % ACROSS * WIDTH},{i // ACROSS * HEIGHT})">{_plot(name, points)}</g>'
        for i, (name, points) in enumerate(shown.items())
    )
    more = f"<p>… and {len(curves) - PLOTS} more metrics</p>" if len(curves) > PLOTS else ""
    # currentColor, so that it can be read on a dark page as on a light one.
    size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}" style="max-width:100%;height:auto"'
    font = 'font-family="sans-serif" font-size="10" fill="currentColor"'
    about = 'role="img" aria-label="metrics over the rounds"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {about} {size} {font}>{plots}</svg>{more}'


def _plot(name: str, points: Sequence[Point]) -> str:
    last = points[-1][1]
    points = thinned(points)
    xs, ys = [x for x, _ in points], [y for _, y in points]
    (x_low, x_high), (y_low, y_high) = (min(xs), max(xs)), (min(ys), max(ys))
    wide, high = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    at = [(LEFT + wide * _share(x, x_low, x_high), TOP + high * (1 - _share(y, y_low, y_high))) for x, y in points]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in at)
    line = (
        f'<polyline points="{path}" fill="none" stroke="#1f77b4" stroke-width="1.5" stroke-linejoin="round"/>'
        if len(at) > 1
        else f'<circle cx="{at[0][0]:.1f}" cy="{at[0][1]:.1f}" r="2.5" fill="#1f77b4"/>'
    )
    title = _text(name, NAME)
    bottom = TOP + high
    heights: list[Point] = [(TOP + 4, y_high), (bottom, y_low)]
    if y_low == y_high:
        heights = [(TOP + high / 2, y_low)]
    labels = "".join(
        f'<text x="{LEFT - 4}" y="{y + 3:.1f}" text-anchor="end">{value:.4g}</text>' for y, value in heights
    )
    rounds = f'<text x="{LEFT}" y="{HEIGHT - 5}">{x_low:g}</text>'
    if x_high > x_low:
        rounds += f'<text x="{LEFT + wide}" y="{HEIGHT - 5}" text-anchor="end">{x_high:g}</text>'
    axes = f"M{LEFT},{TOP}V{bottom}H{LEFT + wide}"
    return (
        f'<text x="{LEFT}" y="14" font-size="11" font-weight="bold">{title} {last:.4g}</text>'
        f'<path d="{axes}" fill="none" stroke="currentColor" stroke-opacity="0.35"/>{labels}{rounds}{line}'
    )


def _text(text: str, limit: int = TEXT_LIMIT) -> str:
    """A text that comes from an app, without what a page or a terminal would obey."""
    return html.escape(clean(text, limit))


def _share(value: float, low: float, high: float) -> float:
    """Where a value is between two others: halved first, since the span of two finite numbers need not be finite."""
    return 0.5 if low == high else (value / 2 - low / 2) / (high / 2 - low / 2)

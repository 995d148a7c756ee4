"""The report as one HTML page, whole in itself: no file beside it, no network."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files

import jinja2
import numpy as np
from markupsafe import Markup

from flsim.plots import POINTS, number, plot, style
from flsim_report import curves
from flsim_report.runs import Array, RecordedRun
from flsim_report.spans import spans_of
from flsim_report.summary import configuration, facts, phases
from flsim_report.timeline import EXACT, duration, timeline_of


def page(runs: Sequence[RecordedRun]) -> str:
    """The page's text."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("flsim_report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "duration": duration}
    environment.globals["path"] = path
    timelines = [timeline_of(run, spans_of(run)) for run in runs]
    own = files("flsim_report").joinpath("templates")
    return environment.get_template("page.html").render(
        runs=runs,
        style=Markup(style() + own.joinpath("page.css").read_text(encoding="utf-8")),
        script=Markup(own.joinpath("page.js").read_text(encoding="utf-8")),
        facts=facts(runs),
        configuration=configuration(runs),
        metrics=[_figure(p) for p in curves.metrics(runs, over_time=False)],
        metrics_over_time=[_figure(p) for p in curves.metrics(runs, over_time=True)],
        timelines=timelines,
        longest=max((timeline.seconds for timeline in timelines), default=1.0),
        still=any(row.kind == "open" for timeline in timelines for row in timeline.rows),
        durations=[_figure(p) for p in curves.durations(runs)],
        phases=phases(runs),
        resources=[_figure(p) for p in curves.resources(runs)],
        exact=EXACT,
        points=POINTS,
    )


def _figure(p: curves.Plot) -> Markup:
    return Markup(plot(p.lines, p.x, p.y, title=p.title, note=p.note, keys=False))


def path(floor: Array, top: Array) -> str:
    """The outline of columns between two heights, 0 to 1 from below, as the path of an SVG that is 100 by 100; those
    without height are left out."""
    edges = np.linspace(0, 100, len(top) + 1)
    filled = np.flatnonzero(top - floor > 0.002)
    parts = []
    for piece in np.split(filled, np.flatnonzero(np.diff(filled) > 1) + 1):
        if len(piece):
            there = [f"{edges[i]:.2f} {100 - 100 * top[i]:.1f}H{edges[i + 1]:.2f}" for i in piece]
            back = [f"{edges[i + 1]:.2f} {100 - 100 * floor[i]:.1f}H{edges[i]:.2f}" for i in piece[::-1]]
            parts.append(f"M{'L'.join(there + back)}Z")
    return "".join(parts)

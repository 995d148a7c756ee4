"""What the plots show, whatever draws them."""

from __future__ import annotations

import math
from dataclasses import dataclass

from flsim_bench.catalogue import Workload
from flsim_bench.report import Report, Row, number

POINTS = 200
"""As many are drawn of a series at most."""

COLOURS = 8
"""So many differ."""

SERIES = {"round": ("each round", "ms"), "driver": ("memory of the driver after each round", "MB")}
"""The series of a cell that are drawn, their titles and units."""


@dataclass(frozen=True, slots=True)
class Bar:
    """A subject's median, and its spread."""

    label: str
    kind: str
    text: str
    share: float
    """The median, in percent of the width."""
    low: float
    high: float
    value: float
    """The median itself; what the widest of all is, is 100 percent."""


@dataclass(frozen=True, slots=True)
class Line:
    """A subject's values over the rounds, or over cases of growing size."""

    label: str
    colour: int
    values: tuple[tuple[int, float], ...]
    """Each with the place of its round or case, from 0."""
    points: tuple[tuple[float, float], ...]
    """The same in percent of the width, and of the height from above."""
    last: str


@dataclass(frozen=True, slots=True)
class Chart:
    """One measure of one case for all subjects; or lines, which have an axis of two ends each way."""

    title: str
    note: str
    """The unit, and which is the good side."""
    bars: tuple[Bar, ...] = ()
    lines: tuple[Line, ...] = ()
    names: tuple[str, ...] = ()
    """Of the cases along the lines; empty: they go over rounds."""
    top: str = ""
    bottom: str = ""
    left: str = ""
    right: str = ""


def charts(report: Report, workload: Workload) -> list[Chart]:
    """All charts of a workload: its measures along cases of growing size, then of each case, then over the rounds."""
    rows: dict[str, list[Row]] = {m.name: [] for m in workload.measures if m.better}
    for row in report.rows(workload):
        if row.measure.better:
            rows[row.measure.name].append(row)
    cells = [c for c in report.cells if c.workload == workload.name]
    cases = report.cases(workload.name)
    made = []
    for group in dict.fromkeys(c.group for c in cells if c.group):
        names = [case for case in cases if any(c.case == case and c.group == group for c in cells)]
        made += [_along(report, group, names, of) for of in rows.values() if len(names) > 1 and of]
    for case in cases:
        made += [_bars(here) for of in rows.values() if (here := [r for r in of if r.case == case])]
        made += [c for name in SERIES if (c := _over_rounds(report, workload.name, case, name)) is not None]
    return made


def _bars(rows: list[Row]) -> Chart:
    measure = rows[0].measure
    widest = max(r.summary.high for r in rows) or 1.0
    unit = f"{measure.unit}, " if measure.unit else ""
    return Chart(
        f"{rows[0].case}: {measure.title}",
        f"{unit}{measure.better} is better",
        bars=tuple(
            Bar(
                label=r.subject.label,
                kind=r.subject.kind,
                text=number(r.summary.median) + (f"  ({number(r.ratio)} × {r.reference})" if r.ratio else ""),
                share=100 * r.summary.median / widest,
                low=100 * r.summary.low / widest,
                high=100 * r.summary.high / widest,
                value=r.summary.median,
            )
            for r in rows
        ),
    )


def _along(report: Report, group: str, names: list[str], rows: list[Row]) -> Chart:
    """On a logarithmic scale, of whole powers of ten."""
    measure = rows[0].measure
    inside = [r for r in rows if r.case in names and r.summary.median > 0]
    logs = [math.log10(r.summary.median) for r in inside]
    low, high = math.floor(min(logs, default=0.0)), math.ceil(max(logs, default=1.0))
    high = max(high, low + 1)
    lines = []
    for subject in dict.fromkeys(r.subject.label for r in inside):
        values = [(names.index(r.case), r.summary.median) for r in inside if r.subject.label == subject]
        points = [(100 * at / (len(names) - 1), 100 * (high - math.log10(v)) / (high - low)) for at, v in values]
        lines.append(Line(subject, _colour(report, subject), tuple(values), tuple(points), number(values[-1][1])))
    return Chart(
        f"{group}: {measure.title}",
        f"{measure.unit}, {measure.better} is better, on a logarithmic scale".removeprefix(", "),
        lines=tuple(lines),
        names=tuple(names),
        top=f"{10.0**high:,g}",
        bottom=f"{10.0**low:,g}",
        left=names[0],
        right=names[-1],
    )


def _over_rounds(report: Report, workload: str, case: str, name: str) -> Chart | None:
    cells = [(s.label, report.cell(workload, case, s.label)) for s in report.subjects]
    series = [(label, c.series[name]) for label, c in cells if c is not None and len(c.series.get(name, ())) > 1]
    if not series:
        return None
    rounds = max(len(values) for _, values in series)
    highest = max(max(values) for _, values in series) or 1.0
    lines = []
    for subject, all_values in series:
        values = thinned(all_values)
        points = [(100 * at / (rounds - 1), 100 - 100 * v / highest) for at, v in values]
        lines.append(Line(subject, _colour(report, subject), tuple(values), tuple(points), number(values[-1][1])))
    title, unit = SERIES[name]
    return Chart(
        f"{case}: {title}",
        f"{unit} over the rounds, lower is better",
        lines=tuple(lines),
        top=number(highest),
        bottom="0",
        left="round 1",
        right=f"round {rounds}",
    )


def _colour(report: Report, subject: str) -> int:
    return [s.label for s in report.subjects].index(subject) % COLOURS


def thinned(values: list[float]) -> list[tuple[int, float]]:
    """At most :data:`POINTS` of them, each with its place: of each piece the largest, so that no peak is lost."""
    step = -(-len(values) // POINTS)
    return [(i, max(values[i : i + step])) for i in range(0, len(values), step)]

"""What the plots show, whatever draws them."""

from __future__ import annotations

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
    """A subject's values over the rounds."""

    label: str
    colour: int
    values: tuple[tuple[int, float], ...]
    """Each with its round, from 0."""
    points: tuple[tuple[float, float], ...]
    """The same in percent of the width, and of the height from above."""
    last: str


@dataclass(frozen=True, slots=True)
class Chart:
    """One measure of one case for all subjects; or one series of it."""

    title: str
    note: str
    """The unit, and which is the good side."""
    bars: tuple[Bar, ...] = ()
    lines: tuple[Line, ...] = ()
    top: str = ""
    """What the height is, where there are lines."""
    rounds: int = 0


def charts(report: Report, workload: Workload) -> list[Chart]:
    """All charts of a workload: for each case its measures, then its series."""
    rows: dict[tuple[str, str], list[Row]] = {}
    for row in report.rows(workload):
        if row.measure.better:
            rows.setdefault((row.case, row.measure.name), []).append(row)
    made = [_bars(r) for r in rows.values()]
    for case in report.cases(workload.name):
        made += [c for name in SERIES if (c := _lines(report, workload.name, case, name)) is not None]
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


def _lines(report: Report, workload: str, case: str, name: str) -> Chart | None:
    cells = [(s, report.cell(workload, case, s.label)) for s in report.subjects]
    series = [(s, c.series[name]) for s, c in cells if c is not None and len(c.series.get(name, ())) > 1]
    if not series:
        return None
    rounds = max(len(values) for _, values in series)
    highest = max(max(values) for _, values in series) or 1.0
    title, unit = SERIES[name]
    return Chart(
        f"{case}: {title}",
        f"{unit} over the rounds, lower is better",
        lines=tuple(
            Line(
                label=s.label,
                colour=report.subjects.index(s) % COLOURS,
                values=tuple(thinned(values)),
                points=tuple((100 * at / (rounds - 1), 100 - 100 * value / highest) for at, value in thinned(values)),
                last=number(values[-1]),
            )
            for s, values in series
        ),
        top=number(highest),
        rounds=rounds,
    )


def thinned(values: list[float]) -> list[tuple[int, float]]:
    """At most :data:`POINTS` of them, each with its place: of each piece the largest, so that no peak is lost."""
    step = -(-len(values) // POINTS)
    return [(i, max(values[i : i + step])) for i in range(0, len(values), step)]

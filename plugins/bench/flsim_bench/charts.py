"""What the plots show, whatever draws them."""

from __future__ import annotations

from dataclasses import dataclass

from flsim.plots import COLOURS, Axis, Line, axis_of, number, plot, thinned
from flsim_bench.catalogue import Workload
from flsim_bench.report import Report, Row

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
class Chart:
    """One measure of one case for all subjects as bars; or lines over the rounds, or over cases of growing size."""

    title: str
    note: str
    """The unit, and which is the good side."""
    bars: tuple[Bar, ...] = ()
    lines: tuple[Line, ...] = ()
    """Along ``x``, where cases have their places from 0, and rounds their numbers."""
    x: Axis | None = None
    y: Axis | None = None

    def html(self) -> str:
        """The plot of the lines."""
        assert self.x is not None
        assert self.y is not None
        return plot(self.lines, self.x, self.y, title=self.title, note=self.note)


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
    points: dict[str, list[tuple[float, float]]] = {}
    for r in inside:
        points.setdefault(r.subject.label, []).append((names.index(r.case), r.summary.median))
    return Chart(
        f"{group}: {measure.title}",
        f"{measure.unit}, {measure.better} is better, on a logarithmic scale".removeprefix(", "),
        lines=tuple(Line(subject, values, _colour(report, subject)) for subject, values in points.items()),
        x=Axis(0, len(names) - 1, tuple(range(len(names))), names=tuple(names)),
        y=axis_of((r.summary.median for r in inside), log=True),
    )


def _over_rounds(report: Report, workload: str, case: str, name: str) -> Chart | None:
    cells = [(s.label, report.cell(workload, case, s.label)) for s in report.subjects]
    series = [(label, c.series[name]) for label, c in cells if c is not None and len(c.series.get(name, ())) > 1]
    if not series:
        return None
    title, unit = SERIES[name]
    return Chart(
        f"{case}: {title}",
        f"{unit} over the rounds, lower is better",
        lines=tuple(Line(s, thinned(list(enumerate(values, 1))), _colour(report, s)) for s, values in series),
        x=axis_of(range(1, max(len(values) for _, values in series) + 1)),
        y=axis_of((v for _, values in series for v in values), zero=True),
    )


def _colour(report: Report, subject: str) -> int:
    return [s.label for s in report.subjects].index(subject) % COLOURS

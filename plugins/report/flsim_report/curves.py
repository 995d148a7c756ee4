"""The line plots of the page: metrics, durations, and what was used over time, with the runs overlaid."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from flsim.plots import Axis, Line, axis_of
from flsim_report.runs import Array, Curve, RecordedRun
from flsim_report.timeline import covered, duration

BINS = 120
"""Pieces of time, or of a range of durations, over which values are summed or averaged."""

MB = 1e6


@dataclass(frozen=True, slots=True)
class Plot:
    """Lines of several runs between two axes."""

    title: str
    note: str
    x: Axis
    y: Axis
    lines: tuple[Line, ...]


def metrics(runs: Sequence[RecordedRun], *, over_time: bool) -> list[Plot]:
    """A plot for each metric that a ServerApp reported, over rounds or over seconds."""
    made = []
    sources = {"": [r.curves for r in runs], ", mean of the nodes that reported it": [r.node_curves for r in runs]}
    for suffix, source in sources.items():
        curves: dict[str, list[tuple[int, Curve]]] = {}
        for i, of_run in enumerate(source):
            for curve in of_run:
                curves.setdefault(curve.name, []).append((i, curve))
        for name, of in curves.items():
            lines = [(i, (c.at if over_time else c.rounds), c.values) for i, c in of]
            over = "over seconds" if over_time else "over rounds"
            made.append(_plot(runs, name + suffix, over, lines, whole=not over_time))
    return made


def durations(runs: Sequence[RecordedRun]) -> list[Plot]:
    """How long messages of each type executed: how many took how long, on a logarithmic scale."""
    made = []
    for type_ in dict.fromkeys(t for run in runs for t in run.types):
        values = [(i, r.messages.execute[_of_type(r, type_) & (r.messages.execute > 0)]) for i, r in enumerate(runs)]
        values = [(i, v) for i, v in values if len(v)]
        if not values:
            continue
        low = math.log10(min(float(v.min()) for _, v in values))
        high = math.log10(max(float(v.max()) for _, v in values))
        edges = np.linspace(low, max(high, low + 0.1), 40)
        lines = []
        for i, v in values:
            counts, _ = np.histogram(np.log10(v), edges)
            lines.append((i, np.repeat(10**edges, 2), np.concatenate(([0], np.repeat(counts, 2), [0]))))
        x = _duration_axis(float(10 ** edges[0]), float(10 ** edges[-1]))
        made.append(_plot(runs, f"{type_}: execute", "messages by how long the ClientApp took", lines, x=x, zero=True))
    return made


def resources(runs: Sequence[RecordedRun]) -> list[Plot]:
    """Workers at work, messages a second, bytes and memory over time."""
    longest = max((r.end for r in runs), default=0.0) or 1.0
    edges = np.linspace(0, longest, BINS + 1)
    middle = (edges[1:] + edges[:-1]) / 2
    width = float(edges[1])

    def over_time(title: str, note: str, values_of: Callable[[RecordedRun], Array]) -> Plot:
        lines = []
        for i, run in enumerate(runs):
            inside = middle <= run.end + width
            lines.append((i, middle[inside], values_of(run)[inside]))
        return _plot(runs, title, note, lines, zero=True)

    def workers(run: RecordedRun) -> Array:
        return covered(run.leases.pulled, run.lease_ends, edges)

    def summed(times: Array, weights: Array | None = None) -> Array:
        return np.asarray(np.histogram(times, edges, weights=weights)[0] / width)

    def memory(run: RecordedRun) -> Array:
        known = (run.leases.memory > 0) & np.isfinite(run.leases.returned)
        most = np.full(BINS, np.nan)
        at = np.clip(np.searchsorted(edges, run.leases.returned[known]) - 1, 0, BINS - 1)
        np.fmax.at(most, at, run.leases.memory[known] / MB)
        return np.asarray(np.fmax.accumulate(most))

    step = f"over seconds, means of {duration(width)}"
    plots = [
        over_time("workers with a lease", step, workers),
        over_time("messages ended, a second", step, lambda r: summed(r.messages.ended)),
        over_time(
            "MB/s to workers",
            f"{step}; what is shared counts in each message",
            lambda r: summed(r.messages.ended, r.messages.bytes_out / MB),
        ),
        over_time("MB/s from workers", step, lambda r: summed(r.messages.ended, r.messages.bytes_back / MB)),
    ]
    if any((r.leases.memory > 0).any() for r in runs):
        plots.append(
            over_time("memory of the largest worker, MB", "over seconds, the most that its process had held", memory)
        )
    return plots


def _of_type(run: RecordedRun, type_: str) -> Array:
    return np.equal(run.messages.type, run.types.index(type_) if type_ in run.types else -2)


def _duration_axis(low: float, high: float) -> Axis:
    """A logarithmic axis from ``low`` to ``high`` seconds, with three ticks or more that are round."""
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    tried = [[t for e in exponents for m in steps if low <= (t := m * 10.0**e) <= high] for steps in ((1,), (1, 2, 5))]
    tried += [list(axis_of([low, high], count=count).ticks) for count in (3, 4, 5, 6)]
    ticks = next(ticks for ticks in tried if len(ticks) >= 3)
    ticks = ticks[:: -(-len(ticks) // 5)]
    return Axis(low, high, tuple(ticks), log=True, names=tuple(duration(t) for t in ticks))


def _plot(
    runs: Sequence[RecordedRun],
    title: str,
    note: str,
    lines: Sequence[tuple[int, Array, Array]],
    *,
    x: Axis | None = None,
    zero: bool = False,
    whole: bool = False,
) -> Plot:
    drawn = tuple(
        Line(runs[i].name, list(zip(xs.tolist(), ys.tolist(), strict=True)), i, f"run-{i}") for i, xs, ys in lines
    )
    if x is None:
        ends = [float(end) for _, xs, _ in lines if len(xs) for end in (xs.min(), xs.max())]
        x = axis_of([0.0, *ends] if zero else ends)
        if whole:
            x = replace(x, ticks=tuple(t for t in x.ticks if t.is_integer()))
    return Plot(title, note, x, axis_of((p for _, _, ys in lines for p in ys.tolist()), zero=zero), drawn)

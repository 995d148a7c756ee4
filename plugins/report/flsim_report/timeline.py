"""What the timeline draws: each message by itself where there are few, shares of time where there are many."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from flsim_report.runs import Array, RecordedRun
from flsim_report.spans import Spans

EXACT = 1500
"""So many messages are drawn one by one at most."""

COLUMNS = 400
"""Into so many pieces the time is cut where there are more."""

ROWS = 48
"""Workers that are drawn at most: those with the most work."""


@dataclass(frozen=True, slots=True)
class Mark:
    """A piece of a row, in percent of the time's width."""

    phase: str
    left: float
    width: float


@dataclass(frozen=True, slots=True)
class Item:
    """A message that is drawn by itself."""

    told: str
    failed: bool
    marks: tuple[Mark, ...]


@dataclass(frozen=True, slots=True)
class Row:
    """A worker's time."""

    worker: str
    messages: int
    busy: float
    """The share of the run in which it had a lease, 0 to 1."""
    items: tuple[Item, ...] = ()
    leases: tuple[Mark, ...] = ()
    """Where the items are drawn: the leases that they came in, as *transfer*."""
    areas: tuple[tuple[str, Array, Array], ...] = ()
    """Where columns are drawn: for each phase the shares of time between which it lies in each column, stacked."""


@dataclass(frozen=True, slots=True)
class Timeline:
    """Who ran what when."""

    rows: tuple[Row, ...]
    seconds: float
    """What the width stands for."""
    exact: bool
    column: float
    """Seconds of a column, where they are drawn."""
    hidden: int
    """Workers that are not drawn."""


def timeline_of(run: RecordedRun, spans: Spans, seconds: float) -> Timeline:
    """The timeline of a run, over so many seconds."""
    leases, lanes = run.leases, len(spans.lanes)
    on = spans.lease_lane >= 0
    busy = np.bincount(spans.lease_lane[on], (leases.returned - leases.pulled)[on], minlength=lanes)
    shown = np.sort(np.argsort(-busy, kind="stable")[:ROWS])
    exact = len(spans.message) <= EXACT
    edges = np.linspace(0, seconds, COLUMNS + 1)
    counts = np.bincount(spans.lane, minlength=lanes)
    rows = []
    for lane in shown.tolist():
        mine = np.flatnonzero(spans.lease_lane == lane)
        drawn: dict[str, Any] = (
            {"items": _items(run, spans, lane, seconds), "leases": _leases(run, mine, seconds)}
            if exact
            else {"areas": _areas(run, spans, lane, mine, edges)}
        )
        share = float(busy[lane]) / run.seconds if run.seconds else 0.0
        rows.append(Row(spans.lanes[lane], int(counts[lane]), min(1.0, share), **drawn))
    return Timeline(tuple(rows), seconds, exact, seconds / COLUMNS, lanes - len(rows))


def _leases(run: RecordedRun, mine: Array, seconds: float) -> tuple[Mark, ...]:
    pulled, returned = run.leases.pulled[mine], run.leases.returned[mine]
    return tuple(_mark("transfer", b, e, seconds) for b, e in zip(pulled.tolist(), returned.tolist(), strict=True))


def _items(run: RecordedRun, spans: Spans, lane: int, seconds: float) -> tuple[Item, ...]:
    items = []
    first, last = np.searchsorted(spans.lane, [lane, lane + 1])
    for i in range(first, last):
        at = int(spans.message[i])
        marks = tuple(
            _mark(phase, float(begin[i]), float(end[i]), seconds)
            for phase, (_, begin, end) in spans.intervals.items()
            if end[i] > begin[i]
        )
        items.append(Item(_told(run, at), bool(run.messages.code[at] >= 0), marks))
    return tuple(items)


def _told(run: RecordedRun, at: int) -> str:
    """What is said of a message under the pointer."""
    m = run.messages
    steps = ", ".join(
        f"{name} {duration(float(values[at]))}"
        for name, values in (("decode", m.decode), ("execute", m.execute), ("encode", m.encode))
    )
    text = f"message {m.id[at]}, {run.types[m.type[at]]}, node {m.node[at]}: {steps}"
    return f"{text}; {run.reason(at)}" if m.code[at] >= 0 else text


def duration(seconds: float) -> str:
    """A duration in the unit in which it is read best."""
    if seconds >= 1000:
        return f"{seconds:,.0f} s"
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= 0.9995 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-6:.3g} µs" if seconds else "0 s"


def _mark(phase: str, begin: float, end: float, seconds: float) -> Mark:
    return Mark(phase, 100 * begin / seconds, 100 * (end - begin) / seconds)


def _areas(
    run: RecordedRun, spans: Spans, lane: int, mine: Array, edges: Array
) -> tuple[tuple[str, Array, Array], ...]:
    first, last = np.searchsorted(spans.lane, [lane, lane + 1])
    shares = {
        phase: covered(begin[first:last], end[first:last], edges) for phase, (_, begin, end) in spans.intervals.items()
    }
    own = sum(shares.values())
    shares["transfer"] = np.clip(covered(run.leases.pulled[mine], run.leases.returned[mine], edges) - own, 0, 1)
    floor = np.zeros(len(edges) - 1)
    areas = []
    for phase in ("execute", "decode", "encode", "transfer"):
        top = np.minimum(floor + shares[phase], 1)
        areas.append((phase, floor, top))
        floor = top
    return tuple(areas)


def covered(begin: Array, end: Array, edges: Array) -> Array:
    """The share of each piece between ``edges`` that lies within the intervals."""

    def until(times: Array) -> Array:
        """The sum over ``times`` of how long each one lies back, at each edge."""
        ordered = np.sort(times)
        count = np.searchsorted(ordered, edges)
        return count * edges - np.concatenate(([0.0], np.cumsum(ordered)))[count]

    return np.diff(until(begin) - until(end)) / np.diff(edges)

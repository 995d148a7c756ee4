"""What the timeline draws: each message by itself where there are few, shares of time where there are many."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from flsim_report.runs import Array, RecordedRun, ended_without
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
    """A message that is drawn by itself, or a lease of which no message is known."""

    told: str
    failed: bool
    marks: tuple[Mark, ...]


@dataclass(frozen=True, slots=True)
class Row:
    """A worker's time."""

    worker: str
    messages: int
    """Or of a lane that is no worker's, leases."""
    busy: float
    """The share of the time that is drawn in which it had a lease, 0 to 1."""
    kind: str = "worker"
    """Whose leases these are: a *worker*'s; or, where nobody told who had them, those that were *lost*, or are still
    *open*."""
    items: tuple[Item, ...] = ()
    leases: tuple[Mark, ...] = ()
    """Where the items are drawn: the leases that they came in, as *transfer*."""
    areas: tuple[tuple[str, Array, Array], ...] = ()
    """Where columns are drawn: for each phase the shares of time between which it lies in each column, stacked."""

    @property
    def told(self) -> str:
        """What is said beside it."""
        worker = self.kind == "worker"
        count = f"{self.messages:,} {'message' if worker else 'lease'}{'s' * (self.messages != 1)}"
        return f"{count}, with a lease {100 * self.busy:.0f} %" if worker else count


@dataclass(frozen=True, slots=True)
class Timeline:
    """Who ran what when."""

    rows: tuple[Row, ...]
    seconds: float
    """What the width stands for: all of the run, of which the ServerApp's time is nearly all."""
    exact: bool
    column: float
    """Seconds of a column, where they are drawn."""
    hidden: int
    """Workers that are not drawn."""


def timeline_of(run: RecordedRun, spans: Spans) -> Timeline:
    """The timeline of a run, from its begin to its end."""
    seconds, lanes, workers = run.end or 1.0, len(spans.lanes), len(run.workers)
    on = np.flatnonzero(spans.lease_lane >= 0)
    lane_of = spans.lease_lane[on]
    busy = np.bincount(lane_of, (spans.lease_end - spans.lease_begin)[on], minlength=lanes)
    shown = np.sort(np.argsort(-busy, kind="stable")[:ROWS])
    messages, leases = np.bincount(spans.lane, minlength=lanes), np.bincount(lane_of, minlength=lanes)
    kinds = ["worker" if g < workers else "lost" if g == workers else "open" for g in spans.groups]
    exact = len(spans.message) + sum(n for n, kind in zip(leases, kinds, strict=True) if kind != "worker") <= EXACT
    edges = np.linspace(0, seconds, COLUMNS + 1)
    rows = []
    for lane in shown.tolist():
        mine, kind = on[lane_of == lane], kinds[lane]
        drawn: dict[str, Any]
        if not exact:
            drawn = {"areas": _areas(spans, lane, mine, edges, kind)}
        elif kind == "worker":
            drawn = {"items": _items(run, spans, lane, seconds), "leases": _leases(spans, mine, seconds)}
        else:
            drawn = {"items": _unknown(run, spans, mine, seconds, kind)}
        count = int((messages if kind == "worker" else leases)[lane])
        rows.append(Row(spans.lanes[lane], count, min(1.0, float(busy[lane]) / seconds), kind, **drawn))
    return Timeline(tuple(rows), seconds, exact, seconds / COLUMNS, lanes - len(rows))


def _leases(spans: Spans, mine: Array, seconds: float) -> tuple[Mark, ...]:
    ends = zip(spans.lease_begin[mine].tolist(), spans.lease_end[mine].tolist(), strict=True)
    return tuple(_mark("transfer", begin, end, seconds) for begin, end in ends)


def _unknown(run: RecordedRun, spans: Spans, mine: Array, seconds: float, kind: str) -> tuple[Item, ...]:
    """Leases of which nobody told who had them."""
    items = []
    why, ended = {lost.lease: f"{lost.cause}, {lost.detail}" for lost in run.lost}, ended_without(run)
    for i in mine.tolist():
        lease, messages = int(run.leases.id[i]), int(run.leases.messages[i])
        told = f"lease {lease} of {messages:,} message{'s' * (messages != 1)}: "
        told += "still at work when the record ends" if kind == "open" else why.get(lease, "lost")
        nodes = [f"message {run.messages.id[at]} to node {run.messages.node[at]}" for at in ended.get(lease, ())]
        told += f"; it ended {', '.join(nodes)}" * bool(nodes)
        items.append(Item(told, kind == "lost", (_mark(kind, spans.lease_begin[i], spans.lease_end[i], seconds),)))
    return tuple(items)


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


def _areas(spans: Spans, lane: int, mine: Array, edges: Array, kind: str) -> tuple[tuple[str, Array, Array], ...]:
    leased = covered(spans.lease_begin[mine], spans.lease_end[mine], edges)
    floor = np.zeros(len(edges) - 1)
    if kind != "worker":
        return ((kind, floor, np.minimum(leased, 1)),)
    first, last = np.searchsorted(spans.lane, [lane, lane + 1])
    shares = {
        phase: covered(begin[first:last], end[first:last], edges) for phase, (_, begin, end) in spans.intervals.items()
    }
    own = sum(shares.values())
    shares["transfer"] = np.clip(leased - own, 0, 1)
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

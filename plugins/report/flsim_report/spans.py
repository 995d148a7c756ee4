"""When each message was where: laid out from the driver's clock of its lease, and the worker's of its steps.

The clocks of two hosts cannot be compared, so a worker tells durations alone. What of a lease's time is not its
messages' own is the way to the worker and back. The way back is taken to be as long as the way there, and no longer
than half of the median of all leases: what goes beyond is waited before, in a queue or until the app is loaded.

Of a lease whose worker was lost, and of one that was still at work when the record ends, nobody told which worker had
it. These have lanes of their own.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np

from flsim_report.runs import Array, RecordedRun

PHASES = ("transfer", "decode", "execute", "encode")
"""What a worker's time goes to. *transfer*: the way there and back, with queues on it and the loading of the app."""

LOST, OPEN = "workers lost", "still at work"
"""The lanes of leases without a worker that is known."""

SLACK = 0.005
"""Seconds by which leases of a worker may overlap that follow one another: the next one is on its way to it, or in its
queue, while the driver takes in what came back."""


@dataclass(frozen=True, slots=True)
class Spans:
    """The leases and messages of a run on lanes. Times are seconds since the run began."""

    lanes: tuple[str, ...]
    """A worker each; one whose leases overlap has several, of one name with a number."""
    groups: tuple[int, ...]
    """Of each lane: the worker, by its place among the run's, beyond which are :data:`LOST` and :data:`OPEN`."""
    lease_lane: Array
    """Of each lease; -1 where it is on none."""
    lease_begin: Array
    lease_end: Array
    message: Array
    """The messages that a worker answered, by their place among the run's, in the order of lane and time."""
    lane: Array
    """Of each of these."""
    start: Array
    decoded: Array
    executed: Array
    encoded: Array

    @property
    def intervals(self) -> dict[str, tuple[Array, Array, Array]]:
        """Lane, begin and end of what each phase but *transfer* took, by phase."""
        return {
            "decode": (self.lane, self.start, self.decoded),
            "execute": (self.lane, self.decoded, self.executed),
            "encode": (self.lane, self.executed, self.encoded),
        }


def spans_of(run: RecordedRun) -> Spans:
    """Lay out the leases of a run."""
    leases, messages = run.leases, run.messages
    place = _places(leases.id, messages.lease)
    chosen = np.flatnonzero((place >= 0) & (messages.worker >= 0))
    # In the order of the leases, and in a lease as its messages were run, which is that of their ids.
    chosen = chosen[np.lexsort((messages.id[chosen], place[chosen]))]
    of = place[chosen]
    steps = [messages.decode[chosen], messages.execute[chosen], messages.encode[chosen]]
    before = np.concatenate(([0.0], np.cumsum(sum(steps))))
    first = np.searchsorted(of, np.arange(len(leases.id)))
    total = before[np.searchsorted(of, np.arange(len(leases.id)), side="right")] - before[first]
    end = run.lease_ends
    lease_lane, begin, names, groups = _lanes(run, end, total)
    away = np.maximum(end - begin - total, 0)
    back = np.minimum(away, np.median(away[of])) / 2 if len(of) else away
    start = begin[of] + (away - back)[of] + (before[:-1] - before[first][of])
    decoded = start + steps[0]
    executed = decoded + steps[1]
    encoded = executed + steps[2]
    lane = lease_lane[of]
    order = np.lexsort((start, lane))
    return Spans(
        names, groups, lease_lane, begin, end, chosen[order], lane[order],
        start[order], decoded[order], executed[order], encoded[order],
    )  # fmt: skip


def _places(ids: Array, wanted: Array) -> Array:
    """Where each of ``wanted`` is in ``ids``, which are sorted; -1 where it is not."""
    if not len(ids):
        return np.full(len(wanted), -1)
    at = np.minimum(np.searchsorted(ids, wanted), len(ids) - 1)
    return np.where(ids[at] == wanted, at, -1)


def _lanes(run: RecordedRun, end: Array, own: Array) -> tuple[Array, Array, tuple[str, ...], tuple[int, ...]]:
    """The lane of each lease and when it begins there, and the name and the group of each lane."""
    leases, known = run.leases, len(run.workers)
    lost = np.where(leases.lost > 0, known, -1)
    group = np.where(leases.worker >= 0, leases.worker, np.where(np.isfinite(leases.returned), lost, known + 1))
    lanes, begin = np.full(len(leases.id), -1), leases.pulled.astype(float)
    names: list[str] = []
    groups: list[int] = []
    for at, name in enumerate((*run.workers, LOST, OPEN)):
        mine = np.flatnonzero(group == at)
        if not len(mine):
            continue
        mine = mine[np.argsort(begin[mine], kind="stable")]
        local, begin[mine] = _apart(begin[mine], end[mine], own[mine])
        lanes[mine] = len(names) + local
        count = int(local.max()) + 1
        names += [name if not i else f"{name} ({i + 1})" for i in range(count)]
        groups += [at] * count
    return lanes, begin, tuple(names), tuple(groups)


def _apart(begin: Array, end: Array, own: Array) -> tuple[Array, Array]:
    """For intervals that are sorted by their begin: the lowest lanes on which no two overlap, and where each begins.

    Where that spares a lane, one begins later: by :data:`SLACK` at most, and so that its own time fits.
    """
    lanes = np.zeros(len(begin), dtype=np.int64)
    if (begin[1:] >= end[:-1]).all():
        return lanes, begin
    begins = begin.copy()
    free: list[int] = []
    busy: list[tuple[float, int]] = []
    for i, (b, e, o) in enumerate(zip(begin.tolist(), end.tolist(), own.tolist(), strict=True)):
        while busy and busy[0][0] <= b:
            heapq.heappush(free, heapq.heappop(busy)[1])
        if not free and busy and busy[0][0] <= min(b + SLACK, e - o):
            begins[i], lane = heapq.heappop(busy)
        else:
            lane = heapq.heappop(free) if free else len(busy)
        lanes[i] = lane
        heapq.heappush(busy, (e, lane))
    return lanes, begins

"""When each message was where: laid out from the driver's clock of its lease, and the worker's of its steps.

The clocks of two hosts cannot be compared, so a worker tells durations alone. What of a lease's time is not its
messages' own is the way to the worker and back. The way back is taken to be as long as the way there, and no longer
than half of the median of all leases: what goes beyond is waited before, in a queue or until the app is loaded.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np

from flsim_report.runs import Array, RecordedRun

PHASES = ("transfer", "decode", "execute", "encode")
"""What a worker's time goes to. *transfer*: the way there and back, with queues on it and the loading of the app."""


@dataclass(frozen=True, slots=True)
class Spans:
    """The leases and messages of a run on lanes. Times are seconds since the run began."""

    lanes: tuple[str, ...]
    """A worker each; one whose leases overlap has several, of one name with a number."""
    workers: tuple[int, ...]
    """The worker of each lane, by its place among the run's."""
    lease_lane: Array
    """Of each lease; -1 where no worker is known of."""
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
    """Lay out the leases of a run whose worker is known."""
    leases, messages = run.leases, run.messages
    lease_lane, names, workers = _lanes(run)
    place = _places(leases.id, messages.lease)
    known = (place >= 0) & (messages.worker >= 0)
    known[known] = lease_lane[place[known]] >= 0
    chosen = np.flatnonzero(known)
    # In the order of the leases, and in a lease as its messages were run, which is that of their ids.
    chosen = chosen[np.lexsort((messages.id[chosen], place[chosen]))]
    of = place[chosen]
    steps = [messages.decode[chosen], messages.execute[chosen], messages.encode[chosen]]
    ends = np.cumsum(sum(steps))
    first = np.searchsorted(of, np.arange(len(leases.id)))
    before = np.concatenate(([0.0], ends))
    total = before[np.searchsorted(of, np.arange(len(leases.id)), side="right")] - before[first]
    away = np.maximum(leases.returned - leases.pulled - total, 0)
    back = np.minimum(away, np.median(away[of])) / 2 if len(of) else away
    start = leases.pulled[of] + (away - back)[of] + (before[:-1] - before[first][of])
    decoded = start + steps[0]
    executed = decoded + steps[1]
    encoded = executed + steps[2]
    lane = lease_lane[of]
    order = np.lexsort((start, lane))
    return Spans(
        names, workers, lease_lane, chosen[order], lane[order],
        start[order], decoded[order], executed[order], encoded[order],
    )  # fmt: skip


def _places(ids: Array, wanted: Array) -> Array:
    """Where each of ``wanted`` is in ``ids``, which are sorted; -1 where it is not."""
    if not len(ids):
        return np.full(len(wanted), -1)
    at = np.minimum(np.searchsorted(ids, wanted), len(ids) - 1)
    return np.where(ids[at] == wanted, at, -1)


def _lanes(run: RecordedRun) -> tuple[Array, tuple[str, ...], tuple[int, ...]]:
    leases = run.leases
    lanes = np.full(len(leases.id), -1)
    names: list[str] = []
    workers: list[int] = []
    for worker, name in enumerate(run.workers):
        mine = np.flatnonzero((leases.worker == worker) & np.isfinite(leases.returned))
        if not len(mine):
            continue
        mine = mine[np.argsort(leases.pulled[mine], kind="stable")]
        local = _apart(leases.pulled[mine], leases.returned[mine])
        lanes[mine] = len(names) + local
        count = int(local.max()) + 1
        names += [name if not i else f"{name} ({i + 1})" for i in range(count)]
        workers += [worker] * count
    return lanes, tuple(names), tuple(workers)


def _apart(begin: Array, end: Array) -> Array:
    """For intervals that are sorted by their begin: the lowest lanes on which no two overlap."""
    lanes = np.zeros(len(begin), dtype=np.int64)
    if (begin[1:] >= end[:-1]).all():
        return lanes
    free: list[int] = []
    busy: list[tuple[float, int]] = []
    for i, (b, e) in enumerate(zip(begin.tolist(), end.tolist(), strict=True)):
        while busy and busy[0][0] <= b:
            heapq.heappush(free, heapq.heappop(busy)[1])
        lane = heapq.heappop(free) if free else len(busy)
        lanes[i] = lane
        heapq.heappush(busy, (e, lane))
    return lanes

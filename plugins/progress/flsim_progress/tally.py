"""Tally: what the events of a run come to, at any time of it."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from typing import Any

from flsim.events import Event, LostWorker, Pulled, Pushed, Reported, Returned, RunFinished, RunStarted
from flsim.fleet import Scalar

ROUNDS_KEYS = ("rounds", "num-rounds", "num-server-rounds")
"""Keys of a run_config under which the number of rounds is known: the first that has a whole number."""

POINTS = 256
"""Points kept of a metric, however many rounds there are."""

RECENT = 5.0
"""Seconds over which messages per second are counted."""

ROUNDS_TIMED = 10
"""Rounds from whose times the end is reckoned: the first ones warm up, and tell little of the last."""


def rounds_of(config: Mapping[str, Any]) -> int | None:
    """The number of rounds of a run, where its config tells it."""
    for key in ROUNDS_KEYS:
        rounds = config.get(key)
        if type(rounds) is int and rounds > 0:
            return rounds
    return None


class Curve:
    """A metric over the rounds: its last value, and at most :data:`POINTS` means of as many rounds each."""

    def __init__(self) -> None:
        self.last: Scalar = 0.0
        self.points: list[float] = []
        self._each = 1
        self._pending: list[float] = []

    def add(self, value: Scalar) -> None:
        """The metric of the next round. What is no finite number is no point."""
        self.last = value
        if isinstance(value, (bool, str)) or not math.isfinite(value):
            return
        self._pending.append(float(value))
        if len(self._pending) < self._each:
            return
        self.points.append(sum(self._pending) / len(self._pending))
        self._pending.clear()
        if len(self.points) == POINTS:
            self.points = [(a + b) / 2 for a, b in zip(self.points[::2], self.points[1::2], strict=True)]
            self._each *= 2


class Tally:
    """Counts. Times are monotonic seconds, which the caller gives.

    Args:
        rounds: how many there will be; None: not known.
    """

    def __init__(self, rounds: int | None) -> None:
        self.rounds = rounds
        self.round: int | None = None
        self.curves: dict[str, Curve] = {}
        self.slots = 0
        self.pushed = 0
        self.ended = 0
        self.failed = 0
        self.seconds: float | None = None
        """How long the run took, once it is over."""
        self._began: float | None = None
        self._leases: set[int] = set()
        self._reported: deque[tuple[float, int]] = deque(maxlen=ROUNDS_TIMED + 1)
        self._samples: deque[tuple[float, int]] = deque()

    def take(self, event: Event, now: float) -> None:
        """Take what happened."""
        match event:
            case RunStarted():
                self.slots = event.slots
                self._began = now
                self._samples.append((now, 0))
            case Pushed():
                self.pushed += event.messages
            case Pulled():
                self._leases.add(event.lease)
            case Returned():
                self.ended += len(event)
                self.failed += event.failed
                self._leases.discard(-1 if event.lease is None else event.lease)
            case LostWorker():
                self._leases.discard(event.lease)
            case Reported() if event.node is None:
                self._report(event, now)
            case RunFinished():
                self.seconds = event.seconds
                self._leases.clear()

    @property
    def at_work(self) -> int:
        """Workers that have a lease."""
        return len(self._leases)

    @property
    def in_flight(self) -> int:
        """Messages that were pushed and have not ended."""
        return self.pushed - self.ended

    def elapsed(self, now: float) -> float:
        """Seconds since the run began, or that it took."""
        if self.seconds is not None:
            return self.seconds
        return 0.0 if self._began is None else now - self._began

    def rate(self, now: float) -> float:
        """Messages that ended, a second: of late, or once it is over of the whole run."""
        if self.seconds is not None:
            return self.ended / self.seconds if self.seconds else 0.0
        self._samples.append((now, self.ended))
        while len(self._samples) > 2 and self._samples[1][0] <= now - RECENT:
            self._samples.popleft()
        then, ended = self._samples[0]
        return (self.ended - ended) / (now - then) if now > then else 0.0

    def left(self, now: float) -> float | None:
        """Seconds until the last round is done, if they go on as of late; None where that cannot be told."""
        if self.rounds is None or self.round is None or self.seconds is not None or not 0 < self.round <= self.rounds:
            return None
        (first, done_then), (last, done) = self._reported[0], self._reported[-1]
        if done <= done_then:
            return None
        each = (last - first) / (done - done_then)
        return max(0.0, (self.rounds - done) * each - (now - last))

    def _report(self, event: Reported, now: float) -> None:
        self.round = event.round
        if not self._reported and self._began is not None:
            self._reported.append((self._began, 0))
        self._reported.append((now, event.round))
        for name, value in event.metrics.items():
            self.curves.setdefault(name, Curve()).add(value)

"""How many messages a lease holds: learnt from the clocks, per kind of node and message type."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flsim.heart import Lease
    from flsim.wire import Outcome

LEASE_SECONDS = 0.03
"""What a lease should fill at least, so that what it costs beside its messages does not count."""

ROUND_TRIPS = 100
"""… and as many of the backend's own round trips, where those are long."""

GROWTH = 8
"""A lease is at most so many times the last one: the first messages may have been the cheap ones."""

SHARES = 2
"""Of what is ready, a lease takes one part in so many times the slots, so that all end at about the same time."""

WORTH = 2
"""A lease has work of at least so many round trips, unless somebody idle could have it: to divide what is left more
evenly gains less than that."""

WEIGHT = 0.5
"""Of the newest lease in what is learnt."""


class _Learnt:
    __slots__ = ("message", "round_trip", "size")

    def __init__(self) -> None:
        self.size = 1
        self.message = math.inf
        self.round_trip = 0.0


class LeaseSizes:
    """Sizes leases. The first of each kind and type holds one message.

    Args:
        at_once: how many leases of a kind run at once.
        idle: how many of those wait for one now.
    """

    def __init__(self, at_once: Callable[[int], int], idle: Callable[[int], int]) -> None:
        self._at_once = at_once
        self._idle = idle
        self._learnt: dict[tuple[int, str], _Learnt] = {}

    def limit(self, kind: int, type_: str, ready: int) -> int:
        """How many of ``ready`` messages the next lease of this kind and type takes."""
        learnt = self._learnt.get((kind, type_))
        if learnt is None:
            return 1
        seconds = max(LEASE_SECONDS, ROUND_TRIPS * learnt.round_trip)
        by_clock = _times(seconds, learnt.message)
        share = math.ceil(ready / (SHARES * max(1, self._at_once(kind))))
        size = min(by_clock, share)
        rest = min(_times(WORTH * learnt.round_trip, learnt.message), math.ceil(ready / max(1, self._idle(kind))))
        learnt.size = max(1, min(max(size, rest), ready, GROWTH * learnt.size))
        return learnt.size

    def learn(self, lease: Lease, outcomes: Sequence[Outcome], now: float) -> None:
        """Take in a lease that came back at ``now``."""
        key = (lease.kind, lease.entries[0].type)
        learnt = self._learnt.get(key)
        if learnt is None:
            learnt = self._learnt[key] = _Learnt()
        at_work = sum(o.decode + o.execute + o.encode for o in outcomes)
        message, round_trip = at_work / len(outcomes), max(0.0, now - lease.pulled - at_work)
        if learnt.message == math.inf:
            learnt.message, learnt.round_trip = message, round_trip
        else:
            learnt.message += WEIGHT * (message - learnt.message)
            learnt.round_trip += WEIGHT * (round_trip - learnt.round_trip)


def _times(seconds: float, each: float) -> int:
    """How many times ``each`` goes into ``seconds``."""
    return math.floor(seconds / each) if each else sys.maxsize

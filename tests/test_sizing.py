"""How many messages a lease holds, as the clocks tell."""

import pytest

from flsim.heart import Entry, Lease
from flsim.payload import EMPTY
from flsim.resources import Place, Resources
from flsim.sizing import GROWTH, LEASE_SECONDS, ROUND_TRIPS, LeaseSizes
from flsim.wire import Outcome


def sizes(at_once: int = 1, idle: int = 1) -> LeaseSizes:
    return LeaseSizes(lambda kind: at_once, lambda kind: idle)


def learn(sizes: LeaseSizes, *seconds: float, round_trip: float = 0.0, kind: int = 0, type_: str = "train") -> None:
    """A lease comes back whose messages took so long each, and its way so long beside them."""
    entries = [Entry(i, 2 + i, kind, type_, None, None, 0.0) for i, _ in enumerate(seconds)]
    lease = Lease(1, kind, entries, Place("here", Resources(), 1), (), pulled=0.0)
    outcomes = [
        Outcome(e.id, None, EMPTY, None, "", 0.0, 0.0, s, 0.0, "", 0) for e, s in zip(entries, seconds, strict=True)
    ]
    sizes.learn(lease, outcomes, sum(seconds) + round_trip)


def grown(sizes: LeaseSizes, ready: int = 10**6) -> int:
    """What a lease holds once it holds no more each time."""
    size = 0
    while (more := sizes.limit(0, "train", ready)) > size:
        size = more
    return size


def test_the_first_lease_of_each_kind_and_type_holds_one_message() -> None:
    known = sizes()
    learn(known, 1e-6)
    assert known.limit(0, "train", 1000) > 1
    assert known.limit(0, "evaluate", 1000) == 1
    assert known.limit(1, "train", 1000) == 1


def test_a_lease_grows_by_steps_since_the_first_messages_may_have_been_the_cheap_ones() -> None:
    known = sizes()
    learn(known, 1e-6)
    assert [known.limit(0, "train", 10**6) for _ in range(3)] == [GROWTH, GROWTH**2, GROWTH**3]


def test_a_lease_fills_some_tens_of_milliseconds() -> None:
    known = sizes()
    learn(known, LEASE_SECONDS / 16)
    assert grown(known) == 16


def test_a_lease_fills_many_of_the_backends_round_trips_where_those_are_long() -> None:
    known = sizes()
    learn(known, 1.0, round_trip=1.0)
    assert grown(known) == ROUND_TRIPS


def test_a_lease_of_slow_messages_holds_one() -> None:
    known = sizes()
    learn(known, 10 * LEASE_SECONDS)
    assert grown(known) == 1


def test_a_lease_takes_half_of_its_share_of_what_is_ready() -> None:
    known = sizes(at_once=5)
    learn(known, 1e-6)
    assert grown(known, ready=1000) == 100


def test_less_work_than_a_round_trip_goes_in_one_lease_unless_somebody_is_idle() -> None:
    alone, among_idle = sizes(at_once=4, idle=1), sizes(at_once=4, idle=4)
    for known in (alone, among_idle):
        learn(known, 0.25, round_trip=2.0)
    assert grown(alone, ready=8) == 8
    assert grown(among_idle, ready=8) == 2


def test_a_lease_holds_no_more_than_is_ready_and_at_least_one() -> None:
    known = sizes(at_once=0, idle=0)
    learn(known, 0.0)
    assert grown(known, ready=3) == 3
    assert known.limit(0, "train", 1) == 1


@pytest.mark.parametrize(("before", "after"), [(0.25, 0.75), (0.75, 0.25)])
def test_what_is_learnt_follows_the_newest_leases(before: float, after: float) -> None:
    known = sizes()
    learn(known, before, round_trip=1.0)
    for _ in range(20):
        learn(known, after, round_trip=1.0)
    assert grown(known) == pytest.approx(ROUND_TRIPS / after, rel=0.01)

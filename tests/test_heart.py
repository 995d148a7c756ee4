"""Each clause of DESIGN §4, on the pure heart of the LinkState."""

import pytest

from flsim.errors import Cause
from flsim.heart import BLAMED, RESERVE_AFTER, STILLBORN, Entry, Heart, Lease, Status
from flsim.message import ErrorCode
from flsim.resources import Place, Resources

ONE, TWO = Resources(cpus=1), Resources(cpus=2)


def heart_of(*needs: Resources, cpus: float = 2, leases: int = 8) -> Heart:
    heart = Heart(needs or (ONE,))
    heart.set_places([Place("here", Resources(cpus=cpus), leases)])
    return heart


def push(heart: Heart, *nodes: int, kind: int = 0, now: float = 0.0, ttl: float | None = None) -> list[Entry]:
    return [heart.push(now, node, kind, "train", ttl, None) for node in nodes]


def pull(heart: Heart, size: int = 1, now: float = 0.0) -> Lease | None:
    return heart.pull(now, range(len(heart.needs)), lambda kind, type_, ready: size)


def pulled(heart: Heart, size: int = 1, now: float = 0.0) -> Lease:
    lease = pull(heart, size, now)
    assert lease is not None, "nothing was leased"
    return lease


def nodes_of(lease: Lease) -> list[int]:
    return [e.node for e in lease.entries]


def test_ready_messages_are_leased_in_the_order_of_their_push() -> None:
    heart = heart_of()
    push(heart, 5, 3, 4)
    assert nodes_of(pulled(heart, 2)) == [5, 3]
    assert nodes_of(pulled(heart, 2)) == [4]
    assert pull(heart) is None


def test_a_lease_holds_one_kind_and_one_type() -> None:
    heart = heart_of(ONE, ONE)
    heart.push(0, 2, 0, "train", None, None)
    heart.push(0, 3, 0, "evaluate", None, None)
    heart.push(0, 4, 1, "train", None, None)
    assert nodes_of(pulled(heart, 9)) == [2]
    assert nodes_of(pulled(heart, 9)) == [3]
    assert pull(heart, 9) is None  # two cpus are at work
    heart.set_places([Place("here", Resources(cpus=4), 8)])
    assert nodes_of(pulled(heart, 9)) == [4]


def test_a_node_has_one_message_in_flight_and_the_rest_wait_in_order() -> None:
    heart = heart_of()
    first, second, third = push(heart, 2, 2, 2)
    lease = pulled(heart, 9)
    assert lease.entries == [first]
    assert pull(heart, 9) is None
    assert second.status is Status.WAITING
    heart.returned(0, lease)
    lease = pulled(heart, 9)
    assert lease.entries == [second]
    heart.returned(0, lease)
    assert pulled(heart, 9).entries == [third]


def test_a_message_that_waits_behind_a_cancelled_one_still_waits_for_the_worker() -> None:
    heart = heart_of()
    first, second = push(heart, 2, 2)
    lease = pulled(heart)
    assert heart.cancel(0, [first.id]) == [first]
    assert pull(heart) is None, "the node's first message is still being executed"
    assert heart.returned(0, lease) == []
    assert pulled(heart).entries == [second]


def test_a_message_that_is_held_is_leased_when_it_is_let_in() -> None:
    heart = heart_of()
    entry = heart.push(0, 2, 0, "train", None, None, held=True)
    assert pull(heart) is None
    heart.let_in(0, entry.id)
    assert nodes_of(pulled(heart)) == [2]


def test_a_message_that_is_held_lets_none_of_another_sender_wait() -> None:
    heart = heart_of()
    first = heart.push(0, 2, 0, "train", None, None, held=True)
    second = heart.push(0, 2, 0, "train", None, None, held=True)
    assert pull(heart) is None
    (third,) = push(heart, 2)
    for entry in (first, second, third):
        lease = pulled(heart)
        assert lease.entries == [entry]
        heart.returned(0, lease)


def test_a_message_that_is_held_may_be_cancelled_or_expire() -> None:
    heart = heart_of()
    first = heart.push(0, 2, 0, "train", None, None, held=True)
    second = heart.push(0, 2, 0, "train", 1.0, None, held=True)
    (third,) = push(heart, 3)
    assert heart.cancel(0, [first.id]) == [first]
    assert heart.expire(2.0) == [second]
    assert pulled(heart).entries == [third]
    assert pull(heart) is None


def test_cancelling_a_ready_message_lets_the_next_of_its_node_go() -> None:
    heart = heart_of()
    first, second = push(heart, 2, 2)
    heart.cancel(0, [first.id])
    assert pulled(heart).entries == [second]


def test_a_message_that_is_cancelled_between_others_is_not_leased() -> None:
    heart = heart_of()
    first, second, third = push(heart, 2, 3, 4)
    heart.cancel(0, [second.id])
    assert pulled(heart, 9).entries == [first, third]


def test_cancelling_a_waiting_message_skips_it() -> None:
    heart = heart_of()
    _, second, third = push(heart, 2, 2, 2)
    heart.cancel(0, [second.id])
    heart.returned(0, pulled(heart))
    assert pulled(heart).entries == [third]


def test_a_message_ends_once_and_a_late_twin_is_dropped_and_counted() -> None:
    heart = heart_of()
    (entry,) = push(heart, 2)
    lease = pulled(heart)
    assert heart.returned(0, lease) == [entry]
    assert heart.returned(0, lease) == []
    assert heart.lost(0, lease, Cause.EXITED) == []
    assert heart.late == 2
    assert heart.cancel(0, [entry.id]) == []


def test_the_reply_of_a_lease_that_was_lost_is_dropped() -> None:
    heart = heart_of()
    (entry,) = push(heart, 2)
    lost = pulled(heart)
    heart.lost(0, lost, Cause.LEFT)
    again = pulled(heart)
    assert heart.returned(0, lost) == []
    assert heart.late == 1
    assert heart.returned(0, again) == [entry]


def test_a_death_in_a_lease_of_several_charges_nobody_and_they_are_leased_alone() -> None:
    heart = heart_of()
    entries = push(heart, 2, 3, 4)
    assert heart.lost(0, pulled(heart, 3), Cause.EXITED) == []
    assert [e.deaths for e in entries] == [0, 0, 0]
    assert [nodes_of(pulled(heart, 3)) for _ in range(2)] == [[2], [3]]


def test_the_second_death_alone_ends_a_message_and_costs_its_neighbours_nothing() -> None:
    heart = heart_of()
    poison, other = push(heart, 2, 3)
    heart.lost(0, pulled(heart, 2), Cause.EXITED, "exit code 5")
    assert heart.lost(0, pulled(heart), Cause.EXITED, "exit code 5") == []
    ((entry, code, reason, _),) = heart.lost(0, pulled(heart), Cause.EXITED, "exit code 5")
    assert (entry, code) == (poison, ErrorCode.WORKER_DIED)
    assert "exit code 5" in reason
    assert "2 times" in reason
    assert heart.returned(0, pulled(heart)) == [other]
    assert other.deaths == 0


def test_a_second_death_by_the_memory_limit_ends_a_message_as_out_of_memory() -> None:
    heart = heart_of()
    push(heart, 2)
    heart.lost(0, pulled(heart), Cause.MEMORY)
    ((_, code, _, _),) = heart.lost(0, pulled(heart), Cause.MEMORY)
    assert code is ErrorCode.OUT_OF_MEMORY


def test_a_message_that_reached_its_time_limit_alone_ends_at_once_with_its_stack() -> None:
    heart = heart_of()
    entries = push(heart, 2, 3)
    assert heart.lost(0, pulled(heart, 2), Cause.TIME_LIMIT, "too long", "stack") == [], "which of two is not known"
    assert heart.lost(0, pulled(heart), Cause.TIME_LIMIT, "too long", "stack") == [
        (entries[0], ErrorCode.TIME_LIMIT, "too long", "stack")
    ]
    assert heart.returned(0, pulled(heart)) == [entries[1]]


def test_a_message_whose_worker_was_aborted_twice_with_it_alone_ends_by_its_time_limit() -> None:
    heart = heart_of()
    (entry,) = push(heart, 2)
    assert heart.lost(0, pulled(heart), Cause.ABORTED, "silent") == []
    assert entry.deaths == 0
    ((_, code, reason, _),) = heart.lost(0, pulled(heart), Cause.ABORTED, "silent")
    assert (code, reason) == (ErrorCode.TIME_LIMIT, "its worker was ended 2 times with it alone: silent")
    assert not heart.broken


@pytest.mark.parametrize("cause", [Cause.LEFT, Cause.NOT_STARTED])
def test_a_worker_that_left_charges_nobody(cause: Cause) -> None:
    heart = heart_of()
    (entry,) = push(heart, 2)
    for _ in range(STILLBORN - 1):
        assert heart.lost(0, pulled(heart), cause) == []
    assert entry.deaths == 0
    assert heart.returned(0, pulled(heart)) == [entry]


def test_five_workers_in_a_row_that_die_before_their_first_message_break_the_run() -> None:
    heart = heart_of()
    push(heart, 2)
    for _ in range(STILLBORN - 1):
        heart.lost(0, pulled(heart), Cause.NOT_STARTED, "no library")
    assert not heart.broken
    heart.lost(0, pulled(heart), Cause.NOT_STARTED, "no library")
    assert "no library" in heart.broken


def test_ten_messages_in_a_row_that_end_blamed_break_the_run_and_one_that_returns_in_between_does_not() -> None:
    heart = heart_of()
    push(heart, *range(2, 2 + 2 * BLAMED))
    for i in range(2 * BLAMED - 1):
        if i == BLAMED - 1:
            heart.returned(0, pulled(heart))
        else:
            heart.lost(0, pulled(heart), Cause.SIGNAL)
            heart.lost(0, pulled(heart), Cause.SIGNAL)
        assert not heart.broken
    heart.lost(0, pulled(heart), Cause.SIGNAL)
    heart.lost(0, pulled(heart), Cause.SIGNAL, "SIGSEGV")
    assert "SIGSEGV" in heart.broken


def test_a_mixed_fleet_of_one_and_two_cpus_on_two_cpus_never_uses_three() -> None:
    heart = heart_of(ONE, TWO)
    push(heart, 2, kind=0)
    push(heart, 3, kind=1)
    push(heart, 4, kind=0)
    first = pulled(heart)
    second = pulled(heart)
    assert [first.kind, second.kind] == [0, 0], "the 2-cpu ClientApp does not fit beside a 1-cpu one"
    assert pull(heart) is None
    heart.returned(0, first)
    assert pull(heart) is None
    heart.returned(0, second)
    assert pulled(heart).kind == 1


def test_the_oldest_message_that_does_not_fit_reserves_its_room_after_a_second() -> None:
    heart = heart_of(ONE, TWO)
    small = pulled_after = None
    push(heart, 2, kind=0)
    small = pulled(heart)
    push(heart, 3, kind=1)
    push(heart, *range(4, 50), kind=0)
    assert pulled(heart, now=RESERVE_AFTER / 2).kind == 0, "half a second is no reason to keep room"
    heart.returned(0, small)
    assert pull(heart, now=RESERVE_AFTER) is None, "the room is kept for the large one"
    for lease in list(heart.leases.values()):
        heart.returned(0, lease)
    pulled_after = pulled(heart, now=RESERVE_AFTER)
    assert pulled_after.kind == 1


def test_a_reservation_ends_with_the_message_that_it_was_for() -> None:
    heart = heart_of(ONE, TWO)
    push(heart, 2, kind=0)
    pulled(heart)
    (large,) = push(heart, 3, kind=1)
    push(heart, 4, kind=0)
    assert pull(heart, now=RESERVE_AFTER) is None
    heart.cancel(RESERVE_AFTER, [large.id])
    assert pulled(heart, now=RESERVE_AFTER).kind == 0


def test_a_reservation_keeps_one_place_and_leaves_the_others() -> None:
    heart = Heart((ONE, TWO))
    heart.set_places([Place("a", Resources(cpus=2), 8), Place("b", Resources(cpus=1), 8)])
    push(heart, 2, kind=0)
    push(heart, 3, kind=0)
    pulled(heart)
    pulled(heart)
    push(heart, 4, kind=1)
    push(heart, *range(5, 9), kind=0)
    on_b = next(lease for lease in heart.leases.values() if lease.place.name == "b")
    heart.returned(RESERVE_AFTER, on_b)
    lease = pulled(heart, now=RESERVE_AFTER)
    assert (lease.kind, lease.place.name) == (0, "b")


@pytest.mark.parametrize("left", [(), (Place("a", Resources(cpus=1), 8),)], ids=["gone", "smaller"])
def test_a_reservation_moves_on_when_its_place_cannot_serve_it_any_more(left: tuple[Place, ...]) -> None:
    heart = Heart((ONE, TWO))
    a, b = (Place(name, Resources(cpus=2), 8) for name in "ab")
    heart.set_places([a, b])
    push(heart, 2, 3, kind=0)
    at_a, at_b = pulled(heart), pulled(heart)
    assert (at_a.place, at_b.place) == (a, b)
    push(heart, 4, kind=1)
    assert pull(heart, now=RESERVE_AFTER) is None, "a is kept"
    heart.set_places([*left, b])
    push(heart, 5, kind=0, now=RESERVE_AFTER)
    assert pull(heart, now=RESERVE_AFTER) is None, "b is not kept in its place"
    heart.returned(RESERVE_AFTER, at_b)
    assert pulled(heart, now=RESERVE_AFTER).kind == 1


def test_gpus_are_shared_by_device() -> None:
    heart = Heart((Resources(cpus=0, gpus=0.6),))
    heart.set_places([Place("here", Resources(cpus=0, gpus=2), 8)])
    push(heart, 2, 3, 4)
    assert [pulled(heart).devices for _ in range(2)] == [(0,), (1,)]
    assert pull(heart) is None, "0.4 of each device is left, which is 0.8, and no share of 0.6"


def test_a_device_that_a_place_has_no_more_is_not_given_out() -> None:
    heart = Heart((Resources(cpus=0, gpus=0.4),))
    heart.set_places([Place("here", Resources(cpus=0, gpus=2), 8)])
    push(heart, *range(2, 8))
    first, second, third = (pulled(heart) for _ in range(3))
    assert [lease.devices for lease in (first, second, third)] == [(0,), (0,), (1,)]
    heart.set_places([Place("here", Resources(cpus=0, gpus=1), 8)])
    heart.returned(0, first)
    heart.returned(0, second)
    assert pulled(heart).devices == (0,), "the fullest device, which is gone, was given out"


def test_a_place_takes_no_more_leases_than_it_says() -> None:
    heart = heart_of(Resources(cpus=0), leases=2)
    push(heart, 2, 3, 4)
    pulled(heart)
    pulled(heart)
    assert pull(heart) is None


def test_capacity_that_grows_is_used_at_once() -> None:
    heart = heart_of(cpus=1)
    push(heart, 2, 3, 4, 5)
    pulled(heart)
    assert pull(heart) is None
    heart.set_places([Place("here", Resources(cpus=2), 8), Place("there", Resources(cpus=1), 8)])
    assert {pulled(heart).place.name for _ in range(2)} == {"here", "there"}
    assert pull(heart) is None


def test_capacity_that_shrinks_is_not_used_again_until_what_is_at_work_has_ended() -> None:
    heart = Heart((ONE,))
    heart.set_places([Place("here", Resources(cpus=2), 8), Place("there", Resources(cpus=1), 8)])
    push(heart, *range(2, 9))
    leases = [pulled(heart) for _ in range(3)]
    heart.set_places([Place("here", Resources(cpus=1), 8)])
    here = [lease for lease in leases if lease.place.name == "here"]
    (there,) = (lease for lease in leases if lease.place.name == "there")
    heart.returned(0, there)
    assert "there" not in heart.rooms
    heart.returned(0, here[0])
    assert pull(heart) is None, "one lease is at work on the one cpu that is left"
    heart.returned(0, here[1])
    assert pulled(heart).place.name == "here"


def test_a_message_whose_ttl_has_passed_expires_ready_waiting_or_leased() -> None:
    heart = heart_of()
    leased, waiting = push(heart, 2, 2, ttl=5)
    (ready,) = push(heart, 3, ttl=4)
    (patient,) = push(heart, 4)
    lease = pulled(heart)
    assert heart.next_deadline() == 4
    assert heart.expire(3.9) == []
    assert heart.expire(5) == [ready, leased, waiting]
    assert heart.next_deadline() is None
    assert heart.returned(5, lease) == []
    assert pulled(heart).entries == [patient]


def test_a_kind_whose_loops_are_all_at_work_does_not_hold_up_the_others() -> None:
    heart = heart_of(ONE, ONE)
    push(heart, 2, kind=0)
    push(heart, 3, kind=1)
    lease = heart.pull(0, [1], lambda kind, type_, ready: 1)
    assert lease is not None
    assert lease.kind == 1


def test_at_once_counts_what_fits_when_nothing_is_at_work() -> None:
    heart = Heart((ONE, TWO))
    heart.set_places([Place("a", Resources(cpus=3), 8), Place("b", Resources(cpus=8), 2)])
    assert [heart.at_once(0), heart.at_once(1)] == [5, 3]

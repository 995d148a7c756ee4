"""The heart of the LinkState, with a ledger of its own beside it: each decision is compared with it."""

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from functools import wraps
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from flsim.errors import Cause
from flsim.heart import BLAMED, RESERVE_AFTER, STILLBORN, Ended, Entry, Heart, Lease, Limit, Status
from flsim.message import ErrorCode
from flsim.resources import UNIT, Place, Resources, slots

CHARGING = {Cause.EXITED, Cause.SIGNAL, Cause.MEMORY, Cause.UNKNOWN}


class Watched(Protocol):
    """It keeps what it saw that does not hold."""

    wrong: list[Exception]


P = ParamSpec("P")
S = TypeVar("S", bound=Watched)
T = TypeVar("T")


def kept(method: Callable[Concatenate[S, P], T]) -> Callable[Concatenate[S, P], T]:
    """What does not hold in a method is kept, too: the engine may take it for a fault of the backend."""

    @wraps(method)
    def watched(self: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return method(self, *args, **kwargs)
        except Exception as e:
            self.wrong.append(e)
            raise

    return watched


class WatchedHeart(Heart):
    """A heart that looks at itself.

    Args:
        happened: counts what it saw.
        wrong: takes what does not hold.
    """

    def __init__(self, needs: Iterable[Resources], happened: Counter[str], wrong: list[Exception]) -> None:
        super().__init__(needs)
        self._amounts = [need.amounts() for need in self.needs]
        self.happened = happened
        self.wrong = wrong
        self.pushed: dict[int, Entry] = {}
        self.of_node: dict[int, list[Entry]] = {}
        """In the order of their push."""
        self.ended: set[int] = set()
        self.forced: set[int] = set()
        """Leased while their stream holds them back, since another message waits for them."""
        self.deaths: Counter[int] = Counter()
        self.aborts: Counter[int] = Counter()
        self.limits: set[int] = set()
        """Messages that reached their time limit alone."""
        self._unborn = self._guilty = 0
        self._breaks = False
        self._overdue: tuple[Entry, Counter[str]] | None = None
        """The oldest ready message, where it waits for room for long, and how many of other kinds were admitted since,
        by place."""

    def push(
        self, now: float, node: int, kind: int, type_: str, ttl: float | None, payload: Any, held: bool = False
    ) -> Entry:
        entry = super().push(now, node, kind, type_, ttl, payload, held)
        before = self.of_node.setdefault(node, [])
        if any(e.id not in self.ended for e in before):
            self.happened["a message behind another of its node"] += 1
        self.happened["a message held back"] += held
        before.append(entry)
        self.pushed[entry.id] = entry
        return entry

    @kept
    def pull(self, now: float, kinds: Collection[int], limit: Limit) -> Lease | None:
        self._look_for_overdue(now, kinds)
        lease = super().pull(now, kinds, limit)
        if self._reserved is not None:
            self.happened["room is reserved"] += 1
        if lease is not None:
            self._check_messages(lease)
            self._check_room(lease)
            self._check_turn(lease)
        return lease

    @kept
    def returned(self, now: float, lease: Lease) -> list[Entry]:
        at_work = self.leases.get(lease.id) is lease
        live = [e for e in lease.entries if e.status is not Status.DONE] if at_work else []
        late = self.late + len(lease.entries) - len(live)
        accepted = super().returned(now, lease)
        assert accepted == live, "an outcome was accepted that does not count, or was not that does"
        assert self.late == late, "late outcomes are not counted"
        if at_work:
            self._unborn = self._guilty = 0
        return accepted

    @kept
    def lost(self, now: float, lease: Lease, cause: Cause, detail: str = "", traceback: str = "") -> list[Ended]:
        expected = []
        if self.leases.get(lease.id) is lease:
            live = [e for e in lease.entries if e.status is not Status.DONE]
            self.happened[f"lost: {cause.value}, {'several' if len(lease.entries) > 1 else 'one'}"] += 1
            self._unborn += cause is Cause.NOT_STARTED
            if len(lease.entries) == 1 and live and (code := self._expected(live[0], cause)):
                expected.append((live[0], code))
        ended = super().lost(now, lease, cause, detail, traceback)
        assert [(e.entry, e.code) for e in ended] == expected, "a message was blamed that is not to blame, or was not"
        for entry in lease.entries:
            assert entry.deaths == self.deaths[entry.id], f"message {entry.id} is charged with deaths of others"
        self._breaks = self._breaks or self._unborn >= STILLBORN or self._guilty >= BLAMED
        assert bool(self.broken) == self._breaks, f"the run is broken, or is not: {self.broken}"
        return ended

    def set_places(self, places: Iterable[Place]) -> None:
        super().set_places(places)
        self._overdue = None

    @kept
    def _end(self, entry: Entry) -> None:
        assert entry.id not in self.ended, f"message {entry.id} ended twice"
        self.ended.add(entry.id)
        super()._end(entry)

    # ---- what is to be

    def _expected(self, entry: Entry, cause: Cause) -> ErrorCode | None:
        """What ends a message that was alone with a worker that was lost so."""
        if cause is Cause.TIME_LIMIT:
            self.limits.add(entry.id)
            return ErrorCode.TIME_LIMIT
        if cause is Cause.ABORTED:
            self.aborts[entry.id] += 1
            return ErrorCode.TIME_LIMIT if self.aborts[entry.id] == 2 else None
        if cause not in CHARGING:
            return None
        self.deaths[entry.id] += 1
        if self.deaths[entry.id] < 2:
            return None
        self._guilty += 1
        return ErrorCode.OUT_OF_MEMORY if cause is Cause.MEMORY else ErrorCode.WORKER_DIED

    def _check_messages(self, lease: Lease) -> None:
        others = [e for other in self.leases.values() if other is not lease for e in other.entries]
        assert lease.entries, "a lease is empty"
        assert len({(e.kind, e.type) for e in lease.entries}) == 1, "a lease holds several kinds or types"
        for entry in lease.entries:
            assert entry.id not in self.ended, f"message {entry.id} is leased after its end"
            behind = [e for e in self.of_node[entry.node] if e.id < entry.id]
            assert all(e.id in self.ended for e in behind), f"message {entry.id} overtakes one of its node"
            busy = [e.node for e in others] + [e.node for e in lease.entries if e is not entry]
            assert entry.node not in busy, f"node {entry.node} has two messages in flight"
            suspect = self.deaths[entry.id] or self.aborts[entry.id]
            assert not suspect or len(lease.entries) == 1, f"message {entry.id} is a suspect, and not alone"
            if entry.held:
                self.forced.add(entry.id)
        self.happened["a lease of several"] += len(lease.entries) > 1

    def _check_room(self, lease: Lease) -> None:
        """Of what it needs, no more is at work there than there is now, counted from the leases themselves."""
        place = self.rooms[lease.place.name].place
        here, amounts, devices = self._at_work(place.name)
        assert here <= place.leases, f"{place.name} has {here} leases of {place.leases}"
        have = place.resources.amounts()
        for name in self._amounts[lease.kind]:
            assert amounts[name] <= have.get(name, 0), f"{name} of {place.name} is overbooked"
        assert all(used <= UNIT for used in devices.values()), f"a device of {place.name} is overbooked"
        assert all(d < math.ceil(place.resources.gpus) for d in lease.devices), f"{place.name} has no such device"

    def _at_work(self, name: str) -> tuple[int, Counter[str], Counter[int]]:
        leases = [lease for lease in self.leases.values() if lease.place.name == name]
        amounts: Counter[str] = Counter()
        devices: Counter[int] = Counter()
        for lease in leases:
            need = self._amounts[lease.kind]
            amounts.update(need)
            devices.update(dict.fromkeys(lease.devices, min(need.get("gpus", 0), UNIT)))
        return len(leases), amounts, devices

    def check_books(self) -> None:
        """What is booked is what is at work, and who waits waits for somebody."""
        for name, room in self.rooms.items():
            here, amounts, devices = self._at_work(name)
            assert room.leases == here, f"{name} books {room.leases} leases, and has {here}"
            assert {k: v for k, v in room._used.items() if v} == dict(amounts), f"the book of {name} is wrong"
            assert {i: u for i, u in enumerate(room._devices) if u} == dict(devices), f"the devices of {name} are wrong"
        for name in {lease.place.name for lease in self.leases.values()}:
            assert name in self.rooms, f"leases are at work in {name}, which has no book"
        for node, head in self._held.items():
            assert head.status is Status.HELD, f"node {node} waits for a message that nobody holds back"
            live = [e for e in self._nodes[node] or () if e.status is not Status.DONE]
            assert all(e.held for e in (head, *live)), "a message waits for one that its sender holds back"

    # ---- the turn of who needs much

    def _look_for_overdue(self, now: float, kinds: Collection[int]) -> None:
        heads = [h for queue in self._ready.values() if (h := queue.head())]
        oldest = min(heads, key=lambda e: e.id, default=None)
        if self._overdue is not None and self._overdue[0] is not oldest:
            self._overdue = None
        waits = oldest is not None and now - oldest.since >= RESERVE_AFTER and oldest.kind in kinds
        others = self._reserved is not None and oldest is not None and self._reserved[0] != oldest.kind
        if self._overdue is None and oldest is not None and waits and not others:
            self._overdue = oldest, Counter()

    def _check_turn(self, lease: Lease) -> None:
        """Some place that could have the oldest one takes no others."""
        if self._overdue is None:
            return
        oldest, admitted = self._overdue
        if lease.kind == oldest.kind:
            self._overdue = None
            return
        admitted[lease.place.name] += 1
        able = [r.place.name for r in self.rooms.values() if slots(r.place, self.needs[oldest.kind])]
        assert not able or not min(admitted[name] for name in able), f"message {oldest.id} is starved of its room"

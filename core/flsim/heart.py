"""The heart of the LinkState: a pure state machine over messages, nodes, leases and room.

Events go in (pushed, pulled, returned, lost, cancelled, capacity changed, time is now t), decisions come out. No
thread, clock or IO is in here, so that what it decides can be replayed (``tests/simulation``).
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, NamedTuple

from flsim.errors import Cause
from flsim.message import ErrorCode
from flsim.resources import Place, Resources, Room, slots

RESERVE_AFTER = 1.0
"""Seconds after which the oldest ready message that does not fit reserves its room."""

STILLBORN = 5
"""So many workers in a row that died before their first message break the run."""

BLAMED = 10
"""So many messages in a row that ended blamed for a death break the run."""


class Status(Enum):
    """Where a message is."""

    HELD = auto()
    """It is its node's turn, and its sender does not want the reply yet."""
    WAITING = auto()
    """Another message of its node comes first."""
    READY = auto()
    LEASED = auto()
    DONE = auto()


class Entry:
    """A message in the LinkState."""

    __slots__ = (
        "aborts",
        "alone",
        "attempts",
        "deadline",
        "deaths",
        "held",
        "id",
        "kind",
        "node",
        "payload",
        "pushed",
        "since",
        "status",
        "type",
    )

    def __init__(
        self, id_: int, node: int, kind: int, type_: str, deadline: float | None, payload: Any, pushed: float
    ) -> None:
        self.id = id_
        self.node = node
        self.kind = kind
        self.type = type_
        self.deadline = deadline
        self.payload = payload
        self.pushed = pushed
        self.attempts = 0
        """Leases that it was part of."""
        self.status = Status.WAITING
        self.since = 0.0
        self.deaths = 0
        self.aborts = 0
        self.alone = False
        self.held = False
        """Its sender does not want the reply yet."""


@dataclass(slots=True, eq=False)
class Lease:
    """Messages of one kind and type that were pulled together and are not yet returned."""

    id: int
    kind: int
    entries: list[Entry]
    place: Place
    devices: tuple[int, ...]
    pulled: float


class Ended(NamedTuple):
    """A decision: this message ends with an error."""

    entry: Entry
    code: ErrorCode
    reason: str
    traceback: str


class _Queue:
    """Ready messages in order. Entries that ended meanwhile stay in it until they come up."""

    __slots__ = ("count", "entries")

    def __init__(self) -> None:
        self.entries: deque[Entry] = deque()
        self.count = 0

    def head(self) -> Entry | None:
        while self.entries and self.entries[0].status is not Status.READY:
            self.entries.popleft()
        return self.entries[0] if self.entries else None


Limit = Callable[[int, str, int], int]
"""How many messages a lease may hold, given its kind, its message type, and how many are ready."""


class Heart:
    """Which message is ready, which is leased, and what becomes of it.

    Args:
        needs: the Resources of each kind of node.
    """

    def __init__(self, needs: Iterable[Resources]) -> None:
        self.needs = tuple(needs)
        self.entries: dict[int, Entry] = {}
        self.leases: dict[int, Lease] = {}
        self.rooms: dict[str, Room] = {}
        self.late = 0
        """Outcomes that came after their message had ended: dropped."""
        self.broken = ""
        """Why the run cannot go on, where it cannot."""
        self._next_id = 1
        self._next_lease = 1
        self._nodes: dict[int, deque[Entry] | None] = {}
        """The nodes that have a message ready or leased, with those that wait behind it."""
        self._held: dict[int, Entry] = {}
        """The messages that are HELD, by their node."""
        self._ready: dict[tuple[int, str, bool], _Queue] = {}
        self._deadlines: list[tuple[float, int]] = []
        self._reserved: tuple[int, str] | None = None
        self._stillborn = 0
        self._blamed = 0

    # What comes in

    def push(
        self, now: float, node: int, kind: int, type_: str, ttl: float | None, payload: Any, held: bool = False
    ) -> Entry:
        """Take a message for ``node``; it is ready unless another of that node's comes first, or it is ``held`` until
        :meth:`let_in`. One that is held lets no other one wait: it is let in then."""
        id_ = self._next_id
        self._next_id = id_ + 1
        entry = self.entries[id_] = Entry(id_, node, kind, type_, None if ttl is None else now + ttl, payload, now)
        entry.held = held
        if entry.deadline is not None:
            heapq.heappush(self._deadlines, (entry.deadline, id_))
        if node in self._nodes:
            waiting = self._nodes[node]
            if waiting is None:
                waiting = self._nodes[node] = deque()
            waiting.append(entry)
            if not held and node in self._held:
                self._make_ready(now, self._held.pop(node))
        else:
            self._nodes[node] = None
            if held:
                self._hold(entry)
            else:
                self._make_ready(now, entry)
        return entry

    def let_in(self, now: float, id_: int) -> None:
        """A message that is held is not any more."""
        entry = self.entries.get(id_)
        if entry is not None and entry.held:
            entry.held = False
            if entry.node in self._held:  # it, or one that it waits for
                self._make_ready(now, self._held.pop(entry.node))

    def pull(self, now: float, kinds: Collection[int], limit: Limit) -> Lease | None:
        """Lease the oldest ready messages, of one of ``kinds``, that fit into the room that is free."""
        heads: dict[int, tuple[Entry, _Queue]] = {}
        for key, queue in list(self._ready.items()):
            head = queue.head()
            if head is None:
                del self._ready[key]
            elif head.kind not in heads or head.id < heads[head.kind][0].id:
                heads[head.kind] = head, queue
        if self._reserved is not None and self._reserved[0] not in heads:
            self._reserved = None
        for head, queue in sorted(heads.values(), key=lambda h: h[0].id):
            if head.kind not in kinds:
                continue
            room = self._room_for(head.kind)
            if room is not None:
                return self._lease(now, head, queue, room, limit)
            if self._reserved is None and now - head.since >= RESERVE_AFTER:
                self._reserve(head.kind)
        return None

    def returned(self, now: float, lease: Lease) -> list[Entry]:
        """A lease came back with an outcome for each of its messages. Returns those whose outcome counts: the
        rest ended before, and so did all of a lease that was lost before."""
        if self.leases.get(lease.id) is not lease:
            self.late += len(lease.entries)
            return []
        self._end_lease(lease)
        self._stillborn = self._blamed = 0
        accepted = []
        for entry in lease.entries:
            if entry.status is Status.DONE:
                self.late += 1
            else:
                self._end(entry)
                accepted.append(entry)
            self._next_of(now, entry.node)
        return accepted

    def lost(self, now: float, lease: Lease, cause: Cause, detail: str = "", traceback: str = "") -> list[Ended]:
        """A worker took its lease with it. Its messages go back; one that was alone with it is charged, and the
        second charge ends it. One that was alone and reached its time limit ends at once."""
        if self.leases.get(lease.id) is not lease:
            self.late += len(lease.entries)
            return []
        self._end_lease(lease)
        if cause is Cause.NOT_STARTED:
            self._stillborn += 1
            if self._stillborn >= STILLBORN:
                self.broken = f"{STILLBORN} workers in a row died before their first message: {detail}"
        live = [e for e in lease.entries if e.status is not Status.DONE]
        for entry in lease.entries:
            if entry.status is Status.DONE:
                self._next_of(now, entry.node)
        if len(lease.entries) == 1 and live and (verdict := self._verdict(live[0], cause, detail)):
            entry = live[0]
            self._end(entry)
            self._next_of(now, entry.node)
            return [Ended(entry, *verdict, traceback)]
        for entry in reversed(live):
            entry.alone = entry.alone or cause not in (Cause.NOT_STARTED, Cause.LEFT)
            self._make_ready(now, entry, first=True)
        return []

    def cancel(self, now: float, ids: Iterable[int]) -> list[Entry]:
        """End these messages. What is leased runs on, and its outcome is dropped. Returns those that had not
        ended before."""
        ended = []
        for id_ in ids:
            entry = self.entries.get(id_)
            if entry is None:
                continue
            was = entry.status
            self._end(entry)
            ended.append(entry)
            if was is Status.READY:
                self._ready_of(entry).count -= 1
                self._next_of(now, entry.node)
            elif was is Status.HELD:
                del self._held[entry.node]
                self._next_of(now, entry.node)
        return ended

    def expire(self, now: float) -> list[Entry]:
        """End the messages whose ttl has passed."""
        ids = []
        while self._deadlines and self._deadlines[0][0] <= now:
            ids.append(heapq.heappop(self._deadlines)[1])
        return self.cancel(now, ids)

    def set_places(self, places: Iterable[Place]) -> None:
        """The capacity is now this. What is at work in a place that is gone stays booked until it comes back."""
        named = {p.name: p for p in places}
        for name, room in list(self.rooms.items()):
            if name not in named:
                named[name] = Place(name, Resources(cpus=0), 0)
                if not room.leases:
                    del self.rooms[name], named[name]
        for name, place in named.items():
            if name in self.rooms:
                self.rooms[name].resize(place)
            else:
                self.rooms[name] = Room(place)
        if self._reserved is not None:
            kind, name = self._reserved
            if name not in self.rooms or not slots(self.rooms[name].place, self.needs[kind]):
                self._reserved = None

    # What it tells

    def next_deadline(self) -> float | None:
        """When :meth:`expire` will have something to do."""
        while self._deadlines and self._deadlines[0][1] not in self.entries:
            heapq.heappop(self._deadlines)
        return self._deadlines[0][0] if self._deadlines else None

    def at_once(self, kind: int) -> int:
        """How many leases of this kind fit when nothing else is at work."""
        return sum(slots(room.place, self.needs[kind]) for room in self.rooms.values())

    # Inside

    def _verdict(self, entry: Entry, cause: Cause, detail: str) -> tuple[ErrorCode, str] | None:
        """What ends a message that was alone with a worker that was lost so; None where it is tried again."""
        if cause is Cause.TIME_LIMIT:
            return ErrorCode.TIME_LIMIT, detail
        if cause is Cause.ABORTED:  # which charges nobody, but what hangs anew each time has to end
            entry.aborts += 1
            if entry.aborts > 1:
                return ErrorCode.TIME_LIMIT, f"its worker was ended {entry.aborts} times with it alone: {detail}"
        if not cause.charges:
            return None
        entry.deaths += 1
        if entry.deaths == 1:
            return None
        self._blamed += 1
        if self._blamed >= BLAMED:
            self.broken = f"{BLAMED} messages in a row ended because their worker died: {detail}"
        code = ErrorCode.OUT_OF_MEMORY if cause is Cause.MEMORY else ErrorCode.WORKER_DIED
        return code, f"its worker died {entry.deaths} times with it alone: {detail}"

    def _hold(self, entry: Entry) -> None:
        entry.status = Status.HELD
        self._held[entry.node] = entry

    def _ready_of(self, entry: Entry) -> _Queue:
        return self._ready[entry.kind, entry.type, entry.alone]

    def _make_ready(self, now: float, entry: Entry, *, first: bool = False) -> None:
        entry.status = Status.READY
        entry.since = now
        key = (entry.kind, entry.type, entry.alone)
        queue = self._ready.get(key)
        if queue is None:
            queue = self._ready[key] = _Queue()
        queue.count += 1
        if first:
            queue.entries.appendleft(entry)
        else:
            queue.entries.append(entry)

    def _room_for(self, kind: int) -> tuple[Room, tuple[int, ...]] | None:
        kept = self._reserved[1] if self._reserved is not None and self._reserved[0] != kind else None
        for room in sorted(self.rooms.values(), key=lambda r: r.busy):
            if room.place.name != kept:
                devices = room.take(self.needs[kind])
                if devices is not None:
                    return room, devices
        return None

    def _reserve(self, kind: int) -> None:
        able = [r for r in self.rooms.values() if slots(r.place, self.needs[kind])]
        if able:
            self._reserved = kind, min(able, key=lambda r: r.busy).place.name

    def _lease(
        self, now: float, head: Entry, queue: _Queue, taken: tuple[Room, tuple[int, ...]], limit: Limit
    ) -> Lease:
        room, devices = taken
        if self._reserved is not None and self._reserved[0] == head.kind:
            self._reserved = None
        size = 1 if head.alone else max(1, limit(head.kind, head.type, queue.count))
        entries: list[Entry] = []
        pop = queue.entries.popleft
        while queue.entries and len(entries) < size:
            entry = pop()
            if entry.status is Status.READY:
                entry.status = Status.LEASED
                entry.attempts += 1
                entries.append(entry)
        queue.count -= len(entries)
        if not queue.count:
            del self._ready[head.kind, head.type, head.alone]
        lease = Lease(self._next_lease, head.kind, entries, room.place, devices, now)
        self.leases[lease.id] = lease
        self._next_lease += 1
        return lease

    def _end_lease(self, lease: Lease) -> None:
        del self.leases[lease.id]
        room = self.rooms[lease.place.name]
        room.give_back(self.needs[lease.kind], lease.devices)
        if not room.leases and not room.place.leases:  # a place that is gone, and now empty
            del self.rooms[lease.place.name]

    def _end(self, entry: Entry) -> None:
        entry.status = Status.DONE
        del self.entries[entry.id]

    def _next_of(self, now: float, node: int) -> None:
        waiting = self._nodes[node]
        while waiting:
            entry = waiting.popleft()
            if entry.status is not Status.DONE:
                if entry.held and all(e.held or e.status is Status.DONE for e in waiting):
                    self._hold(entry)
                else:
                    self._make_ready(now, entry)
                return
        del self._nodes[node]

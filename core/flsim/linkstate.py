"""LinkState: where ServerApp and ClientApps meet. The thread-safe shell around the pure :mod:`flsim.heart`.

The Grid pushes and waits in the ServerApp's thread; the worker loops pull and return on the engine's event loop.
Nobody polls: a push wakes the loops, an end wakes who waits for it.
"""

from __future__ import annotations

import asyncio
import threading
import time
from array import array
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from flsim import stall
from flsim.envelope import describe
from flsim.errors import BackendBroken, EncodeError, NoRoom, WorkerLost
from flsim.events import Announced, LostWorker, Observers, Pulled, Pushed, Returned
from flsim.fleet import FIRST_NODE_ID, Fleet
from flsim.heart import Entry, Heart, Lease
from flsim.message import SERVER_NODE_ID, Error, ErrorCode, Message, Metadata
from flsim.payload import Blob, Carried, Encoder, Share
from flsim.pickling import unencodable
from flsim.quarantine import Quarantine
from flsim.resources import Place
from flsim.sizing import LeaseSizes
from flsim.states import NodeStates
from flsim.wire import Outcome, Packed


class PushedMessage(NamedTuple):
    """What the LinkState keeps of a message until it ends."""

    blob: Blob
    k: int
    """The how-manieth message of its node."""
    group_id: str
    created_at: float
    ttl: float | None
    inbox: Inbox


UNTAKEN = 64 * 1024**2
"""Bytes of replies to a stream that may wait in the driver until they are taken, and at least one reply. As many more
as there are workers may be on their way."""


@dataclass(slots=True)
class Window:
    """Back-pressure: which messages of a stream may be answered already."""

    held: deque[int]
    """Those that may not be, in order."""
    largest: int
    """Bytes of the largest reply that there was."""
    open: set[int] = field(default_factory=set)
    """Those that may be, and whose reply is not taken."""


class Inbox:
    """Replies for one caller: what it pushed and has not yet taken.

    Replies are put in under the LinkState's lock, and its condition wakes who waits.
    """

    def __init__(self, link: LinkState) -> None:
        self.replies: dict[int, Message] = {}
        self.pending: set[int] = set()
        self.enough = 1
        """How many replies are worth a wake-up."""
        self.condition = threading.Condition(link.lock)
        self.window: Window | None = None
        """Where it holds replies for one that takes them one by one."""

    def put(self, id_: int, reply: Message) -> None:
        """A reply came."""
        self.pending.discard(id_)
        self.replies[id_] = reply
        if len(self.replies) >= self.enough or not self.pending:
            self.condition.notify_all()


@dataclass(slots=True)
class Count:
    """What became of the messages of one type."""

    sent: int = 0
    answered: int = 0
    """Replies with content."""
    errors: Counter[str] = field(default_factory=Counter)
    """By the name of their code."""
    reasons: Counter[tuple[str, str]] = field(default_factory=Counter)
    """By the name of their code and their reason's first line."""


REASONS_KEPT = 100
"""Distinct reasons kept per message type: enough to see what is wrong, and bounded."""


class LinkState:
    """All messages of a run, from push to reply, and the states of its nodes.

    Args:
        loop: the event loop of the worker loops.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        fleet: Fleet,
        run_id: int,
        loop: asyncio.AbstractEventLoop,
        observers: Observers,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.fleet = fleet
        self.run_id = run_id
        self.loop = loop
        self.heart = Heart(k.resources for k in fleet.kinds)
        self.counts: dict[str, Count] = {}
        self.failure: BaseException | None = None
        self.lock = threading.RLock()
        self.clock = clock
        self.states: NodeStates
        """What the nodes keep; from when the run has a folder for them. Used on the event loop alone."""
        self.share: Share | None = None
        """The backend's, once it has started."""
        self.quarantine: Quarantine | None = None
        """Where messages go that cost a worker; of a run that has a folder for it."""
        self._slots = 0
        """How many leases can be at work at once, at most."""
        self._largest: dict[str, int] = {}
        """Bytes of the largest reply to a message of a stream, by its type."""
        self._carried: dict[int, list[Carried]] = {}
        """What leases at work carry that is shared, by their number."""
        self._observers = observers
        self._sizes = LeaseSizes(self.heart.at_once, lambda kind: len(self._waiting[kind]))
        self._pushed: dict[int, int] = {}
        """Messages pushed so far, by node."""
        self._inboxes: set[Inbox] = set()
        self._waiting: list[deque[asyncio.Future[Lease | None]]] = [deque() for _ in fleet.kinds]
        self._woken = False
        self._over = False
        self._timer: asyncio.TimerHandle | None = None
        self._moved = clock()
        self._said = 0.0
        """After how many seconds without a move that was said last."""
        self._watcher: asyncio.TimerHandle | None = None

    # ---- for the Grid, in any thread

    def inbox(self) -> Inbox:
        """A new inbox. It is told when the run fails until :meth:`drop`."""
        inbox = Inbox(self)
        with self.lock:
            self._inboxes.add(inbox)
        return inbox

    def drop(self, inbox: Inbox) -> None:
        """Nobody will look into this inbox any more."""
        with self.lock:
            self._inboxes.discard(inbox)

    def push(self, messages: Sequence[Message], inbox: Inbox, *, window: bool = False) -> list[int]:
        """Take messages, encode them, give them their ids. All or none.

        Args:
            window: whether they are to be answered only as their replies are :meth:`taken`.

        Raises:
            ValueError: a destination is no node of this fleet; a message is a reply, or was pushed before.
            EncodeError: content cannot be encoded.
        """
        self._check(messages)
        blobs = self._encoded(messages)
        ids = []
        with self.lock:
            for blob in blobs:
                for carried in blob.carried:
                    carried.users += 1
            if self.failure is not None:
                for blob in blobs:
                    self._let_go(blob.carried)
                raise self.failure
            now = self._moved = self.clock()
            push, kind_of, run_id = self.heart.push, self.fleet.kind_of, self.run_id
            for message, blob in zip(messages, blobs, strict=True):
                meta = message.metadata
                node = meta.dst_node_id
                k = self._pushed.get(node, 0)
                self._pushed[node] = k + 1
                pushed = PushedMessage(blob, k, meta.group_id, meta.created_at, meta.ttl, inbox)
                id_ = push(now, node, kind_of(node), meta.message_type, meta.ttl, pushed, window).id
                meta.message_id = str(id_)
                meta.run_id = run_id
                ids.append(id_)
                count = self.counts.get(meta.message_type)
                if count is None:
                    count = self.counts[meta.message_type] = Count()
                count.sent += 1
            inbox.pending.update(ids)
            if window:
                types = {m.metadata.message_type for m in messages}
                inbox.window = Window(deque(ids), max((self._largest.get(t, 0) for t in types), default=0))
                self._let_in(inbox)
            if self._over:
                self._end(self.heart.cancel(now, ids), ErrorCode.CANCELLED, "the run is over")
            self._wake()
        self._observers.put(Pushed(len(ids)))
        return ids

    def taken(self, inbox: Inbox, id_: int) -> None:
        """A reply is taken: another message may be answered. Under the lock."""
        if inbox.window is not None:
            inbox.window.open.discard(id_)
            self._let_in(inbox)

    def _let_in(self, inbox: Inbox) -> None:
        window = inbox.window
        if window is None or not window.held:
            return
        most = self._slots + (max(1, UNTAKEN // window.largest) if window.largest else 1)
        now = self.clock()
        while window.held and len(window.open) < most:
            id_ = window.held.popleft()
            if id_ in inbox.pending:
                window.open.add(id_)
                self.heart.let_in(now, id_)
        self._wake()

    def _encoded(self, messages: Sequence[Message]) -> list[Blob]:
        encoder = Encoder()
        for message in messages:
            try:
                encoder.add(message.content)
            except (Exception, SystemExit, GeneratorExit) as e:  # what the pickling of the user's objects raises; and
                # nothing else: Ctrl-C and SIGTERM come here, too, and are no fault of the content.
                to = message.metadata.dst_node_id
                raise EncodeError(f"message to node {to}: {unencodable(message.content, e)}") from e
        return encoder.finish(self.share)

    def cancel(self, ids: Iterable[int], code: ErrorCode, reason: str) -> None:
        """End these messages, where they have not ended yet, with an error of ``code``."""
        with self.lock:
            self._end(self.heart.cancel(self.clock(), ids), code, reason)
            self._wake()

    def _check(self, messages: Sequence[Message]) -> None:
        seen: set[int] = set()
        end = self.fleet.end
        for message in messages:
            meta = message.metadata
            if not FIRST_NODE_ID <= meta.dst_node_id < end:
                raise ValueError(
                    f"node {meta.dst_node_id} is not in the fleet, whose node ids are {FIRST_NODE_ID} to {end - 1}"
                )
            if meta.reply_to_message_id:
                raise ValueError(f"a reply (to message {meta.reply_to_message_id}) cannot be pushed to a node")
            if meta.message_id or id(message) in seen:
                raise ValueError(
                    f"this Message to node {meta.dst_node_id} was pushed before; make a new one for each push"
                )
            seen.add(id(message))

    def _raise_failure(self) -> None:
        if self.failure is not None:
            raise self.failure

    def wait(self, inbox: Inbox, ready: Callable[[], bool], timeout: float | None) -> bool:
        """Wait until ``ready()``, at most ``timeout`` seconds (None: without end). Returns whether it is.

        Raises whatever ended the run meanwhile.
        """
        if timeout is not None:
            timeout = min(timeout, threading.TIMEOUT_MAX)
        with self.lock:
            done = inbox.condition.wait_for(lambda: self.failure is not None or ready(), timeout)
            self._raise_failure()
            return done

    # ---- for the worker loops, on the event loop

    async def pull(self, kind: int) -> Lease | None:
        """The next lease of this kind that fits, or None when the run is over."""
        future: asyncio.Future[Lease | None] = self.loop.create_future()
        if self._over:
            return None
        self._waiting[kind].append(future)
        self._dispatch()
        return await future

    def packed(self, entry: Entry) -> Packed:
        """A message with its node's state, as a worker gets it. Raises NoRoom where the state cannot be read."""
        blob, k, group_id, created_at, ttl, _ = entry.payload
        state = self.states.get(entry.node)
        return Packed(entry.id, entry.node, k, entry.type, group_id, created_at, ttl, blob, state)

    def returned(self, lease: Lease, worker: str, outcomes: Sequence[Outcome]) -> None:
        """A lease came back: its replies and node states are accepted in one step."""
        if [o.message_id for o in outcomes] != [e.id for e in lease.entries]:
            self.fail(BackendBroken(f"the backend returned another lease than it was given (worker {worker})"))
            return
        replies = [_reply(o) for o in outcomes]
        # Copied, for what a state lies in holds the reply, too.
        states = [None if o.state is None else o.state.own() for o in outcomes]
        plain: list[int | float] = []
        others = []
        with self.lock:
            self._let_go(self._carried.pop(lease.id, ()))
            now = self._moved = self.clock()
            accepted = set(self.heart.returned(now, lease))
            for entry, outcome, state, (content, error) in zip(lease.entries, outcomes, states, replies, strict=True):
                if entry in accepted:
                    if state is not None and error is outcome.error:  # and not one that the driver found
                        self._keep(entry.node, state)
                    self._deliver(entry, content, error, outcome)
                    if error is None and entry.attempts == 1 and not outcome.printed:
                        plain += (
                            entry.id, entry.node, lease.id, entry.pushed, outcome.decode, outcome.execute,
                            outcome.encode, entry.payload.blob.nbytes, outcome.reply.nbytes,
                        )  # fmt: skip
                    else:
                        others.append((entry, error, _without_memory(outcome)))
            self._sizes.learn(lease, outcomes, now)
            # Under the lock, so that what the ServerApp reports of it comes after it.
            self._observers.put(
                Returned(
                    worker, others, lease.id, now, plain=array("d", plain), message_type=lease.entries[0].type,
                    peak_memory=outcomes[0].peak_memory,
                )
            )  # fmt: skip

    def lost(self, lease: Lease, lost: WorkerLost) -> None:
        """A worker took this lease with it."""
        with self.lock:
            self._let_go(self._carried.pop(lease.id, ()))
            now = self.clock()
            ended = self.heart.lost(now, lease, lost.cause, str(lost), lost.traceback)
            for entry, code, reason, traceback in ended:
                self._set_apart(entry, Error(int(code), reason, traceback))
                self._end([entry], code, reason, traceback, lease.id)
            broken = self.heart.broken
        self._observers.put(LostWorker(lost.cause.value, str(lost), len(lease.entries), lease.id, now))
        if broken:
            self.fail(BackendBroken(broken))

    def set_places(self, places: Iterable[Place]) -> None:
        """The backend's capacity is now this."""
        with self.lock:
            self.heart.set_places(places)
            self._slots = sum(self.heart.at_once(kind) for kind in range(len(self.fleet.kinds)))
        self._dispatch()

    # ---- for the engine

    def watch(self) -> None:
        """From now on, say so when nothing moves. On the event loop."""
        self._watcher = self.loop.call_later(stall.AFTER, self._look)

    def announce(self, text: str) -> None:
        """Show the user one line."""
        self._observers.put(Announced(text))

    def fail(self, error: BaseException) -> None:
        """The run cannot go on: whoever waits for replies, or pushes, gets ``error`` raised."""
        with self.lock:
            if self.failure is None:
                self.failure = error
            self._finish("the run failed")

    def close(self) -> None:
        """The run is over: what is not answered is cancelled, and the loops get no more."""
        with self.lock:
            self._finish("the run is over")

    def call_soon(self, callback: Callable[[], None]) -> None:
        """Have the event loop call this, unless it has ended: a backend may complete a future after that."""
        try:
            self.loop.call_soon_threadsafe(callback)
        except RuntimeError:
            if not self.loop.is_closed():
                raise

    # ---- inside

    def _look(self) -> None:
        """Say so if nothing has moved for long, and look again when that can be so next."""
        with self.lock:
            if self._over:
                return
            now = self.clock()
            quiet = now - self._moved
            if quiet < stall.AFTER:
                self._said = 0.0
            due = max(stall.AFTER, 2 * self._said)
            if quiet >= due and self.heart.entries:
                self.announce(stall.report(self.heart, self.fleet, now, quiet))
                self._said, due = quiet, 2 * quiet
            left = due - quiet if self.heart.entries else stall.AFTER
            self._watcher = self.loop.call_later(left, self._look)

    def _finish(self, reason: str) -> None:
        self._over = True
        for inbox in self._inboxes:  # first, so that who waits is woken whatever the rest comes to
            inbox.condition.notify_all()
        if self._watcher is not None:
            self.call_soon(self._watcher.cancel)
            self._watcher = None
        self._end(self.heart.cancel(self.clock(), list(self.heart.entries)), ErrorCode.CANCELLED, reason)
        self._wake()

    def _wake(self) -> None:
        """Have the loop hand out what can be. Under the lock; once for all pushes until it comes round."""
        if not self._woken:
            self._woken = True
            self.call_soon(self._dispatch)

    def _dispatch(self) -> None:
        with self.lock:
            self._woken = False
            now = self.clock()
            self._end(self.heart.expire(now), ErrorCode.MESSAGE_UNAVAILABLE, "its ttl passed before it was answered")
            if self._over:
                for waiting in self._waiting:
                    while waiting:
                        _hand(waiting.popleft(), None)
            else:
                while kinds := {i for i, waiting in enumerate(self._waiting) if waiting}:
                    lease = self.heart.pull(now, kinds, self._sizes.limit)
                    if lease is None:
                        break
                    self._moved = now
                    self._hold(lease)
                    entries, kind = lease.entries, self.fleet.kinds[lease.kind].name
                    pulled = Pulled(lease.id, len(entries), entries[0].type, kind, lease.place.name, now)
                    self._observers.put(pulled)
                    _hand(self._waiting[lease.kind].popleft(), lease)
            self._arm()

    def _keep(self, node: int, state: Blob) -> None:
        try:
            self.states.put(node, state)
        except NoRoom as e:
            self.fail(e)

    def _hold(self, lease: Lease) -> None:
        """What a lease carries stays until it is back, also where its messages are cancelled meanwhile."""
        held = [carried for entry in lease.entries for carried in entry.payload.blob.carried]
        if held:
            self._carried[lease.id] = held
            for carried in held:
                carried.users += 1

    def _set_apart(self, entry: Entry, error: Error) -> None:
        """A message has cost its workers: it goes into quarantine, while what it carries is still there."""
        if self.quarantine is None:
            return
        try:
            message = self.packed(entry)
        except NoRoom as e:
            self.fail(e)
            return
        held = message.content.carried
        for carried in held:
            carried.users += 1

        def kept() -> None:
            with self.lock:
                self._let_go(held)

        self.quarantine.put(message, entry.kind, entry.attempts, error, kept)

    def _let_go(self, held: Iterable[Carried]) -> None:
        """Of each once."""
        for carried in held:
            carried.users -= 1
            if not carried.users:
                try:
                    carried.shared.close()
                except Exception as e:  # it is the backend's
                    self.fail(BackendBroken(f"the backend failed with {describe(e)}"))

    def _arm(self) -> None:
        """Come round again when the next ttl passes."""
        deadline = self.heart.next_deadline()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if deadline is not None:
            self._timer = self.loop.call_later(max(0.0, deadline - self.clock()), self._dispatch)

    def _end(
        self, entries: Iterable[Entry], code: ErrorCode, reason: str, traceback: str = "", lost: int | None = None
    ) -> None:
        """Answer messages that no worker answered; ``lost`` is the lease that a worker took with it, and them."""
        error = Error(int(code), reason, traceback)
        ended = []
        for entry in entries:
            self._deliver(entry, None, error, None)
            ended.append((entry, error, None))
        if ended:
            self._observers.put(Returned("", ended, at=self.clock(), lost=lost))

    def _deliver(self, entry: Entry, content: object, error: Error | None, outcome: Outcome | None) -> None:
        pushed: PushedMessage = entry.payload
        id_ = str(entry.id)
        group_id, created_at = (pushed.group_id, time.time()) if outcome is None else outcome[4:6]
        meta = Metadata(self.run_id, f"{id_}r", entry.node, SERVER_NODE_ID, entry.type, group_id, created_at, None, id_)
        count = self.counts[entry.type]
        if error is None:
            count.answered += 1
        else:
            name = ErrorCode.name_of(error.code)
            count.errors[name] += 1
            reason = (name, error.reason.partition("\n")[0])
            if reason in count.reasons or len(count.reasons) < REASONS_KEPT:
                count.reasons[reason] += 1
        if pushed.blob.buffers:
            self._let_go(pushed.blob.carried)
            entry.payload = pushed._replace(blob=pushed.blob.emptied())
        inbox = pushed.inbox
        inbox.put(entry.id, Message.restore(meta, content, error))
        if inbox.window is not None:
            if outcome is not None:
                size = inbox.window.largest = max(inbox.window.largest, outcome.reply.nbytes)
                self._largest[entry.type] = max(size, self._largest.get(entry.type, 0))
            self._let_in(inbox)


def _hand(future: asyncio.Future[Lease | None], lease: Lease | None) -> None:
    if not future.done():
        future.set_result(lease)


def _without_memory(outcome: Outcome) -> Outcome:
    """For the observers, who may take their time: what it says of the message, and not what lies beside the reply."""
    if outcome.reply.buffers or (outcome.state is not None and outcome.state.buffers):
        return outcome._replace(reply=outcome.reply.emptied(), state=None)
    return outcome


def _reply(outcome: Outcome) -> tuple[object, Error | None]:
    """The reply's content or error, decoded in the driver."""
    if outcome.error is not None:
        return None, outcome.error
    try:
        return outcome.reply.decoded(), None
    except BaseException as e:  # unpickling runs the app's code, which may raise anything
        return None, Error(int(ErrorCode.REPLY_UNDECODABLE), describe(e))

"""What observers are told of a run, and the thread that tells them."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import methodcaller
from typing import TYPE_CHECKING, Protocol

from flsim.fleet import Scalar

if TYPE_CHECKING:
    from flsim.heart import Entry
    from flsim.message import Error
    from flsim.result import RunResult
    from flsim.wire import Outcome

log = logging.getLogger(__name__)

GATHER = 0.05
"""Seconds for which events are gathered before observers are told of them: each time, their thread takes the GIL from
those that do the work."""

IDLE = 0.5
"""Seconds without an event after which observers are told so."""


@dataclass(frozen=True, slots=True)
class RunStarted:
    """The backend is ready and the ServerApp is about to be called."""

    app: str
    backend: str
    places: tuple[str, ...]
    """What each place has, as text."""
    slots: int
    """How many leases of the first kind run at once."""
    nodes: int
    seed: int
    at: float = field(default_factory=time.monotonic)
    """When, in seconds of the driver's monotonic clock, as of all events."""


@dataclass(frozen=True, slots=True)
class ServerAppCalled:
    """The ServerApp is called now: what is told of the run's time counts from here."""

    at: float = field(default_factory=time.monotonic)


@dataclass(frozen=True, slots=True)
class Announced:
    """Something that the user should know once."""

    text: str
    at: float = field(default_factory=time.monotonic)


@dataclass(frozen=True, slots=True)
class Pushed:
    """Messages were pushed in one call."""

    messages: int


@dataclass(frozen=True, slots=True)
class Answered:
    """One message's end."""

    message_id: int
    node: int
    message_type: str
    worker: str
    """``host:pid``; empty where no worker had a part in it."""
    code: int | None
    """None: it got content."""
    reason: str
    decode: float
    """Seconds by the worker's clock, as are the next two; 0 where no worker answered."""
    execute: float
    """In the ClientApp."""
    encode: float
    peak_memory: int
    """Bytes that its worker's process has held in memory at most until then; 0 where no worker answered."""
    printed: str
    attempts: int
    """Leases that it was part of: more than one where a worker was lost."""
    pushed: float
    """When, by the driver's clock."""
    bytes_out: int
    """Of its content, encoded; what it shares with others counts in each."""
    bytes_back: int
    """Of the reply's content, encoded."""


@dataclass(frozen=True, slots=True)
class Pulled:
    """A lease was pulled: a worker is at work."""

    lease: int
    messages: int
    type: str = ""
    """The type of its messages."""
    kind: str = ""
    """The kind of their nodes."""
    place: str = ""
    at: float = field(default_factory=time.monotonic)


PLAIN = ("message_id", "node", "lease", "pushed", "decode", "execute", "encode", "bytes_out", "bytes_back")
"""What is kept of a message that got content at the first attempt and printed nothing. Its lease has the rest."""


class Returned:
    """Messages that ended together."""

    # Most have gone well, and of those the numbers alone are kept, flat: the objects that were made for them are gone
    # by the time that an observer looks, and so are not fetched into another core's cache again.

    __slots__ = ("at", "lease", "lost", "message_type", "others", "peak_memory", "plain", "worker")

    def __init__(
        self,
        worker: str,
        others: Sequence[tuple[Entry, Error | None, Outcome | None]],
        lease: int | None = None,
        at: float = 0.0,
        *,
        plain: Sequence[int | float] = (),
        message_type: str = "",
        peak_memory: int = 0,
        lost: int | None = None,
    ) -> None:
        self.worker = worker
        self.lease = lease
        """The lease that came back, also where all its messages had ended before; None: none did."""
        self.lost = lost
        """The lease that was lost with its worker, where that ended the messages; a :class:`LostWorker` tells of it."""
        self.at = at
        self.plain = plain
        """The values of :data:`PLAIN` of each message that went well, one after another, as doubles."""
        self.message_type = message_type
        """Of all messages of the lease."""
        self.peak_memory = peak_memory
        """Bytes that the worker's process has held in memory at most until then; 0 where no worker answered."""
        self.others = others
        """All other messages, as the LinkState has them: :meth:`answers` says it in words of its own."""

    def __len__(self) -> int:
        return len(self.plain) // len(PLAIN) + len(self.others)

    @property
    def failed(self) -> int:
        """How many ended with an error."""
        return sum(error is not None for _, error, _ in self.others)

    def answers(self, *, notable: bool = False) -> Iterator[Answered]:
        """Each message's end; with ``notable`` only those that failed or printed something."""
        if not notable:
            values = iter(self.plain)
            for id_, node, _, pushed, decode, execute, encode, out, back in zip(*[values] * len(PLAIN), strict=True):
                yield Answered(
                    int(id_), int(node), self.message_type, self.worker, None, "", decode, execute, encode,
                    self.peak_memory, "", 1, pushed, int(out), int(back),
                )  # fmt: skip
        for entry, error, outcome in self.others:
            if notable and error is None and (outcome is None or not outcome.printed):
                continue
            yield Answered(
                message_id=entry.id,
                node=entry.node,
                message_type=entry.type,
                worker=self.worker,
                code=None if error is None else error.code,
                reason="" if error is None else error.reason,
                decode=0.0 if outcome is None else outcome.decode,
                execute=0.0 if outcome is None else outcome.execute,
                encode=0.0 if outcome is None else outcome.encode,
                peak_memory=0 if outcome is None else outcome.peak_memory,
                printed="" if outcome is None else outcome.printed,
                attempts=entry.attempts,
                pushed=entry.pushed,
                bytes_out=entry.payload.blob.nbytes,
                bytes_back=0 if outcome is None else outcome.reply.nbytes,
            )


@dataclass(frozen=True, slots=True)
class Reported:
    """What the ServerApp reported by ``grid.report``."""

    round: int
    metrics: Mapping[str, Scalar]
    node: int | None = None
    at: float = field(default_factory=time.monotonic)


@dataclass(frozen=True, slots=True)
class LostWorker:
    """A worker took a lease with it; its messages are tried again, or ended."""

    cause: str
    detail: str
    messages: int
    lease: int
    at: float = field(default_factory=time.monotonic)


@dataclass(frozen=True, slots=True)
class Paused:
    """Somebody sits at a breakpoint's prompt: the terminal is theirs once this is told."""


@dataclass(frozen=True, slots=True)
class Resumed:
    """The prompt let go of the terminal."""


@dataclass(frozen=True, slots=True)
class RunFinished:
    """The run is over, and the backend is stopped."""

    seconds: float
    """From the call of the ServerApp to its end; 0 where it was not called."""
    error: str = ""
    traceback: str = ""
    status: str = "finished"
    """``finished``; ``failed`` with the error; or ``interrupted``, by a signal or at a breakpoint."""
    result: RunResult | None = None
    """What the run gives back, where it is finished."""


Event = (
    RunStarted | ServerAppCalled | Announced | Pushed | Pulled | Returned | Reported | LostWorker | Paused | Resumed
    | RunFinished
)  # fmt: skip


class Observer(Protocol):
    """What a plugin gives for one run. Both methods are called from one thread, off the hot path."""

    def on(self, events: Sequence[Event]) -> None:
        """Take what happened, in order. Empty once when nothing has happened for :data:`IDLE` seconds, for who gathers
        events before writing them."""

    def close(self) -> None:
        """The run is over; nothing more comes."""


@dataclass(slots=True)
class Observers:
    """Tells the observers, in batches, from a thread of its own. One that raises is reported once and unplugged."""

    observers: list[Observer]
    _events: queue.SimpleQueue[Event | threading.Event | None] = field(default_factory=queue.SimpleQueue)
    _hurry: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __bool__(self) -> bool:
        return bool(self.observers)

    def start(self) -> None:
        """Begin to tell."""
        if self.observers:
            self._thread = threading.Thread(target=self._tell, name="flsim-observers", daemon=True)
            self._thread.start()

    def put(self, event: Event) -> None:
        """Something happened. Costs the caller nothing but this."""
        if self._thread is not None:
            self._events.put(event)

    def flush(self) -> None:
        """Wait until all that has happened so far is told."""
        if self._thread is not None:
            told = threading.Event()
            self._events.put(told)
            self._hurry.set()
            told.wait()

    def close(self) -> None:
        """Tell what is left, and close the observers."""
        if self._thread is not None:
            self._events.put(None)
            self._hurry.set()
            self._thread.join()
            self._thread = None

    def _tell(self) -> None:
        over = idle = False
        while not over:
            try:
                batch = [self._events.get(timeout=None if idle else IDLE)]
            except queue.Empty:
                idle = True
                self._each(methodcaller("on", []))
                continue
            idle = False
            self._hurry.wait(GATHER)
            self._hurry.clear()
            while not self._events.empty():
                batch.append(self._events.get())
            over = None in batch
            events = [e for e in batch if e is not None and not isinstance(e, threading.Event)]
            if events:
                self._each(methodcaller("on", events))
            for told in batch:
                if isinstance(told, threading.Event):
                    told.set()
        self._each(methodcaller("close"))

    def _each(self, call: Callable[[Observer], None]) -> None:
        for observer in list(self.observers):
            try:
                call(observer)
            except Exception:
                log.exception("observer %s raised; it is told no more", type(observer).__qualname__)
                self.observers.remove(observer)

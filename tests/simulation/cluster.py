"""The simulated cluster: a Backend whose workers do what the choices tell."""

import pickle
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from flsim.backend import Backend, RunInfo
from flsim.errors import Cause, WorkerLost
from flsim.heart import Lease
from flsim.job import Host
from flsim.payload import Frames, Shared
from flsim.resources import Place, Resources
from flsim.wire import NOT_LOADED, PROBE, Terms, reply
from flsim.worker import run_lease

from .choices import Choices
from .watched import kept


class Shelf(Shared):
    """Buffers that are shared, until they are closed."""

    def __init__(self, buffers: Sequence[memoryview], wrong: list[Exception]) -> None:
        self.wrong = wrong
        self._held = [bytes(b) for b in buffers]
        self.open = True

    def buffers(self) -> Sequence[bytes]:
        return self._held

    @kept
    def close(self) -> None:
        assert self.open, "what is shared was closed twice"
        self.open = False


@dataclass(slots=True, eq=False)
class AtWork:
    """A lease, or a probe, that a worker has."""

    place: str
    frames: Frames
    future: Future[Frames] = field(default_factory=Future)
    lease: int | None = None
    """None: it is a probe."""
    fate: Cause | None = None
    """How its worker ends, where that is decided and not told yet."""


OWN = {"python": "3.11"}
FOREIGN = "foreign"
"""The name of a place with other versions than the driver's."""


class Cluster(Backend):
    """Places that come and go, with workers in them.

    Args:
        wrong: takes what does not hold.
        shares: whether it shares what many messages carry.
    """

    def __init__(self, choices: Choices, wrong: list[Exception], shares: bool) -> None:
        self._pick = choices.randrange
        self.wrong = wrong
        self._shares = shares
        self.hosts: dict[str, Place] = {}
        self.at_work: list[AtWork] = []
        self.shelves: list[Shelf] = []
        self.changed: Callable[[], None] = lambda: None
        self.running = False
        self.patience = 60.0
        self.refuses = False
        """Whether to submit raises from now on."""
        self.refused = False
        self.unloaded = False
        """Whether a worker could not load the app."""
        self.probed_foreign = False
        """Whether the probe of the foreign place was answered."""
        self._inspected = ""

    # ---- what the engine asks of it

    def start(self, run: RunInfo) -> None:
        self.running, self.changed = True, run.changed

    def capacity(self) -> list[Place]:
        return list(self.hosts.values())

    def submit(self, frames: Frames, need: Resources, place: Place, devices: tuple[int, ...] = ()) -> Future[Frames]:
        if self.refuses:
            self.refused = True
            raise OSError("no lease is taken any more")
        return self._take(frames, place)

    @kept
    def _take(self, frames: Frames, place: Place) -> Future[Frames]:
        assert self.running, "a lease comes before the start or after the end"
        what, told, *_ = pickle.loads(frames.header)
        work = AtWork(place.name, frames)
        if what != PROBE:
            work.lease = Terms(*told).lease
            assert place.name != FOREIGN or not self.probed_foreign, "a lease goes where other versions are"
        if place.name not in self.hosts:
            work.future.set_exception(WorkerLost(Cause.NOT_STARTED, f"{place.name} is gone"))
        else:
            self.at_work.append(work)
        return work.future

    def stop(self) -> None:
        self.running = False
        for work in self.at_work:
            work.future.set_exception(WorkerLost(Cause.LEFT, "stopped"))
        self.at_work.clear()

    def abort(self, future: Future[Frames]) -> None:
        for work in self.at_work:
            if work.future is future and work.fate is None:
                work.fate = Cause.ABORTED

    def share(self, buffers: Sequence[memoryview], messages: int) -> Shared | None:
        if not self._shares or not self._pick(3):
            return None
        self.shelves.append(Shelf(buffers, self.wrong))
        return self.shelves[-1]

    # ---- what happens in it

    @kept
    def answer(self, work: AtWork) -> Frames:
        """What the worker sends back: it has run."""
        buffers: list[Any] = []
        for buffer in work.frames.buffers:
            if isinstance(buffer, Shelf):
                assert buffer.open, "what a lease needs was closed"
                buffers += buffer.buffers()
            else:
                buffers.append(buffer)
        self._inspected = work.place
        return run_lease(Frames(work.frames.header, buffers))

    def cannot_load(self) -> Frames:
        """What a worker sends back in which the app cannot be imported."""
        self.unloaded = True
        return reply(NOT_LOADED, "no such module")

    def inspect(self, requirements: Sequence[str]) -> Host:
        """Stands for ``inspect_host`` in a worker."""
        self.probed_foreign = self.probed_foreign or self._inspected == FOREIGN
        versions = {"python": "2.7"} if self._inspected == FOREIGN else OWN
        return Host(self._inspected, versions, ())

    def comes_back(self, work: AtWork, frames: Frames) -> None:
        """The reply of a worker arrives."""
        self.at_work.remove(work)
        work.future.set_result(frames)

    def dies(self, work: AtWork, cause: Cause) -> None:
        """The news of a death arrives."""
        self.at_work.remove(work)
        work.future.set_exception(WorkerLost(cause, f"{work.place}: {cause.value}"))


def lease_of(work: AtWork, leases: dict[int, Lease]) -> Lease | None:
    """What the engine holds at work there; None for a probe."""
    return None if work.lease is None else leases.get(work.lease)

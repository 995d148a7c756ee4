"""The engine inside of a simulation: its own code, on clocks and an event loop that are turned by hand."""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, TypeVar
from unittest import mock

from flsim import job
from flsim.engine import LARGEST_REPLY, Run
from flsim.events import Event, Observers
from flsim.job import Host
from flsim.linkstate import Inbox, LinkState

from .client import LARGEST
from .clock import VirtualLoop
from .cluster import OWN
from .watched import WatchedHeart

if TYPE_CHECKING:
    from .run import Simulated

T = TypeVar("T")

UNTAKEN = 16
"""Bytes of replies to a stream that may wait: fewer than any reply has, so one waits, and one more a slot."""


@contextlib.contextmanager
def instead(world: "Simulated") -> Iterator[None]:
    """Put what is simulated in the place of what is real."""
    job._jobs.clear()  # which a worker process keeps from run to run
    with contextlib.ExitStack() as stack:
        for target, what in {
            "flsim.engine.asyncio.new_event_loop": lambda: world.loop,
            "flsim.engine.LinkState": partial(SimulatedLink, world),
            "flsim.engine.HeldFolder": lambda prefix: SimpleNamespace(path=Path("nowhere"), remove=lambda: None),
            "flsim.linkstate.Heart": lambda needs: WatchedHeart(needs, world.happened, world.wrong),
            "flsim.linkstate.UNTAKEN": UNTAKEN,
            "flsim.engine.host_memory": lambda: LARGEST / LARGEST_REPLY,
            "flsim.backend.BackendSpec.load": lambda spec: lambda options: world.cluster,
            "flsim.places.inspect_host": lambda requirements: Host("driver", OWN, ()),
            "flsim.worker.inspect_host": world.cluster.inspect,
            **{f"flsim.{module}.time": world.clocks for module in ("linkstate", "grid", "message", "worker")},
        }.items():
            stack.enter_context(mock.patch(target, what))
        yield


class SimulatedRun(Run):
    """A run whose event loop is turned in the thread of its ServerApp, while that waits."""

    _link: "SimulatedLink"
    _loop: VirtualLoop

    def _drive(self) -> None: ...

    def _on_loop(self, coroutine: Coroutine[Any, Any, T]) -> T:
        task = self._loop.create_task(coroutine)
        try:
            self._link.world.complete(task.done)
        finally:
            if self._link.world.failed:
                for left in asyncio.all_tasks(self._loop):
                    left.cancel()
                self._loop.turn()
        return task.result()


class SimulatedLink(LinkState):
    """The LinkState of a world: who waits lets things happen meanwhile."""

    heart: WatchedHeart

    def __init__(self, world: "Simulated", fleet: Any, run_id: int, loop: VirtualLoop, observers: Observers) -> None:
        super().__init__(fleet, run_id, loop, observers, clock=loop.time)
        self.world = world

    def wait(self, inbox: Inbox, ready: Callable[[], bool], timeout: float | None) -> bool:
        self.world.live(lambda: self.failure is not None or ready(), timeout)
        self._raise_failure()
        return ready()


class Recorder(Observers):
    def __init__(self, world: "Simulated") -> None:
        super().__init__([])
        self._world = world

    def put(self, event: Event) -> None:
        self._world.on(event)

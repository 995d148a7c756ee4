"""Places are inspected before they are used, where a backend has other hosts than the driver's."""

import asyncio
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

import pytest

from flsim.backend import Backend, BackendSpec, HostOptions, RunInfo
from flsim.errors import BackendBroken, Cause, UnsupportedResources, WorkerLost
from flsim.events import Observers
from flsim.fleet import Fleet, Kind
from flsim.job import Host, inspect_host
from flsim.linkstate import LinkState
from flsim.payload import Frames
from flsim.places import Places
from flsim.resources import Place, Resources
from flsim.testing.apps import client
from flsim.worker import run_lease

SPEC = BackendSpec("hosts", "", "test_places:Hosts", HostOptions, frozenset({"cpus", "hosts"}))


class Hosts(Backend):
    """A cluster of the test's making: leases run at once, where the test says that their place is there."""

    def __init__(self, *names: str) -> None:
        self.names = list(names)
        self.gone: set[str] = set()
        self.probed: list[str] = []

    def start(self, run: RunInfo) -> None: ...

    def stop(self) -> None: ...

    def capacity(self) -> list[Place]:
        return [Place(n, Resources(cpus=2), 2) for n in self.names]

    def submit(self, frames: Frames, need: Resources, place: Place, devices: tuple[int, ...] = ()) -> Future[Frames]:
        self.probed.append(place.name)
        future: Future[Frames] = Future()
        if place.name in self.gone:
            future.set_exception(WorkerLost(Cause.NOT_STARTED))
        else:
            future.set_result(run_lease(frames))
        return future


def take(backend: Hosts, *, requirements: tuple[str, ...] = (), later: Any = None) -> tuple[list[str], list[str]]:
    """Take the places, and again after ``later``. Returns the names of those in use, and what was announced."""
    said: list[str] = []

    async def go() -> list[str]:
        loop = asyncio.get_running_loop()
        link = LinkState(Fleet([Kind("k", client, 4)]), 1, loop, Observers([]))
        places = Places(link, backend, SPEC, requirements, said.append)
        await places.first()
        if later is not None:
            later()
            await places.update()
        return [p.name for p in places.known]

    return asyncio.run(go()), said


def test_each_place_is_inspected_once() -> None:
    backend = Hosts("a", "b")
    assert take(backend, later=lambda: backend.names.append("c"))[0] == ["a", "b", "c"]
    assert sorted(backend.probed) == ["a", "b", "c"]


def test_a_distribution_that_the_app_needs_and_a_host_lacks_is_named_with_the_worker() -> None:
    with pytest.raises(
        BackendBroken, match=r"worker \S+:\d+: nothing-of-this-name is not installed; numpy is .* not <1"
    ):
        take(Hosts("a"), requirements=("nothing-of-this-name", "numpy<1", "pytest", "tomli; python_version < '3'"))


def test_versions_that_differ_from_the_drivers_are_shown_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    def ours(requirements: tuple[str, ...]) -> Host:
        here = inspect_host(requirements)
        return replace(here, versions={**here.versions, "numpy": "0.1", "python": "3.1"})

    monkeypatch.setattr("flsim.places.inspect_host", ours)
    with pytest.raises(BackendBroken, match=r"python is 3\.\d+, here 3\.1; numpy is \S+, here 0\.1"):
        take(Hosts("a"))


def test_a_worker_that_joins_with_other_versions_is_announced_and_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = Hosts("a")

    def joins() -> None:
        def other(requirements: tuple[str, ...]) -> Host:
            here = inspect_host(requirements)
            return replace(here, versions={**here.versions, "numpy": "9.9"})

        monkeypatch.setattr("flsim.worker.inspect_host", other)
        backend.names.append("b")

    known, said = take(backend, later=joins)
    assert known == ["a"]
    assert len(said) == 1
    assert "a worker that joined is not used" in said[0]
    assert "numpy is 9.9" in said[0]


def test_a_place_that_goes_while_it_is_inspected_stops_nothing() -> None:
    backend = Hosts("a", "b")
    backend.gone.add("b")
    assert take(backend)[0] == ["a", "b"]


def test_a_cluster_without_any_worker_is_waited_for_and_then_refused() -> None:
    backend = Hosts()
    with pytest.raises(UnsupportedResources, match="there is no place at all"):
        take(backend)
    backend.patience = 0.2
    with pytest.raises(UnsupportedResources, match="there is no place at all"):
        take(backend)

    class Growing(Hosts):
        asked = 0

        def capacity(self) -> list[Place]:
            self.asked += 1
            self.names = ["late"] if self.asked > 5 else []
            return super().capacity()

    growing = Growing()
    growing.patience = 30
    known, said = take(growing)
    assert known == ["late"]
    assert said == ["there is no worker yet: waiting up to 30 s for the first"]


def test_a_place_that_is_gone_is_not_used_while_a_new_one_is_inspected() -> None:
    class Slow(Hosts):
        def submit(
            self, frames: Frames, need: Resources, place: Place, devices: tuple[int, ...] = ()
        ) -> Future[Frames]:
            if place.name != "new":
                return super().submit(frames, need, place, devices)
            self.probe: Future[Frames] = Future()
            self.answer = frames
            return self.probe

    backend = Slow("a", "b")

    async def go() -> None:
        link = LinkState(Fleet([Kind("k", client, 4)]), 1, asyncio.get_running_loop(), Observers([]))
        places = Places(link, backend, SPEC, (), lambda text: None)
        await places.first()
        backend.names = ["a", "new"]
        updating = asyncio.create_task(places.update())
        await asyncio.sleep(0)
        backend.names = ["new"]
        again = asyncio.create_task(places.update())
        await asyncio.sleep(0)
        assert not link.heart.at_once(0), "a place that is gone is offered leases"
        backend.probe.set_result(run_lease(backend.answer))
        await asyncio.gather(updating, again)
        assert [p.name for p in places.known] == ["new"]

    asyncio.run(go())

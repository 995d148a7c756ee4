"""The places of a run: asked of the backend, inspected before they are used, and waited for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from flsim.backend import Backend, BackendSpec
from flsim.errors import BackendBroken, UnsupportedResources, WorkerLost
from flsim.job import Host, inspect_host
from flsim.resources import Place, Resources
from flsim.wire import pack_probe, unpack_host
from flsim.worker import send

if TYPE_CHECKING:
    from flsim.linkstate import LinkState

NOTHING = Resources(cpus=0)
"""What looking around needs."""


class Places:
    """The places that a backend has, as the LinkState may use them.

    Where a backend has other hosts than the driver's, a worker at each new place is asked what is installed there:
    a place with other versions than the driver's, or without what the app needs, is not used.

    Args:
        requirements: what the app needs, as its pyproject gives it.
        announce: shows the user one line.
    """

    def __init__(
        self,
        link: LinkState,
        backend: Backend,
        spec: BackendSpec,
        requirements: Sequence[str],
        announce: Callable[[str], None],
    ) -> None:
        self.known: list[Place] = []
        self._link = link
        self._backend = backend
        self._inspects = "hosts" in spec.honours
        self._requirements = requirements
        self._announce = announce
        self._ours = inspect_host(())
        self._problems: dict[str, str] = {}
        """What is wrong with each place that was inspected, by its name; empty where it can be used."""
        self._turn = asyncio.Lock()
        self._updated = asyncio.Event()

    async def first(self) -> None:
        """Take the places that there are at the start, and wait for the first where there are none.

        Raises:
            BackendBroken: a place cannot be used; with all that is wrong there.
            UnsupportedResources: a kind of node fits into none of them.
        """
        await self.update()
        end = self._link.loop.time() + self._backend.patience
        if self._backend.patience and self._empty() and not self._wrong():
            self._announce(f"there is no worker yet: waiting up to {self._backend.patience:g} s for the first")
            while self._empty() and not self._wrong() and (left := end - self._link.loop.time()) > 0:
                self._updated.clear()
                # The backend's `changed` comes before there is a Run to hear it, so it is asked again now and then.
                await asyncio.wait([self._link.loop.create_task(self._updated.wait())], timeout=min(left, 0.5))
                await self.update()
        if problems := self._wrong():
            raise BackendBroken("workers cannot be used as they are:\n" + "\n".join(problems))
        for i, kind in enumerate(self._link.fleet.kinds):
            if not self._link.heart.at_once(i):
                raise UnsupportedResources(
                    f"nodes of kind {kind.name!r} need {kind.resources} each, which fits nowhere: {self._shown()}"
                )

    async def update(self) -> None:
        """Take the places that there are now."""
        self._take()  # at once, lest leases go to those that are gone while others are inspected
        async with self._turn:
            if self._inspects:
                new = [p for p in self._backend.capacity() if p.leases and p.name not in self._problems]
                await asyncio.gather(*(self._inspect(p) for p in new))
            self._take()
            self._updated.set()

    def _take(self) -> None:
        self.known = [
            p
            for p in self._backend.capacity()
            if not self._inspects or not p.leases or self._problems.get(p.name, "not inspected") == ""
        ]
        self._link.set_places(self.known)

    async def _inspect(self, place: Place) -> None:
        try:
            frames = await send(self._link, self._backend, pack_probe(self._requirements), NOTHING, place)
        except WorkerLost:  # it is gone, or it is a host, where the next lease has a better one
            self._problems.setdefault(place.name, "")
            return
        host = unpack_host(frames)
        self._problems[place.name] = problem = self._problem(host)
        if problem and self.known:
            self._announce(f"a worker that joined is not used: {problem}")

    def _problem(self, host: Host) -> str:
        ours = self._ours.versions
        wrong = [f"{k} is {v}, here {ours[k]}" for k, v in host.versions.items() if v != ours[k]]
        wrong += host.missing
        return f"worker {host.worker}: {'; '.join(wrong)}" if wrong else ""

    def _wrong(self) -> list[str]:
        return sorted({p for p in self._problems.values() if p})

    def _empty(self) -> bool:
        return not any(p.leases and p.resources.cpus for p in self.known)

    def _shown(self) -> str:
        return "; ".join(f"{p.name} has {p.resources}" for p in self.known) or "there is no place at all"

"""Subject, the backend that is checked, and Desk, at which a check uses it without the engine."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flsim.apps import ServerApp
from flsim.backend import Backend, BackendSpec, RunInfo
from flsim.engine import Plan
from flsim.fleet import Kind
from flsim.options import make_options
from flsim.payload import Frames, encode
from flsim.project import Project
from flsim.records import ConfigRecord, RecordDict
from flsim.resources import Place, Resources, slots
from flsim.result import RunResult
from flsim.testing.apps import client
from flsim.worker import Job, JobKind, Outcome, pack_messages, unpack

PATIENCE = 60.0
"""Seconds that a check waits for a lease: a hang is found by this."""

NODES = 20


@dataclass(frozen=True, slots=True)
class Subject:
    """A backend that is checked.

    Args:
        spec: what it offers.
        options: with these it has at least 2 cpus, for two leases at once where it can run them.
        variants: further options under which a run must come to the same result.
        known: checks that are known to fail, by name, with the reason. They must fail.
    """

    spec: BackendSpec
    options: Mapping[str, Any] = field(default_factory=dict)
    variants: Sequence[Mapping[str, Any]] = ()
    known: Mapping[str, str] = field(default_factory=dict)

    def run(
        self,
        server: ServerApp,
        *,
        nodes: int = NODES,
        kinds: Sequence[Kind] = (),
        seed: int = 7,
        options: Mapping[str, Any] | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> RunResult:
        """Run ``server`` with the checks' ClientApp on this backend, through the engine."""
        fleet = tuple(kinds) or (Kind("default", client, nodes),)
        project = Project("check", server, fleet, config or {}, declared=False)
        made = make_options(self.spec, self.options if options is None else options)
        return Plan(project, self.spec, made, seed).run()

    @contextlib.contextmanager
    def desk(self, need: Resources | None = None) -> Iterator[Desk]:
        """A Desk at which the backend is started."""
        need = need or Resources()
        backend = self.spec.load()(make_options(self.spec, self.options))
        folder = Path(tempfile.mkdtemp(prefix="flsim-check-"))
        job = Job(1, 7, NODES, {}, (JobKind(client, {}, need.threads),)).encoded()
        info = RunInfo(
            run_id=1, seed=7, folder=folder, needs=(need,), nodes=NODES, job=job,
            changed=lambda: None, announce=lambda text: None,
        )  # fmt: skip
        desk = Desk(backend, info, need)
        try:
            yield desk
        finally:
            backend.stop()
            shutil.rmtree(folder)


@dataclass(slots=True)
class Desk:
    """Leases by hand: what the engine does, one step at a time."""

    backend: Backend
    info: RunInfo
    need: Resources
    _next: int = 1

    def start(self) -> Desk:
        """Start the backend."""
        self.backend.start(self.info)
        return self

    def place(self) -> Place:
        """A place that takes a lease."""
        places = [p for p in self.backend.capacity() if p.leases]
        assert places, f"capacity() has no place that takes a lease: {self.backend.capacity()}"
        return places[0]

    def places(self, count: int) -> list[Place]:
        """Places for ``count`` leases at once, or as many as there are."""
        return [p for p in self.backend.capacity() for _ in range(slots(p, self.need))][:count]

    def frames(self, action: str, *, node: int = 2, **plan: Any) -> Frames:
        """A lease of one message, that asks the checks' ClientApp for ``query.ACTION``."""
        blob = encode(RecordDict({"plan": ConfigRecord(plan)}))
        message = (self._next, node, 0, f"query.{action}", "", 0.0, None, blob, None)
        self._next += 1
        return pack_messages([message], self.info.job, 0, own_process=True)

    def submit(self, action: str, *, place: Place | None = None, **plan: Any) -> Future[Frames]:
        """Submit such a lease."""
        return self.backend.submit(self.frames(action, **plan), self.need, place or self.place())

    def answer(self, action: str, *, place: Place | None = None, **plan: Any) -> Outcome:
        """Submit such a lease and wait for its outcome."""
        return outcome(self.submit(action, place=place, **plan))


def outcome(future: Future[Frames]) -> Outcome:
    """The outcome of a lease of one message. Raises what the future failed with."""
    outcomes = unpack(future.result(PATIENCE))[1]
    assert len(outcomes) == 1, f"one message was sent, {len(outcomes)} outcomes came back"
    return outcomes[0]

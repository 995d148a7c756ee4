"""Subject, the backend that is checked, and Desk, at which a check uses it without the engine."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from flsim.apps import ServerApp
from flsim.backend import Backend, BackendSpec, RunInfo
from flsim.blackbox import BlackBoxes
from flsim.envelope import Generators
from flsim.errors import WorkerLost
from flsim.events import Observer
from flsim.fleet import Kind
from flsim.job import Job, JobKind, job_digest
from flsim.options import make_options
from flsim.payload import Frames, blob_of
from flsim.plan import Plan
from flsim.project import Project
from flsim.records import ConfigRecord, RecordDict
from flsim.resources import Place, Resources, Room, slots
from flsim.result import RunResult
from flsim.testing.apps import client
from flsim.testing.watch import until
from flsim.wire import Outcome, Packed, Terms, outcomes_of, pack_lease, unpack_reply, with_job

NODES = 20


@dataclass(frozen=True, slots=True)
class Subject:
    """A backend that is checked.

    Args:
        spec: what it offers.
        options: with these it has at least 2 cpus, for two leases at once where it can run them.
        variants: further options under which a run must come to the same result.
        known: checks that are known to fail, by name, with the reason. They must fail.
        patience: seconds that a check waits for a lease, or for ``stop``: a hang is found by it.
        linger: whether a check waits for what may outlive a killed driver for a while; else it ends that itself.
    """

    spec: BackendSpec
    options: Mapping[str, Any] = field(default_factory=dict)
    variants: Sequence[Mapping[str, Any]] = ()
    known: Mapping[str, str] = field(default_factory=dict)
    patience: float = 60.0
    linger: bool = True

    @classmethod
    def of(cls, spec: BackendSpec, options: Mapping[str, Any]) -> Subject:
        """A subject with ``options``. Where none are given and the backend can be told its cpus, it has two of them,
        and its variants have one and four."""
        if options or "cpus" not in {f.name for f in fields(spec.options)}:
            return cls(spec, options)
        return cls(spec, {"cpus": 2.0}, variants=[{"cpus": 1.0}, {"cpus": 4.0}])

    def run(
        self,
        server: ServerApp,
        *,
        nodes: int = NODES,
        kinds: Sequence[Kind] = (),
        seed: int = 7,
        options: Mapping[str, Any] | None = None,
        config: Mapping[str, Any] | None = None,
        observers: Sequence[Observer] = (),
        run_dir: Path | None = None,
    ) -> RunResult:
        """Run ``server`` with the checks' ClientApp on this backend, through the engine; with ``run_dir`` for its
        folder."""
        fleet = tuple(kinds) or (Kind("default", client, nodes),)
        project = Project("check", server, fleet, config or {}, declared=False)
        return self.run_project(project, seed=seed, options=options, observers=observers, run_dir=run_dir)

    def run_project(
        self,
        project: Project,
        *,
        seed: int = 7,
        options: Mapping[str, Any] | None = None,
        observers: Sequence[Observer] = (),
        run_dir: Path | None = None,
    ) -> RunResult:
        """Run a project on this backend, through the engine."""
        made = make_options(self.spec, self.options if options is None else options)
        return Plan(project, self.spec, made, seed).run(observers, run_dir)

    @contextlib.contextmanager
    def desk(self, need: Resources | None = None, time_limit: float | None = None) -> Iterator[Desk]:
        """A Desk at which the backend can be started.

        Args:
            need: of each lease.
            time_limit: of each message, in seconds.
        """
        need = need or Resources()
        backend = self.spec.load()(make_options(self.spec, self.options))
        folder = Path(tempfile.mkdtemp(prefix="flsim-check-"))
        memory = need.memory if "memory" in self.spec.honours else 0
        job = Job(1, 7, NODES, {}, (JobKind(client, {}, need, time_limit, memory),)).encoded()
        info = RunInfo(
            run_id=1, seed=7, folder=folder, needs=(need,), nodes=NODES, job=job,
            changed=lambda: None, announce=lambda text: None,
        )  # fmt: skip
        isolated, near = "isolation" in self.spec.honours, "hosts" not in self.spec.honours
        desk = Desk(backend, info, need, self.patience, time_limit, isolated, BlackBoxes(folder, near))
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
    patience: float
    time_limit: float | None
    isolated: bool
    boxes: BlackBoxes
    _next: int = 1
    _leases: dict[Future[Frames], int] = field(default_factory=dict)

    def start(self) -> Desk:
        """Start the backend."""
        self.backend.start(self.info)
        return self

    def place(self) -> Place:
        """A place that takes a lease, once there is one: after a death its worker may have to be replaced first."""
        assert until(lambda: bool(self.places(1)), self.patience), "capacity() has no place that takes a lease"
        return self.places(1)[0]

    def places(self, count: int) -> list[Place]:
        """Places for ``count`` leases at once, or as many as there are."""
        return [p for p in self.backend.capacity() for _ in range(slots(p, self.need))][:count]

    def frames(self, action: str, *, node: int = 2, **plan: Any) -> Frames:
        """A lease of one message, that asks the checks' ClientApp for ``query.ACTION``."""
        blob = blob_of(RecordDict({"plan": ConfigRecord(plan)}))
        message = Packed(self._next, node, 0, f"query.{action}", "", 0.0, None, blob, None)
        self._next += 1
        folder = str(self.info.folder) if self.isolated else ""
        terms = Terms(message.message_id, folder, job_digest(self.info.job), 0, Generators.SEED_AND_RESTORE)
        return with_job(pack_lease([message], terms), self.info.job)

    def submit(self, action: str, *, place: Place | None = None, **plan: Any) -> Future[Frames]:
        """Submit such a lease."""
        place = place or self.place()
        lease, devices = self._next, Room(place).take(self.need)
        future = self.backend.submit(self.frames(action, **plan), self.need, place, devices or ())
        self._leases[future] = lease
        return future

    def answer(self, action: str, *, place: Place | None = None, **plan: Any) -> Outcome:
        """Submit such a lease and wait for its outcome."""
        return self.outcome(self.submit(action, place=place, **plan))

    def result(self, future: Future[Frames]) -> Frames:
        """What came back. Raises what the future failed with, as the engine reads it."""
        assert wait([future], self.patience).done, f"a lease is not back after {self.patience:g} s"
        try:
            return future.result()
        except WorkerLost as e:
            raise self.boxes.explain(e, self._leases[future], self.time_limit, 0.0) from e

    def outcome(self, future: Future[Frames]) -> Outcome:
        """The outcome of a lease of one message. Raises what the future failed with, as the engine reads it."""
        frames = self.result(future)
        reply = unpack_reply(frames)
        self.boxes.heard(reply.boxed)
        outcomes = outcomes_of(reply, frames.buffers)
        assert len(outcomes) == 1, f"one message was sent, {len(outcomes)} outcomes came back"
        return outcomes[0]

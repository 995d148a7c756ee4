"""Wires a run: the apps, the LinkState, the worker loops and a backend."""

from __future__ import annotations

import asyncio
import bdb
import contextlib
import dataclasses
import signal
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from flsim import guard
from flsim.apps import Context
from flsim.backend import Backend, BackendSpec, RunInfo
from flsim.blackbox import BlackBoxes
from flsim.breakpoints import breakpoints
from flsim.code import Reference, import_reference
from flsim.envelope import Generators, describe, kept_globals, seed_globals, traceback_of
from flsim.errors import BackendBroken, ConfigError, EncodeError, FlsimError
from flsim.events import Observers, RunFinished, RunStarted, ServerAppCalled
from flsim.fleet import Fleet
from flsim.folder import HeldFolder
from flsim.grid import Grid
from flsim.host import host_memory
from flsim.job import Job, JobKind, job_digest
from flsim.linkstate import LinkState
from flsim.message import SERVER_NODE_ID
from flsim.places import Places
from flsim.quarantine import Quarantine
from flsim.records import RecordDict
from flsim.result import RunResult, digest
from flsim.settings import settings_of
from flsim.states import NodeStates
from flsim.worker import JobSent, worker_loop

if TYPE_CHECKING:
    from flsim.plan import Plan

LARGEST_REPLY = 0.5
"""Share of what the driver may hold in memory that one reply may have: a larger one would be its end."""

P = ParamSpec("P")
T = TypeVar("T")


_at_work: set[Run] = set()  # of this process


class Run:
    """One run: the ServerApp in the caller's thread, all else on one event loop in a thread of its own."""

    def __init__(self, plan: Plan, observers: Observers, run_dir: Path | None = None) -> None:
        self._plan = plan
        self._run_dir = run_dir
        self._fleet = Fleet(plan.project.kinds)
        self._observers = observers
        self._loop = asyncio.new_event_loop()
        self._run_id = _run_id(plan.seed)
        self._link = LinkState(self._fleet, self._run_id, self._loop, observers)
        self._backend: Backend | None = None
        self._places: Places | None = None
        self._sent: JobSent | None = None
        self._loops: list[asyncio.Task[None]] = []
        self._loops_of = [0] * len(self._fleet.kinds)
        self._seconds = 0.0

    def execute(self) -> RunResult:
        """Run to the end. Raises what the ServerApp raises, or what ended the run."""
        self._observers.start()
        try:
            result = self._prepare()
        except BaseException as e:
            self._observers.put(RunFinished(self._seconds, describe(e), traceback_of(e), _status(e)))
            raise
        else:
            self._observers.put(RunFinished(self._seconds, result=result))
            return result
        finally:
            self._observers.close()

    def _prepare(self) -> RunResult:
        server = self._plan.project.server
        if isinstance(server, Reference):
            server = import_reference(server)
        job = self._make_job()
        folder = HeldFolder("flsim-run-")
        others = len(_at_work)
        _at_work.add(self)
        try:
            with breakpoints(self._observers, self._link.fail):
                return self._execute(server, job, folder.path, others)
        finally:
            _at_work.discard(self)
            folder.remove()

    def _execute(self, server: Any, job: bytes, folder: Path, others: int) -> RunResult:
        plan, project = self._plan, self._plan.project
        if others:
            self._link.announce(
                "another run of this process is at work, and shares the global random generators with this one's "
                "ServerApp: use context.rng there"
            )
        thread = threading.Thread(target=self._drive, name="flsim-engine", daemon=True)
        thread.start()
        begun: float | None = None
        try:
            self._on_loop(self._start(job, folder))
            self._observers.flush()  # so that the first line is about the run, and not the app's
            grid = Grid(self._link, self._observers)
            run_config = MappingProxyType(dict(project.config))
            seed = (plan.seed, (SERVER_NODE_ID,))
            context = Context(self._run_id, SERVER_NODE_ID, {}, RecordDict(), run_config, seed, run_dir=self._run_dir)
            with kept_globals():
                seed_globals(*seed)
                begun = time.perf_counter()
                self._observers.put(ServerAppCalled())
                server(grid, context)
            if self._link.failure is not None:
                raise self._link.failure
            if type(context.state) is not RecordDict:
                raise ConfigError(f"the ServerApp left a {type(context.state).__name__} as context.state")
        finally:
            if begun is not None:
                self._seconds = time.perf_counter() - begun
            self._link.close()
            try:
                self._on_loop(self._stop())
            finally:
                self._loop.call_soon_threadsafe(self._loop.stop)
                thread.join()
                self._loop.close()
        return RunResult(
            app=project.name,
            state=context.state,
            digest=digest(context.state),
            metrics=tuple(
                {"round": r.round, **({} if r.node is None else {"node": r.node}), **r.metrics} for r in grid.reports
            ),
            counts=self._link.counts,
            seconds=self._seconds,
            seed=plan.seed,
            backend=plan.spec.name,
            options=dataclasses.asdict(plan.options),
            nodes=self._fleet.nodes,
            settings=settings_of(plan),
            run_dir=self._run_dir,
        )

    # ---- on the event loop

    def _drive(self) -> None:
        # Processes that a backend starts from here inherit the mask: Ctrl-C in a terminal reaches the driver,
        # which ends them, and never a ClientApp as a KeyboardInterrupt of its own.
        with _blocked(signal.SIGINT):
            asyncio.set_event_loop(self._loop)
            self._loop.set_exception_handler(self._unheard)
            self._loop.run_forever()

    def _unheard(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """A callback has raised, such as the one that hands out leases: without it the run would wait for ever."""
        if "handle" in context and "exception" in context:
            self._fail(context["exception"])
        else:
            loop.default_exception_handler(context)

    def _on_loop(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    async def _start(self, job: bytes, folder: Path) -> None:
        self._link.states = NodeStates(folder)
        spec = self._plan.spec
        info = RunInfo(
            run_id=self._run_id,
            seed=self._plan.seed,
            folder=folder,
            needs=tuple(k.resources for k in self._fleet.kinds),
            nodes=self._fleet.nodes,
            job=job,
            changed=lambda: self._link.call_soon(self._changed),
            announce=self._link.announce,
        )
        try:
            self._backend = backend = spec.load()(self._plan.options)
            backend.start(info)
            self._link.share = backend.share
            places = Places(self._link, backend, spec, self._plan.project.requirements, self._link.announce)
            await places.first()
        except FlsimError:
            raise
        except Exception as e:  # a backend is foreign code, and this is where its name is known
            raise BackendBroken(f"backend {spec.name!r} cannot start: {describe(e)}") from e
        self._places = places
        generators = Generators.SEED
        if "isolation" not in spec.honours:
            alone = sum(p.leases for p in places.known) <= 1
            generators = Generators.SEED_AND_RESTORE if alone else Generators.LEAVE
        isolated = "isolation" in spec.honours
        boxes = BlackBoxes(folder, near="hosts" not in spec.honours)
        self._sent = JobSent(job, job_digest(job), generators, boxes, isolated, "abort" in spec.honours)
        if self._run_dir is not None:
            self._link.quarantine = Quarantine(
                self._run_dir, job, self._fleet.kinds, generators, "hosts" in spec.honours, self._link.announce
            )
        if generators is Generators.LEAVE:
            self._link.announce(
                f"backend {spec.name} runs several ClientApps in one process: the global random generators "
                "are not seeded, use context.rng"
            )
        if any(k.resources.memory for k in self._fleet.kinds):
            if not _enforces_memory(spec):
                self._link.announce(f"backend {spec.name} books memory, and does not enforce it")
            elif not guard.measurable():
                self._link.announce("memory is booked, not enforced: this system does not tell what a process holds")
        if not isolated and any(k.time_limit is not None for k in self._fleet.kinds):
            self._link.announce(
                f"backend {spec.name} cannot end a ClientApp, since it has no process of its own: "
                "time_limit is not enforced"
            )
        self._observers.put(
            RunStarted(
                app=self._plan.project.name,
                backend=spec.name,
                places=tuple(f"{p.name}: {p.resources}" for p in places.known),
                slots=self._link.heart.at_once(0),
                nodes=self._fleet.nodes,
                seed=self._plan.seed,
            )
        )
        self._more_loops()
        self._link.watch()

    def _changed(self) -> None:
        """The backend says that its capacity is another."""
        if self._places is not None:
            self._begin(self._change, self._places)

    async def _change(self, places: Places) -> None:
        await places.update()
        self._more_loops()

    def _begin(self, work: Callable[P, Coroutine[Any, Any, None]], *args: P.args, **kwargs: P.kwargs) -> None:
        """Have the event loop do this until the run is over. What it raises ends the run: nobody waits for it, and a
        worker loop that ended unheard would leave the run waiting."""
        self._loops.append(self._loop.create_task(self._heard(work, *args, **kwargs)))

    async def _heard(self, work: Callable[P, Coroutine[Any, Any, None]], *args: P.args, **kwargs: P.kwargs) -> None:
        try:
            await work(*args, **kwargs)
        except asyncio.CancelledError:
            raise
        except BaseException as e:
            self._fail(e)

    def _fail(self, error: BaseException) -> None:
        if not isinstance(error, FlsimError):
            broken = BackendBroken(f"the engine failed with {describe(error)}")
            broken.__cause__ = error
            error = broken
        self._link.fail(error)

    def _more_loops(self) -> None:
        """One worker loop per slot of each kind. Where there are fewer slots than before, loops wait."""
        if self._backend is None or self._sent is None:
            return
        for i, kind in enumerate(self._fleet.kinds):
            while self._loops_of[i] < min(kind.nodes, self._link.heart.at_once(i)):
                self._loops_of[i] += 1
                self._begin(worker_loop, self._link, self._backend, self._sent, i)

    async def _stop(self) -> None:
        if self._link.quarantine is not None:
            self._link.quarantine.close()
        backend, self._backend, self._places = self._backend, None, None
        if backend is not None:
            backend.stop()
        if self._sent is not None:
            self._sent.boxes.close()
        for loop in self._loops:
            loop.cancel()
        await asyncio.gather(*self._loops, return_exceptions=True)
        self._link.states.close()

    # ---- inside

    def _make_job(self) -> bytes:
        plan = self._plan
        enforced = _enforces_memory(plan.spec)
        kinds = tuple(
            JobKind(k.client, dict(k.config), k.resources, k.time_limit, k.resources.memory if enforced else 0)
            for k in self._fleet.kinds
        )
        references = [k.client for k in kinds if isinstance(k.client, Reference)]
        archives = {}
        if "hosts" in plan.spec.honours:
            archives = {r.code.digest: r.code.archive() for r in references}
        largest = int(LARGEST_REPLY * host_memory())
        job = Job(self._run_id, plan.seed, self._fleet.nodes, dict(plan.project.config), kinds, archives, largest)
        try:
            return job.encoded()
        except Exception as e:  # whatever the pickling of the user's ClientApp raises
            raise EncodeError(f"the ClientApp cannot be sent to workers: {describe(e)}") from e


def _status(error: BaseException) -> str:
    """How a run ended that ended so: by its own fault, or because somebody wanted it to."""
    own = isinstance(error, (Exception, SystemExit)) and not isinstance(error, bdb.BdbQuit)
    return "failed" if own else "interrupted"


def _enforces_memory(spec: BackendSpec) -> bool:
    return {"memory", "isolation"} <= spec.honours


def _run_id(seed: int) -> int:
    """The run's id, 63 bits: a function of the seed, so that what the app sees repeats."""
    import numpy as np

    return int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0]) >> 1


@contextlib.contextmanager
def _blocked(signal_: signal.Signals) -> Iterator[None]:
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal_})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

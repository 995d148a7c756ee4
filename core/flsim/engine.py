"""Wires a run: the apps, the LinkState, the worker loops and a backend."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import secrets
import signal
import threading
import time
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, TextIO, TypeVar

from flsim.apps import Context
from flsim.backend import Backend, BackendSpec, RunInfo
from flsim.envelope import describe, kept_globals, seed_globals
from flsim.errors import BackendBroken, ConfigError, EncodeError, FlsimError, UnsupportedResources
from flsim.events import Announced, Observer, Observers, RunFinished, RunStarted
from flsim.fleet import Fleet, Kind
from flsim.folder import run_folder
from flsim.grid import Grid
from flsim.hooks import RunView
from flsim.linkstate import LinkState
from flsim.message import SERVER_NODE_ID
from flsim.options import make_options
from flsim.plugins import Plugins, refuse_namesake
from flsim.project import Project, Reference, check_seed, import_reference, load_project, parse_resources
from flsim.records import RecordDict
from flsim.resources import Place, Resources
from flsim.result import RunResult, digest
from flsim.worker import Job, JobKind, worker_loop

T = TypeVar("T")


def run(
    app: Any,
    client: Any = None,
    *,
    nodes: int | None = None,
    backend: str | None = None,
    options: Mapping[str, Any] | None = None,
    config: Mapping[str, Any] | None = None,
    seed: int | None = None,
    resources: Resources | Mapping[str, Any] | None = None,
    quiet: bool = False,
) -> RunResult:
    """Run an app and return its result.

    Args:
        app: the path of an app, or a ServerApp.
        client: with a ServerApp: a ClientApp, or a list of :class:`Kind`.
        nodes: how many nodes; with a path: instead of what the app says.
        backend: its name; None: what the app says, else loky where it is installed, else serial.
        options: the backend's, beside or instead of what the app says.
        config: the app's ``run_config``, beside or instead of what the app says.
        seed: makes the run repeatable; None: what the app says, else one is drawn.
        resources: what one ClientApp needs, as Resources or as a dict of its fields.
        quiet: show nothing; otherwise a line a round goes to stderr.

    Raises:
        InputError: bad input, before anything runs.
        AppLoadError: the app cannot be imported.
        BackendBroken: the backend cannot go on.
        Whatever the ServerApp raises.
    """
    import sys

    plugins = Plugins()
    project = _project(app, client, nodes)
    if config:
        project = project.with_config(config)
    if resources is not None:
        if not isinstance(resources, Resources):
            resources = parse_resources(resources)
        project = project.with_resources({f.name: getattr(resources, f.name) for f in dataclasses.fields(resources)})
    plan = make_plan(plugins, project, backend=backend, options=options or {}, seed=seed)
    return plan.run(plan.observers(plugins, None if quiet else sys.stderr))


def _project(app: Any, client: Any, nodes: int | None) -> Project:
    if isinstance(app, (str, Path)):
        if client is not None:
            raise ConfigError("client goes with a ServerApp; an app at a path names its own")
        project = load_project(app)
        return project if nodes is None else project.with_nodes(nodes)
    if client is None:
        raise ConfigError("a ServerApp needs its client: a ClientApp, or a list of Kind")
    if isinstance(client, (list, tuple)):
        if nodes is not None:
            raise ConfigError("nodes is for a fleet of one kind; a list of Kind says how many nodes each has")
        kinds = tuple(client)
    elif nodes is None:
        raise ConfigError("nodes is missing: how many nodes run the client?")
    else:
        kinds = (Kind("default", client, nodes),)
    name = getattr(app, "__module__", None)
    return Project(name=name if name not in (None, "flsim.apps") else "app", server=app, kinds=kinds, declared=False)


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """A run, resolved and checked as far as it can be before the backend is started.

    Raises:
        UnsupportedResources: a kind of node needs what the backend does not honour.
    """

    project: Project
    spec: BackendSpec
    options: Any
    """An instance of the backend's options."""
    seed: int

    def __post_init__(self) -> None:
        for kind in self.project.kinds:
            _check_honoured(kind, self.spec)

    def observers(self, plugins: Plugins, out: TextIO | None) -> list[Observer]:
        """The observers that plugins give for this run. ``out`` is where they write what the user should see."""
        project = self.project
        nodes = sum(k.nodes for k in project.kinds)
        view = RunView(project.name, self.spec.name, nodes, self.seed, project.config, out)
        return [o for o in plugins.manager.hook.flsim_observer(run=view) if o is not None]

    def run(self, observers: Sequence[Observer] = ()) -> RunResult:
        """Run it. Raises as :func:`run`."""
        return _Run(self, Observers(list(observers))).execute()


def make_plan(
    plugins: Plugins,
    project: Project,
    *,
    backend: str | None = None,
    options: Mapping[str, Any] | None = None,
    seed: int | None = None,
) -> Plan:
    """Choose the backend, and resolve its options and the seed. Raises InputError."""
    refuse_namesake()
    name = backend or project.backend
    spec = (plugins.backend(name) if name else plugins.default_backend()).spec
    made = make_options(spec, {**project.options.get(spec.name, {}), **(options or {})})
    if seed is None:
        seed = project.seed
    return Plan(project, spec, made, secrets.randbits(32) if seed is None else check_seed(seed))


def _check_honoured(kind: Kind, spec: BackendSpec) -> None:
    need = kind.resources
    asked = {"gpus": need.gpus, "custom": need.custom, "cpus": need.cpus not in (0, 1)}
    for what, amount in asked.items():
        if amount and what not in spec.honours:
            raise UnsupportedResources(
                f"nodes of kind {kind.name!r} need {need}, and backend {spec.name!r} does not honour {what}. "
                f"It honours: {', '.join(sorted(spec.honours)) or 'nothing'}"
            )


class _Run:
    """One run: the ServerApp in the caller's thread, all else on one event loop in a thread of its own."""

    def __init__(self, plan: Plan, observers: Observers) -> None:
        self._plan = plan
        self._fleet = Fleet(plan.project.kinds)
        self._observers = observers
        self._loop = asyncio.new_event_loop()
        self._run_id = _run_id(plan.seed)
        self._link = LinkState(self._fleet, self._run_id, self._loop, observers)
        self._backend: Backend | None = None
        self._loops: list[asyncio.Task[None]] = []
        self._loops_of: list[int] = [0] * len(self._fleet.kinds)
        self._job = b""
        self._own_process = True

    def execute(self) -> RunResult:
        server = self._plan.project.server
        if isinstance(server, Reference):
            server = import_reference(server)
        self._job = self._make_job()
        with run_folder() as folder:
            return self._execute(server, folder)

    def _execute(self, server: Any, folder: Path) -> RunResult:
        plan, project = self._plan, self._plan.project
        self._observers.start()
        thread = threading.Thread(target=self._drive, name="flsim-engine", daemon=True)
        thread.start()
        begun, error = time.perf_counter(), ""
        try:
            self._on_loop(self._start(folder))
            grid = Grid(self._link, self._observers)
            run_config = MappingProxyType(dict(project.config))
            context = Context(
                self._run_id, SERVER_NODE_ID, {}, run_config, RecordDict(), (plan.seed, (SERVER_NODE_ID,))
            )
            with kept_globals():
                seed_globals(plan.seed, (SERVER_NODE_ID,))
                begun = time.perf_counter()
                server(grid, context)
            if self._link.failure is not None:
                raise self._link.failure
            seconds = time.perf_counter() - begun
            if type(context.state) is not RecordDict:
                raise ConfigError(f"the ServerApp left a {type(context.state).__name__} as context.state")
        except BaseException as e:
            error = describe(e)
            raise
        finally:
            self._link.close()
            try:
                self._on_loop(self._stop())
            finally:
                self._loop.call_soon_threadsafe(self._loop.stop)
                thread.join()
                self._loop.close()
                self._observers.put(RunFinished(time.perf_counter() - begun, error))
                self._observers.close()
        return RunResult(
            app=project.name,
            state=context.state,
            digest=digest(context.state),
            metrics=tuple(
                {"round": r.round, **({} if r.node is None else {"node": r.node}), **r.metrics} for r in grid.reports
            ),
            counts=self._link.counts,
            seconds=seconds,
            seed=plan.seed,
            backend=plan.spec.name,
            options=dataclasses.asdict(plan.options),
            nodes=self._fleet.nodes,
        )

    # ---- on the event loop

    def _drive(self) -> None:
        # Processes that a backend starts from here inherit the mask: Ctrl-C in a terminal reaches the driver,
        # which ends them, and never a ClientApp as a KeyboardInterrupt of its own.
        with _blocked(signal.SIGINT):
            asyncio.set_event_loop(self._loop)
            self._loop.run_forever()

    def _on_loop(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    async def _start(self, folder: Path) -> None:
        plan = self._plan
        info = RunInfo(
            run_id=self._run_id,
            seed=plan.seed,
            folder=folder,
            needs=tuple(k.resources for k in self._fleet.kinds),
            nodes=self._fleet.nodes,
            job=self._job,
            changed=lambda: self._link.call_soon(self._refresh),
            announce=self._announce,
        )
        try:
            self._backend = plan.spec.load()(plan.options)
            self._backend.start(info)
            places = self._backend.capacity()
        except FlsimError:
            raise
        except Exception as e:  # a backend is foreign code, and this is where its name is known
            raise BackendBroken(f"backend {plan.spec.name!r} cannot start: {describe(e)}") from e
        self._link.set_places(places)
        for i, kind in enumerate(self._fleet.kinds):
            if not self._link.heart.at_once(i):
                raise UnsupportedResources(
                    f"nodes of kind {kind.name!r} need {kind.resources} each, which fits nowhere: {_shown(places)}"
                )
        if "isolation" not in plan.spec.honours and sum(p.leases for p in places) > 1:
            self._own_process = False
            self._announce(
                f"backend {plan.spec.name} runs several ClientApps in one process: the global random generators "
                "are not seeded, use context.rng"
            )
        if "memory" not in plan.spec.honours and any(k.resources.memory for k in self._fleet.kinds):
            self._announce(f"backend {plan.spec.name} books memory, and does not enforce it")
        self._observers.put(
            RunStarted(
                app=plan.project.name,
                backend=plan.spec.name,
                places=tuple(f"{p.name}: {p.resources}" for p in places),
                slots=self._link.heart.at_once(0),
                nodes=self._fleet.nodes,
                seed=plan.seed,
            )
        )
        self._more_loops()

    def _refresh(self) -> None:
        """The backend says that its capacity has changed."""
        if self._backend is not None:
            self._link.set_places(self._backend.capacity())
            self._more_loops()

    def _more_loops(self) -> None:
        """One worker loop per slot of each kind. Where there are fewer slots than before, loops wait."""
        assert self._backend is not None
        for i, kind in enumerate(self._fleet.kinds):
            while self._loops_of[i] < min(kind.nodes, self._link.heart.at_once(i)):
                self._loops_of[i] += 1
                loop = worker_loop(self._link, self._backend, self._job, i, own_process=self._own_process)
                self._loops.append(self._loop.create_task(loop))

    async def _stop(self) -> None:
        backend, self._backend = self._backend, None
        if backend is not None:
            backend.stop()
        for loop in self._loops:
            loop.cancel()
        await asyncio.gather(*self._loops, return_exceptions=True)

    # ---- inside

    def _make_job(self) -> bytes:
        plan = self._plan
        kinds = tuple(JobKind(k.client, dict(k.config), k.resources.threads) for k in self._fleet.kinds)
        try:
            return Job(self._run_id, plan.seed, self._fleet.nodes, dict(plan.project.config), kinds).encoded()
        except Exception as e:  # whatever the pickling of the user's ClientApp raises
            raise EncodeError(f"the ClientApp cannot be sent to workers: {describe(e)}") from e

    def _announce(self, text: str) -> None:
        self._observers.put(Announced(text))


def _run_id(seed: int) -> int:
    """The run's id, 63 bits: a function of the seed, so that what the app sees repeats."""
    import numpy as np

    return int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0] >> 1)


def _shown(places: Sequence[Place]) -> str:
    return "; ".join(f"{p.name} has {p.resources}" for p in places) or "there is no place at all"


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

"""From what the user gives to a run: resolve it, check it, run it."""

from __future__ import annotations

import dataclasses
import difflib
import secrets
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from flsim.apps import ClientApp
from flsim.asking import asked_plugins
from flsim.backend import BackendSpec
from flsim.errors import ConfigError, UnknownName, UnsupportedResources
from flsim.events import Observer, Observers
from flsim.find import find_project
from flsim.fleet import Kind
from flsim.hooks import RunView
from flsim.options import make_options
from flsim.plugins import Plugins, refuse_namesake
from flsim.project import Project, check_seed, parse_resources
from flsim.recording import ROWS, Recording
from flsim.resources import Resources
from flsim.result import RunResult
from flsim.runs import run_dir
from flsim.settings import CALL, settings_of


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
    time_limit: float | None = None,
    plugins: Mapping[str, Any] | None = None,
    quiet: bool = False,
    record: bool | None = None,
    runs_dir: str | Path | None = None,
    record_rows: int | None = None,
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
        resources: what one ClientApp needs: Resources instead of what the app says, a dict of its fields beside it.
        time_limit: seconds that one message may run in a worker, instead of what the app says.
        plugins: those that are asked for, by name, beside or instead of what the app says: True, False, or a dict of
            options.
        quiet: show nothing; otherwise what the run does is shown, on stderr or in the notebook's cell.
        record: whether the run is kept in a folder of its own; None: where ``runs_dir`` is given, here or by the app.
        runs_dir: the folder that holds those of runs; None: what the app says, else ``runs`` in the current folder.
        record_rows: of how many messages a row is kept, at most; None: what the app says, else a million.

    Raises:
        InputError: bad input, before anything runs.
        AppLoadError: the app cannot be imported.
        BackendBroken: the backend cannot go on.
        bdb.BdbQuit: the user quit at a breakpoint.
        BaseException: whatever the ServerApp raises.
    """
    found = Plugins()
    project = _project(found, app, client, nodes)
    if config:
        project = project.with_config(config)
    if isinstance(resources, Resources):
        project = project.with_resources({f.name: getattr(resources, f.name) for f in dataclasses.fields(resources)})
    elif resources is not None:
        parse_resources(resources)
        project = project.with_resources(resources)
    if time_limit is not None:
        project = project.with_time_limit(time_limit)
    recording = Recording(record, None if runs_dir is None else str(runs_dir), record_rows)
    asked = plugins or {}
    plan = make_plan(
        found, project, backend=backend, options=options or {}, seed=seed, recording=recording, asked=asked
    )
    view = plan.view(found, None if quiet else sys.stderr, by_default=False)
    return plan.run(found.observers(view), view.run_dir)


def _project(plugins: Plugins, app: Any, client: Any, nodes: int | None) -> Project:
    if isinstance(app, (str, Path)):
        if client is not None:
            raise ConfigError("client goes with a ServerApp; an app at a path names its own")
        project = find_project(plugins, app)
        return project if nodes is None else project.with_nodes(nodes)
    if isinstance(app, ClientApp) or not callable(app):
        raise ConfigError(f"app is a path or a ServerApp, not {app!r}")
    if client is None:
        raise ConfigError("a ServerApp needs its client: a ClientApp, or a list of Kind")
    if isinstance(client, (list, tuple)):
        for kind in client:
            if not isinstance(kind, Kind):
                raise ConfigError(f"a list of clients is one of Kind(name, client, nodes), and {kind!r} is none")
        if nodes is not None:
            raise ConfigError("nodes is for a fleet of one kind; a list of Kind says how many nodes each has")
        kinds = tuple(client)
    elif nodes is None:
        raise ConfigError("nodes is missing: how many nodes run the client?")
    else:
        kinds = (Kind("default", client, nodes),)
    name = getattr(app, "__module__", None)
    return Project(
        name=name if name not in (None, "flsim.apps") else "app", server=app, kinds=kinds, declared=False, origin=CALL
    )


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
    recording: Recording = dataclasses.field(default_factory=Recording)
    """What the app and the user say of it."""
    origins: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Where the backend, its options and the seed came from, where it is not the app; see :mod:`flsim.settings`."""
    plugins: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """The options of the plugins that are asked for."""

    def __post_init__(self) -> None:
        for kind in self.project.kinds:
            _check_honoured(kind, self.spec)

    def view(self, plugins: Plugins, out: TextIO | None, *, by_default: bool) -> RunView:
        """What plugins are told of this run. Where it is recorded, a plugin has made its folder.

        Args:
            out: where they write what the user should see.
            by_default: whether it is recorded where nobody says anything of it.

        Raises:
            InputError: its folder cannot be made.
        """
        project = self.project
        view = RunView(
            app=project.name,
            backend=self.spec.name,
            nodes=sum(k.nodes for k in project.kinds),
            seed=self.seed,
            config=project.config,
            out=out,
            path=project.path,
            requirements=(*self.spec.requires, *project.requirements),
            settings=settings_of(self),
            runs_dir=self.recording.folder(by_default=by_default),
            rows=ROWS if self.recording.rows is None else self.recording.rows,
            plugins=self.plugins,
        )
        return dataclasses.replace(view, run_dir=run_dir(plugins, view))

    def run(self, observers: Sequence[Observer] = (), run_dir: Path | None = None) -> RunResult:
        """Run it; ``run_dir`` is its folder, where it has one. Raises as :func:`run`."""
        from flsim.engine import Run

        return Run(self, Observers(list(observers)), run_dir).execute()


def make_plan(
    plugins: Plugins,
    project: Project,
    *,
    backend: str | None = None,
    options: Mapping[str, Any] | None = None,
    seed: int | None = None,
    recording: Recording | None = None,
    asked: Mapping[str, Any] | None = None,
    origin: str = CALL,
) -> Plan:
    """Choose the backend, and resolve its options, those of the plugins that are asked for, and the seed. What is
    given came from ``origin``.

    Raises InputError.
    """
    refuse_namesake()
    name = backend or project.backend
    spec = (plugins.backend(name) if name else plugins.default_backend()).spec
    _check_options(plugins, project)
    made = make_options(spec, {**project.options.get(spec.name, {}), **(options or {})})
    given = [*(f"backends.{spec.name}.{key}" for key in options or ())]
    given += [name for name, value in (("backend", backend), ("seed", seed)) if value is not None]
    if seed is None:
        seed = project.seed
    seed = secrets.randbits(32) if seed is None else check_seed(seed)
    recording = (recording or Recording()).over(project.recording)
    asked_for = asked_plugins(plugins, project.plugins, asked or {})
    return Plan(project, spec, made, seed, recording, dict.fromkeys(given, origin), asked_for)


def _check_options(plugins: Plugins, project: Project) -> None:
    """Refuse what no backend would read. Options of a backend that is not installed here are nobody's fault."""
    specs = {b.spec.name: b.spec for b in plugins.backends()}
    for name, options in project.options.items():
        if name in specs:
            make_options(specs[name], options)
        elif difflib.get_close_matches(name, specs, cutoff=0.75):
            raise UnknownName("backend", name, specs, "It is named in [tool.flsim.backends].")


def _check_honoured(kind: Kind, spec: BackendSpec) -> None:
    need = kind.resources
    asked = {"gpus": need.gpus, "custom": need.custom, "cpus": need.cpus not in (0, 1)}
    for what, amount in asked.items():
        if amount and what not in spec.honours:
            raise UnsupportedResources(
                f"nodes of kind {kind.name!r} need {need}, and backend {spec.name!r} does not honour {what}. "
                f"It honours: {', '.join(sorted(spec.honours)) or 'nothing'}"
            )

"""The hooks that a plugin may implement.

A plugin is a module that an entry point of the group ``flsim`` names. It implements a hook by a function of the
hook's name under :data:`hookimpl`. The module is imported whenever ``flsim`` starts, so it imports nothing heavy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import pluggy

if TYPE_CHECKING:
    import typer

    from flsim.backend import BackendSpec
    from flsim.events import Observer
    from flsim.fleet import Scalar
    from flsim.project import Project
    from flsim.runs import KeptRun
    from flsim.settings import Setting

hookspec = pluggy.HookspecMarker("flsim")
hookimpl = pluggy.HookimplMarker("flsim")


@dataclass(frozen=True, slots=True)
class RunView:
    """What plugins are told of a run before it starts."""

    app: str
    backend: str
    nodes: int
    seed: int
    config: Mapping[str, Scalar]
    out: TextIO | None
    """Where to write what the user should see; None: nowhere."""
    path: Path | None = None
    """The folder or the file of the app; None where it has none."""
    requirements: tuple[str, ...] = ()
    """What the backend and the app need, as requirements of distributions."""
    settings: Mapping[str, Setting] = field(default_factory=dict)
    """What the run goes by, under the names of the keys of [tool.flsim], with where each value came from."""
    runs_dir: Path | None = None
    """The folder that is to hold the run's own; None: the run is not recorded."""
    rows: int = 0
    """Of how many messages a row is kept, at most."""
    run_dir: Path | None = None
    """The run's folder, once it is made."""
    plugins: Mapping[str, Any] = field(default_factory=dict)
    """The plugins that the user asks for, by name: an instance of what each one's ``flsim_options`` returned."""


@hookspec
def flsim_backends() -> list[BackendSpec]:  # type: ignore[empty-body]  # a hookspec has no body
    """The backends that this plugin offers."""


@hookspec
def flsim_options() -> type[Any] | None:
    """The options of a plugin that takes part in a run only where the user asks for it, by its name or by one of them:
    a frozen dataclass whose fields have defaults and ``metadata["help"]``."""


@hookspec(firstresult=True)
def flsim_load_app(path: Path) -> Project | None:
    """The app at ``path``, an absolute path of a folder or a file that is there; None where it is not one of this
    plugin's. Asked before the engine looks for an app of its own; the first answer counts."""


@hookspec(firstresult=True)
def flsim_run_dir(run: RunView) -> Path | None:
    """The folder of a run that is recorded: made now, new, in ``run.runs_dir``; None to leave it to another plugin."""


@hookspec(firstresult=True)
def flsim_open_run(path: Path) -> KeptRun | None:
    """The run whose folder is ``path``, an absolute path; None where it is not one of this plugin's."""


@hookspec
def flsim_commands(app: typer.Typer) -> None:
    """Add commands to ``app``, which is empty and becomes part of ``flsim``. Called whenever ``flsim`` starts."""


@hookspec
def flsim_observer(run: RunView) -> Observer | None:
    """An observer of this run, or None to take no part."""

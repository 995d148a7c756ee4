"""Find an app: a plugin's, or one of the engine's own kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from flsim.discovery import one_line
from flsim.errors import ConfigError, FlsimError, InputError
from flsim.plugins import Plugins
from flsim.project import Project, load_project


def find_project(plugins: Plugins, path: str | Path, given: Mapping[str, Sequence[str]] | None = None) -> Project:
    """The app at ``path``: of the first plugin that takes it for one of its own, else as :func:`load_project` has it.

    Args:
        given: values of the options that plugins add to ``flsim run``, by the option's name.

    Raises:
        ConfigError: an option is given that is not for this app.
        InputError: a plugin failed over it; otherwise as :func:`load_project`, or as the plugin that takes it.
    """
    given = given or {}
    absolute = Path(path).resolve()
    if absolute.exists():
        for name, module in plugins.implementing("flsim_load_app"):
            own = {o.name for _, of, options in plugins.app_options() for o in options if of is module}
            values = {k: v for k, v in given.items() if k in own}
            try:
                project = plugins.ask(module, "flsim_load_app", path=absolute, given=values)
            except FlsimError:  # it is the plugin's, and has a fault
                raise
            except Exception as e:
                raise InputError(f"plugin {name} failed over the app at {path}: {one_line(e)}; uninstall it") from e
            if isinstance(project, Project):
                _refuse(plugins, path, set(given) - own)
                return project
            if project is not None:
                raise InputError(f"plugin {name} took the app at {path} for a {type(project).__name__}, and no Project")
    _refuse(plugins, path, set(given))
    return load_project(path)


def _refuse(plugins: Plugins, path: str | Path, others: set[str]) -> None:
    """Refuse options that are not for this app."""
    for name, _, options in plugins.app_options():
        for option in options:
            if option.name in others:
                raise ConfigError(f"{option.flags[0]} is for apps of plugin {name}, and {path} is none of them")

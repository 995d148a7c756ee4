"""Find an app: a plugin's, or one of the engine's own kind."""

from __future__ import annotations

from pathlib import Path

from flsim.discovery import one_line
from flsim.errors import FlsimError, InputError
from flsim.plugins import Plugins
from flsim.project import Project, load_project


def find_project(plugins: Plugins, path: str | Path) -> Project:
    """The app at ``path``: of the first plugin that takes it for one of its own, else as :func:`load_project` has it.

    Raises:
        InputError: a plugin failed over it; otherwise as :func:`load_project`, or as the plugin that takes it.
    """
    absolute = Path(path).resolve()
    if absolute.exists():
        for name, module in plugins.implementing("flsim_load_app"):
            try:
                project = plugins.ask(module, "flsim_load_app", path=absolute)
            except FlsimError:  # it is the plugin's, and has a fault
                raise
            except Exception as e:
                raise InputError(f"plugin {name} failed over the app at {path}: {one_line(e)}; uninstall it") from e
            if isinstance(project, Project):
                return project
            if project is not None:
                raise InputError(f"plugin {name} took the app at {path} for a {type(project).__name__}, and no Project")
    return load_project(path)

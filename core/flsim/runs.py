"""Runs that are kept in a folder: whoever keeps them is a plugin."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from flsim.discovery import one_line
from flsim.errors import ConfigError, FlsimError, InputError

if TYPE_CHECKING:
    from flsim.hooks import RunView
    from flsim.plugins import Plugins
    from flsim.result import RunResult


class KeptRun(Protocol):
    """A run that a plugin has kept."""

    def result(self) -> RunResult:
        """What it gave back, or as far as it came."""

    def table(self, name: str) -> Mapping[str, Sequence[Any]]:
        """The columns of one of its tables, by name, all of one length. Raises UnknownName."""

    def types(self, name: str) -> Mapping[str, type]:
        """The types of the columns of that table, also where it has no row: ``int``, ``float`` or ``str``; all may have
        None. Raises UnknownName."""


def run_dir(plugins: Plugins, run: RunView) -> Path | None:
    """The new folder of a run; None where it is not recorded.

    Raises:
        InputError: it cannot be made.
    """
    if run.runs_dir is None:
        return None
    for name, module in plugins.implementing("flsim_run_dir"):
        try:
            folder = plugins.ask(module, "flsim_run_dir", run=run)
        except FlsimError:
            raise
        except Exception as e:
            raise InputError(f"plugin {name} cannot make a folder in {run.runs_dir}: {one_line(e)}") from e
        if isinstance(folder, Path):
            return folder
        if folder is not None:
            raise InputError(f"plugin {name} made {folder!r} the folder of a run, which is no Path")
    raise InputError(
        "no plugin that is installed records runs; 'flsim plugins' says what is wrong with those there are"
    )


def kept_run(path: str | Path) -> KeptRun:
    """The run whose folder is at ``path``. Raises as :func:`open_run`."""
    from flsim.plugins import Plugins

    folder = Path(path).absolute()
    if not folder.is_dir():
        raise ConfigError(f"there is no folder of a run at {path}")
    plugins = Plugins()
    for name, module in plugins.implementing("flsim_open_run"):
        try:
            kept: KeptRun | None = plugins.ask(module, "flsim_open_run", path=folder)
        except FlsimError:
            raise
        except Exception as e:
            raise InputError(f"plugin {name} failed over the run at {path}: {one_line(e)}") from e
        if kept is not None:
            return kept
    raise ConfigError(f"{path} is not the folder of a run: no plugin knows what is in it")


def open_run(path: str | Path) -> RunResult:
    """A run that was recorded, from its folder: one that failed, or was killed, as far as it came.

    Raises:
        ConfigError: there is no run.
    """
    return kept_run(path).result()

"""The commands that plugins add."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import typer
from typer.main import get_group

from flsim.discovery import one_line

if TYPE_CHECKING:
    from flsim.plugins import Plugins


def with_commands(app: typer.Typer, plugins: Plugins) -> typer.Typer:
    """A copy of ``app`` with the commands of plugins. One that fails adds none, and its error is noted."""
    whole = copy.copy(app)
    whole.registered_commands = list(app.registered_commands)
    whole.registered_groups = list(app.registered_groups)
    owners = dict.fromkeys(get_group(app).commands, "flsim itself")
    for name, module in plugins.implementing("flsim_commands"):
        theirs = typer.Typer()
        try:
            plugins.ask(module, "flsim_commands", app=theirs)
            if theirs.registered_callback is not None:
                raise TypeError("flsim_commands adds commands, and no callback")
            names = list(get_group(theirs).commands)
            for command in names:
                if command in owners:
                    raise ValueError(f"the command {command!r} is that of {owners[command]}")
        except KeyboardInterrupt:
            raise
        except BaseException as e:  # foreign code, which must not cost the user --help
            plugins.failed(name, one_line(e))
            continue
        owners |= dict.fromkeys(names, name)
        whole.registered_commands += theirs.registered_commands
        whole.registered_groups += theirs.registered_groups
    return whole

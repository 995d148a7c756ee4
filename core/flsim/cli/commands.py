"""The commands that plugins add."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, get_type_hints

import typer
from typer.main import get_group

from flsim.cli.run import run
from flsim.discovery import one_line

if TYPE_CHECKING:
    from flsim.hooks import AppOption
    from flsim.plugins import Plugins


def with_app_options(app: typer.Typer, plugins: Plugins) -> typer.Typer:
    """A copy of ``app`` whose ``run`` takes the options of plugins' apps, too. A plugin that fails adds none."""
    whole = copy.copy(app)
    command = next(c for c in app.registered_commands if c.callback is run)
    taken = {flag for p in get_group(app).commands["run"].params for flag in (p.name, *p.opts, *p.secondary_opts)}
    options: list[AppOption] = []
    for name, _, theirs in plugins.app_options():
        names = {n for o in theirs for n in (o.name, *o.flags)}
        if both := taken & names:
            plugins.failed(name, f"the option {min(both)!r} is taken")
            continue
        taken |= names
        options += theirs
    if not options:
        return app
    changed = copy.copy(command)
    changed.callback = _taking(options)
    whole.registered_commands = [changed if c is command else c for c in app.registered_commands]
    return whole


def _taking(options: Sequence[AppOption]) -> Callable[..., None]:
    """``run`` with these options, which it finds in the parameters of its context."""
    names = [o.name for o in options]

    @functools.wraps(run)
    def taking(*args: Any, **given: Any) -> None:
        run(*args, **{k: v for k, v in given.items() if k not in names})

    # What Typer reads.
    signature = inspect.signature(run, eval_str=True)
    added = [
        inspect.Parameter(
            o.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=typer.Option([], *o.flags, metavar=o.metavar, help=o.help),
            annotation=list[str],
        )
        for o in options
    ]
    vars(taking)["__signature__"] = signature.replace(parameters=[*signature.parameters.values(), *added])
    taking.__annotations__ = {**get_type_hints(run), **dict.fromkeys(names, list[str])}
    return taking


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

"""Discovery of plugins: what the entry points name, imported and checked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib import metadata
from inspect import isfunction
from typing import Any

import pluggy

from flsim import hooks
from flsim.backend import BackendSpec
from flsim.errors import UnknownName

GROUP = "flsim"
"""The entry-point group of plugins."""

PREFIX = "flsim_"
"""How the names of hooks begin."""


@dataclass(frozen=True, slots=True)
class Plugin:
    """A plugin that was found, working or not."""

    name: str
    """Its entry point."""
    distribution: str
    version: str
    hooks: tuple[str, ...] = ()
    """The hooks that it implements."""
    error: str = ""
    """Why it, or a part of it, cannot be used, in one line; empty where all of it can."""

    def __str__(self) -> str:
        return f"{self.name} ({self.distribution})"


def discover(manager: pluggy.PluginManager) -> Iterator[tuple[Plugin, list[BackendSpec]]]:
    """Import each plugin, register it, and ask it for its backends. One with a fault is there with its error."""
    for entry in sorted(metadata.entry_points(group=GROUP), key=lambda e: (e.name, e.value)):
        yield _load(manager, entry)


def _load(manager: pluggy.PluginManager, entry: metadata.EntryPoint) -> tuple[Plugin, list[BackendSpec]]:
    dist = entry.dist
    plugin = Plugin(entry.name, *((dist.name, dist.version) if dist is not None else ("?", "?")))
    module: object = None
    try:
        module = entry.load()
        if (other := manager.get_name(module)) is not None:
            raise ValueError(f"it names the module of {other} again")
        check_names(manager, module)
        manager.register(module, str(plugin))
        implemented = sorted(caller.name for caller in manager.get_hookcallers(module) or ())
        specs = _backends(manager, module) if "flsim_backends" in implemented else []
        return replace(plugin, hooks=tuple(implemented)), specs
    except KeyboardInterrupt:
        raise
    except BaseException as e:  # a plugin is foreign code: its fault is a row in the list, never ours
        if manager.get_name(module) == str(plugin):
            manager.unregister(module)
        return replace(plugin, error=one_line(e)), []


def ask(manager: pluggy.PluginManager, module: object, hook: str, **arguments: Any) -> Any:
    """What one plugin, given as its module, answers to a hook, as pluggy gives it. Raises what the plugin raises."""
    others = [m for m in manager.get_plugins() if m is not module]
    return manager.subset_hook_caller(hook, others)(**arguments)


def _backends(manager: pluggy.PluginManager, module: object) -> list[BackendSpec]:
    # pluggy leaves out an answer that is None
    offered = next(iter(ask(manager, module, "flsim_backends")), None)
    if not isinstance(offered, list) or not all(isinstance(s, BackendSpec) for s in offered):
        raise TypeError(f"flsim_backends returns a list of BackendSpec, not {offered!r}")
    return offered


def check_names(manager: pluggy.PluginManager, module: object) -> None:
    """Refuse a function that is meant as a hook and would never be called.

    Raises:
        UnknownName: it is marked as a hook that there is not.
        TypeError: it is named as a hook, and not marked.
    """
    known = [n for n in vars(hooks) if n.startswith(PREFIX)]
    for name in dir(module):
        marked = manager.parse_hookimpl_opts(module, name)
        if marked is None:
            function = getattr(module, name)
            if (
                name.startswith(PREFIX)
                and isfunction(function)
                and function.__module__ == getattr(module, "__name__", "")
            ):
                raise TypeError(f"{name} is not marked by @hookimpl, so nothing calls it")
        elif (hook := marked["specname"] or name) not in known and not marked["optionalhook"]:
            raise UnknownName("hook", hook, known)


def one_line(error: BaseException) -> str:
    """An error as it fits into a row of a table."""
    return " ".join(f"{type(error).__name__}: {error}".split())

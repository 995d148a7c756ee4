"""Plugins that take part in a run only where the user asks for them, and the options that they are asked with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from flsim.discovery import one_line
from flsim.errors import ConfigError, InputError, UnknownName
from flsim.options import check_options_class, options_of, parse_assignments
from flsim.plugins import Plugins


def parse_asked(flag: str, texts: Iterable[str]) -> dict[str, Any]:
    """``NAME``, ``NAME=false`` and ``NAME.KEY=VALUE`` strings as ``[tool.flsim.plugins]`` would say them.
    Raises ConfigError."""
    switches: dict[str, Any] = {}
    options: dict[str, dict[str, Any]] = {}
    for key, value in parse_assignments(flag, (t if "=" in t else f"{t}=true" for t in texts)).items():
        name, dot, option = key.partition(".")
        if dot:
            options.setdefault(name, {})[option] = value
        else:
            switches[name] = value
    for name in options:
        if switches.pop(name, True) is not True:
            raise ConfigError(f"{flag} {name} has options and is switched off; give one or the other")
    return {**switches, **options}


def asked_plugins(plugins: Plugins, *asked: Mapping[str, Any]) -> dict[str, Any]:
    """The options of the plugins that are asked for, by name; of several askings, a later one goes before.

    Raises:
        UnknownName: no plugin of this name takes options, or it has no such option.
        ConfigError: an option has a wrong value.
        InputError: two distributions have a plugin of this name.
    """
    known = _by_name(plugins) if any(asked) else {}
    options: dict[str, dict[str, Any]] = {}
    for name, what in ((n, w) for a in asked for n, w in a.items()):
        if name not in known:
            raise UnknownName("plugin that takes options", name, known, plugins.broken("It may be not installed."))
        if what is False:
            options.pop(name, None)
        elif what is True or isinstance(what, Mapping):
            options[name] = {**options.get(name, {}), **({} if what is True else what)}
        else:
            raise ConfigError(f"plugin {name} is true, false, or a table of its options, not {what!r}")
    return {name: options_of(f"plugin {name}", _only(name, known[name]), given) for name, given in options.items()}


def options_classes(plugins: Plugins) -> dict[str, type[Any]]:
    """The options dataclass of each plugin that takes options, by the plugin as text. The fault of one that cannot
    say its own is noted."""
    classes = {}
    for plugin, module in plugins.implementing("flsim_options"):
        try:
            for cls in plugins.ask(module, "flsim_options"):
                check_options_class("the plugin", cls)
                classes[plugin] = cls
        except Exception as e:  # a plugin is foreign code
            plugins.failed(plugin, one_line(e))
    return classes


def _by_name(plugins: Plugins) -> dict[str, dict[str, Any]]:
    classes = options_classes(plugins)
    named: dict[str, dict[str, Any]] = {}
    for plugin in plugins.found:
        if str(plugin) in classes:
            named.setdefault(plugin.name, {})[plugin.distribution] = classes[str(plugin)]
    return named


def _only(name: str, offers: Mapping[str, Any]) -> Any:
    if len(offers) > 1:
        raise InputError(f"plugin {name!r} is claimed by {' and '.join(sorted(offers))}; uninstall one of them")
    return next(iter(offers.values()))

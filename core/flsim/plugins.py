"""The plugins of this environment, and the register of the backends that they offer."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib import metadata
from typing import Any

import pluggy

from flsim import hooks
from flsim.backend import BackendSpec
from flsim.discovery import Plugin, ask, discover
from flsim.errors import BackendUnavailable, InputError, UnknownName
from flsim.events import Observer

log = logging.getLogger(__name__)

DEFAULT_BACKENDS = ("loky", "serial")
"""Where nobody names a backend, the first of these that can run here."""


@dataclass(frozen=True, slots=True)
class Registered:
    """A backend on offer, and the plugin that offers it."""

    spec: BackendSpec
    plugin: Plugin

    @property
    def missing(self) -> list[str]:
        """The distributions that it needs and that are not installed."""
        return [r for r in self.spec.requires if not _installed(r)]


class Plugins:
    """All plugins of this environment. Finding them imports their ``plugin`` modules and nothing else."""

    def __init__(self) -> None:
        self.manager = pluggy.PluginManager("flsim")
        self.manager.add_hookspecs(hooks)
        self.found: list[Plugin] = []
        self._offers: dict[str, list[Registered]] = {}
        for plugin, specs in discover(self.manager):
            self.found.append(plugin)
            for spec in specs:
                self._offers.setdefault(spec.name, []).append(Registered(spec, plugin))

    def ask(self, module: object, hook: str, **arguments: Any) -> Any:
        """What one plugin, given as its module, answers to a hook. Raises what the plugin raises."""
        return ask(self.manager, module, hook, **arguments)

    def implementing(self, hook: str) -> Iterator[tuple[str, object]]:
        """The plugins that implement a hook, by name and module, in the order in which pluggy asks them."""
        for implementation in reversed(getattr(self.manager.hook, hook).get_hookimpls()):
            yield implementation.plugin_name, implementation.plugin

    def observers(self, run: hooks.RunView) -> list[Observer]:
        """The observers of a run. A plugin that fails to make its own is reported, and the run goes on."""
        made: list[Observer] = []
        for name, module in self.implementing("flsim_observer"):
            try:
                for observer in self.ask(module, "flsim_observer", run=run):
                    if not (callable(getattr(observer, "on", None)) and callable(getattr(observer, "close", None))):
                        raise TypeError(f"flsim_observer returns an observer, with on and close, not {observer!r}")
                    made.append(observer)
            except Exception:
                log.exception("plugin %s raised; it does not observe this run", name)
        return made

    def failed(self, name: str, error: str) -> None:
        """Note that a part of a plugin cannot be used."""
        self.found = [replace(p, error=error) if str(p) == name and not p.error else p for p in self.found]

    def broken(self, otherwise: str = "") -> str:
        """A sentence on the plugins that cannot be used; ``otherwise`` where all can."""
        broken = [f"{p.distribution} ({p.error})" for p in self.found if p.error]
        return f"These plugins cannot be used: {'; '.join(broken)}." if broken else otherwise

    def backends(self) -> Iterator[Registered]:
        """All backends on offer, by name; one that two plugins claim comes twice."""
        for _, offers in sorted(self._offers.items()):
            yield from offers

    def backend(self, name: str) -> Registered:
        """The backend of this name, ready to be used.

        Raises:
            UnknownName: no plugin offers it.
            InputError: two distributions claim the name.
            BackendUnavailable: what it needs is not installed.
        """
        offers = self._offers.get(name)
        if not offers:
            raise UnknownName("backend", name, self._offers, self.broken())
        if clash := self.clash(name):
            raise InputError(clash)
        offer = offers[0]
        if offer.missing:
            raise BackendUnavailable(
                f"backend {name!r} needs {', '.join(offer.missing)}, which is not installed."
                + (f" Install it with: {offer.spec.install}" if offer.spec.install else "")
            )
        return offer

    def clash(self, name: str) -> str:
        """Who claims this backend, where that is more than one; empty where it is not."""
        offers = self._offers.get(name, [])
        both = " and ".join(f"{o.plugin.distribution} {o.plugin.version}" for o in offers)
        return f"backend {name!r} is claimed by {both}; uninstall one of them" if len(offers) > 1 else ""

    def default_backend(self) -> Registered:
        """The backend of a run that names none. Raises as :meth:`backend`."""
        for name in DEFAULT_BACKENDS:
            if any(not offer.missing for offer in self._offers.get(name, [])):
                return self.backend(name)
        return self.backend(DEFAULT_BACKENDS[-1])


def refuse_namesake() -> None:
    """Refuse to run beside PyPI's ``flsim``, another project that has the same import name. Raises InputError."""
    if _installed("flsim"):
        raise InputError(
            "the distribution 'flsim' (another project with the same import name) is installed beside "
            "'flsim-engine'; the two cannot live in one environment. Type: pip uninstall flsim, "
            "then: pip install --force-reinstall --no-deps flsim-engine"
        )


def _installed(distribution: str) -> bool:
    try:
        metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True

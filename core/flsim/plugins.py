"""Discovery of plugins, and the register of the backends that they offer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from types import ModuleType

import pluggy

from flsim import hooks
from flsim.backend import BackendSpec
from flsim.errors import BackendUnavailable, InputError, UnknownName

GROUP = "flsim"
"""The entry-point group of plugins."""

DEFAULT_BACKENDS = ("loky", "serial")
"""Where nobody names a backend, the first of these that can run here."""


@dataclass(frozen=True, slots=True)
class Plugin:
    """A plugin that was found, working or not."""

    name: str
    distribution: str
    version: str
    error: str = ""
    """Why it cannot be used; empty where it can."""


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
        for entry in sorted(metadata.entry_points(group=GROUP), key=lambda e: (e.name, e.value)):
            self._load(entry)

    def _load(self, entry: metadata.EntryPoint) -> None:
        dist = entry.dist
        name, version = (dist.name, dist.version) if dist is not None else ("?", "?")
        error = ""
        try:
            module: ModuleType = entry.load()
            if not self.manager.is_registered(module):
                self.manager.register(module, name=f"{entry.name} ({name})")
                self.manager.check_pending()
            specs = module.flsim_backends() if hasattr(module, "flsim_backends") else []
            if not isinstance(specs, list) or not all(isinstance(s, BackendSpec) for s in specs):
                raise TypeError(f"flsim_backends returns a list of BackendSpec, not {specs!r}")
        except KeyboardInterrupt:
            raise
        except BaseException as e:  # a plugin is foreign code: its fault is a row in the list, never ours
            error, specs = f"{type(e).__name__}: {e}", []
            if (broken := self.manager.get_plugin(f"{entry.name} ({name})")) is not None:
                self.manager.unregister(broken)
        plugin = Plugin(entry.name, name, version, error)
        self.found.append(plugin)
        for spec in specs:
            self._offers.setdefault(spec.name, []).append(Registered(spec, plugin))

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
            broken = [f"{p.distribution} ({p.error})" for p in self.found if p.error]
            hint = f"These plugins cannot be used: {'; '.join(broken)}." if broken else ""
            raise UnknownName("backend", name, self._offers, hint)
        if len(offers) > 1:
            both = " and ".join(f"{o.plugin.distribution} {o.plugin.version}" for o in offers)
            raise InputError(f"backend {name!r} is claimed by {both}; uninstall one of them")
        offer = offers[0]
        if offer.missing:
            raise BackendUnavailable(
                f"backend {name!r} needs {', '.join(offer.missing)}, which is not installed."
                + (f" Install it with: {offer.spec.install}" if offer.spec.install else "")
            )
        return offer

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

"""How many nodes a Flower project has, and what one ClientApp needs, by its federations and the command line."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from flsim.errors import ConfigError, UnknownName
from flsim.resources import Resources
from flsim_flower.config import parse_config

log = logging.getLogger(__name__)

NODES = 2
"""Where nobody says how many, as in Flower."""

_USED = _NODES, _CPUS, _GPUS = "num-supernodes", "client-resources-num-cpus", "client-resources-num-gpus"
_INSTEAD = {
    "init-args-num-cpus": "-o cpus=… says what the place has",
    "init-args-num-gpus": "-o gpus=… says what the place has",
    "init-args-logging-level": "it is a setting of Flower's Ray",
    "init-args-log-to-driver": "it is a setting of Flower's Ray",
    "backend": "--backend says where ClientApps run",
    "backend-name": "--backend says where ClientApps run",
    "verbose": "FLWR_LOG_LEVEL=DEBUG in the environment shows more",
}
"""What Flower has and flsim says otherwise."""


@dataclass(frozen=True, slots=True)
class Federation:
    """The nodes of a run."""

    nodes: int = NODES
    resources: Resources = field(default_factory=Resources)


def read_federation(table: Mapping[str, Any], names: Sequence[str], given: Sequence[str]) -> Federation:
    """The federation of a project.

    Args:
        table: ``[tool.flwr.federations]`` of its pyproject.
        names: which of them, where the user says so; else its default.
        given: the user's ``--federation-config``.

    Raises:
        ConfigError, UnknownName: a value or a key is wrong; no federation has that name; it is none that is simulated.
    """
    options, name = _options(table, names)
    federation = Federation()
    for key, value in options.items():
        if key in _USED:
            federation = _with(federation, key, value, f"the federation {name!r}")
        else:  # of Flower's engine, of whatever version
            log.warning("the federation %r has %s, which is not used: %s", name, key, _instead(key))
    for key, value in _short(parse_config("--federation-config", given)).items():
        if key in _INSTEAD or key.startswith("init-args-"):
            raise ConfigError(f"--federation-config: {key} cannot be used: {_instead(key)}")
        federation = _with(federation, key, value, "--federation-config")
    return federation


def _options(table: Mapping[str, Any], names: Sequence[str]) -> tuple[dict[str, Any], str]:
    if len(names) > 1:
        raise ConfigError(f"--federation takes one name, not {' and '.join(names)}")
    federations = {k: v for k, v in table.items() if isinstance(v, dict)}
    name = names[0] if names else table.get("default", "")
    if name not in federations:
        if not name:
            return {}, ""
        raise UnknownName("federation", str(name), federations, "They are in [tool.flwr.federations].")
    options = federations[name].get("options", {})
    if "address" in federations[name]:
        if names:
            raise ConfigError(f"the federation {name!r} is at {federations[name]['address']!r}, and not simulated")
        return {}, name
    if not isinstance(options, dict):
        raise ConfigError(f"the federation {name!r}: options is a table, not {options!r}")
    return _short(_flat(options)), name


def _flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables as one, with values of any type, since those of Flower's engine may be."""
    flat: dict[str, Any] = {}
    for key, value in table.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return flat


def _short(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options by the names that newer versions of Flower have for them, ``client-resources-num-cpus``, where older ones
    have ``options.backend.client-resources.num-cpus``."""
    short = {}
    for key, value in options.items():
        name = key.removeprefix("options.")
        if name.startswith("backend."):
            name = name.removeprefix("backend.").replace("name", "backend-name")
        short[name.replace(".", "-").replace("_", "-")] = value
    return short


def _with(federation: Federation, key: str, value: Any, where: str) -> Federation:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    try:
        if key == _NODES:
            if not isinstance(value, int) or not number or value < 1:
                raise ConfigError(f"{key} is a whole number, one or more, not {value!r}")
            return replace(federation, nodes=value)
        if key in (_CPUS, _GPUS):
            if not number:
                raise ConfigError(f"{key} is a number, not {value!r}")
            what = "cpus" if key == _CPUS else "gpus"
            return replace(federation, resources=replace(federation.resources, **{what: value}))
        raise UnknownName("key", key, _USED)
    except (ConfigError, UnknownName) as e:
        e.args = (f"{where}: {e}", *e.args[1:])
        raise


def _instead(key: str) -> str:
    return _INSTEAD.get(key, "it is a setting of Flower's engine; 'flsim backends' lists the options of a backend")

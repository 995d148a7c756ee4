"""A Flower project as the engine runs it. Its pyproject.toml is read, and nothing is ever written to its folder."""

from __future__ import annotations

import dataclasses
import os
import tomllib
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement

from flsim.code import Code, Reference, import_reference
from flsim.errors import ConfigError, InputError, UnknownName
from flsim.fleet import Kind, Scalar, flatten
from flsim.hooks import OptionValues
from flsim.job import inspect_host
from flsim.project import Project, check_seed
from flsim_flower.config import parse_config
from flsim_flower.federation import read_federation

# Read when flwr is imported, here and in the workers that inherit it: it calls nobody.
os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")


def load_flower_project(folder: Path, given: OptionValues) -> Project | None:
    """The Flower project in ``folder``, its apps imported; None where it is none, or also an app of flsim's own kind.

    Raises:
        ConfigError, UnknownName: its pyproject, or what is given beside it, is wrong.
        AppLoadError: an app cannot be imported.
    """
    file = folder / "pyproject.toml"
    try:
        data = tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as e:
        raise ConfigError(f"{file}: {e}") from None
    tool = _table(data, "tool", file)
    app = _table(_table(tool, "flwr", file), "app", file)
    ours = _table(tool, "flsim", file)
    if "components" not in app or "server" in ours:
        return None
    try:
        return dataclasses.replace(_of_table(folder, data, app, given), **_how(ours))
    except InputError as e:
        e.args = (f"{file}: {e}", *e.args[1:])
        raise


def _of_table(folder: Path, data: Mapping[str, Any], app: Mapping[str, Any], given: OptionValues) -> Project:
    from flsim_flower.client import client_of
    from flsim_flower.rehearsal import rehearse
    from flsim_flower.server import server_of

    # What is wrong with the configuration is said before the app is imported, which may take long.
    config = _run_config(_table(app, "config"), given.get("run_config", ()))
    federations = _table(_table(data["tool"], "flwr"), "federations")
    federation = read_federation(federations, given.get("federation", ()), given.get("federation_config", ()))
    met, unmet = _requirements(_table(data, "project").get("dependencies", []))

    code = Code.of_folder(folder)
    components = _table(app, "components")
    server = _reference(code, components, "serverapp", server_of)
    client = _reference(code, components, "clientapp", client_of)
    for reference in (server, client):
        import_reference(reference)
    name = _table(data, "project").get("name", folder.name)
    return Project(
        name=str(name),
        server=server,
        kinds=(Kind("default", client, federation.nodes, federation.resources),),
        config=config,
        path=folder,
        requirements=(*met, *(f"{d}=={metadata.version(d)}" for d in ("flsim-flower", "flwr"))),
        rehearse=lambda plan: rehearse(plan, unmet),
    )


def _how(table: Mapping[str, Any]) -> dict[str, Any]:
    """How the app is run, of ``[tool.flsim]``: what it is stands in Flower's tables."""
    for key in table:
        if key not in ("seed", "backend", "backends", "plugins"):
            hint = "What a Flower app is, and its nodes, is said by [tool.flwr.app] and [tool.flwr.federations]."
            raise UnknownName("key of [tool.flsim]", key, ("seed", "backend", "backends", "plugins"), hint)
    how: dict[str, Any] = {"plugins": _table(table, "plugins")}
    how["options"] = {k: _table(_table(table, "backends"), k) for k in _table(table, "backends")}
    if "seed" in table:
        how["seed"] = check_seed(table["seed"])
    if "backend" in table:
        if not isinstance(table["backend"], str):
            raise ConfigError(f"[tool.flsim] backend is a string, not {table['backend']!r}")
        how["backend"] = table["backend"]
    return how


def _run_config(table: Mapping[str, Any], given: Sequence[str]) -> dict[str, Scalar]:
    config = flatten(table)
    for key, value in parse_config("--run-config", given).items():
        if key not in config:
            raise UnknownName("key of --run-config", key, config, "Keys are declared under [tool.flwr.app.config].")
        config[key] = value  # of any type, as in Flower
    return config


def _reference(code: Code, components: Mapping[str, Any], key: str, adapter: Any) -> Reference:
    value = components.get(key)
    if not isinstance(value, str) or value.count(":") != 1 or not all(value.split(":")):
        shown = f"{key} = {value!r}" if key in components else f"{key} is missing"
        agent = "; an agentapp cannot be simulated" if "agentapp" in components else ""
        raise ConfigError(f'[tool.flwr.app.components] {shown}; write {key} = "package.module:app"{agent}')
    module, attribute = value.split(":")
    return Reference(code, module, attribute, adapter=adapter)


def _requirements(given: Any) -> tuple[list[str], list[str]]:
    """The app's dependencies that are met here, which workers must meet, too; and what is wrong with the others."""
    if not isinstance(given, list) or not all(isinstance(r, str) for r in given):
        raise ConfigError(f"[project] dependencies is a list of strings, not {given!r}")
    met: list[str] = []
    unmet: list[str] = []
    for requirement in given:
        try:
            Requirement(requirement)
        except InvalidRequirement:  # what a build tool fills in, as Flower's own tests have it
            unmet.append(f"{requirement!r}, which cannot be read")
            continue
        missing = inspect_host((requirement,)).missing
        unmet.extend(missing)
        if not missing:
            met.append(requirement)
    return met, unmet


def _table(of: Mapping[str, Any], key: str, file: Path | None = None) -> dict[str, Any]:
    value = of.get(key, {})
    if not isinstance(value, dict):
        raise ConfigError(f"{f'{file}: ' if file else ''}{key} is a table, not {value!r}")
    return value

"""Find an app, read its configuration, import it.

An app is a folder with a ``pyproject.toml`` that has a ``[tool.flsim]`` table, or one file that holds a
ServerApp and a ClientApp. Nothing is ever written to it.
"""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from flsim.apps import ClientApp, ServerApp
from flsim.code import Code, Reference, file_reference, import_module, import_reference
from flsim.errors import ConfigError, InputError, UnknownName
from flsim.fleet import Fleet, Kind, Scalar, flatten
from flsim.recording import Recording
from flsim.resources import Resources
from flsim.settings import APP, CALL, DEFAULT, PYPROJECT, kind_prefix


@dataclass(frozen=True, slots=True)
class Project:
    """An app with its configuration, ready to run."""

    name: str
    server: Any
    """A ServerApp, or a Reference to one."""
    kinds: tuple[Kind, ...]
    config: Mapping[str, Scalar] = field(default_factory=dict)
    """``run_config``, flat."""
    declared: bool = True
    """Whether ``config`` names all the keys there are, so that others can be refused."""
    seed: int | None = None
    backend: str | None = None
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Options by backend, as the pyproject gives them."""
    plugins: Mapping[str, Any] = field(default_factory=dict)
    """The plugins that are asked for, each True, False, or a table of options, as the pyproject gives them."""
    requirements: tuple[str, ...] = ()
    """Distributions that the app needs, as ``[project] dependencies`` gives them."""
    path: Path | None = None
    """The folder or the file that it was read from; None: it was not."""
    recording: Recording = field(default_factory=Recording)
    """What it says of the recording of its runs."""
    origin: str = APP
    """Where its values came from, in the words of :mod:`flsim.settings`, …"""
    origins: Mapping[str, str] = field(default_factory=dict)
    """… and where those came from that did not, by their names there."""

    def _from(self, origin: str, names: Iterable[str]) -> dict[str, str]:
        return {**self.origins, **dict.fromkeys(names, origin)}

    def with_config(self, changes: Mapping[str, Scalar], origin: str = CALL) -> Project:
        """A copy with ``changes`` in its config, which came from ``origin``. Raises UnknownName or ConfigError."""
        config = dict(self.config)
        changed = set()
        for name, given in changes.items():
            for key, value in ({name: given} if name in config else flatten({name: given})).items():
                if self.declared and key not in config:
                    raise UnknownName("config key", key, config, "Keys are declared under [tool.flsim.config].")
                config[key] = _like(f"config {key}", value, config.get(key, value))
                changed.add(f"config.{key}")
        return dataclasses.replace(self, config=config, origins=self._from(origin, changed))

    def with_resources(self, changes: Mapping[str, Any], origin: str = CALL) -> Project:
        """A copy in which every kind needs these instead of what it said."""
        if not changes:
            return self
        kinds = tuple(dataclasses.replace(k, resources=dataclasses.replace(k.resources, **changes)) for k in self.kinds)
        names = self._of_kinds(*(f"resources.{key}" for key in changes))
        return dataclasses.replace(self, kinds=kinds, origins=self._from(origin, names))

    def with_time_limit(self, seconds: float, origin: str = CALL) -> Project:
        """A copy in which every kind has this limit instead of what it said. Raises ConfigError."""
        kinds = tuple(dataclasses.replace(k, time_limit=seconds) for k in self.kinds)
        return dataclasses.replace(self, kinds=kinds, origins=self._from(origin, self._of_kinds("time_limit")))

    def with_nodes(self, nodes: int, origin: str = CALL) -> Project:
        """A copy with so many nodes. Raises ConfigError where there are several kinds of them."""
        if len(self.kinds) > 1:
            raise ConfigError("--nodes is for a fleet of one kind; this one has several, each with its own number")
        kind = dataclasses.replace(self.kinds[0], nodes=nodes)
        return dataclasses.replace(self, kinds=(kind,), origins=self._from(origin, self._of_kinds("nodes")))

    def _of_kinds(self, *names: str) -> list[str]:
        """These names of settings, of each kind."""
        return [kind_prefix(kind, self.kinds) + name for kind in self.kinds for name in names]


def load_project(path: str | Path) -> Project:
    """Read the app at ``path``, and import it so that its faults are found before anything runs.

    Raises:
        ConfigError, UnknownName: what is there is no app, or its configuration is wrong.
        AppLoadError: it cannot be imported.
    """
    path = Path(path)
    if path.is_dir():
        return _from_folder(path.resolve())
    if path.is_file():
        if path.suffix != ".py":
            raise ConfigError(f"{path} is no Python file; an app is a folder with a pyproject.toml, or one .py file")
        return _from_file(path.resolve())
    raise ConfigError(f"there is no app at {path}: neither a folder nor a file")


# ---- one file


def _from_file(path: Path) -> Project:
    reference = file_reference(path)
    module = import_module(reference)
    server = _only(module, ServerApp, path)
    client = _only(module, ClientApp, path)
    return Project(
        name=path.stem,
        server=dataclasses.replace(reference, attribute=server),
        # How many nodes is what a file cannot say; with_nodes puts it in.
        kinds=(Kind("default", dataclasses.replace(reference, attribute=client), NODES_OF_A_FILE),),
        declared=False,
        path=path,
        origins={"nodes": DEFAULT},
    )


NODES_OF_A_FILE = 10
"""Nodes that an app of one file gets where nobody says how many."""


def _only(module: ModuleType, kind: type, path: Path) -> str:
    names = [n for n, v in vars(module).items() if isinstance(v, kind)]
    distinct = {id(getattr(module, n)): n for n in reversed(names)}
    if not distinct:
        raise ConfigError(f"{path.name} has no {kind.__name__} at module level")
    if len(distinct) > 1:
        raise ConfigError(
            f"{path.name} has {len(distinct)} {kind.__name__}s: {', '.join(names)}. "
            "Which one to run is said by a folder with a pyproject.toml (server = …, client = …)."
        )
    return names[0]


# ---- a folder

_KEYS = {
    "server", "client", "nodes", "time_limit", "seed", "backend", "resources", "config", "backends", "plugins", "kinds",
    "record", "runs_dir", "record_rows",
}  # fmt: skip
_KIND_KEYS = {"name", "client", "nodes", "time_limit", "resources", "config"}


def _from_folder(folder: Path) -> Project:
    file = folder / "pyproject.toml"
    if not file.is_file():
        raise ConfigError(f"{folder} has no pyproject.toml, so it is no app")
    try:
        data = tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as e:
        raise ConfigError(f"{file}: {e}") from None
    for key in ("tool", "project"):
        if not isinstance(data.get(key, {}), dict):
            raise ConfigError(f"{file}: {key} is a table, not {data[key]!r}")
    tool = data.get("tool", {}).get("flsim")
    if not isinstance(tool, dict):
        raise ConfigError(f"{file} has no [tool.flsim] table, so {folder.name} is no flsim app")
    try:
        return _from_table(data, tool, folder)
    except InputError as e:
        e.args = (f"{file}: {e}", *e.args[1:])
        raise


def _from_table(data: Mapping[str, Any], tool: Mapping[str, Any], folder: Path) -> Project:
    _known("key of [tool.flsim]", tool, _KEYS)
    code = Code.of_folder(folder)

    def reference(key: str, table: Mapping[str, Any]) -> Reference:
        value = table.get(key)
        if not isinstance(value, str) or value.count(":") != 1 or not all(value.split(":")):
            shown = f"{key} = {value!r}" if key in table else f"{key} is missing"
            raise ConfigError(f'{shown}; write {key} = "package.module:app"')
        module, attribute = value.split(":")
        return Reference(code, module, attribute)

    server = reference("server", tool)
    if "kinds" in tool:
        if both := {"client", "nodes", "time_limit", "resources"} & set(tool):
            raise ConfigError(
                f"[[tool.flsim.kinds]] stands in place of {', '.join(sorted(both))}; give one or the other"
            )
        tables = tool["kinds"]
        if not isinstance(tables, list) or not all(isinstance(t, dict) for t in tables) or not tables:
            raise ConfigError("kinds is written as [[tool.flsim.kinds]], once for each kind of node")
        for table in tables:
            _known("key of [[tool.flsim.kinds]]", table, _KIND_KEYS)
    else:
        tables = [
            {"name": "default", **{k: tool[k] for k in ("client", "nodes", "time_limit", "resources") if k in tool}}
        ]
    kinds = []
    for table in tables:
        try:
            kinds.append(_kind(table, reference("client", table)))
        except InputError as e:
            if "kinds" in tool:
                e.args = (f"kind {table.get('name', '?')!r}: {e}", *e.args[1:])
            raise
    Fleet(kinds)
    project = Project(
        name=_name(data, folder),
        server=server,
        kinds=tuple(kinds),
        config=flatten(_table("config", tool)),
        seed=check_seed(tool["seed"]) if "seed" in tool else None,
        backend=_string("backend", tool["backend"]) if "backend" in tool else None,
        options={k: _table(k, _table("backends", tool)) for k in _table("backends", tool)},
        plugins=_table("plugins", tool),
        requirements=_requirements(data),
        path=folder,
        recording=Recording(tool.get("record"), tool.get("runs_dir"), tool.get("record_rows")),
        origin=PYPROJECT,
        origins=_stated(tool, tuple(kinds)),
    )
    _check_app("server", project.server, ClientApp)
    for kind in kinds:
        _check_app("client", kind.client, ServerApp)
    return project


def _stated(tool: Mapping[str, Any], kinds: tuple[Kind, ...]) -> dict[str, str]:
    """Which of the resources the pyproject states: what it states may be as it is by itself."""
    tables = tool.get("kinds", [tool])
    stated = [
        f"{kind_prefix(kind, kinds)}resources.{key}"
        for kind, table in zip(kinds, tables, strict=True)
        for key in table.get("resources", ())
    ]
    return dict.fromkeys(stated, PYPROJECT)


def _check_app(key: str, reference: Reference, other: type) -> None:
    app = import_reference(reference)
    if isinstance(app, other) or not callable(app):
        what = f"a {type(app).__name__}" if callable(app) else f"{app!r}"
        raise ConfigError(
            f"{key} = {str(reference)!r} is {what}, and no {'ServerApp' if key == 'server' else 'ClientApp'}"
        )


def _kind(table: Mapping[str, Any], client: Reference) -> Kind:
    if "nodes" not in table:
        raise ConfigError("nodes is missing: how many nodes run the client? Write nodes = 100")
    if "name" not in table:
        raise ConfigError("a kind of node needs a name")
    return Kind(
        _string("name", table["name"]),
        client,
        table["nodes"],
        parse_resources(_table("resources", table)),
        flatten(_table("config", table)),
        table.get("time_limit"),
    )


def parse_resources(table: Mapping[str, Any]) -> Resources:
    """Resources of a table with the keys cpus, gpus, memory, custom. Raises UnknownName or ConfigError."""
    _known("resource", table, {f.name for f in dataclasses.fields(Resources)})
    amounts: dict[str, Any] = {k: _table(k, table) if k == "custom" else v for k, v in table.items()}
    return Resources(**amounts)


def check_seed(seed: Any) -> int:
    """``seed`` if it is a whole number, zero or more. Raises ConfigError."""
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise ConfigError(f"seed is a whole number, zero or more, not {seed!r}")
    return seed


def _like(what: str, value: Any, default: Any) -> Any:
    """``value`` if it is of the type of ``default``; an int is taken for a float."""
    if type(default) is float and type(value) is int:
        return float(value)
    if type(value) is not type(default):
        raise ConfigError(f"{what} is of type {type(default).__name__} (as {default!r}), not {value!r}")
    return value


def _name(data: Mapping[str, Any], folder: Path) -> str:
    name = data.get("project", {}).get("name")
    return name if isinstance(name, str) else folder.name


def _requirements(data: Mapping[str, Any]) -> tuple[str, ...]:
    from packaging.requirements import InvalidRequirement, Requirement

    given = data.get("project", {}).get("dependencies", [])
    if not isinstance(given, list) or not all(isinstance(r, str) for r in given):
        raise ConfigError(f"[project] dependencies is a list of strings, not {given!r}")
    for requirement in given:
        try:
            Requirement(requirement)
        except InvalidRequirement as e:
            raise ConfigError(f"[project] dependencies: {requirement!r} is no requirement: {e}") from None
    return tuple(given)


def _known(what: str, table: Iterable[str], known: Iterable[str]) -> None:
    for key in table:
        if key not in known:
            raise UnknownName(what, key, known)


def _table(key: str, table: Mapping[str, Any]) -> dict[str, Any]:
    value = table.get(key, {})
    if not isinstance(value, dict):
        raise ConfigError(f"{key} is a table, not {value!r}")
    return value


def _string(key: str, value: Any) -> str:
    if not isinstance(value, str):
        raise ConfigError(f"{key} is a string, not {value!r}")
    return value

"""Settings: what a run goes by, each value with where it came from."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from flsim.resources import Resources

if TYPE_CHECKING:
    from flsim.fleet import Kind
    from flsim.plan import Plan

COMMAND_LINE, CALL, PYPROJECT, APP, DEFAULT, DRAWN = "command line", "call", "pyproject", "app", "default", "drawn"
"""Where a value came from: the user's command line, or the arguments of :func:`flsim.run`; the app's pyproject.toml, or
what else makes an app; what holds where nobody says anything; for a seed, that it was drawn."""


class Setting(NamedTuple):
    """A value that a run goes by."""

    value: Any
    origin: str
    """Where it came from."""


def settings_of(plan: Plan) -> dict[str, Setting]:
    """What a run goes by, under the names of the keys of [tool.flsim], flat: ``config.rounds``."""
    project, backend = plan.project, plan.spec.name
    stated = project.options.get(backend, {})
    found: dict[str, tuple[Any, str]] = {"server": (_named(project.server), project.origin)}
    for kind in project.kinds:
        prefix = kind_prefix(kind, project.kinds)
        found |= {prefix + name: (value, said or project.origin) for name, value, said in _of_kind(kind)}
    found["backend"] = backend, DEFAULT if project.backend is None else project.origin
    for field in dataclasses.fields(plan.options):
        origin = project.origin if field.name in stated else DEFAULT
        found[f"backends.{backend}.{field.name}"] = getattr(plan.options, field.name), origin
    found["seed"] = plan.seed, DRAWN if project.seed is None else project.origin
    found |= {f"config.{key}": (value, project.origin) for key, value in project.config.items()}
    known = {**project.origins, **plan.origins}
    return {name: Setting(value, known.get(name, origin)) for name, (value, origin) in found.items()}


def kind_prefix(kind: Kind, kinds: Sequence[Kind]) -> str:
    """What the names of the settings of a kind begin with: nothing where it is the only one, and needs no name."""
    alone = len(kinds) == 1 and kind.name == "default" and not kind.config
    return "" if alone else f"kinds.{kind.name}."


def _of_kind(kind: Kind) -> Iterator[tuple[str, Any, str]]:
    """The settings of a kind, with DEFAULT where they are what they are by themselves."""
    yield "client", _named(kind.client), ""
    yield "nodes", kind.nodes, ""
    yield "time_limit", kind.time_limit, DEFAULT if kind.time_limit is None else ""
    for field in dataclasses.fields(kind.resources):
        value = getattr(kind.resources, field.name)
        usual = value == getattr(_USUAL, field.name)
        yield f"resources.{field.name}", dict(value) if isinstance(value, Mapping) else value, DEFAULT if usual else ""
    for key, value in kind.config.items():
        yield f"config.{key}", value, ""


_USUAL = Resources()


def _named(app: Any) -> str:
    """An app as text: where it is from, and not the address that its ``repr`` may have."""
    from flsim.code import Reference

    if isinstance(app, Reference):
        return str(app)
    return f"{getattr(app, '__module__', '?')}:{getattr(app, '__qualname__', type(app).__name__)}"

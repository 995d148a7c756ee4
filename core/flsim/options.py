"""Options of backends and plugins: from KEY=VALUE and TOML tables to an instance of their options dataclass."""

from __future__ import annotations

import dataclasses
import tomllib
import typing
from collections.abc import Iterable, Mapping
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any

from flsim.errors import ConfigError, UnknownName

if TYPE_CHECKING:
    from flsim.backend import BackendSpec


def parse_assignments(flag: str, assignments: Iterable[str]) -> dict[str, Any]:
    """``KEY=VALUE`` strings as a dict. A value is TOML, and a string where it is not. Raises ConfigError."""
    parsed: dict[str, Any] = {}
    for text in assignments:
        key, equals, value = text.partition("=")
        key = key.strip()
        if not equals or not key:
            raise ConfigError(f"{flag} takes KEY=VALUE, not {text!r}")
        if key in parsed:
            raise ConfigError(f"{flag} {key} is given twice")
        parsed[key] = _toml_or_text(value.strip())
    return parsed


def _toml_or_text(text: str) -> Any:
    try:
        # A line break would end the value, and what follows would be another key.
        return text if "\n" in text else tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def make_options(spec: BackendSpec, given: Mapping[str, Any]) -> Any:
    """An instance of the options of ``spec``. Raises as :func:`options_of`."""
    return options_of(f"backend {spec.name}", spec.options, given)


def options_of(owner: str, cls: type[Any], given: Mapping[str, Any]) -> Any:
    """An instance of the options dataclass ``cls``.

    Raises:
        UnknownName: its owner has no such option.
        ConfigError: a value is of another type than the option, or is refused by the owner.
    """
    fields = {f.name: f for f in dataclasses.fields(cls)}
    types = typing.get_type_hints(cls)
    values = {}
    for key, value in given.items():
        if key not in fields:
            raise UnknownName(f"option of {owner}", key, fields)
        values[key] = _checked(f"option {key} of {owner}", value, types[key])
    try:
        return cls(**values)
    except ValueError as e:
        raise e if isinstance(e, ConfigError) else ConfigError(f"options of {owner}: {e}") from e


def check_options_class(owner: str, cls: Any) -> None:
    """Refuse what is no dataclass, or has a field without a default. Raises ValueError."""
    if not (isinstance(cls, type) and dataclasses.is_dataclass(cls)):
        raise ValueError(f"the options of {owner} are a dataclass, not {cls!r}")
    for option in dataclasses.fields(cls):
        if option.default is dataclasses.MISSING and option.default_factory is dataclasses.MISSING:
            raise ValueError(f"the option {option.name} of {owner} has no default")


def type_name(annotation: Any) -> str:
    """How an option's type is written for users."""
    return " or ".join(t.__name__ for t in _alternatives(annotation) if t is not NoneType)


def _alternatives(annotation: Any) -> tuple[Any, ...]:
    if isinstance(annotation, UnionType) or typing.get_origin(annotation) is typing.Union:
        return typing.get_args(annotation)
    return (annotation,)


def _checked(what: str, value: Any, annotation: Any) -> Any:
    allowed = [typing.get_origin(t) or t for t in _alternatives(annotation)]
    if type(value) in allowed:
        return value
    if float in allowed and type(value) is int:
        return float(value)
    raise ConfigError(f"{what} is of type {type_name(annotation)}, not {value!r}")

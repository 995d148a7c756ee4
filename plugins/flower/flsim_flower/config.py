"""Configuration as Flower's users type it: ``k=1 k2="x y"``, or the path of a TOML file."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flsim.errors import ConfigError
from flsim.fleet import Scalar, flatten

_PAIR = re.compile(r"""\s*([^\s=]+)=('[^']*'|"[^"]*"|\S+)(?=\s|$)""")


def parse_config(flag: str, given: Sequence[str]) -> dict[str, Scalar]:
    """Values by their key, flat; of a key that is given twice, the last.

    Raises:
        ConfigError: what is given is neither one ``.toml`` file nor pairs of ``key=value``, all of it.
    """
    if any(g.endswith(".toml") for g in given):
        if len(given) > 1:
            raise ConfigError(f"{flag} takes one .toml file, and nothing beside it")
        return _of_file(flag, given[0])
    config: dict[str, Scalar] = {}
    for text in given:
        config |= _of_pairs(flag, text)
    return config


def _of_file(flag: str, path: str) -> dict[str, Scalar]:
    try:
        return flatten(tomllib.loads(Path(path).expanduser().read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, ConfigError) as e:
        raise ConfigError(f"{flag} {path}: {e}") from None


def _of_pairs(flag: str, text: str) -> dict[str, Scalar]:
    pairs: list[tuple[str, str]] = []
    at = 0
    while rest := text[at:].strip():
        pair = _PAIR.match(text, at)
        if pair is None:
            raise ConfigError(
                f"{flag}: {rest!r} is not of the form key=value, without spaces around the =; "
                "several are separated by spaces"
            )
        pairs.append((pair[1], pair[2]))
        at = pair.end()
    config: dict[str, Scalar] = {}
    for key, value in pairs:
        try:
            made = flatten(_table_of(key, value))
        except tomllib.TOMLDecodeError as e:
            raise ConfigError(f"{flag}: {key}={value} is no TOML ({e}){_hint(key, value)}") from None
        except ConfigError as e:
            raise ConfigError(f"{flag}: {e}") from None
        if not made:
            raise ConfigError(f"{flag}: {key}={value} has no value")
        if twice := made.keys() & config.keys():
            raise ConfigError(f"{flag}: {min(twice)} is given twice in {text.strip()!r}")
        config |= made
    return config


def _table_of(key: str, value: str) -> dict[str, Any]:
    made = tomllib.loads(f"{key} = {value}")
    try:
        tomllib.loads(f"_ = {{ {key} = {value} }}")
    except tomllib.TOMLDecodeError:  # since the brace at its end is part of a comment
        raise ConfigError(f"of {key}={value} all from the # on would be left out; a string has quotes") from None
    return made


def _hint(key: str, value: str) -> str:
    """What to type instead."""
    if value.lower() in ("true", "false"):
        return f"; write {key}={value.lower()}"
    if re.fullmatch(r"[+-]?(\d+\.|\.\d+)", value):
        return f"; write {key}={float(value)}"
    return f'; a string has quotes: {key}="{value}"' if re.fullmatch(r"[\w./:#-]+", value) else ""

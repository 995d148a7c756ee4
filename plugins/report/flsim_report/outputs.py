"""The files that the commands write."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TypeVar

from flsim.errors import ConfigError

T = TypeVar("T")

FIGURES = (".png", ".pdf", ".svg")
"""How the name of a figure's file may end."""


def check_file(flag: str, file: Path) -> None:
    """Find out now what would be in the way later. Raises ConfigError."""
    if file.is_dir() or not file.absolute().parent.is_dir():
        raise ConfigError(f"{flag} {file}: it is a folder, or there is none to write it into")


def check_figure(flag: str, file: Path) -> None:
    """The same of a figure. Raises ConfigError."""
    check_file(flag, file)
    if file.suffix.lower() not in FIGURES:
        raise ConfigError(f"{flag} {file}: its name ends with none of {', '.join(FIGURES)}")
    if find_spec("matplotlib") is None:
        raise ConfigError(f"{flag} needs matplotlib. Install it with: pip install 'flsim-report[png]'")


def write(flag: str, file: Path, write: Callable[[Path], T]) -> T:
    """Write a file whole or not at all: one that was there before stays until then. Raises ConfigError."""
    part = file.with_name(f".{file.name}.part{file.suffix}")
    try:
        told = write(part)
        part.replace(file)
    except OSError as e:
        raise ConfigError(f"{flag} {file} cannot be written: {e.strerror}") from e
    finally:
        part.unlink(missing_ok=True)
    return told

"""``flsim new``: a small app to begin with."""

from __future__ import annotations

import importlib.util
import keyword
import os
import re
import sys
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from flsim.errors import ConfigError


def new(
    name: str = typer.Argument(..., metavar="NAME", help="The app's name, and that of the folder to make."),
) -> None:
    """Write a small app that works: a server, a client, a configuration and a test, in a folder of its own.

    Exit codes: 0 it is written; 2 there is such a folder already, or the name cannot be used.
    """
    from flsim.errors import ConfigError

    package = name.replace("-", "_")
    if not re.fullmatch(r"[A-Za-z]([A-Za-z0-9_-]*[A-Za-z0-9])?", name):
        raise _refused(
            name, "a name is of the letters a to z, digits, - and _, begins with a letter, and ends with one or a digit"
        )
    folder = Path(name)
    if os.path.lexists(folder):
        raise ConfigError(f"{name} is there already, and nothing is written over it; choose another name, or move it")
    _check_package(name, package)
    try:
        _write(files("flsim.cli") / "template", folder, {"NAME": name, "PACKAGE": package})
    except OSError as e:
        raise ConfigError(f"{name} cannot be written: {e}") from e
    typer.echo(f"Made {name}: a server, a client, their configuration and a test. What to type next:")
    for command in (f"flsim run {name}", f"flsim run {name} --backend serial", f"python -m pytest {name}"):
        typer.echo(f"  {command}")
    typer.echo(f"{name}/README.md says what is in which file.")


def _check_package(name: str, package: str) -> None:
    """Refuse what no package can be called, or what would hide another module. Raises ConfigError."""
    if keyword.iskeyword(package) or keyword.issoftkeyword(package):
        raise _refused(name, "it is a word of Python's own; choose one that is none")
    if package == "tests":
        raise _refused(name, "the folder of the app's test is called so; choose another one")
    if package in sys.stdlib_module_names or importlib.util.find_spec(package) is not None:
        raise _refused(name, "there is a module of that name, which the app would hide; choose one that is free")


def _refused(name: str, why: str) -> ConfigError:
    from flsim.errors import ConfigError

    return ConfigError(f"{name!r} cannot be the name of an app: {why}")


def _write(source: Traversable, target: Path, words: dict[str, str]) -> None:
    """Copy a folder of the template, with its words replaced; the package in it is called ``app``."""
    target.mkdir()
    for item in source.iterdir():
        if item.is_dir():
            if item.name != "__pycache__":
                _write(item, target / (words["PACKAGE"] if item.name == "app" else item.name), words)
            continue
        text = item.read_text(encoding="utf-8")
        if not item.name.endswith(".py"):
            for word, value in words.items():
                text = text.replace(word, value)
        (target / item.name).write_text(text, encoding="utf-8")

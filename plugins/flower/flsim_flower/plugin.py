"""What this plugin offers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from flsim.hooks import AppOption, OptionValues, hookimpl

if TYPE_CHECKING:
    from flsim.project import Project


@hookimpl
def flsim_load_app(path: Path, given: OptionValues) -> Project | None:
    """Folders with a pyproject.toml that has a ``[tool.flwr.app.components]`` table."""
    file = path / "pyproject.toml"
    if not file.is_file() or b"flwr" not in file.read_bytes():  # the cheapest look, since it is for every app
        return None
    from flsim_flower.project import load_flower_project

    return load_flower_project(path, given)


@hookimpl
def flsim_app_options() -> list[AppOption]:
    """As Flower's users type them."""
    return [
        AppOption(
            "run_config",
            ("--run-config", "-c"),
            "CONFIG",
            "Flower apps: values of the app's configuration, as 'k=1 k2=\"x y\"', or one .toml file. Repeatable.",
        ),
        AppOption(
            "federation",
            ("--federation",),
            "NAME",
            "Flower apps: which of [tool.flwr.federations] says the number of nodes and their resources.",
        ),
        AppOption(
            "federation_config",
            ("--federation-config",),
            "CONFIG",
            "Flower apps: instead of what the federation says, as 'num-supernodes=10 client-resources-num-cpus=1'.",
        ),
    ]

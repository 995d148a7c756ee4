"""Options of backends and plugins, as they are listed."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console


def option_rows(cls: type[Any]) -> list[dict[str, str]]:
    """Name, type and help of each field of an options dataclass."""
    from flsim.options import type_name

    types = typing.get_type_hints(cls)
    return [
        {"name": f.name, "type": type_name(types[f.name]), "help": f.metadata.get("help", "")}
        for f in dataclasses.fields(cls)
    ]


def print_options(console: Console, heading: str, options: Sequence[dict[str, str]]) -> None:
    """Print options below a heading; nothing where there are none."""
    from rich.markup import escape

    if not options:
        return
    console.print(f"\n{escape(heading)}", style="bold")
    widths = [max(len(o[part]) for o in options) for part in ("name", "type")]
    for option in options:
        text = f"  {option['name']:<{widths[0]}}  {option['type']:<{widths[1]}}  {option['help']}"
        console.print(escape(text))

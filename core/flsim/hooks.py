"""The hooks that a plugin may implement.

A plugin is a module that an entry point of the group ``flsim`` names. It implements a hook by a function of the
hook's name under :data:`hookimpl`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TextIO

import pluggy

if TYPE_CHECKING:
    from flsim.backend import BackendSpec
    from flsim.events import Observer
    from flsim.fleet import Scalar

hookspec = pluggy.HookspecMarker("flsim")
hookimpl = pluggy.HookimplMarker("flsim")


@dataclass(frozen=True, slots=True)
class RunView:
    """What an observer is told of its run before it starts."""

    app: str
    backend: str
    nodes: int
    seed: int
    config: Mapping[str, Scalar]
    out: TextIO | None
    """Where to write what the user should see; None: nowhere."""


@hookspec
def flsim_backends() -> list[BackendSpec]:  # type: ignore[empty-body]  # a hookspec has no body
    """The backends that this plugin offers."""


@hookspec
def flsim_observer(run: RunView) -> Observer | None:
    """An observer of this run, or None to take no part."""

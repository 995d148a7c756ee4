"""Way: how work reaches clients and comes back. The workloads are written against it, once for all."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from flsim_bench.catalogue import MESSAGES

if TYPE_CHECKING:
    from flsim_bench.tasks import Array, Span


class Way:
    """Calls of :mod:`flsim_bench.tasks` at clients 0, 1, …; one result from each client, in any order.

    A reference overrides the methods of the workloads that it is a reference for.
    """

    def noop(self, clients: Sequence[int], round: int) -> Iterable[int]:
        """Ask for ``tasks.noop``."""
        raise NotImplementedError

    def echo(self, model: Array, clients: Sequence[int]) -> Iterable[Array]:
        """Send the model and ask for ``tasks.echo``. The arrays may be views that live until the next is taken."""
        raise NotImplementedError

    def broadcast(self, model: Array, clients: Sequence[int]) -> Iterable[float]:
        """Send the model and ask for ``tasks.touch``."""
        raise NotImplementedError

    def spin(self, seconds: Sequence[float]) -> Iterable[Span]:
        """Ask each client for ``tasks.spin``."""
        raise NotImplementedError

    def sleep(self, seconds: Sequence[float]) -> Iterable[Span]:
        """Ask each client for ``tasks.sleep``."""
        raise NotImplementedError

    def visit(self, clients: Sequence[int], size: int) -> Iterable[int]:
        """Ask for ``tasks.visit``: each client keeps its state. The results are the visits so far."""
        raise NotImplementedError


@dataclass(slots=True)
class Played:
    """What came of a workload on a way."""

    values: dict[str, list[float]]
    """By measure, one value a round."""
    series: dict[str, list[float]] = field(default_factory=dict)
    """What is drawn over the rounds."""


Play = Callable[[Way], Played]
"""A workload that waits for its way."""


@dataclass(frozen=True, slots=True)
class Order:
    """What a process of its own is told to measure."""

    workload: str
    params: Mapping[str, Any]
    way: str
    """The module of :mod:`flsim_bench.ways` that has the function ``drive``."""
    name: str
    """The name of the backend; of a reference, whether it carries flsim's own Messages; elsewhere without meaning."""
    options: Mapping[str, Any]
    """The backend's options."""
    workers: int
    folder: str
    """For temporary files."""
    memory: str
    """For files that are in memory."""

    @property
    def codec(self) -> ModuleType:
        """What makes and reads a reference's messages."""
        return import_module("flsim_bench.messages" if self.name == MESSAGES else "flsim_bench.tasks")

    @property
    def nodes(self) -> int:
        """How many nodes there are: at least as many as clients."""
        return int(self.params.get("nodes", self.params["clients"]))

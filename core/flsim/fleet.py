"""The fleet: kinds of node, and which node is of which kind."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from flsim.apps import ServerApp
from flsim.code import Reference
from flsim.errors import ConfigError, UnknownName
from flsim.resources import Resources

FIRST_NODE_ID = 2
"""The ServerApp is node 1; virtual nodes are 2 to N+1, and their ``partition-id`` is their id less 2."""

Scalar = bool | int | float | str


@dataclass(frozen=True, slots=True)
class Kind:
    """Nodes that run the same ClientApp under the same Resources.

    Raises:
        ConfigError: ``nodes`` is not a positive whole number, or ``time_limit`` is no time.
    """

    name: str
    client: Any
    """A ClientApp, something that makes one when called with a Context, or a Reference to either. An error leaves its
    node's state as it was, unless it returned the error itself and has ``keeps_state_with_errors = True``."""
    nodes: int
    resources: Resources = field(default_factory=Resources)
    config: Mapping[str, Scalar] = field(default_factory=dict)
    """What ``context.node_config`` holds beside ``partition-id`` and ``num-partitions``."""
    time_limit: float | None = None
    """Seconds that one message may run in a worker: one that runs longer is ended, with its worker, and answered with
    TIME_LIMIT. None: as long as it takes."""

    def __post_init__(self) -> None:
        if isinstance(self.nodes, bool) or not isinstance(self.nodes, int) or self.nodes < 1:
            raise ConfigError(f"nodes is a whole number, one or more, not {self.nodes!r}")
        if self.time_limit is not None:
            object.__setattr__(self, "time_limit", seconds("time_limit", self.time_limit))
        if not isinstance(self.name, str):
            raise ConfigError(f"the name of a kind is a string, not {self.name!r}")
        object.__setattr__(self, "config", flatten(self.config))
        if isinstance(self.client, ServerApp) or not (callable(self.client) or isinstance(self.client, Reference)):
            raise ConfigError(f"the client of kind {self.name!r} is a ClientApp, or makes one, not {self.client!r}")
        for key in ("partition-id", "num-partitions"):
            if key in self.config:
                raise ConfigError(f"the config of kind {self.name!r} cannot have {key}, which the engine sets")


def seconds(what: str, value: Any) -> float:
    """``value`` if it is a time. Raises ConfigError, which names ``what`` it is."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
        raise ConfigError(f"{what} is a number of seconds, more than zero, not {value!r}")
    return float(value)


def flatten(table: Mapping[str, Any], prefix: str = "") -> dict[str, Scalar]:
    """Nested tables as one, ``{"a": {"b": 1}}`` as ``{"a.b": 1}``. Raises ConfigError for other than scalars."""
    flat: dict[str, Scalar] = {}
    for key, value in table.items():
        if isinstance(value, Mapping):
            more = flatten(value, f"{prefix}{key}.")
        elif isinstance(value, (bool, int, float, str)):
            more = {prefix + key: value}
        else:
            raise ConfigError(f"config {prefix}{key} is a bool, int, float or str, not {type(value).__name__}")
        if both := more.keys() & flat.keys():
            raise ConfigError(f"config {min(both)} is given twice")
        flat.update(more)
    return flat


class Fleet:
    """All kinds of a run, each with its range of node ids, in the order given."""

    def __init__(self, kinds: Sequence[Kind]) -> None:
        if not kinds:
            raise ConfigError("a fleet needs at least one kind of node")
        names = [k.name for k in kinds]
        if twice := {n for n in names if names.count(n) > 1}:
            raise ConfigError(f"two kinds of node are named {min(twice)!r}")
        self.kinds = tuple(kinds)
        self._starts = [FIRST_NODE_ID]
        for kind in kinds:
            self._starts.append(self._starts[-1] + kind.nodes)
        self.nodes = self._starts[-1] - FIRST_NODE_ID
        self.end = self._starts[-1]

    def node_ids(self, kind: str | None = None) -> range:
        """The node ids, of all kinds or of one. Raises UnknownName."""
        if kind is None:
            return range(FIRST_NODE_ID, self.end)
        names = [k.name for k in self.kinds]
        if kind not in names:
            raise UnknownName("kind of node", kind, names)
        at = names.index(kind)
        return range(self._starts[at], self._starts[at + 1])

    def kind_of(self, node: int) -> int:
        """The index of the kind of ``node``, which must be in the fleet."""
        return 0 if len(self.kinds) == 1 else bisect_right(self._starts, node) - 1

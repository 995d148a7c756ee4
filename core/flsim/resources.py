"""Resources of a ClientApp, the places that have them, and the book of what is at work where."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from flsim.errors import ConfigError

UNIT = 10_000
"""Amounts are booked as whole ten-thousandths, rounded down, so that ten times 0.1 and six times a sixth are 1."""

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12,
          "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}  # fmt: skip


def parse_bytes(value: object) -> int:
    """Bytes of a size such as ``2147483648``, ``"2GiB"`` or ``"500 MB"``. Raises ConfigError."""
    if isinstance(value, str):
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]i?)?b?\s*", value.lower())
        if not match:
            raise ConfigError(f"memory {value!r} is no size; write bytes, or a size such as '2GiB' or '500MB'")
        return int(float(match[1]) * _UNITS[match[2] or ""])
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not (0 <= value < math.inf):
        raise ConfigError(f"memory {value!r} is no size; write bytes, or a size such as '2GiB' or '500MB'")
    return int(value)


@dataclass(frozen=True, slots=True)
class Resources:
    """What one ClientApp needs while it answers a message, or what a place has.

    Raises:
        ConfigError: an amount is negative or not finite, or more than one gpu but no whole number.
    """

    cpus: float = 1.0
    gpus: float = 0.0
    """Below 1, a share of one device."""
    memory: int = 0
    """Bytes; 0: not booked. A string such as "2GiB" is taken, too."""
    custom: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "memory", parse_bytes(self.memory))
        if not isinstance(self.custom, Mapping):
            raise ConfigError(f"custom is a table of amounts by name, not {self.custom!r}")
        object.__setattr__(self, "custom", dict(self.custom))
        for name, amount in [("cpus", self.cpus), ("gpus", self.gpus), *self.custom.items()]:
            if isinstance(amount, bool) or not isinstance(amount, (int, float)):
                raise ConfigError(f"{name} is a number, not {amount!r}")
            if not (math.isfinite(amount) and amount >= 0):
                raise ConfigError(f"{name} is zero or more, not {amount!r}")
        if self.gpus > 1 and self.gpus != int(self.gpus):
            raise ConfigError(f"gpus is a share below 1 or a whole number of devices, not {self.gpus!r}")

    @property
    def threads(self) -> int:
        """Threads that BLAS and OpenMP get."""
        return max(1, math.floor(self.cpus))

    def amounts(self) -> dict[str, int]:
        """What is asked of each resource, booked units, without the zeros."""
        amounts = {"cpus": int(self.cpus * UNIT), "gpus": int(self.gpus * UNIT), "memory": self.memory}
        amounts.update((f"custom {k}", int(v * UNIT)) for k, v in self.custom.items())
        return {k: v for k, v in amounts.items() if v}

    def __str__(self) -> str:
        parts = [f"{self.cpus:g} cpu"]
        if self.gpus:
            parts.append(f"{self.gpus:g} gpu")
        if self.memory:
            parts.append(f"{self.memory / 2**30:.3g} GiB" if self.memory >= 2**28 else f"{self.memory / 2**20:.3g} MiB")
        parts += [f"{v:g} {k}" for k, v in self.custom.items()]
        return ", ".join(parts)


@dataclass(frozen=True, slots=True)
class Place:
    """What a lease cannot span: a host, or on Dask a worker."""

    name: str
    resources: Resources
    leases: int
    """How many leases it takes at once."""


class Room:
    """The book of one place: what it has, and what the leases at work there use.

    Gpus are booked by device, since the share that a lease needs must lie on one of them.
    """

    def __init__(self, place: Place) -> None:
        self.place = place
        self.leases = 0
        self._used: dict[str, int] = {}
        self._devices = [0] * math.ceil(place.resources.gpus)

    def resize(self, place: Place) -> None:
        """The place has changed; what is at work there stays booked."""
        self.place = place
        self._devices += [0] * (math.ceil(place.resources.gpus) - len(self._devices))

    def take(self, need: Resources) -> tuple[int, ...] | None:
        """Book ``need`` and return the devices it got, or None where it does not fit now."""
        if self.leases >= self.place.leases:
            return None
        have = self.place.resources.amounts()
        amounts = need.amounts()
        for name, amount in amounts.items():
            if self._used.get(name, 0) + amount > have.get(name, 0):
                return None
        share = amounts.get("gpus", 0)
        devices: tuple[int, ...] = ()
        there = self._devices[: math.ceil(self.place.resources.gpus)]  # it may have had more
        if 0 < share < UNIT:
            # The fullest device that still has the share, so that whole ones stay whole.
            open_ = [i for i, u in enumerate(there) if u + share <= UNIT]
            if not open_:
                return None
            devices = (max(open_, key=lambda i: self._devices[i]),)
        elif share:
            free = [i for i, u in enumerate(there) if u == 0]
            if len(free) * UNIT < share:
                return None
            devices = tuple(free[: share // UNIT])
        for i in devices:
            self._devices[i] += min(share, UNIT)
        for name, amount in amounts.items():
            self._used[name] = self._used.get(name, 0) + amount
        self.leases += 1
        return devices

    def give_back(self, need: Resources, devices: tuple[int, ...]) -> None:
        """Undo what :meth:`take` booked."""
        amounts = need.amounts()
        for name, amount in amounts.items():
            self._used[name] -= amount
        for i in devices:
            self._devices[i] -= min(amounts["gpus"], UNIT)
        self.leases -= 1

    @property
    def busy(self) -> float:
        """How full it is: the share of its leases, or of its cpus where that is more."""
        cpus = self.place.resources.cpus
        used = self._used.get("cpus", 0) / (cpus * UNIT) if cpus else 0.0
        return max(used, self.leases / self.place.leases) if self.place.leases else 1.0


def slots(place: Place, need: Resources) -> int:
    """How many leases of ``need`` an empty ``place`` takes at once."""
    room = Room(place)
    return next(n for n in range(place.leases + 1) if room.take(need) is None)

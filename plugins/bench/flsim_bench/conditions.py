"""Conditions: where, when and with what it was measured."""

from __future__ import annotations

import os
import platform
import shlex
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from importlib import metadata
from pathlib import Path

from flsim.host import host_cpu_model, host_cpus, host_memory

ALWAYS = ("flsim-engine", "flsim-bench", "numpy", "cloudpickle")


@dataclass(frozen=True, slots=True)
class Conditions:
    """What figures depend on, beside what is measured."""

    cpu: str
    cores: float
    """That this process may use."""
    memory: int
    """Bytes."""
    system: str
    python: str
    date: str
    load: float | None
    """The load average of the last minute at the start; None where the system does not tell."""
    command: str
    versions: dict[str, str] = field(default_factory=dict)

    @classmethod
    def here(cls, distributions: Iterable[str]) -> Conditions:
        """The conditions now, with the versions of these distributions."""
        names = dict.fromkeys((*ALWAYS, *distributions))
        return cls(
            cpu=host_cpu_model(),
            cores=host_cpus(),
            memory=host_memory(),
            system=platform.platform(),
            python=platform.python_version(),
            date=datetime.now().astimezone().isoformat(timespec="seconds"),
            load=round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
            command=shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
            versions={n: metadata.version(n) for n in names if any(metadata.distributions(name=n))},
        )

    def lines(self) -> list[tuple[str, str]]:
        """What they are and how they are called, as text."""
        return [
            ("cpu", f"{self.cpu}, {self.cores:g} usable"),
            ("memory", f"{self.memory / 2**30:.1f} GiB"),
            ("system", self.system),
            ("Python", self.python),
            ("versions", ", ".join(f"{n} {v}" for n, v in self.versions.items())),
            ("date", self.date),
            ("load at the start", "unknown" if self.load is None else f"{self.load:g}"),
            ("command", self.command),
        ]

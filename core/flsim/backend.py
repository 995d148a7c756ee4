"""Backend, the interface that a backend package implements, and BackendSpec, by which it is offered."""

from __future__ import annotations

import importlib
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flsim.errors import BackendUnavailable, ConfigError
from flsim.host import host_cpus, host_gpus, host_memory
from flsim.options import check_options_class
from flsim.payload import Frames, Shared
from flsim.resources import Place, Resources, parse_bytes

HONOURS = frozenset({"cpus", "gpus", "memory", "custom", "isolation", "abort", "hosts"})
"""What a backend may declare that it honours. *memory*: that a worker process may be ended, and is replaced, when its
ClientApp holds more than was booked; the engine watches, where *isolation* is honoured, too."""


@dataclass(frozen=True, slots=True)
class RunInfo:
    """What a backend is told of the run that it starts for."""

    run_id: int
    seed: int
    folder: Path
    """A folder for the run's temporary files on this host, mode 0700; removed after the run."""
    needs: tuple[Resources, ...]
    """What the kinds of ClientApp need, one entry a kind."""
    nodes: int
    job: bytes
    """The apps, as :func:`flsim.job.prepare` takes them: may be called in a worker ahead of its first lease."""
    changed: Callable[[], None]
    """To be called, from any thread, when ``capacity()`` would now answer differently."""
    announce: Callable[[str], None]
    """Shows the user one line."""


class Backend(ABC):
    """A place where ClientApps run.

    You provide ``start``, ``capacity``, ``submit`` and ``stop``. For that you get the worker loop, leases,
    admission, retries, seeds, clocks, ``flsim run --backend NAME`` with your options, and the test suite.

    A backend is made with an instance of its options dataclass and starts nothing before ``start``. All of its
    methods but ``share`` are called from one thread, the engine's.
    """

    def __init__(self, options: Any) -> None:  # noqa: B027  # what there is to take differs
        """Take the options. Starts nothing."""

    patience: float = 0.0
    """Seconds that the engine waits at the start for a place that has room, while there is none: for a cluster that
    starts at nothing and grows. Set it from an option."""

    @abstractmethod
    def start(self, run: RunInfo) -> None:
        """Make workers ready, or join a cluster that is there. Raises BackendBroken where it cannot."""

    @abstractmethod
    def capacity(self) -> list[Place]:
        """The places that there are now, with all that they have, in use or not."""

    @abstractmethod
    def submit(self, frames: Frames, need: Resources, place: Place, devices: tuple[int, ...] = ()) -> Future[Frames]:
        """Run :func:`flsim.worker.run_lease` on ``frames`` in a worker at ``place`` and return its Frames.

        Where ``need`` has gpus, ``devices`` are those of the place, counted from 0, on which the engine has booked
        them: the worker sees these and no others, and stays on them. A backend that gives out gpus itself takes them
        for a hint. A worker whose Frames come back ``outgrown`` is replaced before its next lease.

        The engine submits no more than the place has room for. The future is completed exactly once; it fails
        only with WorkerLost or BackendBroken. Who knows that the lease has started says so by the future's
        ``set_running_or_notify_cancel``.

        Raises:
            RuntimeError: before ``start`` or after ``stop``.
        """

    @abstractmethod
    def stop(self) -> None:
        """Give back what ``start`` took, and only that; leases at work are ended. May be called twice."""

    def abort(self, future: Future[Frames]) -> None:
        """Kill the worker that has this lease and replace it: the future fails with WorkerLost (*aborted*).
        Does nothing to a future that is done. Only for backends that honour *abort*."""
        raise NotImplementedError(f"{type(self).__name__} does not honour abort")

    def share(self, buffers: Sequence[memoryview], messages: int) -> Shared | None:
        """Put buffers where every worker reaches them, so that they move once and not with each lease.

        The Shared that is returned comes back among the buffers of the leases whose messages carry them, and is
        closed when the last of these has ended. It outlives any worker: what was lost with one is sent again, at no
        message's cost. Called when messages are pushed, in whichever thread of the ServerApp, between ``start`` and
        ``stop`` or a moment later.

        Args:
            buffers: flat bytes, of 4,096 bytes or more each, that may change as soon as this returns.
            messages: how many carry them.

        Returns:
            None where it is not worth it, or not to be had: they are copied, and go with each lease.

        Raises:
            BackendBroken: there is no room for them.
        """
        return None


@dataclass(frozen=True, slots=True)
class HostOptions:
    """Options of a backend that uses this host alone: what of it the run may use."""

    cpus: float | None = field(
        default=None, metadata={"help": "cpus that the run may use; default: those this process may use"}
    )
    gpus: int | None = field(
        default=None, metadata={"help": "gpus that the run may use; default: those this process may use"}
    )
    memory: str | int | None = field(
        default=None, metadata={"help": 'memory that the run may book, as "8GiB"; default: what this process may use'}
    )
    custom: dict[str, float] | None = field(
        default=None, metadata={"help": "resources of your own that the run may use, as {licences = 2}; default: none"}
    )

    def resources(self) -> Resources:
        """What the host offers to the run. Raises ConfigError for an amount that is none."""
        if self.cpus is not None and not self.cpus > 0:
            raise ConfigError(f"cpus is more than zero, not {self.cpus!r}")
        return Resources(
            cpus=self.cpus if self.cpus is not None else host_cpus(),
            gpus=len(self.devices()),
            memory=parse_bytes(self.memory) if self.memory is not None else host_memory(),
            custom=self.custom or {},
        )

    def devices(self) -> tuple[str, ...]:
        """The gpus that the run may use, as CUDA_VISIBLE_DEVICES names them, in the engine's order. Raises ConfigError
        where there are more in ``gpus`` than that variable lets this process use."""
        visible = host_gpus()
        if self.gpus is None:
            return tuple(visible)
        if self.gpus < 0:
            raise ConfigError(f"gpus is zero or more, not {self.gpus}")
        if "CUDA_VISIBLE_DEVICES" not in os.environ:
            # They are declared: whether they are there, and are NVIDIA's, is the user's to know.
            return tuple(map(str, range(self.gpus)))
        if self.gpus > len(visible):
            raise ConfigError(
                f"gpus={self.gpus}, and CUDA_VISIBLE_DEVICES={os.environ['CUDA_VISIBLE_DEVICES']} leaves this process "
                f"{len(visible)}"
            )
        return tuple(visible[: self.gpus])


@dataclass(frozen=True, slots=True)
class BackendSpec:
    """How a backend is offered to the engine, by its package's ``plugin.py``.

    Raises:
        ValueError: ``honours`` names what there is not, or the options are no dataclass with defaults.
    """

    name: str
    """What ``--backend`` takes."""
    summary: str
    target: str
    """``"flsim_ray.backend:RayBackend"``: imported when the backend is chosen, not before."""
    options: type[Any]
    """A frozen dataclass: its fields are the ``-o`` keys, with types, defaults and ``metadata["help"]``."""
    honours: frozenset[str]
    requires: tuple[str, ...] = ()
    """Distributions that must be there: looked for in the metadata, never imported."""
    install: str = ""
    """What to type where they are missing."""
    lingers: Mapping[str, float] = field(default_factory=dict)
    """Seconds by which processes of the backend's library may outlive a driver that is killed, by a part of their
    command line. All else is gone within five."""

    def __post_init__(self) -> None:
        check_options_class(f"backend {self.name!r}", self.options)
        if unknown := set(self.honours) - HONOURS:
            raise ValueError(
                f"backend {self.name!r} honours {', '.join(sorted(unknown))}; known: {', '.join(sorted(HONOURS))}"
            )

    def load(self) -> type[Backend]:
        """Import the backend's class. Raises BackendUnavailable where that fails."""
        module, _, name = self.target.partition(":")
        try:
            cls: type[Backend] = getattr(importlib.import_module(module), name)
        except Exception as e:  # an import of foreign code may raise anything
            raise BackendUnavailable(f"backend {self.name!r} cannot be imported: {type(e).__name__}: {e}") from e
        return cls

"""The job of a run: what all its messages share, and how a worker process gets ready for it."""

from __future__ import annotations

import hashlib
import inspect
import os
import pickle
import platform
import socket
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from importlib import metadata
from types import MappingProxyType
from typing import Any

from flsim.apps import Scalar
from flsim.code import Reference, import_reference
from flsim.envelope import around_import, traceback_of
from flsim.errors import AppLoadError
from flsim.pickling import Buffer
from flsim.resources import Resources


@dataclass(frozen=True, slots=True)
class JobKind:
    """What all messages to one kind of node share."""

    client: Any
    """Once it is loaded: a ClientApp, or where ``makes`` is set, something that makes one of a Context."""
    config: Mapping[str, Scalar]
    resources: Resources
    time_limit: float | None = None
    """Seconds that a message may run before its worker is ended; None: it may run on."""
    memory: int = 0
    """Bytes that a message may hold before its worker is ended; 0: there is no limit."""
    makes: bool = False


@dataclass(frozen=True, slots=True)
class Job:
    """What all messages of a run share."""

    run_id: int
    seed: int
    nodes: int
    run_config: Mapping[str, Scalar]
    kinds: tuple[JobKind, ...]
    archives: Mapping[str, bytes] = field(default_factory=dict)
    """The apps' files by digest, for hosts that do not have them."""
    largest: int = 0
    """Bytes that a reply may have, its node's state included; 0: there is no limit."""

    def encoded(self) -> bytes:
        """The bytes that :func:`prepare` takes. Raises whatever pickling the ClientApps raises."""
        import cloudpickle

        return bytes(cloudpickle.dumps(self, protocol=5))


def job_digest(job: Buffer) -> bytes:
    """What a worker knows a job by."""
    return hashlib.sha256(job).digest()


# A worker process keeps the jobs that it met last, by the digest of their bytes: nothing else can be in their place.
_jobs: OrderedDict[bytes, Job] = OrderedDict()
_JOBS_KEPT = 4


def known_job(digest: bytes) -> Job | None:
    """The job of this digest, where this process is ready for it."""
    return _jobs.get(digest)


def prepare(job: Buffer) -> Job:
    """Load the apps of a job, once per process. May be called in a worker ahead of its first lease.

    Raises:
        AppLoadError: an app cannot be loaded here; with the traceback.
    """
    digest = job_digest(job)
    known = known_job(digest)
    if known is not None:
        return known
    try:
        with around_import():
            made: Job = pickle.loads(job)
    except BaseException as e:  # a ClientApp that is in it imports what it needs
        raise AppLoadError(traceback_of(e)) from e
    _jobs[digest] = loaded(made)
    while len(_jobs) > _JOBS_KEPT:
        _jobs.popitem(last=False)
    return _jobs[digest]


def loaded(job: Job) -> Job:
    """The job with its apps imported, in the place of references to them. Raises AppLoadError."""
    try:
        kinds = tuple(_loaded(k, job.archives) for k in job.kinds)
    except AppLoadError:
        raise
    except BaseException as e:  # an import runs the app's code, which may raise anything
        raise AppLoadError(traceback_of(e)) from e
    return replace(job, run_config=MappingProxyType(dict(job.run_config)), kinds=kinds, archives={})


def _loaded(kind: JobKind, archives: Mapping[str, bytes]) -> JobKind:
    client = kind.client
    if isinstance(client, Reference):
        client = import_reference(client.here(archives))
    return replace(kind, client=client, makes=inspect.isroutine(client) or inspect.isclass(client))


@lru_cache(maxsize=1)
def worker_name() -> str:
    """How this process is called in what users see: ``host:pid``."""
    return f"{socket.gethostname()}:{os.getpid()}"


@dataclass(frozen=True, slots=True)
class Host:
    """What a host has installed, as far as it must be the driver's or the app needs it."""

    worker: str
    versions: Mapping[str, str]
    missing: tuple[str, ...]
    """Requirements of the app that are not met, with what there is instead."""


COMPARED = ("flsim-engine", "numpy", "cloudpickle")
"""Distributions of which driver and workers must have the same version: what one encodes the other decodes, and
the same draws and sums must come out."""


def inspect_host(requirements: Sequence[str]) -> Host:
    """Look at what is installed here.

    Args:
        requirements: the app's dependencies, as its pyproject gives them.
    """
    versions = {"python": ".".join(platform.python_version_tuple()[:2])}
    versions.update({name: _version(name) for name in COMPARED})
    return Host(worker_name(), versions, tuple(m for r in requirements if (m := _unmet(r))))


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "not installed"


def _unmet(requirement: str) -> str:
    """What is wrong with this requirement here; empty where it is met."""
    from packaging.requirements import Requirement

    wanted = Requirement(requirement)
    if wanted.marker is not None and not wanted.marker.evaluate():
        return ""
    version = _version(wanted.name)
    if version == "not installed":
        return f"{wanted.name} is not installed"
    if not wanted.specifier.contains(version, prereleases=True):
        return f"{wanted.name} is {version}, not {wanted.specifier}"
    return ""

"""What the command line asks for: workloads, and subjects with their options. Refuses what there is not."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import fields
from importlib import metadata
from pathlib import Path
from typing import Any

from flsim.backend import BackendSpec
from flsim.errors import ConfigError, UnknownName
from flsim.options import make_options, parse_assignments
from flsim.plugins import Plugins, Registered
from flsim_bench.catalogue import MESSAGES, REFERENCES, SCALES, WORKLOADS, Workload
from flsim_bench.report import Subject


def choose_workloads(names: Sequence[str], scale: str) -> list[Workload]:
    """The workloads of these names, all where there is none. Raises UnknownName, also for the scale."""
    if scale not in SCALES:
        raise UnknownName("scale", scale, SCALES)
    for name in names:
        if name not in WORKLOADS:
            raise UnknownName("workload", name, WORKLOADS)
    return [w for w in WORKLOADS.values() if not names or w.name in names]


def choose_backends(plugins: Plugins, asked: Sequence[str], options: Sequence[str], workers: int) -> list[Subject]:
    """A subject for each backend that is asked for, all that can run here where none is.

    Args:
        asked: ``NAME``, or ``LABEL=NAME`` for one that is there twice.
        options: ``LABEL.KEY=VALUE``.
        workers: how many workers each has, where a backend can be told and nothing is said of a cluster that runs.

    Raises:
        InputError: there is no such backend, label or option, or what it needs is not installed.
    """
    chosen: dict[str, Registered] = {}
    for text in asked or [b.spec.name for b in plugins.backends() if not b.missing]:
        label, _, name = text.rpartition("=")
        label = label or name
        if label in chosen or label == "flower" or label in REFERENCES:
            raise ConfigError(f"{label!r} names something else already; call it otherwise, as --backend LABEL={name}")
        chosen[label] = plugins.backend(name)
    given: dict[str, dict[str, Any]] = {label: {} for label in chosen}
    for key, value in parse_assignments("-o", options).items():
        label, dot, option = key.partition(".")
        if not dot or not option:
            raise ConfigError(f"-o takes BACKEND.KEY=VALUE, not {key}=…; backends here: {', '.join(chosen)}")
        if label not in chosen:
            raise UnknownName("backend", label, chosen, "It is named in -o.")
        given[label][option] = value
    return [backend_subject(label, b.spec, given[label], workers) for label, b in chosen.items()]


def backend_subject(label: str, spec: BackendSpec, given: Mapping[str, Any], workers: int) -> Subject:
    """A backend with these options, and as many cpus as workers where they leave that open. Raises InputError."""
    options = dict(given)
    if "cpus" in {f.name for f in fields(spec.options)}:
        options = {"cpus": workers, **given}
    try:
        make_options(spec, options)
    except ConfigError:  # a cluster that runs has its own workers, or the user is wrong
        options = dict(given)
        make_options(spec, options)
    own = next((r.name for r in REFERENCES.values() if r.library and r.library in spec.requires), "")
    return Subject(label, "backend", "engine", spec.name, options, own)


def choose_references(workloads: Sequence[Workload]) -> tuple[list[Subject], dict[str, str]]:
    """The references of these workloads, and why some of them are left out."""
    subjects, left_out = [], {}
    for reference in REFERENCES.values():
        if not any(reference.name in w.references for w in workloads):
            continue
        if reference.library and not any(metadata.distributions(name=reference.library)):
            left_out[reference.name] = f"{reference.library} is not installed"
        else:
            subjects.append(Subject(reference.name, "reference", reference.way, MESSAGES if reference.messages else ""))
    return subjects, left_out


def check_flower(python: Path) -> None:
    """Raises ConfigError where this is no Python, or has no Flower that simulates."""
    code = "from importlib.metadata import version as v; v('flwr'), v('ray'), v('numpy')"
    try:
        done = subprocess.run([python, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired) as e:
        raise ConfigError(f"--flower-python is a Python interpreter, and {python} cannot be run: {e}") from e
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it says nothing"])[-1]
        raise ConfigError(
            f"--flower-python {python} has no Flower to simulate with ({last}). "
            f"Install it there with: {python} -m pip install 'flwr[simulation]'"
        )

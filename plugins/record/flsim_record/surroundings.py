"""What a run depends on beside its settings: versions, the machine, and the commit of the app."""

from __future__ import annotations

import os
import platform
import re
import socket
import subprocess
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

from flsim.discovery import GROUP
from flsim.host import host_cpu_model, host_cpus, host_gpus, host_memory
from flsim.job import COMPARED

GIT_SECONDS = 5.0
"""How long git may take to say what it knows: a repository may be large, and lie on a slow disk."""


def machine() -> dict[str, Any]:
    """The host, and what of it this process may use."""
    return {
        "host": socket.gethostname(),
        "system": platform.platform(),
        "cpu": host_cpu_model(),
        "cpus": host_cpus(),
        "memory": host_memory(),
        "gpus": len(host_gpus()),
    }


def versions(requirements: Iterable[str]) -> dict[str, str]:
    """Versions of Python, of the engine and its plugins, and of what backend and app need."""
    names = dict.fromkeys(COMPARED)
    names |= dict.fromkeys(e.dist.name for e in metadata.entry_points(group=GROUP) if e.dist is not None)
    names |= dict.fromkeys(m[0] for r in requirements if (m := re.match(r"[A-Za-z0-9._-]+", r)))
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:  # not all that is required needs to be there
            continue
    return found


def modules() -> dict[str, str]:
    """Versions of the libraries that this process has imported, as they tell them."""
    loaded = {name: vars(module).get("__version__") for name, module in list(sys.modules.items()) if "." not in name}
    return {n: v for n, v in sorted(loaded.items()) if isinstance(v, str) and n not in sys.stdlib_module_names}


def commit(path: Path | None, runs_dir: Path | None = None) -> dict[str, Any] | None:
    """The commit of the repository that the app at ``path`` is in, and whether its files differ from it, or are not in
    it; None where it is in none, or git cannot tell. What is in ``runs_dir`` is none of its files."""
    if path is None:
        return None
    folder = path if path.is_dir() else path.parent
    told = _git(folder, "status", "--porcelain=v2", "--branch", "--", str(path), *_not_its_own(folder, runs_dir))
    tracked = _git(folder, "ls-files", "--", str(path))  # of an app that is ignored, the status says nothing
    if told is None or tracked is None:
        return None
    heads = dict(re.findall(r"^# branch\.(\S+) (.*)$", told, re.MULTILINE))
    if heads.get("oid", "(initial)") == "(initial)":
        return None
    dirty = not tracked or any(not line.startswith("#") for line in told.splitlines())
    return {"commit": heads["oid"], "branch": heads.get("head"), "dirty": dirty}


def _not_its_own(folder: Path, runs_dir: Path | None) -> list[str]:
    """What makes git pass over files that runs leave in the folder of their app."""
    excluded = [":(exclude)*__pycache__*"]
    if runs_dir is not None and runs_dir != folder and runs_dir.is_relative_to(folder):
        excluded.append(f":(exclude,literal){runs_dir.relative_to(folder)}")
    return excluded


def _git(folder: Path, *args: str) -> str | None:
    """What git says; None where it cannot."""
    try:
        # Without locks, so that nothing is written to the repository.
        done = subprocess.run(
            ["git", *args], cwd=folder, env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"}, stdin=subprocess.DEVNULL,
            capture_output=True, encoding="utf-8", errors="backslashreplace", timeout=GIT_SECONDS, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    return None if done.returncode else done.stdout

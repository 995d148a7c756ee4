"""Which runs there are, and which one is meant."""

from __future__ import annotations

import difflib
import math
import os
from pathlib import Path

from flsim.errors import ConfigError
from flsim_record.folder import is_run, read_json, started

NAMED = 5
"""Runs that an error names, at most."""


def folders(runs_dir: Path) -> list[Path]:
    """The folders of runs in ``runs_dir``, the newest first, and last those of which it cannot be read when they began;
    none where there is no such folder. Raises ConfigError.
    """
    return sorted(_folders(runs_dir), key=_age)


def _folders(runs_dir: Path) -> list[Path]:
    # Links are not followed: what is elsewhere is asked for by its own path.
    try:
        found = [Path(e.path) for e in os.scandir(runs_dir) if e.is_dir(follow_symlinks=False) and is_run(Path(e.path))]
    except FileNotFoundError:
        return []
    except OSError as e:
        raise ConfigError(f"the runs in {runs_dir} cannot be listed: {e.strerror}") from e
    return sorted(found, key=lambda folder: folder.name, reverse=True)


def _age(folder: Path) -> float:
    """Greater for an older one. The folder's name would say it to the second, in whatever was local time."""
    try:
        about = read_json(folder)
    except ConfigError:
        return math.inf
    began = started(about)
    return math.inf if began is None else -began.timestamp()


def find_run(runs_dir: Path, run: str) -> Path:
    """The folder of the run that ``run`` names: the path of one, the name of one in ``runs_dir``, or how the id of
    only one of those there begins or ends.

    A name is only compared with those that are there, so that it leads nowhere else. Raises ConfigError.
    """
    if os.sep in run:
        path = Path(run)
        if not is_run(path):
            raise ConfigError(f"{run} is not the folder of a run")
        return path.absolute()
    there = _folders(runs_dir)
    found = [f for f in there if f.name == run] or [f for f in there if _is_id(f.name.rpartition("-")[2], run)]
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(f.name for f in found[:NAMED]) + (", …" if len(found) > NAMED else "")
        raise ConfigError(f"{run!r} is that of {len(found)} runs: {names}. Give more of its id")
    if not there:
        raise ConfigError(f"there is no run {run!r}: no run is kept in {runs_dir}")
    near = difflib.get_close_matches(run, [name for f in there for name in (f.name, f.name.rpartition("-")[2])], n=1)
    hint = f"; did you mean {near[0]!r}?" if near else "; 'flsim show' lists those that are kept"
    raise ConfigError(f"there is no run {run!r} in {runs_dir}{hint}")


def _is_id(id_: str, given: str) -> bool:
    return bool(given) and (id_.startswith(given) or id_.endswith(given))

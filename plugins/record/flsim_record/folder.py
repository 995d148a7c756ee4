"""The folder of a run: its name, its lock, and run.json, which says what the run is."""

from __future__ import annotations

import json
import math
import os
import re
import secrets
import stat
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from flsim.errors import ConfigError
from flsim.folder import is_locked
from flsim.hooks import RunView

SCHEMA = 1
"""The version of what is in the folder. A reader refuses one that it does not know."""

RUN_JSON = "run.json"
DATABASE = "run.sqlite"
LOCK = "lock"
"""Held by the process of a run while it lasts."""

NAME = 40
"""Characters of an app's name that go into that of the folder."""


def make_folder(run: RunView) -> Path:
    """Make the folder of a run, of mode 0700, with what is known of the run. Raises ConfigError where it cannot be."""
    runs = run.runs_dir
    if runs is None:
        raise ValueError("this run is not recorded")
    now = datetime.now().astimezone()
    # What comes from outside names no other folder.
    name = re.sub(r"[^A-Za-z0-9_.]+", "-", run.app).strip("-.")[:NAME] or "app"
    id_ = secrets.token_hex(4)
    folder = runs / f"{now:%Y%m%dT%H%M%S}-{name}-{id_}"
    try:
        runs.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700)
        write_json(folder / RUN_JSON, about_run(run, id_, now))
    except OSError as e:
        raise ConfigError(
            f"the run cannot be kept in {runs}: {e.strerror}. Name another folder by --runs-dir, or keep nothing by "
            "--no-record"
        ) from e
    return folder


def about_run(run: RunView, id_: str, now: datetime) -> dict[str, Any]:
    """What run.json says of a run that has not begun."""
    return {
        "schema": SCHEMA,
        "id": id_,
        "status": "running",
        "app": run.app,
        "path": None if run.path is None else str(run.path),
        "backend": run.backend,
        "nodes": run.nodes,
        "seed": run.seed,
        "started": now.isoformat(timespec="milliseconds"),
        "began": None,
        "ended": None,
        "seconds": None,
        "settings": {name: {"value": s.value, "from": s.origin} for name, s in run.settings.items()},
        "rows": run.rows,
        "pid": os.getpid(),
    }


KEYS: dict[str, type | tuple[type, ...]] = {
    "id": str, "status": str, "app": str, "backend": str, "nodes": int, "seed": int, "started": str, "settings": dict,
    "seconds": (int, float, type(None)),
}  # fmt: skip
"""What each run.json has, with its types."""


def read_json(folder: Path) -> dict[str, Any]:
    """What run.json says. Raises ConfigError where there is none, or none of this schema."""
    try:
        about = json.loads((folder / RUN_JSON).read_text(encoding="utf-8"))
        schema = about["schema"]
    except PermissionError as e:
        raise ConfigError(f"the run in {folder} cannot be read: {e.strerror}") from e
    except (OSError, ValueError, TypeError, KeyError) as e:
        raise ConfigError(f"{folder} is not the folder of a run: its {RUN_JSON} cannot be read: {e}") from e
    if schema != SCHEMA:
        raise ConfigError(f"{folder} was written by another version of flsim: schema {schema}, and not {SCHEMA}")
    if wrong := _wrong(about):
        raise ConfigError(f"{folder} is not the folder of a run: its {RUN_JSON} has no {wrong} as flsim writes it")
    if about["status"] == "running" and not is_locked(folder / LOCK):
        about["status"] = "killed"
    return dict(about)


def _wrong(about: Mapping[str, Any]) -> str | None:
    """The first key that is not as :func:`about_run` writes it."""
    for key, type_ in KEYS.items():
        if key not in about or not isinstance(about[key], type_):
            return key
    if not all(isinstance(s, dict) and {"value", "from"} <= s.keys() for s in about["settings"].values()):
        return "settings"
    result = about.get("result", {})
    if not isinstance(result, dict) or not isinstance(result.get("last", {}), dict):
        return "result"
    return None if started(about) else "started"


def started(about: Mapping[str, Any]) -> datetime | None:
    """When a run's folder was made; None where it does not say so."""
    try:
        return datetime.fromisoformat(about["started"]).astimezone()
    except (KeyError, TypeError, ValueError):
        return None


def is_run(folder: Path) -> bool:
    """Whether this is the folder of a run: also one into which one may not look, since it may be one."""
    try:
        return stat.S_ISREG((folder / RUN_JSON).stat().st_mode)
    except PermissionError:
        return True
    except OSError:
        return False


def write_json(file: Path, values: Mapping[str, Any], *, last: bool = False) -> None:
    """Write a file that is at any time as it was, or as it will be. The ``last`` one is forced to the disk.

    Raises OSError.
    """
    new = file.with_name(f"{file.name}.new")
    try:
        with new.open("w", encoding="utf-8") as out:
            json.dump(_plain(values), out, indent=2, allow_nan=False)
            out.write("\n")
            if last:
                out.flush()
                os.fsync(out.fileno())
        new.replace(file)
    except OSError:
        new.unlink(missing_ok=True)
        raise


def decimal(value: int) -> str | None:
    """A whole number in decimal; None where it has more digits than Python writes."""
    try:
        return str(value)
    except ValueError:
        return None


def _plain(value: Any) -> Any:
    """``value`` in the types of JSON: what has none is text, as are infinities and what is no number."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(v) for v in value]
    if isinstance(value, int) and not isinstance(value, bool) and decimal(value) is None:
        return hex(value)
    if value is None or isinstance(value, (bool, int, str)) or (isinstance(value, float) and math.isfinite(value)):
        return value
    return str(value)

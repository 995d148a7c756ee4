"""The state that a run came to, as files: its arrays in state.npz, all else of it in state.json."""

from __future__ import annotations

import base64
import json
import math
import zipfile
from pathlib import Path
from typing import Any

from flsim.errors import ConfigError
from flsim.records import ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from flsim_record.folder import write_json

STATE_JSON = "state.json"
STATE_NPZ = "state.npz"

_KINDS: dict[str, type[Any]] = {kind.__name__: kind for kind in (ArrayRecord, MetricRecord, ConfigRecord)}


def save_state(folder: Path, state: RecordDict) -> None:
    """Write a state: state.json lists its records in order, and says of each array by what name it is in state.npz.

    Nothing in either is a pickle. Raises OSError.
    """
    records = []
    arrays: dict[str, Any] = {}
    for name, record in state.items():
        values = []
        for key, value in record.items():
            if isinstance(record, ArrayRecord):
                at = f"a{len(arrays)}"
                arrays[at] = value
                values.append([key, {"array": at, "dtype": value.dtype.str, "shape": list(value.shape)}])
            else:
                values.append([key, _written(value)])
        records.append({"name": name, "kind": type(record).__name__, "values": values})
    if arrays:
        import numpy as np

        new = folder / f"{STATE_NPZ}.new"
        with new.open("wb") as out:
            np.savez(out, allow_pickle=False, **arrays)
        new.replace(folder / STATE_NPZ)
    write_json(folder / STATE_JSON, {"records": records})


def load_state(folder: Path) -> RecordDict:
    """The state as it was. Raises ConfigError where it cannot be read."""
    try:
        records = json.loads((folder / STATE_JSON).read_text(encoding="utf-8"))["records"]
        arrays: Any = {}
        if any(r["kind"] == ArrayRecord.__name__ and r["values"] for r in records):
            import numpy as np

            with np.load(folder / STATE_NPZ, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
        state = RecordDict()
        for record in records:
            kind = _KINDS[record["kind"]]
            read = _array if kind is ArrayRecord else _read
            state[record["name"]] = kind({key: read(value, arrays) for key, value in record["values"]})
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as e:
        raise ConfigError(f"the state in {folder} cannot be read: {type(e).__name__}: {e}") from e
    return state


def _array(value: Any, arrays: Any) -> Any:
    array = arrays[value["array"]]
    # A type that is numpy's only by a library that registers it comes back as bare bytes.
    return array if array.dtype.str == value["dtype"] else array.view(value["dtype"])


def _written(value: Any) -> Any:
    """A value in the types of JSON: what has none is a table that names its type."""
    if isinstance(value, list):
        return [_written(v) for v in value]
    if isinstance(value, bytes):
        return {"bytes": base64.b64encode(value).decode()}
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": repr(value)}
    return value


def _read(value: Any, arrays: Any) -> Any:
    if isinstance(value, list):
        return [_read(v, arrays) for v in value]
    if isinstance(value, dict):
        return base64.b64decode(value["bytes"]) if "bytes" in value else float(value["float"])
    return value

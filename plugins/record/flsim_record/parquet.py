"""The tables of runs as Parquet files."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flsim.errors import ConfigError
from flsim_record.kept import TABLES, Kept


def export(runs: Sequence[Kept], folder: Path) -> list[tuple[Path, int]]:
    """Write DIR/TABLE.parquet for each table, with the rows of all runs; their first column is the run's id. Where one
    cannot be written, none is.

    Returns each file with its number of rows.

    Raises:
        ConfigError: pyarrow is not installed, a file is there already, or it cannot be written.
    """
    try:
        import pyarrow as arrow
        from pyarrow import parquet
    except ImportError as e:
        raise ConfigError(
            "--parquet needs pyarrow, which is not installed. Install it with: pip install 'flsim-engine[parquet]'"
        ) from e
    types = {int: arrow.int64(), float: arrow.float64(), str: arrow.string()}
    for table in TABLES:
        if (folder / f"{table}.parquet").exists():
            raise ConfigError(f"{folder / table}.parquet is there already, and nothing is written over it")
    written: list[tuple[Path, int]] = []
    try:
        with contextlib.ExitStack() as reading, contextlib.ExitStack() as half_done:
            for kept in runs:
                reading.enter_context(kept.at_once())
            folder.mkdir(parents=True, exist_ok=True)
            for table in TABLES:
                columns = runs[0].types(table)
                schema = arrow.schema([("run", arrow.string()), *((name, types[t]) for name, t in columns.items())])
                file = folder / f"{table}.parquet.new"
                half_done.callback(file.unlink, missing_ok=True)
                rows = 0
                with contextlib.closing(parquet.ParquetWriter(file, schema)) as writer:
                    for kept in runs:
                        for batch in kept.batches(table):
                            writer.write_table(_table(arrow, schema, kept.about["id"], batch))
                            rows += len(batch)
                written.append((file, rows))
            for new, _ in written:
                half_done.callback(new.with_suffix("").unlink, missing_ok=True)
                new.replace(new.with_suffix(""))
            half_done.pop_all()
    except (OSError, arrow.ArrowException) as e:
        raise ConfigError(f"the tables cannot be written to {folder}: {e}") from e
    return [(new.with_suffix(""), rows) for new, rows in written]


def _table(arrow: Any, schema: Any, id_: str, rows: list[tuple[Any, ...]]) -> Any:
    columns = [[id_] * len(rows), *zip(*rows, strict=True)]
    return arrow.table([arrow.array(c, t) for c, t in zip(columns, schema.types, strict=True)], schema=schema)

"""The tables of runs as Parquet files."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from flsim.errors import ConfigError
from flsim_record.kept import TABLES, Kept


def export(runs: Sequence[Kept], folder: Path) -> Iterator[tuple[Path, int]]:
    """Write DIR/TABLE.parquet for each table, with the rows of all runs; their first column is the run's id.

    Yields each file with its number of rows, once it is written.

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
    types = {"INTEGER": arrow.int64(), "REAL": arrow.float64(), "TEXT": arrow.string()}
    for table in TABLES:
        if (folder / f"{table}.parquet").exists():
            raise ConfigError(f"{folder / table}.parquet is there already, and nothing is written over it")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for table in TABLES:
            columns = runs[0].columns(table)
            schema = arrow.schema([("run", arrow.string()), *((name, types[t]) for name, t in columns.items())])
            file = folder / f"{table}.parquet"
            new = folder / f"{table}.parquet.new"
            rows = 0
            with contextlib.closing(parquet.ParquetWriter(new, schema)) as writer:
                for kept in runs:
                    for batch in kept.batches(table):
                        writer.write_table(_table(arrow, schema, kept.about["id"], batch))
                        rows += len(batch)
            new.replace(file)
            yield file, rows
    except OSError as e:
        raise ConfigError(f"the tables cannot be written to {folder}: {e}") from e


def _table(arrow: Any, schema: Any, id_: str, rows: list[tuple[Any, ...]]) -> Any:
    columns = [[id_] * len(rows), *zip(*rows, strict=True)]
    return arrow.table([arrow.array(c, t) for c, t in zip(columns, schema.types, strict=True)], schema=schema)

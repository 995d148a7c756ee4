"""Tables as other libraries have them, which are imported here alone."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from flsim.errors import ConfigError

if TYPE_CHECKING:
    import pandas
    import pyarrow

Columns = Mapping[str, Sequence[Any]]
"""A table: its columns by name, all of one length."""


def to_pandas(columns: Columns) -> pandas.DataFrame:
    """A DataFrame. Raises ConfigError where pandas is not installed."""
    return _library("pandas").DataFrame(dict(columns))


def to_arrow(columns: Columns) -> pyarrow.Table:
    """A Table. A column whose values Arrow has no one type for is one of text.

    Raises ConfigError where pyarrow is not installed.
    """
    arrow = _library("pyarrow")

    def column(values: Sequence[Any]) -> Any:
        try:
            return arrow.array(values)
        except (arrow.ArrowException, OverflowError):
            return arrow.array([None if v is None else str(v) for v in values])

    return arrow.table({name: column(values) for name, values in columns.items()})


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as e:
        raise ConfigError(
            f"{name}, which makes this table, is not installed. Install it with: pip install {name}"
        ) from e

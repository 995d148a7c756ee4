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


Types = Mapping[str, type]
"""The types of columns by name, ``int``, ``float`` or ``str``; of those that are not named, they follow from the
values."""


def to_pandas(columns: Columns, types: Types) -> pandas.DataFrame:
    """A DataFrame. Whole numbers stay so where one is missing. Raises ConfigError where pandas is not installed."""
    library = _library("pandas")
    dtypes = {int: "Int64", float: "float64", str: "string"}

    def column(name: str, values: Sequence[Any]) -> Any:
        try:
            return library.Series(values, dtype=dtypes.get(types.get(name, object)))
        except OverflowError:  # more than 64 bits
            return library.Series(values)

    return library.DataFrame({name: column(name, values) for name, values in columns.items()})


def to_arrow(columns: Columns, types: Types) -> pyarrow.Table:
    """A Table. A column whose values Arrow has no one type for is one of text.

    Raises ConfigError where pyarrow is not installed.
    """
    arrow = _library("pyarrow")
    known = {int: arrow.int64(), float: arrow.float64(), str: arrow.string()}

    def column(name: str, values: Sequence[Any]) -> Any:
        try:
            return arrow.array(values, known.get(types.get(name, object)))
        except (arrow.ArrowException, OverflowError):
            return arrow.array([None if v is None else str(v) for v in values], arrow.string())

    return arrow.table({name: column(name, values) for name, values in columns.items()})


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as e:
        raise ConfigError(
            f"{name}, which makes this table, is not installed. Install it with: pip install {name}"
        ) from e

"""``flsim show``: runs that were kept."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import typer

from flsim_record.arguments import RUNS, RUNS_DIR


def show(
    run: list[str] = RUNS,
    runs_dir: Path = RUNS_DIR,
    as_json: bool = typer.Option(False, "--json", help="Print JSON instead of tables."),
    parquet: Path | None = typer.Option(
        None,
        "--parquet",
        metavar="DIR",
        help="Write the runs' tables as Parquet files (needs the extra parquet).",
    ),
) -> None:
    """Show runs that were kept: all of them as a list, one in full, several compared.

    Exit codes: 0 it is shown; 2 there is no such run, or it cannot be read.
    """
    from flsim.errors import ConfigError
    from flsim_record.find import find_run, folders
    from flsim_record.kept import Kept
    from flsim_record.summary import compared, overview, summary

    kept = [Kept(folder) for folder in dict.fromkeys(find_run(runs_dir, r) for r in run or ())]
    if parquet is not None:
        if not kept:
            raise ConfigError("--parquet needs a RUN, or several: 'flsim show' lists those that are kept")
        from flsim_record.parquet import export

        for file, rows in export(kept, parquet):
            print(f"{file}: {rows:,} rows", file=sys.stderr if as_json else sys.stdout)
        if not as_json:
            return
    from flsim_record.shown import show_compared, show_list, show_run

    if not kept:
        found, unreadable = [], []
        for folder in folders(runs_dir):
            try:
                found.append(overview(Kept(folder)))
            except ConfigError as e:
                unreadable.append(str(e))
        if as_json:
            _print_json(found)
        else:
            show_list(found, runs_dir)
        for text in unreadable:
            print(f"note: {text}", file=sys.stderr)
    elif len(kept) == 1:
        one = summary(kept[0])
        _print_json(one) if as_json else show_run(one)
    else:
        several = compared(kept)
        _print_json(several) if as_json else show_compared(several)


def _print_json(value: Any) -> None:
    from flsim_record.summary import finite

    typer.echo(json.dumps(finite(value), indent=2, allow_nan=False))

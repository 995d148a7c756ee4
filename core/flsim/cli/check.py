"""``flsim check``: the contract of a backend, as a table."""

from __future__ import annotations

import json
from typing import Any

import typer


def check(
    backend: str = typer.Argument(..., metavar="BACKEND", help="The backend to check; 'flsim backends' lists them."),
    option: list[str] = typer.Option(
        [], "--option", "-o", metavar="KEY=VALUE", help="An option of the backend, such as cpus=2. Repeatable."
    ),
    only: list[str] = typer.Option([], "--only", metavar="NAME", help="Run this check only. Repeatable."),
    as_json: bool = typer.Option(False, "--json", help="Print JSON instead of a table."),
) -> None:
    """Check that a backend keeps its contract.

    Goes through it clause by clause, by using the backend for real. It needs room for two ClientApps of one cpu each.
    Exit codes: 0 all checks passed that apply; 1 one failed; 2 wrong usage.
    """
    from flsim.errors import UnknownName
    from flsim.options import parse_assignments
    from flsim.plugins import Plugins
    from flsim.testing.checks import CHECKS
    from flsim.testing.subject import Subject

    spec = Plugins().backend(backend).spec
    names = [c.name for c in CHECKS]
    for name in only:
        if name not in names:
            raise UnknownName("check", name, names)
    subject = Subject.of(spec, parse_assignments("-o", option))
    rows: list[dict[str, Any]] = []
    for item in CHECKS:
        if not only or item.name in only:
            result = item.result(subject)
            rows.append(
                {
                    "clause": item.clause,
                    "check": item.name,
                    "outcome": result.outcome,
                    "seconds": round(result.seconds, 2),
                    "reason": result.reason,
                }
            )
            if not as_json:
                _show(rows[-1])
    failed = sum(r["outcome"] == "failed" for r in rows)
    passed = sum(r["outcome"] == "passed" for r in rows)
    if as_json:
        typer.echo(json.dumps({"backend": backend, "checks": rows}, indent=2))
    else:
        typer.echo(f"{backend}: {passed} passed, {failed} failed, {len(rows) - passed - failed} not offered")
    if failed:
        raise typer.Exit(1)


_COLOURS = {"passed": typer.colors.GREEN, "failed": typer.colors.RED, "not offered": typer.colors.YELLOW}


def _show(row: dict[str, Any]) -> None:
    outcome = typer.style(f"{row['outcome']:<11}", fg=_COLOURS[row["outcome"]])
    name = row["check"].replace("_", " ")
    typer.echo(f"{row['clause']:>2}  {name:<62} {outcome} {row['seconds']:6.2f} s")
    for line in row["reason"].splitlines():
        typer.echo(f"      {line}")

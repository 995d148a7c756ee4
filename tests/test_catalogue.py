"""The catalogue of faults has all its rows, and each test that it names is there."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path
from typing import Any

import pytest

from flsim.testing import CHECKS

ROOT = Path(__file__).parents[1]
DATA = tomllib.loads((ROOT / "docs" / "catalogue.toml").read_text(encoding="utf-8"))
ROWS: list[dict[str, Any]] = DATA["row"]
BACKENDS = ("serial", "loky", "dask", "ray")

IN_SCOPE = {
    *range(1, 18), *range(19, 29), 30, *range(32, 48), 49, 50, *range(52, 57), *range(63, 70), 71, 72, *range(74, 78),
}  # fmt: skip
"""Rows of the list of faults that this catalogue was made from; the others are about checkpoints and resume, or not
built."""


def collected(folder: Path) -> set[str]:
    """The tests that pytest collects from the files of a folder."""
    found = set()
    for file in folder.glob("test_*.py"):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        found |= {n.name for n in tree.body if isinstance(n, ast.FunctionDef) and n.name.startswith("test_")}
    return found


HERE = {
    "": collected(ROOT / "tests") | {c.name for c in CHECKS},
    **{f"backends/{b}": collected(ROOT / "backends" / b / "tests") for b in BACKENDS[1:]},
}


def test_no_row_is_missing_and_none_is_there_twice() -> None:
    numbers = [row["number"] for row in ROWS]
    assert numbers == sorted(IN_SCOPE)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: str(row["number"]))
def test_each_row_is_shown_on_each_backend_by_tests_that_there_are_or_declared(
    row: dict[str, Any],
) -> None:
    assert set(row) <= {"number", "fault", "all", "engine", "declared", "but", *BACKENDS}
    for backend in BACKENDS:
        named = [*row.get("all", ()), *row.get("engine", ()), *row.get(backend, ())]
        if backend in row.get("declared", {}):
            assert row["declared"][backend]
            assert not row.get(backend)
            assert backend not in row.get("but", {})
            continue
        assert named, f"nothing shows it on {backend}"
        for name in named:
            folder, _, test = name.rpartition("::")
            there = HERE[folder] if folder else HERE[""] | HERE.get(f"backends/{backend}", set())
            assert test in there, f"there is no test or check {test} for {backend}"


def test_what_stands_for_every_backend_runs_on_each_or_is_of_the_engine() -> None:
    """A test runs on the backends that it is written for; a check on all that it applies to."""
    checks, of_backends = {c.name for c in CHECKS}, {t for f, tests in HERE.items() if f for t in tests}
    for row in ROWS:
        assert set(row.get("all", ())) <= checks, f"row {row['number']} names a test that does not run on each backend"
        engine = set(row.get("engine", ()))
        assert engine <= HERE[""] - checks - of_backends, f"row {row['number']} names what is not of the engine alone"


def test_what_a_backend_is_known_to_fail_is_said_in_its_rows() -> None:
    for backend in BACKENDS[1:]:
        failing = known_to_fail(ROOT / "backends" / backend / "tests")
        for row in ROWS:
            if failing & {*row.get("all", ()), *row.get(backend, ())}:
                assert backend in row.get("but", {}), f"row {row['number']} does not hold on {backend} as it says"


def known_to_fail(folder: Path) -> set[str]:
    """The checks that tests of a backend declare in a dict ``known``."""
    found = set()
    for file in folder.glob("test_*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
                if "known" in {t.id for t in node.targets if isinstance(t, ast.Name)}:
                    found |= {str(key.value) for key in node.value.keys if isinstance(key, ast.Constant)}
            elif isinstance(node, ast.keyword) and node.arg == "known" and isinstance(node.value, ast.Dict):
                found |= {str(key.value) for key in node.value.keys if isinstance(key, ast.Constant)}
    return found


def test_a_check_that_stands_for_a_backend_applies_to_it() -> None:
    """A check that needs what serial does not honour shows nothing there, so the row says more, or is declared."""
    from flsim.plugins import Plugins

    checks = {c.name: c for c in CHECKS}
    for offer in Plugins().backends():
        if offer.spec.name not in BACKENDS:
            continue
        for row in ROWS:
            if offer.spec.name in row.get("declared", {}):
                continue
            named = [*row.get("all", ()), *row.get("engine", ()), *row.get(offer.spec.name, ())]
            shown = [n for n in named if n not in checks or checks[n].needs <= offer.spec.honours]
            assert shown, f"row {row['number']}: no test of {named} applies to {offer.spec.name}"


def test_each_check_of_whole_runs_is_in_the_catalogue() -> None:
    named = {name for row in ROWS for key in ("all", "engine", *BACKENDS) for name in row.get(key, ())}
    assert {c.name for c in CHECKS if c.clause == 13} <= named

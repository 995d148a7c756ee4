"""The hunt for planted bugs tells those that are found from those that survive. The session `mutants` runs it."""

import io
from dataclasses import replace
from pathlib import Path

import pytest
from mutants.__main__ import COPIED, NotPlanted, plant, run
from mutants.catalogue import MUTANTS, Mutant, of_heart
from rich.console import Console

from flsim.testing import CHECKS

ROOT = Path(__file__).parents[1]

CLAUSES = {f"{check.clause}-{check.name}" for check in CHECKS}

FIFO = Mutant(
    "The messages of a node overtake each other",
    "core/flsim/heart.py",
    "            entry = waiting.popleft()\n            if entry.status",
    "            entry = waiting.pop()\n            if entry.status",
    of_heart("a_node_has_one_message_in_flight_and_the_rest_wait_in_order"),
)
NONE = replace(FIFO, bug="None", put=FIFO.find)
ELSEWHERE = replace(FIFO, bug="Elsewhere", red=of_heart("gpus_are_shared_by_device"))
GONE = replace(FIFO, bug="Gone", find="what was here once")
FATAL = replace(FIFO, bug="Fatal", put="            raise SystemExit(syntax error\n            if entry.status")


def hunted(*mutants: Mutant) -> tuple[int, str]:
    """The exit code, and what is shown."""
    shown = io.StringIO()
    return run(mutants, Console(file=shown, width=200), jobs=2), shown.getvalue()


def test_a_bug_that_its_test_finds_is_shown_with_the_test_that_went_red() -> None:
    code, shown = hunted(FIFO)
    assert code == 0
    assert "a_node_has_one_message_in_flight_and_the_rest_wait_in_order" in shown
    assert "1 of 1 bugs were found" in shown


def test_what_is_not_found_is_a_failure_that_says_why() -> None:
    code, shown = hunted(NONE, ELSEWHERE, GONE, FATAL)
    assert code == 1
    assert "survived a_node_has_one_message_in_flight" in shown
    assert "survived gpus_are_shared_by_device" in shown
    assert "not planted: core/flsim/heart.py has 0 times" in shown
    assert "not run to an end: a_node_has_one_message_in_flight" in shown
    assert "0 of 4 bugs were found" in shown


def test_a_test_that_is_red_without_any_bug_is_a_failure() -> None:
    code, shown = hunted(replace(FIFO, red=("tests/test_heart.py::test_that_there_is_not",)))
    assert code == 1
    assert "These tests are red without any bug:" in shown
    assert "not found" in shown  # what pytest said


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.bug)
def test_each_bug_can_be_planted_and_has_tests(mutant: Mutant, tmp_path: Path) -> None:
    there = tmp_path / mutant.file
    there.parent.mkdir(parents=True)
    there.write_text((ROOT / mutant.file).read_text(encoding="utf-8"), encoding="utf-8")
    plant(mutant, tmp_path)
    compile(there.read_text(encoding="utf-8"), mutant.file, "exec")
    with pytest.raises(NotPlanted):
        plant(replace(mutant, find=mutant.find + "…"), tmp_path)
    assert mutant.file.startswith(COPIED)
    for test in mutant.red:
        file, *_, name = test.split("::")
        function, _, parameter = name.partition("[")
        if function == "test_clause":
            assert parameter.rstrip("]").partition("-")[2] in CLAUSES, f"{test} is no check"
        else:
            assert f"def {function}(" in (ROOT / file).read_text(encoding="utf-8"), f"{test} is no test"


def test_each_bug_has_a_name_of_its_own() -> None:
    assert len({mutant.bug for mutant in MUTANTS}) == len(MUTANTS)

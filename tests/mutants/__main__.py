"""Plant each bug into a copy of the sources, and run the tests that must go red: ``python -m tests.mutants --help``."""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from .catalogue import MUTANTS, Mutant

ROOT = Path(__file__).parents[2]
SOURCES = ("core", "backends/serial", "backends/loky", "plugins/progress", "plugins/record")
"""What bugs are planted into; it goes in front of what is installed."""
COPIED = (*SOURCES, "tests", "docs", "pyproject.toml", "README.md", "CHANGELOG.md", "noxfile.py")

SIMULATIONS = 400
"""Simulated runs that must find a bug."""

SECONDS = 100
"""In which the tests of one bug must have ended."""

SAID = "pytest.txt"
"""The file in a copy that has what pytest said."""


class NotPlanted(Exception):
    """The text that a bug is to replace is not there, or more than once."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one bug."""

    seconds: float
    red: tuple[str, ...]
    """Those that went red, of those that must."""
    wrong: str = ""
    """Why the bug is not taken for found."""


def plant(mutant: Mutant, root: Path) -> None:
    """Put the bug into the sources at ``root``. Raises NotPlanted."""
    file = root / mutant.file
    text = file.read_text(encoding="utf-8")
    if text.count(mutant.find) != 1:
        raise NotPlanted(f"{mutant.file} has {text.count(mutant.find)} times:\n{mutant.find}")
    file.write_text(text.replace(mutant.find, mutant.put), encoding="utf-8")


def copy(folder: Path) -> Path:
    """A copy of the sources and tests, in which everything is where it is here."""
    for name in COPIED:
        here, there = ROOT / name, folder / name
        there.parent.mkdir(parents=True, exist_ok=True)
        if here.is_dir():
            shutil.copytree(here, there, ignore=shutil.ignore_patterns("__pycache__", ".*", "*.png"))
        else:
            shutil.copy(here, there)
    return folder


def failed(tests: Sequence[str], root: Path) -> dict[str, bool]:
    """Run tests in a copy: whether each failed. One that did not end is not in it."""
    report = root / "report.xml"
    paths = [str(root / source) for source in SOURCES]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "FLSIM_SIMULATIONS": str(SIMULATIONS)}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}", *tests]
    with (root / SAID).open("w") as said:
        process = subprocess.Popen(
            command, cwd=root, env=environment, stdout=said, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        process.wait(SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if not report.exists():
        return {}
    found: dict[str, bool] = {}
    for case in ElementTree.parse(report).iter("testcase"):
        red = any(child.tag in ("failure", "error") for child in case)
        for test in tests:
            if _is_of(case.get("classname", ""), case.get("name", ""), test):
                found[test] = found.get(test, False) or red
    return found


def _is_of(module: str, name: str, test: str) -> bool:
    file, *rest = test.split("::")
    return ".".join([file.removesuffix(".py").replace("/", "."), *rest[:-1]]) == module and rest[-1] == name


def hunt(mutant: Mutant) -> Outcome:
    """Plant one bug, and let its tests find it."""
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="flsim-mutant-") as folder:
        root = copy(Path(folder))
        try:
            plant(mutant, root)
        except NotPlanted as e:
            return Outcome(0.0, (), f"not planted: {e}")
        results = failed(mutant.red, root)
    red = tuple(test for test in mutant.red if results.get(test))
    missing = [test for test in mutant.red if test not in results]
    survived = [test for test in mutant.red if results.get(test) is False]
    wrong = ""
    if missing:
        wrong = f"not run to an end: {', '.join(map(short, missing))}"
    elif survived:
        wrong = f"survived {', '.join(map(short, survived))}"
    return Outcome(time.perf_counter() - begun, red, wrong)


def short(test: str) -> str:
    """A test's name, as people read it."""
    name = test.rpartition("::")[2]
    return name.removeprefix("test_").removeprefix("clause")


def sick_without(tests: set[str], console: Console) -> list[str]:
    """Which of these tests are not green without any bug; what they said is shown."""
    with tempfile.TemporaryDirectory(prefix="flsim-mutant-") as folder:
        results = failed(sorted(tests), copy(Path(folder)))
        sick = [test for test in sorted(tests) if results.get(test) is not False]
        if sick:
            console.print((Path(folder) / SAID).read_text(), markup=False, soft_wrap=True)
    return sick


def run(mutants: Sequence[Mutant], console: Console, jobs: int) -> int:
    """Hunt all of them, and show what was found. Returns the exit code."""
    begun = time.perf_counter()
    table = Table("bug", "file", Column("went red", overflow="fold"), "seconds", show_lines=True)
    survivors = 0
    with ThreadPoolExecutor(jobs) as pool:
        without = pool.submit(sick_without, {test for mutant in mutants for test in mutant.red}, console)
        for mutant, outcome in zip(mutants, pool.map(hunt, mutants), strict=True):
            survivors += bool(outcome.wrong)
            red = [Text(short(test)) for test in outcome.red]
            shown = [*red, Text(outcome.wrong, "red")] if outcome.wrong else red
            table.add_row(mutant.bug, mutant.file, Text("\n").join(shown), f"{outcome.seconds:.1f}")
        sick = without.result()
    console.print(table)
    found = len(mutants) - survivors
    console.print(f"{found} of {len(mutants)} bugs were found, in {time.perf_counter() - begun:.0f} s")
    if sick:
        console.print("These tests are red without any bug:", *sick, sep="\n  ", markup=False, soft_wrap=True)
    return 1 if survivors or sick else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 1 where a bug was not found."""
    parser = argparse.ArgumentParser("python -m tests.mutants", description=__doc__)
    parser.add_argument("words", nargs="*", help="hunt only the bugs whose sentence or file has one of these")
    parser.add_argument("--jobs", type=int, default=2, help="how many at a time; default: 2")
    chosen = parser.parse_args(arguments)
    if chosen.jobs < 1:
        parser.error("--jobs is 1 or more")
    words = [word.lower() for word in chosen.words]
    mutants = [m for m in MUTANTS if not words or any(w in f"{m.bug} {m.file}".lower() for w in words)]
    if not mutants:
        parser.error(f"no bug has {' or '.join(words)} in its sentence or file")
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 160  # a log is as wide as its lines
    return run(mutants, console, chosen.jobs)


if __name__ == "__main__":
    raise SystemExit(main())

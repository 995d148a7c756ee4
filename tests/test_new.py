"""``flsim new`` writes an app that works, and nothing where it could do harm."""

from __future__ import annotations

import json
import re
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from helpers import execute, flsim, here
from installed import INSTALLED


@pytest.fixture
def app(tmp_path: Path) -> Path:
    done = flsim("new", "my-app", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    return tmp_path / "my-app"


def result(app: Path, backend: str) -> dict[str, Any]:
    done = flsim("run", app, "--backend", backend, "-o", "cpus=2", "--json")
    assert done.returncode == 0, done.stderr
    made: dict[str, Any] = json.loads(done.stdout)
    return made


@pytest.mark.parametrize("backend", sorted(INSTALLED - {"serial"}))
def test_a_new_app_comes_to_the_same_on_each_backend(app: Path, backend: str) -> None:
    here, there = result(app, "serial"), result(app, backend)
    assert here["digest"] == there["digest"]
    assert here["counts"]["train"]["answered"] == there["counts"]["train"]["answered"] == 120
    assert here["metrics"] == there["metrics"]


def test_a_new_app_is_of_files_that_name_it_and_of_no_others(app: Path) -> None:
    made = {str(p.relative_to(app)) for p in app.rglob("*") if p.is_file()}
    modules = {f"my_app/{m}.py" for m in ("__init__", "client", "data", "model", "server")}
    assert made == {"README.md", "pyproject.toml", "tests/test_app.py"} | modules
    table = tomllib.loads((app / "pyproject.toml").read_text())
    assert table["project"]["name"] == "my-app"
    assert table["tool"]["flsim"]["server"] == "my_app.server:app"
    readme = (app / "README.md").read_text()
    assert readme.startswith("# my-app\n")
    assert all(f"`{file}`" in readme for file in made - {"README.md", "my_app/__init__.py"})
    assert not any(word in p.read_text() for p in app.rglob("*") if p.is_file() for word in ("NAME", "PACKAGE"))


def test_a_new_app_runs_and_passes_its_own_test_by_what_is_to_be_typed_next(tmp_path: Path) -> None:
    shown = flsim("new", "first", cwd=tmp_path).stdout.splitlines()
    (_, *run), (_, *on_serial), (python, *test) = [line.split() for line in shown if line.startswith("  ")]
    said = [flsim(*args, cwd=tmp_path).stdout for args in (run, on_serial)]
    digests = {re.findall(r"digest (\w+)", text)[0] for text in said}
    assert len(digests) == 1
    assert python == "python"
    done = execute(sys.executable, *test, cwd=tmp_path)
    assert "2 passed" in done.stdout, done.stdout


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("1app", "a name is of the letters a to z, digits, - and _, begins with a letter"),
        ("", "a name is of the letters"),
        ("../app", "a name is of the letters"),
        ("app.py", "a name is of the letters"),
        ("app-", "ends with one or a digit"),
        ("größe", "a name is of the letters a to z"),
        ("class", "it is a word of Python's own"),
        ("tests", "the folder of the app's test is called so"),
        ("json", "there is a module of that name, which the app would hide"),
        ("numpy", "there is a module of that name"),
        ("flsim", "there is a module of that name"),
    ],
)
def test_a_name_that_makes_no_package_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    done = here("new", name)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {name!r} cannot be the name of an app: ")
    assert said in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("what", ["a folder", "a file", "a link to nowhere"])
def test_nothing_is_written_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    monkeypatch.chdir(tmp_path)
    there = tmp_path / "app"
    if what == "a folder":
        (there / "kept").mkdir(parents=True)
    elif what == "a file":
        there.write_text("kept")
    else:
        there.symlink_to(tmp_path / "nowhere")
    before = sorted(tmp_path.rglob("*"))
    done = here("new", "app")
    assert (done.returncode, done.stdout) == (2, "")
    assert (
        done.stderr == "error: app is there already, and nothing is written over it; choose another name, or move it\n"
    )
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = here("new", "a" * 300)
    assert done.returncode == 2
    assert "cannot be written" in done.stderr

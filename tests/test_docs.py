"""The pages say what is so: their blocks run, their commands exist, and what they take from the code is as it is."""

from __future__ import annotations

import contextlib
import inspect
import io
import re
import shlex
import subprocess
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any
from unittest import SkipTest

import pytest
from cogapp import Cog
from installed import skip_without
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser, SkipParser
from typer.main import get_group

from flsim import ErrorCode, hooks
from flsim.cli.app import app
from flsim.cli.commands import with_commands
from flsim.plugins import Plugins

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").glob("*.md"))
READMES = [
    ROOT / "README.md",
    *sorted(ROOT.glob("backends/*/README.md")),
    *sorted(ROOT.glob("docs/examples/*/README.md")),
]
GENERATED = [page for page in PAGES if "[[[cog" in page.read_text(encoding="utf-8")]
BACKENDS = sorted(p.parent.name for p in ROOT.glob("backends/*/flsim_*"))
"""Those that the pages show."""

BLOCKS = Sybil(parsers=[PythonCodeBlockParser(), SkipParser()])


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def fenced(page: Path, *languages: str) -> Iterator[str]:
    """The blocks of these languages."""
    for language, text in re.findall(
        r"^```(\w+)\n(.*?)^```$", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    ):
        if language in languages:
            yield text


# ---- blocks


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=name)
def test_the_python_blocks_of_a_page_run(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One after another, in one namespace, from the root of the repository."""
    monkeypatch.chdir(ROOT)
    document = BLOCKS.parse(page)
    document.namespace["__name__"] = "__main__"  # so that cloudpickle takes what a block defines along
    for example in document.examples():
        with contextlib.suppress(SkipTest):  # which Sybil raises where the page says why
            example.evaluate()


def test_a_block_that_is_skipped_has_its_reason() -> None:
    for page in PAGES:
        for marked in re.findall(r"^<!--.*skip: .*", page.read_text(encoding="utf-8"), re.MULTILINE):
            assert re.fullmatch(r'<!--- skip: next "\w.*" -->', marked), f"{page.name}: {marked}"


def commands() -> Iterator[Any]:
    for page in [*READMES, *PAGES]:
        for block in fenced(page, "bash", "sh"):
            for line in block.replace("\\\n", " ").splitlines():
                if match := re.search(r"(?:^|[\s/])(flsim \S.*)", line):
                    yield pytest.param(match[1], id=f"{page.parent.name}/{page.name}: {match[1]}")


@pytest.mark.parametrize("line", list(commands()))
def test_a_command_of_flsim_that_a_page_shows_exists_with_its_flags(line: str) -> None:
    command, *arguments = shlex.split(line, comments=True)[1:]
    group = get_group(with_commands(app, Plugins()))
    if command.startswith("-"):
        group.make_context("flsim", [command, *arguments], resilient_parsing=True)
        return
    assert command in group.commands, f"there is no command {command}"
    group.commands[command].make_context(command, arguments)


@pytest.mark.parametrize("page", [*READMES, *PAGES], ids=name)
def test_the_shell_blocks_of_a_page_are_shell(page: Path) -> None:
    for block in fenced(page, "bash", "sh"):
        done = subprocess.run(["bash", "-n"], input=block, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{done.stderr}\n{block}"


@pytest.mark.parametrize("page", READMES, ids=name)
def test_what_a_readme_links_to_is_there(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), f"{page} links to {target}"


def test_no_block_of_a_page_is_indented_out_of_sight() -> None:
    for page in PAGES:
        assert not re.search(r"^ +```(python|bash)", page.read_text(encoding="utf-8"), re.MULTILINE), page


def test_the_readmes_app_runs_as_a_file(tmp_path: Path) -> None:
    import flsim

    (code,) = fenced(ROOT / "README.md", "python")
    (tmp_path / "app.py").write_text(code)
    result = flsim.run(tmp_path / "app.py", nodes=20, backend="serial", seed=1, quiet=True)
    assert result.counts["train"].answered == 20
    assert 0 < float(result.metrics[0]["loss"]) < 1


# ---- what the pages take from the code


@pytest.mark.parametrize("page", GENERATED, ids=name)
def test_what_a_page_takes_from_the_code_is_as_the_code_has_it(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for backend in BACKENDS:
        skip_without(backend)
    pytest.importorskip("sklearn", reason="scikit-learn, which an example needs, is not installed")
    monkeypatch.chdir(page.parent)
    with redirect_stdout(io.StringIO()) as said:
        code = Cog().main(["cog", "--check", "--diff", "-P", "-I", str(page.parent), page.name])
    assert code == 0, f"write it anew by: nox -s regenerate\n{said.getvalue()}"


def test_each_hook_is_documented_with_its_exact_arguments() -> None:
    page = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")
    documented = re.findall(r"^### (flsim_\w+)\((.*)\)$", page, re.MULTILINE)
    specified = [
        (hook, ", ".join(inspect.signature(getattr(hooks, hook)).parameters))
        for hook in vars(hooks)
        if hook.startswith("flsim_")
    ]
    assert sorted(documented) == sorted(specified)


def test_each_argument_of_a_hook_is_explained_under_it() -> None:
    page = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")
    for hook, text in re.findall(r"^### (flsim_\w+)\(.*?\)$(.*?)(?=^##)", page, re.MULTILINE | re.DOTALL):
        explained = re.findall(r"^`(\w+)`\n: ", text, re.MULTILINE)
        assert explained == list(inspect.signature(getattr(hooks, hook)).parameters), hook


def test_all_codes_of_errors_are_in_the_table_and_no_others() -> None:
    page = (ROOT / "docs" / "faults.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| (\d+) \| ([A-Z_]+) \|", page, re.MULTILINE) == [(str(int(c)), c.name) for c in ErrorCode]


def test_each_backend_of_this_repository_is_among_those_to_choose_from() -> None:
    page = (ROOT / "docs" / "choosing-a-backend.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `(\w+)` \| `flsim-", page, re.MULTILINE)) == set(BACKENDS)


def test_the_changelog_has_this_version() -> None:
    import flsim

    assert f"## {flsim.__version__} " in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")

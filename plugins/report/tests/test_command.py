"""The commands, as a user types them."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from html import unescape
from pathlib import Path

import pytest
from recorded import flsim

from flsim.errors import ConfigError
from flsim.plots import POINTS
from flsim_record.schema import create, finish
from flsim_report.curves import metrics
from flsim_report.outputs import check_figure
from flsim_report.page import page
from flsim_report.runs import load
from flsim_report.timeline import EXACT, ROWS


def test_several_runs_are_one_page_and_one_figure(kept: Sequence[Path], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    ids = [folder.name.rpartition("-")[2] for folder in kept]
    done = flsim("report", *ids, "--runs-dir", kept[0].parent, "--png", "figure.png", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "report.html: 2 runs, 128 messages\nfigure.png: the figure\n"
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert all(folder.name in text for folder in kept)
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(f.name for f in tmp_path.iterdir()) == ["figure.png", "report.html"]


@pytest.mark.parametrize(("ending", "begins"), [("pdf", b"%PDF"), ("svg", b"<?xml")])
def test_a_figure_may_be_one_of_lines(kept: Sequence[Path], tmp_path: Path, ending: str, begins: bytes) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    from flsim_report.png import draw

    draw([load(kept[0])], tmp_path / f"x.{ending}")
    assert (tmp_path / f"x.{ending}").read_bytes().startswith(begins)


def test_odd_metrics_are_in_the_figure_between_the_axes_of_the_page(odd: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    from flsim_report.png import draw

    run = load(odd)
    assert draw([run], tmp_path / "x.svg") == ""
    texts = re.findall("<!-- (.*) -->", unescape((tmp_path / "x.svg").read_text(encoding="utf-8")))
    for p in metrics([run], over_time=False):
        title = texts.index(p.title)
        expected = [name for axis in (p.x, p.y) for _, name in axis.labels()]
        assert [
            t.replace("\N{MINUS SIGN}", "-") for t in texts[title - len(expected) - 1 : title] if t != p.note
        ] == expected


def test_a_figure_has_an_end_and_it_is_said_what_has_no_room(
    kept: Sequence[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    from flsim_report import png

    tallest = -(-png.PLOTS // png.COLUMNS) * png.ROW + png.TIMELINES * (png.HEAD + ROWS * png.LANE)
    assert (tallest + png.TOP) * png.DPI < 2**16
    monkeypatch.setattr(png, "PLOTS", 8)
    monkeypatch.setattr(png, "TIMELINES", 1)
    assert png.draw([load(folder) for folder in kept], tmp_path / "x.png") == "2 plots and 1 timelines"


def test_where_no_run_is_named_it_is_the_newest(kept: Sequence[Path], tmp_path: Path) -> None:
    for command in ("report", "trace"):
        done = flsim(command, "--runs-dir", kept[0].parent, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    assert kept[1].name in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert json.loads((tmp_path / "trace.json").read_text())["otherData"]["run"] == kept[1].name


def test_a_trace_is_written_and_said(kept: Sequence[Path], tmp_path: Path) -> None:
    done = flsim("trace", kept[0], "-o", "t.json.gz", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"events of run {kept[0].name}; open it at ui.perfetto.dev" in done.stdout
    assert not done.stderr
    assert (tmp_path / "t.json.gz").read_bytes().startswith(b"\x1f\x8b")


@pytest.mark.parametrize("command", ["report", "trace"])
@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["nope"], "there is no run 'nope': no run is kept in runs"),
        ([], "no run is kept in runs"),
        (["../nope"], "../nope is not the folder of a run"),
        (["-o", "no/such/x"], "--out no/such/x: it is a folder, or there is none to write it into"),
        (["-o", "."], "--out .: it is a folder"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else "",
)
def test_wrong_usage_is_refused(command: str, args: list[str], said: str, tmp_path: Path) -> None:
    done = flsim(command, *args, cwd=tmp_path)
    assert done.returncode == 2
    assert said in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_figure_of_another_kind_or_without_matplotlib_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"x\.gif: its name ends with none of \.png, \.pdf, \.svg"):
        check_figure("--png", Path("x.gif"))
    monkeypatch.setattr("flsim_report.outputs.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'flsim-report\[png\]'"):
        check_figure("--png", Path("x.png"))


def test_a_run_whose_tables_are_damaged_is_refused_by_name(kept: Sequence[Path], tmp_path: Path) -> None:
    damaged = tmp_path / "runs" / kept[0].name
    shutil.copytree(kept[0], damaged)
    (damaged / "run.sqlite").write_bytes(b"no database " * 1000)
    done = flsim("report", kept[0].name, cwd=tmp_path)
    assert done.returncode == 2
    assert "cannot be read" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_run_without_a_message_has_a_page_a_figure_and_a_trace(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    from flsim_report.png import draw

    (tmp_path / "app.py").write_text(
        "from flsim import ClientApp, ServerApp\nserver, client = ServerApp(), ClientApp()\n"
        "@server.main()\ndef main(grid, context): pass\n"
    )
    assert flsim("run", "app.py", "-b", "serial", cwd=tmp_path).returncode == 0
    for command in ("report", "trace"):
        done = flsim(command, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    draw([load(run) for run in (tmp_path / "runs").iterdir()], tmp_path / "x.svg")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    for said in ("Nothing was reported", "No worker had a lease", "No message ended with an error"):
        assert said in text


def test_many_messages_are_drawn_as_shares_and_the_page_says_so(kept: Sequence[Path], tmp_path: Path) -> None:
    messages = 100_000
    big = tmp_path / "big"
    shutil.copytree(kept[1], big)
    (big / "run.sqlite").unlink()
    database = create(big / "run.sqlite")
    fill(database, messages)
    finish(database)
    run = load(big)
    assert len(run.messages.id) == messages
    text = page([run])
    assert len(text) < 400_000
    assert f"There are more than {EXACT:,} messages, so these are shares of time" in text
    assert f"A line of more than {POINTS} points" in text


def fill(database: sqlite3.Connection, messages: int) -> None:
    """Four workers that answer ten messages a lease, and a curve of many rounds."""
    database.execute("BEGIN")
    database.executemany(
        "INSERT INTO leases VALUES (?, 'train', 'default', 'here', 10, ?, ?, ?, 1000000, NULL)",
        ((i, i // 4 / 100, i // 4 / 100 + 0.009, f"host:{i % 4}") for i in range(messages // 10)),
    )
    database.executemany(
        "INSERT INTO answers VALUES (?, ?, ?, 0.0, 0.0001, 0.0005, 0.0001, 100, 100, 1, NULL, NULL, NULL, NULL)",
        ((i + 1, 2 + i % 1000, i // 10) for i in range(messages)),
    )
    database.executemany(
        "INSERT INTO reports VALUES (?, ?, ?, NULL, 'loss', 'float', ?)",
        ((i, i / 100, i, 1 / (i + 1)) for i in range(5000)),
    )
    database.execute("COMMIT")


def test_the_help_lists_the_commands_and_imports_none_of_their_bodies() -> None:
    code = (
        "import sys; from flsim.cli import commands, app; from flsim.plugins import Plugins; "
        "commands.with_commands(app.app, Plugins()); print(sorted(m for m in sys.modules if 'flsim_report' in m))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['flsim_report', 'flsim_report.command', 'flsim_report.plugin']"

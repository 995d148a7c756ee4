"""``flsim show``: runs listed, shown, compared and exported."""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from helpers import TABLE, here, server_of, write_app
from terminal import terminal

import flsim
from flsim import ClientApp, Context, Grid, Message, MetricRecord, RecordDict
from flsim_record.find import folders
from flsim_record.shown import _metrics

asked = ClientApp()


@asked.train()
def train(msg: Message, context: Context) -> Message:
    if context.node_id == 3:
        raise KeyError("no \x1b[31mdata")
    return Message(RecordDict(), reply_to=msg)


def main(grid: Grid, context: Context) -> None:
    """Asks all nodes in each round, and comes to a state that follows from the config."""
    rate = float(context.run_config["rate"])
    for round in range(1, 4):
        grid.send_and_receive(Message(RecordDict(), node, "train") for node in grid.get_node_ids())
        more: dict[str, Any] = {"best\x1b[31m": "yes", "nothing": math.nan}
        grid.report(round, loss=rate / round, **more)
    if rate < 0:
        raise ValueError("a rate below zero")
    context.state["m"] = MetricRecord({"rate": rate})


def run(runs: Path, rate: float = 0.5, **more: Any) -> str:
    """The name of the folder of a run that is kept in ``runs``."""
    before = set(runs.glob("*"))
    given = {"nodes": 4, "backend": "serial", "seed": 1, "quiet": True, "runs_dir": runs, "config": {"rate": rate}}
    if rate < 0:
        with pytest.raises(ValueError, match="below zero"):
            flsim.run(server_of(main), asked, **{**given, **more})
    else:
        flsim.run(server_of(main), asked, **{**given, **more})
    (made,) = set(runs.glob("*")) - before
    return made.name


def show(runs: Path, *args: str | Path) -> str:
    """What is printed; nothing may be wrong."""
    done = here("show", "--runs-dir", runs, *args)
    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout
    return done.stdout


def refused(runs: Path, *args: str | Path) -> str:
    """What is said to be wrong, in one line, and nothing else."""
    done = here("show", "--runs-dir", runs, *args)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    return done.stderr.removeprefix("error: ").rstrip("\n")


def test_no_run_is_said_to_be_kept_where_there_is_none(tmp_path: Path) -> None:
    assert show(tmp_path / "nowhere") == f"no run is kept in {tmp_path}/nowhere: 'flsim run APP' keeps one\n"
    assert show(tmp_path, "--json") == "[]\n"


def test_runs_are_listed_with_what_they_came_to_the_newest_first(tmp_path: Path, monkeypatch: Any) -> None:
    names = [run(tmp_path, 0.5), run(tmp_path, -1.0)]
    newer = tmp_path / names[1].replace(names[1][:15], "20200101T000000")  # whatever was local time there
    (tmp_path / names[1]).rename(newer)
    head, *rows = show(tmp_path).splitlines()
    assert head.split() == ["id", "started", "state", "app", "backend", "nodes", "seconds", "last", "metrics", "digest"]
    assert [row.split()[0] for row in rows] == [names[1][-8:], names[0][-8:]]
    assert ["failed" in row for row in rows] == [True, False]
    assert "round 3  loss 0.166667" in rows[1]
    listed = json.loads(show(tmp_path, "--json"))
    assert [r["folder"] for r in listed] == [str(newer), str(tmp_path / names[0])]
    assert [(r["status"], r["last"]["loss"], r["last"]["nothing"]) for r in listed] == [
        ("failed", -1 / 3, "nan"),
        ("finished", 0.5 / 3, "nan"),
    ]


def test_a_run_that_cannot_be_read_is_no_row_and_is_named(tmp_path: Path) -> None:
    name = run(tmp_path)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "run.json").write_text("{")
    (tmp_path / "something else").mkdir()
    done = here("show", "--runs-dir", tmp_path)
    assert done.returncode == 0
    assert name[-8:] in done.stdout
    assert done.stderr.startswith(f"note: {tmp_path}/broken is not the folder of a run: its run.json cannot be read")


@pytest.mark.parametrize(
    ("about", "said"),
    [
        ({"schema": 1}, "its run.json has no id as flsim writes it"),
        ({"schema": 1, "status": "finished"}, "its run.json has no id as flsim writes it"),
        ({"settings": {"seed": 1}}, "its run.json has no settings as flsim writes it"),
        ({"started": "yesterday"}, "its run.json has no started as flsim writes it"),
        ({"result": {"last": 3}}, "its run.json has no result as flsim writes it"),
    ],
)
def test_an_odd_file_costs_the_list_one_row(tmp_path: Path, about: dict[str, Any], said: str) -> None:
    name = run(tmp_path)
    written = json.loads((tmp_path / name / "run.json").read_text())
    odd = tmp_path / "odd-00000000"
    odd.mkdir()
    (odd / "run.json").write_text(json.dumps(about if "schema" in about else {**written, **about}))
    done = here("show", "--runs-dir", tmp_path)
    assert (done.returncode, len(done.stdout.splitlines())) == (0, 2)
    assert done.stderr == f"note: {odd} is not the folder of a run: {said}\n"
    assert refused(tmp_path, odd) == f"{odd} is not the folder of a run: {said}"


def test_a_folder_of_somebody_else_costs_the_list_one_row() -> None:
    with TemporaryDirectory(dir="/tmp") as there:  # where all may look
        runs = Path(there) / "runs"
        name = run(runs)
        theirs = runs / "20990101T000000-theirs-abcdef01"
        theirs.mkdir(mode=0)
        for path in (runs.parent, runs, runs / name, *(runs / name).iterdir()):
            path.chmod(0o755)
        show(runs, name)  # which imports what nobody may not
        with as_nobody():
            done = here("show", "--runs-dir", runs)
            assert (done.returncode, len(done.stdout.splitlines())) == (0, 2)
            said = f"the run in {theirs} cannot be read: Permission denied"
            assert done.stderr == f"note: {said}\n"
            for named in (theirs, "abcdef01"):
                assert refused(runs, named) == said
            assert folders(runs)[0].name == name


@contextlib.contextmanager
def as_nobody() -> Iterator[None]:
    """Who is root may look everywhere."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(before)


@pytest.mark.parametrize("columns", [80, 200])
def test_the_list_fits_the_screen(tmp_path: Path, columns: int) -> None:
    name = run(tmp_path)
    with terminal("show", "--runs-dir", tmp_path, columns=columns, rows=20) as screen:
        screen.end()
        lines = [line for line in screen.lines if line.strip()]
    assert len(lines) == 2
    assert lines[1].startswith(name[-8:])
    assert "finished" in lines[1]
    assert ("digest" in lines[0]) == (columns == 200)
    assert "round 3  loss 0.166667" in lines[1], "what is cut is no metric"


@pytest.mark.parametrize(
    ("room", "fits"),
    [
        (42, "round 3  accuracy 0.9123  loss 0.25"), (30, "round 3  accuracy 0.9123  …"), (20, "accuracy 0.9123  …"),
        (15, "accuracy 0.9123"), (10, "accuracy …"),
    ],
)  # fmt: skip
def test_a_list_shows_as_many_metrics_as_there_is_room_for(room: int, fits: str) -> None:
    assert _metrics({"round": 3, "accuracy": 0.9123, "loss": 0.25}, room).plain == fits


def test_one_run_is_shown_in_full(tmp_path: Path) -> None:
    name = run(tmp_path)
    shown = show(tmp_path, name)
    for text in (
        "finished", "serial, 1 at once", "config.rate", "call", "metrics", "failures", "2 CLIENT_APP_RAISED_EXCEPTION",
        "KeyError: 'no", "slowest nodes", "workers", "digest",
    ):  # fmt: skip
        assert text in shown
    one = json.loads(show(tmp_path, "--json", name))
    assert one["messages"] == {"train": {"ended": 12, "failed": 3, "kept": 12}}
    assert one["metrics"]["loss"] == {"first": 0.5, "last": 0.5 / 3, "least": 0.5 / 3, "greatest": 0.5}
    assert one["metrics"]["nothing"]["greatest"] == "nan"
    (failure,) = one["failures"]
    assert (failure["type"], failure["code"], failure["messages"]) == ("train", 2, 3)
    assert sorted(n["node"] for n in one["slowest_nodes"]) == [2, 3, 4, 5]
    (worker,) = one["workers"]
    assert (worker["messages"], 0 < worker["busy"] <= 1) == (12, True)
    assert one["settings"]["config.rate"] == {"value": 0.5, "from": "call"}


def test_a_metric_that_is_no_number_is_shown_as_such(tmp_path: Path) -> None:
    def diverges(grid: Grid, context: Context) -> None:
        for loss in (1.0, math.inf, -math.inf, math.nan):
            grid.report(1, loss=loss)

    names = []
    for _ in range(2):
        names.append(Path(flsim.run(
            server_of(diverges), asked, nodes=1, backend="serial", seed=1, quiet=True, runs_dir=tmp_path
        ).run_dir or "").name)  # fmt: skip
    assert "loss nan" in show(tmp_path)
    (row,) = [line for line in show(tmp_path, names[0]).splitlines() if line.startswith("loss")]
    assert row.split() == ["loss", "1", "nan", "-inf", "inf"]
    assert "nan" in show(tmp_path, *names)
    assert json.loads(show(tmp_path, *names, "--json"))["metrics"]["loss"] == ["nan", "nan"]
    assert json.loads(show(tmp_path, names[0], "--json"))["metrics"]["loss"]["greatest"] == "inf"
    assert json.loads((tmp_path / names[0] / "run.json").read_text())["result"]["last"]["loss"] == "nan"


def test_what_is_piped_has_no_blanks_at_the_ends_of_its_lines(tmp_path: Path) -> None:
    name = run(tmp_path)
    for shown in (show(tmp_path), show(tmp_path, name), show(tmp_path, name, run(tmp_path))):
        assert [line for line in shown.splitlines() if line.endswith(" ")] == []


def test_runs_with_changes_are_not_shown_as_their_commit(tmp_path: Path) -> None:
    names = [run(tmp_path), run(tmp_path)]
    for name, dirty in zip(names, (True, False), strict=True):
        file = tmp_path / name / "run.json"
        written = {**json.loads(file.read_text()), "git": {"commit": "c" * 40, "branch": "main", "dirty": dirty}}
        file.write_text(json.dumps(written))
    assert json.loads(show(tmp_path, "--json", *names))["came_to"]["dirty"] == [True, False]
    (row,) = [line for line in show(tmp_path, *names).splitlines() if line.startswith("its files")]
    assert row.split() == ["its", "files", "with", "changes", "as", "committed"]


def test_a_run_that_failed_is_shown_with_its_traceback(tmp_path: Path) -> None:
    shown = show(tmp_path, run(tmp_path, -1.0))
    assert "ValueError: a rate below zero" in shown
    assert "in main" in shown


def test_a_run_whose_rows_were_cut_says_so(tmp_path: Path) -> None:
    assert "there are rows of 5 of 12 messages" in show(tmp_path, run(tmp_path, record_rows=5))


def test_several_runs_are_compared_by_what_differs(tmp_path: Path) -> None:
    names = [run(tmp_path, 0.5), run(tmp_path, 0.25), run(tmp_path, 0.5, seed=2)]
    shown = show(tmp_path, *names)
    assert all(name[-8:] in shown.splitlines()[0] for name in names)
    several = json.loads(show(tmp_path, "--json", *names))
    assert several["settings"] == {"seed": [1, 1, 2], "config.rate": [0.5, 0.25, 0.5]}
    assert several["metrics"]["loss"] == [0.5 / 3, 0.25 / 3, 0.5 / 3]
    digests = several["came_to"]["digest"]
    assert (digests[0] == digests[2], digests[0] == digests[1]) == (True, False)
    assert "they came to different states" in shown
    assert "all came to the same state" in show(tmp_path, names[0], names[2])
    assert "settings that differ" not in show(tmp_path, names[0], run(tmp_path, 0.5))


def test_a_run_is_named_by_path_by_name_or_by_how_its_id_begins_or_ends(tmp_path: Path) -> None:
    name = run(tmp_path)
    id_ = name[-8:]
    for named in (name, id_, id_[:3], id_[-3:], tmp_path / name, f"{tmp_path}/{name}/"):
        assert json.loads(show(tmp_path, "--json", named))["id"] == id_


def test_a_name_that_is_none_or_that_of_several_is_refused(tmp_path: Path) -> None:
    assert refused(tmp_path, "abc") == f"there is no run 'abc': no run is kept in {tmp_path}"
    name = run(tmp_path)
    twin = name[:-8] + name[-8:-4] + "ffff"
    (tmp_path / twin).mkdir()
    (tmp_path / twin / "run.json").write_text((tmp_path / name / "run.json").read_text())
    assert f"'{name[-8:-4]}' is that of 2 runs: " in refused(tmp_path, name[-8:-4])
    assert refused(tmp_path, name[:-1] + "x").endswith(f"did you mean {name!r}?")
    assert "'flsim show' lists" in refused(tmp_path, "zzz")


@pytest.mark.parametrize("named", ["..", ".", "", "%2e%2e"])
def test_a_name_leads_nowhere_else(tmp_path: Path, named: str) -> None:
    name = run(tmp_path / "runs")
    (tmp_path / "run.json").write_text((tmp_path / "runs" / name / "run.json").read_text())
    (tmp_path / "runs" / "run.json").write_text((tmp_path / "runs" / name / "run.json").read_text())
    (tmp_path / "runs" / "linked-12345678").symlink_to(tmp_path)
    assert "there is no run" in refused(tmp_path / "runs", named)
    assert "there is no run" in refused(tmp_path / "runs", "12345678")


def test_a_path_that_is_no_run_is_refused(tmp_path: Path) -> None:
    assert refused(tmp_path, f"{tmp_path}/x") == f"{tmp_path}/x is not the folder of a run"


def test_the_tables_of_runs_are_exported(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    names = [run(tmp_path / "runs"), run(tmp_path / "runs", -1.0)]
    said = show(tmp_path / "runs", *names, "--parquet", tmp_path / "out").splitlines()
    assert said[0] == f"{tmp_path}/out/messages.parquet: 24 rows"
    tables = {file.stem: parquet.read_table(file) for file in (tmp_path / "out").iterdir()}
    assert sorted(tables) == ["leases", "lost", "messages", "metrics", "notes"]
    messages = tables["messages"].to_pylist()
    assert {m["run"] for m in messages} == {name[-8:] for name in names}
    assert [m["code"] for m in messages[:4]] == [None, 2, None, None]
    assert all(m["pushed"] <= m["pulled"] <= m["ended"] for m in messages)
    metrics = [m for m in tables["metrics"].to_pylist() if m["run"] == names[0][-8:]]
    assert [m["number"] for m in metrics if m["name"] == "loss"] == [0.5, 0.25, 0.5 / 3]
    assert {m["text"] for m in metrics if m["name"].startswith("best")} == {"yes"}
    assert {m["number"] for m in metrics if m["name"] == "nothing"} == {None}
    assert "is there already, and nothing is written over it" in refused(
        tmp_path / "runs", names[0], "--parquet", tmp_path / "out"
    )
    assert "--parquet needs a RUN" in refused(tmp_path / "runs", "--parquet", tmp_path / "new")


def test_an_export_that_fails_leaves_nothing_and_can_be_repeated(tmp_path: Path, monkeypatch: Any) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    name, writer, made = run(tmp_path / "runs"), parquet.ParquetWriter, []

    def fail_at_the_third(file: Path, schema: Any) -> Any:
        made.append(file)
        if len(made) == 3:
            raise OSError("no space left")
        return writer(file, schema)

    monkeypatch.setattr(parquet, "ParquetWriter", fail_at_the_third)
    said = refused(tmp_path / "runs", name, "--parquet", tmp_path / "out")
    assert said == f"the tables cannot be written to {tmp_path}/out: no space left"
    assert list((tmp_path / "out").iterdir()) == []
    show(tmp_path / "runs", name, "--parquet", tmp_path / "out")
    assert len(list((tmp_path / "out").iterdir())) == 5


def test_what_the_export_needs_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = run(tmp_path / "runs")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    said = refused(tmp_path / "runs", name, "--parquet", tmp_path / "out")
    assert said.endswith("Install it with: pip install 'flsim-engine[parquet]'")


def test_runs_of_an_app_are_shown_as_they_are_kept_by_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_app(tmp_path / "app", f'{TABLE}backend = "serial"\n')
    assert here("run", "app", "--seed", "3", "-q").returncode == 0
    assert "command line" in here("show", next((tmp_path / "runs").iterdir()).name).stdout

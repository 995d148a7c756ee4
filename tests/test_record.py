"""A run is kept in a folder of its own, whatever becomes of it, and is opened from there as it was."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from array import array
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import TABLE, execute, flsim, here, python, server_of, write, write_app, write_plugin
from installed import skip_without

import flsim as package
from flsim import (
    ArrayRecord,
    ClientApp,
    ConfigRecord,
    Context,
    Error,
    ErrorCode,
    Grid,
    Kind,
    Message,
    MetricRecord,
    RecordDict,
    RunResult,
    open_run,
)  # fmt: skip
from flsim.errors import ConfigError, InputError, UnknownName
from flsim.events import Announced, Event, Observers, Pulled, Returned, ServerAppCalled
from flsim.folder import is_locked, lock
from flsim.plan import make_plan
from flsim.plugins import Plugins
from flsim.project import Project, load_project
from flsim.recording import Recording
from flsim.result import digest
from flsim.testing.watch import until
from flsim_record import packed, schema, tables
from flsim_record.kept import Kept
from flsim_record.recorder import Recorder
from flsim_record.summary import summary
from flsim_record.surroundings import commit

RECORDS = RecordDict(
    {
        "arrays": ArrayRecord(
            {
                "floats": np.arange(6, dtype=np.float32).reshape(2, 3),
                "fortran": np.asfortranarray(np.arange(6).reshape(2, 3)),
                "big-endian": np.arange(3, dtype=">i4"),
                "one number": np.array(2.5),
                "nothing": np.zeros((0, 4)),
                "structured": np.zeros(2, dtype=[("a", "<i4"), ("b", "<f8")]),
                "times": np.array(["2026-01-01"], dtype="datetime64[D]"),
                "words": np.array(["ä", "b/c"]),
            }
        ),
        "no arrays": ArrayRecord(),
        "numbers": MetricRecord({"int": 2**70, "float": -0.0, "nan": math.nan, "inf": [math.inf, 1.5], "ints": [1, 2]}),
        "values": ConfigRecord({"yes": True, "text": "ü\ud800\n", "bytes": b"\0\xff", "mixed": [b"x", 1, "y", False]}),
        "empty": ConfigRecord(),
    }
)
"""A state with all that records may hold."""

REPORTS: list[dict[str, Any]] = [
    {"loss": 0.5, "name": "a", "flag": True, "n": 3},
    {"big": 2**70, "loss": -math.inf},
    {},
]


asked = ClientApp()


@asked.query("echo")
def echo(msg: Message, context: Context) -> Message:
    return Message(RecordDict(), reply_to=msg)


@asked.query("die")
def die(msg: Message, context: Context) -> Message:
    os._exit(3)


def answering(grid: Grid, context: Context) -> None:
    """Asks all nodes once, reports, and leaves :data:`RECORDS`."""
    grid.send_and_receive(Message(RecordDict(), node, "query.echo") for node in grid.get_node_ids())
    for round, metrics in enumerate(REPORTS, 1):
        grid.report(round, **metrics)
    grid.report(4, node=3, loss=0.25)
    for name, record in RECORDS.items():
        context.state[name] = record


def kept(
    folder: Path, main: Callable[[Grid, Context], None] = answering, client: Any = asked, **more: Any
) -> RunResult:
    """What a run on serial gives back that is kept beneath ``folder``."""
    given = {"nodes": 3, "backend": "serial", "seed": 1, "quiet": True, "runs_dir": folder / "runs", **more}
    return package.run(server_of(main), client, **given)


def only(runs: Path) -> Path:
    """The one run that is kept there."""
    (folder,) = runs.iterdir()
    return folder


def about(folder: Path) -> Any:
    return json.loads((folder / "run.json").read_text())


# ---- the folder


def test_a_run_from_python_is_kept_where_it_is_asked_for_and_only_there(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    assert kept(tmp_path, runs_dir=None).run_dir is None
    assert list(tmp_path.iterdir()) == []
    result = kept(tmp_path, runs_dir=None, record=True)
    assert result.run_dir == only(tmp_path / "runs")
    assert result.to_json()["run_dir"] == str(result.run_dir)


def test_the_folder_is_the_users_alone_and_its_name_leads_nowhere_else(tmp_path: Path) -> None:
    app = write_app(tmp_path / "app", f'[project]\nname = "../../x y/ö"\n{TABLE}')
    package.run(app, backend="serial", seed=1, quiet=True, runs_dir=tmp_path / "runs")
    folder = only(tmp_path / "runs")
    assert folder.name[15:].startswith("-x-y-")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert sorted(p.name for p in folder.iterdir()) == ["lock", "run.json", "run.sqlite", "state.json"]


def test_what_is_kept_says_what_the_run_was(tmp_path: Path) -> None:
    app = write_app(
        tmp_path / "app", f"{TABLE}seed = 7\n[tool.flsim.resources]\ncpus = 1\n[tool.flsim.config]\nx = 1\n"
    )
    done = flsim("run", app, "--runs-dir", tmp_path / "runs", "-b", "serial", "-o", "cpus=1", "--set", "x=2", "--json")
    told, folder = json.loads(done.stdout), only(tmp_path / "runs")
    run = about(folder)
    assert (run["status"], run["app"], run["backend"], run["nodes"], run["seed"]) == ("finished", "app", "serial", 3, 7)
    assert (run["path"], run["id"], run["git"]) == (str(app), folder.name[-8:], None)
    assert run["result"]["digest"] == told["digest"]
    assert run["result"]["counts"] == told["counts"]
    assert {"python", "flsim-engine", "numpy"} <= set(run["versions"])
    assert (run["settings"]["backends.serial.memory"]["value"], run["slots"]) == (None, 1)
    (place,) = run["places"]
    assert re.fullmatch(r"this process: 1 cpu, [0-9.]+ GiB", place), "what options that are null came to"
    assert {"host", "cpu", "cpus", "memory", "system"} <= set(run["machine"])
    origins = {name: s["from"] for name, s in run["settings"].items()}
    assert origins == {
        "server": "pyproject", "client": "pyproject", "nodes": "pyproject", "time_limit": "default",
        "resources.cpus": "pyproject", "resources.gpus": "default", "resources.memory": "default",
        "resources.custom": "default", "backend": "command line", "backends.serial.cpus": "command line",
        "backends.serial.gpus": "default", "backends.serial.memory": "default", "backends.serial.custom": "default",
        "seed": "pyproject", "config.x": "command line",
    }  # fmt: skip
    assert run["settings"]["config.x"]["value"] == 2


def test_where_a_value_came_from_is_told_of_kinds_files_and_calls(tmp_path: Path) -> None:
    kinds = [Kind("a", asked, 1, config={"k": 1}), Kind("b", asked, 2, time_limit=9.0)]
    settings = kept(tmp_path, client=kinds, nodes=None, config={"x": 1}).settings
    said = {
        name: settings[name].origin for name in ("kinds.a.nodes", "kinds.b.time_limit", "kinds.a.config.k", "config.x")
    }
    assert set(said.values()) == {"call"}
    assert (settings["kinds.a.time_limit"].origin, settings["seed"].origin) == ("default", "call")
    file = write(
        tmp_path, {"f.py": "from flsim import *\nfrom flsim.testing.apps import client\nserver = ServerApp()\n"}
    )
    plan = make_plan(Plugins(), load_project(file / "f.py"), backend="serial")
    view = plan.view(Plugins(), None, by_default=False)
    assert (view.settings["nodes"].origin, view.settings["seed"].origin) == ("default", "drawn")
    assert view.run_dir is None


def test_no_environment_variable_is_kept(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("API_TOKEN", "a-secret-of-mine")
    folder = kept(tmp_path).run_dir
    assert folder is not None
    assert not any(b"a-secret-of-mine" in file.read_bytes() for file in folder.iterdir())


def test_the_commit_of_the_app_is_kept_and_whether_it_has_changes(tmp_path: Path) -> None:
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    app = write_app(tmp_path / "repository" / "app")

    def git(*args: str) -> str:
        who = ("-c", "user.name=x", "-c", "user.email=x@localhost")
        return execute("git", *who, *args, cwd=app).stdout.strip()

    def run() -> Any:
        done = flsim("run", ".", "-b", "serial", "--seed", "1", "-q", "--json", "--runs-dir", "kept/here", cwd=app)
        return about(Path(json.loads(done.stdout)["run_dir"]))["git"]

    git("init", "--initial-branch=main", "..")
    assert run() is None
    git("add", ".")
    git("commit", "-m", "first")
    assert run() == {"commit": git("rev-parse", "HEAD"), "branch": "main", "dirty": False}
    assert not run()["dirty"], "what a run leaves in its app's folder is none of its files"
    (app / "new.py").touch()
    assert run()["dirty"], "nobody finds it in the commit"
    (app / "new.py").unlink()
    (app / "app.py").write_text((app / "app.py").read_text() + "\n")
    assert run()["dirty"]
    git("commit", "--all", "-m", "second")
    assert not run()["dirty"]


@pytest.mark.parametrize("ignored", [False, True])
def test_an_app_that_is_not_in_the_commit_differs_from_it(tmp_path: Path, ignored: bool) -> None:
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    app = write_app(tmp_path / "repository" / "app")
    (app.parent / ".gitignore").write_text("app\n" if ignored else "")
    for args in (
        ("init",),
        ("add", ".gitignore"),
        ("-c", "user.name=x", "-c", "user.email=x@localhost", "commit", "-m", "first"),
    ):
        execute("git", *args, cwd=app.parent)
    for path in (app, app / "app.py"):
        found = commit(path)
        assert found is not None
        assert found["dirty"]


def test_a_branch_of_any_name_costs_nothing(tmp_path: Path) -> None:
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    app = write_app(tmp_path / "repository")
    for args in (
        ("init", "--initial-branch=main"),
        ("add", "."),
        ("-c", "user.name=x", "-c", "user.email=x@localhost", "commit", "-m", "first"),
    ):
        execute("git", *args, cwd=app)
    (app / ".git" / "HEAD").write_bytes(b"ref: refs/heads/caf\xe9\n")
    (app / ".git" / "packed-refs").write_bytes(
        (app / ".git" / "refs" / "heads" / "main").read_bytes().strip() + b" refs/heads/caf\xe9\n"
    )
    folder = package.run(app, backend="serial", seed=1, quiet=True, runs_dir=tmp_path / "runs").run_dir
    assert folder is not None
    assert about(folder)["git"]["branch"] == r"caf\xe9"


def test_the_server_app_has_the_folder_for_files_of_its_own(tmp_path: Path) -> None:
    seen: list[Path | None] = []

    def main(grid: Grid, context: Context) -> None:
        seen.append(context.run_dir)
        if context.run_dir is not None:
            (context.run_dir / "notes.txt").write_text("mine")

    folder = kept(tmp_path, main).run_dir
    kept(tmp_path, main, runs_dir=None)
    assert seen == [folder, None]
    assert folder is not None
    assert (folder / "notes.txt").read_text() == "mine"


# ---- whether and where


@pytest.mark.parametrize(
    ("table", "flags", "where"),
    [
        ("", (), "runs"),
        ("", ("--no-record",), None),
        ("", ("--runs-dir", "other/deep"), "other/deep"),
        ("record = false", (), None),
        ("record = false", ("--record",), "runs"),
        ("record = false", ("--runs-dir", "other"), "other"),
        ('runs_dir = "kept"', (), "kept"),
        ('runs_dir = "kept"', ("--no-record",), None),
        ('runs_dir = "kept"', ("--runs-dir", "other"), "other"),
    ],
)
def test_the_command_line_goes_before_the_pyproject(
    tmp_path: Path, monkeypatch: Any, table: str, flags: tuple[str, ...], where: str | None
) -> None:
    monkeypatch.chdir(tmp_path)
    project = load_project(write_app(tmp_path / "app", f"{TABLE}{table}\n"))
    record = False if "--no-record" in flags else True if "--record" in flags else None
    said = Recording(record, flags[1] if "--runs-dir" in flags else None)
    folder = make_plan(Plugins(), project, backend="serial", recording=said).recording.folder(by_default=True)
    assert folder == (None if where is None else tmp_path / where)
    assert here("run", tmp_path / "app", "-b", "serial", "--dry-run", *flags).returncode == 0
    assert not [p for p in tmp_path.iterdir() if p.name != "app"]


def test_a_run_that_is_not_kept_writes_nothing_and_says_so_of_nothing(tmp_path: Path) -> None:
    app = write_app(tmp_path / "app")
    done = flsim("run", app, "-b", "serial", "--no-record", cwd=tmp_path)
    assert done.returncode == 0
    assert "kept in" not in done.stdout
    assert [p.name for p in tmp_path.iterdir()] == ["app"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("record = 1", "record is true or false, not 1"),
        ("runs_dir = 3", "runs_dir is the path of a folder, not 3"),
        ("record_rows = -1", "record_rows is a whole number, zero or more, not -1"),
        ("record_rows = true", "record_rows is a whole number, zero or more, not True"),
        ('record = false\nruns_dir = "x"', "a run that is not recorded has no runs_dir; give one or the other"),
    ],
)
def test_a_wrong_value_is_refused(tmp_path: Path, line: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_project(write_app(tmp_path / "app", f"{TABLE}{line}\n"))


def test_a_folder_that_cannot_be_made_is_an_error_before_anything_runs(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    app = write_app(tmp_path / "app")
    done = flsim("run", app, "-b", "serial", "--runs-dir", tmp_path / "file" / "runs")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"error: the run cannot be kept in {tmp_path}/file/runs: Not a directory. "
        "Name another folder by --runs-dir, or keep nothing by --no-record\n"
    )


# ---- opened again


def test_a_run_opens_as_it_was(tmp_path: Path) -> None:
    result = kept(tmp_path)
    assert result.run_dir is not None
    opened = open_run(result.run_dir)
    assert digest(opened.state) == opened.digest == result.digest
    assert list(opened.state) == list(RECORDS)
    assert [repr(m) for m in opened.metrics] == [repr(m) for m in result.metrics]
    for name in ("app", "counts", "seconds", "seed", "backend", "options", "nodes", "run_dir", "status", "error"):
        assert getattr(opened, name) == getattr(result, name), name
    assert {n: s.origin for n, s in opened.settings.items()} == {n: s.origin for n, s in result.settings.items()}
    assert open_run(str(result.run_dir)).digest == result.digest


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"there is no folder of a run at .*/nowhere"):
        open_run(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="no plugin knows what is in it"):
        open_run(tmp_path)
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(ConfigError, match=r"its run.json cannot be read"):
        open_run(tmp_path)
    (tmp_path / "run.json").write_text('{"schema": 99}')
    with pytest.raises(ConfigError, match="written by another version of flsim: schema 99"):
        open_run(tmp_path)


def test_a_state_that_was_tampered_with_is_an_error_and_runs_no_pickle(tmp_path: Path) -> None:
    folder = kept(tmp_path).run_dir
    assert folder is not None
    np.savez(folder / "state.npz", a0=np.array([object()]))
    with pytest.raises(ConfigError, match=r"the state in .* cannot be read"):
        open_run(folder)


# ---- the tables


FAILING = ClientApp()


@FAILING.train()
def fail_at_some(msg: Message, context: Context) -> Message:
    """Fails at node 3, prints at node 4, and carries an array back from node 2."""
    if context.node_id == 3:
        raise KeyError("no data")
    if context.node_id == 4:
        print("it prints")
    arrays = np.zeros(10_000 if context.node_id == 2 else 1)
    return Message(RecordDict({"a": ArrayRecord([arrays])}), reply_to=msg)


def train_all(grid: Grid, context: Context) -> None:
    """Sends a large array to all nodes, twice; and once more where nobody waits for it."""
    large = RecordDict({"a": ArrayRecord([np.zeros(20_000)])})
    for _ in range(2):
        grid.send_and_receive(Message(large, node, "train") for node in grid.get_node_ids())
    grid.push_messages([Message(RecordDict(), 2, "query", ttl=1e-9)])
    grid.pull_messages(timeout=None)


def test_each_message_has_a_row_with_its_clocks_and_bytes(tmp_path: Path) -> None:
    result = kept(tmp_path, train_all, FAILING)
    table = result.table("messages")
    assert list(table) == [
        "message", "type", "node", "lease", "attempts", "pushed", "pulled", "ended", "decode", "execute", "encode",
        "bytes_out", "bytes_back", "worker", "peak_memory", "code", "reason",
    ]  # fmt: skip
    rows = [dict(zip(table, row, strict=True)) for row in zip(*table.values(), strict=True)]
    assert [r["message"] for r in rows] == list(range(1, 8))
    assert [r["node"] for r in rows] == [2, 3, 4, 2, 3, 4, 2]
    assert [r["code"] for r in rows] == [None, 2, None, None, 2, None, 3]
    assert rows[1]["reason"] == "KeyError: 'no data'"
    for row in rows[:6]:
        assert (row["type"], row["attempts"]) == ("train", 1)
        assert 0 <= row["pushed"] <= row["pulled"] <= row["ended"]
        assert row["decode"] > 0
        assert row["execute"] > 0
        assert row["decode"] + row["execute"] + row["encode"] <= row["ended"] - row["pulled"]
        assert row["worker"].endswith(f":{os.getpid()}")
        assert row["peak_memory"] > 10 * 2**20
        assert row["bytes_out"] > 160_000
    assert (rows[0]["bytes_back"] > 80_000, rows[1]["bytes_back"], 0 < rows[2]["bytes_back"] < 4096) == (True, 0, True)
    expired = rows[6]
    assert (expired["type"], expired["lease"], expired["worker"], expired["attempts"]) == ("query", None, None, 0)
    leases = result.table("leases")
    assert sum(leases["messages"]) == 6
    assert set(leases["kind"]) == {"default"}
    assert all(a <= b for a, b in zip(leases["pulled"], leases["returned"], strict=True))


def test_times_count_from_the_call_of_the_server_app(tmp_path: Path) -> None:
    def main(grid: Grid, context: Context) -> None:
        grid.report(1, loss=0.5)

    class Slow:
        def on(self, events: Any) -> None:
            time.sleep(0.2)  # for which the ServerApp is not called yet

        def close(self) -> None: ...

    plan = make_plan(
        Plugins(), Project("app", server_of(main), (Kind("default", asked, 1),)), backend="serial", seed=1,
        recording=Recording(runs_dir=str(tmp_path / "runs")),
    )  # fmt: skip
    view = plan.view(Plugins(), None, by_default=False)
    assert view.run_dir is not None
    result = plan.run([Slow(), Recorder(view.run_dir, view)], view.run_dir)
    (at,) = Kept(view.run_dir).table("metrics")["at"]
    assert 0 <= at <= result.seconds


def test_what_is_lost_with_a_worker_is_told_and_what_became_of_it(tmp_path: Path) -> None:
    skip_without("loky")

    def main(grid: Grid, context: Context) -> None:
        grid.send_and_receive([Message(RecordDict(), 2, "query.die"), Message(RecordDict(), 3, "query.echo")])

    result = kept(tmp_path, main, asked, backend="loky", options={"cpus": 1.0})
    messages, lost = result.table("messages"), result.table("lost")
    assert list(messages["attempts"])[:1] == [2]
    assert list(messages["code"]) == [ErrorCode.WORKER_DIED, None]
    assert list(lost["cause"]) == ["exited", "exited"]
    assert all("code 3" in text for text in lost["detail"])
    leases = result.table("leases")
    ended_so = [n for n, cause in zip(leases["lease"], leases["lost"], strict=True) if cause]
    assert sorted(ended_so) == sorted(lost["lease"])
    assert messages["lease"][0] == lost["lease"][-1], "the last of those that it was part of"
    assert messages["pushed"][0] <= messages["pulled"][0] <= messages["ended"][0] == lost["at"][-1]
    assert (messages["worker"][0], messages["execute"][0]) == (None, None), (
        "nobody tells either of a worker that is gone"
    )


def test_a_node_that_hangs_until_its_time_limit_is_the_slowest_one(tmp_path: Path) -> None:
    skip_without("loky")
    client = ClientApp()

    @client.query("hang")
    def hang(msg: Message, context: Context) -> Message:
        if context.node_id == 3:
            time.sleep(60)
        return Message(RecordDict(), reply_to=msg)

    def main(grid: Grid, context: Context) -> None:
        grid.send_and_receive(Message(RecordDict(), node, "query.hang") for node in grid.get_node_ids())

    result = kept(tmp_path, main, client, backend="loky", options={"cpus": 1.0}, time_limit=1.0)
    messages = result.table("messages")
    assert list(messages["code"]) == [None, ErrorCode.TIME_LIMIT, None]
    assert result.run_dir is not None
    told = summary(Kept(result.run_dir))
    first = told["slowest_nodes"][0]
    assert (first["node"], first["longest"]) == (3, messages["ended"][1] - messages["pulled"][1])
    assert first["longest"] > 1.0
    assert [gone["had_it_for"] > 1.0 for gone in told["lost"]] == [True] * len(told["lost"])
    shown = here("show", result.run_dir.name, "--runs-dir", tmp_path / "runs").stdout
    assert "with 1 message, which it had for " in shown
    assert "beside them, workers that were lost had leases for" in shown


def test_rows_are_bounded_and_it_is_said_that_they_were_cut(tmp_path: Path) -> None:
    def main(grid: Grid, context: Context) -> None:
        for _ in range(20):
            grid.send_and_receive(Message(RecordDict(), node, "train") for node in grid.get_node_ids())

    result = kept(tmp_path, main, FAILING, record_rows=20)
    assert result.run_dir is not None
    table = result.table("messages")
    assert list(table["message"])[:20] == list(range(1, 21))
    beyond = list(table["code"])[20:]
    assert beyond == [2, 2], "of those beyond only some that failed are kept"
    assert about(result.run_dir)["messages"] == {"train": {"ended": 60, "failed": 20, "kept": 22}}
    assert result.counts["train"].sent == 60
    assert max(n for n in result.table("leases")["lease"]) <= 20


def test_notes_are_bounded_and_it_is_said_that_they_were_cut(tmp_path: Path) -> None:
    def main(grid: Grid, context: Context) -> None:
        for i in range(2 * tables.NOTES):
            grid.link.announce(f"{i}")

    notes = kept(tmp_path, main).table("notes")["text"]
    assert (len(notes), notes[-1]) == (tables.NOTES, "no more notes are kept")


def test_metrics_of_nodes_are_bounded_and_those_of_the_whole_are_not(tmp_path: Path) -> None:
    def main(grid: Grid, context: Context) -> None:
        for round in range(1, 11):
            for node in grid.get_node_ids():
                grid.report(round, node=node, loss=0.5, share=0.25)
            grid.report(round, loss=1 / round)

    result = kept(tmp_path, main, record_rows=7)
    assert result.run_dir is not None
    opened = open_run(result.run_dir)
    assert [m["loss"] for m in opened.metrics if "node" not in m] == [1 / round for round in range(1, 11)]
    assert [len(m) - 2 for m in opened.metrics if "node" in m] == [2, 2, 2, 1]
    said = "record_rows is reached: no more metrics of single nodes are kept"
    assert opened.table("notes")["text"].count(said) == 1


@pytest.mark.parametrize("busy", [0, 1000])
def test_as_many_messages_as_there_are_have_a_row(tmp_path: Path, monkeypatch: Any, busy: int) -> None:
    monkeypatch.setattr(packed, "CHUNK", 7)
    monkeypatch.setattr(tables, "BUSY", busy)
    monkeypatch.setattr(tables, "WRITE_EVERY", 0.0)

    def main(grid: Grid, context: Context) -> None:
        for _ in range(5):
            grid.send_and_receive(Message(RecordDict(), node, "query.echo") for node in grid.get_node_ids())

    result = kept(tmp_path, main, asked, nodes=100)
    assert list(result.table("messages")["message"]) == list(range(1, 501))
    assert sum(result.table("leases")["messages"]) == 500
    assert result.run_dir is not None
    with closing(sqlite3.connect(result.run_dir / "run.sqlite")) as database:
        assert database.execute("SELECT count(*) FROM answers").fetchone() == (500,), "also for who reads it without us"
        kinds = "SELECT DISTINCT typeof(node), typeof(lease), typeof(clock), typeof(bytes_out) FROM answers"
        assert database.execute(kinds).fetchall() == [("integer", "integer", "real", "integer")]


def test_rows_that_are_still_packed_are_read(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(tables, "BUSY", 0)
    file = tmp_path / "run.sqlite"
    writing = tables.Tables(file, 100)
    writing.take(ServerAppCalled(at=5.0))
    writing.take(Pulled(1, 2, "train", at=5.5))
    plain = (1, 7, 1, 5.25, 0.125, 0.5, 0.25, 10, 20, 2, 8, 1, 5.25, 0.125, 0.5, 0.25, 10, 20)
    writing.take(Returned("host:1", [], 1, 6.0, plain=plain, message_type="train"))
    writing.write()
    rows = "SELECT message, node, pushed, pulled, ended, execute, bytes_back, worker FROM messages"
    expected = [(1, 7, 0.25, 0.5, 1.0, 0.5, 20, "host:1"), (2, 8, 0.25, 0.5, 1.0, 0.5, 20, "host:1")]

    held = lock(tmp_path / "lock")
    with closing(schema.read(file)) as database:
        assert database.execute(rows).fetchall() == expected
    assert packed.packed(file).exists(), "they are its driver's while that lives"
    os.close(held)
    with packed.packed(file).open("ab") as cut:
        cut.write(bytes(packed.ROW - 1))
    with closing(schema.read(file)) as database:
        assert database.execute(rows).fetchall() == expected
    assert not packed.packed(file).exists(), "nobody else will make rows of them"
    writing.close()


def test_a_packed_row_counts_once_it_is_committed(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(tables, "BUSY", 0)
    file = tmp_path / "run.sqlite"
    writing = tables.Tables(file, 100)
    writing.take(ServerAppCalled(at=5.5))
    for lease in (1, 2):
        writing.take(Pulled(lease, 1, "train", at=5.5))
    writing.take(Returned("host:1", [], 1, 6.0, plain=(1, 7, 1, 5.25, 0.125, 0.5, 0.25, 10, 20), message_type="train"))
    writing.write()
    with packed.packed(file).open("ab") as cut:  # a kill, before it came to COMMIT
        array("d", (2, 8, 2, 5.25, 0.125, 0.5, 0.25, 10, 20, 3, 9, 3, 5.25, 0.125, 0.5, 0.25, 10, 20)).tofile(cut)
    for held in (lock(tmp_path / "lock"), None):
        with closing(schema.read(file)) as database:
            assert database.execute("SELECT message, type, ended FROM messages").fetchall() == [(1, "train", 0.5)]
        if held is not None:
            os.close(held)
    assert not packed.packed(file).exists()
    writing.abandon()


def test_a_command_reads_a_run_under_way_as_it_was_at_one_moment(tmp_path: Path, monkeypatch: Any) -> None:
    opened = []

    def reading(file: Path) -> sqlite3.Connection:
        opened.append(file)
        return schema.read(file)

    monkeypatch.setattr("flsim_record.kept.read", reading)
    told: list[Any] = []

    def main(grid: Grid, context: Context) -> None:
        assert context.run_dir is not None
        file = context.run_dir / "run.sqlite"
        grid.report(1, loss=1.0)
        assert until(file.exists, 30)
        told.append(summary(Kept(context.run_dir)))
        kept = Kept(context.run_dir)
        with kept.at_once():
            before = kept.rows("SELECT count(*) FROM notes")
            with closing(sqlite3.connect(file, isolation_level=None)) as other:
                other.execute("INSERT INTO notes VALUES (0, 'x')")
            assert kept.rows("SELECT count(*) FROM notes") == before

    kept(tmp_path, main)
    assert [t["status"] for t in told] == ["running"]
    assert len(opened) == 2


def test_what_failed_is_counted_also_where_its_rows_were_cut(tmp_path: Path) -> None:
    def main(grid: Grid, context: Context) -> None:
        for _ in range(20):
            grid.send_and_receive(Message(RecordDict(), node, "train") for node in grid.get_node_ids())
        raise ValueError("at the end")

    with pytest.raises(ValueError, match="at the end"):
        kept(tmp_path, main, FAILING, record_rows=20)
    count = open_run(only(tmp_path / "runs")).counts["train"]
    assert (count.sent, count.answered) == (60, 40)
    assert count.errors == {"CLIENT_APP_RAISED_EXCEPTION": 9, "not kept": 11}


# ---- how it may end


def test_a_run_that_fails_is_kept_with_its_error(tmp_path: Path) -> None:
    def main(grid: Grid, context: Context) -> None:
        answering(grid, context)
        raise ValueError("at the end")

    with pytest.raises(ValueError, match="at the end"):
        kept(tmp_path, main)
    opened = open_run(only(tmp_path / "runs"))
    assert (opened.status, opened.error, opened.digest, len(opened.state)) == (
        "failed",
        "ValueError: at the end",
        "",
        0,
    )
    assert [m.get("loss") for m in opened.metrics] == [0.5, -math.inf, None, 0.25]
    assert (opened.counts["query.echo"].answered, opened.seconds > 0) == (3, True)
    assert "in main" in about(opened.run_dir or Path())["error"]["traceback"]


def test_a_run_whose_backend_cannot_start_is_kept_as_failed(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        kept(tmp_path, resources={"cpus": 1000.0})
    opened = open_run(only(tmp_path / "runs"))
    assert opened.status == "failed"
    assert "1000 cpu" in opened.error
    assert (opened.metrics, opened.counts, opened.seconds) == ((), {}, 0.0)
    assert list(opened.table("messages")["message"]) == []


def test_a_run_that_is_interrupted_is_kept_as_such(tmp_path: Path) -> None:
    def main(grid: Grid, context: Context) -> None:
        grid.report(1, loss=1.0)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        kept(tmp_path, main)
    assert open_run(only(tmp_path / "runs")).status == "interrupted"


ENDLESS = """
import os, time
from flsim import ArrayRecord, ClientApp, Message, RecordDict, ServerApp

server, client = ServerApp(), ClientApp()

@client.train()
def train(msg, context):
    if context.node_id == 5:
        raise KeyError("no data")
    time.sleep(0.02)
    return Message(RecordDict(), reply_to=msg)

@server.main()
def main(grid, context):
    round = 0
    while True:
        round += 1
        grid.send_and_receive(Message(RecordDict(), node, "train") for node in grid.get_node_ids())
        grid.report(round, loss=1 / round)
"""


def test_what_a_killed_driver_has_kept_is_read_and_shown(tmp_path: Path) -> None:
    skip_without("loky")
    app = write(tmp_path, {"app.py": ENDLESS}) / "app.py"
    command = [sys.executable, "-m", "flsim", "run", str(app), "-b", "loky", "-o", "cpus=2", "-q"]
    (tmp_path / "t").mkdir()  # where a killed driver leaves its temporary folder
    env = {**os.environ, "TMPDIR": str(tmp_path / "t")}
    with subprocess.Popen(command, cwd=tmp_path, env=env, start_new_session=True) as process:
        try:
            assert until(lambda: any(tmp_path.glob("runs/*/run.sqlite")), 60)
            folder = only(tmp_path / "runs")
            assert until(lambda: len(Kept(folder).metrics()) >= 3, 60), "what happens is written while it happens"
            running = Kept(folder)
            assert running.about["status"] == "running"
            process.send_signal(signal.SIGKILL)
            process.wait(30)
        finally:
            process.kill()
    opened = open_run(folder)
    assert opened.status == "killed"
    assert len(opened.metrics) >= 3
    assert opened.counts["train"].errors["CLIENT_APP_RAISED_EXCEPTION"] >= 3
    assert opened.seconds >= max(r for r in opened.table("leases")["returned"] if r is not None) > 0
    assert len(opened.table("messages")["message"]) == opened.counts["train"].sent >= 30
    shown = flsim("show", folder.name[-8:], cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    for text in ("killed", "loss", "2 CLIENT_APP_RAISED_EXCEPTION", "KeyError: 'no data'", "slowest nodes", "workers"):
        assert text in shown.stdout
    assert "killed" in flsim("show", cwd=tmp_path).stdout


def test_a_run_is_under_way_as_long_as_its_process_holds_it(tmp_path: Path) -> None:
    seen = []

    def main(grid: Grid, context: Context) -> None:
        assert context.run_dir is not None
        seen.append((open_run(context.run_dir).status, is_locked(context.run_dir / "lock")))

    folder = kept(tmp_path, main).run_dir
    assert folder is not None
    assert seen == [("running", True)]
    assert (open_run(folder).status, is_locked(folder / "lock")) == ("finished", False)


def test_a_database_that_cannot_be_written_costs_its_rows_and_not_the_run(tmp_path: Path, caplog: Any) -> None:
    def main(grid: Grid, context: Context) -> None:
        assert context.run_dir is not None
        (context.run_dir / "run.sqlite").mkdir()
        answering(grid, context)

    result = kept(tmp_path, main)
    assert result.run_dir is not None
    (said,) = [record.message for record in caplog.records]
    assert said.startswith(f"{result.run_dir}: run.sqlite cannot be written, and is left as it is: ")
    assert about(result.run_dir)["status"] == "finished"
    assert "cannot be written" in about(result.run_dir)["not_kept"]["tables"]
    assert digest(open_run(result.run_dir).state) == result.digest


def test_no_text_and_no_number_costs_the_recording(tmp_path: Path, caplog: Any) -> None:
    more: dict[str, Any] = {"n\udce9me": 1, "huge": 10**5000, "text": "a\udce9b\0c"}

    def main(grid: Grid, context: Context) -> None:
        grid.link.announce("not\udce9")
        grid.report(1, loss=0.5, **more)
        grid.report(2**70, loss=0.25)
        grid.send_and_receive([Message(RecordDict(), 2, "query.raise")])

    client = ClientApp()

    @client.query("raise")
    def fail(msg: Message, context: Context) -> Message:
        return Message(Error(2, "why\udce9"), reply_to=msg)

    folder = kept(tmp_path, main, client).run_dir
    assert folder is not None
    assert (about(folder)["status"], caplog.records) == ("finished", [])
    opened = open_run(folder)
    huge = hex(10**5000)
    assert opened.metrics[0] == {"round": 1, "loss": 0.5, r"n\udce9me": 1, "huge": huge, "text": "a\\udce9b\0c"}
    assert opened.metrics[1]["loss"] == 0.25
    assert list(opened.table("messages")["reason"]) == ["why\N{REPLACEMENT CHARACTER}"], "it is cleaned in the worker"
    assert r"not\udce9" in opened.table("notes")["text"]
    assert here("show", folder.name, "--runs-dir", folder.parent).returncode == 0


@pytest.mark.parametrize(
    "broken", ["save_state", "modules", "versions", "machine", "commit", "Tables.write", "Tables.close"]
)
def test_what_cannot_be_kept_costs_nothing_else(tmp_path: Path, monkeypatch: Any, caplog: Any, broken: str) -> None:
    def fail(*args: Any) -> None:
        raise LookupError("of its own")

    monkeypatch.setattr(f"flsim_record.recorder.{broken}", fail)
    folder = kept(tmp_path).run_dir
    assert folder is not None
    run = about(folder)
    assert (run["status"], is_locked(folder / "lock")) == ("finished", False)
    (said,) = run["not_kept"].values()
    assert said.endswith("LookupError: of its own")
    assert [record.message for record in caplog.records] == [f"{folder}: {said}"]
    assert open_run(folder).digest == run["result"]["digest"]


def test_nobody_waits_for_what_is_around_a_run(tmp_path: Path, monkeypatch: Any) -> None:
    go_on = threading.Event()
    seen = []

    def slow(*args: Any) -> dict[str, str]:
        assert go_on.wait(30)
        return {"commit": "abc"}

    def main(grid: Grid, context: Context) -> None:
        assert context.run_dir is not None
        folder = context.run_dir
        assert until(lambda: about(folder)["began"] is not None, 30)
        seen.append(about(folder).get("git", "not yet"))
        go_on.set()
        grid.report(1, loss=0.5)
        assert until(lambda: "git" in about(folder), 30)

    monkeypatch.setattr("flsim_record.recorder.commit", slow)
    assert about(kept(tmp_path, main).run_dir or Path())["git"] == {"commit": "abc"}
    assert seen == ["not yet"]


def test_a_run_whose_end_cannot_be_written_is_let_go_of(tmp_path: Path, caplog: Any) -> None:
    def main(grid: Grid, context: Context) -> None:
        assert context.run_dir is not None
        folder = context.run_dir
        assert until(lambda: {"versions", "machine", "git"} <= about(folder).keys(), 30), "its beginning is written"
        (folder / "run.json.new").mkdir()

    folder = kept(tmp_path, main).run_dir
    assert folder is not None
    (said,) = [record.message for record in caplog.records]
    assert said.startswith(f"{folder}: run.json cannot be written: ")
    assert (open_run(folder).status, is_locked(folder / "lock")) == ("killed", False)


def test_a_finished_run_is_one_file_that_is_read_where_nothing_can_be_written(tmp_path: Path) -> None:
    folder = kept(tmp_path).run_dir
    assert folder is not None
    assert sorted(p.name for p in folder.glob("run.sqlite*")) == ["run.sqlite"]
    folder.chmod(0o500)
    try:
        assert len(open_run(folder).table("messages")["message"]) == 3
    finally:
        folder.chmod(0o700)
    with sqlite3.connect(f"file:{folder}/run.sqlite?immutable=1", uri=True) as database:
        assert database.execute("SELECT count(*) FROM messages").fetchall() == [(3,)]
    database.close()


# ---- plugins


def test_who_makes_the_folder_of_a_run_keeps_it(tmp_path: Path) -> None:
    text = (
        "from flsim.hooks import hookimpl\n@hookimpl(tryfirst=True)\ndef flsim_run_dir(run):\n"
        "    folder = run.runs_dir / 'theirs'\n    folder.mkdir(parents=True)\n    return folder\n"
    )
    site = write_plugin(tmp_path / "site", "acme_plugin", text, distribution="acme", entry="acme")
    app = write_app(tmp_path / "app")
    done = flsim("run", app, "-b", "serial", "--runs-dir", tmp_path / "runs", path=[site])
    assert (done.returncode, done.stderr) == (0, "")
    assert f"kept in {tmp_path}/runs/theirs" in done.stdout
    assert list((tmp_path / "runs" / "theirs").iterdir()) == []


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("1 / 0", r"plugin acme (acme) cannot make a folder in RUNS: ZeroDivisionError: division by zero"),
        ("return 'x'", r"plugin acme (acme) made 'x' the folder of a run, which is no Path"),
    ],
)
def test_a_plugin_that_fails_over_the_folder_is_named(tmp_path: Path, body: str, said: str) -> None:
    text = f"from flsim.hooks import hookimpl\n@hookimpl(tryfirst=True)\ndef flsim_run_dir(run): {body}\n"
    site = write_plugin(tmp_path / "site", "acme_plugin", text, distribution="acme", entry="acme")
    done = flsim("run", write_app(tmp_path / "app"), "-b", "serial", "--runs-dir", tmp_path / "runs", path=[site])
    assert (done.returncode, done.stderr) == (2, f"error: {said.replace('RUNS', str(tmp_path / 'runs'))}\n")


def test_observers_are_told_once_when_nothing_has_happened_for_a_while() -> None:
    told: list[list[Event]] = []

    class Watching:
        def on(self, events: Any) -> None:
            told.append(list(events))

        def close(self) -> None:
            pass

    observers = Observers([Watching()])
    observers.start()
    observers.put(Announced("a"))
    assert until(lambda: len(told) == 2, 10)
    time.sleep(1.0)  # in which it would be told again, were it told more than once
    observers.close()
    assert [[type(e).__name__ for e in batch] for batch in told] == [["Announced"], []]


# ---- in Python


def test_tables_are_those_of_pandas_and_of_arrow(tmp_path: Path) -> None:
    pytest.importorskip("pandas", reason="pandas is not installed")
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    result = kept(tmp_path)
    frame = result.to_pandas()
    assert list(frame.columns) == ["round", "loss", "name", "flag", "n", "big", "node"]
    assert list(frame["loss"])[:2] == [0.5, -math.inf]
    assert list(result.to_pandas("messages")["node"]) == [2, 3, 4]
    assert result.to_arrow("messages").column("node").to_pylist() == [2, 3, 4]
    arrow = result.to_arrow()
    assert arrow.column("round").to_pylist() == [1, 2, 3, 4]
    assert arrow.column("big").to_pylist()[1] == str(2**70), "there are no integers of more than 64 bits in Arrow"


def test_columns_have_their_types_also_where_there_are_no_values(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    nothing, some = kept(tmp_path / "a", lambda grid, context: None), kept(tmp_path / "b", train_all, FAILING)
    for result in (nothing, some):
        schema = result.to_arrow("messages").schema
        names = ("node", "code", "lease", "pulled", "reason")
        int64, text = pyarrow.int64(), pyarrow.string()
        assert [schema.field(name).type for name in names] == [int64, int64, int64, pyarrow.float64(), text]
        frame = result.to_pandas("messages")
        assert [str(frame[name].dtype) for name in names] == ["Int64", "Int64", "Int64", "float64", "string"]
    assert list(some.to_pandas("messages")["code"].dropna()) == [2, 2, 3]
    assert some.to_pandas("messages")["lease"].isna().sum() == 1
    frame = kept(tmp_path / "c").to_pandas()
    assert [frame["node"][i] for i in (0, 3)] == [pandas.NA, 3]


def test_a_library_that_is_missing_is_named(tmp_path: Path, monkeypatch: Any) -> None:
    result = kept(tmp_path)
    for library, make in (("pandas", result.to_pandas), ("pyarrow", result.to_arrow)):
        monkeypatch.setitem(sys.modules, library, None)
        with pytest.raises(ConfigError, match=f"which makes this table, .* with: pip install {library}"):
            make()


def test_tables_that_there_are_not_are_refused(tmp_path: Path) -> None:
    result = kept(tmp_path)
    with pytest.raises(UnknownName, match=r"unknown table 'message'; did you mean 'messages'\?"):
        result.table("message")
    with pytest.raises(ConfigError, match="no table 'messages', since it was not recorded"):
        kept(tmp_path, runs_dir=None).table("messages")


def test_a_notebook_shows_a_run_with_its_curves_and_without_a_script(tmp_path: Path) -> None:
    def main(grid: Grid, context: Context) -> None:
        for round in range(1, 1001):
            more: dict[str, Any] = {"<b>": round % 7, "text": "x"}
            grid.report(round, loss=1 / round, **more)
        grid.report(1001, loss=math.nan, steady=3)

    html = kept(tmp_path, main)._repr_html_()
    assert html.count("<polyline") == 2
    assert html.count("<circle") == 1, "a metric of one round is a point"
    assert "<b>" not in html
    assert "&lt;b&gt;" in html
    assert "nan" not in html
    assert "<script" not in html
    assert "http" not in html.replace("http://www.w3.org/2000/svg", "")
    assert max(len(line.split()) for line in html.split('"')) <= 400
    nothing = kept(tmp_path, lambda grid, context: None, runs_dir=None)._repr_html_()
    assert "<svg" not in nothing


def test_a_notebook_shows_any_metric(tmp_path: Path) -> None:
    more: dict[str, Any] = {"red\x1b[31m\x00": 2.0, "big": 10**400}

    def main(grid: Grid, context: Context) -> None:
        grid.report(1, **more)
        grid.report(10**400, loss=1.0)

    html = kept(tmp_path, main)._repr_html_()
    assert html.count("<circle") == 1, "what is too large for a plot has no point"
    assert "red�[31m�" in html
    assert html.isprintable()


def test_the_core_opens_no_run_and_imports_no_table_until_it_is_asked() -> None:
    code = """
        import sys, flsim
        flsim.run, flsim.open_run
        print([m for m in sys.modules if m.partition(".")[0] in ("flsim_record", "pandas", "pyarrow")])
    """
    assert python(code) == "[]"

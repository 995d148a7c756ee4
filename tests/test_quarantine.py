"""What has cost its worker is kept with all that it needs, and runs again alone, as it did in the run."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import stat
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import FLSIM, codes, execute, flsim, here, server_of, write
from installed import skip_without

import flsim as package
from flsim import ArrayRecord, ClientApp, Context, Error, ErrorCode, Grid, Message, RecordDict, quarantine
from flsim.envelope import Generators
from flsim.errors import ConfigError
from flsim.fleet import Kind
from flsim.folder import HeldFolder
from flsim.job import Job, JobKind
from flsim.payload import blob_of
from flsim.quarantine import find_message, left_out, quarantined, unreadable
from flsim.resources import Resources
from flsim.testing.watch import until
from flsim.wire import Packed
from flsim_record.kept import Kept

NODES, POISON = 20, 7
"""The nodes of the app, and the one that ends its worker in the second round."""

APP = """
import ctypes, hashlib, json, os, random, signal, sys, time
from pathlib import Path
import numpy as np
from flsim import ArrayRecord, ClientApp, ConfigRecord, Message, MetricRecord, RecordDict, ServerApp

server, client = ServerApp(), ClientApp()

@client.train()
def train(msg, context):
    here = Path(context.run_config["mended"]).exists()  # where it is so, it lives
    seen = context.state["seen"]["n"] + 1 if "seen" in context.state else 1
    context.state["seen"] = MetricRecord({"n": seen})
    arrays = msg.content["model"]
    told = {
        "node": context.node_id, "partition": context.node_config["partition-id"], "seen": int(seen),
        "drawn": float(context.rng.random()), "global": [random.random(), float(np.random.random())],
        "model": [hashlib.sha256(a.tobytes()).hexdigest() for a in arrays.values()],
        "writeable": any(a.flags.writeable for a in arrays.values()), "type": msg.metadata.message_type,
        "id": msg.metadata.message_id, "config": dict(context.run_config), "product": float(arrays["w"] @ arrays["w"]),
    }
    if context.node_id == 7 and seen == 2:
        how = context.run_config["how"]
        print("told", json.dumps(told), flush=True)
        if here:
            pass
        elif how == "exit":
            os._exit(9)
        elif how == "segfault":
            ctypes.string_at(0)
        elif how == "hang":
            time.sleep(600)  # this is the hang
        elif how == "memory":
            taken = bytearray(b"x") * (400 * 2**20)
            time.sleep(0.5)  # so long that it is seen
    return Message(RecordDict({"told": ConfigRecord({"json": json.dumps(told)})}), reply_to=msg)

@server.main()
def main(grid, context):
    for k in range(2):
        model = ArrayRecord({"w": np.random.default_rng(k).standard_normal(50_000), "b": np.arange(3.0) + k})
        content = RecordDict({"model": model})
        replies = grid.send_and_receive(Message(content, node, "train") for node in grid.get_node_ids())
        if k == 1:
            context.state["codes"] = ConfigRecord({"codes": [r.error.code if r.has_error() else 0 for r in replies]})
    if context.run_config["killed"]:
        file = context.run_dir / "quarantine" / "26.json"
        while not file.exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGKILL)
"""

TABLE = """
[tool.flsim]
server = "poison:server"
client = "poison:client"
nodes = 20
seed = 3
[tool.flsim.config]
how = "exit"
mended = "/nowhere"
killed = false
"""

MESSAGE = "26"
"""The id of the poison: the sixth message of the second round."""


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("poison"), {"pyproject.toml": TABLE, "poison.py": APP})


def kept(app: Path, folder: Path, *more: str) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """Run the app on loky. Returns the run's folder, and what was printed."""
    skip_without("loky")
    done = flsim("run", app, "-b", "loky", "-o", "cpus=2", "--runs-dir", folder, *more)
    (run_dir,) = folder.iterdir()
    return run_dir, done


def swept(prefix: str) -> None:
    """Sweep the temporary folders of processes that had no time to: whoever makes the next one does."""
    HeldFolder(prefix).remove()


def told(out: str) -> dict[str, Any]:
    """What the ClientApp has printed."""
    (line,) = [line for line in out.splitlines() if line.startswith("told ")]
    return dict(json.loads(line.removeprefix("told ")))


@pytest.fixture(scope="module")
def mended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file; where it is, the poison is none."""
    return tmp_path_factory.mktemp("mended") / "mended"


@pytest.fixture(scope="module")
def exited(
    app: Path, mended: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A run in which it called os._exit."""
    return kept(app, tmp_path_factory.mktemp("runs"), "--set", f"mended={mended}")


def test_of_twenty_messages_the_one_that_ends_its_workers_is_kept_and_the_others_are_answered(
    exited: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    run_dir, done = exited
    assert done.returncode == 0, done.stderr
    assert list(Kept(run_dir).result().state.config_records["codes"]["codes"]) == [  # type: ignore[arg-type]
        101 if node == POISON else 0 for node in range(2, NODES + 2)
    ]
    (found,) = quarantined(run_dir)
    about = {key: found.about[key] for key in ("message", "node", "type", "k", "error", "kind", "attempts")}
    assert about == {
        "message": 26, "node": POISON, "type": "train", "k": 1, "error": "WORKER_DIED", "kind": "default",
        "attempts": found.about["attempts"],
    }  # fmt: skip
    assert 2 <= found.about["attempts"] <= 3
    assert "exited with code 9" in found.about["reason"]
    assert left_out(run_dir) == {}
    last = done.stdout.splitlines()[-1]
    assert last == f"1 message that cost its worker is in quarantine: flsim replay {run_dir}"


def test_what_is_in_quarantine_is_the_users_alone(exited: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder = exited[0] / "quarantine"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    files = sorted(folder.iterdir())
    assert {f.name.rpartition(".")[2] for f in files} == {"json", "lease", "buffers", "pickle", "zip"}
    assert {stat.S_IMODE(f.stat().st_mode) for f in files} == {0o600}


def test_a_replay_ends_as_the_worker_did_after_the_same_draws_state_and_model(
    mended: Path,
    exited: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    done = flsim("replay", exited[0], MESSAGE)
    assert done.returncode == 9, done.stderr
    assert "message 26 to node 7 (partition 5), train" in done.stdout
    assert "may end it as it ended its worker" in done.stdout
    said = told(done.stdout)
    draw = np.random.default_rng(np.random.SeedSequence(3, spawn_key=(POISON, 1))).random()
    model = np.random.default_rng(1).standard_normal(50_000), np.arange(3.0) + 1
    assert said["model"] == [hashlib.sha256(a.tobytes()).hexdigest() for a in model]
    assert said["drawn"] == draw
    assert (said["seen"], said["partition"], said["id"], said["writeable"]) == (2, 5, MESSAGE, False)
    assert said["config"] == {"how": "exit", "mended": str(mended), "killed": False}


def test_what_a_replay_sees_and_answers_is_the_same_to_the_last_bit_as_in_a_run(
    app: Path, mended: Path, exited: tuple[Path, subprocess.CompletedProcess[str]]
) -> None:
    """What a worker prints is lost with it; so it is compared with the same run, in which the message lives."""
    mended.touch()
    try:
        healthy = flsim("run", app, "-b", "serial", "--set", f"mended={mended}", "--no-record")
        replayed = flsim("replay", exited[0], MESSAGE)
    finally:
        mended.unlink()
    (line,) = [line for line in healthy.stdout.splitlines() if "| told " in line]
    assert replayed.returncode == 0, replayed.stderr
    assert told(replayed.stdout) == json.loads(line.partition("told ")[2])
    assert "it got a reply after " in replayed.stdout
    assert "its node's state is now:\n  seen: {'n': 2}" in replayed.stdout


def test_the_list_and_show_name_what_is_in_quarantine_and_how_to_replay_it(
    exited: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    run_dir, _ = exited
    shown = [here("replay", run_dir), here("show", run_dir)]
    for done in shown:
        assert done.returncode == 0, done.stderr
        lines = done.stdout.splitlines()
        (row,) = [line for line in lines if line.split()[:4] == [MESSAGE, "7", "train", "WORKER_DIED"]]
        assert "worker exited with code 9" in row
        assert f"run one alone by: flsim replay {run_dir} {MESSAGE}" in lines
    (about,) = json.loads(here("show", run_dir, "--json").stdout)["quarantine"]
    assert about["message"] == 26


def test_a_message_that_is_not_there_is_refused_with_those_that_are(
    exited: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    done = here("replay", exited[0], "27")
    assert done.returncode == 2
    assert done.stderr == "error: unknown message in quarantine '27'; did you mean '26'? Known: 26.\n"


def test_an_app_that_has_changed_is_told_and_runs_as_it_was_unless_the_edited_one_is_asked_for(
    app: Path, exited: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    run_dir = Path(shutil.copytree(exited[0], tmp_path / "run"))
    (app / "poison.py").write_text(APP.replace("os._exit(9)", "print('it lives')"))
    try:
        done = flsim("replay", run_dir, MESSAGE)
        assert done.returncode == 9
        assert f"of {app}, as it was in the run: what is there has changed since, and --edited runs that" in done.stdout
        done = flsim("replay", run_dir, MESSAGE, "--edited")
        assert done.returncode == 0, done.stderr
        assert f"of {app}, as it is now: it has changed since the run" in done.stdout
        assert "it lives" in done.stdout
        (archive,) = (run_dir / "quarantine").glob("app-*.zip")
        archive.unlink()
        done = here("replay", run_dir, MESSAGE)
        assert done.returncode == 2
        assert done.stderr.endswith("was not kept: its archive is gone. --edited runs it\n")
    finally:
        (app / "poison.py").write_text(APP)
        swept("flsim-app-")


@pytest.fixture(scope="module")
def hung(app: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in which it hung until its time_limit."""
    run_dir, done = kept(app, tmp_path_factory.mktemp("hung"), "--set", "how=hang", "--time-limit", "0.5")
    assert "TIME_LIMIT" in done.stdout
    return run_dir


def replaying(*args: str | Path) -> subprocess.Popen[str]:
    """A replay under way, its ClientApp called."""
    pipe = subprocess.PIPE
    process = subprocess.Popen([FLSIM, "replay", *args], stdin=pipe, stdout=pipe, stderr=pipe, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    if "--debug" in args:
        process.stdin.write("c\n")
        process.stdin.flush()
    for line in process.stdout:
        if "told " in line:
            return process
    raise AssertionError(process.communicate()[1])


@pytest.mark.parametrize("signal_", [signal.SIGINT, signal.SIGQUIT], ids=["ctrl-c", "quit"])
def test_a_replay_that_hangs_runs_on_until_a_signal_shows_where_it_is(hung: Path, signal_: signal.Signals) -> None:
    process = replaying(hung, MESSAGE)
    process.send_signal(signal_)
    out, err = process.communicate(timeout=60)
    if signal_ == signal.SIGINT:
        assert process.returncode == 130
        assert "it was interrupted after " in out
        assert "(its time_limit: 0.5 s)" in out
        assert 'poison.py", line ' in out
        assert "in train\n" in out
    else:
        assert process.returncode == -signal.SIGQUIT
        assert "in train" in err


def test_ctrl_c_under_the_debugger_opens_a_prompt_where_it_hangs(hung: Path) -> None:
    process = replaying(hung, MESSAGE, "--debug")
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate("p how + '!'\nq\n", timeout=60)
    assert "'hang!'" in out
    assert process.returncode == 130


def test_the_debugger_stops_at_the_first_line_of_the_clientapp_and_a_quit_ends_the_replay(hung: Path) -> None:
    process = execute(FLSIM, "replay", hung, MESSAGE, "--debug", stdin="q\n")
    assert process.returncode == 1
    assert '-> here = Path(context.run_config["mended"]).exists()' in process.stdout
    assert process.stderr == "quit: the message was ended at a breakpoint\n"


@pytest.mark.parametrize("limit", [("--limits",), ("--time-limit", "0.2")], ids=" ".join)
def test_a_limit_ends_a_replay_with_its_stack(hung: Path, limit: Sequence[str]) -> None:
    done = flsim("replay", hung, MESSAGE, *limit)
    assert done.returncode == 1
    assert f"for at most {'0.5' if limit == ('--limits',) else '0.2'} s" in done.stdout
    assert "in train" in done.stderr


def test_a_message_over_its_memory_gets_a_reply_alone_and_is_held_to_it_where_asked(app: Path, tmp_path: Path) -> None:
    run_dir, _ = kept(app, tmp_path, "--set", "how=memory", "--memory", "200MiB")
    assert [q.about["error"] for q in quarantined(run_dir)] == ["OUT_OF_MEMORY"]
    done = flsim("replay", run_dir, MESSAGE)
    assert done.returncode == 0, done.stderr
    assert "(its kind may hold 200 MiB)" in done.stdout
    done = flsim("replay", run_dir, MESSAGE, "--limits")
    assert done.returncode == 1
    assert "flsim: over its memory: it held " in done.stderr


def test_a_driver_that_is_killed_afterwards_leaves_it_readable_and_a_segfault_comes_again_with_its_stack(
    app: Path, tmp_path: Path
) -> None:
    run_dir, done = kept(app, tmp_path, "--set", "how=segfault", "--set", "killed=true")
    assert done.returncode == -signal.SIGKILL
    assert Kept(run_dir).about["status"] == "killed"
    assert f"flsim replay {run_dir} {MESSAGE}" in here("show", run_dir).stdout
    done = flsim("replay", run_dir, MESSAGE)
    assert done.returncode == -signal.SIGSEGV
    assert "in train" in done.stderr
    swept("flsim-run-")


def test_nothing_is_kept_of_a_run_that_is_not_recorded(app: Path, tmp_path: Path) -> None:
    skip_without("loky")
    done = flsim("run", app, "-b", "loky", "--no-record", cwd=tmp_path)
    assert "WORKER_DIED" in done.stdout
    assert "quarantine" not in done.stdout
    assert list(tmp_path.iterdir()) == []


# ---- bounds, and what cannot be kept

client = ClientApp()


@client.query("die")
def die(msg: Message, context: Context) -> Message:
    os._exit(5)


def memory() -> int:
    """Segments of shared memory that this process has open; 0 where that cannot be seen."""
    files = Path("/proc/self/fd")
    return sum("memfd:flsim" in str(f.readlink()) for f in files.iterdir() if f.is_symlink()) if files.exists() else 0


def test_what_several_carry_is_kept_once_and_let_go_and_what_is_too_many_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    skip_without("loky")
    monkeypatch.setattr(quarantine, "MESSAGES", 2)
    before = memory()

    def main(grid: Grid, context: Context) -> None:
        content = RecordDict({"model": ArrayRecord([np.arange(100_000.0), np.ones(4)])})
        replies = grid.send_and_receive(Message(content, n, "query.die") for n in grid.get_node_ids())
        assert codes(replies) == [ErrorCode.WORKER_DIED] * 3
        assert until(lambda: memory() == before, 10), "what is shared outlives the messages that carry it"

    options = {"cpus": 2}
    result = package.run(
        server_of(main), client, nodes=3, backend="loky", options=options, seed=1, quiet=True, runs_dir=tmp_path
    )
    assert result.run_dir is not None
    files = list((result.run_dir / "quarantine").glob("*.buffers"))
    assert [(f.name, f.stat().st_size) for f in files] == [("shared-1.buffers", 800_000)]
    model = np.arange(100_000.0).tobytes()
    found = quarantined(result.run_dir)
    assert [[bytes(b) for b in q.frames().buffers] for q in found] == [[model]] * 2
    notes = [text for (text,) in Kept(result.run_dir).rows("SELECT text FROM notes")]
    why = "it holds 2 messages, and takes no more"
    assert sum(f"is not kept in quarantine/ of the run's folder: {why}" in text for text in notes) == 1
    assert f"not kept: 1 more, the last: {why}" in here("show", result.run_dir).stdout

    # The ClientApp is this module's: its pickle names it.
    done = flsim("replay", result.run_dir, str(found[0].id), path=[Path(__file__).parents[1], Path(__file__).parent])
    assert done.returncode == 5, done.stderr
    assert "as it was when the run began: it was given from Python" in done.stdout


class Desk:
    """A Quarantine, and what it says."""

    def __init__(self, run_dir: Path) -> None:
        self.said: list[str] = []
        self.let_go: list[int] = []
        self.run_dir = run_dir
        job = Job(1, 1, 9, {}, (JobKind(client, {}, Resources()),)).encoded()
        kinds = [Kind("default", client, 9)]
        self.quarantine = quarantine.Quarantine(run_dir, job, kinds, Generators.SEED, True, self.said.append)

    def put(self, *contents: RecordDict) -> None:
        for id_, content in enumerate(contents, 1):
            packed = Packed(id_, 2, 0, "query.die", "", 0.0, None, blob_of(content), blob_of(content))
            error = Error(int(ErrorCode.WORKER_DIED), "it died")
            self.quarantine.put(packed, 0, 2, error, lambda id_=id_: self.let_go.append(id_))  # type: ignore[misc]
        self.quarantine.close()


def large(size: int) -> RecordDict:
    return RecordDict({"a": ArrayRecord([np.arange(size // 8)]), "b": ArrayRecord([np.ones(999)])})


def test_a_quarantine_takes_no_more_bytes_than_it_may(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quarantine, "BYTES", 5_000_000)
    desk = Desk(tmp_path)
    desk.put(*[large(1_000_000)] * 4)
    assert [q.id for q in quarantined(tmp_path)] == [1, 2]
    assert sum(f.stat().st_size for f in (tmp_path / "quarantine").iterdir()) < 5_000_000
    assert left_out(tmp_path)["messages"] == 2
    assert len(desk.said) == 1
    assert "message 3 is not kept" in desk.said[0]
    assert sorted(desk.let_go) == [1, 2, 3, 4]


def test_buffers_come_back_as_they_were_and_begin_where_a_sum_is_the_same(tmp_path: Path) -> None:
    Desk(tmp_path).put(large(100_008))
    buffers = quarantined(tmp_path)[0].frames().buffers
    arrays = [np.arange(12_501), np.ones(999)]
    assert [bytes(b) for b in buffers] == [a.tobytes() for a in arrays * 2]
    assert {np.frombuffer(b, np.uint8).ctypes.data % 64 for b in buffers} == {0}


def test_what_cannot_be_written_is_said_once_and_let_go(tmp_path: Path) -> None:
    (tmp_path / "quarantine").touch()
    desk = Desk(tmp_path)
    desk.put(large(8000), large(8000))
    assert ["FileExistsError" in text for text in desk.said] == [True] * 3
    assert "message 1 is not kept in quarantine/ of the run's folder" in desk.said[0]
    assert desk.let_go == [1, 2]
    assert quarantined(tmp_path) == []


ABOUT = {
    **dict.fromkeys(("schema", "message", "node", "partition", "k", "code", "attempts", "memory", "bytes"), 1),
    **dict.fromkeys(("type", "kind", "client", "error", "reason", "traceback", "app_not_kept"), "\x1b[2JFAKE"),
    "time_limit": None,
    "versions": {"\x1b[2J": "\x1b[2J"},
    "parts": [{"file": "../../x", "spans": [7]}],
}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{", "JSONDecodeError"),
        ("[" * 100_000, "RecursionError"),
        ("[]", "TypeError"),
        ("{}", "KeyError: 'schema'"),
        ('{"schema": 99}', "it was written by another version of flsim: schema 99, and not 1"),
        (json.dumps(ABOUT | {"message": "evil"}), "its message is no int"),
        (json.dumps(ABOUT | {"message": 2}), "it is about another message than its name says"),
        (json.dumps(ABOUT | {"message": 3, "reason": ["\x1b[2J"]}), "its reason is no str"),
        (json.dumps(ABOUT | {"message": 3, "time_limit": 10**400}), "its time_limit is too large"),
    ],
)
def test_what_cannot_be_read_hides_no_other_and_is_refused(tmp_path: Path, text: str, why: str) -> None:
    write(tmp_path, {"quarantine/3.json": text, "quarantine/1.json": json.dumps(ABOUT)})
    (other,) = quarantined(tmp_path)
    assert other.id == 1
    assert why in unreadable(tmp_path)["3"]
    with pytest.raises(ConfigError, match=r"3\.json cannot be read"):
        find_message(tmp_path, "3")


def test_a_quarantine_of_a_strangers_has_no_power_over_the_terminal(
    exited: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    """It is listed and shown with what of it cannot be read; and to replay what is no lease is refused."""
    run_dir = shutil.copytree(exited[0], tmp_path / "run")
    write(run_dir, {"quarantine/1.json": json.dumps(ABOUT), "quarantine/3\x1b[2J.json": "{"})
    for done in (here("replay", run_dir), here("show", run_dir), here("replay", run_dir, "1")):
        said = done.stdout + done.stderr
        assert not [c for c in said if not (c.isprintable() or c == "\n")]
        assert "Traceback" not in said
    for done in (here("replay", run_dir), here("show", run_dir)):
        assert done.returncode == 0, done.stderr
        assert {"1", MESSAGE} <= {line.split()[0] for line in done.stdout.splitlines() if line.split()}
        assert "cannot be read: JSONDecodeError" in " ".join(done.stdout.split())
    assert here("replay", run_dir, "1").returncode == 2

"""What goes wrong costs what it must and nothing else. Each test really raises, kills or interrupts."""

import contextlib
import ctypes
import os
import pty
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest
from helpers import ask, codes, execute, python, server_of
from installed import skip_without

import flsim
from flsim import ClientApp, ConfigRecord, Context, Error, ErrorCode, Grid, Message, RecordDict, RunResult
from flsim.backend import BackendSpec, HostOptions
from flsim.envelope import TEXT_LIMIT, TRACEBACK_LIMIT
from flsim.errors import BackendBroken, Cause, WorkerLost
from flsim.fleet import Kind
from flsim.payload import Frames
from flsim.plan import Plan
from flsim.plugins import Plugins
from flsim.project import Project
from flsim.resources import Place, Resources
from flsim.testing.apps import client as checks_client
from flsim.testing.apps import note, notes
from flsim.testing.watch import alive, children
from flsim.testing.wrongs import RAISED
from flsim_serial.backend import SerialBackend

BACKENDS = ["serial", "loky"]


def run(
    client: object, main: Callable[[Grid, Context], None], *, nodes: int = 10, backend: str = "loky", cpus: int = 2
) -> RunResult:
    skip_without(backend)
    return flsim.run(server_of(main), client, nodes=nodes, backend=backend, options={"cpus": cpus}, seed=1, quiet=True)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("how", RAISED)
def test_whatever_a_clientapp_raises_is_the_error_of_its_message_and_of_no_other(backend: str, how: str) -> None:
    def main(grid: Grid, context: Context) -> None:
        (raised,) = ask(grid, "raise", [3], how=how)
        assert raised.error.code == ErrorCode.CLIENT_APP_RAISED_EXCEPTION
        assert how in raised.error.reason
        assert "in raise_" in raised.error.traceback
        assert "flsim/worker.py" not in raised.error.traceback
        assert codes(ask(grid, "echo")) == [None] * 3

    run(checks_client, main, nodes=3, backend=backend, cpus=1)


def test_an_error_that_a_clientapp_returns_is_bounded_and_has_no_power_over_the_terminal() -> None:
    app = ClientApp()

    @app.query("refuse")
    def refuse(msg: Message, context: Context) -> Message:
        context.state["kept"] = ConfigRecord({"a": 1})
        endless = "\x1b[2J" + "R" * 5_000_000
        return Message(Error(42, endless, endless), reply_to=msg)

    @app.query("kept")
    def kept(msg: Message, context: Context) -> Message:
        assert "kept" not in context.state, "an error leaves the state as it was"
        return Message(RecordDict(), reply_to=msg)

    def main(grid: Grid, context: Context) -> None:
        (reply,) = ask(grid, "refuse")
        error = reply.error
        assert (error.code, len(error.reason), len(error.traceback)) == (42, TEXT_LIMIT, TRACEBACK_LIMIT)
        assert error.reason.startswith("\N{REPLACEMENT CHARACTER}[2JRRR")
        assert "\x1b" not in error.traceback
        assert codes(ask(grid, "kept")) == [None]

    run(app, main, nodes=1)


def test_a_poison_message_among_others_costs_at_most_three_deaths_and_nobody_else_an_attempt(tmp_path: Path) -> None:
    app = ClientApp()
    calls = str(tmp_path)

    @app.query("work")
    def work(msg: Message, context: Context) -> Message:
        note(calls, str(context.node_id))
        if context.node_id == 7:
            os._exit(5)
        return Message(RecordDict(), reply_to=msg)

    def main(grid: Grid, context: Context) -> None:
        for _ in range(3):
            replies = ask(grid, "work")
            assert [n for n, c in zip(grid.get_node_ids(), codes(replies), strict=True) if c is not None] == [7]

    result = run(app, main, nodes=20)
    assert result.counts["query.work"].errors == {"WORKER_DIED": 3}
    assert 6 <= notes(tmp_path).count("7") <= 9


def test_two_hundred_nodes_of_which_every_twentieth_ends_its_worker() -> None:
    app = ClientApp()

    @app.query("work")
    def work(msg: Message, context: Context) -> Message:
        if context.node_config["partition-id"] % 20 == 0:
            os._exit(1)
        return Message(RecordDict(), reply_to=msg)

    def main(grid: Grid, context: Context) -> None:
        for _ in range(2):
            replies = ask(grid, "work")
            died = [i for i, c in enumerate(codes(replies)) if c == ErrorCode.WORKER_DIED]
            assert died == list(range(0, 200, 20))
            assert codes(replies).count(None) == 190

    run(app, main, nodes=200)


class Faulty(SerialBackend):
    """Loses requests and replies, and once a reply comes although its worker was given up: each to its message once."""

    def __init__(self, options: HostOptions) -> None:
        super().__init__(options)
        self.faults = {5: "request", 9: "reply", 13: "late"}
        self.leases = 0
        self.late: list[Future[Frames]] = []

    def submit(self, frames: Frames, need: Resources, place: Place, devices: tuple[int, ...] = ()) -> Future[Frames]:
        self.leases += 1
        fault = self.faults.get(self.leases)
        if fault is None:
            return super().submit(frames, need, place, devices)
        lost: Future[Frames] = Future()
        if fault == "request":
            lost.set_exception(WorkerLost(Cause.LEFT, "the request was lost"))
            return lost
        inner = super().submit(frames, need, place, devices)
        if fault == "reply":
            inner.add_done_callback(lambda _: lost.set_exception(WorkerLost(Cause.LEFT, "the reply was lost")))
        else:
            lost.set_exception(WorkerLost(Cause.LEFT, "it is still at it"))
            self.late.append(inner)
        return lost


FAULTY = BackendSpec("faulty", "loses", "test_faults:Faulty", HostOptions, frozenset({"cpus"}))


def test_what_is_lost_on_the_way_or_comes_too_late_has_no_double_effect() -> None:
    def main(grid: Grid, context: Context) -> None:
        for k in range(1, 5):
            replies = ask(grid, "draw")
            assert [r.content["about"]["count"] for r in replies] == [k] * 6, "a state was changed twice, or not at all"
            context.state[f"r{k}"] = ConfigRecord(
                {str(i): list(r.content["arrays"]["drawn"]) for i, r in enumerate(replies)}
            )

    def digest(spec: BackendSpec) -> str:
        project = Project("app", server_of(main), (Kind("default", checks_client, 6),), declared=False)
        return Plan(project, spec, HostOptions(cpus=1), 1).run().digest

    assert digest(FAULTY) == digest(Plugins().backend("serial").spec)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_clock_on_the_wall_that_jumps_by_a_day_expires_nothing(tmp_path: Path, backend: str) -> None:
    """It jumps while messages are out that have a ttl, and whose sender has a timeout."""
    skip_without(backend)
    script = f"""
import time
wall, ahead = time.time, 0.0
time.time = lambda: wall() + ahead  # before the engine takes it from there

from pathlib import Path
import flsim
from flsim.testing.apps import client, notes
from flsim.testing.watch import until

server = flsim.ServerApp()

@server.main()
def main(grid, context):
    global ahead
    content = flsim.RecordDict({{"plan": flsim.ConfigRecord({{"folder": {str(tmp_path)!r}, "patience": 60.0}})}})
    first, *others = grid.get_node_ids()
    messages = [flsim.Message(content, first, "query.echo", ttl=60)]
    messages += [flsim.Message(content, n, "query.wait", ttl=60) for n in others]
    stream = grid.stream(messages, timeout=60)
    replies = [next(stream)]
    assert until(lambda: notes(Path({str(tmp_path)!r})), 30), "no message is at work"
    ahead = 86_400.0
    Path({str(tmp_path)!r}, "go on").touch()
    replies += stream
    print([str(r.error) for r in replies if r.has_error()])

flsim.run(server, client, nodes=8, backend={backend!r}, options={{"cpus": 2}}, quiet=True)
"""
    assert python(script, path=[Path(flsim.__file__).parents[1]]) == "[]"


@pytest.mark.parametrize(("how", "code"), [("exit", 5), ("kill", -9), ("segfault", -11)])
def test_on_serial_what_ends_the_process_ends_the_run_with_it(
    how: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # nobody is left to remove the run's folder
    script = f"""
import flsim
from flsim.testing.apps import client
server = flsim.ServerApp()
@server.main()
def main(grid, context):
    plan = flsim.RecordDict({{"plan": flsim.ConfigRecord({{"how": {how!r}}})}})
    grid.send_and_receive([flsim.Message(plan, 2, "query.die")])
    print("it went on")
flsim.run(server, client, nodes=2, backend="serial", quiet=True)
"""
    done = execute(sys.executable, "-c", script)
    assert (done.returncode, done.stdout) == (code, "")


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_client_that_floods_its_output_is_cut_and_has_no_power_over_the_terminal(
    tmp_path: Path, backend: str
) -> None:
    """Two of four nodes print 50 MB each, and all of them binary and the sequences that move a terminal."""
    app = write_app(
        tmp_path / "app",
        """
        @app.train()
        def train(msg, context):
            if context.node_id < 4:
                for i in range(50):
                    print("x" * 999_999)
            print("\\x1b[2J\\x1b]0;title\\x07\\r\\x9b31m\\u202e\\x00FAKE")
            return Message(RecordDict(), reply_to=msg)
        """,
    )
    output, _ = start(app, "--backend", backend).communicate(timeout=60)
    assert "answered 4" in output
    assert len(output) < 1_000_000
    assert "node 5 (partition 3) | �[2J�]0;title" in output
    assert not [c for c in output if not (c.isprintable() or c in "\n")]


def test_a_client_whose_children_flood_their_output_is_cut_and_has_no_power_over_the_terminal(tmp_path: Path) -> None:
    """Of four nodes each has a child that writes 50 MB, and another one that outlives it with its output in hand."""
    skip_without("loky")
    app = write_app(
        tmp_path / "app",
        """
        import subprocess, sys

        FLOOD = r"import os; [os.write(1, b'\\x1b[2J' + b'x' * 999_995 + b'\\n') for i in range(50)]"

        @app.train()
        def train(msg, context):
            subprocess.run([sys.executable, "-c", FLOOD], check=True)
            subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
            return Message(RecordDict(), reply_to=msg)
        """,
    )
    output, _ = start(app, "--backend", "loky").communicate(timeout=60)
    assert "answered 4" in output
    assert "�[2Jxxx" in output
    assert len(output) < 1_000_000
    assert not [c for c in output if not (c.isprintable() or c in "\n")]


def test_the_driver_does_not_grow_with_the_replies_that_a_stream_has_given() -> None:
    script = """
import resource, flsim
from flsim import ClientApp, ConfigRecord, Message, RecordDict, ServerApp

client, server = ClientApp(), ServerApp()

@client.query()
def answer(msg, context):
    return Message(RecordDict({"v": ConfigRecord({"b": bytes(1000)})}), reply_to=msg)

def held():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

@server.main()
def main(grid, context):
    nodes = grid.get_node_ids()
    for nodes in (range(2, 1002), range(1002, 40_002)):
        for reply in grid.stream(Message(RecordDict(), n, "query") for n in nodes):
            assert len(reply.content["v"]["b"]) == 1000
        print(held())

flsim.run(server, client, nodes=40_000, backend="serial", seed=1, quiet=True)
"""
    done = execute(sys.executable, "-c", script)
    assert done.returncode == 0, done.stderr
    before, after = map(int, done.stdout.split())
    assert after - before < 100, f"40,000 replies of 1 kB made the driver grow from {before} to {after} MiB"


def test_a_clientapp_that_kills_every_worker_stops_the_run_with_the_cause() -> None:
    def main(grid: Grid, context: Context) -> None:
        ask(grid, "die", how="exit")

    with pytest.raises(BackendBroken, match=r"10 messages in a row .* code 5"):
        run(checks_client, main, nodes=40)


def write_app(folder: Path, client: str, server: str = "", *, nodes: int = 4, more: str = "") -> Path:
    """An app of a client and a server file; the server asks all nodes once where it says nothing else."""
    folder.mkdir(exist_ok=True)
    (folder / "pyproject.toml").write_text(
        f'[tool.flsim]\nserver = "the_server:app"\nclient = "the_client:app"\nnodes = {nodes}\nseed = 1\n'
    )
    (folder / "the_client.py").write_text(
        "import os, sys, time\nfrom flsim import *\napp = ClientApp()\n"
        + textwrap.dedent(client)
        + textwrap.dedent(more)
    )
    default = """
        @app.main()
        def main(grid, context):
            replies = grid.send_and_receive(Message(RecordDict(), n, "train") for n in grid.get_node_ids())
            print("answered", sum(r.has_content() for r in replies), flush=True)
    """
    (folder / "the_server.py").write_text(
        "import os, sys, time\nfrom flsim import *\napp = ServerApp()\n" + textwrap.dedent(server or default)
    )
    return folder


NOTHING = """
    @app.train()
    def train(msg, context):
        return Message(RecordDict(), reply_to=msg)
"""


# ---- interrupted, from outside


def start(app: Path, *options: str, stdin: int | None = None) -> subprocess.Popen[str]:
    """``flsim run``, in a process group of its own."""
    skip_without("serial" if "serial" in options else "loky")
    command = [sys.executable, "-c", "from flsim.cli import main; main()", "run", str(app), *options]
    return subprocess.Popen(
        command, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Callable[..., tuple[subprocess.Popen[str], list[int]]]]:
    """Starts a run whose ClientApps sleep for minutes, and waits until two of them do."""
    started: list[subprocess.Popen[str]] = []

    def start_it(*options: str, server: str = "") -> tuple[subprocess.Popen[str], list[int]]:
        app = write_app(
            tmp_path / "app",
            f"""
            from flsim.testing.apps import note

            @app.train()
            def train(msg, context):
                note({str(tmp_path)!r}, str(os.getpid()))
                time.sleep(300)
            """,
            server,
        )
        process = start(app, *options)
        started.append(process)
        wanted = 1 if "serial" in options else 2
        _wait_until(lambda: len(notes(tmp_path)) >= wanted or process.poll() is not None, 30)
        assert process.poll() is None, process.communicate()[0]
        return process, [int(pid) for pid in notes(tmp_path)]

    yield start_it
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def _wait_until(true: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.05)  # another process's progress cannot be waited for otherwise


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("whom", ["the terminal's process group", "the driver alone"])
def test_ctrl_c_ends_a_run_within_five_seconds_and_leaves_nothing(
    backend: str, whom: str, running: Callable[..., tuple[subprocess.Popen[str], list[int]]]
) -> None:
    process, workers = running("--backend", backend, "-o", "cpus=2")
    if whom == "the driver alone":
        process.send_signal(signal.SIGINT)
    else:
        os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=5)
    assert process.returncode == 130, output
    assert "interrupted" in output
    assert "Traceback" not in output
    assert not [pid for pid in workers if alive(pid)]


def test_ctrl_c_typed_at_a_terminal_ends_a_run(tmp_path: Path) -> None:
    app = write_app(tmp_path / "app", "@app.train()\ndef train(msg, context): time.sleep(300)\n")
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(sys.executable, [sys.executable, "-c", "from flsim.cli import main; main()", "run", str(app)])
    try:
        seen = b""
        while b"nodes on" not in seen:
            seen += os.read(terminal, 1000)
        os.write(terminal, b"\x03")
        end = time.monotonic() + 5
        while (done := os.waitpid(pid, os.WNOHANG))[0] == 0:
            assert time.monotonic() < end, "Ctrl-C did not end the run within 5 s"
            time.sleep(0.02)  # waitpid takes no timeout
        assert os.waitstatus_to_exitcode(done[1]) == 130
    finally:
        os.close(terminal)


@pytest.mark.parametrize("backend", BACKENDS)
def test_ctrl_c_typed_again_and_again_ends_a_run_and_leaves_nothing(
    backend: str, running: Callable[..., tuple[subprocess.Popen[str], list[int]]]
) -> None:
    process, workers = running("--backend", backend, "-o", "cpus=2")
    while process.poll() is None:
        os.killpg(process.pid, signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.01)
    output, _ = process.communicate(timeout=5)
    assert process.returncode in (130, -signal.SIGINT), output  # the latter where one comes when all is done
    assert "Traceback" not in output
    _wait_until(lambda: not [pid for pid in workers if alive(pid)], 5)
    _wait_until(lambda: not _in_group(process.pid), 5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_sigterm_ends_a_run_with_143_and_leaves_nothing(
    backend: str, running: Callable[..., tuple[subprocess.Popen[str], list[int]]]
) -> None:
    process, workers = running("--backend", backend, "-o", "cpus=2")
    process.terminate()
    output, _ = process.communicate(timeout=5)
    assert process.returncode == 143, output
    assert not [pid for pid in workers if alive(pid)]


def test_the_workers_end_with_a_driver_that_is_killed(
    running: Callable[..., tuple[subprocess.Popen[str], list[int]]],
) -> None:
    process, workers = running("--backend", "loky", "-o", "cpus=2")
    group = process.pid
    process.kill()
    process.wait(timeout=5)
    assert len(workers) == 2
    _wait_until(lambda: not [pid for pid in workers if alive(pid)], 5)
    _wait_until(lambda: not _in_group(group), 5)
    left = set(Path(tempfile.gettempdir()).glob("flsim-run-*"))
    assert left, "a driver that is killed cannot remove its folder, so this test would show nothing"
    run(checks_client, lambda grid, context: None, nodes=1, backend="serial")
    assert not left & set(Path(tempfile.gettempdir()).glob("flsim-run-*")), "the next run sweeps what is left"


def _in_group(group: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:  # it ended meanwhile
            continue
        if int(fields[2]) == group and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_serverapp_that_raises_ends_the_run_with_its_traceback_and_exit_code_1(tmp_path: Path, backend: str) -> None:
    app = write_app(
        tmp_path / "app",
        NOTHING,
        """
        @app.main()
        def main(grid, context):
            grid.send_and_receive([Message(RecordDict(), 2, "train")])
            raise LookupError("no such thing")
        """,
    )
    process = start(app, "--backend", backend)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "LookupError: no such thing" in output
    assert "the_server.py" in output
    assert "engine.py" not in output


def test_a_serverapp_that_returns_while_clientapps_sleep_ends_the_run_at_once(
    running: Callable[..., tuple[subprocess.Popen[str], list[int]]], tmp_path: Path
) -> None:
    mark = tmp_path / "return"
    process, workers = running(
        "--backend",
        "loky",
        "-o",
        "cpus=2",
        server=f"""
        @app.main()
        def main(grid, context):
            grid.push_messages(Message(RecordDict(), n, "train") for n in grid.get_node_ids())
            while not os.path.exists({str(mark)!r}):
                time.sleep(0.01)  # the test says by a file when to return
        """,
    )
    mark.touch()
    output, _ = process.communicate(timeout=5)
    assert "4 CANCELLED" in output
    assert not [pid for pid in workers if alive(pid)]


def test_a_hang_in_c_that_holds_the_gil_does_not_keep_a_run_from_ending(tmp_path: Path) -> None:
    app = ClientApp()
    calls = str(tmp_path)

    @app.train()
    def train(msg: Message, context: Context) -> Message:
        note(calls)
        ctypes.PyDLL(None).sleep(300)
        raise AssertionError("it woke")

    def main(grid: Grid, context: Context) -> None:
        grid.push_messages([Message(RecordDict(), 2, "train")])
        _wait_until(lambda: len(notes(tmp_path)) == 1, 30)

    assert run(app, main, nodes=1).counts["train"].errors == {"CANCELLED": 1}
    assert not children()

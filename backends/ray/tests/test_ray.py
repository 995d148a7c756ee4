"""The Ray backend keeps the contract, on a cluster of its own and on one that runs, and does what only it does.

The contract is checked in full on a cluster that runs, which takes a connection in a moment. A cluster of this host
takes five seconds to start, so on one are checked the clauses that the other cannot show.
"""

import contextlib
import json
import logging
import os
import signal
import socket
import stat
import subprocess
import sys
import sysconfig
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from flsim_ray.plugin import SPEC

import flsim
from flsim import ClientApp, ConfigRecord, Context, Grid, Message, RecordDict, RunResult, ServerApp
from flsim.errors import BackendBroken, Cause, ConfigError, WorkerLost
from flsim.options import make_options
from flsim.resources import Resources
from flsim.testing import CHECKS, BackendContract, Subject
from flsim.testing.apps import client as checks_client
from flsim.testing.apps import held, notes
from flsim.testing.checks import Check
from flsim.testing.watch import alive, children, kill, until

# ---- options


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"address": "ray://10.0.0.1:10001"}, "Run flsim on a host of the cluster"),
        ({"address": "local"}, "one of this host is started"),
        ({"address": "auto", "cpus": 2.0, "gpus": 1}, "cpus and gpus are for a cluster of this host"),
        ({"cpus": 1.5}, "in whole ones"),
        ({"cpus": 0.0}, "more than zero"),
        ({"gpus": -1}, "gpus is zero or more"),
        ({"wait": -1.0}, "wait is zero seconds or more"),
    ],
)
def test_options_that_ray_does_not_take_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make_options(SPEC, options)


def test_a_cluster_that_nobody_runs_is_an_error_at_once() -> None:
    with pytest.raises(BackendBroken, match=r"no Ray cluster at address=127\.0\.0\.1:1: .*ray start --head"):
        run(lambda grid, context: None, address="127.0.0.1:1")


def test_ray_is_imported_by_nothing_but_a_run_on_ray() -> None:
    script = """
import sys
import flsim
from flsim.cli.app import app
from flsim.testing.apps import client
server = flsim.ServerApp()
server.main()(lambda grid, context: None)
flsim.run(server, client, nodes=2, backend="serial", quiet=True)
app(["backends"], standalone_mode=False)
sys.exit("ray" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "flsim-ray" in done.stdout


# ---- a cluster that runs

SCRIPTS = sysconfig.get_path("scripts")
TOKEN = "0123456789abcdef" * 2


@dataclass(frozen=True)
class Head:
    """What ``ray start --head`` has started, on 127.0.0.1. It is nobody's child."""

    address: str
    folder: str

    def processes(self) -> list[psutil.Process]:
        told = [p for p in psutil.process_iter(["cmdline"]) if self.folder in " ".join(p.info["cmdline"] or ())]
        return [q for p in told for q in (p, *p.children(recursive=True))]

    def pid(self, name: str) -> int:
        return next(int(p.pid) for p in self.processes() if p.name() == name)

    def end(self) -> None:
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


@contextlib.contextmanager
def running_head() -> Iterator[Head]:
    with tempfile.TemporaryDirectory(prefix="r-", ignore_cleanup_errors=True) as folder:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        head = Head(f"127.0.0.1:{port}", folder)
        command = [
            *(f"{SCRIPTS}/ray", "start", "--head", f"--port={port}", "--num-cpus=2"),
            *("--node-ip-address=127.0.0.1", "--include-dashboard=false", f"--temp-dir={folder}"),
        ]
        try:
            # As on another host: in another directory, with another HOME and TMPDIR. What its workers unpack there
            # stays until the next that unpacks something sweeps it, since Ray ends workers without their atexit.
            environment = os.environ | {"TMPDIR": folder, "HOME": folder}
            quiet: Any = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
            subprocess.run(command, check=True, env=environment, cwd=folder, **quiet)
            yield head
        finally:
            head.end()


@pytest.fixture(scope="module")
def environment() -> Iterator[None]:
    """What the user of a cluster with a token has set, and what keeps this one on 127.0.0.1."""
    with pytest.MonkeyPatch.context() as patch, tempfile.NamedTemporaryFile("w") as token:
        token.write(TOKEN)
        token.flush()
        patch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN_PATH", token.name)
        yield


@pytest.fixture(scope="module")
def head(environment: None) -> Iterator[Head]:
    with running_head() as head:
        yield head


class TestContractOnARunningCluster(BackendContract):
    @pytest.fixture
    def subject(self, head: Head) -> Subject:
        return Subject(SPEC, {"address": head.address, "wait": 5.0})


def run(
    main: Callable[[Grid, Context], None],
    client: ClientApp = checks_client,
    *,
    nodes: int = 20,
    resources: Resources | None = None,
    backend: str = "ray",
    **options: Any,
) -> RunResult:
    server = ServerApp()
    server.main()(main)
    return flsim.run(
        server, client, nodes=nodes, backend=backend, options=options, resources=resources, seed=7, quiet=True
    )


def plan(**values: Any) -> RecordDict:
    return RecordDict({"plan": ConfigRecord(values)})


def draw(grid: Grid, context: Context) -> None:
    for k in range(2):
        for reply in grid.stream(Message(plan(), n, "query.draw") for n in grid.get_node_ids()):
            context.state[f"{reply.metadata.src_node_id} {k}"] = reply.content["arrays"]


def test_a_running_cluster_gives_the_digest_of_serial_and_runs_on(head: Head) -> None:
    before = head.pid("gcs_server"), head.pid("raylet")
    assert run(draw, address=head.address).digest == run(draw, backend="serial").digest
    assert (head.pid("gcs_server"), head.pid("raylet")) == before
    assert run(draw, address=head.address).answered == 40


def test_the_cluster_of_this_host_is_found_by_auto(head: Head, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", head.address)
    assert run(draw, nodes=2, address="auto").answered == 4


DISCONNECTS = """
import sys, flsim
from flsim import ClientApp, Message, RecordDict, ServerApp
server, client = ServerApp(), ClientApp()
@client.query()
def answer(msg, context):
    if context.node_id == 3:
        import atexit, ray
        atexit.register(sys.exit, 7)
        ray.shutdown()
    return Message(RecordDict(), reply_to=msg)
@server.main()
def main(grid, context):
    for _ in range(2):
        replies = grid.send_and_receive(Message(RecordDict(), n, "query") for n in grid.get_node_ids())
        errors = [r for r in replies if r.has_error()]
        assert not [r for r in errors if r.metadata.src_node_id != 3], errors
result = flsim.run(server, client, nodes=12, backend="ray", options={"address": sys.argv[1]}, quiet=True)
print(result.answered >= 22)
"""


def test_a_clientapp_that_shuts_ray_down_costs_no_other_message(head: Head) -> None:
    """And a script on stdin, without a guard, runs what it defines."""
    command = [sys.executable, "-", head.address]
    done = subprocess.run(command, input=DISCONNECTS, capture_output=True, text=True, check=False, timeout=100)
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr


def test_large_arrays_are_read_in_place_on_both_sides(head: Head) -> None:
    import numpy as np

    from flsim import ArrayRecord

    client = ClientApp()

    @client.query("double")
    def double(msg: Message, context: Context) -> Message:
        array = msg.content["arrays"]["w"]
        assert not array.flags.owndata
        assert not array.flags.writeable
        return Message(RecordDict({"arrays": ArrayRecord({"w": array * 2})}), reply_to=msg)

    def main(grid: Grid, context: Context) -> None:
        content = RecordDict({"arrays": ArrayRecord({"w": np.arange(1_000_000)})})
        for reply in grid.stream(Message(content, n, "query.double") for n in grid.get_node_ids()):
            array = reply.content["arrays"]["w"]
            assert not array.flags.owndata
            assert array.sum() == 999_999_000_000

    assert run(main, client, nodes=10, address=head.address).answered == 10


@pytest.mark.skipif(sys.platform != "linux", reason="the system does not tell how much of the store is in memory")
def test_the_driver_has_no_memory_of_what_it_has_shared(head: Head) -> None:
    import numpy as np

    from flsim import ArrayRecord

    def shared() -> int:
        """Bytes of shared memory that this process has touched."""
        (line,) = (s for s in Path("/proc/self/status").read_text().splitlines() if s.startswith("RssShmem"))
        return int(line.split()[1]) * 1024

    client = ClientApp()

    @client.query("sum")
    def sum_(msg: Message, context: Context) -> Message:
        return Message(RecordDict({"v": ConfigRecord({"sum": float(msg.content["arrays"]["w"].sum())})}), reply_to=msg)

    def main(grid: Grid, context: Context) -> None:
        before = shared()
        for round in range(3):
            content = RecordDict({"arrays": ArrayRecord({"w": np.full(5_000_000, float(round))})})
            replies = grid.send_and_receive(Message(content, n, "query.sum") for n in grid.get_node_ids())
            assert [r.content["v"]["sum"] for r in replies] == [5e6 * round] * 4
            assert shared() - before < 20e6, "the model of 40 MB counts to the driver"

    assert run(main, client, nodes=4, address=head.address).answered == 12


def test_a_place_that_is_gone_fails_a_lease_as_not_started(head: Head) -> None:
    with Subject(SPEC, {"address": head.address}).desk() as desk:
        place = desk.start().place()
        gone = type(place)("gone", place.resources, place.leases)
        error = desk.submit("echo", place=gone).exception(0)
        assert isinstance(error, WorkerLost)
        assert error.cause is Cause.NOT_STARTED


def test_a_lease_whose_need_no_host_has_any_more_is_lost_with_its_host(head: Head, tmp_path: Path) -> None:
    with Subject(SPEC, {"address": head.address}).desk() as desk:
        desk.start()
        future = desk.submit("begin", seconds=600.0, folder=str(tmp_path))
        assert until(lambda: len(notes(tmp_path)) == 1, 30)
        desk.backend._watcher.places = {}  # type: ignore[attr-defined]  # what a watcher sees when the last host leaves
        assert desk.backend.capacity() == []
        error = future.exception(0)
        assert isinstance(error, WorkerLost)
        assert error.cause is Cause.LEFT
        assert until(lambda: not alive(int(notes(tmp_path)[0])), 5)


def test_two_runs_at_once_in_one_process_are_an_error_that_says_so(head: Head) -> None:
    def main(grid: Grid, context: Context) -> None:
        with pytest.raises(BackendBroken, match="one connection per process"):
            run(draw, address=head.address)
        draw(grid, context)

    assert run(main, address=head.address).answered == 40


def test_a_run_may_be_started_from_a_thread(head: Head) -> None:
    results: list[RunResult] = []
    thread = threading.Thread(target=lambda: results.append(run(draw, address=head.address)))
    thread.start()
    thread.join()
    assert results[0].digest == run(draw, backend="serial").digest


def test_a_process_that_is_connected_keeps_its_connection_and_a_run_uses_it(head: Head, tmp_path: Path) -> None:
    import ray
    from flsim_ray.private import reread_environment

    reread_environment()  # for this test alone: Ray may have been imported before the environment was set
    ray.init(address=head.address, log_to_driver=False, logging_level=logging.CRITICAL)
    handler = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(ConfigError, match=r"connected to Ray at .* already"):
            run(draw, address=head.address)

        def main(grid: Grid, context: Context) -> None:
            draw(grid, context)
            held = plan(seconds=600.0, folder=str(tmp_path))
            grid.push_messages([Message(held, 2, "query.begin")])
            assert until(lambda: len(notes(tmp_path)) == 1, 30)

        assert run(main).answered == 40
        assert ray.is_initialized()
        assert until(lambda: not alive(int(notes(tmp_path)[0])), 5), "what was at work runs on"
        assert signal.getsignal(signal.SIGTERM) is handler
    finally:
        ray.shutdown()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def test_a_cluster_without_its_gcs_breaks_the_run(environment: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flsim_ray.nodes.GCS_PATIENCE", 2.0)
    with running_head() as head:

        def main(grid: Grid, context: Context) -> None:
            grid.push_messages(Message(plan(seconds=600.0, folder="/"), n, "query.hold") for n in grid.get_node_ids())
            kill(head.pid("gcs_server"))
            grid.pull_messages(timeout=60)

        with pytest.raises(BackendBroken, match=r"the GCS .* has not answered .*refused.* Start it again"):
            run(main, address=head.address)


def test_a_node_that_joins_gets_work_and_one_that_is_killed_costs_no_message(environment: None) -> None:
    script = Path(__file__).with_name("two_nodes.py")
    found = json.loads(subprocess.run([sys.executable, script], stdout=subprocess.PIPE, check=True).stdout)
    assert found["sent"] == found["answered"] == found["distinct"]
    assert found["errors"] == {}
    assert len(found["by raylet"]) == 2


# ---- a cluster of this host

ON_THIS_HOST = {  # checks that come to something else there than on a cluster that is joined
    "no_place_has_more_than_the_options_give",
    "a_custom_resource_is_never_given_out_twice",
    "a_clientapp_sees_the_gpus_that_it_has_and_no_others",
    "stop_may_be_called_twice_and_leaves_no_thread_and_no_process",
    "stop_ends_the_workers_also_at_work",
    "what_start_started_ends_with_a_driver_that_is_killed",
    "nothing_listens_beyond_this_host",
    "what_is_secret_is_in_no_file_no_argument_and_no_output",
    "a_script_without_a_guard_and_the_cells_of_a_notebook_run_what_they_define",
}


NAMED = {check.name: check for check in CHECKS}


class TestContractOnThisHost(BackendContract):
    @pytest.fixture
    def subject(self) -> Subject:
        # `flsim check ray` waits for the minute that Ray's agents linger.
        return Subject(SPEC, {"cpus": 2.0}, linger=False)

    @pytest.mark.timeout(240)  # the agents are waited for
    @pytest.mark.parametrize("check", [pytest.param(NAMED[name], id=name) for name in sorted(ON_THIS_HOST)])
    def test_clause(self, subject: Subject, check: Check) -> None:
        super().test_clause(subject, check)


def test_a_cluster_of_this_host_gives_the_digest_of_serial_and_leaves_the_process_as_it_was() -> None:
    import ray  # which sets RAY_CLIENT_MODE=0

    def here() -> tuple[Any, ...]:
        return dict(os.environ), signal.getsignal(signal.SIGTERM), ray.is_initialized()

    serial = run(draw, backend="serial").digest  # and whatever else is imported for a run
    before = here()

    def main(grid: Grid, context: Context) -> None:
        assert here()[:2] == before[:2]
        draw(grid, context)

    assert run(main, cpus=1).digest == serial
    assert here() == before


def test_a_clientapp_that_needs_no_gpu_sees_none(tmp_path: Path) -> None:
    def main(grid: Grid, context: Context) -> None:
        asked = plan(seconds=0.0, folder=str(tmp_path))
        grid.send_and_receive(Message(asked, n, "query.hold") for n in grid.get_node_ids())

    run(main, nodes=2, cpus=1, gpus=1)
    assert [call["gpus"] for call in held(tmp_path)] == ["", ""]


STRANGER = """
import sys, ray
try:
    ray.init(address=sys.argv[1], logging_level="CRITICAL")
except Exception as e:
    sys.exit(f"refused: {e!r}")
"""


def test_a_stranger_on_this_host_is_refused(tmp_path: Path) -> None:
    """Without a token, and with another one."""
    with Subject(SPEC, {"cpus": 1.0}).desk() as desk:
        desk.start()
        assert stat.S_IMODE(desk.info.folder.stat().st_mode) == 0o700
        assert stat.S_IMODE((desk.info.folder / "token").stat().st_mode) == 0o600
        import ray

        address = ray.get_runtime_context().gcs_address
        env = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
        env |= {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_NUM_REDIS_GET_RETRIES": "1"}
        wrong = tmp_path / "token"
        wrong.write_text(TOKEN)
        for more in ({}, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(wrong)}):
            stranger = subprocess.run(
                [sys.executable, "-c", STRANGER, address], env=env | more, capture_output=True, text=True, check=False
            )
            assert stranger.returncode == 1
            assert "refused" in stranger.stderr
            assert "InvalidAuthToken" in stranger.stderr
        assert desk.answer("echo").error is None


def test_a_cluster_of_this_host_starts_also_with_a_long_tmpdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = tmp_path / ("long" * 20)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    left = tempfile.mkdtemp(prefix="flsim-ray-", dir="/tmp")  # as by a driver that was killed
    assert run(draw, nodes=2, cpus=1).answered == 4
    assert not Path(left).exists()


@pytest.mark.parametrize("how", ["SIGTERM", "SIGINT", "SIGINT again and again"])
def test_a_signal_to_the_process_group_ends_a_run_and_leaves_nothing(tmp_path: Path, how: str) -> None:
    app = tmp_path / "app.py"
    app.write_text(
        "from flsim import *\nfrom flsim.testing.apps import client, plan\n"
        "server = ServerApp()\n@server.main()\ndef main(grid, context):\n"
        f"    held = RecordDict({{'plan': ConfigRecord({{'seconds': 600.0, 'folder': {str(tmp_path)!r}}})}})\n"
        "    grid.send_and_receive(Message(held, n, 'query.begin') for n in grid.get_node_ids())\n"
    )
    command = [f"{SCRIPTS}/flsim", "run", str(app), "--backend", "ray", "-o", "cpus=1", "--no-record"]
    environment = dict(os.environ)
    if how.endswith("again"):  # its folder may be left to the next run to remove
        environment["TMPDIR"] = tempfile.mkdtemp(prefix="t-")
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True, env=environment
    ) as process:
        assert until(lambda: len(notes(tmp_path)) == 1, 60)
        pids = children(process.pid)
        os.killpg(process.pid, signal.SIGTERM if how == "SIGTERM" else signal.SIGINT)
        while how.endswith("again") and process.poll() is None:
            os.killpg(process.pid, signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.01)
        output, _ = process.communicate(timeout=5)
    if how.endswith("again"):
        assert process.returncode in (130, -signal.SIGINT), output  # the latter where one comes when all is done
        assert "Traceback" not in output
    else:
        code, said = (143, "terminated") if how == "SIGTERM" else (130, "interrupted")
        assert process.returncode == code, output
        assert said in output
    assert until(lambda: not any(map(alive, pids)), 5 if how.endswith("again") else 1)

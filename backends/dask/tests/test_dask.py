# mypy: untyped-calls-exclude="distributed"
"""The Dask backend, on a cluster of its own and on clusters that run already."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask
import distributed
import pytest
from distributed.core import Status
from distributed.security import Security
from flsim_dask.connection import Connection
from flsim_dask.plugin import SPEC

import flsim
from flsim import stall
from flsim.apps import Context, ServerApp
from flsim.errors import BackendBroken, Cause, ConfigError, UnsupportedResources, WorkerLost
from flsim.events import Announced, Event
from flsim.fleet import Kind
from flsim.grid import Grid
from flsim.message import Message
from flsim.options import make_options
from flsim.plan import Plan
from flsim.project import Project
from flsim.records import ConfigRecord, RecordDict
from flsim.resources import Resources
from flsim.testing import CHECKS, BackendContract, Desk, Subject
from flsim.testing.apps import client, held, notes
from flsim.testing.checks import Check
from flsim.testing.watch import alive, children, command, listening, until
from flsim_serial.plugin import flsim_backends as serial

if TYPE_CHECKING:
    from conftest import Cluster

# ---- the contract

LOCAL = Subject(SPEC, {"cpus": 3}, variants=[{"cpus": 1}])


ON_THIS_HOST = {  # checks that come to something else there than on a cluster that is joined, or are about leases
    "each_lease_comes_back_once",
    "a_dead_worker_fails_its_future_with_worker_lost",
    "what_an_app_raises_or_returns_never_fails_the_future",
    "a_death_costs_no_other_lease",
    "a_process_runs_one_lease_at_a_time",
    "a_dead_worker_is_replaced_before_it_is_offered_work",
    "a_worker_killed_while_idle_charges_nobody",
    "a_message_that_hangs_ends_its_worker_at_its_time_limit",
    "nothing_draws_from_the_generators_beside_a_call",
    "a_message_that_ends_its_worker_is_tried_once_more_and_costs_nobody_else",
    "a_clientapp_that_leaves_no_file_to_open_costs_nobody_else",
    "no_place_has_more_than_the_options_give",
    "a_custom_resource_is_never_given_out_twice",
    "a_message_that_takes_more_memory_than_it_may_ends_its_worker",
    "a_clientapp_sees_the_gpus_that_it_has_and_no_others",
    "blas_has_the_threads_of_the_need",
    "stop_may_be_called_twice_and_leaves_no_thread_and_no_process",
    "models_arrive_whole_and_read_only",
    "a_model_outlives_the_worker_that_had_it",
    "stop_ends_the_workers_also_at_work",
    "abort_ends_a_lease_and_its_worker_is_replaced",
    "abort_ends_a_worker_that_does_not_run_at_all",
    "a_worker_that_something_else_kills_says_what_it_held",
    "what_start_started_ends_with_a_driver_that_is_killed",
    "a_worker_that_grows_is_replaced_between_messages",
    "the_result_is_that_of_any_number_of_workers",
    "deaths_do_not_change_the_result",
    "nothing_listens_beyond_this_host",
    "what_is_secret_is_in_no_file_no_argument_and_no_output",
    "a_script_without_a_guard_and_the_cells_of_a_notebook_run_what_they_define",
    "a_clientapp_may_start_processes",
    "what_a_clientapp_has_started_ends_with_its_worker",
}


NAMED = {check.name: check for check in CHECKS}


class TestContractOnThisHost(BackendContract):
    @pytest.fixture
    def subject(self) -> Subject:
        return LOCAL

    @pytest.mark.parametrize("check", [pytest.param(NAMED[name], id=name) for name in sorted(ON_THIS_HOST)])
    def test_clause(self, subject: Subject, check: Check) -> None:
        super().test_clause(subject, check)


class TestJoinedContract(BackendContract):
    @pytest.fixture
    def subject(self, cluster: Cluster) -> Iterator[Subject]:
        # As its owner has set it up: a local cluster is told otherwise.
        known = {"a_clientapp_may_start_processes": "Dask's workers are daemons by default, which may have no children"}
        yield replace(joined(cluster), known=known)
        cluster.settle()


# ---- on a cluster that runs already


def test_a_joined_cluster_gives_the_digest_of_serial(cluster: Cluster) -> None:
    server = ServerApp()

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        replies = grid.send_and_receive(Message(RecordDict(), n, "query.draw") for n in grid.get_node_ids())
        context.state["arrays"] = replies[-1].content["arrays"]
        context.state["about"] = replies[0].content["about"]

    ours = joined(cluster).run(server)
    assert ours.answered == ours.sent == 20
    assert ours.digest == Subject(serial()[0]).run(server).digest


def test_places_are_workers_with_their_threads_memory_and_resources(cluster: Cluster) -> None:
    with joined(cluster).desk() as desk:
        desk.start()
        places = sorted(desk.backend.capacity(), key=lambda p: p.resources.cpus)
        assert [p.resources.cpus for p in places] == [1, 1, 2]
        assert [dict(p.resources.custom) for p in places] == [{}, {}, {"licence": 1}]
        assert all(p.leases == 1 and p.resources.memory > 0 and p.name.startswith("tcp://127.0.0.1:") for p in places)


def test_a_custom_resource_is_found_where_it_is(cluster: Cluster, tmp_path: Path) -> None:
    def run(amount: float) -> None:
        need = Resources(custom={"licence": amount})
        joined(cluster).run(hold_all, kinds=[Kind("licensed", client, 4, need)], config=plan(tmp_path, 0.0))

    run(1)
    assert len(pids(tmp_path)) == 1, "leases ran where there is no licence"
    with pytest.raises(UnsupportedResources, match="2 licence"):
        run(2)


@pytest.mark.parametrize("how", ["killed with its nanny", "retired"])
def test_a_worker_that_goes_in_mid_run_costs_no_reply(other: Cluster, tmp_path: Path, how: str) -> None:
    other.start(("--nthreads", "1"), ("--nthreads", "1"))

    def go() -> None:
        if how == "retired":
            with other.client() as client:
                client.retire_workers(list(client.scheduler_info(n_workers=-1)["workers"])[:1])
        else:
            other.kill(other.processes[-1])

    result = joined(other).run(during(lambda: len(notes(tmp_path)) > 4, go), config=plan(tmp_path, 0.05))
    assert (result.sent, result.answered) == (20, 20)
    assert len(notes(tmp_path)) >= 20


def test_a_cluster_that_shrinks_and_grows_gives_the_digest_of_one_that_stays(other: Cluster, tmp_path: Path) -> None:
    """And while no worker is left that has what a message needs, the report says so."""
    other.start(("--nthreads", "1", "--resources", "licence=1"), ("--nthreads", "1"))
    kinds = [Kind("licensed", client, 6, Resources(custom={"licence": 1})), Kind("other", client, 6)]

    def server(change: Callable[[int], None]) -> ServerApp:
        made = ServerApp()

        @made.main()
        def main(grid: Grid, context: Context) -> None:
            asked = RecordDict({"plan": ConfigRecord(plan(tmp_path, 0.05))})
            nodes = grid.get_node_ids()
            for part, some in enumerate((nodes[:3], nodes[3:])):
                for reply in grid.stream(Message(asked, n, "query.work") for n in some):
                    context.state[str(len(context.state))] = reply.content["values"]
                change(part)

        return made

    def change(part: int) -> None:
        if part == 0:
            other.kill(other.processes[1])  # the one that has the licence
            threading.Timer(2.0, other.add, ("--nthreads", "1", "--resources", "licence=1")).start()

    told = Announcements()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stall, "AFTER", 0.5)
        project = Project("app", server(change), tuple(kinds), declared=False)
        changed = Plan(project, SPEC, make_options(SPEC, {"scheduler": other.address}), 7).run([told])
    stayed = Subject(serial()[0], {"cpus": 1, "custom": {"licence": 1.0}}).run(server(lambda i: None), kinds=kinds)
    assert changed.answered == 12
    assert changed.digest == stayed.digest
    assert any("which fit nowhere" in text and "licence" in text for text in told.texts), told.texts


class Announcements:
    """Keeps what the user is told."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def on(self, events: Sequence[Event]) -> None:
        self.texts += [e.text for e in events if isinstance(e, Announced)]

    def close(self) -> None:
        pass


def test_a_worker_with_other_versions_is_refused_with_what_differs(
    other: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "sitecustomize.py").write_text(
        "from importlib import metadata\nreal = metadata.version\n"
        "metadata.version = lambda name: '0.0.1' if name == 'flsim-engine' else real(name)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "old"))
    other.start(("--nthreads", "1"))
    with pytest.raises(BackendBroken, match=r"worker .*: flsim-engine is 0\.0\.1, here "):
        joined(other).run(echo_all)


DISCONNECTS = """
import atexit, sys
from flsim import ClientApp, Message, RecordDict, ServerApp
server, client = ServerApp(), ClientApp()
@client.query()
def answer(msg, context):
    if context.node_id == 3:
        from distributed import get_client
        atexit.register(sys.exit, 7)
        get_client().close()
    return Message(RecordDict(), reply_to=msg)
@server.main()
def main(grid, context):
    for _ in range(2):
        replies = grid.send_and_receive(Message(RecordDict(), n, "query") for n in grid.get_node_ids())
        assert not [r for r in replies if r.has_error() and r.metadata.src_node_id != 3], replies
"""


def test_a_clientapp_that_closes_the_client_of_its_worker_costs_no_other_message(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(DISCONNECTS)
    result = flsim.run(tmp_path / "app.py", nodes=12, backend="dask", options={"cpus": 2}, quiet=True)
    assert result.answered >= 22


def test_workers_that_join_are_waited_for_at_the_start_and_get_work_later(other: Cluster, tmp_path: Path) -> None:
    other.start()
    server = during(lambda: len(pids(tmp_path)) == 1, other.add, lambda: len(pids(tmp_path)) == 2)
    other.add()
    patient = Subject(SPEC, {"scheduler": other.address})  # a busy host takes a while to start a worker
    result = patient.run(server, config=plan(tmp_path, 0.05))
    assert len(pids(tmp_path)) == 2
    assert result.answered == result.sent


def test_a_run_leaves_the_cluster_as_it_was(cluster: Cluster) -> None:
    def state(dask_scheduler: Any) -> dict[str, Any]:
        return {
            "workers": sorted(dask_scheduler.workers),
            "plugins": sorted(dask_scheduler.plugins),
            "worker plugins": sorted(dask_scheduler.worker_plugins),
            "tasks": sorted(dask_scheduler.tasks),
            "clients of flsim": [c for c in dask_scheduler.clients if "flsim" in c],
            "allowed failures": dask_scheduler.allowed_failures,
            # Any Dask client leaves its id in the two topics by which distributed.print and distributed.warn reach it.
            "topics of flsim": [
                name
                for name, topic in dask_scheduler._broker._topics.items()
                if name not in ("print", "warn") and any("flsim" in s for s in topic.subscribers)
            ],
        }

    with cluster.client() as client:
        before = client.run_on_scheduler(state)
        assert joined(cluster).run(echo_all).answered == 20
        assert until(lambda: client.run_on_scheduler(state) == before, 5)


def test_a_scheduler_that_dies_in_mid_run_breaks_the_run_at_once(other: Cluster, tmp_path: Path) -> None:
    other.start(("--nthreads", "1"))
    with joined(other).desk() as desk:
        place = desk.start().place()
        future = desk.submit("hold", seconds=600.0, folder=str(tmp_path))
        other.kill(other.processes[0])
        with pytest.raises(BackendBroken, match=rf"the Dask scheduler at {other.address} went away. Start it again"):
            future.result(5)
        with pytest.raises(BackendBroken, match="went away"):
            desk.submit("echo", place=place).result(1)


def test_a_scheduler_that_dies_while_nothing_is_at_work_is_noticed(other: Cluster) -> None:
    other.start()
    changed = threading.Event()
    with joined(other).desk() as desk:
        desk.info = replace(desk.info, changed=changed.set)
        assert desk.start().backend.capacity() == []
        other.kill(other.processes[0])
        assert changed.wait(10)
        with pytest.raises(BackendBroken, match="went away"):
            desk.backend.capacity()


def test_a_worker_that_pauses_takes_no_leases_until_it_runs_again(other: Cluster) -> None:
    def become(status: Status) -> Callable[..., None]:
        return lambda dask_worker: setattr(dask_worker, "status", status)

    # Without a limit of memory it does not watch its own, which would wake it up.
    other.start(("--nthreads", "1", "--memory-limit", "0"))
    with joined(other).desk() as desk, other.client() as client:
        place = desk.start().place()
        assert place.resources.memory == 0
        client.run(become(Status.paused))
        lost = desk.submit("echo", place=place).exception(5)
        assert isinstance(lost, WorkerLost)
        assert lost.cause is Cause.LEFT
        assert until(lambda: not desk.backend.capacity(), 5)
        client.run(become(Status.running))
        assert until(lambda: place in desk.backend.capacity(), 5)
        assert desk.answer("echo", place=place).error is None


def test_two_runs_on_one_cluster_do_not_share_a_process_at_the_same_time(cluster: Cluster, tmp_path: Path) -> None:
    with joined(cluster).desk(Resources(cpus=2)) as one, joined(cluster).desk(Resources(cpus=2)) as two:
        futures = []
        for desk in (one, two):
            place = next(p for p in desk.start().backend.capacity() if p.resources.cpus == 2)
            futures.append(desk.submit("hold", place=place, seconds=0.3, folder=str(tmp_path)))
        for future in futures:
            assert one.outcome(future).error is None
    first, second = held(tmp_path)
    assert first["pid"] == second["pid"]
    assert first["ended"] <= second["begun"]


def test_what_is_shared_goes_to_each_worker_once_and_what_a_lease_carries_alone_goes_with_it(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[int] = []
    scatter: Any = distributed.Client.scatter

    def counted(self: distributed.Client, data: list[list[Any]], **options: Any) -> Any:
        sent.extend(array.nbytes for arrays in data for array in arrays)
        return scatter(self, data, **options)

    monkeypatch.setattr(distributed.Client, "scatter", counted)
    with joined(cluster).desk() as desk:
        desk.start()
        assert desk.backend.share([memoryview(bytes(1000))], 2) is None
        shared = desk.backend.share([memoryview(bytes(1_000_000)), memoryview(bytes(5000))], 2)
        assert shared is not None
        frames = desk.frames("echo", text="x" * 3_000_000)
        frames.buffers.extend([shared, b"small", shared])
        places = desk.places(2)
        for place in [*places, *places]:
            reply = desk.backend.submit(frames, desk.need, place)
            assert desk.outcome(reply).error is None
        shared.close()
    assert sorted(sent) == sorted([*2 * [1_000_000, 5000], *4 * [len(frames.header)]])


def test_a_lease_that_waits_behind_others_is_withdrawn_by_an_abort(cluster: Cluster) -> None:
    with joined(cluster).desk() as desk, cluster.client() as client:
        place = desk.start().place()
        foreign = client.submit(time.sleep, 1, workers=[place.name], pure=False)
        future = desk.submit("echo", place=place)
        desk.backend.abort(future)
        assert aborted(future)
        assert not future.running()
        assert foreign.result() is None, "the worker was killed, and it was at a task of others"


def test_a_worker_without_a_nanny_is_left_alone_by_an_abort(other: Cluster, tmp_path: Path) -> None:
    other.start(("--nthreads", "1", "--no-nanny"))
    with joined(other).desk() as desk:
        desk.start()
        future = at_work(desk, tmp_path)
        desk.backend.abort(future)
        assert aborted(future)
        assert desk.backend.capacity() == []
        with other.client() as client:
            assert len(client.scheduler_info(n_workers=-1)["workers"]) == 1


def test_a_cluster_with_tls_is_joined_by_dasks_own_files(other: Cluster, tmp_path: Path) -> None:
    security: Any = Security.temporary()
    other.security = security
    texts = {
        "ca-file": security.tls_ca_file,
        "cert": security.tls_client_cert,
        "key": security.tls_client_key,
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
        other.tls += (f"--tls-{name}", str(tmp_path / name))
    other.start(("--nthreads", "1"))
    names = {"tls_ca_file": "ca-file", "tls_client_cert": "cert", "tls_client_key": "key"}
    options = {"scheduler": other.address} | {option: str(tmp_path / name) for option, name in names.items()}
    assert Subject(SPEC, options).run(echo_all).answered == 20


def test_a_cluster_without_flsim_dask_says_what_to_install(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "only_here.py").write_text("def run(*arguments): ...")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr("flsim_dask.worker.run", importlib.import_module("only_here").run)
    with joined(cluster).desk() as desk:
        future = desk.start().submit("echo")
        with pytest.raises(BackendBroken, match="need flsim-dask as it is here: pip install flsim-dask"):
            future.result(10)


def test_a_scheduler_that_is_not_there_says_how_to_start_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flsim_dask.connection.PATIENCE", 0.2)
    with (
        Subject(SPEC, {"scheduler": "tcp://127.0.0.1:9"}).desk() as desk,
        pytest.raises(BackendBroken, match=r"tcp://127.0.0.1:9 cannot be joined: .*\n.* dask scheduler"),
    ):
        desk.start()


# ---- on a cluster of its own


@pytest.fixture(scope="module")
def local() -> Iterator[Desk]:
    """A local cluster, with two workers."""
    with Subject(SPEC, {"cpus": 2}).desk() as desk:
        yield desk.start()


def test_a_local_cluster_listens_on_loopback_alone_and_the_driver_on_nothing(local: Desk) -> None:
    assert not listening({os.getpid()})
    found = listening(of_local())
    assert len(found) >= 5
    assert {address.split()[0] for address in found} == {"127.0.0.1"}


def test_a_local_cluster_refuses_strangers(local: Desk, tmp_path: Path) -> None:
    other: Any = Security.temporary()  # a certificate, and another one than the cluster's
    certificate = tmp_path / "other.pem"
    certificate.write_text(other.tls_client_cert + other.tls_client_key)
    for address in listening(of_local()):
        host, port = address.split()
        for shown in (None, certificate):
            assert is_closed_to_strangers(host, port, shown), f"{address} talks to strangers with certificate {shown}"
    with pytest.raises(OSError, match="certificate"):
        Connection(local.place().name, other, None)


def test_a_worker_that_cannot_be_called_is_ended_and_replaced(tmp_path: Path) -> None:
    with Subject(SPEC, {"cpus": 1}).desk() as desk:
        held, place = at_work(desk.start(), tmp_path), desk.places(1)[0]
        connection = desk.backend._connection  # type: ignore[attr-defined]
        connection.loop.call_soon_threadsafe(connection.client.rpc.remove, place.name)  # breaks what there is to it
        with pytest.raises(WorkerLost, match=f"worker {place.name} died") as lost:
            desk.result(held)
        assert lost.value.cause is Cause.UNKNOWN
        assert desk.answer("echo").error is None


def test_a_worker_that_dies_before_its_actor_is_made_leaves_nothing_of_its_lease(tmp_path: Path) -> None:
    with Subject(SPEC, {"cpus": 1}).desk() as desk:
        place = desk.start().place()
        connection = desk.backend._connection  # type: ignore[attr-defined]
        (pid,) = connection.client.run(os.getpid).values()
        os.kill(pid, signal.SIGSTOP)
        future = desk.submit("echo", place=place)
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(WorkerLost, match="died before it began") as lost:
            desk.result(future)
        assert lost.value.cause is Cause.NOT_STARTED

        async def going_on() -> list[str]:
            return [
                told for task in asyncio.all_tasks() if re.search(r" (Leases|Calls)\.", told := str(task.get_coro()))
            ]

        assert until(lambda: not connection.call(going_on()), 10)
        assert desk.answer("echo").error is None


def test_a_worker_in_which_no_actor_can_be_made_is_ended_and_replaced() -> None:
    with Subject(SPEC, {"cpus": 1}).desk() as desk:
        place = desk.start().place()

        def refuse() -> None:
            def fail(self: object) -> None:
                raise RuntimeError("can't start new thread")

            importlib.import_module("flsim_dask.worker").Runner.__init__ = fail

        desk.backend._connection.client.run(refuse)  # type: ignore[attr-defined]
        with pytest.raises(WorkerLost, match="died before it began") as lost:
            desk.result(desk.submit("echo", place=place))
        assert lost.value.cause is Cause.NOT_STARTED
        assert desk.answer("echo").error is None


def test_a_call_that_dask_cannot_make_breaks_the_run_with_what_it_says() -> None:
    with Subject(SPEC, {"cpus": 1}).desk() as desk:
        assert desk.start().answer("echo").error is None
        connection = desk.backend._connection  # type: ignore[attr-defined]

        def forget(dask_worker: Any) -> None:
            dask_worker.state.actors.clear()

        connection.client.run(forget)
        with pytest.raises(BackendBroken, match=r"Dask cannot run a lease on worker tls://.*: KeyError"):
            desk.answer("echo")


def test_a_lease_on_this_host_is_no_task_of_the_scheduler_and_leaves_dask_as_it_was(local: Desk) -> None:
    connection = local.backend._connection  # type: ignore[attr-defined]

    def transitions() -> int:
        return int(connection.client.run_on_scheduler(lambda dask_scheduler: dask_scheduler.transition_counter))

    def echo_everywhere() -> None:
        for future in [local.submit("echo", place=place) for place in local.places(2)]:
            assert local.outcome(future).error is None

    echo_everywhere()  # with the first, the actors are made
    assert dask.config.get("scheduler", None) is None
    before = transitions()
    echo_everywhere()
    assert transitions() == before


def test_a_client_app_may_have_children_and_one_that_takes_too_much_memory_is_ended(tmp_path: Path) -> None:
    app = tmp_path / "app.py"
    app.write_text(
        "import multiprocessing, time\n"
        "from flsim import ClientApp, Message, MetricRecord, RecordDict, ServerApp\n"
        "server, client = ServerApp(), ClientApp()\n"
        "@client.query('child')\n"
        "def child(msg, context):\n"
        "    with multiprocessing.get_context('spawn').Pool(1) as pool:\n"
        "        n = pool.apply(abs, (-3,))\n"
        "    return Message(RecordDict({'m': MetricRecord({'n': n})}), reply_to=msg)\n"
        "@client.query('eat')\n"
        "def eat(msg, context):\n"
        "    eaten = b'x' * 600_000_000\n"
        "    time.sleep(60)\n"
        "    return Message(RecordDict({'m': MetricRecord({'n': len(eaten)})}), reply_to=msg)\n"
        "@server.main()\n"
        "def main(grid, context):\n"
        "    reply, = grid.send_and_receive([Message(RecordDict(), 2, 'query.child')])\n"
        "    assert reply.content['m']['n'] == 3, reply\n"
        "    reply, = grid.send_and_receive([Message(RecordDict(), 2, 'query.eat')])\n"
        "    assert reply.error.code == 102, reply.error\n"
    )
    flsim.run(app, nodes=1, backend="dask", options={"cpus": 1, "memory": "500MiB"}, quiet=True)


def test_workers_are_as_many_as_needs_fit() -> None:
    gib = 2**30
    cases: list[tuple[dict[str, Any], Resources, list[float]]] = [
        ({"cpus": 2}, Resources(cpus=0.5), [0.5] * 4),
        ({"cpus": 3}, Resources(cpus=2), [2]),
        ({"cpus": 4, "memory": "2GiB"}, Resources(memory=gib), [1, 1]),
    ]
    for options, need, expected in cases:
        with Subject(SPEC, options).desk(need) as desk:
            places = desk.start().backend.capacity()
            assert [p.resources.cpus for p in places] == expected
            assert all(p.resources.memory >= need.memory for p in places)


def test_two_runs_at_the_same_time_from_threads_have_a_cluster_each() -> None:
    both = threading.Barrier(2, timeout=60)
    seen: dict[int, set[int]] = {}

    def one(nodes: int) -> None:
        server = ServerApp()

        @server.main()
        def main(grid: Grid, context: Context) -> None:
            both.wait()
            replies = grid.send_and_receive(Message(RecordDict(), n, "query.echo") for n in grid.get_node_ids())
            both.wait()
            seen[nodes] = {r.content["values"]["pid"] for r in replies}

        Subject(SPEC, {"cpus": 1}).run(server, nodes=nodes)

    threads = [threading.Thread(target=one, args=(n,)) for n in (3, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen[3]) == len(seen[5]) == 1
    assert seen[3] != seen[5]


def test_a_local_cluster_that_does_not_start_says_what_it_printed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nprintf 'no \\033[2Jsnakes here'\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    with LOCAL.desk() as desk, pytest.raises(BackendBroken, match=r"did not start: it printed\nno �\[2Jsnakes here"):
        desk.start()


def test_a_local_cluster_that_ends_breaks_the_run_with_what_it_printed(tmp_path: Path) -> None:
    others = of_local()
    with LOCAL.desk() as desk:
        future = at_work(desk.start(), tmp_path)
        for pid in of_local() - others:
            os.kill(pid, signal.SIGKILL)
        with pytest.raises(BackendBroken, match="the local Dask cluster has ended: it printed"):
            future.result(5)


@pytest.mark.parametrize("how", ["SIGTERM", "SIGINT", "SIGINT again and again"])
def test_a_signal_to_the_process_group_ends_a_run_and_leaves_nothing(tmp_path: Path, how: str) -> None:
    app = tmp_path / "app.py"
    app.write_text(
        "from flsim import *\nfrom flsim.testing.apps import client\n"
        "server = ServerApp()\n@server.main()\ndef main(grid, context):\n"
        f"    held = RecordDict({{'plan': ConfigRecord({{'seconds': 600.0, 'folder': {str(tmp_path)!r}}})}})\n"
        "    grid.send_and_receive(Message(held, n, 'query.begin') for n in grid.get_node_ids())\n"
    )
    command = [sys.executable, "-m", "flsim", "run", str(app), "--backend", "dask", "-o", "cpus=1", "--no-record"]
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


def test_a_driver_on_stdin_that_is_killed_leaves_no_process(tmp_path: Path) -> None:
    script = (
        "import flsim\n"
        "from flsim.testing.apps import client\n"
        "server = flsim.ServerApp()\n"
        "@server.main()\n"
        "def main(grid, context):\n"
        "    ask = lambda what, **plan: grid.push_messages([flsim.Message(flsim.RecordDict(\n"
        "        {'plan': flsim.ConfigRecord(plan)}), 2, what)])\n"
        "    grid.pull_messages(ask('query.echo'), timeout=60)\n"
        "    ask('query.hold', seconds=600.0)\n"
        "    print('at work', flush=True)\n"
        "    grid.pull_messages(timeout=600)\n"
        "flsim.run(server, client, nodes=2, backend='dask', options={'cpus': 2}, quiet=True)\n"
    )
    environment = {**os.environ, "TMPDIR": str(tmp_path)}  # what a driver that is killed cannot remove
    with subprocess.Popen(
        [sys.executable, "-"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
    ) as driver:
        assert driver.stdin is not None
        assert driver.stdout is not None
        try:
            driver.stdin.write(script.encode())
            driver.stdin.close()
            assert driver.stdout.readline() == b"at work\n"
            started = children(driver.pid)
            assert len(started) >= 3
        finally:
            driver.kill()
    assert until(lambda: not any(map(alive, started)), 5)


# ---- options


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"scheduler": "tcp://127.0.0.1:8786", "cpus": 2}, "cpus are for a cluster of this host"),
        ({"scheduler": "tcp://127.0.0.1:8786", "cpus": 2, "memory": "1GiB"}, "cpus and memory are for"),
        ({"scheduler": "localhost"}, "an address such as tcp://127.0.0.1:8786, not 'localhost'"),
        ({"tls_ca_file": "ca.pem"}, "tls_ca_file is for a running scheduler; say which one"),
        ({"scheduler": "tcp://a:1", "tls_ca_file": "ca.pem"}, "write scheduler=tls://a:1"),
        ({"scheduler": "tls://a:1", "tls_ca_file": "ca.pem"}, "both tls_ca_file and tls_client_cert"),
        (
            {"scheduler": "tls://a:1", "tls_ca_file": "/no", "tls_client_cert": "/no"},
            "tls_ca_file: there is no file /no",
        ),
        ({"cpus": 0}, "cpus is more than zero"),
        ({"wait": -1.0}, "wait is zero seconds or more"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        SPEC.load()(make_options(SPEC, options))


# ---- tools


def joined(cluster: Cluster) -> Subject:
    return Subject(SPEC, {"scheduler": cluster.address, "wait": 5.0})


def plan(folder: Path, seconds: float) -> dict[str, Any]:
    return {"folder": str(folder), "seconds": seconds}


def pids(folder: Path) -> set[int]:
    """Of the workers that answered a *hold*."""
    return {call["pid"] for call in held(folder)}


echo_all, hold_all = ServerApp(), ServerApp()


@echo_all.main()
def _echo(grid: Grid, context: Context) -> None:
    grid.send_and_receive(Message(RecordDict(), n, "query.echo") for n in grid.get_node_ids())


@hold_all.main()
def _hold(grid: Grid, context: Context) -> None:
    said = RecordDict({"plan": ConfigRecord(dict(context.run_config))})
    grid.send_and_receive(Message(said, n, "query.hold") for n in grid.get_node_ids())


def during(begun: Callable[[], bool], do: Callable[[], None], enough: Callable[[], bool] = lambda: True) -> ServerApp:
    """Asks all nodes to *hold*, again until it is enough; once it has begun, something else is done meanwhile."""
    server = ServerApp()

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        def later() -> None:
            assert until(begun, 30)
            do()

        thread = threading.Thread(target=later)
        thread.start()
        _hold(grid, context)
        thread.join()
        end = time.monotonic() + 30
        while not enough() and time.monotonic() < end:
            _hold(grid, context)

    return server


def at_work(desk: Desk, folder: Path) -> Future[Any]:
    """A lease that is known to have begun, and that does not end."""
    future = desk.submit("hold", seconds=600.0, folder=str(folder))
    assert until(future.running, 30)
    return future


def aborted(future: Future[Any]) -> bool:
    wait([future], 10)
    error = future.exception(0)
    return isinstance(error, WorkerLost) and error.cause is Cause.ABORTED


def of_local() -> set[int]:
    """The processes of local clusters."""
    launchers = {pid for pid in children() if "flsim_dask.launcher" in command(pid)}
    return launchers.union(*map(children, launchers))


def is_closed_to_strangers(host: str, port: str, certificate: Path | None) -> bool:
    """Whether it answers neither Dask's protocol, nor TLS with this certificate, nor tells anything by HTTP."""
    address = host, int(port)
    with socket.create_connection(address, timeout=5) as plain:
        plain.sendall(b"GET /json/identity.json HTTP/1.0\r\n\r\n")
        answer = _received(plain)
    if answer:
        return answer.startswith(b"HTTP/1.1 404")
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if certificate is not None:
        context.load_cert_chain(certificate)
    try:
        with socket.create_connection(address, timeout=5) as raw, context.wrap_socket(raw) as encrypted:
            return not encrypted.recv(1)
    except ssl.SSLError as e:
        return any(
            text in str(e).lower()
            for text in ("certificate_required", "certificate required", "unknown ca", "unknown_ca")
        )


def _received(connection: socket.socket) -> bytes:
    try:
        return connection.recv(100)
    except ConnectionResetError:
        return b""

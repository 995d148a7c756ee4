"""What only the loky backend does; the contract is in tests/test_contract.py."""

import os
import signal
from collections.abc import Callable
from concurrent.futures import wait

import pytest

import flsim
from flsim import ClientApp, ConfigRecord, Context, Grid, Message, RecordDict, RunResult, ServerApp
from flsim.errors import Cause, WorkerLost
from flsim.plugins import Plugins
from flsim.testing import Subject
from flsim.testing.watch import children

client = ClientApp()


@client.query("where")
def where(msg: Message, context: Context) -> Message:
    blocked = signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, set())
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    threads = ",".join(os.environ.get(n, "unset") for n in names)
    values = {"pid": os.getpid(), "blocked": blocked, "threads": threads}
    return Message(RecordDict({"v": ConfigRecord(values)}), reply_to=msg)


def ask_all(grid: Grid) -> list[ConfigRecord]:
    replies = grid.send_and_receive(Message(RecordDict(), n, "query.where") for n in grid.get_node_ids())
    return [r.content["v"] for r in replies]


def run(main: Callable[[Grid, Context], None], *, nodes: int = 12, cpus: float = 2, each: float = 1) -> RunResult:
    server = ServerApp()
    server.main()(main)
    options, resources = {"cpus": cpus}, {"cpus": each}
    return flsim.run(server, client, nodes=nodes, backend="loky", options=options, resources=resources, quiet=True)


def test_clientapps_run_in_processes_of_their_own_that_no_ctrl_c_reaches() -> None:
    def main(grid: Grid, context: Context) -> None:
        seen = ask_all(grid)
        assert os.getpid() not in {v["pid"] for v in seen}
        assert all(v["blocked"] for v in seen)

    run(main)
    assert not children()


def test_no_more_workers_are_started_than_there_are_nodes() -> None:
    def main(grid: Grid, context: Context) -> None:
        ask_all(grid)
        assert len(children()) == 1

    run(main, nodes=1)


def test_the_number_of_workers_follows_from_the_cpus_and_the_need() -> None:
    def main(grid: Grid, context: Context) -> None:
        ask_all(grid)
        context.state["n"] = ConfigRecord({"workers": len(children())})

    assert run(main, cpus=3).state["n"]["workers"] == 3
    assert run(main, cpus=3, each=1.5).state["n"]["workers"] == 2
    assert run(main, cpus=1, each=0.25).state["n"]["workers"] == 4


def test_the_environment_says_how_many_threads_a_library_may_start() -> None:
    def main(grid: Grid, context: Context) -> None:
        assert {v["threads"] for v in ask_all(grid)} == {"2,2,2"}

    run(main, cpus=2, each=2)


def test_an_abort_that_meets_a_worker_which_is_just_done_costs_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """The lease comes back between the look whether it is done, and the end of its worker."""
    with Subject(Plugins().backend("loky").spec, {"cpus": 1.0}).desk() as desk:
        desk.start()
        future = desk.submit("rest")

        def done() -> bool:
            wait([future])
            return False

        monkeypatch.setattr(future, "done", done)
        desk.backend.abort(future)
        assert desk.outcome(future).error is None
        with pytest.raises(WorkerLost) as lost:
            desk.answer("echo")
        assert lost.value.cause is Cause.NOT_STARTED
        assert desk.answer("echo").error is None

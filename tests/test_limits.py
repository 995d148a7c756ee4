"""What hangs, ends; and a ClientApp gets what it needs, no more and no less. Each test really hangs, or takes."""

import asyncio
import faulthandler
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from helpers import ask, codes, python, server_of
from installed import skip_without

import flsim
from flsim import (
    ClientApp,
    ConfigRecord,
    Context,
    ErrorCode,
    Grid,
    Message,
    RecordDict,
    RunResult,
    engine,
    stall,
    worker,
)
from flsim.blackbox import BlackBoxes
from flsim.errors import ConfigError
from flsim.events import Announced, Event, Observer
from flsim.fleet import Fleet, Kind
from flsim.heart import Heart
from flsim.options import make_options
from flsim.plan import Plan
from flsim.plugins import Plugins
from flsim.project import Project
from flsim.resources import Place, Resources
from flsim.testing import CHECKS
from flsim.testing.apps import client, held, note, notes
from flsim.testing.watch import alive, until

Main = Callable[[Grid, Context], None]
HOW = ["python", "c"]


def run(
    main: Main, app: Any = client, *, nodes: int = 6, backend: str = "loky", cpus: float = 2, **more: Any
) -> RunResult:
    skip_without(backend)
    options = {"cpus": cpus}
    return flsim.run(server_of(main), app, nodes=nodes, backend=backend, options=options, seed=1, quiet=True, **more)


def asked(node: int, action: str, *, ttl: float | None = None, **plan: bool | float | str) -> Message:
    return Message(RecordDict({"plan": ConfigRecord(plan)}), node, f"query.{action}", ttl=ttl)


class Announcements:
    """Keeps what the user is told."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def on(self, events: Sequence[Event]) -> None:
        self.texts += [e.text for e in events if isinstance(e, Announced)]

    def close(self) -> None:
        pass


def announced(main: Main, kinds: Sequence[Kind], *, backend: str = "loky") -> list[str]:
    """What a run tells its user."""
    skip_without(backend)
    spec = Plugins().backend(backend).spec
    observer = Announcements()
    observers: list[Observer] = [observer]
    project = Project("app", server_of(main), tuple(kinds), declared=False)
    Plan(project, spec, make_options(spec, {"cpus": 2}), 1).run(observers)
    return observer.texts


# ---- time_limit


@pytest.mark.parametrize("how", HOW)
def test_what_hangs_is_ended_at_its_time_limit_with_its_stack_and_costs_no_other(how: str) -> None:
    def main(grid: Grid, context: Context) -> None:
        messages = [asked(n, "echo") for n in grid.get_node_ids()]
        messages[2] = asked(4, "hang", how=how)
        replies = grid.send_and_receive([*messages, asked(4, "echo")])
        assert codes(replies) == [None, None, ErrorCode.TIME_LIMIT, None, None, None, None]
        error = replies[2].error
        assert error.reason == "it ran longer than its time_limit of 0.5 s"
        assert "apps.py" in error.traceback
        assert "in hang" in error.traceback

    run(main, time_limit=0.5)


def test_a_worker_that_rests_is_not_ended_by_the_time_limit_of_its_last_message() -> None:
    app = ClientApp()

    @app.query("pid")
    def pid(msg: Message, context: Context) -> Message:
        return Message(RecordDict({"pid": ConfigRecord({"pid": os.getpid()})}), reply_to=msg)

    def main(grid: Grid, context: Context) -> None:
        (before,) = grid.send_and_receive([asked(2, "pid")])
        time.sleep(1)  # more than the limit: this is the rest
        (after,) = grid.send_and_receive([asked(2, "pid")])
        assert before.content["pid"] == after.content["pid"]

    run(main, app, nodes=1, cpus=1, time_limit=0.4)


def test_of_a_lease_of_several_only_what_hangs_is_ended() -> None:
    def main(grid: Grid, context: Context) -> None:
        ask(grid, "sleepless")  # so that the next leases hold several messages
        replies = ask(grid, "sleepless", hang=70)
        assert [i for i, code in enumerate(codes(replies)) if code == ErrorCode.TIME_LIMIT] == [68]
        assert codes(replies).count(None) == len(replies) - 1

    app = ClientApp()

    @app.query("sleepless")
    def sleepless(msg: Message, context: Context) -> Message:
        if msg.content["plan"].get("hang") == context.node_id:
            time.sleep(600)  # this is the hang
        return Message(RecordDict(), reply_to=msg)

    run(main, app, nodes=200, time_limit=0.5)


@pytest.mark.parametrize("how", HOW)
def test_a_worker_that_does_not_run_at_all_is_ended_by_the_driver(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, how: str
) -> None:
    """Frozen once, as by SIGSTOP, its message is answered by another worker; hanging past its own limits each time, it
    is ended at the second."""
    monkeypatch.setattr(worker, "SILENCE", 2.0)
    app = ClientApp()
    mark = tmp_path / "frozen"

    @app.query("freeze")
    def freeze(msg: Message, context: Context) -> Message:
        if how == "c" and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGSTOP)
        if how == "python":
            faulthandler.cancel_dump_traceback_later()
            time.sleep(600)  # this is the hang
        return Message(RecordDict(), reply_to=msg)

    def main(grid: Grid, context: Context) -> None:
        (reply,) = grid.send_and_receive([Message(RecordDict({"plan": ConfigRecord()}), 2, "query.freeze")])
        if how == "c":
            assert reply.has_content()
        else:
            assert reply.error.code == ErrorCode.TIME_LIMIT
            assert "2 times with it alone" in reply.error.reason

    run(main, app, nodes=1, time_limit=0.3)


def test_serial_says_once_that_it_cannot_end_what_hangs_or_takes_too_much() -> None:
    def main(grid: Grid, context: Context) -> None:
        assert codes(ask(grid, "echo")) == [None] * 4

    texts = announced(main, [Kind("default", client, 4, Resources(memory=2**20), time_limit=0.01)], backend="serial")
    assert texts == [
        "backend serial books memory, and does not enforce it",
        "backend serial cannot end a ClientApp, since it has no process of its own: time_limit is not enforced",
    ]


USED_UP = """
import flsim
from flsim import ServerApp
from flsim.testing.apps import client
from helpers import ask, codes

server = ServerApp()

@server.main()
def main(grid, context):
    print(codes(ask(grid, "files")), codes(ask(grid, "echo")))

print(flsim.run(server, client, nodes=3, backend="serial", seed=1, quiet=True).answered)
"""


def test_a_run_on_serial_that_has_used_up_its_files_ends_as_others_do() -> None:
    raised = int(ErrorCode.CLIENT_APP_RAISED_EXCEPTION)
    said = python(USED_UP, path=[Path(__file__).parent, Path(flsim.__file__).parents[1]])
    assert said == f"{[raised] * 3} {[None] * 3}\n3"


def test_serial_lets_a_message_run_on_that_is_far_beyond_its_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "SILENCE", 0.05)

    def main(grid: Grid, context: Context) -> None:
        assert codes(ask(grid, "work", seconds=0.3, folder=context.run_config["folder"])) == [None]

    with tempfile.TemporaryDirectory() as folder:
        run(main, nodes=1, backend="serial", time_limit=0.01, config={"folder": folder})


def test_a_reply_that_would_fill_the_drivers_memory_is_its_messages_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "host_memory", lambda: 2 * 2**20)

    def main(grid: Grid, context: Context) -> None:
        assert codes(ask(grid, "take", mebibytes=0, keep=False)) == [None] * 2
        large = ask(grid, "much", mebibytes=2)
        assert codes(large) == [ErrorCode.REPLY_TOO_LARGE] * 2
        assert "are 2 MiB, and at most 1 MiB are taken" in large[0].error.reason
        assert codes(ask(grid, "much", mebibytes=2, state=True)) == [ErrorCode.REPLY_TOO_LARGE] * 2

    for backend in ("serial", "loky"):
        run(main, nodes=2, backend=backend)


@pytest.mark.parametrize("seconds", [0, -1, float("inf"), float("nan"), True, "long"])
def test_a_time_limit_that_is_no_time_is_refused(seconds: Any) -> None:
    with pytest.raises(ConfigError, match="time_limit is a number of seconds, more than zero, not"):
        run(lambda grid, context: None, backend="serial", time_limit=seconds)


# ---- ttl, timeout, cancel: what hangs is let go, whatever it does


@pytest.mark.parametrize("how", HOW)
def test_a_ttl_ends_a_message_that_hangs_and_its_node_keeps_its_state(how: str) -> None:
    def main(grid: Grid, context: Context) -> None:
        replies = grid.send_and_receive([asked(2, "hang", how=how, ttl=0.5), asked(3, "echo")])
        assert codes(replies) == [ErrorCode.MESSAGE_UNAVAILABLE, None]

    run(main)


@pytest.mark.parametrize("how", HOW)
def test_a_timeout_gives_a_reply_to_each_message_also_where_one_hangs(how: str) -> None:
    def main(grid: Grid, context: Context) -> None:
        replies = grid.send_and_receive([asked(2, "hang", how=how), asked(3, "echo")], timeout=3.0)
        assert codes(replies) == [ErrorCode.TIMEOUT, None]
        assert [r.metadata.src_node_id for r in replies] == [2, 3]

    run(main)


@pytest.mark.parametrize("how", HOW)
def test_a_message_that_hangs_can_be_cancelled(tmp_path: Path, how: str) -> None:
    def main(grid: Grid, context: Context) -> None:
        (hanging,) = grid.push_messages([asked(2, "hang", how=how)])
        assert codes(grid.send_and_receive([asked(3, "echo")])) == [None]
        grid.cancel([hanging])
        assert codes(list(grid.pull_messages([hanging], timeout=5))) == [ErrorCode.CANCELLED]

    run(main)


# ---- memory


def test_what_takes_more_memory_than_its_kind_may_is_tried_once_more_and_then_said() -> None:
    def main(grid: Grid, context: Context) -> None:
        messages = [asked(n, "echo") for n in grid.get_node_ids()]
        messages[3] = asked(5, "take", mebibytes=400, keep=False)
        replies = grid.send_and_receive(messages)
        assert codes(replies) == [None, None, None, ErrorCode.OUT_OF_MEMORY, None, None]
        reason = replies[3].error.reason
        assert reason.startswith("its worker died 2 times with it alone: it held ")
        assert reason.endswith(" MiB of memory, and may hold 200 MiB")

    run(main, resources={"memory": "200MiB"})


def test_what_a_clientapp_has_started_counts_too_and_is_ended_with_its_worker(tmp_path: Path) -> None:
    app = ClientApp()

    @app.query("spawn")
    def spawn(msg: Message, context: Context) -> Message:
        code = "import signal; kept = bytearray(b'x') * (300 * 2**20); signal.pause()"
        with subprocess.Popen([sys.executable, "-c", code]) as child:
            note(tmp_path, str(child.pid))
            child.wait()
        return Message(RecordDict(), reply_to=msg)

    def main(grid: Grid, context: Context) -> None:
        (reply,) = grid.send_and_receive([Message(RecordDict(), 2, "query.spawn")])
        assert reply.error.code == ErrorCode.OUT_OF_MEMORY

    run(main, app, nodes=1, resources={"memory": "200MiB"})
    children = [int(pid) for pid in notes(tmp_path)]
    assert len(children) == 2, "it is tried twice"
    assert until(lambda: not any(map(alive, children)), 5), "a child of the ClientApp outlives its worker"


def test_a_worker_that_something_else_kills_says_what_it_held() -> None:
    app = ClientApp()

    @app.query("killed")
    def killed(msg: Message, context: Context) -> Message:
        kept = bytearray(b"x") * (100 * 2**20)
        time.sleep(0.5)  # so long that it is seen
        os.kill(os.getpid(), signal.SIGKILL)
        return Message(RecordDict({"kept": ConfigRecord({"n": len(kept)})}), reply_to=msg)

    def main(grid: Grid, context: Context) -> None:
        (reply,) = grid.send_and_receive([Message(RecordDict(), 2, "query.killed")])
        assert reply.error.code == ErrorCode.WORKER_DIED
        assert "SIGKILL" in reply.error.reason
        held = int(reply.error.reason.rpartition("it had held up to ")[2].removesuffix(" MiB"))
        assert 100 < held < 400

    run(main, app, nodes=1)


def test_a_worker_whose_black_box_cannot_be_read_is_lost_as_the_backend_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver may have no file left to open: the run goes on, and is told less."""

    def taken(*_: object) -> None:
        raise OSError(24, "Too many open files")

    def main(grid: Grid, context: Context) -> None:
        first, second = grid.get_node_ids()
        (reply,) = grid.send_and_receive([asked(first, "die", how="exit")])
        assert reply.error.code == ErrorCode.WORKER_DIED
        assert "code 5; what it was at cannot be read: OSError: " in reply.error.reason
        (reply,) = grid.send_and_receive([asked(second, "echo")])
        assert reply.has_content()

    monkeypatch.setattr(BlackBoxes, "_take", taken)
    run(main, nodes=2)


NOTES = """
import sys, tempfile
from flsim.blackbox import HEAD, BlackBox

def held(box, at):
    # Let the lease go on where so many instructions of the note are done. Returns whether there are so many.
    done = 0
    def each(frame, event, _):
        nonlocal done
        if event == "opcode":
            done += 1
            if done == at:
                box.at(7, 3)
        return each
    def begin(frame, event, _):
        if frame.f_code is BlackBox.held.__code__:
            frame.f_trace_opcodes = True
            return each
    box.at(7)
    sys.settrace(begin)
    box.held(1000)
    sys.settrace(None)
    return done >= at

with tempfile.TemporaryDirectory() as folder:
    box, at = BlackBox(folder), 1
    while held(box, at):
        assert HEAD.unpack(box._head[:])[:2] == (7, 3), f"after {at} instructions"
        at += 1
    box.close()
print(at > 5)
"""


def test_what_a_worker_is_at_stays_said_while_what_it_holds_is_noted() -> None:
    """By another thread, which may be met between any two of its instructions. A box that named no message would tell
    of a worker that had not begun."""
    assert python(NOTES, path=[Path(flsim.__file__).parents[1]]) == "True"


def test_a_crash_says_where_it_was() -> None:
    def main(grid: Grid, context: Context) -> None:
        (reply,) = grid.send_and_receive([asked(2, "die", how="segfault")])
        assert reply.error.code == ErrorCode.WORKER_DIED
        assert "SIGSEGV" in reply.error.reason
        assert "Segmentation fault" in reply.error.traceback
        assert "in die" in reply.error.traceback

    run(main, nodes=1)


def test_a_worker_that_has_grown_is_replaced_and_the_user_is_told() -> None:
    def main(grid: Grid, context: Context) -> None:
        for node in grid.get_node_ids():
            assert codes(grid.send_and_receive([asked(node, "take", mebibytes=60, keep=True)])) == [None]

    texts = announced(main, [Kind("default", client, 8, Resources(cpus=2, memory=300 * 2**20))])
    assert texts
    assert all(" is replaced: it has grown from " in text for text in texts)


# ---- gpus and mixed fleets


def test_three_kinds_with_three_needs_never_use_more_than_there_is_and_use_it(tmp_path: Path) -> None:
    skip_without("loky")
    needs = {"light": Resources(1), "heavy": Resources(2), "gpu": Resources(0, 0.5)}
    kinds = [Kind(name, client, 12, need, {"kind": name}) for name, need in needs.items()]
    kinds = [
        Kind(k.name, k.client, k.nodes, k.resources, {"weight": k.resources.cpus, "share": k.resources.gpus})
        for k in kinds
    ]

    def main(grid: Grid, context: Context) -> None:
        assert codes(ask(grid, "hold", seconds=0.1, folder=str(tmp_path))) == [None] * 36

    flsim.run(server_of(main), kinds, backend="loky", options={"cpus": 2, "gpus": 1}, seed=1, quiet=True)
    calls = held(tmp_path)
    assert len(calls) == 36
    for what, most in (("weight", 2.0), ("share", 1.0)):
        assert _peak(calls, what) == most
    assert {c["gpus"] for c in calls if c["share"]} == {"0"}
    assert {c["gpus"] for c in calls if not c["share"]} == {""}


def _peak(calls: list[dict[str, Any]], what: str) -> float:
    edges = sorted([(c["begun"], c[what]) for c in calls] + [(c["ended"], -c[what]) for c in calls])
    now = most = 0.0
    for _, amount in edges:
        now += amount
        most = max(most, now)
    return most


# ---- nothing moves


def test_a_run_in_which_nothing_moves_says_what_waits_and_what_is_at_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stall, "AFTER", 0.5)

    def main(grid: Grid, context: Context) -> None:
        messages = [asked(n, "hang", how="python") for n in grid.get_node_ids()]
        grid.send_and_receive([*messages, asked(2, "echo")], timeout=2.5)

    first, *more = announced(main, [Kind("default", client, 5)])
    assert first.startswith("nothing has moved for ")
    assert " s at this host: query.hang to node 2 (partition 0); " in first
    assert " s at this host: query.hang to node 3 (partition 1); " in first
    assert "query.hang to node 4 (partition 2) and 2 more, of 1 cpu each, which have no room now" in first
    assert "waiting behind another message of their node: 1" in first
    assert first.endswith("a time_limit would end what hangs")
    assert 1 <= len(more) <= 2, "it is said again when twice as long has passed, and no more often"


def test_the_report_of_a_run_whose_capacity_has_gone_says_so() -> None:
    fleet = Fleet([Kind("default", client, 5, Resources(cpus=4), time_limit=9.0)])
    heart = Heart(k.resources for k in fleet.kinds)
    heart.set_places([Place("a", Resources(cpus=2), 8)])
    heart.push(10.0, 2, 0, "train", None, None)
    assert stall.report(heart, fleet, 75.0, 65.0) == (
        "nothing has moved for 65 s; waiting for up to 65 s: train to node 2 (partition 0), of 4 cpu each, "
        "which fit nowhere: a has 2 cpu"
    )


# ---- where a run may be started


def test_a_run_may_be_started_where_an_event_loop_runs_as_in_a_notebook() -> None:
    def main(grid: Grid, context: Context) -> None:
        ask(grid, "echo")

    async def cell() -> int:
        return run(main).answered

    assert asyncio.run(cell()) == 6


def test_a_second_run_at_the_same_time_says_what_it_shares() -> None:
    texts: list[str] = []

    def inner(grid: Grid, context: Context) -> None:
        assert codes(ask(grid, "echo")) == [None] * 4

    def outer(grid: Grid, context: Context) -> None:
        texts.extend(announced(inner, [Kind("default", client, 4)], backend="serial"))
        assert codes(ask(grid, "echo")) == [None] * 6

    run(outer)
    assert len(texts) == 1
    assert "shares the global random generators" in texts[0]
    assert announced(inner, [Kind("default", client, 4)], backend="serial") == []


def test_the_table_in_the_docs_names_tests_and_checks_that_there_are() -> None:
    root = Path(__file__).parents[1]
    named = set(re.findall(r"`(test_\w+)`", (root / "docs/limits.md").read_text()))
    assert len(named) > 10
    files = [*root.glob("tests/test_*.py"), *root.glob("backends/*/tests/test_*.py")]
    there = set(re.findall(r"^def (test_\w+)\(", "\n".join(f.read_text() for f in files), re.MULTILINE))
    assert not named - there
    checks = set(re.findall(r"check `(\w+)`", (root / "docs/limits.md").read_text()))
    assert checks
    assert not checks - {c.name for c in CHECKS}

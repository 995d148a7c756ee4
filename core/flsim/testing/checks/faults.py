"""Clause 13: what goes wrong in a run costs what it must, and nothing else."""

from __future__ import annotations

import os
import pickle
import signal
import sys
import types
from pathlib import Path

from flsim.apps import Context, ServerApp
from flsim.errors import AppLoadError, BackendBroken, EncodeError
from flsim.fleet import Kind
from flsim.grid import Grid
from flsim.message import Error, ErrorCode, Message
from flsim.project import load_project
from flsim.records import ConfigRecord, MetricRecord, RecordDict
from flsim.testing.apps import client, notes
from flsim.testing.checks.registry import check
from flsim.testing.checks.tools import temporary_folder
from flsim.testing.subject import Subject
from flsim.testing.watch import alive, kill, until
from flsim.testing.wrongs import RAISED, RETURNED, Exits, Undecodable, Unpicklable

LARGEST = 64 * 1024
"""Bytes that an error may have on its way."""


def _asked(node: int, action: str, **plan: bool | float | str) -> Message:
    return Message(RecordDict({"plan": ConfigRecord(plan)}), node, f"query.{action}")


# ---- in the app

_wrong = ServerApp()


@check(13)
def what_goes_wrong_in_a_clientapp_is_the_error_of_its_message_alone(subject: Subject) -> None:
    """One push of all that a ClientApp can raise or return that is wrong, and thirty messages to one node among it:
    each fault is its own message's error, bounded and without power over a terminal, and is not tried again; the
    others are answered. What the ServerApp then raises is what the run raises."""
    with temporary_folder() as folder:
        nodes = len(RAISED) + len(RETURNED) + 20
        try:
            subject.run(_wrong, nodes=nodes, config={"folder": str(folder)})
        except _TheEnd:
            return
        raise AssertionError("the ServerApp raised, and the run ended well")


class _TheEnd(Exception):
    """What the ServerApp raises."""


@_wrong.main()
def _send_wrong(grid: Grid, context: Context) -> None:
    folder = str(context.run_config["folder"])
    node = iter(grid.get_node_ids())
    raising = [_asked(next(node), "raise", how=how, folder=folder) for how in RAISED]
    returning = [_asked(next(node), "return", what=what, folder=folder) for what in [*RETURNED, "undecodable"]]
    cannot_be_read = Message(Undecodable(), next(node), "query.echo")
    one, *rest = node
    counting = [_asked(one, "draw") for _ in range(30)]
    echoes = [_asked(n, "echo") for n in rest]
    for leaf in (Unpicklable(), Exits()):
        try:
            grid.push_messages([_asked(one, "echo"), Message({"leaf": leaf}, one, "query.echo")])
        except EncodeError as e:
            assert f"dict['leaf'] ({type(leaf).__name__})" in str(e), f"what cannot be sent is not named: {e}"
        else:
            raise AssertionError("content that cannot be encoded was pushed")

    replies = iter(grid.send_and_receive([*raising, *returning, cannot_be_read, *counting, *echoes]))
    for how in RAISED:
        error = _error(next(replies), ErrorCode.CLIENT_APP_RAISED_EXCEPTION, how)
        assert error.reason.startswith(how), f"{how} is not named: {error.reason[:100]!r}"
        assert "in raise_" in error.traceback, f"where {how} was raised is not said: {error.traceback!r}"
    for what, (code, says) in RETURNED.items():
        error = _error(next(replies), code, f"to return {what}")
        assert says in error.reason, f"to return {what} gave {error.reason!r}, which does not say {says!r}"
    error = _error(next(replies), ErrorCode.REPLY_UNDECODABLE, "to return what the driver cannot decode")
    assert "this cannot be decoded" in error.reason
    error = _error(next(replies), ErrorCode.MESSAGE_UNDECODABLE, "content that a worker cannot decode")
    assert "in worker " in error.reason and "this cannot be decoded" in error.reason, error.reason
    counts = [next(replies).content["about"]["count"] for _ in range(30)]
    assert counts == list(range(1, 31)), f"thirty messages to one node found the state after {counts} of them"
    for reply in replies:
        assert reply.has_content(), f"an innocent message failed: {reply.error}"
    calls = len(notes(Path(folder)))
    assert calls == len(raising) + len(returning), f"{len(raising) + len(returning)} faults took {calls} calls"
    raise _TheEnd("and that is all")


def _error(reply: Message, code: ErrorCode, what: str) -> Error:
    assert reply.has_error(), f"{what} gave content"
    error = reply.error
    assert error.code == code, f"{what} gave {error}"
    size = len(pickle.dumps((error.code, error.reason, error.traceback)))
    assert size < LARGEST and len(error.reason) <= 4096, f"{what} gave an error of {size} bytes"
    moving = [c for c in error.reason + error.traceback if not (c.isprintable() or c in "\n\t")]
    assert not moving, f"{what} gave an error with {set(moving)}"
    return error


_foreign = ServerApp()

_FOREIGN = "flsim_only_in_the_driver"


@check(13, "isolation")
def what_a_worker_cannot_import_is_the_error_of_its_message(subject: Subject) -> None:
    """Content of a module that the driver has had since before any worker was started, and the workers, which are no
    forks of it, have not: the error names the worker and the module. BLAS works in them, though it has worked in the
    driver by then, which a fork may not survive."""
    import numpy as np

    matrix = np.ones((500, 500))
    assert (matrix @ matrix).sum() == 500**3
    module = types.ModuleType(_FOREIGN)
    exec("class Foreign: ...", module.__dict__)
    sys.modules[_FOREIGN] = module
    try:
        subject.run(_foreign)
    finally:
        del sys.modules[_FOREIGN]


@_foreign.main()
def _send_foreign(grid: Grid, context: Context) -> None:
    nodes = list(grid.get_node_ids())
    bad = Message(sys.modules[_FOREIGN].Foreign(), nodes[0], "query.echo")
    replies = grid.send_and_receive([bad, *(_asked(n, "threads") for n in nodes[1:])])
    error = _error(replies[0], ErrorCode.MESSAGE_UNDECODABLE, "content of a module that a worker has not")
    for text in ("in worker ", "ModuleNotFoundError", _FOREIGN):
        assert text in error.reason, f"the reason does not say {text!r}: {error.reason}"
    assert all(r.has_content() for r in replies[1:]), "an innocent message failed"


_EXITS = """
import os
from pathlib import Path
from flsim import ClientApp, Message, RecordDict, ServerApp

server, client = ServerApp(), ClientApp()
if os.getpid() != {driver}:
    {what}

@client.query()
def answer(msg, context):
    return Message(RecordDict(), reply_to=msg)

@server.main()
def main(grid, context):
    grid.send_and_receive(Message(RecordDict(), n, "query") for n in grid.get_node_ids())
"""

_TABLE = """
[tool.flsim]
server = "app:server"
client = "app:client"
nodes = 20
"""


def _app(folder: Path, what: str) -> Path:
    (folder / "pyproject.toml").write_text(_TABLE)
    (folder / "app.py").write_text(_EXITS.format(driver=os.getpid(), what=what))
    return folder


@check(13, "isolation")
def an_app_that_a_worker_cannot_load_stops_the_run_with_its_traceback(subject: Subject) -> None:
    """It loads in the driver, and raises in a worker: the run stops, and says in which, with the traceback."""
    with temporary_folder() as folder:
        try:
            subject.run_project(load_project(_app(folder, "raise RuntimeError('not on this host')")))
        except AppLoadError as e:
            for text in ("in worker ", "app.py", "RuntimeError: not on this host"):
                assert text in str(e), f"the error does not say {text!r}: {e}"
            return
        raise AssertionError("the run ended well, though no worker can load the app")


@check(13, "isolation")
def workers_that_cannot_start_stop_the_run_with_the_first_cause(subject: Subject) -> None:
    """Each worker ends while it loads the app: the run stops after a few, instead of starting more for ever."""
    with temporary_folder() as folder:
        what = f"Path({str(folder)!r}, str(os.getpid())).with_suffix('.start').touch(); os._exit(9)"
        with subject.desk() as desk:
            at_once = len(desk.start().places(20))
        try:
            subject.run_project(load_project(_app(folder, what)))
        except BackendBroken as e:
            assert "5 workers in a row died before their first message" in str(e), f"the cause is not said: {e}"
            started = len(list(folder.glob("*.start")))
            assert 5 <= started <= 5 + 2 * at_once, f"{started} workers were started, of which {at_once} run at once"
            return
        raise AssertionError("the run ended well, though no worker starts")


# ---- in a worker

_deadly = ServerApp()


@check(13, "isolation")
def a_message_that_ends_its_worker_is_tried_once_more_and_costs_nobody_else(subject: Subject) -> None:
    """Of forty messages one exits and one segfaults: each costs at most three deaths and gets WORKER_DIED, the latter
    with its stack; the others are answered, and so are the next fifty."""
    with temporary_folder() as folder:
        subject.run(_deadly, nodes=50, config={"folder": str(folder)})


@_deadly.main()
def _send_deadly(grid: Grid, context: Context) -> None:
    nodes = list(grid.get_node_ids())
    deadly = {nodes[7]: "exit", nodes[20]: "segfault"}
    places = {how: Path(str(context.run_config["folder"]), how) for how in deadly.values()}
    for place in places.values():
        place.mkdir()
    replies = grid.send_and_receive(
        _asked(n, "die", how=deadly[n], folder=str(places[deadly[n]])) if n in deadly else _asked(n, "draw")
        for n in nodes[:40]
    )
    for reply in replies:
        how = deadly.get(reply.metadata.src_node_id)
        if how is None:
            assert reply.has_content(), f"an innocent message failed: {reply.error}"
            continue
        error = _error(reply, ErrorCode.WORKER_DIED, f"a message that ends its worker by {how}")
        assert "died 2 times with it alone" in error.reason, error.reason
        deaths = len(notes(places[how]))
        assert 2 <= deaths <= 3, f"a message that ends its worker by {how} cost {deaths} workers"
        if how == "segfault":
            for text in ("Segmentation fault", "in die"):
                assert text in error.traceback, f"the stack does not say {text!r}: {error.traceback!r}"
            assert "SIGSEGV" in error.reason, f"the signal is not named: {error.reason}"
    after = grid.send_and_receive(_asked(n, "echo") for n in nodes)
    assert all(r.has_content() for r in after), f"messages failed later: {[r.error for r in after if r.has_error()]}"


_killed = ServerApp()


@check(13, "isolation")
def workers_that_are_ended_from_outside_cost_no_message(subject: Subject) -> None:
    """Workers at work are killed, and one is sent SIGTERM, as a batch system does: all messages are answered, by the
    same numbers as where none is."""
    digests = {}
    for signals in ([0, 0, 0], [signal.SIGKILL, signal.SIGKILL, signal.SIGTERM]):  # signal 0 ends nobody
        with temporary_folder() as folder:
            said = " ".join(str(int(s)) for s in signals)
            config = {"folder": str(folder), "signals": said, "patience": subject.patience}
            result = subject.run(_killed, nodes=40, config=config)
        assert result.answered == 40, f"messages were lost: {result.counts}"
        digests[tuple(signals)] = result.digest
    assert len(set(digests.values())) == 1, "the digest differs from that of the run in which no worker is ended"


@_killed.main()
def _kill_workers(grid: Grid, context: Context) -> None:
    folder, patience = Path(str(context.run_config["folder"])), float(context.run_config["patience"])
    signals = [int(s) for s in str(context.run_config["signals"]).split()]
    nodes = grid.get_node_ids()
    # These wait until they are told to go on, so that whoever is ended is at work.
    waiting = {nodes[8 * i]: folder / str(i) for i in range(1, 1 + len(signals))}
    for place in waiting.values():
        place.mkdir()
    grid.push_messages(
        _asked(n, "wait", folder=str(waiting[n]), patience=patience)
        if n in waiting
        else _asked(n, "work", folder=str(folder), seconds=0.01)
        for n in nodes
    )
    places = set(waiting.values())
    for each in signals:
        assert until(lambda: any(map(notes, places)), patience), f"{len(places)} messages do not begin"
        place = next(filter(notes, places))
        os.kill(int(notes(place)[0]), each)
        Path(place, "go on").touch()
        places.remove(place)
    drawn: dict[str, float] = {}
    while len(drawn) < len(nodes):
        replies = grid.pull_messages(timeout=patience)
        assert replies, f"of {len(nodes)} messages {len(drawn)} are answered"
        for reply in replies:
            assert reply.has_content(), f"a message failed because its worker was ended: {reply.error}"
            drawn[str(reply.metadata.src_node_id)] = reply.content["values"]["drawn"]
    context.state["drawn"] = ConfigRecord({str(n): drawn[str(n)] for n in nodes})


_opening = ServerApp()


@check(13, "isolation")
def a_clientapp_that_leaves_no_file_to_open_costs_nobody_else(subject: Subject) -> None:
    """It opens files until its process may have no more, and gets the error of that: other messages are answered, with
    models that are large, and those that come later may open files again."""
    with temporary_folder() as folder:
        subject.run(_opening, nodes=9, config={"folder": str(folder)})


@_opening.main()
def _open_files(grid: Grid, context: Context) -> None:
    folder = str(context.run_config["folder"])
    nodes = list(grid.get_node_ids())
    opens = nodes[3::4]
    for _ in range(2):
        asked = (_asked(n, "files") if n in opens else _asked(n, "much", mebibytes=1) for n in nodes)
        for node, reply in zip(nodes, grid.send_and_receive(asked), strict=True):
            if node in opens:
                error = _error(reply, ErrorCode.CLIENT_APP_RAISED_EXCEPTION, "to open too many files")
                assert "Too many open files" in error.reason, error.reason
            else:
                assert reply.has_content(), f"an innocent message failed: {reply.error}"
                assert len(reply.content["much"]["much"]) == 2**20
        for reply in grid.send_and_receive(_asked(n, "work", folder=folder, seconds=0.0) for n in nodes):
            assert reply.has_content(), f"a later message could open no file: {reply.error}"


_starting = ServerApp()


@check(13)
def a_clientapp_may_start_processes(subject: Subject) -> None:
    """It has the processes of a pool work for it, as a DataLoader does."""
    # Children that cannot start make a Pool start them for ever: the limit makes a hang a failure.
    subject.run(_starting, kinds=[Kind("default", client, 2, time_limit=subject.patience / 2)])


@_starting.main()
def _start_pools(grid: Grid, context: Context) -> None:
    for reply in grid.send_and_receive(_asked(n, "pool") for n in grid.get_node_ids()):
        assert reply.has_content(), f"a ClientApp could not have a pool of processes: {reply.error}"
        assert reply.content["values"]["made"] == [1, 2, 3]


_leaving = ServerApp()


@check(13, "isolation")
def what_a_clientapp_has_started_ends_with_its_worker(subject: Subject) -> None:
    """One starts a process and hangs, until its time limit; another starts one and leaves it: neither process outlives
    its worker, which may be that of a cluster that is joined, and outlive the run."""
    with temporary_folder() as folder:
        kinds = [Kind("default", client, 4, time_limit=2.0)]
        result = subject.run(_leaving, kinds=kinds, config={"folder": str(folder)})
        worker = int(result.state.metric_records["last"]["worker"])  # type: ignore[arg-type]  # it is one number
        _, left = (int(pid) for pid in notes(folder))
        ended = until(lambda: not alive(left) or alive(worker), 5)
        if alive(left):
            kill(left)
        assert ended, "what a ClientApp has started outlives its worker"


@_leaving.main()
def _leave_processes(grid: Grid, context: Context) -> None:
    folder = Path(str(context.run_config["folder"]))
    first, second, *_ = grid.get_node_ids()
    (reply,) = grid.send_and_receive([_asked(first, "start", folder=str(folder), hang=True)])
    assert reply.has_error() and reply.error.code == ErrorCode.TIME_LIMIT, f"a message that hangs gave {reply}"
    (child,) = (int(pid) for pid in notes(folder))
    assert until(lambda: not alive(child), 5), "what a ClientApp has started outlives its worker"
    (reply,) = grid.send_and_receive([_asked(second, "start", folder=str(folder), hang=False)])
    assert reply.has_content(), f"a ClientApp could not start a process: {reply.error}"
    context.state["last"] = MetricRecord({"worker": reply.content["values"]["pid"]})

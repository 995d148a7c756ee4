"""Clause 9: printing, and what a worker keeps."""

from __future__ import annotations

from collections.abc import Sequence

from flsim.apps import Context, ServerApp
from flsim.events import Event, LostWorker
from flsim.fleet import Kind
from flsim.grid import Grid
from flsim.message import Message
from flsim.records import ConfigRecord, RecordDict
from flsim.resources import Resources
from flsim.testing.apps import client
from flsim.testing.checks.registry import check
from flsim.testing.checks.tools import written_by_this_process
from flsim.testing.subject import Subject


@check(9)
def a_worker_may_print_a_megabyte(subject: Subject) -> None:
    """What a ClientApp prints comes back cut, and costs nothing else."""
    with subject.desk() as desk:
        desk.start()
        answer = desk.answer("print", characters=1_000_000)
        assert answer.error is None
        assert 0 < len(answer.printed) < 100_000, f"{len(answer.printed)} characters of 1,000,000 came back"


@check(9, "isolation")
def what_a_worker_writes_reaches_no_terminal_but_by_the_engine(subject: Subject) -> None:
    """What another thread prints, a logger that an app makes when it is imported, ``sys.stdout.buffer`` and the
    interpreter's own streams come back with the message. What a child or ``os.write`` writes does not, and neither
    does it go to where the driver's own output goes."""
    with written_by_this_process() as written:
        with subject.desk() as desk:
            desk.start()
            for how in ("thread", "buffer", "interpreter's stream", "logger", "child", "descriptor"):
                answer = desk.answer("write", how=how, text=f"by {how}\x1b[2J")
                assert answer.error is None, f"to write by {how} gave {answer.error}"
                if how not in ("child", "descriptor"):
                    assert f"by {how}" in answer.printed, f"what is written by {how} does not come back"
        text = written()
    assert "\x1b[2J" not in text, f"a worker wrote to the driver's output: {text!r}"


@check(9, "memory", "isolation")
def a_worker_that_grows_is_replaced_between_messages(subject: Subject) -> None:
    """Of 512 MiB each message leaves 80 behind in its worker: another takes its place in time, and no message fails."""
    kinds = [Kind("default", client, 10, Resources(memory="512MiB"))]  # type: ignore[arg-type]  # a size is taken, too
    losses = _Losses()
    result = subject.run(_take_all, kinds=kinds, observers=[losses])
    assert not losses.said, f"a worker had grown to its limit before it was replaced: {losses.said}"
    pids = result.state.config_records["pids"]
    assert len(set(pids.values())) > 1, "all messages were answered by one process, that kept all they left"


class _Losses:
    """Keeps what is said of workers that were lost."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def on(self, events: Sequence[Event]) -> None:
        self.said += [f"{e.cause}: {e.detail}" for e in events if isinstance(e, LostWorker)]

    def close(self) -> None:
        pass


_take_all = ServerApp()


@_take_all.main()
def _take(grid: Grid, context: Context) -> None:
    plan = RecordDict({"plan": ConfigRecord({"mebibytes": 80, "keep": True})})
    pids = {}
    for node in grid.get_node_ids():
        (reply,) = grid.send_and_receive([Message(plan, node, "query.take")])
        assert not reply.has_error(), f"message {node} failed: {reply.error}"
        pids[str(node)] = reply.content.config_records["values"]["pid"]
    context.state["pids"] = ConfigRecord(pids)

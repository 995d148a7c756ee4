"""The ServerApps that several clauses run."""

from __future__ import annotations

from flsim.apps import Context, ServerApp
from flsim.grid import Grid
from flsim.message import Message
from flsim.records import ConfigRecord, RecordDict

unreached = ServerApp()
hold_all = ServerApp()


@unreached.main()
def _not_to_be_called(grid: Grid, context: Context) -> None:
    raise AssertionError("the run began, though its needs cannot be met")


@hold_all.main()
def _hold(grid: Grid, context: Context) -> None:
    plan = RecordDict({"plan": ConfigRecord(dict(context.run_config))})
    replies = grid.send_and_receive(Message(plan, n, "query.hold") for n in grid.get_node_ids())
    errors = [str(r.error) for r in replies if r.has_error()]
    assert not errors, f"errors came back: {errors}"

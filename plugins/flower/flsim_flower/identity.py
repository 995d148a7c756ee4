"""What flwr from 1.38 on wants to know before an app can make a Message. Flower has no public name for it."""

from __future__ import annotations

from flsim.message import SERVER_NODE_ID

try:
    from flwr.supercore.task_identity import TaskIdentity
except ImportError:
    # Before 1.38 there is none, and nobody misses it.
    TaskIdentity = None  # type: ignore[assignment,misc]  # a name that may stand for nothing


def identify(run_id: int, node_id: int = SERVER_NODE_ID) -> None:
    """Be the ServerApp of this run, or the ClientApp of a node, for the whole process. Where both are in one process it
    stays the ServerApp's: the Grid writes what a message is told over, so that two runs of one process do not mix up
    theirs."""
    if TaskIdentity is None or (node_id != SERVER_NODE_ID and _known() == SERVER_NODE_ID):
        return
    TaskIdentity.run_id = run_id
    TaskIdentity.task_id = run_id
    TaskIdentity.node_id = node_id


def _known() -> int | None:
    try:
        return int(TaskIdentity.node_id)
    except RuntimeError:  # it is not set
        return None

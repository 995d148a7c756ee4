"""What flwr from 1.38 on wants to know before a ServerApp can make a Message. Flower has no public name for it."""

from __future__ import annotations

from flsim.message import SERVER_NODE_ID

try:
    from flwr.supercore.task_identity import TaskIdentity
except ImportError:
    # Before 1.38 there is none, and nobody misses it.
    TaskIdentity = None  # type: ignore[assignment,misc]  # a name that may stand for nothing


def identify(run_id: int) -> None:
    """Be the ServerApp of this run, for the whole process. The Grid writes what a message is told over, so that two
    runs of one process do not mix up theirs."""
    if TaskIdentity is not None:
        TaskIdentity.run_id = run_id
        TaskIdentity.task_id = run_id
        TaskIdentity.node_id = SERVER_NODE_ID

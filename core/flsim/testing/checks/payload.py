"""Clause 12: payload."""

from __future__ import annotations

import hashlib

from flsim.apps import Context, ServerApp
from flsim.grid import Grid
from flsim.message import ErrorCode, Message
from flsim.quarantine import quarantined
from flsim.records import ArrayRecord, ConfigRecord, RecordDict
from flsim.testing.checks.registry import check
from flsim.testing.checks.tools import temporary_folder
from flsim.testing.subject import Subject

_send_models = ServerApp()


@check(12)
def models_arrive_whole_and_read_only(subject: Subject) -> None:
    """A model that many messages carry arrives in each as it was when it was pushed, and read-only; large replies and
    node states come back as they were when the ClientApp returned."""
    subject.run(_send_models)


@check(12, "isolation")
def a_model_outlives_the_worker_that_had_it(subject: Subject) -> None:
    """Workers that die with a message that carries a model cost no other message, and those have the model. So has the
    quarantine, where the messages that cost them are kept."""
    import numpy as np

    with temporary_folder() as folder:
        subject.run(_send_models, config={"dies": 2}, run_dir=folder)
        kept = [{bytes(b) for b in q.frames().buffers} for q in quarantined(folder)]
    sent = [(np.arange(100_000.0) + added).tobytes() for added in (1, 1, 3, 3)]
    assert len(kept) == len(sent), f"{len(sent)} messages cost their workers, {len(kept)} are in quarantine"
    for model, buffers in zip(sent, kept, strict=True):
        assert {model, bytes(range(256)) * 1000} <= buffers, "what is in quarantine is not what was sent"


@_send_models.main()
def _models(grid: Grid, context: Context) -> None:
    import numpy as np

    nodes = list(grid.get_node_ids()[:8])
    dying = nodes[: int(context.run_config.get("dies", 0))]
    model = {"w": np.arange(100_000.0), "b": np.arange(1000.0), "few": np.arange(3.0)}
    raw = bytes(range(256)) * 1000
    for round in range(2):
        model["w"] += 1
        arrays, more = ArrayRecord(model), ConfigRecord({"raw": raw})
        same = RecordDict({"model": arrays, "raw": more})
        plan = ConfigRecord({"how": "exit"})
        messages = [
            Message(RecordDict({"model": arrays, "raw": more, "plan": plan}), node, "query.die")
            if node in dying
            else Message(same if i % 2 else RecordDict({"model": arrays, "raw": more}), node, "query.model")
            for i, node in enumerate(nodes)
        ]
        ids = grid.push_messages(messages)
        expected = sum(float(a.sum()) for a in model.values())
        model["w"] += 1  # which nobody may see, until the next round
        replies: dict[str, Message] = {}
        while len(replies) < len(ids):
            replies |= {r.metadata.reply_to_message_id: r for r in grid.pull_messages(timeout=None)}
        for node, id_ in zip(nodes, ids, strict=True):
            reply = replies[id_]
            if node in dying:
                assert reply.error.code == ErrorCode.WORKER_DIED, f"a worker that exits gave {reply.error}"
                continue
            assert reply.has_content(), f"node {node} was sent a model, and answered {reply.error}"
            said, new = reply.content["values"], reply.content["new"]
            assert said["sum"] == expected, (
                f"node {node} was sent arrays whose sum is {expected}, and saw {said['sum']}"
            )
            assert not said["writeable"], f"node {node} was given arrays that it could write to"
            assert said["raw"] == hashlib.sha256(raw).hexdigest(), f"node {node} was sent other bytes than it saw"
            assert np.array_equal(new["w"], model["w"]), f"node {node} answered with other arrays than came back"
            assert (new["scratch"] == node).all(), f"the reply of node {node} has changed since it was returned"
            assert not any(a.flags.writeable for a in new.values()), "the arrays of a reply can be written to"
            assert said["kept"] == (node if round else -1), f"node {node} found the state {said['kept']}"

"""Models and workers of one host: they are in shared memory, which goes with its last user."""

from pathlib import Path

import pytest
from flsim_dask.plugin import SPEC

import flsim
from flsim.errors import BackendBroken, WorkerLost
from flsim.testing import Subject
from flsim.testing.apps import notes
from flsim.testing.watch import files_of_at_most, kill, segments, until

MEGA = 1_000_000

APP = """
import resource
import numpy as np
from flsim import ArrayRecord, ClientApp, ErrorCode, Message, RecordDict, ServerApp
from flsim.testing.watch import mapped, segments, until

MEGA = 1_000_000
server, client = ServerApp(), ClientApp()

@client.train()
def train(msg, context):  # its state has one more each time
    before = context.state["seen"]["times"] if "seen" in context.state else np.zeros(MEGA // 8)
    context.state["seen"] = ArrayRecord({"times": before + 1})
    assert mapped() >= 8 * (MEGA // 8), "the model is not mapped"
    weights = msg.content["m"]["w"] + context.state["seen"]["times"]
    return Message(RecordDict({"m": ArrayRecord({"w": weights})}), reply_to=msg)

@client.train("no_room")
def no_room(msg, context):
    resource.setrlimit(resource.RLIMIT_FSIZE, (MEGA, MEGA))
    return Message(RecordDict({"m": ArrayRecord({"w": np.zeros(MEGA)})}), reply_to=msg)

def models(grid, type_="train"):
    content = RecordDict({"m": ArrayRecord({"w": np.arange(MEGA // 8, dtype=float)})})
    return [Message(content, node, type_) for node in grid.get_node_ids()]

def gone():  # the loop that brought the last one may hold it a moment longer
    return until(lambda: segments() == 0, 10)
"""


def run(folder: Path, main: str, nodes: int = 4) -> None:
    app = folder / "app.py"
    lines = main.strip().splitlines()
    app.write_text("\n".join([APP, "@server.main()", "def main(grid, context):", *(f"    {line}" for line in lines)]))
    flsim.run(app, nodes=nodes, backend="dask", options={"cpus": 2.0}, quiet=True)


def test_models_states_and_replies_pass_by_shared_memory_and_leave_none(tmp_path: Path) -> None:
    main = """
for round in range(1, 4):
    replies = grid.send_and_receive(models(grid))
    assert segments() > 0
    for reply in replies:
        weights = reply.content["m"]["w"]
        assert (weights == np.arange(MEGA // 8) + round).all()
        assert not weights.flags.writeable
    del replies, reply, weights
assert gone()
"""
    run(tmp_path, main)


def test_a_reply_that_finds_no_room_is_the_error_of_its_message(tmp_path: Path) -> None:
    main = """
reply, = grid.send_and_receive(models(grid, "train.no_room"))
assert reply.error.code == ErrorCode.REPLY_UNENCODABLE, reply.error
assert "cannot keep the reply" in reply.error.reason
"""
    run(tmp_path, main, nodes=1)


@pytest.mark.parametrize("how", ["killed", "aborted", "over"])
def test_what_a_lease_carries_goes_with_it(tmp_path: Path, how: str) -> None:
    with Subject(SPEC, {"cpus": 1}).desk() as desk:
        place = desk.start().place()
        frames = desk.frames("begin", seconds=600.0, folder=str(tmp_path))
        frames.buffers.append(bytes(MEGA))
        future = desk.backend.submit(frames, desk.need, place)
        shared = desk.backend.share([memoryview(bytes(MEGA))], 2)
        assert shared is not None
        assert until(lambda: bool(notes(tmp_path)), 30)
        assert segments() == 3  # what is shared, what it carries, and for its replies
        if how == "killed":
            kill(int(notes(tmp_path)[0]))
        elif how == "aborted":
            desk.backend.abort(future)
        else:
            desk.backend.stop()
        assert isinstance(future.exception(30), WorkerLost)
        assert segments() == (0 if how == "over" else 1)
        shared.close()  # also a moment after the end, as the engine may
        assert segments() == 0
        if how != "over":
            assert desk.answer("echo").error is None


def test_a_lease_that_finds_no_room_breaks_the_backend() -> None:
    with Subject(SPEC, {"cpus": 1}).desk() as desk:
        frames = desk.start().frames("echo")
        frames.buffers.append(bytes(8 * MEGA))
        with files_of_at_most(MEGA), pytest.raises(BackendBroken, match=r"no room for 8\.0 MB of shared memory"):
            desk.backend.submit(frames, desk.need, desk.place()).result(30)
        assert segments() == 0

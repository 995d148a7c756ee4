"""Models and workers of one host: they are in shared memory, which goes with its last user."""

from pathlib import Path

import flsim

APP = """
import os, resource, signal
from contextlib import suppress
from pathlib import Path
import numpy as np
from flsim import ArrayRecord, ClientApp, ErrorCode, Message, RecordDict, ServerApp
from flsim.testing.watch import until

MEGA = 1_000_000
server, client = ServerApp(), ClientApp()

@client.train()
def train(msg, context):  # its state has one more each time
    before = context.state["seen"]["times"] if "seen" in context.state else np.zeros(MEGA // 8)
    context.state["seen"] = ArrayRecord({"times": before + 1})
    weights = msg.content["m"]["w"] + context.state["seen"]["times"]
    return Message(RecordDict({"m": ArrayRecord({"w": weights})}), reply_to=msg)

@client.train("no_room")
def no_room(msg, context):
    resource.setrlimit(resource.RLIMIT_FSIZE, (MEGA, MEGA))
    return Message(RecordDict({"m": ArrayRecord({"w": np.zeros(MEGA)})}), reply_to=msg)

@client.train("die")
def die(msg, context):
    os.kill(os.getpid(), signal.SIGKILL)

def models(grid, type_="train"):
    content = RecordDict({"m": ArrayRecord({"w": np.arange(MEGA // 8, dtype=float)})})
    return [Message(content, node, type_) for node in grid.get_node_ids()]

def segments():  # that this process has open, also through what it has mapped
    links = []
    for fd in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # it has just been closed, as that of the folder itself
            links.append(str(fd.readlink()))
    return sum(link.startswith("/memfd:flsim") for link in links)

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


def test_a_worker_that_is_killed_leaves_no_segment(tmp_path: Path) -> None:
    main = """
codes = {r.error.code for r in grid.send_and_receive(models(grid, "train.die"))}
assert codes == {ErrorCode.WORKER_DIED}
assert gone()
assert all(r.has_content() for r in grid.send_and_receive(models(grid)))
"""
    run(tmp_path, main, nodes=2)


def test_a_reply_that_finds_no_room_is_the_error_of_its_message(tmp_path: Path) -> None:
    main = """
reply, = grid.send_and_receive(models(grid, "train.no_room"))
assert reply.error.code == ErrorCode.REPLY_UNENCODABLE, reply.error
assert "cannot keep the reply" in reply.error.reason
"""
    run(tmp_path, main, nodes=1)

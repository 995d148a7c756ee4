"""Models in shared memory: their room is asked for before it is used, and goes with its last user."""

import os
import resource
import signal
from collections.abc import Callable, Iterator

import numpy as np
import pytest

import flsim.segments
from flsim import ArrayRecord, ClientApp, ErrorCode, Grid, Message, RecordDict, RunResult, ServerApp
from flsim.apps import Context
from flsim.errors import BackendBroken
from flsim.testing.watch import files_of_at_most, mapped, segments, until

MEGA = 1_000_000

client = ClientApp()


@client.train()
def train(msg: Message, context: Context) -> Message:
    return Message(RecordDict({"m": ArrayRecord({"w": msg.content["m"]["w"] + 1})}), reply_to=msg)


@client.train("no_room")
def no_room(msg: Message, context: Context) -> Message:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (MEGA, MEGA))
    return train(msg, context)


@client.train("die")
def die(msg: Message, context: Context) -> Message:
    os.kill(os.getpid(), signal.SIGKILL)
    return msg


def run(main: Callable[[Grid, Context], None], nodes: int = 8) -> RunResult:
    server = ServerApp()
    server.main()(main)
    return flsim.run(server, client, nodes=nodes, backend="loky", options={"cpus": 2.0}, quiet=True)


def models(grid: Grid, type_: str = "train", nbytes: int = MEGA) -> Iterator[Message]:
    content = RecordDict({"m": ArrayRecord({"w": np.zeros(nbytes // 8)})})
    return (Message(content, node, type_) for node in grid.get_node_ids())


def test_replies_that_are_held_do_not_take_all_the_files_that_may_be_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flsim.segments, "FEW", 3)

    def main(grid: Grid, context: Context) -> None:
        replies = grid.send_and_receive(models(grid))
        assert segments() <= 3 + 2
        assert all((r.content["m"]["w"] == 1).all() for r in replies)

    run(main)


@pytest.mark.parametrize("files", [False, True])
def test_a_run_moves_its_models_and_leaves_no_segment(monkeypatch: pytest.MonkeyPatch, files: bool) -> None:
    if files:  # as where no segment is nameless
        monkeypatch.setattr(flsim.segments, "_nameless", lambda: False)

    def main(grid: Grid, context: Context) -> None:
        for _ in range(3):
            for reply in grid.stream(models(grid)):
                assert (reply.content["m"]["w"] == 1).all()

    run(main)
    assert segments() == 0


def test_a_segment_goes_when_the_last_message_that_carries_it_has_ended() -> None:
    def main(grid: Grid, context: Context) -> None:
        replies = grid.send_and_receive(models(grid))
        assert mapped() >= 8 * MEGA
        assert mapped() < 9 * MEGA  # the model is gone
        del replies
        assert until(lambda: mapped() == 0, 10)  # the loop that brought the last one may hold it a moment longer
        assert segments() <= 2  # those that wait for the replies of two workers

    run(main)


def test_a_worker_that_is_killed_leaves_no_segment() -> None:
    def main(grid: Grid, context: Context) -> None:
        codes = {r.error.code for r in grid.send_and_receive(models(grid, "train.die"))}
        assert codes == {ErrorCode.WORKER_DIED}
        assert segments() <= 2
        assert all(r.has_content() for r in grid.send_and_receive(models(grid)))

    run(main, nodes=3)
    assert segments() == 0


def test_a_model_that_finds_no_room_is_an_error_where_it_is_pushed() -> None:
    def main(grid: Grid, context: Context) -> None:
        with files_of_at_most(MEGA), pytest.raises(BackendBroken, match=r"no room for 8\.0 MB of shared memory"):
            grid.push_messages(models(grid, nbytes=8 * MEGA))
        assert all(r.has_content() for r in grid.send_and_receive(models(grid)))

    run(main)


def test_a_reply_that_finds_no_room_is_the_error_of_its_message() -> None:
    def main(grid: Grid, context: Context) -> None:
        (reply,) = grid.send_and_receive([next(models(grid, "train.no_room", 8 * MEGA))])
        assert reply.error.code == ErrorCode.REPLY_UNENCODABLE
        assert "cannot keep the reply" in reply.error.reason

    run(main)

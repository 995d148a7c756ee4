"""Shared memory: what it holds comes back, its room is asked for before it is used, and it goes with its last user."""

import errno
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest

import flsim.segments
from flsim.errors import BackendBroken
from flsim.segments import LARGE, Exchange, Memory, Replies, Segment, arrived
from flsim.testing.watch import files_of_at_most, segments


@pytest.fixture(params=["nameless", "files"])
def folder(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for segments, which are files in it, or have no name."""
    if request.param == "files":
        monkeypatch.setattr(flsim.segments, "_nameless", lambda: False)
    elif not flsim.segments._nameless():
        pytest.skip("this system has no nameless files that others can open")
    return tmp_path


def test_what_is_placed_is_read_in_place_and_cannot_be_written_to(folder: Path) -> None:
    segment = Segment(folder)
    buffers = [memoryview(b"abc"), memoryview(bytes(range(200)))]
    views = segment.place(buffers).views()
    assert [bytes(v) for v in views] == [bytes(b) for b in buffers]
    assert all(v.readonly for v in views)
    assert all(np.frombuffer(v, np.uint8).__array_interface__["data"][0] % 64 == 0 for v in views)
    segment.close()
    assert bytes(views[0]) == b"abc"
    assert not any(folder.iterdir())


def test_the_replies_of_a_lease_follow_each_other(folder: Path) -> None:
    segment = Segment(folder)
    replies = Replies(segment.location)
    large = [bytes([i]) * LARGE for i in range(3)]
    kept = [
        *replies.keep([memoryview(large[0]), memoryview(b"few")], False),
        *replies.keep([memoryview(large[1])], True),
    ]
    assert replies.keep([memoryview(b"few")], True) == [b"few"]
    spans = [k for k in kept if isinstance(k, tuple)]
    view = segment.read(spans[-1][1])
    assert [bytes(view[begin:end]) for begin, end in spans] == [large[0], b"few", large[1]]
    segment.close()


def test_few_bytes_are_not_shared_and_what_one_message_carries_only_while_few_are(folder: Path) -> None:
    shared = Memory(folder)
    large = memoryview(bytes(LARGE))
    assert shared.share([large[1:]], 100) is None
    held = [shared.share([large], 1) for _ in range(flsim.segments.FEW)]
    assert all(held)
    assert shared.share([large], 1) is None
    assert shared.share([large], 2) is not None
    shared.close()
    assert segments() == 0
    assert not any(folder.iterdir())
    assert shared.share([large], 2) is None


def test_what_went_with_the_backend_is_not_closed_once_more(folder: Path) -> None:
    shared = Memory(folder)
    segment = shared.share([memoryview(bytes(LARGE))], 2)
    assert segment is not None
    shared.close()
    with tempfile.TemporaryFile() as other:  # which has its number now, where it was a file's
        segment.close()
        other.write(b"still open")
        other.flush()


def test_a_segment_is_read_by_a_process_of_this_user_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flsim.segments, "_nameless", lambda: False)
    segment = Segment(tmp_path)
    assert Path(segment.location.path).stat().st_mode & 0o777 == 0o600
    segment.close()


def test_a_worker_that_comes_late_does_not_take_another_file_for_its_memory(tmp_path: Path) -> None:
    if not flsim.segments._nameless():
        pytest.skip("this system has no nameless files that others can open")
    gone = Segment(tmp_path)
    late = gone.place([memoryview(bytes(LARGE))])
    gone.close()
    with (tmp_path / "other").open("wb+") as other:
        other.write(bytes(LARGE))
        other.flush()
        assert Path(late.location.path).samefile(other.name), "it has the number of the one that is gone"
        with pytest.raises(FileNotFoundError, match="let go"):
            late.views()
        with pytest.raises(FileNotFoundError, match="let go"):
            Replies(late.location).keep([memoryview(b"x" * LARGE)], True)
    assert (tmp_path / "other").read_bytes() == bytes(LARGE)


def test_what_is_large_of_a_lease_goes_there_and_back(folder: Path) -> None:
    memory = Memory(folder)
    model, own, reply = (bytes([i]) * LARGE for i in range(3))
    shared = memory.share([memoryview(model)], 2)
    exchange = Exchange(memory)
    for _ in range(2):
        parts = exchange.out([b"few", shared, own])
        assert [bytes(b) for b in arrived(parts)] == [b"few", model, own]
        assert parts[0] == b"few", "what is small goes with the lease"
        kept = Replies(exchange.replies).keep([memoryview(reply)], True)
        assert [bytes(b) for b in exchange.back(kept)] == [reply]
        assert exchange.back([b"few"]) == [b"few"]
    exchange.close()
    memory.close()
    assert segments() == 0
    assert not any(folder.iterdir())


def test_a_worker_says_there_that_it_has_begun(folder: Path) -> None:
    memory = Memory(folder)
    exchange = Exchange(memory)
    replies = Replies(exchange.replies)
    assert not exchange.begun
    assert replies.begin()
    assert exchange.begun
    kept = replies.keep([memoryview(b"x" * LARGE)], True)
    assert [bytes(b) for b in exchange.back(kept)] == [b"x" * LARGE]
    exchange.close()
    assert not exchange.begun, "nor does it fail"
    memory.close()


def test_a_lease_that_the_driver_has_let_go_of_does_not_begin(folder: Path) -> None:
    exchange = Exchange(Memory(folder))
    replies = Replies(exchange.replies)
    exchange.close()
    with pytest.raises(FileNotFoundError):
        replies.begin()


def test_what_cannot_be_mapped_for_want_of_files_leaves_the_exchange_to_be_closed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exchange = Exchange(Memory(folder))
    kept = Replies(exchange.replies).keep([memoryview(b"x" * LARGE)], True)

    def refused(*args: object) -> int:
        raise OSError(errno.EMFILE, "too many open files")

    with monkeypatch.context() as m:
        m.setattr(os, "memfd_create", refused, raising=False)
        m.setattr(os, "open", refused)
        with pytest.raises(OSError, match="too many"):
            exchange.back(kept)
    exchange.close()
    assert segments() == 0


def test_a_worker_that_has_no_file_to_open_cannot_say_there_that_it_has_begun(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exchange = Exchange(Memory(folder))

    def refused(*args: object) -> int:
        raise OSError(errno.EMFILE, "too many open files")

    with monkeypatch.context() as m:
        m.setattr(os, "open", refused)
        assert not Replies(exchange.replies).begin()
    assert not exchange.begun
    exchange.close()


def test_a_lease_that_finds_no_room_says_so(folder: Path) -> None:
    exchange = Exchange(Memory(folder))
    with files_of_at_most(LARGE), pytest.raises(BackendBroken, match=r"no room for 1\.0 MB of shared memory"):
        exchange.out([bytes(1_000_000)])
    exchange.close()
    assert segments() == 0

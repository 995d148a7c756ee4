"""What surrounds a call in a worker: what leaves it is text that shows, and no more."""

import io
import logging
import pickle
import sys
import threading
from collections.abc import Callable
from contextlib import redirect_stdout

import pytest

from flsim.envelope import (
    PRINTED_LIMIT,
    TEXT_LIMIT,
    TRACEBACK_LIMIT,
    around_import,
    around_lease,
    clean,
    describe,
    traceback_of,
)
from flsim.payload import Frames
from flsim.testing.wrongs import Undecodable
from flsim.wire import NOT_READ, unpack_reply
from flsim.worker import run_lease

WORDS = "\x1b[2J\x1b]0;title\x07\x9b31m‮\nFAKE LOG\r"


def raised(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as e:
        return e


@pytest.mark.parametrize("text_of", [describe, traceback_of])
def test_the_text_of_an_error_cannot_move_the_terminal(text_of: object) -> None:
    assert callable(text_of)
    text = text_of(raised(ValueError(WORDS)))
    assert "FAKE LOG" in text
    assert {c for c in text if not c.isprintable()} <= {"\n"}


def test_text_that_shows_stays_as_it_is() -> None:
    assert clean("Ümläute, 日本, \t and a\nline", 100) == "Ümläute, 日本, \t and a\nline"


def test_long_text_is_cut_and_shows_where() -> None:
    assert clean("x" * 11, 10) == "x" * 9 + "…"
    assert len(describe(ValueError("x" * 10**6))) == TEXT_LIMIT
    assert len(traceback_of(raised(ValueError("x" * 10**6)))) <= TRACEBACK_LIMIT + 1


def in_a_thread(call: Callable[[], object]) -> None:
    thread = threading.Thread(target=call)
    thread.start()
    thread.join()


@pytest.mark.parametrize("alone", [False, True])
def test_what_another_thread_prints_is_the_messages_where_the_process_is_its_lease(
    capsys: pytest.CaptureFixture[str], alone: bool
) -> None:
    with around_lease(1, restore=False, alone=alone) as printed:
        print("mine")
        in_a_thread(lambda: print("another's"))
        said = printed()
    assert said == ("mine\nanother's\n" if alone else "mine\n")
    assert capsys.readouterr().out == ("" if alone else "another's\n")


def test_all_that_a_message_prints_counts_together_and_the_next_one_begins_anew() -> None:
    cut = PRINTED_LIMIT + len("… (cut)\n")
    with around_lease(1, restore=False) as printed:
        for write in (sys.stdout.write, sys.stderr.write):
            write("x" * (PRINTED_LIMIT - 1))
        sys.stdout.buffer.write(b"x" * PRINTED_LIMIT)
        assert len(printed()) == cut
        sys.stdout.buffer.write(b"x" * (2 * PRINTED_LIMIT))
        assert len(printed()) == cut
        sys.stdout.writelines(["x" * PRINTED_LIMIT])
        assert printed() == "x" * PRINTED_LIMIT
        assert printed() == ""


def test_bytes_that_are_printed_are_the_text_that_they_are_in_utf_8() -> None:
    with around_lease(1, restore=False) as printed:
        sys.stdout.buffer.write("Ü".encode()[:1])
        sys.stdout.buffer.write("Ü".encode()[1:] + b"\xff")
        sys.stdout.buffer.write("日".encode()[:2])
        assert printed() == "Ü��"
        sys.stdout.buffer.write(b"next")
        assert printed() == "next"
        with pytest.raises(TypeError):
            sys.stdout.buffer.write("text")  # type: ignore[call-overload]  # so it is


def test_the_streams_of_the_interpreter_are_the_leases_where_the_process_is_and_are_put_back() -> None:
    before = sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__
    with around_lease(1, restore=False, alone=True) as printed:
        assert sys.__stdout__ is not None
        assert sys.__stderr__ is not None
        sys.__stdout__.write("out")
        sys.__stderr__.write("err")
        assert printed() == "outerr"
    assert before == (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__)


def test_a_handler_that_is_made_on_import_logs_to_the_message_and_else_where_stderr_is_now() -> None:
    with around_import():
        handler = logging.StreamHandler()
    log = logging.Logger("made on import")
    log.addHandler(handler)
    with around_lease(1, restore=False) as printed:
        log.warning("in the lease")
        assert printed() == "in the lease\n"
    before, sys.stderr = sys.stderr, io.StringIO()
    try:
        log.warning("after it")
        assert sys.stderr.getvalue() == "after it\n"
    finally:
        sys.stderr = before


def test_a_stream_that_an_app_makes_of_ours_on_import_stays_and_says_nothing_twice() -> None:
    raw = io.BytesIO()
    out = io.TextIOWrapper(raw, encoding="utf-8", write_through=True)
    with redirect_stdout(out):
        with around_import():
            assert hasattr(sys.stdout, "detach")
            sys.stdout = made = io.TextIOWrapper(sys.stdout.detach(), encoding="utf-8", write_through=True)
        print("after the import")
        with around_lease(1, restore=False) as printed:
            print("in the lease")
            made.write("by what was made\n")
            in_a_thread(lambda: print("another's"))
            assert printed() == "in the lease\nby what was made\n"
        assert sys.stdout is made
        print("after the lease")
    assert raw.getvalue() == b"after the import\nanother's\nafter the lease\n"


def test_a_stream_that_is_kept_is_stdout_in_another_process() -> None:
    with around_import():
        kept = pickle.dumps(sys.stdout)
    assert pickle.loads(kept) is sys.stdout


def test_a_lease_that_exits_when_it_is_read_comes_back_as_not_read() -> None:
    answer = unpack_reply(run_lease(Frames(pickle.dumps(Undecodable()), [])))
    assert answer.status == NOT_READ
    assert "SystemExit: this cannot be decoded" in answer.what

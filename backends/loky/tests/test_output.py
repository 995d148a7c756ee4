"""What workers write past Python: read in the driver, bounded, and shown with the worker's pid."""

import array
import fcntl
import os
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection

from flsim.testing.watch import until
from flsim_loky.output import LIMIT, Outputs


@contextmanager
def outputs() -> Iterator[tuple[Outputs, list[str]]]:
    shown: list[str] = []
    made = Outputs(shown.append)
    try:
        yield made, shown
    finally:
        made.stop()


def write(writing: Connection, *texts: bytes) -> None:
    """Write each of these, once the one before is read."""
    for text in texts:
        os.write(writing.fileno(), text)
        assert until(lambda: not unread(writing), 10)


def unread(writing: Connection) -> int:
    there = array.array("i", [0])
    fcntl.ioctl(writing.fileno(), termios.FIONREAD, there)
    return there[0]


def test_each_line_is_shown_with_the_pid_and_without_power_over_the_terminal() -> None:
    with outputs() as (made, shown):
        _, writing = made.new()
        with writing:
            write(writing, b"17\n", b"one\n\ntwo \x1b[2J\r\nth", b"ree \xe6\x97", b"\xa5\n\xff and no end")
    assert shown == [
        "worker 17 | one", "worker 17 | two �[2J", "worker 17 | three 日", "worker 17 | � and no end",
    ]  # fmt: skip


def test_a_flood_is_read_to_its_end_and_cut_until_the_next_lease() -> None:
    with outputs() as (made, shown):
        output, writing = made.new()
        with writing:
            write(writing, b"17\n", *[b"x\n" * 5_000] * 100, b"x" * 1_000_000, b"\n")
            assert sum(map(len, shown)) <= LIMIT + len("… (cut)")
            assert shown[-1].endswith("… (cut)")
            output.lease()
            write(writing, b"after\n")
    assert shown[-1] == "worker 17 | after"


def test_lines_of_nothing_are_not_shown_and_count() -> None:
    with outputs() as (made, shown):
        output, writing = made.new()
        with writing:
            write(writing, b"17\n", *[b"\n" * 50_000] * 2, b"end of it\n")
            assert output.left <= 0
    assert shown == []


def test_what_holds_a_pipe_for_ever_does_not_hold_the_end_of_the_run() -> None:
    with outputs() as (made, shown):
        _, writing = made.new()
        write(writing, b"17\nat the end\n", b"of it")
    assert shown == ["worker 17 | at the end", "worker 17 | of it"]
    writing.close()

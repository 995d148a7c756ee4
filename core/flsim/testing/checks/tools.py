"""What several clauses need."""

from __future__ import annotations

import dataclasses
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from flsim.errors import InputError, WorkerLost
from flsim.options import make_options
from flsim.payload import Frames
from flsim.testing.subject import Desk, Subject
from flsim.testing.watch import until


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder that goes with the check."""
    with tempfile.TemporaryDirectory(prefix="flsim-check-") as folder:
        yield Path(folder)


@contextmanager
def written_by_this_process() -> Iterator[Callable[[], str]]:
    """Yields a function that says what was written until now to the file descriptors 1 and 2 of this process, and by
    what it has started."""
    with tempfile.TemporaryFile() as file, ExitStack() as stack:
        for stream, fd in ((sys.stdout, 1), (sys.stderr, 2)):
            stream.flush()  # what it still holds is to go where it would have gone
            before = os.dup(fd)
            stack.callback(os.close, before)
            stack.callback(os.dup2, before, fd)
            os.dup2(file.fileno(), fd)

        def written() -> str:
            sys.stdout.flush()
            sys.stderr.flush()
            return os.pread(file.fileno(), os.fstat(file.fileno()).st_size, 0).decode(errors="replace")

        yield written


def lost(desk: Desk, future: Future[Frames]) -> WorkerLost:
    """How the worker of a lease was lost; it must be."""
    done, _ = wait([future], desk.patience)
    assert done, f"the future of a lease whose worker died is not completed after {desk.patience:g} s"
    try:
        frames = desk.result(future)
    except WorkerLost as e:
        return e
    raise AssertionError(f"the future of a lease whose worker died gave {frames!r}")


def values(answer: Any) -> dict[str, Any]:
    """What a ClientApp of the checks has answered."""
    assert answer.error is None, str(answer.error)
    return dict(answer.reply.decoded().config_records["values"])


def eventually_places(desk: Desk, count: int) -> list[Any]:
    """Places, once there is one: a backend may say that a place is gone until its worker is replaced."""
    assert until(lambda: bool(desk.places(count)), desk.patience), "no place came back after a death"
    return desk.places(count)


def eventually_answers(desk: Desk) -> Any:
    """The answer to an echo, once there is a place for it."""
    return desk.answer("echo", place=eventually_places(desk, 1)[0])


def that_has(subject: Subject, **options: Any) -> Subject:
    """The subject with these options, too; as it is where it does not take them, as for a cluster that is joined."""
    try:
        make_options(subject.spec, {**subject.options, **options})
    except InputError:
        return subject
    return dataclasses.replace(subject, options={**subject.options, **options})


def in_time(desk: Desk, call: Callable[[], None], what: str) -> None:
    """Call it; it must return before the desk's patience ends."""
    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(desk.patience)
    assert not thread.is_alive(), f"{what} hangs"


def refuses(call: Callable[[], Any], when: str) -> None:
    """The call must be refused."""
    try:
        call()
    except RuntimeError:
        return
    raise AssertionError(f"submit {when} was accepted")


Span = tuple[float, float, float]


def most_at_once(spans: list[Span]) -> float:
    """The most weight at work at one time, of (weight, from, to)."""
    edges = sorted([(b, w) for w, b, _ in spans] + [(e, -w) for w, _, e in spans])
    most = now = 0.0
    for _, weight in edges:
        now += weight
        most = max(most, now)
    return most

"""Clause 1: a future is completed exactly once."""

from __future__ import annotations

from flsim.errors import Cause
from flsim.message import ErrorCode
from flsim.testing.checks.registry import check
from flsim.testing.checks.tools import (
    lost,
    values,
)
from flsim.testing.subject import Subject
from flsim.testing.wrongs import RAISED, RETURNED


@check(1)
def each_lease_comes_back_once(subject: Subject) -> None:
    """Ten leases, one after another and as many at once as there are places: each future is done once, with its own
    lease's outcome."""
    with subject.desk() as desk:
        desk.start()
        done: list[int] = []
        for batch in range(5):
            futures = []
            for i, place in enumerate(desk.places(2)):
                node = 2 + 2 * batch + i
                future = desk.backend.submit(desk.frames("echo", node=node, tag=node), desk.need, place)
                future.add_done_callback(lambda _, node=node: done.append(node))  # type: ignore[misc]
                futures.append((node, future))
            for node, future in futures:
                answer = desk.outcome(future)
                assert answer.error is None, f"a lease that only echoes came back with {answer.error}"
                assert values(answer)["node"] == node, f"node {node} was sent a lease, and {values(answer)} came back"
        assert len(done) == len(set(done)), f"futures were completed twice: nodes {done}"


@check(1, "isolation")
def a_dead_worker_fails_its_future_with_worker_lost(subject: Subject) -> None:
    """A worker that exits, is killed, or segfaults completes its future, with a cause that charges the message."""
    with subject.desk() as desk:
        desk.start()
        for how, expected in (("exit", Cause.EXITED), ("kill", Cause.SIGNAL), ("segfault", Cause.SIGNAL)):
            error = lost(desk, desk.submit("die", how=how))
            assert error.cause in (expected, Cause.UNKNOWN), f"a worker that ended by {how} was reported as {error!r}"


@check(1)
def what_an_app_raises_or_returns_never_fails_the_future(subject: Subject) -> None:
    """Exceptions of all families, and returns that are no reply, come back as the outcome's error."""
    with subject.desk() as desk:
        desk.start()
        for how in RAISED:
            error = desk.answer("raise", how=how).error
            assert error is not None and error.code == ErrorCode.CLIENT_APP_RAISED_EXCEPTION, f"{how} gave {error}"
            assert how.split("(")[0] in error.reason, f"{how} is not named: {error.reason}"
        for what, (code, _) in RETURNED.items():
            error = desk.answer("return", what=what).error
            assert error is not None and error.code == code, f"returning {what} gave {error}"

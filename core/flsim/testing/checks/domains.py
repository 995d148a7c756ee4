"""Clause 2: one fault domain per lease."""

from __future__ import annotations

import os

from flsim.errors import WorkerLost
from flsim.testing.apps import held, notes
from flsim.testing.checks.registry import check
from flsim.testing.checks.tools import (
    Span,
    eventually_places,
    lost,
    most_at_once,
    temporary_folder,
    values,
)
from flsim.testing.subject import Subject
from flsim.testing.watch import kill


@check(2, "isolation")
def a_death_costs_no_other_lease(subject: Subject) -> None:
    """While one lease takes its time, others die beside it: it comes back all the same."""
    with subject.desk() as desk, temporary_folder() as folder:
        desk.start()
        places = desk.places(2)
        assert len(places) == 2, f"with options {dict(subject.options)} there is no room for two leases: {places}"
        slow = desk.submit("hold", place=places[0], seconds=2.0, folder=str(folder))
        for how in ("exit", "kill"):
            lost(desk, desk.submit("die", place=places[1], how=how))
        assert desk.outcome(slow).error is None
        assert len(notes(folder)) == 1, "the slow lease was executed more than once"


@check(2, "isolation")
def a_process_runs_one_lease_at_a_time(subject: Subject) -> None:
    """Two leases at once are in two processes."""
    with subject.desk() as desk, temporary_folder() as folder:
        desk.start()
        futures = [desk.submit("hold", place=p, seconds=0.5, folder=str(folder)) for p in desk.places(2)]
        for future in futures:
            desk.outcome(future)
        by_process: dict[int, list[Span]] = {}
        for call in held(folder):
            by_process.setdefault(call["pid"], []).append((1.0, call["begun"], call["ended"]))
        for pid, spans in by_process.items():
            assert most_at_once(spans) == 1, f"process {pid} ran several leases at once"


@check(2, "isolation")
def a_dead_worker_is_replaced_before_it_is_offered_work(subject: Subject) -> None:
    """After a death, as many leases as there is room for are answered, more than once over."""
    with subject.desk() as desk:
        desk.start()
        for how in ("kill", "exit"):
            lost(desk, desk.submit("die", how=how))
            for _ in range(3):
                places = eventually_places(desk, 2)
                for future in [desk.submit("echo", place=p) for p in places]:
                    assert desk.outcome(future).error is None


@check(2, "isolation")
def a_worker_killed_while_idle_charges_nobody(subject: Subject) -> None:
    """A worker that dies between leases costs none, or fails the next as *not started*."""
    with subject.desk() as desk:
        desk.start()
        answer = desk.answer("echo")
        pid = values(answer)["pid"]
        assert pid != os.getpid(), "a backend that honours isolation ran a lease in the driver"
        kill(pid)
        for _ in range(20):
            try:
                assert desk.answer("echo", place=eventually_places(desk, 1)[0]).error is None
            except WorkerLost as e:
                assert not e.cause.charges, f"a worker that died while it was idle was reported as {e!r}"

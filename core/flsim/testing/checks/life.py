"""Clauses 5 to 7: equal submissions, start and stop, submit out of its time."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from unittest import mock

from flsim.errors import Cause
from flsim.testing.apps import notes
from flsim.testing.checks.registry import check
from flsim.testing.checks.tools import (
    eventually_places,
    in_time,
    lost,
    refuses,
    temporary_folder,
)
from flsim.testing.subject import Subject
from flsim.testing.watch import alive, children, command, kill, shared_memory, until


@check(5)
def equal_submissions_both_run(subject: Subject) -> None:
    """The same frames, submitted again and again, are executed each time."""
    with subject.desk() as desk, temporary_folder() as folder:
        desk.start()
        frames = desk.frames("hold", seconds=0.0, folder=str(folder))
        for _ in range(3):
            for future in [desk.backend.submit(frames, desk.need, p) for p in desk.places(2)]:
                desk.outcome(future)
        sent = 3 * len(desk.places(2))
        assert len(notes(folder)) == sent, f"{sent} equal leases were submitted, {len(notes(folder))} were executed"


@check(6)
def stop_may_be_called_twice_and_leaves_no_thread_and_no_process(subject: Subject) -> None:
    """After ``stop``, what ``start`` and the leases brought is gone, shared memory too; another ``stop`` does
    nothing."""
    with subject.desk() as desk:
        threads, processes = set(threading.enumerate()), children()
        desk.start()
        desk.answer("echo")
        memory = shared_memory(children() - processes)
        in_time(desk, desk.backend.stop, "stop")
        in_time(desk, desk.backend.stop, "the second stop")
        left = until(lambda: not (set(threading.enumerate()) - threads), 5)
        assert left, f"threads are left: {[t.name for t in set(threading.enumerate()) - threads]}"
        gone = until(lambda: not (children() - processes), 5)
        assert gone, f"child processes are left: {sorted(children() - processes)}"
        gone = until(lambda: not any(f.exists() for f in memory), 5)
        assert gone, f"shared memory is left: {[f.name for f in memory if f.exists()]}"


@check(6)
def what_starts_again_and_again_leaves_nothing(subject: Subject) -> None:
    """Three starts and stops, or up to thirty within two seconds, leave no open file, thread, process, shared memory
    or temporary file that was not there after the first."""

    def there() -> Counter[str]:
        return Counter(
            {
                "open files": len(list(Path("/proc/self/fd").iterdir())),
                "threads": threading.active_count(),
                "processes": len(children()),
                "shared memory": len(shared_memory({os.getpid(), *children()})),
                "temporary files": len(list(Path(tempfile.gettempdir()).iterdir())),
            }
        )

    first: Counter[str] = Counter()
    end = time.monotonic() + 2
    with temporary_folder() as folder, mock.patch.object(tempfile, "tempdir", str(folder)):
        for starts in range(31):
            with subject.desk() as desk:
                desk.start()
                assert desk.answer("echo").error is None
            first = first or there()  # it leaves what a library keeps for the next
            if starts >= 3 and time.monotonic() > end:
                break
        assert until(lambda: not there() - first, 5), f"after {starts} more starts there are more: {there() - first}"


@check(6, "isolation")
def stop_ends_the_workers_also_at_work(subject: Subject) -> None:
    """``stop`` with a lease at work ends soon, and the child processes are gone."""
    with subject.desk() as desk, temporary_folder() as folder:
        before = children()
        desk.start()
        desk.submit("begin", seconds=30.0, folder=str(folder))
        assert until(lambda: len(notes(folder)) == 1, desk.patience), "the lease does not begin"
        in_time(desk, desk.backend.stop, "stop")
        gone = until(lambda: not (children() - before), 5)
        assert gone, f"child processes are left: {sorted(children() - before)}"


@check(6, "abort")
def abort_ends_a_lease_and_its_worker_is_replaced(subject: Subject) -> None:
    """The future of a lease that is aborted fails as *aborted*, its process is gone, and others take its place. To
    abort a lease that is done does nothing."""
    with subject.desk() as desk, temporary_folder() as folder:
        desk.start()
        future = desk.submit("begin", seconds=600.0, folder=str(folder))
        assert until(lambda: len(notes(folder)) == 1, desk.patience), "the lease does not begin"
        desk.backend.abort(future)
        error = lost(desk, future)
        assert error.cause is Cause.ABORTED, f"an aborted lease was reported as {error!r}"
        pid = int(notes(folder)[0])
        assert until(lambda: not alive(pid), desk.patience), "the process of an aborted lease lives on"
        done = desk.submit("echo", place=eventually_places(desk, 1)[0])
        assert desk.outcome(done).error is None
        desk.backend.abort(done)
        for place in eventually_places(desk, 2):
            assert desk.answer("echo", place=place).error is None


@check(6, "abort")
def abort_ends_a_worker_that_does_not_run_at_all(subject: Subject) -> None:
    """One that is stopped, as by SIGSTOP, and hears nothing: the future fails as *aborted*, the process is gone, and
    another takes its place."""
    with subject.desk() as desk, temporary_folder() as folder:
        desk.start()
        future = desk.submit("begin", seconds=600.0, folder=str(folder))
        assert until(lambda: len(notes(folder)) == 1, desk.patience), "the lease does not begin"
        pid = int(notes(folder)[0])
        os.kill(pid, signal.SIGSTOP)
        try:
            desk.backend.abort(future)
            error = lost(desk, future)
            assert error.cause is Cause.ABORTED, f"an aborted lease was reported as {error!r}"
            assert until(lambda: not alive(pid), desk.patience), "the process of an aborted lease lives on"
        finally:
            if alive(pid):
                kill(pid)
        for place in eventually_places(desk, 2):
            assert desk.answer("echo", place=place).error is None


@check(6, "isolation")
def what_start_started_ends_with_a_driver_that_is_killed(subject: Subject) -> None:
    """kill -9 of the driver while a lease is at work: its child processes are gone within five seconds."""
    import cloudpickle

    with temporary_folder() as folder:
        script = (
            "import pickle, sys; from flsim.testing.checks.life import drive; drive(*pickle.load(sys.stdin.buffer))"
        )
        environment = {**os.environ, "TMPDIR": str(folder)}  # what it cannot remove goes with the folder
        with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, env=environment) as driver:
            assert driver.stdin is not None
            driver.stdin.write(cloudpickle.dumps((subject, str(folder))))
            driver.stdin.close()
            begun = until(lambda: bool(notes(folder)) or driver.poll() is not None, subject.patience)
            processes = {p: command(p) for p in children(driver.pid)}
            memory = shared_memory({driver.pid, *processes})
            driver.kill()
        assert begun and notes(folder), "the driver's lease does not begin"
        gone = until(lambda: not any(alive(p) for p in processes if not _lingers(subject, processes[p])), 5)
        assert gone, f"these outlive a driver that was killed: {[c[:80] for p, c in processes.items() if alive(p)]}"
        longest = max(subject.spec.lingers.values(), default=0.0)
        if not subject.linger:
            for left in filter(alive, processes):
                with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile
                    kill(left)
        assert until(lambda: not any(map(alive, processes)), longest), "what may linger a while stays"
        gone = until(lambda: not any(f.exists() for f in memory), 5)
        assert gone, f"shared memory outlives a driver that was killed: {[f.name for f in memory if f.exists()]}"


def drive(subject: Subject, folder: str) -> None:
    """Be the driver that is killed."""
    with subject.desk() as desk:
        desk.start()
        desk.result(desk.submit("begin", seconds=600.0, folder=folder))


def _lingers(subject: Subject, command: str) -> bool:
    return any(part in command for part in subject.spec.lingers)


@check(7)
def submit_before_start_and_after_stop_raises(subject: Subject) -> None:
    """A lease that nobody would run is refused."""
    with subject.desk() as desk:
        frames = desk.frames("echo")
        place = desk.start().place()
        desk.answer("echo")
        desk.backend.stop()
        refuses(lambda: desk.backend.submit(frames, desk.need, place), "after stop")
    with subject.desk() as desk:
        refuses(lambda: desk.backend.submit(desk.frames("echo"), desk.need, place), "before start")

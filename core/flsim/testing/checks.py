"""The contract of a backend, clause by clause, as plain functions.

Each check takes the Subject, uses the backend for real, and raises AssertionError with what it saw. A check with
``needs`` applies to backends that honour those; one without applies to all.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from flsim.aggregate import weighted_mean
from flsim.apps import Context, ServerApp
from flsim.code import Code, Reference
from flsim.envelope import Generators, describe
from flsim.errors import BackendBroken, Cause, InputError, UnsupportedResources, WorkerLost
from flsim.fleet import Kind
from flsim.grid import Grid
from flsim.job import Job, JobKind, job_digest
from flsim.message import ErrorCode, Message
from flsim.options import make_options
from flsim.payload import Frames, blob_of
from flsim.project import Project, load_project
from flsim.quarantine import quarantined
from flsim.records import ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from flsim.resources import Resources
from flsim.testing.apps import RAISED, RETURNED, client, held, notes, untouched_generators
from flsim.testing.subject import Desk, Subject
from flsim.testing.watch import alive, children, command, kill, listening, shared_memory, until
from flsim.wire import JOB_WANTED, Packed, Terms, outcomes_of, pack_lease, unpack_reply, with_job


@dataclasses.dataclass(frozen=True, slots=True)
class Check:
    """One check of one clause."""

    clause: int
    name: str
    needs: frozenset[str]
    run: Callable[[Subject], None]

    def applies(self, subject: Subject) -> bool:
        """Whether the backend honours what this check is about."""
        return self.needs <= subject.spec.honours

    def result(self, subject: Subject) -> Result:
        """Run the check, and say what came of it."""
        if not self.applies(subject):
            missing = ", ".join(sorted(self.needs - subject.spec.honours))
            return Result("not offered", 0.0, f"{subject.spec.name} does not honour {missing}")
        begun = time.perf_counter()
        try:
            self.run(subject)
        except AssertionError as e:
            return Result("failed", time.perf_counter() - begun, str(e))
        except Exception as e:  # a backend may break in any way; that it does is the result
            return Result("failed", time.perf_counter() - begun, describe(e))
        return Result("passed", time.perf_counter() - begun, "")


@dataclasses.dataclass(frozen=True, slots=True)
class Result:
    """What came of a check."""

    outcome: Literal["passed", "failed", "not offered"]
    seconds: float
    reason: str


CHECKS: list[Check] = []
"""All checks, in the order of the clauses."""


def check(clause: int, *needs: str) -> Callable[[Callable[[Subject], None]], Callable[[Subject], None]]:
    """Add a function to :data:`CHECKS`."""

    def add(fn: Callable[[Subject], None]) -> Callable[[Subject], None]:
        CHECKS.append(Check(clause, fn.__name__, frozenset(needs), fn))
        return fn

    return add


# ---- 1: a future is completed exactly once


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
                assert _values(answer)["node"] == node, f"node {node} was sent a lease, and {_values(answer)} came back"
        assert len(done) == len(set(done)), f"futures were completed twice: nodes {done}"


@check(1, "isolation")
def a_dead_worker_fails_its_future_with_worker_lost(subject: Subject) -> None:
    """A worker that exits, is killed, or segfaults completes its future, with a cause that charges the message."""
    with subject.desk() as desk:
        desk.start()
        for how, expected in (("exit", Cause.EXITED), ("kill", Cause.SIGNAL), ("segfault", Cause.SIGNAL)):
            error = _lost(desk, desk.submit("die", how=how))
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
        for what, code in RETURNED.items():
            error = desk.answer("return", what=what).error
            assert error is not None and error.code == code, f"returning {what} gave {error}"


# ---- 2: one fault domain per lease


@check(2, "isolation")
def a_death_costs_no_other_lease(subject: Subject) -> None:
    """While one lease takes its time, others die beside it: it comes back all the same."""
    with subject.desk() as desk, _folder() as folder:
        desk.start()
        places = desk.places(2)
        assert len(places) == 2, f"with options {dict(subject.options)} there is no room for two leases: {places}"
        slow = desk.submit("hold", place=places[0], seconds=2.0, folder=str(folder))
        for how in ("exit", "kill"):
            _lost(desk, desk.submit("die", place=places[1], how=how))
        assert desk.outcome(slow).error is None
        assert len(notes(folder)) == 1, "the slow lease was executed more than once"


@check(2, "isolation")
def a_process_runs_one_lease_at_a_time(subject: Subject) -> None:
    """Two leases at once are in two processes."""
    with subject.desk() as desk, _folder() as folder:
        desk.start()
        futures = [desk.submit("hold", place=p, seconds=0.5, folder=str(folder)) for p in desk.places(2)]
        for future in futures:
            desk.outcome(future)
        by_process: dict[int, list[Span]] = {}
        for call in held(folder):
            by_process.setdefault(call["pid"], []).append((1.0, call["begun"], call["ended"]))
        for pid, spans in by_process.items():
            assert _most_at_once(spans) == 1, f"process {pid} ran several leases at once"


@check(2, "isolation")
def a_dead_worker_is_replaced_before_it_is_offered_work(subject: Subject) -> None:
    """After a death, as many leases as there is room for are answered, more than once over."""
    with subject.desk() as desk:
        desk.start()
        for how in ("kill", "exit"):
            _lost(desk, desk.submit("die", how=how))
            for _ in range(3):
                places = _eventually_places(desk, 2)
                for future in [desk.submit("echo", place=p) for p in places]:
                    assert desk.outcome(future).error is None


@check(2, "isolation")
def a_worker_killed_while_idle_charges_nobody(subject: Subject) -> None:
    """A worker that dies between leases costs none, or fails the next as *not started*."""
    with subject.desk() as desk:
        desk.start()
        answer = desk.answer("echo")
        pid = _values(answer)["pid"]
        assert pid != os.getpid(), "a backend that honours isolation ran a lease in the driver"
        kill(pid)
        for _ in range(20):
            try:
                assert desk.answer("echo", place=_eventually_places(desk, 1)[0]).error is None
            except WorkerLost as e:
                assert not e.cause.charges, f"a worker that died while it was idle was reported as {e!r}"


# ---- 3: what is declared is honoured, and what is not is refused


@check(3)
def what_is_not_honoured_is_refused(subject: Subject) -> None:
    """A need for gpus or a custom resource that the backend does not honour is refused before the first message."""
    needs = {"gpus": Resources(gpus=0.5), "custom": Resources(custom={"licence": 1})}
    for what, need in needs.items():
        if what not in subject.spec.honours:
            try:
                subject.run(_unreached, kinds=[Kind("default", client, 4, need)])
            except UnsupportedResources:
                continue
            raise AssertionError(f"a need for {what} was accepted, which the backend does not honour")


@check(3)
def a_need_that_fits_nowhere_is_refused(subject: Subject) -> None:
    """More cpus than there are: refused before the first message, with what was asked and what there is."""
    if "cpus" not in subject.spec.honours:
        return
    try:
        subject.run(_unreached, kinds=[Kind("default", client, 4, Resources(cpus=4096))])
    except UnsupportedResources as e:
        assert "4096" in str(e), f"the refusal does not say what was asked: {e}"
        return
    raise AssertionError("a need of 4096 cpus was accepted")


@check(3)
def no_place_has_more_than_the_options_give(subject: Subject) -> None:
    """The places together have no more cpus than the option ``cpus`` says, where there is one."""
    cpus = subject.options.get("cpus")
    if cpus is None:
        return
    with subject.desk() as desk:
        places = desk.start().backend.capacity()
        there = sum(p.resources.cpus for p in places)
        assert there <= cpus, f"with cpus={cpus:g} the places have {there:g}: {places}"


@check(3)
def a_resource_that_there_is_not_is_refused(subject: Subject) -> None:
    """A need for a custom resource that no place has, or for more gpus than there are, is refused, honoured or not."""
    for need in (Resources(custom={"no such thing": 1}), Resources(gpus=4096)):
        try:
            subject.run(_unreached, kinds=[Kind("default", client, 4, need)])
        except UnsupportedResources:
            continue
        raise AssertionError(f"a need of {need} was accepted")


@check(3, "cpus")
def a_mixed_fleet_never_uses_more_cpus_than_there_are(subject: Subject) -> None:
    """ClientApps of 1 and of 2 cpus share the places: what is at work at once never needs more than there is."""
    with subject.desk() as desk:
        desk.start()
        cpus = sum(p.resources.cpus for p in desk.backend.capacity())
        heavy = 2 if any(p.resources.cpus >= 2 for p in desk.backend.capacity()) else 1
    with _folder() as folder:
        kinds = [
            Kind("light", client, 8, Resources(cpus=1), {"weight": 1}),
            Kind("heavy", client, 4, Resources(cpus=heavy), {"weight": heavy}),
        ]
        subject.run(_hold_all, kinds=kinds, config={"folder": str(folder), "seconds": 0.1})
        calls = held(folder)
        assert len(calls) == 12, f"12 messages were sent, {len(calls)} calls were made"
        most = _most_at_once([(c["weight"], c["begun"], c["ended"]) for c in calls])
        assert most <= cpus, f"ClientApps at work at once needed {most:g} cpus of {cpus:g}"


@check(3, "custom")
def a_custom_resource_is_never_given_out_twice(subject: Subject) -> None:
    """Of a custom resource that there is one of, one ClientApp at a time has it."""
    subject = _that_has(subject, custom={"licence": 1.0})
    if subject.options.get("custom") is None:
        return  # a cluster that is joined has what it has
    with _folder() as folder:
        kinds = [Kind("default", client, 4, Resources(cpus=0.5, custom={"licence": 1}))]
        subject.run(_hold_all, kinds=kinds, config={"folder": str(folder), "seconds": 0.1})
        most = _most_at_once([(1.0, c["begun"], c["ended"]) for c in held(folder)])
        assert most == 1, f"{most:g} ClientApps at work at once had a resource that there is one of"


@check(3, "memory", "isolation")
def a_message_that_takes_more_memory_than_it_may_ends_its_worker(subject: Subject) -> None:
    """With 300 MiB of its own it may take 100 and not 600; the worker that it ends is lost by *memory*, and both
    amounts are said."""
    with subject.desk(Resources(memory="300MiB")) as desk:  # type: ignore[arg-type]  # a size is taken, too
        desk.start()
        fine = desk.answer("take", mebibytes=100, keep=False)
        assert fine.error is None
        assert fine.peak_memory >= 100 * 2**20, f"it is said to have held no more than {fine.peak_memory} bytes"
        error = _lost(desk, desk.submit("take", mebibytes=600, keep=False))
        assert error.cause is Cause.MEMORY, f"a worker that took too much was reported as {error!r}"
        assert "300 MiB" in str(error), f"what it may hold is not said: {error}"
        assert _eventually_answers(desk).error is None


@check(3, "isolation")
def a_message_that_hangs_ends_its_worker_at_its_time_limit(subject: Subject) -> None:
    """In Python, and in C with the GIL held: the worker that it ends is lost by *time limit*, with its stack."""
    with subject.desk(time_limit=1.0) as desk:
        desk.start()
        for how in ("python", "c"):
            error = _lost(desk, desk.submit("hang", place=_eventually_places(desk, 1)[0], how=how))
            assert error.cause is Cause.TIME_LIMIT, f"a worker that hung in {how} was reported as {error!r}"
            assert "in hang" in error.traceback, f"its stack does not say where: {error.traceback!r}"
        assert _eventually_answers(desk).error is None


# ---- 4: threads


@check(4, "cpus")
def blas_has_the_threads_of_the_need(subject: Subject) -> None:
    """BLAS has ``max(1, floor(cpus))`` threads while a message runs."""
    for cpus, expected in ((1.0, 1), (0.5, 1), (2.0, 2)):
        with subject.desk(Resources(cpus=cpus)) as desk:
            desk.start()
            if not desk.places(1):
                continue  # no place is that large
            for _ in range(2):
                threads = _values(desk.answer("threads"))["threads"]
                assert threads == expected, f"a ClientApp of {cpus:g} cpus saw {threads} threads"


@check(4, "gpus")
def a_clientapp_sees_the_gpus_that_it_has_and_no_others(subject: Subject) -> None:
    """Of two gpus, shares of one, whole ones and none, by CUDA_VISIBLE_DEVICES: none is given out beyond what it is,
    and a process stays on its own."""
    subject = _that_has(subject, gpus=2)
    if subject.options.get("gpus") is None:
        return  # a cluster that is joined has what it has
    kinds = [
        Kind("shared", client, 4, Resources(cpus=0.25, gpus=0.5), {"share": 0.5}),
        Kind("whole", client, 2, Resources(cpus=0.25, gpus=1), {"share": 1}),
    ]
    if "isolation" in subject.spec.honours:
        kinds.append(Kind("none", client, 2, Resources(cpus=0.25)))
    with _folder() as folder:
        subject.run(_hold_all, kinds=kinds, config={"folder": str(folder), "seconds": 0.1})
        calls = held(folder)
    assert len(calls) == sum(k.nodes for k in kinds), f"{len(calls)} calls were made"
    with_gpus = [h for h in calls if h["share"]]
    devices = {h["gpus"] for h in with_gpus}
    assert devices <= {"0", "1"}, f"ClientApps that need one gpu saw {devices}"
    for device in devices:
        most = _most_at_once([(h["share"], h["begun"], h["ended"]) for h in with_gpus if h["gpus"] == device])
        assert most <= 1, f"gpu {device} was given out {most:g} times at once"
    for pid in {h["pid"] for h in calls}:
        seen = {h["gpus"] for h in calls if h["pid"] == pid and h["share"]}
        assert len(seen) <= 1, f"process {pid} saw first one gpu and then another: {seen}"


# ---- 5: equal submissions both run


@check(5)
def equal_submissions_both_run(subject: Subject) -> None:
    """The same frames, submitted again and again, are executed each time."""
    with subject.desk() as desk, _folder() as folder:
        desk.start()
        frames = desk.frames("hold", seconds=0.0, folder=str(folder))
        for _ in range(3):
            for future in [desk.backend.submit(frames, desk.need, p) for p in desk.places(2)]:
                desk.outcome(future)
        sent = 3 * len(desk.places(2))
        assert len(notes(folder)) == sent, f"{sent} equal leases were submitted, {len(notes(folder))} were executed"


# ---- 6: start and stop


@check(6)
def stop_may_be_called_twice_and_leaves_no_thread_and_no_process(subject: Subject) -> None:
    """After ``stop``, what ``start`` and the leases brought is gone, shared memory too; another ``stop`` does
    nothing."""
    with subject.desk() as desk:
        threads, processes = set(threading.enumerate()), children()
        desk.start()
        desk.answer("echo")
        memory = shared_memory(children() - processes)
        _in_time(desk, desk.backend.stop, "stop")
        _in_time(desk, desk.backend.stop, "the second stop")
        left = until(lambda: not (set(threading.enumerate()) - threads), 5)
        assert left, f"threads are left: {[t.name for t in set(threading.enumerate()) - threads]}"
        gone = until(lambda: not (children() - processes), 5)
        assert gone, f"child processes are left: {sorted(children() - processes)}"
        gone = until(lambda: not any(f.exists() for f in memory), 5)
        assert gone, f"shared memory is left: {[f.name for f in memory if f.exists()]}"


@check(6, "isolation")
def stop_ends_the_workers_also_at_work(subject: Subject) -> None:
    """``stop`` with a lease at work ends soon, and the child processes are gone."""
    with subject.desk() as desk, _folder() as folder:
        before = children()
        desk.start()
        desk.submit("begin", seconds=30.0, folder=str(folder))
        assert until(lambda: len(notes(folder)) == 1, desk.patience), "the lease does not begin"
        _in_time(desk, desk.backend.stop, "stop")
        gone = until(lambda: not (children() - before), 5)
        assert gone, f"child processes are left: {sorted(children() - before)}"


@check(6, "abort")
def abort_ends_a_lease_and_its_worker_is_replaced(subject: Subject) -> None:
    """The future of a lease that is aborted fails as *aborted*, its process is gone, and others take its place. To
    abort a lease that is done does nothing."""
    with subject.desk() as desk, _folder() as folder:
        desk.start()
        future = desk.submit("begin", seconds=600.0, folder=str(folder))
        assert until(lambda: len(notes(folder)) == 1, desk.patience), "the lease does not begin"
        desk.backend.abort(future)
        error = _lost(desk, future)
        assert error.cause is Cause.ABORTED, f"an aborted lease was reported as {error!r}"
        pid = int(notes(folder)[0])
        assert until(lambda: not alive(pid), desk.patience), "the process of an aborted lease lives on"
        done = desk.submit("echo", place=_eventually_places(desk, 1)[0])
        assert desk.outcome(done).error is None
        desk.backend.abort(done)
        for place in _eventually_places(desk, 2):
            assert desk.answer("echo", place=place).error is None


@check(6, "isolation")
def what_start_started_ends_with_a_driver_that_is_killed(subject: Subject) -> None:
    """kill -9 of the driver while a lease is at work: its child processes are gone within five seconds."""
    import cloudpickle

    with _folder() as folder:
        script = "import pickle, sys; from flsim.testing.checks import drive; drive(*pickle.load(sys.stdin.buffer))"
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


# ---- 7: submit out of its time


@check(7)
def submit_before_start_and_after_stop_raises(subject: Subject) -> None:
    """A lease that nobody would run is refused."""
    with subject.desk() as desk:
        frames = desk.frames("echo")
        place = desk.start().place()
        desk.answer("echo")
        desk.backend.stop()
        _refuses(lambda: desk.backend.submit(frames, desk.need, place), "after stop")
    with subject.desk() as desk:
        _refuses(lambda: desk.backend.submit(desk.frames("echo"), desk.need, place), "before start")


# ---- 8: hosts


@check(8, "hosts")
def an_app_runs_where_its_folder_is_not(subject: Subject) -> None:
    """The app's folder is gone when the lease comes: the worker asks for the job, and has the app from there."""
    with subject.desk() as desk, _folder() as folder:
        (folder / "far_away").mkdir()
        (folder / "far_away" / "__init__.py").write_text(_FAR_AWAY)
        (folder / "far_away" / "word.txt").write_text("there")
        code = Code.of_folder(folder)
        reference = Reference(code, "far_away", "client")
        job = Job(1, 7, 1, {}, (JobKind(reference, {}, desk.need),), {code.digest: code.archive()}).encoded()
        shutil.rmtree(folder / "far_away")
        desk.start()
        packed = Packed(1, 2, 0, "query", "", 0.0, None, blob_of(RecordDict()), None)
        frames = pack_lease([packed], Terms(1, "", job_digest(job), 0, Generators.SEED_AND_RESTORE))
        back = desk.result(desk.backend.submit(frames, desk.need, desk.place()))
        assert unpack_reply(back).status == JOB_WANTED, "a worker that does not have the job does not ask for it"
        back = desk.result(desk.backend.submit(with_job(frames, job), desk.need, desk.place()))
        assert _values(outcomes_of(unpack_reply(back), back.buffers)[0])["word"] == "there"


_FAR_AWAY = """
from pathlib import Path
from flsim import ClientApp, ConfigRecord, Message, RecordDict

client = ClientApp()

@client.query()
def answer(msg, context):
    word = Path(__file__).with_name("word.txt").read_text()
    return Message(RecordDict({"values": ConfigRecord({"word": word})}), reply_to=msg)
"""


@check(8, "hosts")
def an_edited_app_runs_anew_where_its_folder_is_not(subject: Subject) -> None:
    """An app whose folder is gone when its messages are sent, run twice with an edit between: each run is of the code
    that it began with, also where both met the same workers."""
    with _folder() as folder:
        for word in ("first", "second"):
            app = folder / "app"
            app.mkdir()
            (app / "pyproject.toml").write_text(_EDITED_TABLE)
            (app / "edited.py").write_text(_EDITED.format(word=word, folder=str(app), away=str(folder / word)))
            result = subject.run_project(load_project(app))
            words = result.state.config_records["words"]
            assert set(words.values()) == {word}, f"the {word} version was started, and {dict(words)} ran"


_EDITED_TABLE = """
[tool.flsim]
server = "edited:server"
client = "edited:client"
nodes = 8
"""

_EDITED = """
import os
from flsim import ClientApp, ConfigRecord, Message, RecordDict, ServerApp

server, client = ServerApp(), ClientApp()

@client.query()
def answer(msg, context):
    return Message(RecordDict({{"values": ConfigRecord({{"word": "{word}"}})}}), reply_to=msg)

@server.main()
def main(grid, context):
    os.rename("{folder}", "{away}")
    replies = grid.send_and_receive(Message(RecordDict(), n, "query") for n in grid.get_node_ids())
    context.state["words"] = ConfigRecord({{str(i): r.content["values"]["word"] for i, r in enumerate(replies)}})
"""


@check(8, "hosts")
def what_the_app_needs_and_a_host_lacks_is_named(subject: Subject) -> None:
    """A distribution that the app needs and no worker has ends the run before its ServerApp is called."""
    lacking = "a-distribution-that-is-nowhere"
    kinds = (Kind("default", client, 4),)
    project = Project("check", _unreached, kinds, declared=False, requirements=(lacking,))
    try:
        subject.run_project(project)
    except BackendBroken as e:
        assert lacking in str(e), f"the distribution is not named: {e}"
        return
    raise AssertionError("the run ended well, though its app needs what there is not")


# ---- 9: printing


@check(9)
def a_worker_may_print_a_megabyte(subject: Subject) -> None:
    """What a ClientApp prints comes back cut, and costs nothing else."""
    with subject.desk() as desk:
        desk.start()
        answer = desk.answer("print", characters=1_000_000)
        assert answer.error is None
        assert 0 < len(answer.printed) < 100_000, f"{len(answer.printed)} characters of 1,000,000 came back"


@check(9, "memory", "isolation")
def a_worker_that_grows_is_replaced_between_messages(subject: Subject) -> None:
    """Of 512 MiB each message leaves 80 behind in its worker: another takes its place in time, and no message fails."""
    kinds = [Kind("default", client, 10, Resources(memory="512MiB"))]  # type: ignore[arg-type]  # a size is taken, too
    result = subject.run(_take_all, kinds=kinds)
    pids = result.state.config_records["pids"]
    assert len(set(pids.values())) > 1, "all messages were answered by one process, that kept all they left"


# ---- 10: determinism


@check(10)
def the_result_is_that_of_any_number_of_workers(subject: Subject) -> None:
    """Draws, products, states and aggregates: one digest with each variant of the options, and again."""
    digests: dict[str, list[Any]] = {}
    for options in (subject.options, subject.options, *subject.variants):
        result = subject.run(_draw_rounds, options=options)
        assert result.answered == result.sent, f"with {options}: {result.counts}"
        digests.setdefault(result.digest, []).append(options)
    assert len(digests) == 1, f"the digest differs: {digests}"
    other = subject.run(_draw_rounds, seed=8)
    assert other.digest not in digests, "another seed gave the same digest"


@check(10)
def seeds_are_of_the_node_and_its_count(subject: Subject) -> None:
    """What a node draws is what numpy's SeedSequence(seed, spawn_key=(node, k)) gives, whoever runs it."""
    import numpy as np

    result = subject.run(_draw_rounds)
    drawn = result.state.array_records["drawn"]
    for k in range(ROUNDS):
        for i, node in enumerate(range(2, 2 + DRAWN)):
            rng = np.random.default_rng(np.random.SeedSequence(7, spawn_key=(node, k)))
            rng.standard_normal((64, 64))
            expected = rng.random()
            assert drawn[str(k)][i] == expected, f"node {node}, message {k}: drew {drawn[str(k)][i]}, not {expected}"


@check(10)
def nothing_draws_from_the_generators_beside_a_call(subject: Subject) -> None:
    """What ``random`` and ``numpy.random`` give after a second of rest is what they would have given before it, in the
    ClientApp and in the ServerApp."""
    result = subject.run(_rest_all)
    for who, untouched in result.state.metric_records["untouched"].items():
        assert untouched, f"something drew from the global generators of the {who} while it rested"


@check(10, "isolation")
def deaths_do_not_change_the_result(subject: Subject) -> None:
    """Every fifth node ends its worker once: the digest is that of a run without deaths."""
    calm = subject.run(_draw_rounds, config={"action": "draw"})
    with _folder() as folder:
        stormy = subject.run(_draw_rounds, config={"action": "die_once", "folder": str(folder)})
    assert stormy.answered == stormy.sent, f"messages were lost: {stormy.counts}"
    assert stormy.digest == calm.digest, "the digest differs from that of the run without deaths"


# ---- 11: ports


@check(11)
def nothing_listens_beyond_this_host(subject: Subject) -> None:
    """What this process and its children listen on, once leases have run, is on 127.0.0.1 or ::1."""
    before = listening({os.getpid()})
    with subject.desk() as desk:
        desk.start()
        desk.answer("echo")
        found = listening({os.getpid(), *children()}) - before
        open_ = sorted(a for a in found if not a.startswith(("127.", "::1 ", "::ffff:127.")))
        assert not open_, f"these can be reached from other hosts: {open_}"


# ---- 12: payload


@check(12)
def models_arrive_whole_and_read_only(subject: Subject) -> None:
    """A model that many messages carry arrives in each as it was when it was pushed, and read-only; large replies and
    node states come back as they were when the ClientApp returned."""
    subject.run(_send_models)


@check(12, "isolation")
def a_model_outlives_the_worker_that_had_it(subject: Subject) -> None:
    """Workers that die with a message that carries a model cost no other message, and those have the model. So has the
    quarantine, where the messages that cost them are kept."""
    import numpy as np

    with _folder() as folder:
        subject.run(_send_models, config={"dies": 2}, run_dir=folder)
        kept = [{bytes(b) for b in q.frames().buffers} for q in quarantined(folder)]
    sent = [(np.arange(100_000.0) + added).tobytes() for added in (1, 1, 3, 3)]
    assert len(kept) == len(sent), f"{len(sent)} messages cost their workers, {len(kept)} are in quarantine"
    for model, buffers in zip(sent, kept, strict=True):
        assert {model, bytes(range(256)) * 1000} <= buffers, "what is in quarantine is not what was sent"


# ---- the apps of whole runs

ROUNDS = 2
DRAWN = 10

_unreached = ServerApp()
_hold_all = ServerApp()
_take_all = ServerApp()
_draw_rounds = ServerApp()
_rest_all = ServerApp()
_send_models = ServerApp()


@_unreached.main()
def _not_to_be_called(grid: Grid, context: Context) -> None:
    raise AssertionError("the run began, though its needs cannot be met")


@_hold_all.main()
def _hold(grid: Grid, context: Context) -> None:
    plan = RecordDict({"plan": ConfigRecord(dict(context.run_config))})
    replies = grid.send_and_receive(Message(plan, n, "query.hold") for n in grid.get_node_ids())
    errors = [str(r.error) for r in replies if r.has_error()]
    assert not errors, f"errors came back: {errors}"


@_take_all.main()
def _take(grid: Grid, context: Context) -> None:
    plan = RecordDict({"plan": ConfigRecord({"mebibytes": 80, "keep": True})})
    pids = {}
    for node in grid.get_node_ids():
        (reply,) = grid.send_and_receive([Message(plan, node, "query.take")])
        assert not reply.has_error(), f"message {node} failed: {reply.error}"
        pids[str(node)] = reply.content.config_records["values"]["pid"]
    context.state["pids"] = ConfigRecord(pids)


@_draw_rounds.main()
def _draw(grid: Grid, context: Context) -> None:
    import numpy as np

    from flsim.records import ArrayRecord

    action = context.run_config.get("action", "draw")
    folder = str(context.run_config.get("folder", ""))
    drawn = {}
    for k in range(ROUNDS):
        messages = []
        for i, node in enumerate(grid.get_node_ids()[:DRAWN]):
            plan = RecordDict({"plan": ConfigRecord({"folder": folder})})
            messages.append(Message(plan, node, f"query.{action if i % 5 == 0 else 'draw'}"))
        replies = grid.send_and_receive(messages)
        for record, value in weighted_mean(replies).items():
            context.state[f"{record}-{k}"] = value
        drawn[str(k)] = np.array([r.content.array_records["arrays"]["drawn"][0] for r in replies])
    context.state["drawn"] = ArrayRecord(drawn)


@_rest_all.main()
def _rest(grid: Grid, context: Context) -> None:
    untouched = untouched_generators()
    replies = grid.send_and_receive(Message(RecordDict(), n, "query.rest") for n in grid.get_node_ids()[:2])
    errors = [str(r.error) for r in replies if r.has_error()]
    assert not errors, f"errors came back: {errors}"
    clients = all(r.content.config_records["values"]["untouched"] for r in replies)
    context.state["untouched"] = MetricRecord({"ServerApp": int(untouched()), "ClientApp": int(clients)})


@_send_models.main()
def _models(grid: Grid, context: Context) -> None:
    import numpy as np

    nodes = list(grid.get_node_ids()[:8])
    dying = nodes[: int(context.run_config.get("dies", 0))]
    model = {"w": np.arange(100_000.0), "b": np.arange(1000.0), "few": np.arange(3.0)}
    raw = bytes(range(256)) * 1000
    for round in range(2):
        model["w"] += 1
        arrays, more = ArrayRecord(model), ConfigRecord({"raw": raw})
        same = RecordDict({"model": arrays, "raw": more})
        plan = ConfigRecord({"how": "exit"})
        messages = [
            Message(RecordDict({"model": arrays, "raw": more, "plan": plan}), node, "query.die")
            if node in dying
            else Message(same if i % 2 else RecordDict({"model": arrays, "raw": more}), node, "query.model")
            for i, node in enumerate(nodes)
        ]
        ids = grid.push_messages(messages)
        expected = sum(float(a.sum()) for a in model.values())
        model["w"] += 1  # which nobody may see, until the next round
        replies: dict[str, Message] = {}
        while len(replies) < len(ids):
            replies |= {r.metadata.reply_to_message_id: r for r in grid.pull_messages(timeout=None)}
        for node, id_ in zip(nodes, ids, strict=True):
            reply = replies[id_]
            if node in dying:
                assert reply.error.code == ErrorCode.WORKER_DIED, f"a worker that exits gave {reply.error}"
                continue
            assert reply.has_content(), f"node {node} was sent a model, and answered {reply.error}"
            said, new = reply.content["values"], reply.content["new"]
            assert said["sum"] == expected, (
                f"node {node} was sent arrays whose sum is {expected}, and saw {said['sum']}"
            )
            assert not said["writeable"], f"node {node} was given arrays that it could write to"
            assert said["raw"] == hashlib.sha256(raw).hexdigest(), f"node {node} was sent other bytes than it saw"
            assert np.array_equal(new["w"], model["w"]), f"node {node} answered with other arrays than came back"
            assert (new["scratch"] == node).all(), f"the reply of node {node} has changed since it was returned"
            assert not any(a.flags.writeable for a in new.values()), "the arrays of a reply can be written to"
            assert said["kept"] == (node if round else -1), f"node {node} found the state {said['kept']}"


# ---- tools


@contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="flsim-check-") as folder:
        yield Path(folder)


def _lost(desk: Desk, future: Future[Frames]) -> WorkerLost:
    done, _ = wait([future], desk.patience)
    assert done, f"the future of a lease whose worker died is not completed after {desk.patience:g} s"
    try:
        frames = desk.result(future)
    except WorkerLost as e:
        return e
    raise AssertionError(f"the future of a lease whose worker died gave {frames!r}")


def _values(answer: Any) -> dict[str, Any]:
    assert answer.error is None, str(answer.error)
    return dict(answer.reply.decoded().config_records["values"])


def _eventually_places(desk: Desk, count: int) -> list[Any]:
    """Places, once there is one: a backend may say that a place is gone until its worker is replaced."""
    assert until(lambda: bool(desk.places(count)), desk.patience), "no place came back after a death"
    return desk.places(count)


def _eventually_answers(desk: Desk) -> Any:
    return desk.answer("echo", place=_eventually_places(desk, 1)[0])


def _that_has(subject: Subject, **options: Any) -> Subject:
    """The subject with these options, too; as it is where it does not take them, as for a cluster that is joined."""
    try:
        make_options(subject.spec, {**subject.options, **options})
    except InputError:
        return subject
    return dataclasses.replace(subject, options={**subject.options, **options})


def _in_time(desk: Desk, call: Callable[[], None], what: str) -> None:
    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(desk.patience)
    assert not thread.is_alive(), f"{what} hangs"


def _refuses(call: Callable[[], Any], when: str) -> None:
    try:
        call()
    except RuntimeError:
        return
    raise AssertionError(f"submit {when} was accepted")


Span = tuple[float, float, float]


def _most_at_once(spans: list[Span]) -> float:
    """The most weight at work at one time, of (weight, from, to)."""
    edges = sorted([(b, w) for w, b, _ in spans] + [(e, -w) for w, _, e in spans])
    most = now = 0.0
    for _, weight in edges:
        now += weight
        most = max(most, now)
    return most

"""Clauses 3 and 4: what is declared is honoured, and what is not is refused; threads."""

from __future__ import annotations

import re

from flsim.blackbox import boxes_in
from flsim.errors import Cause, UnsupportedResources
from flsim.fleet import Kind
from flsim.resources import Resources
from flsim.testing.apps import client, held, notes
from flsim.testing.checks.registry import check
from flsim.testing.checks.servers import hold_all, unreached
from flsim.testing.checks.tools import (
    eventually_answers,
    eventually_places,
    lost,
    most_at_once,
    temporary_folder,
    that_has,
    values,
)
from flsim.testing.subject import Subject
from flsim.testing.watch import kill, until


@check(3)
def what_is_not_honoured_is_refused(subject: Subject) -> None:
    """A need for gpus or a custom resource that the backend does not honour is refused before the first message."""
    needs = {"gpus": Resources(gpus=0.5), "custom": Resources(custom={"licence": 1})}
    for what, need in needs.items():
        if what not in subject.spec.honours:
            try:
                subject.run(unreached, kinds=[Kind("default", client, 4, need)])
            except UnsupportedResources:
                continue
            raise AssertionError(f"a need for {what} was accepted, which the backend does not honour")


@check(3)
def a_need_that_fits_nowhere_is_refused(subject: Subject) -> None:
    """More cpus than there are: refused before the first message, with what was asked and what there is."""
    if "cpus" not in subject.spec.honours:
        return
    try:
        subject.run(unreached, kinds=[Kind("default", client, 4, Resources(cpus=4096))])
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
            subject.run(unreached, kinds=[Kind("default", client, 4, need)])
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
    with temporary_folder() as folder:
        kinds = [
            Kind("light", client, 8, Resources(cpus=1), {"weight": 1}),
            Kind("heavy", client, 4, Resources(cpus=heavy), {"weight": heavy}),
        ]
        subject.run(hold_all, kinds=kinds, config={"folder": str(folder), "seconds": 0.1})
        calls = held(folder)
        assert len(calls) == 12, f"12 messages were sent, {len(calls)} calls were made"
        most = most_at_once([(c["weight"], c["begun"], c["ended"]) for c in calls])
        assert most <= cpus, f"ClientApps at work at once needed {most:g} cpus of {cpus:g}"


@check(3, "custom")
def a_custom_resource_is_never_given_out_twice(subject: Subject) -> None:
    """Of a custom resource that there is one of, one ClientApp at a time has it."""
    subject = that_has(subject, custom={"licence": 1.0})
    if subject.options.get("custom") is None:
        return  # a cluster that is joined has what it has
    with temporary_folder() as folder:
        kinds = [Kind("default", client, 4, Resources(cpus=0.5, custom={"licence": 1}))]
        subject.run(hold_all, kinds=kinds, config={"folder": str(folder), "seconds": 0.1})
        most = most_at_once([(1.0, c["begun"], c["ended"]) for c in held(folder)])
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
        error = lost(desk, desk.submit("take", mebibytes=600, keep=False))
        assert error.cause is Cause.MEMORY, f"a worker that took too much was reported as {error!r}"
        assert "300 MiB" in str(error), f"what it may hold is not said: {error}"
        assert eventually_answers(desk).error is None


@check(3, "isolation")
def a_worker_that_something_else_kills_says_what_it_held(subject: Subject) -> None:
    """With 100 MiB of its message's, as the kernel kills a process when the host has no memory left: it is lost by a
    cause that charges the message, and that says how much it had held."""
    most = 100 * 2**20
    with subject.desk() as desk, temporary_folder() as folder:
        desk.start()
        future = desk.submit("wait", folder=str(folder), mebibytes=100, patience=subject.patience)
        assert until(lambda: bool(notes(folder)), desk.patience), "the lease does not begin"
        seen = until(lambda: any(box.peak >= most for box in boxes_in(desk.info.folder).values()), desk.patience)
        assert seen, "what a worker holds is not noted"
        kill(int(notes(folder)[0]))
        error = lost(desk, future)
        assert error.cause.charges, f"a worker that was killed was reported as {error!r}"
        held = re.search(r"it had held up to ([\d,]+) MiB", str(error))
        assert held and int(held[1].replace(",", "")) >= 100, f"what it held is not said: {error}"


@check(3, "isolation")
def a_message_that_hangs_ends_its_worker_at_its_time_limit(subject: Subject) -> None:
    """In Python, and in C with the GIL held: the worker that it ends is lost by *time limit*, with its stack."""
    with subject.desk(time_limit=1.0) as desk:
        desk.start()
        for how in ("python", "c"):
            error = lost(desk, desk.submit("hang", place=eventually_places(desk, 1)[0], how=how))
            assert error.cause is Cause.TIME_LIMIT, f"a worker that hung in {how} was reported as {error!r}"
            assert "in hang" in error.traceback, f"its stack does not say where: {error.traceback!r}"
        assert eventually_answers(desk).error is None


@check(4, "cpus")
def blas_has_the_threads_of_the_need(subject: Subject) -> None:
    """BLAS has ``max(1, floor(cpus))`` threads while a message runs."""
    for cpus, expected in ((1.0, 1), (0.5, 1), (2.0, 2)):
        with subject.desk(Resources(cpus=cpus)) as desk:
            desk.start()
            if not desk.places(1):
                continue  # no place is that large
            for _ in range(2):
                threads = values(desk.answer("threads"))["threads"]
                assert threads == expected, f"a ClientApp of {cpus:g} cpus saw {threads} threads"


@check(4, "gpus")
def a_clientapp_sees_the_gpus_that_it_has_and_no_others(subject: Subject) -> None:
    """Of two gpus, shares of one, whole ones and none, by CUDA_VISIBLE_DEVICES: none is given out beyond what it is,
    and a process stays on its own."""
    subject = that_has(subject, gpus=2)
    if subject.options.get("gpus") is None:
        return  # a cluster that is joined has what it has
    kinds = [
        Kind("shared", client, 4, Resources(cpus=0.25, gpus=0.5), {"share": 0.5}),
        Kind("whole", client, 2, Resources(cpus=0.25, gpus=1), {"share": 1}),
    ]
    if "isolation" in subject.spec.honours:
        kinds.append(Kind("none", client, 2, Resources(cpus=0.25)))
    with temporary_folder() as folder:
        subject.run(hold_all, kinds=kinds, config={"folder": str(folder), "seconds": 0.1})
        calls = held(folder)
    assert len(calls) == sum(k.nodes for k in kinds), f"{len(calls)} calls were made"
    with_gpus = [h for h in calls if h["share"]]
    devices = {h["gpus"] for h in with_gpus}
    assert devices <= {"0", "1"}, f"ClientApps that need one gpu saw {devices}"
    for device in devices:
        most = most_at_once([(h["share"], h["begun"], h["ended"]) for h in with_gpus if h["gpus"] == device])
        assert most <= 1, f"gpu {device} was given out {most:g} times at once"
    for pid in {h["pid"] for h in calls}:
        seen = {h["gpus"] for h in calls if h["pid"] == pid and h["share"]}
        assert len(seen) <= 1, f"process {pid} saw first one gpu and then another: {seen}"

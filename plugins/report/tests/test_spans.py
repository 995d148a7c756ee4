"""Leases and messages are laid out so that nothing overlaps that cannot, and all time is somewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flsim_report.curves import BINS, durations, resources
from flsim_report.runs import Leases, Lost, Messages, RecordedRun, load
from flsim_report.spans import LOST, OPEN, spans_of
from flsim_report.timeline import COLUMNS, EXACT, covered, duration, timeline_of


def made(
    leases: list[tuple[int, float, float]],
    messages: list[tuple[int, float, float, float]],
    *,
    seconds: float = 10.0,
    lost: tuple[int, ...] = (),
) -> RecordedRun:
    """A run of leases (worker, pulled, returned) and messages (lease, decode, execute, encode). Those that are ``lost``
    have -1 as their worker."""
    worker, pulled, returned = (np.array(c) for c in zip(*leases, strict=True))
    lease, decode, execute, encode = (np.array(c) for c in zip(*messages, strict=True))
    n = len(messages)
    zeros, ones = np.zeros(n, int), np.ones(n, int)
    of = np.where(lease >= 0, worker[lease], -1)
    ended = np.where(lease >= 0, returned[lease], 1.0)
    any_: Any = None
    return RecordedRun(
        folder=Path("run"),
        about={},
        result=any_,
        seconds=seconds,
        end=max(seconds, float(np.nanmax(returned)), float(pulled.max())),
        types=("train",),
        workers=tuple(f"host:{i}" for i in range(int(worker.max()) + 1)),
        messages=Messages(
            np.arange(1, n + 1),
            ones + 1,
            lease,
            zeros,
            of,
            ones,
            zeros,
            ended,
            decode,
            execute,
            encode,
            zeros,
            zeros,
            zeros - 1,
        ),
        leases=Leases(
            np.arange(len(leases)),
            worker,
            pulled,
            returned,
            np.bincount(lease[lease >= 0], None, len(leases)),
            pulled,
            np.isin(np.arange(len(leases)), lost).astype(int),
        ),
        curves=(),
        node_curves=(),
        failures=(),
        lost=tuple(Lost(returned[i], "exited", "worker exited with code 5", 1, i) for i in lost),
        reasons={},
    )


def test_messages_of_a_lease_follow_one_another_within_it() -> None:
    run = made([(0, 1.0, 2.0)], [(0, 0.0, 0.2, 0.1), (0, 0.1, 0.1, 0.1)])
    spans = spans_of(run)
    # 0.4 s are the messages' own wherever they are: 0.3 s there, 0.3 s back.
    assert spans.start.tolist() == pytest.approx([1.2, 1.5])
    assert spans.decoded.tolist() == pytest.approx([1.2, 1.6])
    assert spans.executed.tolist() == pytest.approx([1.4, 1.7])
    assert spans.encoded.tolist() == pytest.approx([1.5, 1.8])


def test_what_a_lease_waits_more_than_others_it_waits_before_its_messages() -> None:
    run = made([(0, 0.0, 5.0), (0, 5.0, 5.2), (0, 5.2, 5.4)], [(i, 0.0, 0.1, 0.0) for i in range(3)])
    assert (spans_of(run).encoded).tolist() == pytest.approx([4.95, 5.15, 5.35])


def test_leases_of_a_worker_that_overlap_have_lanes_of_their_own() -> None:
    run = made([(0, 0, 2), (1, 0, 1), (0, 1, 3), (0, 2, 4)], [(i, 0.0, 0.1, 0.0) for i in range(4)])
    spans = spans_of(run)
    assert spans.lanes == ("host:0", "host:0 (2)", "host:1")
    assert spans.groups == (0, 0, 1)
    assert spans.lease_lane.tolist() == [0, 2, 1, 0]


def test_a_lease_that_follows_before_the_driver_has_taken_in_the_last_one_has_no_lane_of_its_own() -> None:
    run = made([(0, 0, 1), (0, 0.9994, 2), (0, 1.997, 2.05)], [(i, 0.0, 0.052, 0.0) for i in range(3)])
    spans = spans_of(run)
    assert spans.lanes == ("host:0", "host:0 (2)")  # the third one's own time would not fit behind the second
    assert spans.lease_lane.tolist() == [0, 0, 1]
    assert spans.lease_begin.tolist() == [0, 1, 1.997]
    assert (spans.start[1:2] >= spans.encoded[:1]).all()


def test_a_lease_that_was_lost_and_one_that_is_still_at_work_have_lanes_of_their_own() -> None:
    leases = [(0, 0.0, 1.0), (-1, 1.0, 3.0), (-1, 2.0, 4.0), (-1, 3.0, np.nan), (-1, 0.0, 1.0)]
    spans = spans_of(made(leases, [(0, 0.0, 0.1, 0.0), (1, 0.0, 0.0, 0.0), (-1, 0.0, 0.0, 0.0)], lost=(1, 2)))
    assert spans.lanes == ("host:0", LOST, f"{LOST} (2)", OPEN)
    assert spans.groups == (0, 1, 1, 2)
    assert spans.lease_lane.tolist() == [0, 1, 2, 3, -1]
    assert spans.lease_end.tolist() == [1, 3, 4, 10, 1]
    assert spans.message.tolist() == [0]


def test_leases_without_an_answer_are_drawn_and_told() -> None:
    run = made([(0, 0, 1), (-1, 1, 3), (-1, 3, np.nan)], [(0, 0.0, 0.1, 0.0), (1, 0.0, 0.0, 0.0)], lost=(1,))
    run.messages.code[1] = 101
    (_, lost, still) = timeline_of(run, spans_of(run)).rows
    assert (lost.kind, lost.told, still.kind, still.told) == ("lost", "1 lease", "open", "1 lease")
    (item,) = lost.items
    assert item.failed
    assert item.told == "lease 1 of 1 message: exited, worker exited with code 5; it ended message 2 to node 2"
    assert [(m.phase, m.left, m.width) for m in item.marks] == [("lost", 10, 20)]
    (item,) = still.items
    assert item.told == "lease 2 of 0 messages: still at work when the record ends"
    assert [(m.phase, m.left, m.width) for m in item.marks] == [("open", 30, 70)]


def test_leases_without_an_answer_are_drawn_as_shares_too_where_there_are_many() -> None:
    leases = [(0, 0.0, 1.0), *((-1, 2.0 + i / 1000, 2.0 + (i + 1) / 1000) for i in range(EXACT))]
    timeline = timeline_of(run := made(leases, [(0, 0.0, 0.1, 0.0)], lost=tuple(range(1, EXACT + 1))), spans_of(run))
    assert not timeline.exact
    (phase, floor, top) = timeline.rows[1].areas[0]
    assert phase == "lost"
    assert float((top - floor).sum() * timeline.column) == pytest.approx(1.5)


@pytest.mark.parametrize("late", [0.0, 0.05], ids=["from the call", "from before it"])
def test_all_that_is_drawn_lies_within_the_width_whenever_the_clock_begins(late: float) -> None:
    leases = [(0, late + 0.001 * i, late + 0.001 * (i + 1)) for i in range(10)]
    run = made(leases, [(i, 0.0, 0.0005, 0.0) for i in range(10)], seconds=0.010)
    (row,) = timeline_of(run, spans_of(run)).rows
    marks = [mark for item in row.items for mark in item.marks] + list(row.leases)
    assert len(marks) == 20
    assert all(m.left >= 0 and m.left + m.width <= 100.0001 for m in marks)
    workers, ended, *_ = resources([run])
    column = run.end / BINS
    assert sum(y for _, y in workers.lines[0].points) * column == pytest.approx(0.010)
    assert sum(y for _, y in ended.lines[0].points) * column == pytest.approx(10)


@pytest.mark.parametrize("times", [(0.0031, 0.0049), (0.004, 0.004), (2e-5, 9e-3), (1.1e-4, 9.9e-4), (1e-6, 3000.0)])
def test_an_axis_of_durations_has_labels_enough(times: tuple[float, float]) -> None:
    (plot,) = durations([made([(0, 0.0, 5000.0)], [(0, 0.0, t, 0.0) for t in times])])
    labels = plot.x.labels()
    assert 3 <= len(labels) <= 7
    assert len({name for _, name in labels}) == len(labels)
    assert all(0 <= at <= 100 for at, _ in labels)


def test_shares_of_time_are_exact() -> None:
    edges = np.array([0.0, 1.0, 2.0, 4.0])
    assert covered(np.array([0.5, 1.5]), np.array([1.25, 3.0]), edges).tolist() == pytest.approx([0.5, 0.75, 0.5])
    assert covered(np.zeros(0), np.zeros(0), edges).tolist() == [0, 0, 0]


def many() -> RecordedRun:
    """So many messages that they are not drawn one by one."""
    leases = [(w, 0.5 * i, 0.5 * i + 0.4) for w in (0, 1) for i in range(10)]
    return made(leases, [(i % 20, 0.001, 0.001 * (1 + i % 2), 0.0005) for i in range(EXACT + 500)])


def test_where_there_are_many_messages_their_shares_add_up_to_what_each_phase_took() -> None:
    run = many()
    timeline = timeline_of(run, spans_of(run))
    assert not timeline.exact
    assert timeline.column == 10.0 / COLUMNS
    for row in timeline.rows:
        assert not row.items
        worker = run.workers.index(row.worker)
        took = {phase: float((top - floor).sum() * timeline.column) for phase, floor, top in row.areas}
        mine = run.messages.worker == worker
        for phase in ("decode", "execute", "encode"):
            assert took[phase] == pytest.approx(getattr(run.messages, phase)[mine].sum(), rel=1e-6)
        assert sum(took.values()) == pytest.approx(10 * 0.4)
        assert row.busy == pytest.approx(0.4)


def test_a_recorded_run_is_laid_out_without_a_crossing(kept: list[Path]) -> None:
    for folder in kept:
        run = load(folder)
        spans = spans_of(run)
        assert len(spans.message) > 50
        assert (spans.start <= spans.decoded).all()
        assert (spans.executed <= spans.encoded).all()
        for lane in range(len(spans.lanes)):
            mine = spans.lane == lane
            assert (spans.start[mine][1:] >= spans.encoded[mine][:-1] - 1e-9).all()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (2e-7, "0.2 µs"), (0.00456, "4.56 ms"), (0.99999, "1 s"), (61.5, "61.5 s"), (50000, "50,000 s")],
)
def test_durations_are_written_in_the_unit_that_fits(seconds: float, text: str) -> None:
    assert duration(seconds) == text

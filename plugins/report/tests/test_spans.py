"""Leases and messages are laid out so that nothing overlaps that cannot, and all time is somewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flsim_report.runs import Leases, Messages, RecordedRun, load
from flsim_report.spans import spans_of
from flsim_report.timeline import COLUMNS, EXACT, covered, duration, timeline_of


def made(leases: list[tuple[int, float, float]], messages: list[tuple[int, float, float, float]]) -> RecordedRun:
    """A run of leases (worker, pulled, returned) and messages (lease, decode, execute, encode)."""
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
        seconds=10.0,
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
            np.arange(len(leases)), worker, pulled, returned, np.bincount(lease[lease >= 0], None, len(leases)), pulled
        ),
        curves=(),
        node_curves=(),
        failures=(),
        lost=(),
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
    assert spans.workers == (0, 0, 1)
    assert spans.lease_lane.tolist() == [0, 2, 1, 0]


def test_a_lease_that_did_not_come_back_and_a_message_without_one_are_not_drawn() -> None:
    run = made([(0, 0, 1), (0, 1, np.nan), (-1, 2, 3)], [(0, 0.0, 0.1, 0.0), (-1, 0.0, 0.0, 0.0), (2, 0.0, 0.0, 0.0)])
    spans = spans_of(run)
    assert spans.lease_lane.tolist() == [0, -1, -1]
    assert spans.message.tolist() == [0]


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
    timeline = timeline_of(run, spans_of(run), 10.0)
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

"""The tables of the page: what each run was and came to, in what they differ, and where the time went."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np

from flsim.plots import number
from flsim.settings import DEFAULT
from flsim_report.runs import Array, RecordedRun, shown
from flsim_report.timeline import duration


@dataclass(frozen=True, slots=True)
class Row:
    """A name, and what it is in each run."""

    name: str
    values: tuple[str, ...]
    note: str = ""

    @property
    def differs(self) -> bool:
        """Whether the runs are not all alike in it."""
        return len(set(self.values)) > 1


def facts(runs: Sequence[RecordedRun]) -> list[Row]:
    """What the runs were, and what they came to."""

    def row(name: str, value_of: Callable[[RecordedRun], object]) -> Row:
        return Row(name, tuple(str(value_of(run)) for run in runs))

    def errors(run: RecordedRun) -> str:
        return number(run.result.sent - run.result.answered)

    rows = [
        row("run", lambda r: r.name),
        row("state", lambda r: r.result.status),
        row("app", lambda r: r.result.app),
        row("backend", lambda r: r.result.backend),
        row("workers that answered", lambda r: number(len(r.workers))),
        row("nodes", lambda r: number(r.result.nodes)),
        row("seed", lambda r: r.result.seed),
        row("began", _began),
        row("seconds", lambda r: f"{r.seconds:,.2f}"),
        row("messages", lambda r: number(r.result.sent)),
        row("with an error", errors),
        row("messages a second", lambda r: number(r.result.sent / r.seconds) if r.seconds else ""),
        row("workers lost", lambda r: number(len(r.lost))),
        row("digest", lambda r: r.result.digest[:16] or "none"),
    ]
    return [row for row in rows if any(row.values)]


def _began(run: RecordedRun) -> str:
    """When the ServerApp was called; of a run that did not come so far, when its folder was made."""
    at = datetime.fromisoformat(run.about.get("began") or run.about["started"])
    return at.isoformat(" ", "seconds")


def configuration(runs: Sequence[RecordedRun]) -> list[Row]:
    """What the runs went by: with several of them, in what they differ."""
    names = dict.fromkeys(name for run in runs for name in run.result.settings)
    rows = []
    for name in names:
        settings = [run.result.settings.get(name) for run in runs]
        if any(s is not None and s.value is not None for s in settings):
            values = tuple("" if s is None or s.value is None else shown(str(s.value)) for s in settings)
            rows.append(Row(name, values, ", ".join(dict.fromkeys(s.origin for s in settings if s is not None))))
    # Where nobody set it, runs differ in it because their backends do.
    return [row for row in rows if row.differs and row.note != DEFAULT] if len(runs) > 1 else rows


@dataclass(frozen=True, slots=True)
class Phase:
    """How long a phase took in a run."""

    name: str
    run: int
    median: str
    high: str
    most: str
    total: str


def phases(runs: Sequence[RecordedRun]) -> list[Phase]:
    """For each phase, run by run: the median message, the 95th percentile, the longest, and the sum."""
    made = []
    of = [_phases(run) for run in runs]
    for name in of[0] if of else ():
        for i, values in enumerate(of):
            v = values[name]
            if len(v):
                figures = (float(np.median(v)), float(np.percentile(v, 95)), float(v.max()), float(v.sum()))
                made.append(Phase(name, i, *map(duration, figures)))
    return made


def _phases(run: RecordedRun) -> dict[str, Array]:
    m, leases = run.messages, run.leases
    ran = m.worker >= 0
    back = np.isfinite(leases.returned) & (leases.worker >= 0)
    at = np.searchsorted(leases.id, m.lease[ran])
    own = np.zeros(len(leases.id))
    busy = (m.decode + m.execute + m.encode)[ran]
    np.add.at(own, at, busy)
    return {
        "waited for a worker": np.maximum(leases.pulled[at] - m.pushed[ran], 0),
        "decode": m.decode[ran],
        "execute": m.execute[ran],
        "encode": m.encode[ran],
        "transfer, of each lease": np.maximum((leases.returned - leases.pulled - own)[back], 0),
    }

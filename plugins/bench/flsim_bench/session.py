"""Session: runs the cells, interleaved, and fills a report."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from flsim.plots import number
from flsim_bench.catalogue import Case, Workload
from flsim_bench.report import Cell, Report, Subject
from flsim_bench.runner import CellFailed, Result, Runner
from flsim_bench.way import Order


@dataclass(frozen=True, slots=True)
class Turn:
    """One measurement."""

    workload: Workload
    case: Case
    subject: Subject
    repetition: int
    """From 1; 0 does not count."""


def turns(workloads: Sequence[Workload], scale: str, subjects: Sequence[Subject], repeat: int) -> Iterator[Turn]:
    """In which order it is measured: for each case all subjects, then all again, so that a drift of the machine hits
    all alike; and each time another one first, so that nobody always follows the same."""
    for workload in workloads:
        able = [s for s in subjects if s.kind != "reference" or s.label in workload.references]
        for case in workload.cases[scale]:
            for repetition in range(1 - case.warm_starts, repeat + 1):
                first = (repetition - 1) % len(able)
                for subject in able[first:] + able[:first]:
                    yield Turn(workload, case, subject, max(0, repetition))


@dataclass(slots=True)
class Session:
    """Fills ``report`` as it goes, so that what was measured is there whenever it ends."""

    report: Report
    runner: Runner
    tell: Callable[[str], None]
    """Takes a line on how it goes."""

    def run(self, workloads: Sequence[Workload]) -> None:
        """Measure all of it. A cell that fails is not tried again."""
        report = self.report
        plan = list(turns(workloads, report.scale, report.subjects, report.repeat))
        for i, turn in enumerate(plan, 1):
            cell = self._cell(turn)
            if cell.error:
                continue
            head = f"[{i}/{len(plan)}] {turn.workload.name}: {turn.case.name}, {turn.subject.label}"
            try:
                result = self.runner.run(partial(self._order, turn), memory=turn.workload.memory)
            except CellFailed as e:
                cell.error = str(e)
                self.tell(f"{head}: failed: {e}")
                continue
            self.tell(f"{head}: {self._take(turn, cell, result)}")

    def _cell(self, turn: Turn) -> Cell:
        cell = self.report.cell(turn.workload.name, turn.case.name, turn.subject.label)
        if cell is None:
            cell = Cell(turn.workload.name, turn.case.name, turn.subject.label, turn.case.group)
            self.report.cells.append(cell)
        return cell

    def _order(self, turn: Turn, folder: Path, memory: Path) -> Order:
        subject = turn.subject
        return Order(
            workload=turn.workload.name,
            params=turn.case.params,
            way=subject.way,
            name=subject.name,
            options=subject.options,
            workers=self.report.workers,
            folder=str(folder),
            memory=str(memory),
        )

    def _take(self, turn: Turn, cell: Cell, result: Result) -> str:
        if turn.subject.kind == "flower":
            self.report.conditions.versions.update({f"{n} (Flower's)": v for n, v in result.versions.items()})
        if not turn.repetition:
            return "a start that does not count"
        said = []
        for measure in turn.workload.measures:
            if measure.name in result.values:
                value = result.values[measure.name]
                cell.values.setdefault(measure.name, []).append(value)
                said.append(f"{measure.name} {number(value)} {measure.unit}".rstrip())
        cell.series = result.series
        return ", ".join(said)

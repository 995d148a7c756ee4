"""Report: what was measured, under which conditions; medians, spreads and ratios. To and from JSON."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from flsim_bench.catalogue import WORKLOADS, Measure, Workload
from flsim_bench.conditions import Conditions

FORMAT = 1


@dataclass(frozen=True, slots=True)
class Subject:
    """What is compared with others."""

    label: str
    kind: str
    """``backend``, ``reference`` or ``flower``."""
    way: str
    """The module of :mod:`flsim_bench.ways`."""
    name: str = ""
    """A backend's name."""
    options: dict[str, Any] = field(default_factory=dict)
    """A backend's options."""
    own_reference: str = ""
    """The bare reference of a backend's own library; empty: that of the workload."""


@dataclass(frozen=True, slots=True)
class Summary:
    """Values of repetitions."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: list[float]) -> Summary:
        """The median, the lowest and the highest of ``values``."""
        return cls(median(values), min(values), max(values))


@dataclass(slots=True)
class Cell:
    """One case for one subject."""

    workload: str
    case: str
    subject: str
    group: str = ""
    """As of :class:`~flsim_bench.catalogue.Case`."""
    values: dict[str, list[float]] = field(default_factory=dict)
    """By measure, one value a repetition: the median of its rounds."""
    series: dict[str, list[float]] = field(default_factory=dict)
    """What is drawn over the rounds, of the last repetition."""
    error: str = ""
    """Why a repetition failed, or more are not tried."""

    def summary(self, measure: str) -> Summary | None:
        """What came of a measure; None where it was not measured."""
        values = self.values.get(measure)
        return Summary.of(values) if values else None


@dataclass(frozen=True, slots=True)
class Row:
    """A line of a table: one measure of a cell."""

    case: str
    measure: Measure
    subject: Subject
    summary: Summary
    reference: str
    """What the ratio is against; empty: it is a reference itself, or there is none."""
    ratio: float | None
    flower: float | None
    """The ratio against Flower."""


@dataclass(slots=True)
class Report:
    """All that a run of the benchmark gives."""

    conditions: Conditions
    scale: str
    repeat: int
    workers: int
    subjects: list[Subject]
    cells: list[Cell] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    """What was not measured, by its name, and why."""
    interrupted: bool = False

    @property
    def workloads(self) -> list[Workload]:
        """Those of which there is something to say."""
        return [w for w in WORKLOADS.values() if any(c.workload == w.name for c in self.cells)]

    def cell(self, workload: str, case: str, subject: str) -> Cell | None:
        """The cell of this name, if there is one."""
        for cell in self.cells:
            if (cell.workload, cell.case, cell.subject) == (workload, case, subject):
                return cell
        return None

    def cases(self, workload: str) -> list[str]:
        """The cases of a workload, in their order."""
        return list(dict.fromkeys(c.case for c in self.cells if c.workload == workload))

    def rows(self, workload: Workload) -> Iterator[Row]:
        """The lines of a workload's table: the subjects side by side for each case and measure."""
        for case in self.cases(workload.name):
            for measure in workload.measures:
                for subject in self.subjects:
                    cell = self.cell(workload.name, case, subject.label)
                    summary = cell.summary(measure.name) if cell is not None else None
                    if summary is not None:
                        yield self._row(workload, case, measure, subject, summary)

    def failed(self) -> list[Cell]:
        """The cells of which a repetition failed."""
        return [c for c in self.cells if c.error]

    def _row(self, workload: Workload, case: str, measure: Measure, subject: Subject, summary: Summary) -> Row:
        reference, ratio, flower = "", None, None
        if measure.better:
            if subject.kind != "reference":
                for name in (subject.own_reference, *workload.references):
                    ratio = self._ratio(workload, case, measure, summary, name) if name in workload.references else None
                    if ratio is not None:
                        reference = name
                        break
            if subject.kind != "flower":
                flower = self._ratio(workload, case, measure, summary, "flower")
        return Row(case, measure, subject, summary, reference, ratio, flower)

    def _ratio(self, workload: Workload, case: str, measure: Measure, summary: Summary, other: str) -> float | None:
        cell = self.cell(workload.name, case, other)
        against = cell.summary(measure.name) if cell is not None else None
        return summary.median / against.median if against is not None and against.median else None

    # ---- JSON

    def to_json(self) -> str:
        """As JSON: what was measured, and for who reads it there, what it comes to."""
        data = {"format": FORMAT, **dataclasses.asdict(self)}
        data["summaries"] = [
            {
                "workload": w.name,
                "case": r.case,
                "measure": r.measure.name,
                "unit": r.measure.unit,
                "subject": r.subject.label,
                **dataclasses.asdict(r.summary),
                "reference": r.reference,
                "ratio": r.ratio,
                "ratio_to_flower": r.flower,
            }
            for w in self.workloads
            for r in self.rows(w)
        ]
        return json.dumps(data, indent=2, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Report:
        """What :meth:`to_json` has written. Raises ValueError where it is something else."""
        data = json.loads(text)
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise ValueError(f"it is no report of flsim bench in format {FORMAT}")
        try:
            fields = {f.name: data[f.name] for f in dataclasses.fields(cls)}
            fields["conditions"] = Conditions(**data["conditions"])
            fields["subjects"] = [Subject(**s) for s in data["subjects"]]
            fields["cells"] = [Cell(**c) for c in data["cells"]]
        except (KeyError, TypeError) as e:
            raise ValueError(f"it is no report of flsim bench: {e}") from e
        return cls(**fields)

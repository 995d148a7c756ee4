"""Medians, spreads and ratios of known numbers; and that all outputs say the same."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from flsim_bench.catalogue import REFERENCES, SCALES, WORKLOADS
from flsim_bench.charts import charts
from flsim_bench.conditions import Conditions
from flsim_bench.outputs import Outputs
from flsim_bench.page import page
from flsim_bench.report import Cell, Report, Subject, Summary
from flsim_bench.session import turns
from flsim_bench.table import show

SUBJECTS = [
    Subject("loky", "backend", "engine", "loky"),
    Subject("ray <2>", "backend", "engine", "ray", {"cpus": 2.0}, "bare ray"),
    Subject("bare pool", "reference", "pool"),
    Subject("bare ray", "reference", "ray"),
    Subject("flower", "flower", "flower"),
]


@pytest.fixture
def report() -> Report:
    made = Report(Conditions.here([]), "tiny", 3, 2, list(SUBJECTS), left_out={"bare dask": "it is not installed"})
    rates = [[100.0, 300.0, 200.0], [50.0, 60.0, 40.0], [400.0, 500.0, 300.0], [100.0, 100.0, 100.0], [2.0, 2.0, 2.0]]
    for subject, values in zip(SUBJECTS, rates, strict=True):
        made.cells.append(Cell("noop", "20 & more", subject.label, "", {"throughput": values}))
        series = {"round": [v / 10 for v in values]}
        made.cells.append(Cell("fleet", "some of many", subject.label, "nodes", {"round": values}, series))
        made.cells.append(Cell("fleet", "some of more", subject.label, "nodes", {"round": [10 * v for v in values]}))
    made.cells.append(Cell("echo", "1 kB", "loky", error="it did not end within 2 s"))
    return made


def test_a_summary_is_the_median_and_what_is_lowest_and_highest() -> None:
    assert Summary.of([3.0, 1.0, 10.0]) == Summary(3.0, 1.0, 10.0)
    assert Summary.of([4.0, 2.0]) == Summary(3.0, 2.0, 4.0)


def test_a_ratio_is_against_the_backends_own_reference_or_the_workloads(report: Report) -> None:
    rows = {r.subject.label: r for r in report.rows(WORKLOADS["noop"])}
    assert (rows["loky"].reference, rows["loky"].ratio, rows["loky"].flower) == ("bare pool", 0.5, 100.0)
    assert (rows["ray <2>"].reference, rows["ray <2>"].ratio, rows["ray <2>"].flower) == ("bare ray", 0.5, 25.0)
    assert (rows["bare pool"].reference, rows["bare pool"].ratio, rows["bare pool"].flower) == ("", None, 200.0)
    assert (rows["flower"].reference, rows["flower"].ratio, rows["flower"].flower) == ("bare pool", 0.005, None)


def test_where_the_own_reference_does_not_do_the_workload_the_workloads_is_taken(report: Report) -> None:
    rows = {r.subject.label: r for r in report.rows(WORKLOADS["fleet"])}
    assert rows["ray <2>"].reference == "bare pool"


def test_the_json_reloads_as_the_same_report(report: Report) -> None:
    text = report.to_json()
    assert Report.from_json(text) == report
    (loky,) = (s for s in json.loads(text)["summaries"] if (s["workload"], s["subject"]) == ("noop", "loky"))
    assert (loky["median"], loky["low"], loky["high"], loky["ratio"]) == (200.0, 100.0, 300.0, 0.5)


@pytest.mark.parametrize("text", ["[]", "{}", '{"format": 99}', '{"format": 1}'])
def test_json_of_something_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no report of flsim bench"):
        Report.from_json(text)


class _Page(HTMLParser):
    """What a page says, and whether all that it opens it closes."""

    VOID = ("meta", "br", "hr", "img", "link")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.said: list[str] = []
        self.links: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.VOID:
            self.open.append(tag)
        self.links += [v or "" for k, v in attrs if k in ("src", "href")]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None: ...

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.said.append(data.strip())


def test_the_page_is_whole_in_itself_and_names_every_cell(report: Report) -> None:
    text = page(report)
    read = _Page(text)
    assert not read.open
    assert not read.links
    assert "url(" not in text
    assert "http" not in text
    said = " ".join(read.said)
    for cell in report.cells:
        assert cell.workload in said
        assert cell.case in said
        assert cell.subject in said
    for name, value in report.conditions.lines():
        assert name in said
        assert " ".join(value.split()) in said
    assert "200 messages/s" in said
    assert "0.50 × bare pool" in said
    assert "it did not end within 2 s" in said
    assert "it is not installed" in said


def test_the_table_names_every_cell_and_the_conditions(report: Report, capsys: pytest.CaptureFixture[str]) -> None:
    report.interrupted = True
    show(report)
    out = capsys.readouterr().out
    (line,) = re.findall(r"20 & more +throughput +loky .*", out)
    assert " ".join(line.split()) == "20 & more throughput loky 200 messages/s 100 – 300 0.50 × bare pool 100 × Flower"
    assert "failed: echo: 1 kB, loky: it did not end within 2 s" in out
    assert "left out: bare dask: it is not installed" in out
    assert "interrupted: this is what was measured so far" in out
    assert f"command: {report.conditions.command}" in out


def test_the_plots_are_written_as_an_image(report: Report, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    Outputs(png=tmp_path / "plots.png").write(report)
    assert (tmp_path / "plots.png").read_bytes().startswith(b"\x89PNG")


def test_repetitions_are_interleaved_and_each_time_another_subject_is_first() -> None:
    three = SUBJECTS[:3]
    plan = list(turns([WORKLOADS["noop"]], "tiny", three, 3))
    full, single = WORKLOADS["noop"].cases["tiny"]
    order = ["loky", "ray <2>", "bare pool", "ray <2>", "bare pool", "loky", "bare pool", "loky", "ray <2>"]
    assert [t.subject.label for t in plan if t.case == full] == order
    assert [t.repetition for t in plan if t.case == full] == [1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert plan.index(next(t for t in plan if t.case == single)) == 9


def test_a_reference_has_a_turn_only_at_the_workloads_that_it_can_do() -> None:
    plan = turns([WORKLOADS["compute"]], "tiny", SUBJECTS, 1)
    assert [t.subject.label for t in plan] == ["loky", "ray <2>", "bare pool", "flower"]


def test_a_warm_start_does_not_count() -> None:
    plan = list(turns([WORKLOADS["startup"]], "small", SUBJECTS[:1], 2))
    assert [t.repetition for t in plan] == [0, 1, 2]


def test_cases_of_one_group_are_drawn_along_their_size(report: Report) -> None:
    (along,) = (c for c in charts(report, WORKLOADS["fleet"]) if c.x is not None and c.x.names)
    assert along.title == "nodes: a round"
    assert along.x is not None
    assert along.y is not None
    assert along.x.labels() == [(0, "some of many"), (100, "some of more")]
    assert (along.y.low, along.y.high) == (1, 10_000)
    loky = along.lines[0]
    assert loky.points == [(0, 200.0), (1, 2000.0)]
    assert along.y.at(2000) - along.y.at(200) == pytest.approx(25)  # one of four powers of ten


def test_the_documentation_names_all_that_there_is() -> None:
    text = (Path(__file__).parents[3] / "docs" / "bench.md").read_text()
    for name in (*WORKLOADS, *REFERENCES, *SCALES):
        assert f"| `{name}` |" in text

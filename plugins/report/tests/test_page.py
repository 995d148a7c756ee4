"""The page in a real browser: what it draws, that it is whole in itself, and that nothing of a client's acts in it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from browser import Browser, browser, needs_chromium
from recorded import HOSTILE

from flsim_report.curves import metrics
from flsim_report.page import page
from flsim_report.runs import RecordedRun, load
from flsim_report.spans import OPEN, spans_of
from flsim_report.timeline import duration

WIDE, NARROW = 1280, 390


@pytest.fixture(scope="module")
def runs(kept: Sequence[Path]) -> list[RecordedRun]:
    return [load(folder) for folder in kept]


@pytest.fixture(scope="module")
def file(runs: list[RecordedRun], tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("page") / "report.html"
    file.write_text(page(runs), encoding="utf-8")
    return file


@pytest.fixture
def shown(file: Path) -> Iterator[Browser]:
    needs_chromium()
    with browser() as opened:
        opened.size(WIDE, 900)
        opened.open(file.as_uri())
        yield opened
        assert not opened.complaints


def test_a_page_is_whole_in_itself_and_escapes_what_clients_say(runs: list[RecordedRun]) -> None:
    text = page(runs)
    assert not re.search(r"https?://|url\(|@import|<link|src=", text)
    assert text.count("<script") == 1
    assert "&lt;script&gt;document.title" in text
    assert "\x1b" not in text


def test_the_ends_of_all_axes_are_numbers(file: Path, odd: Path) -> None:
    for text in (file.read_text(encoding="utf-8"), page([load(odd)])):
        ends = re.findall(r'data-[xy]="([^"]*)"', text)
        assert len(ends) > 8
        assert all(math.isfinite(float(end)) for pair in ends for end in pair.split(" "))


def test_odd_metrics_are_drawn_and_nothing_of_their_names_acts(odd: Path) -> None:
    text = page([load(odd)])
    assert not [c for c in text if not c.isprintable() and c != "\n"]
    for name in ("a$_$b", "red�[31m &lt;b&gt;", "greatest", "span"):
        assert f"<figcaption>{name}<small>" in text
    assert "�[31mred" in text  # of the configuration


def test_rounds_are_whole(runs: list[RecordedRun]) -> None:
    assert [p.x.ticks for p in metrics(runs, over_time=False)] == [(1, 2, 3, 4)] * 3


def test_runs_are_told_apart_also_where_they_had_one_backend(runs: list[RecordedRun]) -> None:
    first = runs[0]
    text = page([first, replace(first, about={**first.about, "id": "another"})])
    heads = re.findall(r'<th class="run-\d"><svg class="swatch".*?</svg>(.*?)</th>', text)
    assert heads[:2] == [f"loky {first.about['id']}", "loky another"]
    assert len(re.findall(r"<td><svg class=\"swatch\"[^§]*?</svg>loky another</td>", text)) == 5


def test_a_run_began_when_the_server_app_was_called(runs: list[RecordedRun]) -> None:
    about = {**runs[0].about, "started": "2026-11-28T02:44:17.900+02:00", "began": "2026-11-28T02:44:18.700+02:00"}
    assert '<td class="run-0">2026-11-28 02:44:18+02:00</td>' in page([replace(runs[0], about=about)])
    del about["began"]
    assert "2026-11-28 02:44:17+02:00" in page([replace(runs[0], about=about)])


def test_curves_of_both_runs_lie_over_one_another(shown: Browser, runs: list[RecordedRun]) -> None:
    titles = shown.value("[...document.querySelectorAll('.over-rounds figcaption')].map((f) => f.firstChild.data)")
    assert titles == ["accuracy", "loss <b>", "share, mean of the nodes that reported it"]
    points = shown.value(
        "[...document.querySelector('.over-rounds .plot').querySelectorAll('polyline')]"
        ".map((line) => line.getAttribute('points'))"
    )
    assert len(points) == len(runs)
    assert points[0] == points[1] == "0.000,100.000 33.333,66.667 66.667,33.333 100.000,0.000"


def test_the_timeline_has_each_message_of_each_worker(shown: Browser, runs: list[RecordedRun]) -> None:
    for i, run in enumerate(runs):
        answered = run.messages.worker >= 0
        of = f"document.querySelector('.timeline.run-{i}')"
        assert shown.value(f"{of}.querySelectorAll('.rows > svg').length") >= len(run.workers)
        assert shown.value(f"{of}.querySelectorAll('.rows g:has(.execute)').length") == answered.sum()
        assert shown.value(f"{of}.querySelectorAll('.rows g rect.execute').length") > 50
        assert shown.value(f"{of}.querySelectorAll('.rows > svg > rect.transfer').length") > 4
        failed = shown.value(f"{of}.querySelectorAll('.rows g.failed:has(.execute)').length")
        assert failed == (run.messages.code >= 0)[answered].sum()
        told = shown.value(f"{of}.querySelector('.rows g.failed title').textContent")
        assert re.match(r"message \d+, train, node 3: decode .+, execute .+, encode ", told)
        assert "; CLIENT_APP_RAISED_EXCEPTION: ValueError: </script>" in told


def test_what_workers_took_with_them_is_in_the_timeline(shown: Browser, runs: list[RecordedRun]) -> None:
    told = shown.value(
        "[...document.querySelectorAll('.timeline.run-0 .failed:has(.lost) title')].map((t) => t.textContent)"
    )
    assert len(told) == len(runs[0].lost)
    assert all(re.match(r"lease \d+ of \d messages?: exited, worker exited with code 5", t) for t in told)
    assert shown.value("document.querySelectorAll('.timeline.run-1 .lost').length") == 0


def test_each_run_has_a_scale_of_its_own_or_all_have_one(shown: Browser, runs: list[RecordedRun]) -> None:
    def widths() -> list[float]:
        return shown.value(  # type: ignore[no-any-return]
            "[...document.querySelectorAll('.timeline')].map((t) => t.querySelector('.rows svg').clientWidth)"
        )

    shown.value(
        "[...document.querySelectorAll('.timeline.run-0 .worker')].forEach((name) => { name.textContent = 'a'; })"
    )
    own = widths()
    assert own[0] == own[1], "the names of workers are part of the scale"
    shown.value("document.querySelector('#scale-one').click()")
    longest = max(run.end for run in runs)
    assert widths() == [pytest.approx(w * run.end / longest, abs=1) for w, run in zip(own, runs, strict=True)]
    ends = shown.value("[...document.querySelectorAll('.timeline .x span:last-child')].map((s) => s.textContent)")
    assert ends == [duration(run.end) for run in runs]


def test_durations_resources_and_failures_are_there(shown: Browser) -> None:
    def figures(after: str) -> list[str]:
        return shown.value(  # type: ignore[no-any-return]
            f"[...document.querySelector('#{after}').nextElementSibling.querySelectorAll('figcaption')]"
            ".map((f) => f.firstChild.data)"
        )

    assert sorted(figures("durations")) == ["evaluate: execute", "train: execute"]
    assert figures("resources") == [
        "workers with a lease", "messages ended, a second", "MB/s to workers", "MB/s from workers",
        "memory of the largest worker, MB",
    ]  # fmt: skip
    said = shown.value("document.body.innerText")
    assert "WORKER_DIED" in said
    assert re.search(r"exited\t.*5", said), said
    assert HOSTILE.partition("\x1b")[0].strip() in said
    assert "waited for a worker" in said


def test_nothing_of_a_clients_acts_in_it(shown: Browser) -> None:
    assert shown.value("document.title") == "flsim report: app"
    assert shown.value("document.scripts.length") == 1
    assert shown.value("document.querySelectorAll('b').length") == 0


def visible(shown: Browser, selector: str) -> list[bool]:
    return shown.value(  # type: ignore[no-any-return]
        f"[...document.querySelectorAll({selector!r})].map((e) => e.checkVisibility())"
    )


def test_the_legend_switches_runs_off_and_on(shown: Browser) -> None:
    for expected in (False, True):
        shown.value("document.querySelector('#show-0').click()")
        assert set(visible(shown, ".run-0")) - {False} == ({True} if expected else set())
        assert set(visible(shown, ".over-rounds .run-1, .timeline.run-1")) == {True}


def test_metrics_are_shown_over_rounds_or_over_seconds(shown: Browser) -> None:
    assert (visible(shown, ".over-rounds, .over-seconds")) == [True, False]
    shown.value("document.querySelector('#over-seconds').click()")
    assert (visible(shown, ".over-rounds, .over-seconds")) == [False, True]


def test_the_pointer_tells_the_values_of_all_runs(shown: Browser, runs: list[RecordedRun]) -> None:
    shown.value("document.querySelector('.over-rounds .plot').scrollIntoView({block: 'center'})")
    box = shown.value(
        "(() => { const b = document.querySelector('.over-rounds .plot .area svg').getBoundingClientRect();"
        " return [b.left, b.top, b.width, b.height]; })()"
    )
    shown.move(box[0] + 0.34 * box[2], box[1] + box[3] / 2)
    assert shown.value("document.querySelector('#tip').hidden") is False
    lines = shown.value("document.querySelector('#tip').textContent").split("\n")
    assert lines == ["2", *(f"{run.name}: 0.5" for run in runs)]
    shown.move(1, 1)
    assert shown.value("document.querySelector('#tip').hidden") is True


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_nothing_is_wider_than_the_window(file: Path, width: int, scheme: str) -> None:
    needs_chromium()
    with browser() as opened:
        opened.size(width, 800, scheme=scheme)
        opened.open(file.as_uri())
        assert opened.value("document.documentElement.scrollWidth") <= width
        # What scrolls by itself does not count.
        wider: list[Any] = opened.value(
            "[...document.body.querySelectorAll('*')].filter((e) => !e.closest('.scroll') && e.checkVisibility()"
            f" && e.getBoundingClientRect().right > {width} + 0.5).map((e) => e.outerHTML.slice(0, 200))"
        )
        assert not wider
        light = opened.value(
            "getComputedStyle(document.body).backgroundColor.match(/[0-9]+/g).reduce((a, b) => a + Number(b), 0)"
        )
        assert (light > 600) == (scheme == "light")
        assert not opened.complaints


def test_a_run_that_was_killed_is_shown_as_far_as_it_came(killed: Path, tmp_path: Path) -> None:
    run = load(killed)
    assert run.result.status == "killed"
    assert len(run.messages.id) > 4
    text = page([run])
    assert "was killed: this is what was recorded until then" in " ".join(text.split())
    assert re.search(r'<polyline class="line c0 run-0', text)
    needs_chromium()
    (tmp_path / "killed.html").write_text(text, encoding="utf-8")
    with browser() as opened:
        opened.open((tmp_path / "killed.html").as_uri())
        rows = 1 + len({lane for lane in spans_of(run).lanes if lane.startswith(OPEN)})
        assert opened.value("document.querySelectorAll('.timeline .rows svg').length") == rows
        assert not opened.complaints

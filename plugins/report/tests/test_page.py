"""The page in a real browser: what it draws, that it is whole in itself, and that nothing of a client's acts in it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from browser import Browser, browser, needs_chromium
from recorded import HOSTILE

from flsim_report.page import page
from flsim_report.runs import RecordedRun, load

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
        of = f"document.querySelector('.timeline.run-{i}')"
        assert shown.value(f"{of}.querySelectorAll('.rows > svg').length") >= len(run.workers)
        assert shown.value(f"{of}.querySelectorAll('.rows g').length") == (run.messages.worker >= 0).sum()
        assert shown.value(f"{of}.querySelectorAll('.rows g rect.execute').length") > 50
        assert shown.value(f"{of}.querySelectorAll('.rows > svg > rect.transfer').length") > 4
        assert (
            shown.value(f"{of}.querySelectorAll('.rows g.failed').length")
            == (run.messages.code >= 0)[run.messages.worker >= 0].sum()
        )
        told = shown.value(f"{of}.querySelector('.rows g.failed title').textContent")
        assert re.match(r"message \d+, train, node 3: decode .+, execute .+, encode ", told)
        assert "; CLIENT_APP_RAISED_EXCEPTION: ValueError: </script>" in told


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
        assert opened.value("document.querySelectorAll('.timeline .rows svg').length") == 1
        assert not opened.complaints

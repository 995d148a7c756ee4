"""Plots: axes, numbers, what is left of long lines, and a figure that is HTML."""

from __future__ import annotations

import math
import re
import sys
from xml.etree import ElementTree

import numpy as np
import pytest

from flsim.plots import POINTS, Axis, Line, axis_of, number, plot, style, thinned


def test_numbers_have_about_three_figures() -> None:
    shown = {
        0.0: "0",
        2.0: "2",
        0.01234: "0.0123",
        0.5: "0.50",
        1.5: "1.50",
        15.15: "15.2",
        151.5: "152",
        15151.5: "15,152",
        123456789.0: "1.23e+08",
        math.inf: "inf",
    }
    assert {v: number(v) for v in shown} == shown


@pytest.mark.parametrize(
    ("values", "ticks"),
    [
        ([0, 1], [0, 0.2, 0.4, 0.6, 0.8, 1]),
        ([3, 17], [5, 10, 15]),
        ([0.1, 0.95], [0.2, 0.4, 0.6, 0.8]),
        ([-1, 1], [-1, -0.5, 0, 0.5, 1]),
        ([math.nan, 2, math.inf, 4], [2, 2.5, 3, 3.5, 4]),
    ],
)
def test_ticks_are_round_values_within_the_axis(values: list[float], ticks: list[float]) -> None:
    assert axis_of(values).ticks == pytest.approx(ticks)


def test_an_axis_reaches_to_zero_where_it_is_asked_to_and_all_is_above() -> None:
    assert axis_of([3, 4], zero=True).low == 0
    assert axis_of([-3, 4], zero=True).low == -3


@pytest.mark.parametrize("values", [[], [2.0], [0.0], [-5.0, -5.0], [1e-300], [math.nan], [1e15, 1e15 + 0.01]])
@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("zero", [False, True])
def test_an_axis_has_a_length_whatever_the_values(values: list[float], log: bool, zero: bool) -> None:
    axis = axis_of(values, log=log, zero=zero)
    assert axis.low < axis.high
    assert all(math.isfinite(at) for at, _ in axis.labels())


@pytest.mark.parametrize(
    "values",
    [[sys.float_info.max], [-sys.float_info.max], [-1.5e308, 1.5e308], [0, sys.float_info.max], [0, 5e-324]],
    ids=str,
)
@pytest.mark.parametrize("zero", [False, True])
def test_the_greatest_and_the_least_of_numbers_have_a_place_on_an_axis(values: list[float], zero: bool) -> None:
    axis = axis_of(values, zero=zero)
    assert -math.inf < axis.low < axis.high < math.inf
    assert all(0 <= axis.at(v) <= 100 for v in values)
    assert len(axis.labels()) > 1
    assert all(0 <= at <= 100 for at, _ in axis.labels())


def test_a_logarithmic_axis_goes_over_whole_powers_of_ten() -> None:
    axis = axis_of([0, 20, 3000], log=True)
    assert (axis.low, axis.high, axis.ticks) == (10, 10_000, (10, 100, 1000, 10_000))
    assert [axis.at(v) for v in axis.ticks] == pytest.approx([0, 100 / 3, 200 / 3, 100])


def test_a_long_line_is_thinned_to_its_lows_and_peaks() -> None:
    points = [(float(i), float(i % 7)) for i in range(2005)]
    points[500], points[501] = (500.0, 99.0), (501.0, -9.0)
    kept = thinned(points)
    assert len(kept) <= POINTS + 1
    assert {(500.0, 99.0), (501.0, -9.0)} <= set(kept)
    assert kept == sorted(kept)
    assert thinned(points[:3]) == points[:3]


def drawn(*lines: Line, **axes: Axis) -> ElementTree.Element:
    """A plot, parsed as XML, which its HTML is, too."""
    x, y = axes.get("x", Axis(0, 10, (0, 10))), axes.get("y", Axis(0, 1, (0, 1)))
    return ElementTree.fromstring(plot(lines, x, y, title="<loss> & co", note="a note"))


def test_a_line_is_drawn_between_its_axes_and_told_in_words() -> None:
    figure = drawn(Line("a & b", [(0, 0.25), (5, 1.0)], colour=9, classes="run-3"))
    (line,) = figure.iter("polyline")
    assert line.attrib == {"class": "line c1 run-3", "data-label": "a & b", "points": "0.000,75.000 50.000,0.000"}
    svg, key = figure.iter("svg")
    assert key.find("path") is not None
    assert svg.get("aria-label") == "<loss> & co. a & b: 1 at the end"
    assert [(s.get("style"), s.text) for s in figure.iter("span")] == [
        ("bottom:0.00%", "0"), ("bottom:100.00%", "1"), ("left:0.00%", "0"), ("left:100.00%", "10"),
    ]  # fmt: skip


def test_the_ends_of_axes_are_numbers_also_where_they_come_from_numpy() -> None:
    figure = drawn(x=Axis(np.float64(6.25e-05), np.float64(0.5), ()))
    area = figure.find("div[@class='area']")
    assert area is not None
    assert [float(end) for end in area.attrib["data-x"].split()] == [6.25e-05, 0.5]


def test_a_line_has_a_gap_where_there_is_no_number() -> None:
    figure = drawn(Line("a", [(0, 0.0), (1, 1.0), (2, math.nan), (3, 1.0), (4, math.inf)]))
    assert [line.get("points") for line in figure.iter("polyline")] == [
        "0.000,100.000 10.000,0.000",
        "30.000,0.000 30.000,0.000",
    ]
    assert not list(drawn(Line("none", [])).iter("polyline"))


def test_the_style_is_light_and_dark_and_fetches_nothing() -> None:
    assert "prefers-color-scheme: dark" in style()
    assert not re.search(r"url\(|@import|http", style())

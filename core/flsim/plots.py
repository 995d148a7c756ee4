"""Line plots as a piece of HTML, without a script: for notebooks, and for the pages that plugins write."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files

COLOURS = 8
"""So many differ: ``--c0`` to ``--c7`` of the style, told apart also by who sees no red or no green, and by dashes."""

POINTS = 300
"""As many are drawn of a line at most."""

NARROW = 40
"""Characters of names that fit side by side beneath an axis: of more, the first and the last are written."""

TINY = 1e-300
"""A span that is less cannot be cut into steps."""


@dataclass(frozen=True, slots=True)
class Line:
    """What is drawn in one colour, with gaps where a value is no finite number."""

    label: str
    points: Sequence[tuple[float, float]]
    colour: int = 0
    classes: str = ""
    """Of its element, so that a page can find it."""


@dataclass(frozen=True, slots=True)
class Axis:
    """The values between the ends of an axis."""

    low: float
    high: float
    ticks: tuple[float, ...]
    log: bool = False
    names: tuple[str, ...] = ()
    """What is written at the ticks; empty: their values."""

    def at(self, value: float) -> float:
        """Where a value is, in percent of the axis."""
        if self.log:
            low, high, value = math.log10(self.low), math.log10(self.high), math.log10(value)
        else:
            low, high = self.low, self.high
        if math.isinf(high - low):  # the span of two finite numbers need not be finite
            low, high, value = low / 2, high / 2, value / 2
        return 100 * ((value - low) / (high - low))

    def labels(self) -> list[tuple[float, str]]:
        """What is written along it, each with its place in percent."""
        names = self.names or tuple(f"{t:,.6g}" for t in self.ticks)
        return [(self.at(t), name) for t, name in zip(self.ticks, names, strict=True)]


def axis_of(values: Iterable[float], *, zero: bool = False, log: bool = False, count: int = 4) -> Axis:
    """An axis for values, with about ``count`` ticks at 1, 2 or 5 times a power of ten; with ``log`` at powers of ten.

    Args:
        zero: whether it begins at zero where all are above it, and ends at a tick.
    """
    finite = [v for v in values if math.isfinite(v) and (v > 0 or not log)]
    low, high = min(finite, default=1.0 if log else 0.0), max(finite, default=1.0)
    if log:
        first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
        last = max(last, first + 1)
        each = -(-(last - first) // count)
        return Axis(10.0**first, 10.0**last, tuple(10.0**e for e in range(first, last + 1, each)), log=True)
    if zero and low > 0:
        low = 0.0
    if high - low <= max(1e-12 * max(abs(low), abs(high)), TINY):
        low, high = low - (abs(low) / 2 or 1.0) * (not zero or low != 0), high + (abs(high) / 2 or 1.0)
    low, high = max(low, -sys.float_info.max), min(high, sys.float_info.max)
    step = _step(high / count - low / count)
    if zero:
        high = min(step * math.ceil(high / step - 1e-9), sys.float_info.max)
    ticks = tuple(i * step for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1))
    return Axis(low, high, ticks)


def _step(rough: float) -> float:
    """The least of 1, 2, 5 times a power of ten that is not far below ``rough``."""
    power = 10.0 ** math.floor(math.log10(rough))
    return power * next(m for m in (1, 2, 5, 10) if m * power >= 0.75 * rough)


def number(value: float) -> str:
    """A value as tables and axes show it: about three figures, and all of a whole number."""
    if not math.isfinite(value):
        return str(value)
    if float(value).is_integer() or abs(value) >= 100:
        return f"{value:,.0f}" if abs(value) < 1e7 else f"{value:.3g}"
    return f"{value:,.{2 if abs(value) < 10 else 1}f}" if abs(value) >= 0.1 else f"{value:.3g}"


def thinned(points: Sequence[tuple[float, float]], limit: int = POINTS) -> list[tuple[float, float]]:
    """At most ``limit`` of them: of each piece the lowest and the highest, so that no peak is lost."""
    if len(points) <= limit:
        return list(points)
    step = -(-2 * len(points) // limit)
    kept: list[tuple[float, float]] = []
    for i in range(0, len(points), step):
        piece = points[i : i + step]
        ends = {min(range(len(piece)), key=lambda j: piece[j][1]), max(range(len(piece)), key=lambda j: piece[j][1])}
        kept += [piece[j] for j in sorted(ends)]
    return kept


def plot(lines: Sequence[Line], x: Axis, y: Axis, *, title: str, note: str = "", keys: bool = True) -> str:
    """The lines between the axes, as a ``figure`` of HTML that is as wide as its place. It needs :func:`style`.

    Args:
        keys: whether it says beneath which line is which, and where it ends.
    """
    drawn = "\n".join(svg for line in lines for svg in _drawn(line, x, y))
    grid = "".join(f'<line x1="0" x2="100" y1="{100 - at:.2f}" y2="{100 - at:.2f}"/>' for at, _ in y.labels())
    ends = f'data-x="{x.low} {x.high}" data-y="{y.low} {y.high}"'
    ends += " data-log-x" * x.log + " data-log-y" * y.log
    return f"""<figure class="plot"><figcaption>{escape(title)}<small>{escape(note)}</small></figcaption>
<div class="area" {ends}>
<div class="y" aria-hidden="true">{_labels(y, "bottom")}</div>
<svg viewBox="0 0 100 100" preserveAspectRatio="none" role="img" aria-label="{escape(_told(title, lines))}">
<g class="grid">{grid}</g>
{drawn}
</svg>
<div class="x{" ends" if sum(map(len, x.names)) > NARROW else ""}" aria-hidden="true">{_labels(x, "left")}</div>
</div>{_keys(lines) if keys else ""}</figure>"""


def _drawn(line: Line, x: Axis, y: Axis) -> list[str]:
    pieces: list[list[tuple[float, float]]] = [[]]
    for at, value in thinned(line.points):
        if math.isfinite(value) and (value > 0 or not y.log):
            pieces[-1].append((x.at(at), 100 - y.at(value)))
        elif pieces[-1]:
            pieces.append([])
    classes = f"line c{line.colour % COLOURS} {line.classes}".rstrip()
    made = []
    for piece in filter(None, pieces):
        dot = len(piece) == 1  # the style gives it round ends, without which a line that has no length is not seen
        text = " ".join(f"{px:.3f},{py:.3f}" for px, py in piece * (1 + dot))
        made.append(f'<polyline class="{classes}{" dot" * dot}" data-label="{escape(line.label)}" points="{text}"/>')
    return made


def _labels(axis: Axis, side: str) -> str:
    return "".join(f'<span style="{side}:{at:.2f}%">{escape(name)}</span>' for at, name in axis.labels())


def _keys(lines: Sequence[Line]) -> str:
    keys = "".join(
        f'<li><svg viewBox="0 0 24 2"><path class="line c{line.colour % COLOURS}" d="M0 1H24"/></svg>'
        f"{escape(line.label)}: {number(line.points[-1][1])} at the end</li>"
        for line in lines
        if line.points
    )
    return f'\n<ul class="keys">{keys}</ul>\n'


def _told(title: str, lines: Sequence[Line]) -> str:
    """The plot in words, for who does not see it."""
    ends = [f"{line.label}: {number(line.points[-1][1])} at the end" for line in lines if line.points]
    return f"{title}. {'; '.join(ends)}"


def style() -> str:
    """The style sheet of :func:`plot` and of what stands around it, light and dark."""
    return files("flsim").joinpath("plots.css").read_text(encoding="utf-8")

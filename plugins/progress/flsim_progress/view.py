"""The lines of a live display, for a screen of any width."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

from rich.text import Text

from flsim.fleet import Scalar
from flsim_progress.tally import Curve, Tally
from flsim_progress.words import printable

BLOCKS = "▁▂▃▄▅▆▇█"
BAR = 40
"""Cells of the widest bar."""

SPARK = 60
"""Cells of the widest sparkline."""

METRICS = 8
"""The most metrics shown."""


def view(tally: Tally, now: float, width: int, height: int) -> list[Text]:
    """What the display shows: at most ``height`` lines of at most ``width`` cells."""
    lines = [*_clock(tally, now, width), *_packed(_counts(tally, now), width)]
    curves = list(tally.curves.items())
    room = max(0, min(METRICS, height - len(lines)))
    if len(curves) > room:
        curves = curves[: max(0, room - 1)]
    names = max((len(n) for n, _ in curves), default=0)
    values = max((len(number(c.last)) for _, c in curves), default=0)
    lines += [_metric(name, curve, min(names, width // 3), values, width) for name, curve in curves]
    if hidden := len(tally.curves) - len(curves):
        lines.append(Text(f"… and {hidden} more metrics", style="dim"))
    for line in lines:
        line.truncate(width, overflow="ellipsis")
    return lines[:height]


def number(value: Scalar) -> str:
    """A metric in few characters."""
    if not isinstance(value, float):
        return printable(str(value))
    return f"{value:.4f}" if 1e-3 <= abs(value) < 1e5 or value == 0 else f"{value:.4g}"


def duration(seconds: float) -> str:
    """``1:02:03``, or ``2:03`` below an hour."""
    minutes, s = divmod(int(seconds), 60)
    hours, m = divmod(minutes, 60)
    return f"{hours}:{m:02}:{s:02}" if hours else f"{m}:{s:02}"


def sparkline(points: Sequence[float], width: int) -> str:
    """Points as blocks from the lowest to the highest, at most ``width`` of them: means where there are more."""
    if len(points) > width:
        cuts = [len(points) * i // width for i in range(width + 1)]
        points = [sum(points[a:b]) / (b - a) for a, b in pairwise(cuts)]
    if not points:
        return ""
    low, high = min(points), max(points)
    if high == low:
        return BLOCKS[3] * len(points)
    steps = len(BLOCKS) - 1
    # Halved first, since the span of two finite numbers need not be finite.
    return "".join(BLOCKS[round((p / 2 - low / 2) / (high / 2 - low / 2) * steps)] for p in points)


def _clock(tally: Tally, now: float, width: int) -> list[Text]:
    """The round, a bar where the number of rounds is known, how long it took, and how long it will."""
    of = "" if tally.rounds is None else f"/{tally.rounds}"
    left = tally.left(now)
    before = [] if tally.round is None and not of else [Text(f"round {tally.round or 0}{of}", style="bold")]
    after = [Text(duration(tally.elapsed(now)))]
    if left is not None:
        after.append(Text(f"ETA {duration(left)}"))
    room = min(BAR, width - sum(len(t) + 2 for t in (*before, *after)))
    if tally.rounds is None or room < 4:
        return _packed([*before, *after], width)
    done = min(room, room * max(0, tally.round or 0) // tally.rounds)
    bar = Text.assemble(("━" * done, "green"), ("─" * (room - done), "dim"))
    return _packed([*before, bar, *after], width)


def _counts(tally: Tally, now: float) -> list[Text]:
    counts = [Text(f"{tally.ended:,} done")]
    if tally.failed:
        counts.append(Text(f"{tally.failed:,} failed", style="red"))
    if tally.seconds is None or tally.in_flight:
        counts.append(Text(f"{tally.in_flight:,} in flight"))
    counts.append(Text(f"{tally.rate(now):,.0f} messages/s"))
    if tally.seconds is None:
        of = f" of {tally.slots:,}" if tally.at_work <= tally.slots else ""
        counts.append(Text(f"{tally.at_work:,}{of} workers at work"))
    return counts


def _packed(parts: Iterable[Text], width: int) -> list[Text]:
    """Parts side by side, on as few lines as hold them."""
    lines: list[Text] = []
    for part in parts:
        if lines and lines[-1].cell_len + 2 + part.cell_len <= width:
            lines[-1] = Text("  ").join([lines[-1], part])
        else:
            lines.append(part)
    return lines


def _metric(name: str, curve: Curve, names: int, values: int, width: int) -> Text:
    label = Text(printable(name), style="dim")
    label.truncate(names, overflow="ellipsis", pad=True)
    spark = sparkline(curve.points, min(SPARK, max(1, width - names - values - 4)))
    return Text("  ").join([label, Text(f"{number(curve.last):>{values}}"), Text(spark, style="cyan")])

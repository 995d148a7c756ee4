"""How what happened is put into words. What comes from clients has no power over the terminal: see ``printable``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from flsim.events import Announced, Answered, Event, LostWorker, Reported, Returned, RunStarted
from flsim.fleet import FIRST_NODE_ID, Scalar
from flsim.message import ErrorCode

SHOWN_ALIKE = 3
"""Failures of one code, message type and reason that are shown; the rest are counted."""

SHOWN_OF_A_KIND = 20
"""Failures of one code and message type that are shown, whatever their reasons."""


class Line(NamedTuple):
    """A line that stays."""

    text: str
    style: str = ""


def printable(text: str) -> str:
    """``text`` on one line and without characters that could move a terminal."""
    return text if text.isprintable() else "".join(c if c.isprintable() else "�" for c in text)


def node_name(node: int) -> str:
    """What a node is called."""
    return f"node {node} (partition {node - FIRST_NODE_ID})"


def about(run: RunStarted) -> str:
    """What runs where."""
    workers = "1 worker" if run.slots == 1 else f"{run.slots} workers"
    return f"{run.app}: {run.nodes:,} nodes on {run.backend}, {workers} ({'; '.join(run.places)})"


def lost(event: LostWorker) -> str:
    """A worker that took its lease with it."""
    return f"worker lost ({event.detail}) with {event.messages} messages"


def value(metric: Scalar) -> str:
    """A metric, as a report line shows it."""
    return f"{metric:.4f}" if isinstance(metric, float) else str(metric)


def metrics(event: Reported) -> str:
    """What was reported, in one line."""
    who = "" if event.node is None else f" {node_name(event.node)}"
    return f"round {event.round:>3}{who}  " + "  ".join(f"{k} {value(v)}" for k, v in event.metrics.items())


class Lines:
    """The lines that stay while a live display goes on below: what is printed, failures, notes."""

    def __init__(self) -> None:
        self._failures: Counter[tuple[int, str, str]] = Counter()

    def of(self, event: Event) -> Iterator[Line]:
        """The lines of an event."""
        match event:
            case RunStarted():
                yield Line(printable(about(event)), "bold")
            case Announced():
                yield Line(printable(f"note: {event.text}"))
            case LostWorker():
                yield Line(printable(lost(event)), "yellow")
            case Reported() if event.node is not None:
                yield Line(printable(metrics(event)))
            case Returned():
                for answer in event.answers(notable=True):
                    for line in answer.printed.splitlines():
                        yield Line(printable(f"{node_name(answer.node)} | {line}"))
                    # What was cancelled did not fail: the app, or the end of the run, took it back. It is counted.
                    if answer.code not in (None, ErrorCode.CANCELLED):
                        yield from self._failed(answer)

    def _failed(self, answer: Answered) -> Iterator[Line]:
        code = answer.code or 0
        reason = answer.reason.partition("\n")[0]
        kind, alike = (code, answer.message_type, ""), (code, answer.message_type, "=" + reason)
        if self._failures[kind] >= SHOWN_OF_A_KIND or self._failures[alike] >= SHOWN_ALIKE:
            return
        self._failures[kind] += 1
        self._failures[alike] += 1
        text = f"{node_name(answer.node)}: {answer.message_type} failed: {ErrorCode.name_of(code)}: {reason}"
        if self._failures[kind] == SHOWN_OF_A_KIND or self._failures[alike] == SHOWN_ALIKE:
            text += " (more like it are counted only)"
        yield Line(printable(text), "red")

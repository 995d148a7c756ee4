"""PlainProgress: a line a round, and a line for what the user should know."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TextIO

from flsim.events import Announced, Event, LostWorker, Reported, Returned, RunStarted
from flsim.message import ErrorCode
from flsim_progress.words import about, lost, metrics, node_name, printable


class PlainProgress:
    """Writes lines to ``out``. A kind of error is shown when it first comes; the summary counts them."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._shown: set[tuple[int, str]] = set()
        self._since_report: Counter[str] = Counter()

    def on(self, events: Sequence[Event]) -> None:
        """Take what happened."""
        for event in events:
            match event:
                case RunStarted():
                    self._line(about(event))
                case Announced():
                    self._line(f"note: {event.text}")
                case Reported():
                    self._report(event)
                case Returned():
                    self._returned(event)
                case LostWorker():
                    self._line(lost(event))
        self._out.flush()

    def close(self) -> None:
        """Nothing is left to do."""

    def _report(self, event: Reported) -> None:
        errors = ", ".join(f"{n} {name}" for name, n in self._since_report.items())
        self._since_report.clear()
        self._line(metrics(event) + (f"  [errors: {errors}]" if errors else ""))

    def _returned(self, event: Returned) -> None:
        for answer in event.answers(notable=True):
            for line in answer.printed.splitlines():
                self._line(f"{node_name(answer.node)} | {line}")
            if answer.code is None:
                continue
            self._since_report[ErrorCode.name_of(answer.code)] += 1
            kind = (answer.code, answer.message_type)
            if kind not in self._shown:
                self._shown.add(kind)
                name = ErrorCode.name_of(answer.code)
                self._line(f"{node_name(answer.node)}: {answer.message_type} failed: {name}: {answer.reason}")

    def _line(self, text: str) -> None:
        self._out.write(printable(text) + "\n")

"""NotebookProgress: one display of a notebook's cell that is updated in place, and lines below it."""

from __future__ import annotations

import contextvars
import html
import importlib
import threading
import time
from collections.abc import Sequence
from typing import Any, TextIO

from flsim.events import Event, RunStarted
from flsim_progress.tally import Tally
from flsim_progress.ticker import Ticker
from flsim_progress.view import view
from flsim_progress.words import Lines, about, printable

REFRESH = 0.5
"""Seconds between two updates: each is a message to the browser, and is kept nowhere."""

QUIET = 2.0
"""Seconds between two updates while nothing happens."""

WIDTH = 100
HEIGHT = 12


class NotebookProgress:
    """Shows what a run comes to, as HTML and as plain text, so that any frontend finds its own.

    Lines go to ``out``, which the notebook shows below the display and keeps.
    """

    def __init__(self, out: TextIO, rounds: int | None) -> None:
        self._out = out
        self._tally = Tally(rounds)
        self._words = Lines()
        self._about = ""
        self._handle: Any = None
        self._dirty = False
        self._shown = 0.0
        self._lock = threading.Lock()
        # The cell that a display belongs to is known to the thread that runs it.
        self._context = contextvars.copy_context()
        self._ticker = Ticker(self._tick, REFRESH)

    def on(self, events: Sequence[Event]) -> None:
        """Take what happened."""
        try:
            self._ticker.check()
            with self._lock:
                for event in events:
                    self._take(event)
        except BaseException:
            self._ticker.stop()
            raise

    def close(self) -> None:
        """Show the last of it."""
        self._ticker.stop()
        self._tick()
        self._context.run(self._out.flush)
        self._ticker.check()

    def _take(self, event: Event) -> None:
        self._tally.take(event, time.monotonic())
        self._dirty = True
        if isinstance(event, RunStarted):
            self._about = printable(about(event))
            self._context.run(self._begin)
            return
        for line in self._words.of(event):
            self._context.run(self._out.write, line.text + "\n")

    def _begin(self) -> None:
        display = importlib.import_module("IPython.display").display  # flsim has no need of IPython elsewhere
        self._handle = display(self._data(), raw=True, display_id=True)
        self._ticker.start()

    def _tick(self) -> None:
        with self._lock:
            # Where nothing happens the clock moves on.
            if self._handle is not None and (self._dirty or time.monotonic() - self._shown >= QUIET):
                self._dirty = False
                self._shown = time.monotonic()
                self._context.run(self._handle.update, self._data(), raw=True)

    def _data(self) -> dict[str, str]:
        lines = [self._about, *(t.plain for t in view(self._tally, time.monotonic(), WIDTH, HEIGHT))]
        text = "\n".join(lines)
        return {"text/plain": text, "text/html": f"<pre>{html.escape(text)}</pre>"}

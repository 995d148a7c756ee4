"""LiveProgress: a display at the bottom of a terminal, and lines above it."""

from __future__ import annotations

import atexit
import contextlib
import sys
import threading
import time
from collections.abc import Sequence
from typing import TextIO, cast

from rich.console import Console
from rich.file_proxy import FileProxy
from rich.live import Live
from rich.segment import Segment, Segments
from rich.style import Style
from rich.text import Text

from flsim.events import Event, Paused, Resumed, RunStarted
from flsim_progress.tally import Tally
from flsim_progress.ticker import Ticker
from flsim_progress.view import view
from flsim_progress.words import Line, Lines

REFRESH = 1 / 8
"""Seconds between two frames, at least."""


class _Above(FileProxy):
    """Stands for a stream of the terminal. Rich's says that it has no encoding, and then ``input`` is not used as on a
    terminal."""

    def __init__(self, console: Console, stream: TextIO) -> None:
        super().__init__(console, stream)
        self._stream = stream

    @property
    def encoding(self) -> str:  # type: ignore[override]  # a variable there
        return self._stream.encoding

    @property
    def errors(self) -> str | None:  # type: ignore[override]  # a variable there
        return self._stream.errors


class LiveProgress:
    """Shows what a run comes to, and leaves the last of it on the screen.

    Events are only counted as they come; a thread of its own draws. What the app prints to the terminal meanwhile goes
    above the display.
    """

    def __init__(self, out: TextIO, rounds: int | None) -> None:
        # What is printed is no markup, and long lines are the terminal's to wrap, so that they can be copied.
        self._console = Console(file=out, markup=False, emoji=False, highlight=False, soft_wrap=True)
        self._tally = Tally(rounds)
        self._words = Lines()
        self._lines: list[Line] = []
        self._dirty = True
        self._drawn = 0.0
        self._over = False
        self._lock = threading.RLock()
        self._above: list[_Above] = []
        self._streams = contextlib.ExitStack()
        self._live = self._new_live()
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
            self._end()
            raise

    def close(self) -> None:
        """Show the last of it, and give the terminal back."""
        self._ticker.stop()
        with self._lock:
            try:
                self._print()
                for stream in self._above:
                    stream.flush()  # what was printed without the end of its line
            finally:
                self._end()
        self._ticker.check()

    def _take(self, event: Event) -> None:
        self._tally.take(event, time.monotonic())
        self._lines.extend(self._words.of(event))
        self._dirty = True
        match event:
            case RunStarted():
                self._print()
                self._redirect()
                atexit.register(self._end)  # a run that is interrupted again and again may not come to its close
                self._live.start(refresh=True)
                self._ticker.start()
            case Paused() if self._live.is_started:
                self._print()
                self._live.transient = True
                self._live.stop()
            case Resumed() if not self._over:
                self._live = self._new_live()
                self._live.start(refresh=True)

    def _new_live(self) -> Live:
        return Live(
            console=self._console,
            auto_refresh=False,
            redirect_stdout=False,
            redirect_stderr=False,
            get_renderable=self._view,
        )

    def _redirect(self) -> None:
        """Have what is printed to this terminal go above the display. Streams that go elsewhere go there still."""
        for redirect, stream in (
            (contextlib.redirect_stdout, sys.stdout),
            (contextlib.redirect_stderr, sys.stderr),
        ):
            if stream is not None and stream.isatty():
                self._above.append(_Above(self._console, stream))
                self._streams.enter_context(redirect(cast("TextIO", self._above[-1])))

    def _tick(self) -> None:
        with self._lock:
            # Where nothing happens the clock moves on.
            if self._live.is_started and (self._dirty or time.monotonic() - self._drawn >= 1):
                with self._console:  # one write for both
                    self._print()
                    self._live.refresh()

    def _print(self) -> None:
        lines, self._lines = self._lines, []
        if lines:
            # Segments, and not Text, which would cost a busy run a hundred times as much.
            styled = (Segment(line.text + "\n", Style.parse(line.style) if line.style else None) for line in lines)
            self._console.print(Segments(styled))

    def _view(self) -> Text:
        self._dirty = False
        self._drawn = time.monotonic()
        width, height = self._console.size
        return Text("\n").join(view(self._tally, self._drawn, width, max(2, height - 2)))

    def _end(self) -> None:
        self._over = True
        atexit.unregister(self._end)
        try:
            self._live.stop()
        finally:
            self._streams.close()

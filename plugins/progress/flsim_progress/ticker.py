"""Ticker: a thread that does one thing again and again."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Ticker:
    """Calls ``tick`` every ``seconds`` from a thread of its own. What it raises is kept for :meth:`check`."""

    def __init__(self, tick: Callable[[], None], seconds: float) -> None:
        self._tick = tick
        self._seconds = seconds
        self._over = threading.Event()
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="flsim-progress", daemon=True)

    def start(self) -> None:
        """Begin to tick."""
        self._thread.start()

    def stop(self) -> None:
        """End, also where it never began."""
        self._over.set()
        if self._thread.ident is not None:
            self._thread.join()

    def check(self) -> None:
        """Raise what a tick raised."""
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        while not self._over.wait(self._seconds):
            try:
                self._tick()
            except Exception as e:
                self._error = e
                return

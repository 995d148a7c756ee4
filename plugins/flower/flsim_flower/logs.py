"""Flower's log, where the engine can see it."""

from __future__ import annotations

import logging
import re
import sys

_COLOUR = re.compile(r"\x1b\[\d*m")


class _Stderr:
    """Whatever ``sys.stderr`` is now: the engine catches what is written while a message is answered. Flower colours
    its lines wherever they go, here only where that is a terminal."""

    def write(self, text: str) -> int:
        return sys.stderr.write(text if sys.stderr.isatty() else _COLOUR.sub("", text))

    def flush(self) -> None:
        sys.stderr.flush()


def follow_stderr() -> None:
    """Have Flower log to what ``sys.stderr`` is at the time, not to what it was when flwr was imported."""
    for handler in logging.getLogger("flwr").handlers:
        if isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler):
            handler.setStream(_Stderr())

"""Files that a process may open: some of them are kept from the app, so that its messages can still be answered where
it has used up the others, and a process that has few left is replaced."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from resource import RLIM_INFINITY, RLIMIT_NOFILE, getrlimit, setrlimit

KEPT = 16
"""So many are kept from the app."""

FEW = 64
"""A process whose app may open no more than these, or an eighth of what it may have where that is less, is replaced
before its next lease."""


@contextlib.contextmanager
def kept_back() -> Iterator[None]:
    """Let this process have :data:`KEPT` files less than it may, until the context ends. What the app itself makes of
    the limit meanwhile is heeded."""
    _change(-KEPT)
    try:
        yield
    finally:
        _change(KEPT)


@contextlib.contextmanager
def given_back() -> Iterator[None]:
    """Within :func:`kept_back`: let it have them, until the context ends."""
    _change(KEPT)
    try:
        yield
    finally:
        _change(-KEPT)


def nearly_all() -> str:
    """That the app has hardly any file left to open here; empty where it has. By the number that a new one gets, which
    is the lowest that is free."""
    most, _ = getrlimit(RLIMIT_NOFILE)
    try:
        number = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        number = most
    else:
        os.close(number)
    of_the_app = most - KEPT
    if most == RLIM_INFINITY or number < of_the_app - min(FEW, of_the_app // 8):
        return ""
    return f"it has nearly all of the {most} files open that it may have"


_changing = threading.Lock()  # where leases share a process, the limit is one


def _change(by: int) -> None:
    with _changing:
        now, most = getrlimit(RLIMIT_NOFILE)
        if now != RLIM_INFINITY:
            new = max(now + by, 0)
            setrlimit(RLIMIT_NOFILE, (new if most == RLIM_INFINITY else min(new, most), most))

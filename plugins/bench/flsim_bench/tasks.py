"""What a client does, the same on every way to it: no import of flsim, Flower, Dask or Ray."""

from __future__ import annotations

import os
import pickle
import socket
import threading
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float32]

Span = tuple[str, float, float]
"""Which worker (``host:pid:thread``) was at work, from when to when, in Unix time."""

MessageTuple = tuple[int, str, int, int, str, str, float, None, str, dict[str, dict[str, Any]]]
"""A message as a reference sends it: run, id, from, to, type, group, time, ttl, id of what it answers, content."""

STRIDE = 7919


def noop(client: int, round: int) -> int:
    """Nothing but a number that shows who was asked what."""
    return client + round


def echo(model: Array) -> Array:
    """New arrays, as a trainer returns them."""
    import numpy as np

    return model + np.float32(1)


def touch(model: Array, client: int) -> float:
    """One value of the model, another one for each client."""
    return float(model[client * STRIDE % len(model)])


def spin(seconds: float) -> Span:
    """Keep one cpu at work for so many seconds of its time, however long that takes."""
    begin, end = time.time(), time.thread_time() + seconds
    while time.thread_time() < end:
        for _ in range(1000):
            pass
    return _worker(), begin, time.time()


def sleep(seconds: float) -> Span:
    """Be at work for so long, and use no cpu."""
    begin = time.time()
    time.sleep(seconds)
    return _worker(), begin, time.time()


def visit(visits: int, kept: bytes, size: int) -> tuple[int, bytes]:
    """Count the visits of a node, and keep a state of ``size`` bytes that says how many. Raises ValueError where the
    state is not the one of the last visit."""
    if kept != state(visits, size):
        raise ValueError(f"the state of a node that was visited {visits} times is not what it kept")
    return visits + 1, state(visits + 1, size)


def state(visits: int, size: int) -> bytes:
    """What a node keeps after so many visits."""
    return visits.to_bytes(4, "little") * (size // 4) if visits else b""


def message(client: int, type_: str, **config: Any) -> bytes:
    """The same message as an engine sends: a tuple, pickled by itself, as it is pushed and answered by itself."""
    return _dump((1, str(client), 1, client, type_, "", time.time(), None, "", {"config": config}))


def value(answer: bytes) -> int:
    """What an answer says."""
    return int(_load(answer)[-1]["reply"]["value"])


def noop_message(asked: bytes) -> bytes:
    """:func:`noop` for such a message."""
    message = _load(asked)
    return _answer(message, noop(message[3], message[-1]["config"]["round"]))


def visit_message(asked: bytes, visits: int, kept: bytes) -> tuple[bytes, tuple[int, bytes]]:
    """:func:`visit` for such a message, beside which the state goes."""
    message = _load(asked)
    state_now = visit(visits, kept, message[-1]["config"]["size"])
    return _answer(message, state_now[0]), state_now


def _answer(to: MessageTuple, value: int) -> bytes:
    return _dump((to[0], "", to[3], to[2], to[4], to[5], time.time(), None, to[1], {"reply": {"value": value}}))


def _dump(message: MessageTuple) -> bytes:
    return pickle.dumps(message, protocol=5)


def _load(message: bytes) -> MessageTuple:
    loaded: MessageTuple = pickle.loads(message)
    return loaded


def many(task: Any, calls: list[tuple[Any, ...]]) -> list[Any]:
    """A batch of calls."""
    return [task(*arguments) for arguments in calls]


def batches(calls: Iterable[tuple[Any, ...]], size: int) -> list[list[tuple[Any, ...]]]:
    """The calls in batches of ``size``, the last one of what is left."""
    all_ = list(calls)
    return [all_[i : i + size] for i in range(0, len(all_), size)]


def _worker() -> str:
    return f"{socket.gethostname()}:{os.getpid()}:{threading.get_ident()}"

"""A bare process pool of the standard library: messages as tuples, pickled."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from types import ModuleType
from typing import TYPE_CHECKING, Any

from flsim_bench import tasks
from flsim_bench.way import Order, Play, Played, Way

if TYPE_CHECKING:
    from flsim_bench.tasks import Array, Span

BATCH = 32
"""Messages that cost nothing go so many at a time."""


def drive(order: Order, play: Play) -> Played:
    """Play with a pool of as many processes as there are workers."""
    with ProcessPoolExecutor(order.workers, multiprocessing.get_context("spawn")) as pool:
        return play(PoolWay(pool, order.codec))


class PoolWay(Way):
    """Calls in the processes of a pool."""

    def __init__(self, pool: ProcessPoolExecutor, codec: ModuleType) -> None:
        self.pool = pool
        self._codec = codec
        self._states: dict[int, tuple[int, bytes]] = {}

    def noop(self, clients: Sequence[int], round: int) -> Iterable[int]:
        calls = ((self._codec.message(c, "query.noop", round=round),) for c in clients)
        return map(self._codec.value, self._batches(self._codec.noop_message, calls))

    def echo(self, model: Array, clients: Sequence[int]) -> Iterable[Array]:
        return self.pool.map(tasks.echo, [model] * len(clients))

    def spin(self, seconds: Sequence[float]) -> Iterable[Span]:
        return self.pool.map(tasks.spin, seconds)

    def sleep(self, seconds: Sequence[float]) -> Iterable[Span]:
        return self.pool.map(tasks.sleep, seconds)

    def visit(self, clients: Sequence[int], size: int) -> Iterator[int]:
        """The states are here, and go along."""
        states = [self._states.get(c, (0, b"")) for c in clients]
        calls = ((tasks.message(c, "query.visit", size=size), *s) for c, s in zip(clients, states, strict=True))
        for client, (answer, state) in zip(clients, self._batches(tasks.visit_message, calls), strict=True):
            self._states[client] = state
            yield tasks.value(answer)

    def _batches(self, task: Any, calls: Iterable[tuple[Any, ...]]) -> Iterator[Any]:
        batches = tasks.batches(calls, BATCH)
        for results in self.pool.map(tasks.many, [task] * len(batches), batches):
            yield from results

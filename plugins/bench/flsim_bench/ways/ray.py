"""Ray without an engine: tasks of many messages on a plain cluster of this host, arrays through its object store."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

from flsim_bench import tasks
from flsim_bench.way import Order, Play, Played, Way

if TYPE_CHECKING:
    from flsim_bench.tasks import Array

BATCH = 256
"""Messages that cost nothing go so many at a time."""


def drive(order: Order, play: Play) -> Played:
    """Play with a cluster of as many cpus as there are workers."""
    # Despite the first one's name: all that Ray opens is on 127.0.0.1. It is read when Ray is imported.
    os.environ.update(RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0", RAY_USAGE_STATS_ENABLED="0")
    import ray

    ray.init(
        address="local",
        num_cpus=order.workers,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        _temp_dir=order.folder,
    )
    try:
        return play(RayWay(order.codec))
    finally:
        ray.shutdown()


class RayWay(Way):
    """Remote functions."""

    def __init__(self, codec: ModuleType) -> None:
        import ray

        self._codec = codec
        self._ray = ray
        self._many = ray.remote(tasks.many)
        self._echo = ray.remote(tasks.echo)
        self._touch = ray.remote(_touch)

    def noop(self, clients: Sequence[int], round: int) -> Iterator[int]:
        calls = tasks.batches(((self._codec.message(c, "query.noop", round=round),) for c in clients), BATCH)
        for answers in self._ray.get([self._many.remote(self._codec.noop_message, batch) for batch in calls]):
            yield from map(self._codec.value, answers)

    def echo(self, model: Array, clients: Sequence[int]) -> Iterator[Array]:
        shared = self._ray.put(model)
        replies: list[Any] = [self._echo.remote(shared) for _ in clients]
        while replies:
            yield self._ray.get(replies.pop(0))

    def broadcast(self, model: Array, clients: Sequence[int]) -> Iterable[float]:
        shared = self._ray.put(model)
        calls = tasks.batches(((c,) for c in clients), BATCH)
        return [v for values in self._ray.get([self._touch.remote(shared, batch) for batch in calls]) for v in values]


def _touch(model: Array, calls: list[tuple[int]]) -> list[float]:
    return [tasks.touch(model, client) for (client,) in calls]

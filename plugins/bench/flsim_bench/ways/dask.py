# mypy: untyped-calls-exclude="distributed"
"""Dask without an engine: tasks of many messages on a plain cluster of this host, arrays from worker to client."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

import dask
from distributed import Client, LocalCluster

from flsim_bench import tasks
from flsim_bench.way import Order, Play, Played, Way

if TYPE_CHECKING:
    from flsim_bench.tasks import Array

BATCH = 256
"""Messages that cost nothing go so many at a time."""


def drive(order: Order, play: Play) -> Played:
    """Play with a cluster of as many workers of one thread as there are workers."""
    dask.config.set({"temporary-directory": order.folder})
    with (
        LocalCluster(
            n_workers=order.workers,
            threads_per_worker=1,
            host="127.0.0.1",
            dashboard_address=None,
            memory_limit=0,
            silence_logs=True,
        ) as cluster,
        Client(cluster, direct_to_workers=True) as client,
    ):
        client.wait_for_workers(order.workers)
        return play(DaskWay(client, order.codec))


class DaskWay(Way):
    """Tasks of the Client."""

    def __init__(self, client: Client, codec: ModuleType) -> None:
        self._codec = codec
        self._client = client

    def noop(self, clients: Sequence[int], round: int) -> Iterator[int]:
        calls = tasks.batches(((self._codec.message(c, "query.noop", round=round),) for c in clients), BATCH)
        futures = self._client.map(tasks.many, [self._codec.noop_message] * len(calls), calls, pure=False)
        for answers in self._client.gather(futures):
            yield from map(self._codec.value, answers)

    def echo(self, model: Array, clients: Sequence[int]) -> Iterator[Array]:
        shared = self._shared(model)
        futures = [self._client.submit(tasks.echo, shared, pure=False) for _ in clients]
        while futures:
            yield futures.pop(0).result()

    def broadcast(self, model: Array, clients: Sequence[int]) -> Iterable[float]:
        shared = self._shared(model)
        calls = tasks.batches(((c,) for c in clients), BATCH)
        futures = [self._client.submit(_touch, shared, batch, pure=False) for batch in calls]
        return [value for values in self._client.gather(futures) for value in values]

    def _shared(self, model: Array) -> Any:
        return self._client.scatter([model], broadcast=True, hash=False)[0]


def _touch(model: Array, calls: list[tuple[int]]) -> list[float]:
    return [tasks.touch(model, client) for (client,) in calls]

"""Plain shared memory: workers read a mapped model, and write what they return to another mapping."""

from __future__ import annotations

import mmap
import multiprocessing
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from flsim_bench import tasks
from flsim_bench.way import Order, Play, Played, Way
from flsim_bench.ways.pool import BATCH

if TYPE_CHECKING:
    from flsim_bench.tasks import Array


def drive(order: Order, play: Play) -> Played:
    """Play with a pool beside which arrays pass."""
    with ProcessPoolExecutor(order.workers, multiprocessing.get_context("spawn")) as pool:
        return play(MemoryWay(pool, Path(order.memory)))


class MemoryWay(Way):
    """Arrays as files in memory; what passes through the pool are their names."""

    def __init__(self, pool: ProcessPoolExecutor, folder: Path) -> None:
        self._pool = pool
        self._folder = folder

    def echo(self, model: Array, clients: Sequence[int]) -> Iterator[Array]:
        path = _write(self._folder, model)
        for reply in self._pool.map(_echo, [path] * len(clients)):
            array = _read(reply)
            reply.unlink()
            yield array
        path.unlink()

    def broadcast(self, model: Array, clients: Sequence[int]) -> Iterator[float]:
        path = _write(self._folder, model)
        batches = tasks.batches(((c,) for c in clients), BATCH)
        for values in self._pool.map(_touch, [path] * len(batches), batches):
            yield from values
        path.unlink()


def _write(folder: Path, array: Array) -> Path:
    path, mapped = _new(folder, array.nbytes)
    mapped[:] = array
    return path


def _new(folder: Path, nbytes: int) -> tuple[Path, Array]:
    import numpy as np

    with tempfile.NamedTemporaryFile(dir=folder, delete=False) as file:
        file.truncate(nbytes)
        return Path(file.name), np.frombuffer(mmap.mmap(file.fileno(), nbytes), np.float32)


def _read(path: Path) -> Array:
    import numpy as np

    with path.open("rb") as file:
        return np.frombuffer(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ), np.float32)


# ---- in the worker


def _echo(path: Path) -> Path:
    import numpy as np

    model = _read(path)
    reply, mapped = _new(path.parent, model.nbytes)
    np.add(model, np.float32(1), out=mapped)
    return reply


def _touch(path: Path, calls: list[tuple[int]]) -> list[float]:
    model = _read(path)
    return [tasks.touch(model, client) for (client,) in calls]

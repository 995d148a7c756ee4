"""The workloads: what is asked, what is timed, and what must have come back. No import of flsim or Flower."""

from __future__ import annotations

import contextlib
import random
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING, Any

from flsim_bench import memory, tasks
from flsim_bench.way import Played, Way

if TYPE_CHECKING:
    from flsim_bench.tasks import Array, Span

MEGA = 1e6

LONG = 0.1
"""Seconds that a message takes, so that all workers are at one at the same time."""


class WrongResult(Exception):
    """What came back is not what was asked for, so its time means nothing."""


@dataclass
class Rounds:
    """Counts rounds and times them. Round 0 is a warm-up; after ``budget`` seconds there is no further one."""

    most: int
    budget: float
    seconds: list[float] = field(default_factory=list)

    def __iter__(self) -> Iterator[int]:
        yield 0
        begun = time.monotonic()
        for round in range(1, self.most + 1):
            if self.seconds and time.monotonic() - begun > self.budget:
                break
            yield round

    @contextlib.contextmanager
    def timed(self, round: int) -> Iterator[None]:
        """What is inside is the round."""
        begin = time.perf_counter()
        yield
        if round:
            self.seconds.append(time.perf_counter() - begin)


def noop(way: Way, p: Mapping[str, Any]) -> Played:
    """Messages that cost nothing: a full round at a time, or one message at a time."""
    rounds = Rounds(p["rounds"], p["budget"])
    clients = range(p["clients"])
    for round in rounds:
        with rounds.timed(round):
            got = list(way.noop(clients, round))
        _check(got, [tasks.noop(c, round) for c in clients])
    if len(clients) == 1:
        return Played({"latency": [1000 * s for s in rounds.seconds]})
    return Played({"throughput": [len(clients) / s for s in rounds.seconds]})


def echo(way: Way, p: Mapping[str, Any]) -> Played:
    """A model to each client and new arrays from it, summed."""
    import numpy as np

    rounds = Rounds(p["rounds"], p["budget"])
    clients = range(p["clients"])
    model = _model(p["bytes"])
    total = np.zeros_like(model)
    for round in rounds:
        model += 1  # another model each round
        total[:] = 0
        count = 0
        with rounds.timed(round):
            for array in way.echo(model, clients):
                np.add(total, array, out=total)
                count += 1
        if count != len(clients):
            raise WrongResult(f"{len(clients)} arrays were asked for, and {count} came back")
        _check_sum(total, model, count)
    both_ways = 2 * len(clients) * model.nbytes / MEGA
    return Played({"bandwidth": [both_ways / s for s in rounds.seconds], **_peak()})


def broadcast(way: Way, p: Mapping[str, Any]) -> Played:
    """A model to each client, and a number from it."""
    rounds = Rounds(p["rounds"], p["budget"])
    clients = range(p["clients"])
    model = _model(p["bytes"])
    for round in rounds:
        model += 1
        with rounds.timed(round):
            got = list(way.broadcast(model, clients))
        _check(got, [tasks.touch(model, c) for c in clients])
    return Played({"round": list(rounds.seconds), **_peak()})


def compute(way: Way, p: Mapping[str, Any]) -> Played:
    """The same work for each client."""
    rounds = Rounds(p["rounds"], p["budget"])
    seconds = [p["seconds"]] * p["clients"]
    values: dict[str, list[float]] = {"efficiency": [], "gap": [], "workers": []}
    there = _workers(way, p)
    list(way.spin(seconds[: p["warm"]]))
    for round in rounds:
        if round == 0:
            continue  # as a warm-up it would be too dear
        with rounds.timed(round):
            spans = list(way.spin(seconds))
        _check_spans(spans, seconds)
        workers = max(there, at_once(spans))
        values["efficiency"].append(sum(seconds) / (workers * rounds.seconds[-1]))
        values["gap"].append(1000 * gap(spans))
        values["workers"].append(workers)
    return Played(values)


def uneven(way: Way, p: Mapping[str, Any]) -> Played:
    """Skewed durations, which nobody knows ahead. Clients wait, so that what is measured is in which order and in
    which batches they are asked, and not the machine."""
    rounds = Rounds(p["rounds"], p["budget"])
    seconds = skewed(p["clients"], p["seconds"])
    values: dict[str, list[float]] = {"makespan": [], "workers": []}
    there = _workers(way, p)
    for round in rounds:
        if round == 0:
            continue
        with rounds.timed(round):
            spans = list(way.sleep(seconds))
        _check_spans(spans, seconds)
        workers = max(there, at_once(spans))
        values["makespan"].append(rounds.seconds[-1] / max(max(seconds), sum(seconds) / workers))
        values["workers"].append(workers)
    return Played(values)


def fleet(way: Way, p: Mapping[str, Any]) -> Played:
    """Few of many nodes in each round, and others in the next, so that in the end all were asked."""
    rounds = Rounds(p["rounds"], p["budget"])
    nodes, asked, size = p["nodes"], p["clients"], p["state"]
    visits = [0] * nodes
    resident: list[float] = []
    for round in rounds:
        first = round * asked % nodes
        chosen = range(first, min(first + asked, nodes))
        with rounds.timed(round):
            got = list(way.visit(chosen, size) if size else way.noop(chosen, round))
        for node in chosen:
            visits[node] += 1
        _check(got, [visits[n] for n in chosen] if size else [tasks.noop(n, round) for n in chosen])
        if round:
            resident.append(memory.resident() / MEGA)
    seconds = rounds.seconds
    values = {"round": [1000 * s for s in seconds], "slowest": [max(seconds) / seconds[0]], **_peak()}
    values["rounds"] = [len(seconds)]
    return Played(values, {"round": [1000 * s for s in seconds], "driver": resident})


def startup(way: Way, p: Mapping[str, Any]) -> Played:
    """From nothing to the first reply. What the process does before and after is timed around this."""
    _check(list(way.noop(range(1), 0)), [tasks.noop(0, 0)])
    return Played({})


WORKLOADS = {f.__name__: f for f in (noop, echo, broadcast, compute, uneven, fleet, startup)}


def _workers(way: Way, p: Mapping[str, Any]) -> int:
    """How many workers there are. It is also their warm-up: each has had a message."""
    return at_once(list(way.sleep([LONG] * min(p["warm"], p["clients"]))))


def at_once(spans: list[Span]) -> int:
    """How many workers there were: the most that were at work at the same time."""
    events = sorted([(begin, 1) for _, begin, _ in spans] + [(end, -1) for _, _, end in spans])
    now = most = 0
    for _, change in events:
        now += change
        most = max(most, now)
    return most


def gap(spans: list[Span]) -> float:
    """Seconds from the end of a message to the begin of the next one at the same worker: the median."""
    of: dict[str, list[tuple[float, float]]] = {}
    for worker, begin, end in spans:
        of.setdefault(worker, []).append((begin, end))
    gaps = [after[0] - before[1] for at in of.values() for before, after in pairwise(sorted(at))]
    return median(gaps) if gaps else 0.0


def skewed(clients: int, mean: float) -> list[float]:
    """Durations in seconds, log-normal, the same in each run: few are many times the mean."""
    draw = random.Random(7)
    drawn = [draw.lognormvariate(0, 1) for _ in range(clients)]
    return [d * mean * clients / sum(drawn) for d in drawn]


def _model(nbytes: int) -> Array:
    """Whole numbers so small that their sum over many clients is exact, in whatever order."""
    import numpy as np

    return np.arange(nbytes // 4, dtype=np.float32) % np.float32(1024)


def _peak() -> dict[str, list[float]]:
    return {"driver": [memory.peak() / MEGA]}


def _check(got: list[Any], wanted: list[Any]) -> None:
    if Counter(got) != Counter(wanted):
        raise WrongResult(f"{len(wanted)} results were asked for, {len(got)} came back, and they are not the same")


def _check_spans(spans: list[Span], seconds: list[float]) -> None:
    if len(spans) != len(seconds):
        raise WrongResult(f"{len(seconds)} results were asked for, and {len(spans)} came back")
    took = sum(end - begin for _, begin, end in spans)
    if took < 0.9 * sum(seconds):  # the clock that is read is another one than that which the work is measured by
        raise WrongResult(f"{sum(seconds):.3f} s of work were asked for, and only {took:.3f} s were done")


def _check_sum(total: Array, model: Array, count: int) -> None:
    """In pieces, since another array as large as the model would be the driver's peak."""
    import numpy as np

    piece = 1 << 18
    for at in range(0, len(model), piece):
        if not np.array_equal(total[at : at + piece], (model[at : at + piece] + 1) * count):
            raise WrongResult("the arrays that came back do not add up to what they must")

"""What there is to measure: workloads, their measures, their cases at each scale, and the bare references."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

KB, MB = 1000, 1_000_000

MESSAGES = "messages"
"""The name by which a reference's process is told to carry flsim's own Messages."""


@dataclass(frozen=True, slots=True)
class Measure:
    """Something that is measured."""

    name: str
    title: str
    unit: str
    better: Literal["higher", "lower", ""]
    """Empty: neither."""
    outside: bool = False
    """Measured around the processes, and not in them."""


@dataclass(frozen=True, slots=True)
class Case:
    """A workload at one size."""

    workload: str
    name: str
    params: Mapping[str, Any]
    group: str = ""
    """Cases of one group differ in one size alone, along which they are drawn; empty: it is of none."""
    warm_starts: int = 0
    """So many times the process is started first without being counted: what it reads is in the page cache then."""


@dataclass(frozen=True, slots=True)
class Reference:
    """The same work without an engine."""

    name: str
    way: str
    """The module of :mod:`flsim_bench.ways`."""
    summary: str
    library: str = ""
    """The distribution that it needs, and that the backends need whose own reference it is."""
    messages: bool = False
    """Whether it carries flsim's own Messages, and not tuples."""


@dataclass(frozen=True, slots=True)
class Workload:
    """A kind of work, and what is said of it."""

    name: str
    summary: str
    measures: tuple[Measure, ...]
    references: tuple[str, ...]
    """Those that can do it. The first is that of all backends that have none of their own."""
    cases: Mapping[str, tuple[Case, ...]] = field(default_factory=dict)
    """By scale."""

    @property
    def memory(self) -> bool:
        """Whether the memory of all processes is measured, which disturbs them a little."""
        return any(m.outside and m.unit == "MB" for m in self.measures)


REFERENCES = {
    r.name: r
    for r in (
        Reference("bare pool", "pool", "tuples through a process pool, in batches of 32 where they cost nothing"),
        Reference("bare memory", "memory", "arrays in mapped files in memory, their names through a process pool"),
        Reference("bare dask", "dask", "tasks of a plain Dask cluster, in batches of 256", "distributed"),
        Reference("bare ray", "ray", "tasks of a plain Ray cluster, in batches of 256", "ray"),
        Reference("pool of Messages", "pool", "as bare pool, with flsim's own Messages as they are", messages=True),
        Reference("dask of Messages", "dask", "as bare dask, with flsim's own Messages", "distributed", messages=True),
        Reference("ray of Messages", "ray", "as bare ray, with flsim's own Messages", "ray", messages=True),
    )
}

SCALES = {
    "tiny": "seconds: shows that everything works, and measures nothing well",
    "small": "minutes",
    "full": "an hour or more: the sizes that the documentation reports",
}

DRIVER = Measure("driver", "memory of the driver, peak", "MB", "lower")
PROCESSES = Measure("processes", "memory of all processes, peak", "MB", "lower", outside=True)
WORKERS = Measure("workers", "workers at once", "", "")


def _cases(workload: str, budget: float, *cases: tuple[str, dict[str, Any]]) -> tuple[Case, ...]:
    return tuple(Case(workload, name, {"budget": budget, **params}, _group(workload, params)) for name, params in cases)


def _group(workload: str, params: Mapping[str, Any]) -> str:
    if workload == "fleet":
        return f"nodes with {size_name(params['state'])} each" if params["state"] else "nodes without a state"
    return f"arrays to {params['clients']} clients" if workload == "echo" else ""


def _noop(rounds: int, singles: int, *clients: int) -> tuple[tuple[str, dict[str, Any]], ...]:
    full = [(f"{n:,} of {n:,} nodes", {"clients": n, "rounds": rounds}) for n in clients]
    return (*full, ("one at a time", {"clients": 1, "nodes": clients[0], "rounds": singles}))


def _echo(rounds: int, clients: int, *sizes: int) -> tuple[tuple[str, dict[str, Any]], ...]:
    return tuple(
        (f"{size_name(s)} to {clients} clients", {"clients": clients, "bytes": s, "rounds": rounds}) for s in sizes
    )


def _broadcast(rounds: int, clients: int, size: int) -> tuple[str, dict[str, Any]]:
    return f"{size_name(size)} to {clients:,} clients", {"clients": clients, "bytes": size, "rounds": rounds}


def _work(rounds: int, clients: int, seconds: float) -> tuple[str, dict[str, Any]]:
    name = f"{clients} clients of {seconds:g} s"
    return name, {"clients": clients, "seconds": seconds, "rounds": rounds, "warm": 16}


def _fleet(rounds: int, asked: int, nodes: int, state: int = 0) -> tuple[str, dict[str, Any]]:
    kept = f", {size_name(state)} each" if state else ""
    return f"{asked:,} of {nodes:,} nodes{kept}", {"clients": asked, "nodes": nodes, "state": state, "rounds": rounds}


def size_name(nbytes: int) -> str:
    """A number of bytes as text."""
    return f"{nbytes / MB:g} MB" if nbytes >= MB else f"{nbytes / KB:g} kB"


def _startup(name: str, warm_starts: int) -> tuple[Case, ...]:
    return (Case("startup", name, {"clients": 1, "nodes": 10}, warm_starts=warm_starts),)


WORKLOADS = {
    w.name: w
    for w in (
        Workload(
            "noop",
            "messages that cost nothing: what the engine itself costs",
            (
                Measure("throughput", "throughput", "messages/s", "higher"),
                Measure("latency", "latency", "ms", "lower"),
            ),
            ("bare pool", "bare dask", "bare ray", "pool of Messages", "dask of Messages", "ray of Messages"),
            {
                "tiny": _cases("noop", 1, *_noop(2, 3, 20)),
                "small": _cases("noop", 5, *_noop(30, 50, 100, 1000)),
                "full": _cases("noop", 30, *_noop(100, 200, 100, 1000)),
            },
        ),
        Workload(
            "echo",
            "arrays to clients each of which returns new ones, summed in the ServerApp",
            (Measure("bandwidth", "both ways", "MB/s", "higher"), DRIVER, PROCESSES),
            ("bare memory", "bare pool", "bare dask", "bare ray"),
            {
                "tiny": _cases("echo", 1, *_echo(2, 4, KB, 100 * KB)),
                "small": _cases("echo", 5, *_echo(5, 20, 100 * KB, 10 * MB)),
                "full": _cases("echo", 30, *_echo(5, 20, KB, 100 * KB, MB, 10 * MB, 50 * MB, 100 * MB)),
            },
        ),
        Workload(
            "broadcast",
            "a large model to many clients that reply with a number",
            (Measure("round", "a round", "s", "lower"), DRIVER, PROCESSES),
            ("bare memory", "bare dask", "bare ray"),
            {
                "tiny": _cases("broadcast", 1, _broadcast(2, 8, 100 * KB)),
                "small": _cases("broadcast", 5, _broadcast(3, 100, 20 * MB)),
                "full": _cases("broadcast", 30, _broadcast(3, 1000, 100 * MB)),
            },
        ),
        Workload(
            "compute",
            "the same work for each client: how much of the time is theirs",
            (
                Measure("efficiency", "efficiency against ideal", "", "higher"),
                Measure("gap", "gap between two messages of a worker", "ms", "lower"),
                WORKERS,
            ),
            ("bare pool",),
            {
                "tiny": _cases("compute", 1, _work(1, 4, 0.01)),
                "small": _cases("compute", 5, _work(1, 30, 0.1)),
                "full": _cases("compute", 30, _work(1, 100, 0.2)),
            },
        ),
        Workload(
            "uneven",
            "skewed durations that nobody knows ahead: the makespan against its lower bound",
            (Measure("makespan", "makespan against the lower bound", "×", "lower"), WORKERS),
            ("bare pool",),
            {
                "tiny": _cases("uneven", 1, _work(1, 4, 0.01)),
                "small": _cases("uneven", 5, _work(1, 60, 0.05)),
                "full": _cases("uneven", 30, _work(1, 200, 0.1)),
            },
        ),
        Workload(
            "fleet",
            "some nodes of very many in each round, without and with a state of each",
            (
                Measure("round", "a round", "ms", "lower"),
                Measure("slowest", "slowest round against the first", "×", "lower"),
                Measure("rounds", "rounds", "", ""),
                DRIVER,
                PROCESSES,
            ),
            ("bare pool",),
            {
                "tiny": _cases("fleet", 1, _fleet(3, 10, 30), _fleet(4, 10, 30, KB)),
                "small": _cases(
                    "fleet", 10, _fleet(5, 1000, 1000), _fleet(5, 1000, 1_000_000), _fleet(25, 1000, 20_000, KB)
                ),
                "full": _cases(
                    "fleet",
                    600,
                    *(_fleet(10, 1000, n) for n in (1000, 10_000, 100_000, 1_000_000)),
                    *(_fleet(n // 1000 + 10, 1000, n, KB) for n in (10_000, 100_000, 1_000_000)),
                ),
            },
        ),
        Workload(
            "startup",
            "from the call of flsim.run to the first line of the ServerApp, and the whole process",
            (
                Measure("call", "to the ServerApp's first line", "s", "lower"),
                Measure("reply", "to the first reply", "s", "lower"),
                Measure("stop", "from the ServerApp's end to the return", "s", "lower"),
                Measure("process", "the whole process", "s", "lower", outside=True),
            ),
            ("bare pool", "bare dask", "bare ray"),
            {
                "tiny": _startup("10 nodes", 0),
                "small": _startup("10 nodes", 1),
                "full": _startup("10 nodes", 1),
            },
        ),
    )
}
"""In the order in which they run."""

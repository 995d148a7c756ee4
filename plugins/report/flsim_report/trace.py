"""A run as a trace: the JSON format of Chrome's trace viewer, which Perfetto (ui.perfetto.dev) opens, too.

The format is described in "Trace Event Format" (Google, 2016). Times are microseconds since the run began. Each worker
is a process, on whose threads leases hold messages, and messages their steps; leases of which nobody told who had them
are processes of their own; the driver is a process with what was reported, what was lost, and counters.
"""

from __future__ import annotations

import gzip
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from flsim_report.runs import RecordedRun, ended_without, reports
from flsim_report.spans import LOST, OPEN, Spans, spans_of

DRIVER = 1
"""The driver's process. The workers' follow."""

EVERY = 1000
"""Messages after which it is told how far it is."""

Event = dict[str, Any]


def write_trace(run: RecordedRun, file: Path, progress: Callable[[int], None] = lambda messages: None) -> int:
    """Write the trace of a run, compressed where the file's name ends with ``.gz``.

    Args:
        progress: is told now and then of how many more messages are written.

    Returns:
        How many events it has.
    """
    if file.suffix == ".gz":
        with gzip.open(file, "wt", encoding="utf-8") as out:
            return _write(run, out, progress)
    with file.open("w", encoding="utf-8") as out:
        return _write(run, out, progress)


def _write(run: RecordedRun, out: TextIO, progress: Callable[[int], None]) -> int:
    encode = json.JSONEncoder(ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode
    about = {"run": run.name, "app": run.result.app, "backend": run.result.backend, "status": run.result.status}
    out.write(f'{{"displayTimeUnit":"ms","otherData":{encode(about)},"traceEvents":[\n')
    count = messages = 0
    for event in events(run):
        out.write(",\n" if count else "")
        out.write(encode(event))
        count += 1
        if event.get("cat") == "message":
            messages += 1
            if messages % EVERY == 0:
                progress(EVERY)
    out.write("\n]}\n")
    return count


def events(run: RecordedRun) -> Iterator[Event]:
    """All events of a trace, those that name processes and threads first."""
    spans = spans_of(run)
    threads = _threads(spans)
    yield _about("process_name", DRIVER, 0, name=f"driver: {run.result.app} on {run.result.backend}")
    yield _about("thread_name", DRIVER, 1, name="reports")
    yield _about("process_sort_index", DRIVER, 0, sort_index=DRIVER)
    names = [*(f"worker {name}" for name in run.workers), LOST, OPEN]
    for group in sorted({*range(len(run.workers)), *spans.groups}):
        yield _about("process_name", _process(group), 0, name=names[group])
        yield _about("process_sort_index", _process(group), 0, sort_index=_process(group))
    for lane, (process, thread) in enumerate(threads):
        yield _about("thread_name", process, thread, name=spans.lanes[lane])
    yield from _driver(run)
    yield from _workers(run, spans, threads)


def _workers(run: RecordedRun, spans: Spans, threads: list[tuple[int, int]]) -> Iterator[Event]:
    leases, m = run.leases, run.messages
    pulled, returned = _ns(spans.lease_begin), _ns(spans.lease_end)
    gone, ended = {lost.lease: lost for lost in run.lost}, ended_without(run)
    for i in np.flatnonzero(spans.lease_lane >= 0).tolist():
        process, thread = threads[spans.lease_lane[i]]
        lease = int(leases.id[i])
        arguments: dict[str, Any] = {"lease": lease, "messages": int(leases.messages[i])}
        if leases.lost[i]:
            arguments["lost"] = gone[lease].cause if lease in gone else "yes"
        if leases.lost[i] and lease in gone:
            arguments["detail"] = gone[lease].detail
        if not np.isfinite(leases.returned[i]):
            arguments["at work when the record ends"] = True
        for k in ended.get(lease, ()):
            arguments[f"message {m.id[k]}"] = f"node {m.node[k]}, attempts {m.attempts[k]}, {run.reason(k)}"
        yield _complete(f"lease {lease}", "lease", process, thread, pulled[i], returned[i], arguments)
    # What is rounded must still lie within what it is a part of: slices of one thread that cross cannot be drawn.
    at = np.searchsorted(leases.id, m.lease[spans.message])
    low, high = pulled[at], returned[at]
    begin, decoded, executed, encoded = (
        np.clip(_ns(t), low, high) for t in (spans.start, spans.decoded, spans.executed, spans.encoded)
    )
    for i, message in enumerate(spans.message.tolist()):
        process, thread = threads[spans.lane[i]]
        arguments = {
            "message": int(m.id[message]), "node": int(m.node[message]), "attempts": int(m.attempts[message]),
            "bytes out": int(m.bytes_out[message]), "bytes back": int(m.bytes_back[message]),
        }  # fmt: skip
        if m.code[message] >= 0:
            arguments["error"] = run.reason(message)
        type_ = run.types[m.type[message]]
        yield _complete(f"{type_} node {m.node[message]}", "message", process, thread, begin[i], encoded[i], arguments)
        for name, b, e in (
            ("decode", begin[i], decoded[i]),
            ("execute", decoded[i], executed[i]),
            ("encode", executed[i], encoded[i]),
        ):
            if e > b:
                yield _complete(name, "step", process, thread, b, e, {})


def _driver(run: RecordedRun) -> Iterator[Event]:
    for report in reports(run):
        arguments: dict[str, Any] = {"round": report.round}
        arguments |= {} if report.node is None else {"node": report.node}
        numbers = {name: v for name, value in report.metrics.items() if (v := _number(value)) is not None}
        arguments |= {name: numbers.get(name, str(value)) for name, value in report.metrics.items()}
        yield {
            "ph": "i",
            "s": "t",
            "name": "report" if report.node is None else f"report of node {report.node}",
            "cat": "report",
            "pid": DRIVER,
            "tid": 1,
            "ts": _us(report.at),
            "args": arguments,
        }
        if report.node is None:
            for name, number in numbers.items():
                yield _counter(name, report.at, {"value": number})
    for lost in run.lost:
        arguments = {"cause": lost.cause, "detail": lost.detail, "messages": lost.messages}
        yield {"ph": "i", "s": "g", "name": f"worker lost: {lost.cause}", "cat": "lost", "pid": DRIVER, "tid": 1,
               "ts": _us(lost.at), "args": arguments}  # fmt: skip
    m = run.messages
    known = np.isfinite(m.ended)
    yield from _level("messages in flight", m.pushed[known], m.ended[known])
    yield from _level("leases at work", run.leases.pulled, run.lease_ends)


def _number(value: bool | int | float | str) -> float | None:
    """What a counter shows of a metric; None: it is a text, or no finite number."""
    if isinstance(value, str) or not abs(value) <= sys.float_info.max:
        return None
    return float(value)


LEVELS = 20_000
"""Steps of a counter at most; of more, each so-manieth."""


def _level(name: str, begin: Any, end: Any) -> Iterator[Event]:
    """A counter of what has begun and not ended."""
    times = np.concatenate((begin, end))
    steps = np.concatenate((np.ones(len(begin), int), -np.ones(len(end), int)))
    order = np.lexsort((-steps, times))
    times, values = times[order], np.cumsum(steps[order])
    if not len(times):
        return
    last = np.append(times[1:] > times[:-1], True)  # of those at one time
    times, values = times[last], values[last]
    each = -(-len(times) // LEVELS)
    for i in np.unique(np.append(np.arange(0, len(times), each), len(times) - 1)).tolist():
        yield _counter(name, float(times[i]), {"value": int(values[i])})


def _process(group: int) -> int:
    return DRIVER + 1 + group


def _threads(spans: Spans) -> list[tuple[int, int]]:
    """The process and the thread of each lane: threads are counted from 1 in each process."""
    seen: dict[int, int] = {}
    threads = []
    for group in spans.groups:
        seen[group] = seen.get(group, 0) + 1
        threads.append((_process(group), seen[group]))
    return threads


def _about(what: str, process: int, thread: int, **arguments: Any) -> Event:
    return {"ph": "M", "name": what, "pid": process, "tid": thread, "ts": 0, "args": arguments}


def _complete(
    name: str, category: str, process: int, thread: int, begin: Any, end: Any, arguments: dict[str, Any]
) -> Event:
    """A slice of a thread, its ends given in nanoseconds."""
    return {
        "ph": "X", "name": name, "cat": category, "pid": process, "tid": thread, "ts": int(begin) / 1000,
        "dur": int(end - begin) / 1000, "args": arguments,
    }  # fmt: skip


def _counter(name: str, at: float, values: dict[str, float]) -> Event:
    return {"ph": "C", "name": name, "pid": DRIVER, "tid": 0, "ts": _us(at), "args": values}


def _us(seconds: float) -> float:
    return round(seconds * 1e6, 3)


def _ns(seconds: Any) -> Any:
    return np.rint(seconds * 1e9).astype(np.int64)

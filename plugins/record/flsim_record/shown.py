"""Runs as tables in a terminal. What comes from apps has no power over it: see ``printable``."""

from __future__ import annotations

import io
import re
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from flsim.envelope import clean

STYLES = {"finished": "green", "running": "cyan", "interrupted": "yellow", "failed": "red", "killed": "red"}

WIDE = 100
"""Cells of a screen from which on a list has all its columns."""

METRIC = "last metrics"
"""The column of a list that has as many metrics as there is room for, and at least …"""

MIN = 12
"""… so many cells."""

METRICS = 4
"""Metrics of a run that a list shows."""

WORKERS = 20
"""Workers that are shown."""

LOST = 5
"""Workers lost that are shown, and notes."""

REASON = 100
"""Characters of a failure's reason."""


def show_list(runs: Sequence[Mapping[str, Any]], runs_dir: Path) -> None:
    """Print a line for each run."""
    console = _console()
    if not runs:
        console.print(f"no run is kept in {runs_dir}: 'flsim run APP' keeps one", markup=False)
        return
    columns = ["id", "started", "state", "app", "backend", "nodes:", "seconds:", METRIC, "digest"]
    if console.width < WIDE:
        columns = [c for c in columns if c not in ("backend", "nodes:", "digest")]
    cells = [_cells(run) for run in runs]
    others = (max(len(c.rstrip(":")), *(row[c].cell_len for row in cells)) + 2 for c in columns if c != METRIC)
    room = max(MIN, console.width - sum(others))
    table = _table(*columns)
    for run, row in zip(runs, cells, strict=True):
        row[METRIC] = _metrics(run["last"], room)
        table.add_row(*(row[name] for name in columns))
    console.print(table)


def _cells(run: Mapping[str, Any]) -> dict[str, Text]:
    return {
        "id": _text(run["id"]),
        "started": _text(_when(run["started"])),
        "state": _state(run["status"]),
        "app": _text(run["app"]),
        "backend": _text(run["backend"]),
        "nodes:": _text(f"{run['nodes']:,}"),
        "seconds:": _text(f"{run['seconds']:.1f}"),
        "digest": _text(run["digest"][:8]),
    }


def show_run(run: Mapping[str, Any]) -> None:
    """Print all that is known of one."""
    console = _console()
    facts = _table(header=False)
    for name, value in _facts(run):
        facts.add_row(Text(name, "bold"), value if isinstance(value, Text) else _text(value))
    console.print(facts)
    if error := run["error"]:
        console.print()
        console.print(_lines(error["traceback"] or error["text"]))
    sections = (
        ("settings that are not the default", _settings(run["settings"])),
        ("messages", _messages(run["messages"])),
        ("metrics", _metric_rows(run["metrics"])),
        ("failures", _failures(run["failures"])),
        ("slowest nodes", _slowest(run["slowest_nodes"])),
        ("workers", _workers(run["workers"])),
    )
    for title, table in sections:
        if table.row_count:
            console.print()
            console.print(Text(title, "bold underline"))
            console.print(table)
    if run["quarantine"] or run["left_out"] or run["unreadable"]:
        console.print()
        _print_quarantine(console, run["quarantine"], run["left_out"], run["unreadable"], run["folder"])
    more = len(run["workers"]) - WORKERS
    if more > 0:
        console.print(f"… and {more:,} more workers")
    if held := sum(gone["had_it_for"] or 0.0 for gone in run["lost"]):
        console.print(f"beside them, workers that were lost had leases for {_seconds(held)}")
    for title, texts in (("workers lost", list(map(_lost, run["lost"]))), ("notes", run["notes"])):
        if texts:
            console.print()
            console.print(Text(title, "bold underline"))
            for text in texts[:LOST]:
                console.print(_text(text))
            if len(texts) > LOST:
                console.print(f"… and {len(texts) - LOST:,} more")


def _lost(gone: Mapping[str, Any]) -> str:
    held = f", which it had for {_seconds(gone['had_it_for'])}" if gone["had_it_for"] is not None else ""
    return f"{gone['at']:.2f} s: {gone['detail']}, with {_count(gone['messages'], 'message')}{held}"


def show_compared(several: Mapping[str, Any]) -> None:
    """Print several side by side."""
    console = _console()
    table = _table("", *several["ids"])
    for title, rows in (
        ("settings that differ", several["settings"]),
        ("what they came to", several["came_to"]),
        ("last metrics", several["metrics"]),
    ):
        if rows:
            if table.row_count:
                table.add_row()
            table.add_row(Text(title, "bold underline"))
        for name, values in rows.items():
            texts = [v[:16] if name in ("digest", "commit") and v else _value(v) for v in values]
            if name == "dirty":
                name, texts = (
                    "its files",
                    ["–" if v is None else "with changes" if v else "as committed" for v in values],
                )
            table.add_row(_text(name), *map(_text, texts))
    console.print(table)
    digests = set(several["came_to"]["digest"])
    if None not in digests:
        console.print("all came to the same state" if len(digests) == 1 else "they came to different states")


def show_quarantine(
    messages: Sequence[Mapping[str, Any]], left_out: Mapping[str, Any], unreadable: Sequence[str], run: str
) -> None:
    """Print which messages of ``run`` are in quarantine."""
    console = _console()
    if not messages and not left_out and not unreadable:
        console.print(_text(f"no message of {run} is in quarantine: none has cost its worker"))
        return
    _print_quarantine(console, messages, left_out, unreadable, run)


def _print_quarantine(
    console: Console,
    messages: Sequence[Mapping[str, Any]],
    left_out: Mapping[str, Any],
    unreadable: Sequence[str],
    run: str,
) -> None:
    console.print(Text("quarantine", "bold underline"))
    table = _table("message:", "node:", "type", "error", "attempts:", "reason")
    for about in messages:
        numbers = f"{about['message']}", f"{about['node']}"
        reason = clean(plain(about["reason"]), REASON)
        table.add_row(*map(_text, (*numbers, about["type"], about["error"], f"{about['attempts']}", reason)))
    console.print(table)
    for why in unreadable:
        console.print(_text(why))
    if left_out:
        console.print(_text(f"not kept: {left_out['messages']:,} more, the last: {left_out['why']}"))
    if messages:
        console.print(_text(f"run one alone by: flsim replay {shlex.quote(run)} {messages[0]['message']}"))


def _facts(run: Mapping[str, Any]) -> Iterable[tuple[str, str | Text]]:
    yield "run", run["id"]
    yield "folder", run["folder"]
    yield "state", _state(run["status"])
    yield "app", run["app"] + (f" ({run['path']})" if run["path"] else "")
    if git := run["git"]:
        yield "commit", git["commit"][:12] + (" with changes" if git["dirty"] else "")
    places = f", {run['slots']} at once ({'; '.join(run['places'])})" if run["places"] else ""
    yield "backend", f"{run['backend']}{places}"
    yield "nodes", f"{run['nodes']:,}"
    yield "seed", str(run["seed"])
    yield "started", _when(run["started"])
    yield "took", f"{run['seconds']:.2f} s"
    if at := run["machine"]:
        yield "machine", f"{at['host']}, {at['cpu']}, {at['cpus']:g} cpus, {at['memory'] / 2**30:.1f} GiB"
    if versions := run["versions"]:
        yield "versions", ", ".join(f"{name} {version}" for name, version in versions.items())
    if run["digest"]:
        yield "digest", run["digest"]
    for text in run["not_kept"].values():
        yield "not kept", Text(clean(text, 1000), "yellow")
    ended, kept = (sum(m[key] for m in run["messages"].values()) for key in ("ended", "kept"))
    if kept < ended:
        yield (
            "cut",
            Text(
                f"there are rows of {kept:,} of {ended:,} messages (record_rows), and what follows is of those",
                "yellow",
            ),
        )


def _settings(settings: Mapping[str, Mapping[str, Any]]) -> Table:
    table = _table("name", "value", "from")
    for name, setting in settings.items():
        if setting["from"] != "default":
            table.add_row(*map(_text, (name, _value(setting["value"]), setting["from"])))
    return table


def _messages(messages: Mapping[str, Mapping[str, int]]) -> Table:
    table = _table("type", "ended:", "failed:")
    for type_, count in messages.items():
        table.add_row(_text(type_), f"{count['ended']:,}", f"{count['failed']:,}")
    return table


def _metric_rows(metrics: Mapping[str, Mapping[str, Any]]) -> Table:
    table = _table("name", "first:", "last:", "least:", "greatest:")
    for name, values in metrics.items():
        table.add_row(_text(name), *(_text(_value(values[key])) for key in ("first", "last", "least", "greatest")))
    return table


def _failures(failures: Sequence[Mapping[str, Any]]) -> Table:
    table = _table("type", "code", "messages:", "most frequent reason")
    for failure in failures:
        reason = failure["reason"].partition("\n")[0]
        code = f"{failure['code']} {failure['error']}" if failure["error"] != str(failure["code"]) else failure["error"]
        table.add_row(*map(_text, (failure["type"], code, f"{failure['messages']:,}", clean(reason, REASON))))
    return table


def _slowest(nodes: Sequence[Mapping[str, Any]]) -> Table:
    table = _table("node", "messages:", "mean:", "longest:")
    for node in nodes:
        table.add_row(str(node["node"]), f"{node['messages']:,}", _seconds(node["mean"]), _seconds(node["longest"]))
    return table


def _workers(workers: Sequence[Mapping[str, Any]]) -> Table:
    table = _table("worker", "leases:", "messages:", "at work:", "peak memory:")
    for worker in workers[:WORKERS]:
        table.add_row(
            _text(worker["worker"]), f"{worker['leases']:,}", f"{worker['messages']:,}", f"{worker['busy']:.0%}",
            f"{(worker['peak_memory'] or 0) / 2**20:,.0f} MiB",
        )  # fmt: skip
    return table


def _table(*columns: str, header: bool = True) -> Table:
    """A table; the columns whose name ends with a colon have figures."""
    table = Table(box=None, pad_edge=False, header_style="bold", show_header=header)
    for column in columns:
        figures = column.endswith(":")
        table.add_column(column.rstrip(":"), justify="right" if figures else "left", overflow="fold", no_wrap=figures)
    return table


def _console() -> Console:
    out = sys.stdout.isatty()
    return Console(
        file=None if out else _Trimmed(), width=None if out else 1000, soft_wrap=not out, highlight=False,
        markup=False, emoji=False,
    )  # fmt: skip


class _Trimmed(io.StringIO):
    """Standard output where it is no terminal: the cells of a table are filled with blanks, also in its last column."""

    def write(self, text: str) -> int:
        return sys.stdout.write(re.sub(r" +$", "", text, flags=re.MULTILINE))

    def flush(self) -> None:
        sys.stdout.flush()


def _state(status: str) -> Text:
    return Text(status, STYLES.get(status, ""))


def plain(text: str) -> str:
    """``text`` on one line, without characters that could move a terminal."""
    return clean(text.replace("\n", " "), 1000)


def _text(text: str) -> Text:
    return Text(plain(text))


def _lines(text: str) -> Text:
    return Text(clean(text.rstrip(), 20_000), "red")


def _when(iso: str) -> str:
    return datetime.fromisoformat(iso).astimezone().strftime("%Y-%m-%d %H:%M")


def _metrics(last: Mapping[str, Any], room: int) -> Text:
    """The round and the metrics, as far as they fit into so many cells; of one that does not, how it begins."""
    metrics = [f"{name} {_value(value)}" for name, value in last.items() if name != "round"]
    rounds = [f"round {last['round']}"] if "round" in last else []
    more = ["…"] * (len(metrics) > METRICS)
    del metrics[METRICS:]
    while (shown := _text("  ".join([*rounds, *metrics, *more]))).cell_len > room:
        if len(metrics) > 1:
            metrics.pop()
            more = ["…"]
        elif rounds:
            rounds = []
        elif more:
            more = []
        else:
            shown.truncate(room, overflow="ellipsis")
            break
    return shown


def _value(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _count(n: int, what: str) -> str:
    return f"{n:,} {what}{'s' * (n != 1)}"


def _seconds(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1000:.2f} ms"

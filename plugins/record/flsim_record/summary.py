"""What a run came to, in figures: the data of all that `flsim show` shows."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from flsim.message import ErrorCode
from flsim.quarantine import left_out, quarantined, unreadable
from flsim_record.kept import Kept

SLOWEST = 5
"""Nodes that are named as the slowest."""

FAILURES = 20
"""Kinds of failure that are named, with the reason that was most frequent."""


def finite(value: Any) -> Any:
    """``value`` with "nan", "inf" and "-inf" for what JSON has no number for, as run.json has them."""
    if isinstance(value, dict):
        return {k: finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(v) for v in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def overview(kept: Kept) -> dict[str, Any]:
    """What a list of runs says of one."""
    with kept.at_once():
        return _overview(kept)


def _overview(kept: Kept) -> dict[str, Any]:
    about = kept.about
    result = about.get("result", {})
    return {
        "id": about["id"],
        "folder": str(kept.folder),
        "started": about["started"],
        "status": about["status"],
        "app": about["app"],
        "backend": about["backend"],
        "nodes": about["nodes"],
        "seconds": kept.seconds(),
        "last": result["last"] if "last" in result else last(kept),
        "digest": result.get("digest", ""),
    }


def last(kept: Kept) -> dict[str, Any]:
    """The last round, and the last value of each metric of it all."""
    values: dict[str, Any] = {}
    for report in kept.metrics():
        if "node" not in report:
            values |= report
    return values


def summary(kept: Kept) -> dict[str, Any]:
    """All that is shown of one run."""
    with kept.at_once():
        return _summary(kept)


def _summary(kept: Kept) -> dict[str, Any]:
    about = kept.about
    return {
        **overview(kept),
        **{key: about.get(key) for key in ("path", "git", "seed", "places", "slots", "machine", "versions", "error")},
        "not_kept": about.get("not_kept", {}),
        "settings": about["settings"],
        "messages": messages(kept),
        "metrics": metrics(kept),
        "failures": failures(kept),
        "quarantine": [q.about for q in quarantined(kept.folder)],
        "unreadable": list(unreadable(kept.folder).values()),
        "left_out": left_out(kept.folder),
        "slowest_nodes": slowest_nodes(kept),
        "workers": workers(kept),
        "lost": [
            {"at": at, "cause": cause, "detail": detail, "messages": n, "had_it_for": seconds}
            for at, cause, detail, n, seconds in kept.rows(
                "SELECT at, cause, detail, lost.messages, at - pulled"
                " FROM lost LEFT JOIN leases USING (lease) ORDER BY at"
            )
        ],
        "notes": [text for (text,) in kept.rows("SELECT text FROM notes ORDER BY at")],
    }


def messages(kept: Kept) -> dict[str, dict[str, int]]:
    """By type: how many ended, how many of them failed, and of how many there is a row."""
    rows = kept.rows("SELECT type, ended, failed, kept FROM counts ORDER BY rowid")
    return {type_: {"ended": ended, "failed": failed, "kept": n} for type_, ended, failed, n in rows}


def metrics(kept: Kept) -> dict[str, dict[str, Any]]:
    """By name, of what was reported of the whole: the first value, the last, the least and the greatest."""
    rows = kept.rows("SELECT name, number, text FROM metrics WHERE node IS NULL ORDER BY report")
    found: dict[str, dict[str, Any]] = {}
    for name, number, text in rows:
        if text is None and number is None:  # as SQLite keeps it
            number = math.nan
        value = number if text is None else text
        entry = found.setdefault(name, {"first": value, "last": value, "least": number, "greatest": number})
        entry["last"] = value
        if number is not None:
            entry["least"] = _better(min, entry["least"], number)
            entry["greatest"] = _better(max, entry["greatest"], number)
    return found


def _better(of: Callable[[float, float], float], one: float | None, other: float) -> float:
    """One of two numbers; what is no number is none of them, where the other one is."""
    if one is None or math.isnan(one):
        return other
    return one if math.isnan(other) else of(one, other)


def failures(kept: Kept) -> list[dict[str, Any]]:
    """By type and code, the most frequent first."""
    rows = kept.rows(
        "SELECT type, code, sum(n), reason, max(n) FROM"
        " (SELECT type, code, reason, count(*) AS n FROM answers WHERE code IS NOT NULL GROUP BY type, code, reason)"
        " GROUP BY type, code ORDER BY 3 DESC LIMIT ?",
        FAILURES,
    )
    return [
        {"type": type_, "code": code, "error": ErrorCode.name_of(code), "messages": n, "reason": reason or ""}
        for type_, code, n, reason, _ in rows
    ]


def slowest_nodes(kept: Kept) -> list[dict[str, Any]]:
    """Those whose ClientApp took longest for a message, in the mean: for one that cost its worker, until that was
    lost."""
    rows = kept.rows(
        "SELECT node, count(*), avg(took), max(took) FROM (SELECT node, coalesce(execute,"
        " (SELECT returned - pulled FROM leases WHERE leases.lease = answers.lease)) AS took FROM answers)"
        " WHERE took IS NOT NULL GROUP BY node ORDER BY 3 DESC, 1 LIMIT ?",
        SLOWEST,
    )
    return [{"node": node, "messages": n, "mean": mean, "longest": longest} for node, n, mean, longest in rows]


def workers(kept: Kept) -> list[dict[str, Any]]:
    """Each worker, the busiest first: what it did, and for which share of the run."""
    seconds = kept.seconds()
    rows = kept.rows(
        "SELECT worker, count(DISTINCT lease), count(*), sum(execute), sum(decode + execute + encode), max(peak_memory)"
        " FROM messages WHERE worker IS NOT NULL GROUP BY worker ORDER BY 5 DESC"
    )
    return [
        {
            "worker": worker, "leases": leases, "messages": n, "execute": execute,
            "busy": min(1.0, busy / seconds) if seconds else 0.0, "peak_memory": peak,
        }
        for worker, leases, n, execute, busy, peak in rows
    ]  # fmt: skip


def compared(runs: list[Kept]) -> dict[str, Any]:
    """Several runs side by side: of their settings what differs, and what each came to. None: a run has no such."""
    overviews = [overview(kept) for kept in runs]
    facts = [
        {
            "status": o["status"], "app": o["app"], "seconds": o["seconds"],
            "messages_per_second": kept.about.get("result", {}).get("messages_per_second"),
            **{key: (kept.about.get("git") or {}).get(key) for key in ("commit", "dirty")},
            "digest": o["digest"] or None,
        }
        for o, kept in zip(overviews, runs, strict=True)
    ]  # fmt: skip
    settings = [{name: s["value"] for name, s in kept.about["settings"].items()} for kept in runs]
    last_values = [o["last"] for o in overviews]
    return {
        "runs": [o["folder"] for o in overviews],
        "ids": [o["id"] for o in overviews],
        "settings": {name: values for name, values in _aligned(settings).items() if _differ(values)},
        "came_to": _aligned(facts),
        "metrics": _aligned(last_values),
    }


def _aligned(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    return {name: [row.get(name) for row in rows] for name in dict.fromkeys(n for row in rows for n in row)}


def _differ(values: list[Any]) -> bool:
    return any(v != values[0] or type(v) is not type(values[0]) for v in values[1:])

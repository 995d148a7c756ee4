"""What is said when nothing has moved for a while: what waits, and what is at work where and since when."""

from __future__ import annotations

from flsim.fleet import FIRST_NODE_ID, Fleet
from flsim.heart import Entry, Heart, Status

AFTER = 60.0
"""Seconds without a push, a lease or a reply after which it is said; again after twice as many, and so on."""

SHOWN = 5
"""Leases, places and kinds shown of each."""


def report(heart: Heart, fleet: Fleet, now: float, quiet: float) -> str:
    """The report, where something is unanswered.

    Args:
        now: by the heart's clock.
        quiet: seconds since anything moved.
    """
    lines = [f"nothing has moved for {quiet:.0f} s"]
    leases = sorted(heart.leases.values(), key=lambda lease: lease.pulled)
    for lease in leases[:SHOWN]:
        live = [e for e in lease.entries if e.status is not Status.DONE]
        what = _messages(live) if live else "messages that have ended since"
        lines.append(f"at work for {now - lease.pulled:.0f} s at {lease.place.name}: {what}")
    if len(leases) > SHOWN:
        lines.append(f"… and {len(leases) - SHOWN} more leases at work")
    ready = [e for e in heart.entries.values() if e.status is Status.READY]
    behind = sum(e.status is Status.WAITING for e in heart.entries.values())
    for kind in sorted({e.kind for e in ready}):
        of_kind = [e for e in ready if e.kind == kind]
        need = heart.needs[kind]
        room = "which have no room now" if heart.at_once(kind) else f"which fit nowhere: {_places(heart)}"
        oldest = now - min(e.since for e in of_kind)
        lines.append(f"waiting for up to {oldest:.0f} s: {_messages(of_kind)}, of {need} each, {room}")
    if held := sum(e.status is Status.HELD for e in heart.entries.values()):
        lines.append(f"held back until the ServerApp takes the replies that its stream has: {held:,}")
    if behind:
        lines.append(f"waiting behind another message of their node: {behind:,}")
    if any(kind.time_limit is None for kind in fleet.kinds) and leases:
        lines.append("a time_limit would end what hangs")
    return "; ".join(lines)


def _messages(entries: list[Entry]) -> str:
    first = entries[0]
    text = f"{first.type} to node {first.node} (partition {first.node - FIRST_NODE_ID})"
    return text if len(entries) == 1 else f"{text} and {len(entries) - 1:,} more"


def _places(heart: Heart) -> str:
    rooms = [r.place for r in heart.rooms.values() if r.place.leases]
    shown = [f"{p.name} has {p.resources}" for p in rooms[:SHOWN]]
    if len(rooms) > SHOWN:
        shown.append(f"and {len(rooms) - SHOWN} more places")
    return ", ".join(shown) or "there is no place at all"

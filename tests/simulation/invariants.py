"""What must hold during a run and at its end, whatever happened."""

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from flsim import ErrorCode
from flsim.errors import AppLoadError, BackendBroken

from .client import GARBLED, KEPT, LARGE, MUTE, RAISES, UNREADABLE
from .player import MODEL
from .program import DEADLY, FROZEN, HANGS, Letter

if TYPE_CHECKING:
    from .run import Simulated


def check_windows(world: "Simulated") -> None:
    """A stream has no more replies waiting than one, and as many as there were slots, and those that others forced."""
    world.slots = max(world.slots, world.link._slots)
    for inbox in world.link._inboxes:
        if inbox.window is not None:
            waiting = [i for i in inbox.replies if i not in world.heart.forced and world.accepted[i] is None]
            assert len(waiting) <= world.slots + 1, f"{len(waiting)} replies of a stream wait in the driver"
            world.happened["a stream waits for its reader"] += bool(inbox.window.held)


def check_refusal(world: "Simulated", error: Exception) -> None:
    """A run that does not begin has a reason, too."""
    if world.player.begun:
        known = AppLoadError if world.cluster.unloaded else BackendBroken
        assert isinstance(error, (known, BackendBroken)), f"the run broke by {error!r}"
        return
    world.say("the run does not begin")
    if isinstance(error, BackendBroken):
        assert world.cluster.probed_foreign or world.cluster.refused, f"all versions are the driver's: {error}"
    else:
        fits = [world.heart.at_once(kind) for kind in range(len(world.program.kinds))]
        assert 0 in fits, f"each kind fits, and it is said: {error}"


def check_end(world: "Simulated") -> None:
    heart = world.heart
    for error in world.wrong:
        raise error
    cluster = world.cluster
    reasons = bool(heart.broken), cluster.refused, cluster.unloaded
    assert not world.broken or any(reasons), f"the run broke: {world.broken}"
    assert world.broken or not any(reasons), f"the run went on: {heart.broken or (reasons, world.trace[-3:])}"
    assert not heart.entries, f"these have no reply: {sorted(heart.entries)}"
    assert heart.ended == set(heart.pushed) == set(world.accepted), "a message has no terminal reply"
    for type_, count in world.link.counts.items():
        codes = [world.accepted[e.id] for e in heart.pushed.values() if e.type == type_]
        errors = Counter(ErrorCode.name_of(c) for c in codes if c is not None)
        assert count.sent == len(codes), f"{type_}: {count}"
        assert (count.answered, count.errors) == (codes.count(None), errors), f"{type_}: {count}"
    for node, entries in heart.of_node.items():
        _check_node(world, node, [(e.id, world.player.letter(e.id)) for e in entries])
    if world.program.waits and not world.broken:
        pushed = {world.player.letter(i).number for i in heart.pushed}
        assert set(world.player.received) == pushed, "the ServerApp was not told of each"


def _check_node(world: "Simulated", node: int, messages: list[tuple[int, Letter]]) -> None:
    """What a node kept, and what it answered, is what the messages make of it one after another."""
    log: list[int] = []
    for k, (id_, letter) in enumerate(messages):
        code = world.accepted[id_]
        if code is not None:
            _check_code(world, id_, letter, code)
        elif letter.type == "train":
            log.append(letter.number)
        reply = world.player.received.get(letter.number)
        if reply is None:
            continue
        assert (reply.error.code if reply.has_error() else None) == code, f"message {id_} ended in two ways"
        if code is None:
            draw = np.random.default_rng(np.random.SeedSequence(world.program.seed, spawn_key=(node, k))).random()
            expected = letter.number, tuple(log[-KEPT:]), float(draw), MODEL if letter.model else None
            assert reply.content == expected, f"message {id_} was answered {reply.content}, not {expected}"
    state = world.link.states.get(node)
    kept = [] if state is None else list(state.decoded()["log"]["numbers"])
    assert kept == log[-KEPT:], f"node {node} keeps {kept}, and has answered {log}"


def _check_code(world: "Simulated", id_: int, letter: Letter, code: int) -> None:
    """A message ends with an error only for a reason that there is."""
    heart, wanted = world.heart, world.player.cancelled
    patient = all(s.timeout is None for s in world.program.steps if letter in s.letters)
    grounds = {
        ErrorCode.CLIENT_APP_RAISED_EXCEPTION: letter.fault == RAISES,
        ErrorCode.REPLY_INVALID: letter.fault == MUTE,
        ErrorCode.MESSAGE_UNDECODABLE: letter.fault == UNREADABLE,
        ErrorCode.REPLY_UNDECODABLE: letter.fault == GARBLED,
        ErrorCode.REPLY_TOO_LARGE: letter.fault == LARGE,
        ErrorCode.MESSAGE_UNAVAILABLE: letter.ttl is not None,
        ErrorCode.WORKER_DIED: heart.deaths[id_] == 2,
        ErrorCode.OUT_OF_MEMORY: heart.deaths[id_] == 2,
        ErrorCode.TIME_LIMIT: id_ in heart.limits or heart.aborts[id_] == 2,
        ErrorCode.TIMEOUT: not patient,
        ErrorCode.CANCELLED: str(id_) in wanted or not world.program.waits or bool(world.broken),
    }
    assert grounds[ErrorCode(code)], f"message {id_} ended with {ErrorCode.name_of(code)} for no reason"
    assert id_ not in heart.limits or letter.fault in (HANGS, FROZEN, DEADLY), f"message {id_} never hung"

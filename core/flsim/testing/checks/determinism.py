"""Clause 10: determinism."""

from __future__ import annotations

from typing import Any

from flsim.aggregate import weighted_mean
from flsim.apps import Context, ServerApp
from flsim.grid import Grid
from flsim.message import Message
from flsim.records import ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from flsim.testing.apps import untouched_generators
from flsim.testing.checks.registry import check
from flsim.testing.checks.tools import (
    temporary_folder,
)
from flsim.testing.subject import Subject

ROUNDS = 2
DRAWN = 10

_draw_rounds = ServerApp()
_rest_all = ServerApp()


@check(10)
def the_result_is_that_of_any_number_of_workers(subject: Subject) -> None:
    """Draws, products, states and aggregates: one digest with each variant of the options, and again."""
    digests: dict[str, list[Any]] = {}
    for options in (subject.options, subject.options, *subject.variants):
        result = subject.run(_draw_rounds, options=options)
        assert result.answered == result.sent, f"with {options}: {result.counts}"
        digests.setdefault(result.digest, []).append(options)
    assert len(digests) == 1, f"the digest differs: {digests}"
    other = subject.run(_draw_rounds, seed=8)
    assert other.digest not in digests, "another seed gave the same digest"


@check(10)
def seeds_are_of_the_node_and_its_count(subject: Subject) -> None:
    """What a node draws is what numpy's SeedSequence(seed, spawn_key=(node, k)) gives, whoever runs it."""
    import numpy as np

    result = subject.run(_draw_rounds)
    drawn = result.state.array_records["drawn"]
    for k in range(ROUNDS):
        for i, node in enumerate(range(2, 2 + DRAWN)):
            rng = np.random.default_rng(np.random.SeedSequence(7, spawn_key=(node, k)))
            rng.standard_normal((64, 64))
            expected = rng.random()
            assert drawn[str(k)][i] == expected, f"node {node}, message {k}: drew {drawn[str(k)][i]}, not {expected}"


@check(10)
def nothing_draws_from_the_generators_beside_a_call(subject: Subject) -> None:
    """What ``random`` and ``numpy.random`` give after a second of rest is what they would have given before it, in the
    ClientApp and in the ServerApp."""
    result = subject.run(_rest_all)
    for who, untouched in result.state.metric_records["untouched"].items():
        assert untouched, f"something drew from the global generators of the {who} while it rested"


@check(10, "isolation")
def deaths_do_not_change_the_result(subject: Subject) -> None:
    """Every fifth node ends its worker once: the digest is that of a run without deaths."""
    calm = subject.run(_draw_rounds, config={"action": "draw"})
    with temporary_folder() as folder:
        stormy = subject.run(_draw_rounds, config={"action": "die_once", "folder": str(folder)})
    assert stormy.answered == stormy.sent, f"messages were lost: {stormy.counts}"
    assert stormy.digest == calm.digest, "the digest differs from that of the run without deaths"


@_draw_rounds.main()
def _draw(grid: Grid, context: Context) -> None:
    import numpy as np

    action = context.run_config.get("action", "draw")
    folder = str(context.run_config.get("folder", ""))
    drawn = {}
    for k in range(ROUNDS):
        messages = []
        for i, node in enumerate(grid.get_node_ids()[:DRAWN]):
            plan = RecordDict({"plan": ConfigRecord({"folder": folder})})
            messages.append(Message(plan, node, f"query.{action if i % 5 == 0 else 'draw'}"))
        replies = grid.send_and_receive(messages)
        for record, value in weighted_mean(replies).items():
            context.state[f"{record}-{k}"] = value
        drawn[str(k)] = np.array([r.content.array_records["arrays"]["drawn"][0] for r in replies])
    context.state["drawn"] = ArrayRecord(drawn)


@_rest_all.main()
def _rest(grid: Grid, context: Context) -> None:
    untouched = untouched_generators()
    replies = grid.send_and_receive(Message(RecordDict(), n, "query.rest") for n in grid.get_node_ids()[:2])
    errors = [str(r.error) for r in replies if r.has_error()]
    assert not errors, f"errors came back: {errors}"
    clients = all(r.content.config_records["values"]["untouched"] for r in replies)
    context.state["untouched"] = MetricRecord({"ServerApp": int(untouched()), "ClientApp": int(clients)})

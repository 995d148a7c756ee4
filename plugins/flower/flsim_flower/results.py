"""What a Flower app's strategies came to: apps print it, and the engine's result and progress want it, too.

``Strategy.start`` and, of older apps, ``Server.fit`` are wrapped once in this process. Outside of a run of the engine
they do what they did.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from flwr.app import ArrayRecord, RecordDict
from flwr.common import parameters_to_ndarrays
from flwr.server import Server
from flwr.serverapp.strategy import Strategy

import flsim
from flsim_flower.records import plain


@dataclass(slots=True)
class _Run:
    grid: flsim.Grid
    records: dict[str, flsim.ArrayRecord] = field(default_factory=dict)

    def keep(self, arrays: ArrayRecord) -> None:
        self.records["arrays"] = plain(RecordDict({"arrays": arrays}))["arrays"]

    def report(self, round: int, what: str, metrics: Mapping[str, Any]) -> None:
        scalars: dict[str, Any] = {
            f"{what}-{k}": v for k, v in metrics.items() if isinstance(v, (bool, int, float, str))
        }
        if scalars:
            self.grid.report(round, **scalars)


_run: ContextVar[_Run | None] = ContextVar("flsim_flower_run", default=None)


@contextlib.contextmanager
def kept_results(grid: flsim.Grid) -> Iterator[dict[str, flsim.ArrayRecord]]:
    """Report to ``grid`` what strategies that run in this thread come to, round by round.

    Yields a dict that has the last one's final arrays in the end, as ``arrays``.
    """
    _observe()
    run = _Run(grid)
    token = _run.set(run)
    try:
        yield run.records
    finally:
        _run.reset(token)


@functools.cache
def _observe() -> None:
    for owner, method, observed in ((Strategy, "start", _start), (Server, "fit", _fit)):
        setattr(owner, method, _wrapped(getattr(owner, method), observed))


def _wrapped(original: Callable[..., Any], observed: Callable[..., Any]) -> Callable[..., Any]:
    signature = inspect.signature(original)

    @functools.wraps(original)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        run = _run.get()
        if run is None:
            return original(*args, **kwargs)
        return observed(original, signature.bind(*args, **kwargs), run)

    return wrapped


def _start(original: Callable[..., Any], call: inspect.BoundArguments, run: _Run) -> Any:
    """``Strategy.start``: what is aggregated or evaluated is reported when it is, and the arrays are kept."""
    strategy, evaluate = call.arguments["self"], call.arguments.get("evaluate_fn")
    if evaluate is not None:
        call.arguments["evaluate_fn"] = _reporting(evaluate, run, "server", lambda made: made)
    strategy.aggregate_train = _reporting(strategy.aggregate_train, run, "train", lambda made: made[1])
    strategy.aggregate_evaluate = _reporting(strategy.aggregate_evaluate, run, "evaluate", lambda made: made)
    try:
        result = original(*call.args, **call.kwargs)
    finally:
        del strategy.aggregate_train, strategy.aggregate_evaluate
    run.keep(result.arrays)
    return result


def _reporting(
    function: Callable[..., Any], run: _Run, what: str, metrics: Callable[[Any], Mapping[str, Any] | None]
) -> Callable[..., Any]:
    @functools.wraps(function)
    def reporting(server_round: int, *args: Any, **kwargs: Any) -> Any:
        made = function(server_round, *args, **kwargs)
        run.report(server_round, what, metrics(made) or {})
        return made

    return reporting


def _fit(original: Callable[..., Any], call: inspect.BoundArguments, run: _Run) -> Any:
    """``Server.fit``: what its History holds is reported at its end."""
    made = original(*call.args, **call.kwargs)
    history = made[0]
    rounds: dict[tuple[int, str], dict[str, Any]] = {}
    for what, losses in (("evaluate", history.losses_distributed), ("server", history.losses_centralized)):
        for round, loss in losses:
            rounds.setdefault((round, what), {})["loss"] = loss
    for what, metrics in (
        ("train", history.metrics_distributed_fit),
        ("evaluate", history.metrics_distributed),
        ("server", history.metrics_centralized),
    ):
        for name, values in metrics.items():
            for round, value in values:
                rounds.setdefault((round, what), {})[name] = value
    for (round, what), reported in sorted(rounds.items()):
        run.report(round, what, reported)
    run.keep(ArrayRecord(parameters_to_ndarrays(call.arguments["self"].parameters)))
    return made

"""What a Flower app's strategies came to: apps print it, and the engine's result and progress want it, too.

``Strategy.start`` and, of older apps, ``Server.fit`` and ``DefaultWorkflow`` are wrapped once in this process. Outside
of a run of the engine they do what they did.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from flwr.app import Array
from flwr.server import History, Server
from flwr.server.workflow import DefaultWorkflow
from flwr.server.workflow.constant import MAIN_CONFIGS_RECORD, Key
from flwr.serverapp.strategy import Strategy

import flsim
from flsim_flower.array import NUMPY, values_of


@dataclass(slots=True)
class Results:
    """Of one run: what is reported to its grid, and the last strategy's final arrays, as ``arrays``."""

    grid: flsim.Grid
    records: dict[str, flsim.ArrayRecord] = field(default_factory=dict)
    clocked: bool = False
    """Whether a workflow has left in the state when it began."""

    def added_to(self, state: flsim.RecordDict) -> flsim.RecordDict:
        """The run's result: an app's final ``state`` with what was kept, unless it has its own of that name, and
        without the moment at which a workflow began, by which no two runs would be alike."""
        config = state.get(MAIN_CONFIGS_RECORD)
        if self.clocked and config is not None:
            config.pop(Key.START_TIME, None)
        for name, record in self.records.items():
            state.setdefault(name, record)
        return state

    def keep(self, arrays: Mapping[str, Array]) -> None:
        self.records["arrays"] = flsim.ArrayRecord({name: values_of(array) for name, array in arrays.items()})

    def report(self, round: int, what: str, metrics: Any) -> None:
        """Report what can be: an app's own function may return anything."""
        if isinstance(metrics, Mapping):
            scalars: dict[str, Any] = {
                f"{what}-{k}": v for k, v in metrics.items() if isinstance(v, (bool, int, float, str))
            }
            if scalars:
                self.grid.report(round, **scalars)


_run: ContextVar[Results | None] = ContextVar("flsim_flower_run", default=None)


@contextlib.contextmanager
def kept_results(grid: flsim.Grid) -> Iterator[Results]:
    """Report to ``grid`` what strategies that run in this thread come to, round by round."""
    _observe()
    run = Results(grid)
    token = _run.set(run)
    try:
        yield run
    finally:
        _run.reset(token)


@functools.cache
def _observe() -> None:
    for owner, method, observed in (
        (Strategy, "start", _start),
        (Server, "fit", _fit),
        (DefaultWorkflow, "__call__", _workflow),
    ):
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


def _start(original: Callable[..., Any], call: inspect.BoundArguments, run: Results) -> Any:
    """``Strategy.start``: what is aggregated or evaluated is reported when it is, and the arrays are kept."""
    strategy, evaluate = call.arguments["self"], call.arguments.get("evaluate_fn")
    if evaluate is not None:
        call.arguments["evaluate_fn"] = _reporting(evaluate, run, "server", lambda made: made)
    call.arguments["self"] = _Reported(strategy, run)
    result = original(*call.args, **call.kwargs)
    run.keep(result.arrays)
    return result


class _Reported:
    """Stands for a strategy in ``Strategy.start``, and there alone: what it aggregates is reported. The strategy is not
    touched: it may be frozen, have methods of its own, or pickle itself."""

    def __init__(self, strategy: Strategy, run: Results) -> None:
        self.__dict__.update(_strategy=strategy, _run=run)

    @property  # type: ignore[misc]  # nobody sets it here
    def __class__(self) -> Any:
        return type(self._strategy)

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._strategy, name)
        if name == "aggregate_train":
            return _reporting(value, self._run, "train", _second)
        if name == "aggregate_evaluate":
            return _reporting(value, self._run, "evaluate", lambda made: made)
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._strategy, name, value)


def _reporting(
    function: Callable[..., Any], run: Results, what: str, metrics: Callable[[Any], Any]
) -> Callable[..., Any]:
    def reporting(server_round: int, *args: Any, **kwargs: Any) -> Any:
        made = function(server_round, *args, **kwargs)
        run.report(server_round, what, metrics(made))
        return made

    return reporting


def _second(made: Any) -> Any:
    return made[1] if isinstance(made, tuple) and len(made) == 2 else None


def _fit(original: Callable[..., Any], call: inspect.BoundArguments, run: Results) -> Any:
    """``Server.fit``: what its History holds is reported at its end, and the arrays are kept."""
    made = original(*call.args, **call.kwargs)
    _report_history(made[0], run)
    parameters = call.arguments["self"].parameters
    run.keep({str(i): Array("", (), NUMPY, tensor) for i, tensor in enumerate(parameters.tensors)})
    return made


def _workflow(original: Callable[..., Any], call: inspect.BoundArguments, run: Results) -> Any:
    """``DefaultWorkflow``: what its context's History holds is reported at its end. Its arrays are in the state."""
    made = original(*call.args, **call.kwargs)
    run.clocked = True
    _report_history(call.arguments["context"].history, run)
    return made


def _report_history(history: History, run: Results) -> None:
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

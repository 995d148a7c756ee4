"""flsim simulates federated learning: one ServerApp, very many virtual nodes, few real workers.

Public names are imported when they are first used, so that ``import flsim`` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flsim.aggregate import weighted_mean as weighted_mean
    from flsim.apps import ClientApp as ClientApp
    from flsim.apps import Context as Context
    from flsim.apps import ServerApp as ServerApp
    from flsim.fleet import Kind as Kind
    from flsim.grid import Grid as Grid
    from flsim.message import Error as Error
    from flsim.message import ErrorCode as ErrorCode
    from flsim.message import Message as Message
    from flsim.message import MessageType as MessageType
    from flsim.message import Metadata as Metadata
    from flsim.plan import run as run
    from flsim.records import ArrayRecord as ArrayRecord
    from flsim.records import ConfigRecord as ConfigRecord
    from flsim.records import MetricRecord as MetricRecord
    from flsim.records import RecordDict as RecordDict
    from flsim.resources import Resources as Resources
    from flsim.result import RunResult as RunResult
    from flsim.runs import open_run as open_run

__version__ = "0.1.0"

_HOMES = {
    "weighted_mean": "aggregate",
    "ClientApp": "apps",
    "Context": "apps",
    "ServerApp": "apps",
    "run": "plan",
    "Kind": "fleet",
    "Grid": "grid",
    "Error": "message",
    "ErrorCode": "message",
    "Message": "message",
    "MessageType": "message",
    "Metadata": "message",
    "ArrayRecord": "records",
    "ConfigRecord": "records",
    "MetricRecord": "records",
    "RecordDict": "records",
    "Resources": "resources",
    "RunResult": "result",
    "open_run": "runs",
}

__all__ = sorted(_HOMES)  # the one list of public names is _HOMES


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'flsim' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"flsim.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})

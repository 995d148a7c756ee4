"""What Ray has no public way for, asked of its private modules here and nowhere else: that it reads the environment
again, and that it leaves the process as it was."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import ray
from ray import _raylet as raylet_module
from ray._private import ray_constants as constants_module
from ray._private import services as services_module
from ray._private import worker as worker_module

# They say too little of their types.
_raylet: Any = raylet_module
_constants: Any = constants_module
_services: Any = services_module
_worker: Any = worker_module

REACH = 5.0
"""Seconds that a GCS has to take a connection."""


def gcs_address(address: str) -> str:
    """HOST:PORT of the GCS that ``ray.init`` would go to. Raises OSError or ValueError where there is none."""
    reread_environment()
    return str(_services.canonicalize_bootstrap_address(address))


def reach(gcs: str) -> None:
    """Make sure that somebody takes connections at HOST:PORT. Raises OSError."""
    socket.create_connection(_services.extract_ip_port(gcs), REACH).close()


def init(environment: Mapping[str, str | None], **settings: Any) -> None:
    """``ray.init`` in this environment (None: unset), without its logging. The processes that it starts are in process
    groups of their own: a SIGTERM to ours, as ``timeout`` sends it, is for the driver, which ends them."""
    # By Ray's PYTHONBREAKPOINT, breakpoint() in the ServerApp would be another.
    kept = {name: os.environ.get(name) for name in ("PYTHONBREAKPOINT", "RAY_AUTH_MODE")}
    popen = _services.ConsolePopen
    if sys.platform == "linux":  # elsewhere Ray ends them with the driver by their group
        _services.ConsolePopen = partial(popen, process_group=0)
    try:
        with _kept_sigterm(), _environment({**kept, **environment}):
            reread_environment()
            ray.init(log_to_driver=False, logging_level=logging.CRITICAL, **settings)
    finally:
        _services.ConsolePopen = popen
    # Or each death of a worker is printed to stdout, beside our own report of it.
    _worker._worker_logs_enabled = False


def shutdown() -> None:
    """``ray.shutdown``, after which Ray forgets the environment that it had."""
    with _kept_sigterm():
        ray.shutdown()
    _worker._worker_logs_enabled = True
    reread_environment()


def reread_environment() -> None:
    """Have Ray read again what it has kept of the environment since it was imported, or since the last run."""
    _constants.ENABLE_RAY_CLUSTER = _constants.env_bool(
        _constants.ENABLE_RAY_CLUSTERS_ENV_VAR, not _constants.IS_WINDOWS_OR_OSX
    )
    _raylet.Config.initialize("")  # before the token goes, or a thread of Ray's that still runs looks for it in vain
    _raylet.AuthenticationTokenLoader.instance().reset_cache()


@contextlib.contextmanager
def _environment(variables: Mapping[str, str | None]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    _set(variables)
    try:
        yield
    finally:
        _set(before)


def _set(variables: Mapping[str, str | None]) -> None:
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


@contextlib.contextmanager
def _kept_sigterm() -> Iterator[None]:
    """Put back how this process takes SIGTERM. In the main thread Ray sets a handler, and in any, beneath Python's, one
    that prints a stack trace and ends the process three seconds later; when it shuts down it leaves none at all."""
    handler, action = signal.getsignal(signal.SIGTERM), _getsig(signal.SIGTERM)
    try:
        yield
    finally:
        if handler is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)
        _setsig(signal.SIGTERM, action)


# What signal.signal does beneath, and does in the main thread only.
_getsig = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.c_int)(("PyOS_getsig", ctypes.pythonapi))
_setsig = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)(("PyOS_setsig", ctypes.pythonapi))

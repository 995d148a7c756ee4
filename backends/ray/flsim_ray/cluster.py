"""The connection to Ray: to a cluster of this host, to one that runs already, or the one that the process has.

Ray knows one connection per process, and keeps much of what it reads in the environment. What it has no public way
for is asked of its private modules here, and nowhere else.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import ray
from ray import _raylet as raylet_module
from ray._private import ray_constants as constants_module
from ray._private import services
from ray._private import worker as ray_worker

from flsim.envelope import describe
from flsim.errors import BackendBroken, ConfigError
from flsim_ray.plugin import RayOptions

REACH = 5.0
"""Seconds that a GCS has to take a connection."""

END = 5.0
"""Seconds that the processes of a cluster of this host have to end by themselves."""

SHORT = 39
"""Bytes that the path of a folder may have, so that Ray's sockets in it have no more than the 103 of macOS."""

_raylet: Any = raylet_module  # written in Cython: its types are not known
_constants: Any = constants_module  # it has none

_one_at_a_time = threading.Lock()


@contextlib.contextmanager
def connection(options: RayOptions, folder: Path) -> Iterator[bool]:
    """Be connected to Ray. Yields whether the connection is ours, and not one that the process had before.

    Args:
        options: which cluster.
        folder: of mode 0700, for the files of a cluster of this host.

    Raises:
        ConfigError: there are options, and a connection that does not follow them.
        BackendBroken: another run of this process uses Ray; a cluster does not start, or cannot be joined.
    """
    if not _one_at_a_time.acquire(blocking=False):
        raise BackendBroken(
            "another run in this process uses Ray, which knows one connection per process. "
            "Start this run when that one has ended, or in another process"
        )
    try:
        if ray.is_initialized():
            if options != RayOptions():
                raise ConfigError(
                    f"this process is connected to Ray at {gcs_address()} already, whatever the options of backend ray "
                    "say. Leave them out to use that connection, or call ray.shutdown() before the run"
                )
            yield False
        elif options.address is None:
            with _of_this_host(options, folder):
                yield True
        else:
            with _joined(options.address):
                yield True
    finally:
        _one_at_a_time.release()


def gcs_address() -> str:
    """HOST:PORT of the GCS of the cluster to which this process is connected."""
    return str(ray.get_runtime_context().gcs_address)


def reach(address: str) -> None:
    """Make sure that somebody takes connections at HOST:PORT. Raises OSError."""
    socket.create_connection(services.extract_ip_port(address), REACH).close()


@contextlib.contextmanager
def _of_this_host(options: RayOptions, folder: Path) -> Iterator[None]:
    """A cluster on the loopback interface, for whoever knows its token."""
    with contextlib.ExitStack() as stack:
        if len(os.fsencode(folder)) > SHORT:
            short = tempfile.TemporaryDirectory(prefix="flsim-run-", dir="/tmp", ignore_cleanup_errors=True)
            folder = Path(stack.enter_context(short))
        token = folder / "token"
        token.touch(0o600)
        token.write_text(secrets.token_hex(32))
        resources = options.resources()
        stack.callback(_end, folder)
        try:
            _init(
                {
                    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # despite its name: all that Ray opens is on 127.0.0.1
                    "RAY_AUTH_MODE": "token",
                    "RAY_AUTH_TOKEN_PATH": str(token),
                    "RAY_AUTH_TOKEN": None,  # it would be taken for ours
                    "RAY_USAGE_STATS_ENABLED": "0",
                },
                address="local",
                num_cpus=int(resources.cpus),
                num_gpus=options.gpus,
                _memory=resources.memory,
                include_dashboard=False,
                _temp_dir=str(folder),
            )
        except Exception as e:  # of any kind: its start has many steps
            raise BackendBroken(f"Ray does not start on this host: {describe(e)}") from e
        yield


@contextlib.contextmanager
def _joined(address: str) -> Iterator[None]:
    """A cluster that runs already."""
    _reread()
    try:
        # Where nobody listens, ray.init tries on for many minutes, out of reach of Ctrl-C.
        reach(services.canonicalize_bootstrap_address(address) or address)
    except (OSError, ValueError) as e:
        raise BackendBroken(
            f"there is no Ray cluster at address={address}: {describe(e)}. Give HOST:PORT of its GCS, as "
            "'ray start --head' has shown it; 'ray status' says whether it runs"
        ) from e
    try:
        _init({}, address=address)
    except Exception as e:  # of any kind: versions, tokens, no node on this host
        raise BackendBroken(
            f"cannot join the Ray cluster at address={address}: {describe(e)}. Run flsim on a host of the cluster, "
            "with its versions of Ray and Python; if it wants a token, with RAY_AUTH_MODE=token and that token"
        ) from e
    try:
        yield
    finally:
        _shutdown()


def _init(environment: Mapping[str, str | None], **settings: Any) -> None:
    """``ray.init`` in this environment, without its logging. Afterwards the process is as it was, also where Ray
    itself changes it: its PYTHONBREAKPOINT would make another of ``breakpoint()`` in the ServerApp, and its handler
    of SIGTERM, which it sets in the main thread, ends what is not to be ended."""
    handler = signal.getsignal(signal.SIGTERM)
    kept = {name: os.environ.get(name) for name in ("PYTHONBREAKPOINT", "RAY_AUTH_MODE")}
    with _environment({**kept, **environment}):
        _reread()
        try:
            ray.init(log_to_driver=False, logging_level=logging.CRITICAL, **settings)
        finally:
            if handler is not None and threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, handler)
    ray_worker._worker_logs_enabled = False  # or each worker's death is printed to stdout, beside our own report of it


def _shutdown() -> None:
    ray.shutdown()
    ray_worker._worker_logs_enabled = True
    _reread()


def _reread() -> None:
    """Have Ray read again what it has kept of the environment since it was imported, or since the last run."""
    _constants.ENABLE_RAY_CLUSTER = _constants.env_bool(
        _constants.ENABLE_RAY_CLUSTERS_ENV_VAR, not _constants.IS_WINDOWS_OR_OSX
    )
    _raylet.Config.initialize("")  # before the token goes, or a thread of Ray's that still runs looks for it in vain
    _raylet.AuthenticationTokenLoader.instance().reset_cache()


@contextlib.contextmanager
def _environment(variables: Mapping[str, str | None]) -> Iterator[None]:
    """Have environment variables with these values; None: unset."""
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


def _end(folder: Path) -> None:
    """Shut down the cluster of this folder, and see that its processes are gone."""
    processes = _processes(folder)
    _shutdown()
    alive = psutil.wait_procs(processes, timeout=END)[1]
    for process in alive:
        process.kill()
    psutil.wait_procs(alive, timeout=END)


def _processes(folder: Path) -> list[psutil.Process]:
    """Ray's processes that are told of this folder, and all that they have started."""
    found = []
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.NoSuchProcess):  # it ended meanwhile
            if any(str(folder) in word for word in child.cmdline()):
                found += [child, *child.children(recursive=True)]
    return found

"""The connection to Ray: to a cluster of this host, to one that runs already, or the one that the process has."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import ray

from flsim.envelope import describe
from flsim.errors import BackendBroken, ConfigError
from flsim_ray.plugin import RayOptions
from flsim_ray.private import gcs_address, init, reach, shutdown

END = 5.0
"""Seconds that the processes of a cluster of this host have to end by themselves."""

SHORT = (103 if sys.platform == "darwin" else 107) - 68
"""Bytes that the path of a folder may have, so that those of Ray's sockets in it have no more than a socket's may."""

FREED_TOGETHER = "RAY_free_objects_batch_size"
"""How many objects the store waits for, for a second at most, before it frees them. One by one, its pages are used
again at once: to fill them takes half as long as to fill new ones, and there are fewer of them."""

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
                    f"this process is connected to Ray at {ray.get_runtime_context().gcs_address} already, whatever "
                    "the options of backend ray say. Leave them out to use that, or call ray.shutdown() before the run"
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


@contextlib.contextmanager
def _joined(address: str) -> Iterator[None]:
    """A cluster that runs already."""
    try:
        reach(gcs_address(address))  # where nobody listens, ray.init tries on for many minutes, out of reach of Ctrl-C
    except (OSError, ValueError) as e:
        raise BackendBroken(
            f"there is no Ray cluster at address={address}: {describe(e)}. Give HOST:PORT of its GCS, as "
            "'ray start --head' has shown it; 'ray status' says whether it runs"
        ) from e
    try:
        init({}, address=address)
    except Exception as e:  # of any kind: versions, tokens, no node on this host
        raise BackendBroken(
            f"cannot join the Ray cluster at address={address}: {describe(e)}. Run flsim on a host of the cluster, "
            "with its versions of Ray and Python; if it wants a token, with RAY_AUTH_MODE=token and that token"
        ) from e
    try:
        yield
    finally:
        shutdown()


@contextlib.contextmanager
def _of_this_host(options: RayOptions, folder: Path) -> Iterator[None]:
    """A cluster on the loopback interface, for whoever knows its token."""
    resources = options.resources()
    with contextlib.ExitStack() as stack:
        if len(os.fsencode(folder)) > SHORT:
            folder = stack.enter_context(_short_folder())
        token = folder / "token"
        token.touch(0o600)
        token.write_text(secrets.token_hex(32))
        stack.callback(_end, folder)
        try:
            init(
                {
                    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # despite its name: all that Ray opens is on 127.0.0.1
                    "RAY_AUTH_MODE": "token",
                    "RAY_AUTH_TOKEN_PATH": str(token),
                    "RAY_AUTH_TOKEN": None,  # it would be taken for ours
                    "RAY_USAGE_STATS_ENABLED": "0",
                    FREED_TOGETHER: os.environ.get(FREED_TOGETHER, "1"),
                    "CUDA_VISIBLE_DEVICES": ",".join(options.devices()),  # of which Ray gives to each task its own …
                    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",  # … and none to one that needs none
                },
                address="local",
                num_cpus=int(resources.cpus),
                num_gpus=int(resources.gpus),
                resources=dict(resources.custom),
                _memory=resources.memory,
                include_dashboard=False,
                _temp_dir=str(folder / "ray"),  # Ray opens it to all, and the folder around it stays closed
            )
        except Exception as e:  # of any kind: its start has many steps
            raise BackendBroken(f"Ray does not start on this host: {describe(e)}") from e
        yield


def _end(folder: Path) -> None:
    """Shut down the cluster of this folder, and see that its processes are gone."""
    processes = _processes(folder)
    shutdown()
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


@contextlib.contextmanager
def _short_folder() -> Iterator[Path]:
    """A folder of mode 0700 whose path is short, whatever TMPDIR says. It is locked while this process lives, and
    those of processes that were killed are removed."""
    for left in Path("/tmp").glob("flsim-ray-*"):
        with contextlib.suppress(OSError), _locked(left):  # it is in use, another user's, or just being removed
            shutil.rmtree(left, ignore_errors=True)
    new = Path(tempfile.mkdtemp(prefix="flsim-new-", dir="/tmp"))
    with _locked(new):
        folder = new.rename(new.with_name(new.name.replace("new", "ray", 1)))  # so that nobody finds it unlocked
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)  # a process that is being killed may still write to it


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold a lock on a folder; it goes with the process, however that ends. Raises OSError where another has it."""
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(lock)

"""The process behind a local cluster: ``python -m flsim_dask.launcher``, started by :mod:`flsim_dask.local`.

It holds the scheduler and the nannies; the workers are its children. What it is to start comes as one line on its
stdin, of which the driver holds the other end: when that closes, as it also does when the driver is killed, this
process kills itself with all that it has started.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import tempfile
import threading
import traceback
from dataclasses import asdict, dataclass
from multiprocessing import resource_tracker
from typing import Any

READY = "flsim-dask ready at "
"""Begins the line that says where the scheduler listens, once its workers are there."""


@dataclass(frozen=True, slots=True)
class Launch:
    """What the launcher is told."""

    visible: list[str]
    """One entry a worker: its CUDA_VISIBLE_DEVICES."""
    nthreads: int
    memory: int
    """Bytes that each worker may use."""
    resources: dict[str, float]
    """What each worker declares to the scheduler."""
    certificate: str
    """PEM text: who has this certificate and its key is let in, and nobody else."""
    key: str

    def encode(self) -> bytes:
        """As one line."""
        return json.dumps(asdict(self)).encode() + b"\n"


CONFIG: dict[str, Any] = {
    # ClientApps may have children, as a DataLoader with workers does.
    "distributed.worker.daemon": False,
    # A worker with too much memory neither pauses nor writes to disk: at 95 % of its limit it is ended, and replaced.
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    # A ClientApp may hold the GIL for minutes, and nothing is heard of its worker meanwhile.
    "distributed.scheduler.worker-ttl": None,
    "distributed.scheduler.idle-timeout": None,
    # The HTTP servers cannot be switched off, but they need not tell anything to strangers.
    "distributed.scheduler.http.routes": [],
    "distributed.worker.http.routes": [],
    # Costs time, and is for a dashboard that is not there.
    "distributed.worker.profile.enabled": False,
}


async def serve(launch: Launch) -> str:
    """Run the cluster until a worker cannot be kept. Returns what happened."""
    import dask
    from distributed import Nanny, Scheduler
    from distributed.security import Security

    dask.config.set(CONFIG)
    roles = ("client", "scheduler", "worker")
    security = Security(  # type: ignore[no-untyped-call]  # distributed is typed in part
        require_encryption=True,
        tls_ca_file=launch.certificate,
        **{f"tls_{role}_cert": launch.certificate for role in roles},
        **{f"tls_{role}_key": launch.key for role in roles},
    )
    common: dict[str, Any] = {
        "host": "127.0.0.1",
        "protocol": "tls",
        "security": security,
        "dashboard": False,
        "dashboard_address": "127.0.0.1:0",
    }
    each: dict[str, Any] = {
        "nthreads": launch.nthreads,
        "memory_limit": launch.memory,
        "resources": launch.resources,
        "local_directory": tempfile.gettempdir(),
    }
    async with Scheduler(port=0, **common) as scheduler:
        nannies: list[Any] = [
            Nanny(scheduler.address, env={"CUDA_VISIBLE_DEVICES": visible}, **each, **common)
            for visible in launch.visible
        ]
        await asyncio.gather(*nannies)
        print(f"{READY}{scheduler.address}", flush=True)
        await asyncio.wait([asyncio.ensure_future(n.finished()) for n in nannies], return_when="FIRST_COMPLETED")
        return "a worker ended, and could not be replaced"


def main() -> None:
    """Be the launcher."""
    # Outside of the session that is killed in the end: it removes the semaphores that those processes leave.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    resource_tracker.ensure_running()  # which unblocks signals on its way
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    os.setsid()
    line = sys.stdin.buffer.readline()
    if not line:
        return  # the driver ended first
    threading.Thread(target=_end_with_driver, name="flsim-lifeline", daemon=True).start()
    try:
        print(asyncio.run(serve(Launch(**json.loads(line)))))
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    _end()


def _end_with_driver() -> None:
    sys.stdin.buffer.read()  # nothing more is sent: it returns when the driver's end is closed
    _end()


def _end() -> None:
    end_session(os.getpid())
    os._exit(1)


def end_session(leader: int) -> None:
    """Kill all processes of a session but this one. A worker leads a process group of its own, with what its
    ClientApps have started."""
    import psutil

    killed: set[int] = set()
    while others := {pid for pid in psutil.pids() if _session(pid) == leader} - killed - {os.getpid()}:
        for pid in others:
            with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile
                os.kill(pid, signal.SIGKILL)
        killed |= others


def _session(pid: int) -> int:
    try:
        return os.getsid(pid)
    except OSError:  # it has ended meanwhile
        return -1


if __name__ == "__main__":
    main()

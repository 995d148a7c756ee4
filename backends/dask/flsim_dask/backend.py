"""DaskBackend: leases in the workers of a Dask cluster."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import TYPE_CHECKING

from flsim.backend import Backend, RunInfo
from flsim.envelope import describe
from flsim.errors import BackendBroken
from flsim.payload import Frames, Shared
from flsim.resources import Place, Resources, Room
from flsim.segments import Memory
from flsim_dask.local import LocalCluster
from flsim_dask.plugin import GPU, DaskOptions

if TYPE_CHECKING:
    from distributed.security import Security

    from flsim_dask.connection import Connection
    from flsim_dask.workers import Workers

WORKERS_PER_CPU = 4
"""More workers than this, per cpu, are not started, however little each needs: one takes about 100 MB."""


class DaskBackend(Backend):
    """Runs leases in the workers of a cluster: as tasks where it was joined, as calls where it is this host's."""

    def __init__(self, options: DaskOptions) -> None:
        self._options = options
        self._local: LocalCluster | None = None
        self._memory: Memory | None = None
        self._connection: Connection | None = None
        self._workers: Workers | None = None
        self._refused: list[Place] = []

    def start(self, run: RunInfo) -> None:
        if self._options.scheduler is not None:
            self.patience = self._options.wait
            self._join(run, self._options.scheduler, self._security(), None)
            return
        host = self._options.resources()
        whole = Place("this host", host, leases=WORKERS_PER_CPU * math.ceil(host.cpus))
        each = _largest(run.needs)
        room = Room(whole)
        visible: list[str] = []
        while len(visible) < run.nodes and (devices := room.take(each)) is not None:
            visible.append(",".join(self._options.devices()[i] for i in devices))
        if not visible:
            self._refused = [replace(whole, leases=0)]
            return
        self._local = LocalCluster(run.folder)
        self._memory = Memory(run.folder)
        memory = host.memory // len(visible)
        resources = {**each.custom, **({GPU: each.gpus} if each.gpus else {})}
        address, security = self._local.start(visible, max(1, math.ceil(each.cpus)), memory, resources)
        self._join(run, address, security, each.cpus)

    def capacity(self) -> list[Place]:
        return self._refused if self._workers is None else self._workers.places()

    def submit(self, frames: Frames, need: Resources, place: Place, devices: tuple[int, ...] = ()) -> Future[Frames]:
        if self._workers is None:
            raise RuntimeError("the dask backend is not started")
        return self._workers.submit(frames, need, place)

    def share(self, buffers: Sequence[memoryview], messages: int) -> Shared | None:
        return None if self._workers is None else self._workers.share(buffers, messages)

    def abort(self, future: Future[Frames]) -> None:
        if self._workers is not None:
            self._workers.abort(future)

    def stop(self) -> None:
        workers, self._workers = self._workers, None
        connection, self._connection = self._connection, None
        local, self._local = self._local, None
        memory, self._memory = self._memory, None
        with contextlib.ExitStack() as stack:
            if memory is not None:
                stack.callback(memory.close)
            if local is not None:
                stack.callback(local.stop)
            if connection is not None:
                stack.callback(connection.close)
            if workers is not None:
                workers.close()

    def _security(self) -> Security | None:
        """Of a joined cluster; None: what Dask's own configuration says."""
        from distributed.security import Security

        options = self._options
        if options.tls_ca_file is None:
            return None
        return Security(  # type: ignore[no-untyped-call]  # distributed is typed in part
            require_encryption=True,
            tls_ca_file=options.tls_ca_file,
            tls_client_cert=options.tls_client_cert,
            tls_client_key=options.tls_client_key,
        )

    def _join(self, run: RunInfo, address: str, security: Security | None, cpus: float | None) -> None:
        # Imported here, since a launcher that was started before does the same at the same time: it takes a second.
        from flsim_dask.connection import Connection
        from flsim_dask.workers import Workers

        local = self._local
        try:
            # Whether the workers of a joined cluster can be reached, past its scheduler, is for its users to say.
            self._connection = Connection(address, security, None if local is None else True)
        except (OSError, ValueError, RuntimeError, ImportError) as e:
            raise BackendBroken(
                f"the Dask scheduler at {address} cannot be joined: {describe(e)}\n"
                "Start one with: dask scheduler. Without the option scheduler, flsim starts a cluster of this host."
            ) from e

        def gone() -> str:
            if local is not None:
                return f"the local Dask cluster has ended: {local.last_words()}"
            return f"the Dask scheduler at {address} went away. Start it again, with its workers, and run again."

        self._workers = Workers(self._connection, self._memory, cpus, run.changed, run.announce, gone)


def _largest(needs: Sequence[Resources]) -> Resources:
    """What a worker has that can take leases of all these needs: the workers of a local cluster are all alike."""
    custom = {name: max(need.custom.get(name, 0.0) for need in needs) for need in needs for name in need.custom}
    return Resources(
        cpus=max(need.cpus for need in needs),
        gpus=max(need.gpus for need in needs),
        memory=max(need.memory for need in needs),
        custom=custom,
    )

"""LocalCluster: a Dask cluster of this host that lives as long as the run, seen from the driver."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from flsim.envelope import clean
from flsim.errors import BackendBroken
from flsim_dask.launcher import READY, Launch, end_session

if TYPE_CHECKING:
    from distributed.security import Security

PATIENCE = 60.0
"""Seconds that the cluster has to start."""

AFTERMATH = 5.0
"""Seconds that processes have to be gone once they are killed."""

TAIL = 8 * 1024
"""Bytes kept of what the cluster has printed last."""


class LocalCluster:
    """A launcher process, which holds the scheduler and the nannies, and the workers below it.

    All of them share one pipe as stdout and stderr. What they print last is kept for error messages; and when the
    pipe ends, all of them are gone.

    Args:
        folder: where its processes keep their temporary files.
    """

    def __init__(self, folder: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "flsim_dask.launcher"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            bufsize=0,
            env={**os.environ, "DASK_LOGGING__DISTRIBUTED": "warning", "TMPDIR": str(folder)},
        )
        self._printed = b""
        self._address = ""
        self._settled = threading.Event()
        self._listener = threading.Thread(target=self._listen, name="flsim-dask-output", daemon=True)
        self._listener.start()

    def start(
        self, visible: Sequence[str], nthreads: int, memory: int, resources: Mapping[str, float]
    ) -> tuple[str, Security]:
        """Start the scheduler and the workers. Returns its address, and what lets a client in.

        Args:
            visible: one entry a worker: its CUDA_VISIBLE_DEVICES.
            nthreads: of each worker.
            memory: bytes that each worker may use.
            resources: what each worker declares to the scheduler.

        Raises:
            BackendBroken: it did not start.
        """
        from distributed.security import Security

        security = Security.temporary()  # type: ignore[no-untyped-call]  # distributed is typed in part
        launch = Launch(list(visible), nthreads, memory, dict(resources), security.tls_ca_file, security.tls_client_key)
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(launch.encode())
        except BrokenPipeError:
            self._listener.join(AFTERMATH)
        else:
            self._settled.wait(PATIENCE)
        if not self._address:
            raise BackendBroken(f"the local Dask cluster did not start: {self.last_words()}")
        return self._address, security

    def last_words(self) -> str:
        """What its processes printed last."""
        lines = self._printed.decode(errors="replace").splitlines()
        text = "\n".join(line for line in lines if not line.startswith(READY)).strip()
        return f"it printed\n{clean(text, TAIL)}" if text else "it printed nothing"

    def stop(self) -> None:
        """Kill all its processes, and wait until they are gone."""
        self._process.kill()  # before it starts any more
        end_session(self._process.pid)
        self._process.wait()
        self._listener.join(AFTERMATH)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        while chunk := self._process.stdout.read(TAIL):
            self._printed = (self._printed + chunk)[-TAIL:]
            if not self._address and (ready := re.search(rf"{READY}(\S+)\n", self._printed.decode(errors="replace"))):
                self._address = ready[1]
                self._settled.set()
        self._settled.set()

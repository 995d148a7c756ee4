"""The nodes of a Ray cluster: what they have, and whoever looks at them."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable

import ray

from flsim.envelope import describe
from flsim.errors import BackendBroken
from flsim.resources import Place, Resources
from flsim_ray.private import reach

SLOTS_PER_CPU = 16
"""More leases at once than this, per cpu of a host, are refused, however little each needs."""

LOOK_EVERY = 1.0
"""Seconds between two looks: Ray has no event for nodes that come and go."""

GCS_PATIENCE = 30.0
"""Seconds without its GCS after which a cluster is given up. Ray ends the driver's process after 60."""


class Watcher:
    """Looks at the nodes, in a thread of its own, from now until ``stop``.

    Args:
        changed: called there when ``places`` or ``broken`` is another.
    """

    def __init__(self, changed: Callable[[], None]) -> None:
        self.places = _places()
        """Those that are alive, by Ray's id of the node."""
        self.broken: BackendBroken | None = None
        """Why the cluster is given up, once it is."""
        self._gcs = str(ray.get_runtime_context().gcs_address)
        self._changed = changed
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="flsim-ray", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Look no more: to ask Ray while it shuts down would start it anew."""
        self._stopped.set()
        self._thread.join()

    def _watch(self) -> None:
        answered = time.monotonic()
        while not self._stopped.wait(LOOK_EVERY):
            try:
                reach(self._gcs)  # without it, ray.nodes() would not return
            except OSError as e:
                if time.monotonic() - answered < GCS_PATIENCE:
                    continue
                self.broken = BackendBroken(
                    f"the GCS of the Ray cluster at {self._gcs} has not answered for {GCS_PATIENCE:g} s: {describe(e)}"
                    ". The head of the cluster has ended, or is out of reach. Start it again, and then the run"
                )
                self._changed()
                return
            answered = time.monotonic()
            seen = _places()
            if seen != self.places:
                self.places = seen
                self._changed()


_NOT_CUSTOM = ("CPU", "GPU", "memory", "object_store_memory")


def _places() -> dict[str, Place]:
    places = {}
    for node in ray.nodes():  # type: ignore[no-untyped-call]  # Ray leaves it untyped
        if node["Alive"]:
            has: dict[str, float] = node["Resources"]
            cpus = has.get("CPU", 0.0)
            custom = {k: v for k, v in has.items() if k not in _NOT_CUSTOM and not k.startswith("node:")}
            resources = Resources(cpus=cpus, gpus=has.get("GPU", 0.0), memory=int(has.get("memory", 0)), custom=custom)
            name = f"{node['NodeManagerHostname']}-{node['NodeID'][:8]}"
            places[node["NodeID"]] = Place(name, resources, leases=SLOTS_PER_CPU * max(1, math.ceil(cpus)))
    return places

"""What this plugin offers."""

from flsim.backend import BackendSpec, HostOptions
from flsim.hooks import hookimpl

SPEC = BackendSpec(
    name="pool",
    summary="Python's own process pools, one of one worker for each slot",
    target="flsim_pool.backend:PoolBackend",
    options=HostOptions,
    honours=frozenset({"cpus", "memory", "custom", "isolation", "abort"}),
)


@hookimpl
def flsim_backends() -> list[BackendSpec]:
    """The pool backend."""
    return [SPEC]

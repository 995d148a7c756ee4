"""What this plugin offers."""

from flsim.backend import BackendSpec, HostOptions
from flsim.hooks import hookimpl


@hookimpl
def flsim_backends() -> list[BackendSpec]:
    """The serial backend."""
    return [
        BackendSpec(
            name="serial",
            summary="one after another in this process: for debugging, and the reference",
            target="flsim_serial.backend:SerialBackend",
            options=HostOptions,
            honours=frozenset({"cpus", "gpus", "custom"}),
        )
    ]

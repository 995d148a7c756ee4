"""What this plugin offers."""

from flsim.backend import BackendSpec, HostOptions
from flsim.hooks import hookimpl


@hookimpl
def flsim_backends() -> list[BackendSpec]:
    """The loky backend."""
    return [
        BackendSpec(
            name="loky",
            summary="processes of this host, one for each ClientApp at work",
            target="flsim_loky.backend:LokyBackend",
            options=HostOptions,
            honours=frozenset({"cpus", "gpus", "memory", "custom", "isolation", "abort"}),
            requires=("loky",),
            install="pip install flsim-loky",
        )
    ]

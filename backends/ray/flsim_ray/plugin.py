"""What this plugin offers."""

from __future__ import annotations

from dataclasses import dataclass, field

from flsim.backend import BackendSpec, HostOptions
from flsim.errors import ConfigError
from flsim.hooks import hookimpl


@dataclass(frozen=True, slots=True)
class RayOptions(HostOptions):
    """Which cluster: one that runs already, or one of this host that lives as long as the run.

    Raises:
        ConfigError: a value that Ray does not take, or options that do not go together.
    """

    address: str | None = field(
        default=None,
        metadata={
            "help": 'a running cluster: HOST:PORT of its GCS, or "auto"; '
            "default: a cluster of this host, for this run alone"
        },
    )
    wait: float = field(
        default=60.0, metadata={"help": "seconds to wait for the first cpu of a running cluster that has none yet"}
    )

    def __post_init__(self) -> None:
        if self.address is not None:
            self._check_address(self.address)
        self.resources()  # which raises for amounts that are none
        if self.cpus is not None and self.cpus != int(self.cpus):
            raise ConfigError(
                f"Ray counts the cpus of a host in whole ones: cpus={int(self.cpus) or 1}, not {self.cpus:g}"
            )
        if not self.wait >= 0:
            raise ConfigError(f"wait is zero seconds or more, not {self.wait:g}")

    def _check_address(self, address: str) -> None:
        if address.startswith("ray://"):
            raise ConfigError(
                f"address={address} is one of Ray Client, through which every model would pass twice. "
                'Run flsim on a host of the cluster and give the address of its GCS, as HOST:6379 or "auto"'
            )
        if address in ("", "local"):
            raise ConfigError(
                f"address={address!r} is no running cluster; leave it out, and one of this host is started"
            )
        if sized := [name for name in ("cpus", "gpus", "memory", "custom") if getattr(self, name) is not None]:
            raise ConfigError(
                f"{' and '.join(sized)} are for a cluster of this host, and address={address} has its own; "
                "leave one or the other out"
            )


@hookimpl
def flsim_backends() -> list[BackendSpec]:
    """The Ray backend."""
    return [SPEC]


SPEC = BackendSpec(
    name="ray",
    summary="tasks of a Ray cluster: one of this host, or one that runs already",
    target="flsim_ray.backend:RayBackend",
    options=RayOptions,
    honours=frozenset({"cpus", "gpus", "memory", "custom", "isolation", "abort", "hosts"}),
    requires=("ray", "psutil"),
    install="pip install flsim-ray",
    # Its agents try for a minute to report the death of their raylet to a GCS that is gone, too.
    lingers={"ray::DashboardAgent": 90.0, "ray::RuntimeEnvAgent": 90.0},
)

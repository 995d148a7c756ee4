"""What this plugin offers."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from flsim.backend import BackendSpec, HostOptions
from flsim.errors import ConfigError
from flsim.hooks import hookimpl

GPU = "GPU"
"""The resource by which a Dask worker declares its gpus, as ``dask worker --resources GPU=1``."""


@dataclass(frozen=True, slots=True)
class DaskOptions(HostOptions):
    """Which cluster: one that runs already, or one of this host that lives as long as the run.

    Raises:
        ConfigError: options that do not go together.
    """

    scheduler: str | None = field(
        default=None,
        metadata={
            "help": "address of a running scheduler, as tcp://127.0.0.1:8786 or tls://…; "
            "default: a cluster of this host, for this run alone"
        },
    )
    wait: float = field(
        default=60.0,
        metadata={"help": "seconds to wait for the first worker of a running scheduler, where it has none"},
    )
    tls_ca_file: str | None = field(
        default=None, metadata={"help": "PEM file of the authority that a tls:// scheduler trusts; default: Dask's own"}
    )
    tls_client_cert: str | None = field(
        default=None, metadata={"help": "PEM file of this client's certificate; default: Dask's own"}
    )
    tls_client_key: str | None = field(
        default=None, metadata={"help": "PEM file of its key, where that is not in the certificate's file"}
    )

    def __post_init__(self) -> None:
        if not self.wait >= 0:
            raise ConfigError(f"wait is zero seconds or more, not {self.wait:g}")
        files = {
            "tls_ca_file": self.tls_ca_file,
            "tls_client_cert": self.tls_client_cert,
            "tls_client_key": self.tls_client_key,
        }
        given = [name for name, file in files.items() if file is not None]
        if self.scheduler is None:
            if given:
                raise ConfigError(f"{given[0]} is for a running scheduler; say which one, as scheduler=tls://HOST:PORT")
            self.resources()  # which raises for amounts that are none
            return
        sized = [name for name in ("cpus", "gpus", "memory", "custom") if getattr(self, name) is not None]
        if sized:
            raise ConfigError(
                f"{' and '.join(sized)} are for a cluster of this host, and scheduler={self.scheduler} has its own; "
                "leave one or the other out"
            )
        if not re.fullmatch(r"(\w+://)?[^/\s]+:\d+", self.scheduler):
            raise ConfigError(f"scheduler is an address such as tcp://127.0.0.1:8786, not {self.scheduler!r}")
        if not given:
            return
        if not self.scheduler.startswith("tls://"):
            raise ConfigError(f"{given[0]} is for TLS; write scheduler=tls://{self.scheduler.rpartition('/')[2]}")
        if self.tls_ca_file is None or self.tls_client_cert is None:
            raise ConfigError("TLS needs both tls_ca_file and tls_client_cert")
        for name in given:
            if not Path(str(files[name])).is_file():
                raise ConfigError(f"{name}: there is no file {files[name]}")


@hookimpl
def flsim_backends() -> list[BackendSpec]:
    """The Dask backend."""
    return [SPEC]


SPEC = BackendSpec(
    name="dask",
    summary="workers of a Dask cluster: one of this host, or one that runs already",
    target="flsim_dask.backend:DaskBackend",
    options=DaskOptions,
    honours=frozenset({"cpus", "gpus", "memory", "custom", "isolation", "abort", "hosts"}),
    requires=("distributed", "cryptography"),
    install="pip install flsim-dask",
)

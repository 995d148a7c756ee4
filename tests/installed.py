"""Which backends are installed: tests that need another skip by its name."""

import pytest

from flsim.plugins import Plugins

INSTALLED = {b.spec.name for b in Plugins().backends() if not b.missing}


def skip_without(backend: str) -> None:
    """Skip the test, by name, where this backend is not installed."""
    if backend not in INSTALLED:
        pytest.skip(f"backend {backend} is not installed")

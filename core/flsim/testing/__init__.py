"""What we export for backend authors: the contract, as checks and as a pytest class.

::

    # tests/test_contract.py of a backend package
    import pytest
    from flsim.testing import BackendContract, Subject
    from flsim_mine.plugin import SPEC

    class TestMine(BackendContract):
        @pytest.fixture
        def subject(self) -> Subject:
            return Subject(SPEC, {"cpus": 2})
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flsim.testing.checks import CHECKS as CHECKS
    from flsim.testing.contract import BackendContract as BackendContract
    from flsim.testing.subject import Desk as Desk
    from flsim.testing.subject import Subject as Subject

_HOMES = {"CHECKS": "checks", "BackendContract": "contract", "Desk": "subject", "Subject": "subject"}

__all__ = sorted(_HOMES)  # the one list of public names is _HOMES


def __getattr__(name: str) -> Any:
    if name not in _HOMES:  # pytest is needed by BackendContract alone, so nothing is imported ahead of use
        raise AttributeError(f"module 'flsim.testing' has no attribute {name!r}")
    return getattr(importlib.import_module(f"flsim.testing.{_HOMES[name]}"), name)

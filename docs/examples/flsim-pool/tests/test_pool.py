"""The contract, kept."""

import pytest
from flsim_pool.plugin import SPEC

from flsim.testing import BackendContract, Subject


class TestPool(BackendContract):
    @pytest.fixture
    def subject(self) -> Subject:
        return Subject(SPEC, {"cpus": 2.0}, variants=[{"cpus": 1.0}])

"""Every backend that is installed keeps the contract. No backend is named here: they are discovered."""

import pytest

from flsim.plugins import Plugins, Registered
from flsim.testing import BackendContract, Subject

BACKENDS = list(Plugins().backends())


class TestContract(BackendContract):
    @pytest.fixture(params=BACKENDS, ids=lambda b: b.spec.name)
    def subject(self, request: pytest.FixtureRequest) -> Subject:
        offer: Registered = request.param
        return Subject(offer.spec, {"cpus": 2.0}, variants=[{"cpus": 1.0}, {"cpus": 4.0}])

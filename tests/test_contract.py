"""Every backend that is installed keeps the contract: they are discovered. The example of a stranger's brings its own
tests, which are this suite, too."""

import pytest

from flsim.plugins import Plugins, Registered
from flsim.testing import BackendContract, Subject

BACKENDS = [b for b in Plugins().backends() if b.plugin.distribution != "flsim-pool"]


class TestContract(BackendContract):
    @pytest.fixture(params=BACKENDS, ids=lambda b: b.spec.name)
    def subject(self, request: pytest.FixtureRequest) -> Subject:
        offer: Registered = request.param
        return Subject(offer.spec, {"cpus": 2.0}, variants=[{"cpus": 1.0}, {"cpus": 4.0}])

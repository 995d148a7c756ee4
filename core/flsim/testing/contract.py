"""BackendContract, the contract as a pytest class that asks for one fixture."""

from __future__ import annotations

import pytest

from flsim.testing.checks import CHECKS, Check
from flsim.testing.subject import Subject


class BackendContract:
    """Derive from it, and give it a fixture ``subject`` that returns the :class:`Subject`.

    A check of what the backend does not honour is skipped by name; one in ``Subject.known`` must fail.
    """

    @pytest.mark.parametrize("check", [pytest.param(c, id=f"{c.clause}-{c.name}") for c in CHECKS])
    def test_clause(self, subject: Subject, check: Check) -> None:
        """The backend keeps this clause."""
        known = subject.known.get(check.name)
        if check.applies(subject) and known is None:
            check.run(subject)
            return
        result = check.result(subject)
        if result.outcome == "not offered":
            pytest.skip(result.reason)
        if result.outcome == "failed":
            pytest.xfail(f"{known}: {result.reason}")
        pytest.fail(f"known to fail ({known}), and it does not: take it out of Subject.known")

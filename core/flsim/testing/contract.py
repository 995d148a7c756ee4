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
        if not check.applies(subject):
            pytest.skip(f"{subject.spec.name} does not honour {', '.join(sorted(check.needs - subject.spec.honours))}")
        reason = subject.known.get(check.name)
        if reason is None:
            check.run(subject)
            return
        try:
            check.run(subject)
        except AssertionError:
            pytest.xfail(reason)
        pytest.fail(f"known to fail ({reason}), and it does not: take it out of Subject.known")

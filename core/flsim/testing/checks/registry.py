"""Check, and the register of all."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Literal

from flsim.envelope import describe
from flsim.testing.subject import Subject


@dataclasses.dataclass(frozen=True, slots=True)
class Check:
    """One check of one clause."""

    clause: int
    name: str
    needs: frozenset[str]
    run: Callable[[Subject], None]

    def applies(self, subject: Subject) -> bool:
        """Whether the backend honours what this check is about."""
        return self.needs <= subject.spec.honours

    def result(self, subject: Subject) -> Result:
        """Run the check, and say what came of it."""
        if not self.applies(subject):
            missing = ", ".join(sorted(self.needs - subject.spec.honours))
            return Result("not offered", 0.0, f"{subject.spec.name} does not honour {missing}")
        begun = time.perf_counter()
        try:
            self.run(subject)
        except AssertionError as e:
            return Result("failed", time.perf_counter() - begun, str(e))
        except Exception as e:  # a backend may break in any way; that it does is the result
            return Result("failed", time.perf_counter() - begun, describe(e))
        return Result("passed", time.perf_counter() - begun, "")


@dataclasses.dataclass(frozen=True, slots=True)
class Result:
    """What came of a check."""

    outcome: Literal["passed", "failed", "not offered"]
    seconds: float
    reason: str


CHECKS: list[Check] = []
"""All checks, in the order of the clauses."""


def check(clause: int, *needs: str) -> Callable[[Callable[[Subject], None]], Callable[[Subject], None]]:
    """Add a function to :data:`CHECKS`."""

    def add(fn: Callable[[Subject], None]) -> Callable[[Subject], None]:
        CHECKS.append(Check(clause, fn.__name__, frozenset(needs), fn))
        return fn

    return add

"""The contract of a backend, clause by clause, as plain functions.

Each check takes the Subject, uses the backend for real, and raises AssertionError with what it saw. A check with
``needs`` applies to backends that honour those; one without applies to all.
"""

# In the order of the clauses, which is that of CHECKS: each adds its own.
from flsim.testing.checks import (  # isort: skip
    futures as _1,  # noqa: F401
    domains as _2,  # noqa: F401
    resources as _3,  # noqa: F401
    life as _5,  # noqa: F401
    hosts as _8,  # noqa: F401
    printing as _9,  # noqa: F401
    determinism as _10,  # noqa: F401
    ports as _11,  # noqa: F401
    secrets as _11b,  # noqa: F401
    payload as _12,  # noqa: F401
    faults as _13,  # noqa: F401
    scripts as _13b,  # noqa: F401
)
from flsim.testing.checks.registry import CHECKS, Check, Result

__all__ = ["CHECKS", "Check", "Result"]

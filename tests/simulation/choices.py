"""Where a simulation's choices come from."""

from collections.abc import Sequence
from typing import Protocol, TypeVar

T = TypeVar("T")


class Choices(Protocol):
    """``random.Random(seed)``, or what Hypothesis draws."""

    def randrange(self, n: int, /) -> int:
        """A number from 0 to ``n - 1``."""


def one_of(choices: Choices, values: Sequence[T]) -> T:
    """One of them; the first is the simplest, which is where Hypothesis shrinks to."""
    return values[choices.randrange(len(values))]

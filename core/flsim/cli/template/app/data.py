"""The points of the nodes. What is in here depends on the node alone, and not on the run or its seed."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

SEED = 42
TRUE = np.array([2.0, -3.0, 0.5])
"""The weights by which the labels are drawn: one for each coordinate, and the bias."""


def of_node(partition: int, points: int) -> tuple[Floats, Floats]:
    """The points of a node, of shape (points, 2), around a centre of its own, and their labels, 0 or 1."""
    rng = np.random.default_rng([SEED, partition])
    return _labelled(rng.normal(scale=1.5, size=2) + rng.normal(size=(points, 2)), rng)


def held_out(points: int = 1000) -> tuple[Floats, Floats]:
    """Points that no node has, from all over the plane, and their labels."""
    rng = np.random.default_rng(SEED)
    return _labelled(rng.normal(scale=1.8, size=(points, 2)), rng)


def _labelled(x: Floats, rng: np.random.Generator) -> tuple[Floats, Floats]:
    chance = 1 / (1 + np.exp(-(x @ TRUE[:2] + TRUE[2])))
    return x, (rng.random(len(x)) < chance).astype(np.float64)

"""scikit-learn's digits (1,797 images of 8 × 8), held out and shared among nodes with label skew."""

from collections.abc import Mapping
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

SPLIT_SEED = 42
"""Fixed, so that all nodes see the same split, and runs with different seeds the same data."""


@lru_cache(maxsize=1)
def images() -> tuple[Floats, Ints]:
    """All images, in [0, 1], shape (1797, 64), with their digits; shuffled."""
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(SPLIT_SEED).permutation(len(y))
    return (x[order] / 16).astype(np.float32), y[order].astype(np.int64)


def test_set(config: Mapping[str, object]) -> tuple[Floats, Ints]:
    """The images that no node trains on."""
    x, y = images()
    held = int(str(config["test"]))
    return x[:held], y[:held]


def train_set(config: Mapping[str, object], partition: int, partitions: int) -> tuple[Floats, Ints]:
    """The images of one node."""
    x, y = images()
    mine = shares(int(str(config["test"])), float(str(config["alpha"])), partitions)[partition]
    return x[mine], y[mine]


@lru_cache(maxsize=4)
def shares(held: int, alpha: float, partitions: int) -> list[Ints]:
    """Which images each node has: the shares of each digit are drawn from Dirichlet(alpha) (Hsu et al., 2019,
    arXiv:1909.06335). A node that would have none gets one."""
    rng = np.random.default_rng(SPLIT_SEED)
    _, y = images()
    parts: list[list[int]] = [[] for _ in range(partitions)]
    for digit in range(10):
        of_digit = held + np.flatnonzero(y[held:] == digit)
        cuts = (np.cumsum(rng.dirichlet(np.full(partitions, alpha)))[:-1] * len(of_digit)).astype(int)
        for part, chunk in zip(parts, np.split(of_digit, cuts), strict=True):
            part.extend(chunk.tolist())
    for part in parts:
        if not part:
            part.append(int(rng.integers(held, len(y))))
    return [np.array(sorted(part), dtype=np.int64) for part in parts]

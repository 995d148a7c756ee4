"""A logistic regression. Its weights are an array: one for each coordinate, and the bias."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def init() -> Floats:
    """The weights to begin with."""
    return np.zeros(3)


def train(
    weights: Floats, x: Floats, y: Floats, *, epochs: int, batch: int, rate: float, rng: np.random.Generator
) -> Floats:
    """The weights after some epochs of stochastic gradient descent."""
    weights = weights.copy()
    for _ in range(epochs):
        order = rng.permutation(len(y))
        for start in range(0, len(y), batch):
            rows = order[start : start + batch]
            error = predict(weights, x[rows]) - y[rows]
            weights[:2] -= rate * (error @ x[rows]) / len(rows)
            weights[2] -= rate * error.mean()
    return weights


def predict(weights: Floats, x: Floats) -> Floats:
    """The probability of label 1, for each point."""
    chance: Floats = 1 / (1 + np.exp(-(x @ weights[:2] + weights[2])))
    return chance


def evaluate(weights: Floats, x: Floats, y: Floats) -> tuple[float, float]:
    """The mean cross-entropy, and the share of labels that are told right."""
    p = np.clip(predict(weights, x), 1e-9, 1 - 1e-9)
    loss = -(y * np.log(p) + (1 - y) * np.log(1 - p)).mean()
    return float(loss), float(((p > 0.5) == (y > 0.5)).mean())

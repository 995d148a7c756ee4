"""A multi-layer perceptron with one hidden layer, in numpy."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Weights = list[Floats]


def init(rng: np.random.Generator, hidden: int) -> Weights:
    """Weights of 64 inputs, ``hidden`` units and 10 outputs (He et al., 2015, arXiv:1502.01852)."""

    def layer(inputs: int, outputs: int) -> Floats:
        return (rng.standard_normal((inputs, outputs)) * np.sqrt(2 / inputs)).astype(np.float32)

    return [layer(64, hidden), np.zeros(hidden, np.float32), layer(hidden, 10), np.zeros(10, np.float32)]


def train(
    weights: Weights, x: Floats, y: Ints, *, epochs: int, batch: int, rate: float, rng: np.random.Generator
) -> float:
    """Train in place by stochastic gradient descent on the cross-entropy. Returns the last epoch's mean loss."""
    w1, b1, w2, b2 = weights
    loss = 0.0
    for _ in range(epochs):
        order = rng.permutation(len(y))
        loss = 0.0
        for start in range(0, len(y), batch):
            rows = order[start : start + batch]
            h = np.maximum(x[rows] @ w1 + b1, 0)
            p = softmax(h @ w2 + b2)
            loss -= float(np.log(p[np.arange(len(rows)), y[rows]] + 1e-9).sum())
            p[np.arange(len(rows)), y[rows]] -= 1
            p /= len(rows)
            back = (p @ w2.T) * (h > 0)
            w2 -= rate * (h.T @ p)
            b2 -= rate * p.sum(0)
            w1 -= rate * (x[rows].T @ back)
            b1 -= rate * back.sum(0)
    return loss / len(y)


def accuracy(weights: Weights, x: Floats, y: Ints) -> float:
    """The share of images whose digit is told right."""
    w1, b1, w2, b2 = weights
    told = (np.maximum(x @ w1 + b1, 0) @ w2 + b2).argmax(1)
    return float((told == y).mean())


def softmax(logits: Floats) -> Floats:
    """Probabilities, row by row."""
    e: Floats = np.exp(logits - logits.max(1, keepdims=True))
    e /= e.sum(1, keepdims=True)
    return e

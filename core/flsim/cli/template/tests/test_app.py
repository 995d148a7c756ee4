"""The app learns, and its runs repeat."""

from pathlib import Path

import flsim

APP = Path(__file__).parents[1]


def run(seed: int) -> flsim.RunResult:
    """Run the app in this process."""
    return flsim.run(APP, backend="serial", seed=seed, quiet=True)


def test_the_loss_falls_and_no_message_fails() -> None:
    """On points that no node has."""
    result = run(seed=1)
    losses = [float(metrics["loss"]) for metrics in result.metrics]
    assert losses[-1] < losses[0]
    assert result.answered == result.sent


def test_the_same_seed_gives_the_same_result_and_another_seed_another() -> None:
    """The digest is of all that the server left in its state."""
    assert run(seed=1).digest == run(seed=1).digest != run(seed=2).digest

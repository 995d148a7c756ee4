"""Replay a simulated run, or hunt through many: see ``python -m tests.simulation --help``, from the root."""

import argparse
import time
from collections import Counter
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from . import simulate_seed


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 1 where a run breaks an invariant."""
    parser = argparse.ArgumentParser("python -m tests.simulation", description="Deterministic simulation of runs.")
    parser.add_argument("seed", type=int, help="of the run, or of the first one")
    parser.add_argument("--runs", type=int, default=1, help="how many seeds from there on; default: 1")
    chosen = parser.parse_args(arguments)
    if chosen.runs < 1:
        parser.error("--runs is 1 or more")
    console = Console(highlight=False)
    happened: Counter[str] = Counter()
    begun = time.perf_counter()
    for seed in range(chosen.seed, chosen.seed + chosen.runs):
        try:
            world = simulate_seed(seed)
        except AssertionError as e:
            console.print(e, *getattr(e, "__notes__", ()), sep="\n", markup=False)
            return 1
        happened.update(world.happened)
        if chosen.runs == 1:
            console.print("\n".join(world.trace), markup=False)
    table = Table("what happened", "times")
    for what, times in sorted((+happened).items()):
        table.add_row(what, f"{times:,}")
    console.print(table)
    console.print(f"{chosen.runs / (time.perf_counter() - begun):.0f} runs a second; each invariant held")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

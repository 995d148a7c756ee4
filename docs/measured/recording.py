"""What it costs to keep a run: docs/examples/noop on loky, with two workers, kept and not kept in turn.

1,000 nodes are asked in each of 50 rounds. Each pair begins with the other one of the two; nine pairs count. Of each
the ratio is taken of what a user waits for: messages a second while the ServerApp runs, and seconds from the call of
``flsim.run`` to its return, in which what is kept is written to its end. Beside it stands the processor time of all
processes, which other work on the machine disturbs less.
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path
from resource import RUSAGE_CHILDREN, RUSAGE_SELF, getrusage

import flsim

APP = Path(__file__).parents[1] / "examples" / "noop"
PAIRS, ROUNDS, NODES = 9, 50, 1000


def processor_seconds() -> float:
    """That this process and those that it has waited for have had so far."""
    return sum(u.ru_utime + u.ru_stime for u in map(getrusage, (RUSAGE_SELF, RUSAGE_CHILDREN)))


def once(kept: bool) -> tuple[float, float, float]:
    """A run: messages a second, seconds in all, and processor seconds."""
    with tempfile.TemporaryDirectory() as folder:
        begun, processor = time.perf_counter(), processor_seconds()
        result = flsim.run(
            APP, nodes=NODES, config={"rounds": ROUNDS, "sample": NODES}, backend="loky", options={"cpus": 2.0}, seed=1,
            quiet=True, record=kept, runs_dir=folder if kept else None,
        )  # fmt: skip
        return result.messages_per_second, time.perf_counter() - begun, processor_seconds() - processor


def main(pairs: int) -> None:
    """Measure, and print each pair and the medians."""
    once(True)  # the first imports what the others have
    rates, seconds, processor = [], [], []
    for pair in range(pairs):
        got = {kept: once(kept) for kept in ((False, True) if pair % 2 else (True, False))}
        (rate, took, used), (rate_kept, took_kept, used_kept) = got[False], got[True]
        rates.append(rate_kept / rate)
        seconds.append(took_kept / took)
        processor.append(used_kept / used)
        print(
            f"{rate:,.0f} messages/s, kept {rate_kept:,.0f}: {rates[-1]:.3f}; "
            f"{took:.2f} s, kept {took_kept:.2f}: {seconds[-1]:.3f}; "
            f"{used:.2f} processor seconds, kept {used_kept:.2f}: {processor[-1]:.3f}",
            flush=True,
        )
    names = ("messages a second", "seconds in all", "processor seconds")
    for name, ratios in zip(names, (rates, seconds, processor), strict=True):
        low, high = min(ratios), max(ratios)
        print(f"{name}: kept / not kept {statistics.median(ratios):.3f} (median; {low:.3f} to {high:.3f})")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else PAIRS)

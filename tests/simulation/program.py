"""What a simulated ServerApp does: drawn before the run, so that another world can run the same."""

from dataclasses import dataclass, replace

from flsim import Resources
from flsim.fleet import Kind

from .choices import Choices, one_of
from .client import GARBLED, LARGE, MUTE, RAISES, UNREADABLE, client

DEADLY, HANGS, FROZEN = "deadly", "hangs", "frozen"
"""What a message does to its worker, beside what it does to its ClientApp: kill it, run into its time limit, stop it
without a word."""

TIME_LIMIT = 10.0

NEEDS = (
    Resources(cpus=1),
    Resources(cpus=2),
    Resources(cpus=0.5, gpus=0.5),
    Resources(cpus=0, gpus=1),
    Resources(cpus=0.1, memory=2**30),
    Resources(cpus=1, custom={"licence": 1}),
    Resources(cpus=0, gpus=0.3),
)


WHAT = ("send", "push", "stream", "push", "stream", "pull", "next", "cancel", "think", "pull ids")
"""What a ServerApp does; what is here twice it does twice as often."""


@dataclass(frozen=True, slots=True)
class Letter:
    """A message of the program."""

    number: int
    node: int
    type: str
    fault: str
    ttl: float | None
    model: bool
    """Whether it carries the array that others of its push carry, too."""


@dataclass(frozen=True, slots=True)
class Step:
    """What the ServerApp does next."""

    what: str
    letters: tuple[Letter, ...] = ()
    timeout: float | None = None
    ordered: bool = True
    count: int = 0


@dataclass(frozen=True, slots=True)
class Program:
    """A fleet, and what its ServerApp does."""

    kinds: tuple[Kind, ...]
    steps: tuple[Step, ...]
    waits: bool
    """Whether its end waits for all replies and for all workers."""
    seed: int

    def without_faults(self) -> "Program":
        """The same, and no message does anything to its worker or ClientApp."""
        steps = tuple(replace(s, letters=tuple(replace(m, fault="") for m in s.letters)) for s in self.steps)
        return replace(self, steps=steps)


def draw_program(choices: Choices, steps: int) -> Program:
    """Let ``choices`` make one of at most so many steps."""
    pick = choices.randrange
    needs = [one_of(choices, NEEDS) for _ in range(1 + pick(3))]
    kinds = tuple(
        Kind(f"kind{i}", client, 1 + pick((3, 12, 30)[pick(3)]), need, time_limit=one_of(choices, (None, TIME_LIMIT)))
        for i, need in enumerate(needs)
    )
    limits = [kind.time_limit for kind in kinds for _ in range(kind.nodes)]
    patient, faulty = pick(2), pick(3)
    count = 0

    def letters() -> tuple[Letter, ...]:
        nonlocal count
        made = []
        for _ in range(1 + pick((3, 8, 40)[pick(3)])):
            node = pick(len(limits))
            faults = ["", "", "", RAISES, MUTE, DEADLY] + ([] if limits[node] is None else [HANGS, FROZEN])
            faults += [UNREADABLE, GARBLED, LARGE]
            fault = one_of(choices, faults) if faulty and not pick(3) else ""
            ttl = None if patient or pick(4) else (0.5, 3.0, 60.0)[pick(3)]
            made.append(Letter(count, 2 + node, ("train", "query")[pick(2)], fault, ttl, not pick(3)))
            count += 1
        return tuple(made)

    def timeout() -> float | None:
        return None if patient or pick(3) else (0.5, 5.0, 120.0)[pick(3)]

    made = []
    for _ in range(2 + pick(steps)):
        match one_of(
            choices, ("send", "push", "stream", "push", "stream", "pull", "next", "cancel", "think", "pull ids")
        ):
            case "send":
                made.append(Step("send", letters(), timeout()))
            case "push":
                made.append(Step("push", letters()))
            case "pull":
                made.append(Step("pull", timeout=(0.0, 1.0, None)[pick(3)]))
            case "stream":
                made.append(Step("stream", letters(), timeout(), bool(pick(2)), pick(10)))
            case "next":
                made.append(Step("next", count=1 + pick(4)))
            case "cancel" if not patient:
                made.append(Step("cancel", count=pick(16)))
            case "think":
                made.append(Step("think", timeout=(0.125, 2.0, 90.0)[pick(3)]))
            case "pull ids":
                made.append(Step("pull ids", count=1 + pick(3), timeout=(0.0, None)[pick(2)]))
    return Program(kinds, tuple(made), bool(pick(4)), pick(1000))

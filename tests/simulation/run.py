"""One simulated run: a program, the world around it, and what must hold whatever happens there."""

import random
from collections import Counter
from collections.abc import Callable

from flsim import ErrorCode, RunResult, stall
from flsim.backend import BackendSpec, HostOptions
from flsim.errors import AppLoadError, BackendBroken, UnsupportedResources
from flsim.events import Announced, Event, Returned
from flsim.plan import Plan
from flsim.project import Project

from . import invariants
from .choices import Choices
from .clock import Clocks, VirtualLoop
from .cluster import Cluster
from .inside import Recorder, SimulatedLink, SimulatedRun, instead
from .outside import EVENTS, HOME, Outside
from .player import Player
from .program import Letter, Program, draw_program
from .watched import WatchedHeart, kept

PATIENCE = 60
"""Events for each message, and ten times for the run, in which a calm world must come to its end."""

SPEC = BackendSpec("simulated", "", "", HostOptions, frozenset({"cpus", "gpus", "memory", "custom", "abort", "hosts"}))


class Simulated:
    """A run and the world around it.

    Args:
        events: how many happen before the world calms down; 0: it is calm from the start.
    """

    link: SimulatedLink
    heart: WatchedHeart

    def __init__(self, choices: Choices, program: Program, events: int) -> None:
        may = [event for event in EVENTS if choices.randrange(3)]
        shares = not events or bool(choices.randrange(3))
        begins_empty = bool(events) and not choices.randrange(4)
        self.choices = choices
        self.program = program
        self.happened: Counter[str] = Counter()
        """How often what happened."""
        self.trace: list[str] = []
        """What happened outside, in order."""
        self.wrong: list[Exception] = []
        """What does not hold, seen where the engine would take it for a fault of the backend."""
        self.accepted: dict[int, int | None] = {}
        """How each message ended, by its id: the code of its error, or None."""
        self.loop = VirtualLoop()
        self.clocks = Clocks(self.loop)
        self.cluster = Cluster(choices, self.wrong, shares)
        if not begins_empty:
            self.cluster.hosts = dict(HOME)
        self.player = Player(program, self)
        self.slots = 0
        """The most that there were."""
        self.result: RunResult | None = None
        self.broken = ""
        self._outside = Outside(self, may)
        self._events = events
        self._calm = 0
        self.failed = False
        self._most = PATIENCE * (10 + sum(len(s.letters) for s in program.steps))

    def go(self) -> None:
        """Run it to its end, and look whether what must hold does."""
        project = Project("simulation", self.player, self.program.kinds, declared=False)
        with instead(self):
            run = SimulatedRun(Plan(project, SPEC, HostOptions(), self.program.seed), Recorder(self))
            self.link = run._link
            self.heart = self.link.heart
            try:
                self.result = run.execute()
            except (BackendBroken, UnsupportedResources, AppLoadError) as e:
                self.broken = str(e)
                invariants.check_refusal(self, e)
        self.happened["kinds are mixed"] += len({e.kind for e in self.heart.pushed.values()}) > 1
        self.happened["what is shared is closed"] += sum(not shelf.open for shelf in self.cluster.shelves)
        self.happened["a message is let in for one behind it"] += len(self.heart.forced)
        if self.player.begun:
            self.happened["the run breaks"] += bool(self.broken)
            invariants.check_end(self)

    def live(self, ready: Callable[[], bool], timeout: float | None) -> bool:
        """Let things happen until it is so, or until so many seconds have passed. Returns whether it is."""
        end = None if timeout is None else self.loop.time() + timeout
        while not ready():
            if end is not None and self.loop.time() >= end:
                return False
            try:
                self._event(end)
            except BaseException:
                self.failed = True
                raise
        return True

    def complete(self, done: Callable[[], bool]) -> None:
        """Let what the engine does by itself come to its end: also where the world has failed, for a clean end."""
        self._calm = 0
        if not self.failed:
            self.live(done, None)
        while not done():
            self.loop.turn()

    def rest(self) -> None:
        """Let things happen until no worker is at work."""
        self.live(lambda: not self.heart.leases and not self.cluster.at_work and self.loop.idle, None)
        assert not self.heart._nodes, "a node is still held"
        assert not self.heart._held, "a message is still held back"
        assert not any(q.count for q in self.heart._ready.values()), "messages are still counted as ready"
        assert not any(shelf.open for shelf in self.cluster.shelves), "what nobody needs any more is still shared"
        assert not self.link._carried, "leases that are over still hold what they carried"

    @kept
    def on(self, event: Event) -> None:
        """The engine tells what happened."""
        if isinstance(event, Announced):
            self.happened["a stall is told"] += event.text.startswith("nothing has moved")
            self.happened["a worker that joined is not used"] += event.text.startswith("a worker that joined")
        if not isinstance(event, Returned):
            return
        for answered in event.answers():
            id_, code = answered.message_id, answered.code
            assert id_ not in self.accepted, f"message {id_} was answered twice"
            self.accepted[id_] = code
            self.happened["answered" if code is None else f"answered with {ErrorCode.name_of(code)}"] += 1
            assert code is not None or answered.worker, f"message {id_} has content, and no worker"
            if code == ErrorCode.MESSAGE_UNAVAILABLE:
                deadline = self.heart.pushed[id_].deadline
                assert deadline is not None, f"message {id_} has no ttl, and expired"
                assert self.loop.time() >= deadline, f"message {id_} expired before its time"

    def _event(self, end: float | None) -> None:
        if self._events > 0:
            self._events -= 1
            self._outside.happens(end)
        else:
            self._calm += 1
            self._outside.calms(end)
            assert self._calm < self._most, f"this never ends: {self._stuck()}"
        for error in self.wrong:
            raise error
        assert not self.loop.unheard, f"nobody heard: {self.loop.unheard!r}"
        self.heart.check_books()
        if self.loop.idle:
            late = [
                e.id for e in self.heart.entries.values() if e.deadline is not None and e.deadline <= self.loop.time()
            ]
            assert not late, f"the ttl of {late} has passed"
        invariants.check_windows(self)

    def _stuck(self) -> str:
        return stall.report(self.heart, self.link.fleet, self.loop.time(), 0.0)

    def say(self, what: str, more: object = "") -> None:
        """This happened outside."""
        self.happened[what] += 1
        self.trace.append(f"{self.loop.time() - 1000:9.1f}  {what} {more}")

    def answer(self, letter: Letter) -> object:
        """What the ServerApp got for it."""
        return self.player.received[letter.number].content

    @property
    def innocent(self) -> set[int]:
        """The nodes whose messages all got content."""
        return {n for n, es in self.heart.of_node.items() if all(self.accepted[e.id] is None for e in es)}


def simulate(choices: Choices, *, steps: int = 6, events: int = 150) -> Simulated:
    """Let ``choices`` make a fleet, a ServerApp, and what happens around them, and let it run.

    Args:
        steps: what the ServerApp does, at most.
        events: what happens before the world calms down, at most.

    Raises:
        AssertionError: what must hold does not; with what happened before, as a note.
    """
    world = Simulated(choices, draw_program(choices, steps), 10 + choices.randrange(events))
    try:
        world.go()
    except Exception as e:
        e.add_note("What happened before:\n" + "\n".join(world.trace[-40:]))
        raise
    return world


def simulate_seed(seed: int) -> Simulated:
    """The simulation of a seed. Raises AssertionError as :func:`simulate`, with the command that replays it."""
    try:
        return simulate(random.Random(seed))
    except Exception as e:
        error = AssertionError(f"seed {seed}: {e}; replay it with: python -m tests.simulation {seed}")
        error.__notes__ = getattr(e, "__notes__", [])
        raise error from e


def fault_free(world: Simulated) -> Simulated:
    """The run of the same program in a calm world, in which no message does harm."""
    calm = Simulated(random.Random(0), world.program.without_faults(), events=0)
    calm.go()
    return calm

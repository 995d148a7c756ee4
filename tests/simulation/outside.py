"""What happens outside of the engine: to the workers, the places and the clocks."""

from collections.abc import Collection
from typing import TYPE_CHECKING

from flsim.errors import Cause, WorkerLost
from flsim.heart import Lease
from flsim.payload import Frames
from flsim.resources import Place, Resources
from flsim.wire import DONE, outcomes_of, unpack_reply

from .choices import one_of
from .cluster import FOREIGN, AtWork, lease_of
from .program import DEADLY, FROZEN, HANGS, TIME_LIMIT
from .watched import CHARGING

if TYPE_CHECKING:
    from .run import Simulated

GIB = 2**30
HOME = {
    name: Place(name, Resources(cpus=2, gpus=2, memory=4 * GIB, custom={"licence": 2}), leases)
    for name, leases in (("a", 2), ("b", 3))
}
"""The places that there are when nothing is wrong; each kind of node fits into each."""

DAY = 86_400.0

DEATHS = sorted(CHARGING, key=lambda cause: cause.value)

EVENTS = ("kill", "leave", "ghost", "hosts", "standstill", "wall", "vanish", "refuse", "unload")
"""Each world knows some of them alone, so that none hides what others would show."""


class Outside:
    """Makes things happen in a world, as its choices tell.

    Args:
        may: which of :data:`EVENTS` this world knows.
    """

    def __init__(self, world: "Simulated", may: Collection[str]) -> None:
        self._world = world
        self._choices = world.choices
        self._pick = world.choices.randrange
        self._loop = world.loop
        self._cluster = world.cluster
        self._ghosts: list[tuple[Lease, Frames | None]] = []
        """Leases that are over, each with what its worker sent back; None: the news of its death."""
        self._untold = False
        """Whether the cluster has changed, and has not said so."""
        self._may = may

    def happens(self, end: float | None) -> None:
        """One event. Who waits does so until ``end``."""
        match self._pick(19):
            case 0 | 1 | 2 | 3:
                self._loop.turn()
            case 4 | 5:
                self.settle()
            case 6 | 7 | 8 | 9:
                self._conclude()
            case 10:
                self._fail()
            case 11:
                self._start()
            case 12 if "ghost" in self._may:
                self._ghost()
            case 13 if "hosts" in self._may and (self._world.player.begun or not self._pick(4)):
                self._move()
            case 14:
                self._pass(one_of(self._choices, (0.125, 0.5, 2.0)), end)
            case 15:
                self._pass_to_timer(end)
            case 16 if "standstill" in self._may and not self._pick(6):
                self._world.say("the clock jumps by a day")
                self._loop.pass_to(self._loop.time() + DAY)
            case 17 if "wall" in self._may:
                self._world.say("the wall clock is set")
                self._world.clocks.wall += one_of(self._choices, (DAY, -DAY, -3600.0))
            case 18 if "refuse" in self._may and not self._pick(200):
                self._world.say("the backend takes no lease any more")
                self._cluster.refuses = True
            case _:
                self._loop.turn()

    def settle(self) -> None:
        """Let the engine do all that it has to do now."""
        for _ in range(1000):
            if self._loop.idle:
                return
            self._loop.turn()
        raise AssertionError("the event loop has always something to do")

    def _pass(self, seconds: float, end: float | None) -> None:
        self._loop.pass_to(min(self._loop.time() + seconds, self._loop.time() + seconds if end is None else end))

    def _pass_to_timer(self, end: float | None) -> None:
        timer = self._loop.next_timer()
        if timer is not None or end is not None:
            self._loop.pass_to(min(t for t in (timer, end) if t is not None))

    def calms(self, end: float | None) -> None:
        """There is room, and whatever is at work comes to its end."""
        missing = [name for name, place in HOME.items() if self._cluster.hosts.get(name) != place]
        able = sorted(self._cluster.at_work, key=lambda w: FROZEN in self._faults(w))
        if not self._loop.idle:
            self._loop.turn()
        elif missing or self._untold:
            self._cluster.hosts.update(HOME)
            self._tell()
        elif able and (FROZEN not in self._faults(able[0]) or able[0].fate):
            if HANGS in self._faults(able[0]) and self._left(able[0]) > 0:
                self._loop.pass_to(self._loop.time() + self._left(able[0]))
            self._conclude(able[0])
        else:
            for work in able:  # which the driver has to end, once they are known to have begun
                if not work.future.running():
                    work.future.set_running_or_notify_cancel()
            self._pass_to_timer(end)

    # ---- workers

    def _faults(self, work: AtWork) -> set[str]:
        lease = lease_of(work, self._world.heart.leases)
        return set() if lease is None else {self._world.player.letter(e.id).fault for e in lease.entries}

    def _left(self, work: AtWork) -> float:
        """Seconds until a lease that hangs reaches its time limit."""
        lease = lease_of(work, self._world.heart.leases)
        return 0.0 if lease is None else lease.pulled + TIME_LIMIT - self._loop.time()

    def _limited(self, work: AtWork) -> bool:
        lease = lease_of(work, self._world.heart.leases)
        return lease is not None and self._world.program.kinds[lease.kind].time_limit is not None

    def _some(self) -> AtWork | None:
        return one_of(self._choices, self._cluster.at_work) if self._cluster.at_work else None

    def _conclude(self, work: AtWork | None = None) -> None:
        """A worker comes to its end with a lease, as the messages in it have it."""
        work = work or self._some()
        if work is None:
            return
        lease, faults = lease_of(work, self._world.heart.leases), self._faults(work)
        if work.fate is not None:
            self._lose(work, work.fate)
        elif DEADLY in faults:
            self._lose(work, one_of(self._choices, DEATHS))
        elif HANGS in faults and FROZEN not in faults:
            if self._left(work) <= 0:
                self._lose(work, Cause.EXITED)
        elif FROZEN not in faults:
            self._world.clocks.step = one_of(self._choices, (1e-5, 1e-3, 0.1, 3.0))
            if lease is not None and "unload" in self._may and not self._pick(600):
                self._world.say("a worker cannot load the app", work.place)
                self._cluster.comes_back(work, self._cluster.cannot_load())
                return
            frames = self._cluster.answer(work)
            if lease is not None:
                self._ghosts.append((lease, frames))
            self._world.say("a lease comes back" if lease else "a place is inspected", work.place)
            self._cluster.comes_back(work, frames)

    def _fail(self) -> None:
        """A worker is lost by no fault of its messages."""
        work = self._some()
        if work is None:
            return
        # A worker that dies by then is taken for one that reached it: from elsewhere that cannot be told apart.
        limited = self._limited(work) and self._left(work) <= 0
        causes = [Cause.NOT_STARTED] if not work.future.running() else []
        if "leave" in self._may:
            causes += [Cause.LEFT, Cause.ABORTED]
        if "kill" in self._may and not limited:
            causes += DEATHS
        if not causes:
            return
        lease = lease_of(work, self._world.heart.leases)
        if lease is not None and not self._faults(work) & {DEADLY, HANGS, FROZEN} and not self._pick(2):
            self._world.happened["a reply is lost"] += 1
            self._ghosts.append((lease, self._cluster.answer(work)))
        self._lose(work, one_of(self._choices, causes))
        if self._limited(work):
            self.settle()  # lest it is heard of by when it might have reached its limit

    def _lose(self, work: AtWork, cause: Cause) -> None:
        lease = lease_of(work, self._world.heart.leases)
        self._world.say("a probe is lost" if lease is None else "a lease is lost", f"{work.place}: {cause.value}")
        if lease is not None:
            self._ghosts.append((lease, None))
        self._cluster.dies(work, cause)

    def _start(self) -> None:
        work = self._some()
        if work is not None and not work.future.running():
            work.future.set_running_or_notify_cancel()

    def _ghost(self) -> None:
        """A reply comes, or the news of a death, of a lease that is over: a cluster may say things twice."""
        if not self._ghosts:
            return
        lease, frames = one_of(self._choices, self._ghosts)
        if self._world.heart.leases.get(lease.id) is lease:  # it was told, and the loop has not heard of it yet
            return
        if frames is None:
            self._world.say("the news of a death comes late", lease.id)
            self._world.link.lost(lease, WorkerLost(Cause.EXITED))
        else:
            self._world.say("a reply comes late, or twice", lease.id)
            answer = unpack_reply(frames)
            if answer.status == DONE:
                self._world.link.returned(lease, answer.worker, outcomes_of(answer, frames.buffers))

    # ---- places

    def _move(self) -> None:
        """Places come, go, and change."""
        hosts = self._cluster.hosts
        match self._pick(7):
            case 0 | 1:
                name = one_of(self._choices, ("a", "b", "c", "d", FOREIGN))
                self._world.say("a place joins, or changes", name)
                resources = Resources(self._pick(5), self._pick(3), self._pick(5) * GIB, {"licence": self._pick(3)})
                hosts[name] = Place(name, resources, self._pick(7))
            case 2 | 3 if hosts:
                name = one_of(self._choices, sorted(hosts))
                self._world.say("a place leaves", name)
                del hosts[name]
                self._orphans({name})
            case 4 if "vanish" in self._may:
                self._world.say("all places are gone")
                gone = set(hosts)
                hosts.clear()
                self._orphans(gone)
            case _:
                hosts.update(HOME)
        self._untold = True
        if self._pick(3):
            self._tell()

    def _orphans(self, gone: set[str]) -> None:
        """What was at work there is lost, at once or later."""
        for work in [w for w in self._cluster.at_work if w.place in gone]:
            if self._pick(2):
                self._lose(work, Cause.LEFT)
            else:
                work.fate = work.fate or Cause.LEFT

    def _tell(self) -> None:
        self._untold = False
        self._cluster.changed()

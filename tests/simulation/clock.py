"""Virtual time: an event loop that never waits, and the clocks that the engine reads."""

import asyncio
from typing import Any


class VirtualLoop(asyncio.BaseEventLoop):
    """An event loop whose time passes when it is told to, and which is turned by hand.

    Times are to be multiples of a power of two: where sums of them are rounded, a timer is due a moment before what it
    is for, again and again, since no time passes in between.
    """

    def __init__(self) -> None:
        super().__init__()
        self._selector = self  # what _run_once asks for events
        self._now = 1000.0
        self.unheard: list[BaseException] = []
        """What callbacks and tasks raised that nobody took."""
        self.set_exception_handler(self._keep)

    def time(self) -> float:
        return self._now

    def pass_to(self, when: float) -> None:
        """It is ``when`` now. What is due runs at the next turn."""
        self._now = max(self._now, when)

    def turn(self) -> None:
        """Run once what is ready, and the timers that are due."""
        self.call_soon(self.stop)
        self.run_forever()

    @property
    def idle(self) -> bool:
        """Whether nothing is to be done before time passes."""
        timer = self.next_timer()
        return not self._ready and (timer is None or timer > self._now)  # type: ignore[attr-defined]

    def next_timer(self) -> float | None:
        """When the next timer is due."""
        due = [t.when() for t in self._scheduled if not t.cancelled()]  # type: ignore[attr-defined]
        return min(due, default=None)

    def select(self, timeout: float | None) -> list[Any]:
        assert timeout == 0, "the loop is turned by hand, and has nothing to wait for"
        return []

    def _process_events(self, events: list[Any]) -> None: ...

    def _write_to_self(self) -> None: ...

    def _keep(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.unheard.append(context.get("exception") or RuntimeError(context["message"]))


class Clocks:
    """Stands for the module ``time`` in the engine."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop
        self.wall = 1.7e9
        self.step = 0.0
        """Seconds that a worker's clock moves on each time that it is read."""
        self._worked = 0.0

    def monotonic(self) -> float:
        return self._loop.time()

    def time(self) -> float:
        return self.wall

    def perf_counter(self) -> float:
        self._worked += self.step
        return self._worked

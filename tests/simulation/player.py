"""The ServerApp of a simulation: it does what its program says."""

from collections.abc import Generator
from typing import TYPE_CHECKING

import numpy as np

from flsim import ConfigRecord, Context, Grid, Message

from .client import UNREADABLE, Garbled
from .program import Letter, Program, Step

if TYPE_CHECKING:
    from .run import Simulated

MODEL = 4096
"""Bytes from which on what is carried is shared."""


class Player:
    """The ServerApp of a program. It keeps what it was answered."""

    def __init__(self, program: Program, simulated: "Simulated") -> None:
        self._program = program
        self._simulated = simulated
        self.sent: list[tuple[Letter, Message]] = []
        self.received: dict[int, Message] = {}
        """By the number of the letter."""
        self._pushed: list[str] = []
        self._streams: list[Generator[Message]] = []
        self.cancelled: set[str] = set()
        self.begun = False
        self._known: dict[int, Letter] = {}

    def letter(self, id_: int) -> Letter:
        """The one that was pushed with this id."""
        if id_ not in self._known:
            self._known = {int(i): letter for letter, m in self.sent if (i := m.metadata.message_id)}
        return self._known[id_]

    def __call__(self, grid: Grid, context: Context) -> None:
        self.begun = True
        for step in self._program.steps:
            self._do(grid, step)
        if self._program.waits:
            for stream in self._streams:
                for reply in stream:
                    self._take(reply)
            while replies := grid.pull_messages(timeout=None):
                for reply in replies:
                    self._take(reply)
            self._simulated.rest()
        for stream in self._streams:
            stream.close()
        context.state["replies"] = ConfigRecord(
            {
                str(n): repr(r.content) if r.has_content() else str(r.error.code)
                for n, r in sorted(self.received.items())
            }
        )

    def _do(self, grid: Grid, step: Step) -> None:
        match step.what:
            case "send":
                messages = self._messages(step.letters)
                replies = grid.send_and_receive(messages, timeout=step.timeout)
                asked = [m.metadata.message_id for m in messages]
                assert [r.metadata.reply_to_message_id for r in replies] == asked, "the replies are in another order"
                for reply in replies:
                    self._take(reply)
            case "push":
                self._pushed += grid.push_messages(self._messages(step.letters))
            case "pull":
                for reply in grid.pull_messages(timeout=step.timeout):
                    self._take(reply)
            case "pull ids":
                self._pull(grid, [*self._pushed[-step.count :], "987"], step.timeout)
            case "stream":
                messages = self._messages(step.letters)
                self._streams.append(self._stream(grid, messages, step))
                self._next(self._streams[-1], step.count)
            case "next" if self._streams:
                self._next(self._streams[0], step.count)
            case "cancel" if self._pushed:
                id_ = self._pushed[step.count % len(self._pushed)]
                self.cancelled.add(id_)
                grid.cancel([id_])
            case "think":
                self._simulated.live(lambda: False, step.timeout)

    def _stream(self, grid: Grid, messages: list[Message], step: Step) -> Generator[Message]:
        asked = iter(messages)
        for reply in grid.stream(messages, timeout=step.timeout, ordered=step.ordered):
            if step.ordered:
                expected = next(asked).metadata.message_id
                assert reply.metadata.reply_to_message_id == expected, "an ordered stream is in another order"
            yield reply

    def _next(self, stream: Generator[Message], count: int) -> None:
        for _ in range(count):
            reply = next(stream, None)
            if reply is None:
                self._streams.remove(stream)
                return
            self._take(reply)

    def _pull(self, grid: Grid, ids: list[str], timeout: float | None) -> None:
        for reply in grid.pull_messages(ids, timeout=timeout):
            about = reply.metadata.reply_to_message_id
            if about == "987" or self.letter(int(about)).number in self.received:
                assert reply.error.code == 3, "a reply that is not to be had was given"
            else:
                self._take(reply)

    def _messages(self, letters: tuple[Letter, ...]) -> list[Message]:
        model = np.ones(MODEL, np.uint8)
        made = []
        for m in letters:
            content = Garbled() if m.fault == UNREADABLE else (m.number, m.fault, model if m.model else None)
            made.append((m, Message(content, m.node, m.type, ttl=m.ttl)))
        self.sent += made
        return [message for _, message in made]

    def _take(self, reply: Message) -> None:
        letter = self.letter(int(reply.metadata.reply_to_message_id))
        assert letter.number not in self.received, f"message {letter.number} was answered twice"
        assert reply.metadata.src_node_id == letter.node, "a reply comes from another node"
        self.received[letter.number] = reply

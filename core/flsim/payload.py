"""Bytes on their way: the Frames in which a lease travels, and what many messages carry, shared once.

What is large lies outside of the pickles (:mod:`flsim.pickling`). It is copied once, where a message is pushed or a
reply is kept, and read in place from there on.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from flsim.pickling import Buffer, decode, encode


class Shared(ABC):
    """Buffers that :meth:`~flsim.backend.Backend.share` has put where every worker reaches them.

    What it holds is the backend's. In the Frames of a lease it stands for its buffers, in their order.
    """

    @abstractmethod
    def buffers(self) -> Sequence[Buffer]:
        """What it holds, in order and read-only, for the driver itself. Called seldom, from any thread, while it is not
        closed; it may take its time."""

    @abstractmethod
    def close(self) -> None:
        """Nothing needs it any more. Called once, from any thread, and has to be quick."""


@dataclass(slots=True)
class Frames:
    """What passes between the engine and a worker: a short header, and the buffers beside it.

    A backend carries both, in order, and looks into neither. Who joins them into one ``bytes`` has copied the model.
    A :class:`Shared` among the buffers of a lease is one that the backend's ``share`` has returned: it never goes into
    a pickle of the header, and its buffers are put in its place where ``run_lease`` is called.
    """

    header: bytes
    buffers: list[Any]
    """Each a Buffer, or a Shared."""
    outgrown: bool = False
    """Of a reply: the worker has grown, and is to be replaced before its next lease."""


class Carried:
    """Buffers that are shared, and how many messages and leases need them still."""

    __slots__ = ("__weakref__", "count", "shared", "users")

    def __init__(self, shared: Shared, count: int) -> None:
        self.shared = shared
        self.count = count
        """How many buffers they are."""
        self.users = 0


class Piece(NamedTuple):
    """A buffer that is shared."""

    carried: Carried
    at: int
    """The how-manieth of those it was shared with."""
    nbytes: int


class Blob(NamedTuple):
    """Encoded content: a pickle, and what lies beside it in order."""

    pickled: bytes
    buffers: tuple[Buffer | Piece, ...]
    carried: tuple[Carried, ...] = ()
    """Where its pieces are, each once."""
    gone: int = 0
    """Bytes that it held before it was emptied."""

    @property
    def nbytes(self) -> int:
        """The size of all of it."""
        if not self.buffers:
            return len(self.pickled) + self.gone
        return len(self.pickled) + sum(b.nbytes if isinstance(b, (Piece, memoryview)) else len(b) for b in self.buffers)

    def emptied(self) -> Blob:
        """What is left of it for who asks for its size alone."""
        return Blob(b"", (), (), self.nbytes)

    @property
    def unshared(self) -> list[Buffer]:
        """Its buffers, of a Blob that has come from a worker, or was not shared."""
        return [b for b in self.buffers if not isinstance(b, Piece)]

    def decoded(self) -> Any:
        """The content, of such a Blob. Raises whatever unpickling raises."""
        return decode(self.pickled, self.unshared)

    def own(self) -> Blob:
        """The same, of such a Blob, in memory of its own: a view would hold all that came with it."""
        return Blob(self.pickled, tuple([copied(memoryview(b)) for b in self.unshared])) if self.buffers else self


def blob_of(content: Any) -> Blob:
    """One content, encoded and copied. Raises whatever its pickling raises."""
    encoder = Encoder()
    encoder.add(content)
    return encoder.finish()[0]


EMPTY = Blob(b"", ())
"""A node state that holds nothing."""


def copied(raw: memoryview) -> bytes:
    """What is in ``raw`` now. ``bytes`` do not change, so they are not copied, nor is an array that lies over them."""
    owner: Any = raw.obj
    numpy = sys.modules.get("numpy")  # without which there is no array
    while numpy is not None and isinstance(owner, numpy.ndarray):
        owner = owner.base
    if type(owner) is bytes and len(owner) == raw.nbytes:
        return owner
    return bytes(raw)


def copies(raws: Sequence[memoryview], last: bool) -> list[Buffer]:
    """What is in ``raws`` now: the plainest :data:`Keep`."""
    return [copied(raw) for raw in raws]


def copies_but_last(raws: Sequence[memoryview], last: bool) -> list[Buffer]:
    """As :func:`copies`, for who sends the replies before the worker has another lease: those of the last message are
    not copied."""
    return list(raws) if last else copies(raws, last)


Keep = Callable[[Sequence[memoryview], bool], Sequence[Any]]
"""How a worker keeps what is large in the replies of a lease until they are sent. It is called for each message with
the memory of its content, and of its node's state, which are the ClientApp's and may change as soon as the next message
runs; the ``bool`` says that there is none, so that who sends at once need not copy. It returns as many buffers, or
whatever stands for them in the Frames that the backend takes back."""

Share = Callable[[Sequence[memoryview], int], "Shared | None"]
"""What :meth:`flsim.backend.Backend.share` is."""


@dataclass(slots=True)
class _Draft:
    pickled: bytes
    raws: list[int]
    messages: int = 1


@dataclass(slots=True)
class _Raw:
    memory: memoryview
    drafts: list[int] = field(default_factory=list)
    """Which carry it, each once, in order."""


class Encoder:
    """Encodes the contents of one push: what several of them carry, by identity, is encoded once.

    Nothing is copied before :meth:`finish`, so use one only while nothing changes what it encodes.
    """

    def __init__(self) -> None:
        self._messages: list[int] = []
        """Which draft each carries."""
        self._drafts: list[_Draft] = []
        self._draft_of: dict[int, tuple[Any, int]] = {}
        self._raws: list[_Raw] = []
        self._raw_at: dict[tuple[int, int], int] = {}

    def add(self, content: Any) -> None:
        """Take the content of the next message. Raises whatever its pickling raises."""
        known = self._draft_of.get(id(content))
        if known is not None:
            self._drafts[known[1]].messages += 1
            self._messages.append(known[1])
            return
        pickled, raws = encode(content)
        number = len(self._drafts)
        self._drafts.append(_Draft(pickled, [self._place(raw, number) for raw in raws] if raws else []))
        self._draft_of[id(content)] = content, number  # holding the content keeps its id its own
        self._messages.append(number)

    def finish(self, share: Share | None = None) -> list[Blob]:
        """The contents, encoded, in their order: shared, where ``share`` takes them, else copied.

        Raises what ``share`` raises; nothing stays shared then.
        """
        placed: dict[int, Buffer | Piece] = {}
        together: dict[tuple[int, ...], list[int]] = {}
        for number, raw in enumerate(self._raws):
            together.setdefault(tuple(raw.drafts), []).append(number)
        made: list[Carried] = []
        try:
            for drafts, numbers in together.items():
                memories = [self._raws[n].memory for n in numbers]
                shared = share and share(memories, sum(self._drafts[d].messages for d in drafts))
                if shared:
                    made.append(Carried(shared, len(numbers)))
                    for at, number in enumerate(numbers):
                        placed[number] = Piece(made[-1], at, memories[at].nbytes)
                else:
                    for number, memory in zip(numbers, memories, strict=True):
                        placed[number] = copied(memory)
        except BaseException:
            for carried in made:
                carried.shared.close()
            raise
        blobs = [_blob(d.pickled, [placed[r] for r in d.raws]) for d in self._drafts]
        return [blobs[d] for d in self._messages]

    def _place(self, raw: memoryview, draft: int) -> int:
        key = (_address(raw), raw.nbytes)
        number = self._raw_at.get(key)
        if number is None:
            number = self._raw_at[key] = len(self._raws)
            self._raws.append(_Raw(raw))  # holding the memory keeps its address its own
        drafts = self._raws[number].drafts
        if not drafts or drafts[-1] != draft:
            drafts.append(draft)
        return number


def _blob(pickled: bytes, buffers: Iterable[Buffer | Piece]) -> Blob:
    buffers = tuple(buffers)
    carried = {id(b.carried): b.carried for b in buffers if isinstance(b, Piece)}
    return Blob(pickled, buffers, tuple(carried.values()))


def _address(raw: memoryview) -> int:
    import numpy as np

    return int(np.frombuffer(raw, np.uint8).__array_interface__["data"][0])

"""What passes between the driver and a worker: the Frames of a lease, and those that come back.

A lease's header holds its messages, and the contents that they carry, each once. A worker knows the job by its
digest; one that does not asks for it, and gets the lease again with the job as its last buffer.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from typing import Any, NamedTuple

from flsim.envelope import Generators
from flsim.errors import AppLoadError, BackendBroken
from flsim.job import Host, worker_name
from flsim.message import Error
from flsim.payload import EMPTY, Blob, Carried, Frames, Piece
from flsim.pickling import Buffer

LEASE, PROBE = "lease", "probe"
"""What Frames ask of a worker."""

DONE, HOST, JOB_WANTED, NOT_LOADED, NOT_READ = "done", "host", "job wanted", "not loaded", "not read"
"""What a worker says of what it was asked."""

Part = tuple[bytes, tuple[int, ...]]
"""A Blob on its way: its pickle, and where its buffers are among those of the Frames."""


class Packed(NamedTuple):
    """A message on its way to a worker."""

    message_id: int
    node: int
    k: int
    """The how-manieth message of its node."""
    message_type: str
    group_id: str
    created_at: float
    ttl: float | None
    content: Blob
    state: Blob | None
    """The node's state; None: it has none yet."""


class Outcome(NamedTuple):
    """What became of one message in its worker: content, or an error."""

    message_id: int
    error: Error | None
    reply: Blob
    """The encoded content; empty where there is an error."""
    state: Blob | None
    """The node's state after the call, None where it is as it was."""
    group_id: str
    created_at: float
    decode: float
    """Seconds, by the worker's clock, as are the next two."""
    execute: float
    encode: float
    printed: str
    peak_memory: int
    """Bytes that its process has held in memory at most by the end of its lease, shared memory included."""


class Terms(NamedTuple):
    """What a lease says beside its messages."""

    lease: int
    """Its number."""
    folder: str
    """Where the worker keeps its black box; empty where it has no process of its own."""
    digest: bytes
    """Of the job."""
    kind: int
    generators: Generators


def pack_lease(messages: Sequence[Packed], terms: Terms) -> Frames:
    """The Frames of a lease of these messages: each content, and what lies beside it, once."""
    buffers: list[Any] = []
    count = 0
    contents: list[Part] = []
    content_at: dict[int, int] = {}
    buffer_at: dict[int, int] = {}

    def place(blob: Blob) -> int:
        known = content_at.get(id(blob))
        if known is not None:
            return known
        contents.append((blob.pickled, tuple([where(b) for b in blob.buffers]) if blob.buffers else ()))
        content_at[id(blob)] = len(contents) - 1
        return len(contents) - 1

    def where(buffer: Buffer | Piece) -> int:
        nonlocal count
        of: Buffer | Carried = buffer.carried if isinstance(buffer, Piece) else buffer
        at = buffer_at.get(id(of))
        if at is None:
            at = buffer_at[id(of)] = count
            buffers.append(of.shared if isinstance(of, Carried) else of)
            count += of.count if isinstance(of, Carried) else 1
        return at + buffer.at if isinstance(buffer, Piece) else at

    packed = [(*m[:7], place(m.content), -1 if m.state is None else place(m.state)) for m in messages]
    header = (LEASE, (*terms[:-1], int(terms.generators)), count, contents, packed)
    return Frames(pickle.dumps(header, protocol=5), buffers)


def with_job(frames: Frames, job: Buffer) -> Frames:
    """The Frames of a lease, with the job for a worker that does not have it."""
    return Frames(frames.header, [*frames.buffers, job])


def pack_probe(requirements: Sequence[str]) -> Frames:
    """Frames that ask a worker what its host has installed."""
    return Frames(pickle.dumps((PROBE, tuple(requirements)), protocol=5), [])


class Reply(NamedTuple):
    """What a worker says: its Frames' header."""

    status: str
    worker: str
    """``host:pid``."""
    boxed: bool
    """Whether it keeps its black box where the driver reads it."""
    outgrown: str
    """Why it is to be replaced, where it is."""
    peak_memory: int
    """Bytes that its process has held in memory at most."""
    what: Any

    def encoded(self, buffers: list[Buffer]) -> Frames:
        """As it is sent."""
        return Frames(pickle.dumps(tuple(self), protocol=5), buffers, bool(self.outgrown))


def reply(status: str, what: Any, *, boxed: bool = False) -> Frames:
    """What a worker sends back when it has not run a lease."""
    return Reply(status, worker_name(), boxed, "", 0, what).encoded([])


def unpack_reply(frames: Frames) -> Reply:
    """What a worker says."""
    return Reply(*pickle.loads(frames.header))


def unpack_host(frames: Frames) -> Host:
    """What a probe found. Raises BackendBroken where the worker could not tell."""
    reply = unpack_reply(frames)
    if reply.status != HOST:
        raise BackendBroken(f"worker {reply.worker} cannot say what it has installed:\n{reply.what}")
    return Host(**reply.what)


def outcomes_of(reply: Reply, buffers: Sequence[Buffer]) -> list[Outcome]:
    """The outcomes of a lease, in its order.

    Raises:
        AppLoadError: the worker could not load the app.
        BackendBroken: the worker could not read the lease.
    """
    if reply.status == NOT_LOADED:
        raise AppLoadError(f"the app cannot be loaded in worker {reply.worker}:\n{reply.what}")
    if reply.status != DONE:
        raise BackendBroken(f"worker {reply.worker} cannot read what it is sent ({reply.status}):\n{reply.what}")
    made = []
    for id_, error, content, state, *rest in reply.what:
        made.append(
            Outcome._make(
                (
                    id_,
                    None if error is None else Error(*error),
                    EMPTY if content is None else _blob(content, buffers),
                    None if state is None else _blob(state, buffers),
                    *rest,
                    reply.peak_memory,
                )
            )
        )
    return made


def _blob(part: Part, buffers: Sequence[Buffer]) -> Blob:
    pickled, wheres = part
    return Blob(pickled, tuple([buffers[i] for i in wheres]) if wheres else ())

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
from flsim.payload import EMPTY, Blob, Buffer, Frames

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


def pack_lease(messages: Sequence[Packed], digest: bytes, kind: int, generators: Generators) -> Frames:
    """The Frames of a lease of these messages: each content, and each buffer in it, once."""
    buffers: list[Buffer] = []
    contents: list[Part] = []
    content_at: dict[int, int] = {}
    buffer_at: dict[int, int] = {}

    def place(blob: Blob) -> int:
        known = content_at.get(id(blob))
        if known is not None:
            return known
        wheres = []
        for buffer in blob.buffers:
            where = buffer_at.get(id(buffer))
            if where is None:
                where = buffer_at[id(buffer)] = len(buffers)
                buffers.append(buffer)
            wheres.append(where)
        contents.append((blob.pickled, tuple(wheres)))
        content_at[id(blob)] = len(contents) - 1
        return len(contents) - 1

    packed = [(*m[:7], place(m.content), -1 if m.state is None else place(m.state)) for m in messages]
    header = (LEASE, digest, len(buffers), kind, int(generators), contents, packed)
    return Frames(pickle.dumps(header, protocol=5), buffers)


def with_job(frames: Frames, job: Buffer) -> Frames:
    """The Frames of a lease, with the job for a worker that does not have it."""
    return Frames(frames.header, [*frames.buffers, job])


def pack_probe(requirements: Sequence[str]) -> Frames:
    """Frames that ask a worker what its host has installed."""
    return Frames(pickle.dumps((PROBE, tuple(requirements)), protocol=5), [])


def reply(status: str, what: Any, buffers: list[Buffer] | None = None) -> Frames:
    """What a worker sends back."""
    return Frames(pickle.dumps((status, worker_name(), what), protocol=5), buffers or [])


def wants_job(frames: Frames) -> bool:
    """Whether the worker asks for the job."""
    return bool(pickle.loads(frames.header)[0] == JOB_WANTED)


def unpack_host(frames: Frames) -> Host:
    """What a probe found. Raises BackendBroken where the worker could not tell."""
    status, worker, host = pickle.loads(frames.header)
    if status != HOST:
        raise BackendBroken(f"worker {worker} cannot say what it has installed:\n{host}")
    return Host(**host)


def unpack_lease(frames: Frames) -> tuple[str, list[Outcome]]:
    """The worker's name and the outcomes of a lease, in its order.

    Raises:
        AppLoadError: the worker could not load the app.
        BackendBroken: the worker could not read the lease.
    """
    status, worker, outcomes = pickle.loads(frames.header)
    if status == NOT_LOADED:
        raise AppLoadError(f"the app cannot be loaded in worker {worker}:\n{outcomes}")
    if status != DONE:
        raise BackendBroken(f"worker {worker} cannot read what it is sent ({status}):\n{outcomes}")
    buffers = frames.buffers
    made = []
    for id_, error, content, state, *rest in outcomes:
        made.append(
            Outcome(
                id_,
                None if error is None else Error(*error),
                EMPTY if content is None else _blob(content, buffers),
                None if state is None else _blob(state, buffers),
                *rest,
            )
        )
    return worker, made


def _blob(part: Part, buffers: list[Buffer]) -> Blob:
    pickled, wheres = part
    return Blob(pickled, tuple([buffers[i] for i in wheres]) if wheres else ())

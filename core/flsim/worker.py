"""The worker loop in the driver, ``run_lease`` in the worker, and what passes between the two.

A lease travels as Frames. Its first buffer is the Job: the apps and what is the same for all messages. The
header holds the lease's messages, and the contents that they carry, each once.
"""

from __future__ import annotations

import bdb
import hashlib
import inspect
import os
import pickle
import socket
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from flsim.apps import Context, Scalar
from flsim.envelope import around_lease, describe, seed_globals, traceback_of
from flsim.errors import AppLoadError, BackendBroken, WorkerLost
from flsim.fleet import FIRST_NODE_ID
from flsim.message import SERVER_NODE_ID, Error, ErrorCode, Message, Metadata
from flsim.payload import EMPTY, Blob, Buffer, Frames, decode, encode, unencodable
from flsim.project import Reference, import_reference
from flsim.records import RecordDict

if TYPE_CHECKING:
    from flsim.backend import Backend
    from flsim.heart import Lease
    from flsim.linkstate import LinkState


# ---- in the driver


async def worker_loop(link: LinkState, backend: Backend, job: bytes, kind: int, *, own_process: bool) -> None:
    """Pull, have it run where the worker is, return; until the run is over. One loop per slot.

    Whatever ends the run from here is handed to the LinkState, whose waiters raise it.

    Args:
        own_process: whether a lease has its process for itself while it runs. Otherwise the global random
            generators are left alone, since others use them at the same time.
    """
    need = link.heart.needs[kind]
    while (lease := await link.pull(kind)) is not None:
        try:
            future = backend.submit(pack(lease, link, job, own_process), need, lease.place)
            result = unpack(await _wait(future, link))
        except WorkerLost as e:
            link.lost(lease, e)
        except (BackendBroken, AppLoadError, bdb.BdbQuit) as e:
            link.fail(e)
        except Exception as e:
            error = BackendBroken(f"the backend failed with {describe(e)}")
            error.__cause__ = e
            link.fail(error)
        else:
            link.returned(lease, *result)


async def _wait(future: Future[Frames], link: LinkState) -> Frames:
    """The future's result, with one hop from the backend's thread to the engine's."""
    done = link.loop.create_future()

    def arrived() -> None:
        if not done.done():
            done.set_result(None)

    def from_their_thread(_: Future[Frames]) -> None:
        link.call_soon(arrived)

    future.add_done_callback(from_their_thread)
    await done
    return future.result()


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


def pack(lease: Lease, link: LinkState, job: bytes, own_process: bool) -> Frames:
    """The Frames of a lease."""
    messages = []
    for entry in lease.entries:
        pushed = entry.payload
        messages.append((
            entry.id, entry.node, pushed.k, entry.type, pushed.group_id, pushed.created_at, pushed.ttl,
            pushed.blob, link.states.get(entry.node),
        ))  # fmt: skip
    return pack_messages(messages, job, lease.kind, own_process)


Packed = tuple[int, int, int, str, str, float, float | None, Blob, Blob | None]
"""A message on its way: id, node, the how-manieth of its node, type, group, created_at, ttl, content, node state."""


def pack_messages(messages: Sequence[Packed], job: bytes, kind: int, own_process: bool) -> Frames:
    """The Frames of a lease of these messages: each content, and each buffer in it, once."""
    buffers: list[Buffer] = [job]
    contents: list[tuple[bytes, tuple[int, ...]]] = []
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

    packed = [(*m[:7], place(m[7]), -1 if m[8] is None else place(m[8])) for m in messages]
    header = (job_digest(job), kind, own_process, contents, packed)
    return Frames(pickle.dumps(header, protocol=5), buffers)


def unpack(frames: Frames) -> tuple[str, list[Outcome]]:
    """The worker's name and the outcomes of a lease, in its order.

    Raises:
        AppLoadError: the worker could not load the app.
        BackendBroken: the worker could not read the lease.
    """
    status, worker, outcomes = pickle.loads(frames.header)
    if status == _NOT_LOADED:
        raise AppLoadError(f"the app cannot be loaded in worker {worker}:\n{outcomes}")
    if status == _NOT_READ:
        raise BackendBroken(f"worker {worker} cannot read what it is sent:\n{outcomes}")
    buffers = frames.buffers
    made = []
    for id_, error, reply, state, *rest in outcomes:
        made.append(
            Outcome(
                id_,
                None if error is None else Error(*error),
                EMPTY if reply is None else _blob(reply, buffers),
                None if state is None else _blob(state, buffers),
                *rest,
            )
        )
    return worker, made


def _blob(part: tuple[bytes, tuple[int, ...]], buffers: list[Buffer]) -> Blob:
    pickled, wheres = part
    return Blob(pickled, tuple([buffers[i] for i in wheres]) if wheres else ())


# ---- in the worker


@dataclass(frozen=True, slots=True)
class JobKind:
    """What all messages to one kind of node share."""

    client: Any
    """Once it is loaded: a ClientApp, or where ``makes`` is set, something that makes one of a Context."""
    config: Mapping[str, Scalar]
    threads: int
    makes: bool = False


@dataclass(frozen=True, slots=True)
class Job:
    """What all messages of a run share."""

    run_id: int
    seed: int
    nodes: int
    run_config: Mapping[str, Scalar]
    kinds: tuple[JobKind, ...]

    def encoded(self) -> bytes:
        """The bytes that :func:`prepare` takes. Raises whatever pickling the ClientApps raises."""
        import cloudpickle

        return bytes(cloudpickle.dumps(self, protocol=5))


_NOT_LOADED, _NOT_READ, _DONE = "not loaded", "not read", "done"

# A worker process keeps the jobs that it met last, by the digest of their bytes: nothing else can be in their place.
_jobs: OrderedDict[bytes, Job] = OrderedDict()
_JOBS_KEPT = 4


@lru_cache(maxsize=_JOBS_KEPT)
def job_digest(job: bytes) -> bytes:
    """What a worker knows a job by."""
    return hashlib.sha256(job).digest()


def prepare(job: Buffer, digest: bytes | None = None) -> Job:
    """Load the apps of a job, once per process. Raises AppLoadError with the traceback."""
    digest = digest or job_digest(bytes(job))
    known = _jobs.get(digest)
    if known is not None:
        return known
    try:
        made: Job = pickle.loads(job)
        kinds = tuple(_loaded(k) for k in made.kinds)
    except AppLoadError:
        raise
    except BaseException as e:  # an import runs the app's code, which may raise anything
        raise AppLoadError(traceback_of(e)) from e
    loaded = Job(made.run_id, made.seed, made.nodes, MappingProxyType(dict(made.run_config)), kinds)
    _jobs[digest] = loaded
    while len(_jobs) > _JOBS_KEPT:
        _jobs.popitem(last=False)
    return loaded


def _loaded(kind: JobKind) -> JobKind:
    client = import_reference(kind.client) if isinstance(kind.client, Reference) else kind.client
    return JobKind(client, kind.config, kind.threads, inspect.isroutine(client) or inspect.isclass(client))


def run_lease(frames: Frames) -> Frames:
    """Answer each message of a lease. Runs in a worker; whatever goes wrong comes back in the Frames.

    One exception passes: a ``quit`` at a breakpoint (``bdb.BdbQuit``), which ends the run.
    """
    buffers = frames.buffers
    try:
        digest, kind, own_process, contents, messages = pickle.loads(frames.header)
        job = prepare(buffers[0], digest)
    except bdb.BdbQuit:
        raise
    except AppLoadError as e:
        return _reply(_NOT_LOADED, str(e), [])
    except BaseException as e:
        return _reply(_NOT_READ, traceback_of(e), [])
    out: list[Buffer] = []
    outcomes = []
    with around_lease(job.kinds[kind].threads, keep_globals=own_process) as printed:
        for message in messages:
            outcome = _answer(job, job.kinds[kind], own_process, message, contents, buffers, out)
            outcomes.append((*outcome, printed()))
    return _reply(_DONE, outcomes, out)


def worker_name() -> str:
    """How this process is called in what users see: ``host:pid``."""
    return f"{socket.gethostname()}:{os.getpid()}"


def _reply(status: str, what: Any, buffers: list[Buffer]) -> Frames:
    return Frames(pickle.dumps((status, worker_name(), what), protocol=5), buffers)


def _answer(
    job: Job,
    kind: JobKind,
    seed: bool,
    packed: tuple[int, int, int, str, str, float, float | None, int, int],
    contents: list[tuple[bytes, tuple[int, ...]]],
    buffers: list[Buffer],
    out: list[Buffer],
) -> tuple[Any, ...]:
    """One message: decoded, executed, encoded. The order of the result is Outcome's, less ``printed``."""
    id_, node, k, type_, group_id, created_at, ttl, content_at, state_at = packed
    clock = time.perf_counter
    begun = clock()

    def failed(code: int, reason: str, traceback: str = "") -> tuple[Any, ...]:
        error = (int(code), reason, traceback)
        return id_, error, None, None, group_id, time.time(), decoded - begun, executed - decoded, 0.0

    decoded = executed = begun
    try:
        content = _decoded(contents[content_at], buffers)
        before = None if state_at < 0 else contents[state_at]
        state = RecordDict() if before is None else _decoded(before, buffers)
    except BaseException as e:
        return failed(ErrorCode.MESSAGE_UNDECODABLE, f"in worker {worker_name()}: {describe(e)}", traceback_of(e))
    decoded = executed = clock()

    metadata = Metadata(job.run_id, str(id_), SERVER_NODE_ID, node, type_, group_id, created_at, ttl, "")
    message = Message.restore(metadata, content)
    node_config = {"partition-id": node - FIRST_NODE_ID, "num-partitions": job.nodes, **kind.config}
    context = Context(job.run_id, node, node_config, job.run_config, state, (job.seed, (node, k)))
    try:
        if seed:
            seed_globals(job.seed, (node, k))
        app = _made(kind.client, context) if kind.makes else kind.client
        reply = app(message, context)
    except bdb.BdbQuit:
        raise
    except BaseException as e:
        executed = clock()
        return failed(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, describe(e), traceback_of(e))
    executed = clock()

    if not isinstance(reply, Message):
        return failed(ErrorCode.REPLY_INVALID, f"the ClientApp returned {type(reply).__name__}, not a Message")
    about = reply.metadata
    if about.reply_to_message_id != metadata.message_id:
        return failed(
            ErrorCode.REPLY_INVALID,
            "the ClientApp returned a Message that is no reply to the one it got; write Message(content, reply_to=msg)",
        )
    if reply.has_error():
        error = reply.error
        return failed(error.code, error.reason, error.traceback)
    first = len(out)
    try:
        what: Any = reply.content
        part = _encoded(what, out)
        what = context.state
        if type(what) is not RecordDict:
            raise TypeError(f"context.state is a RecordDict, not {type(what).__name__}")
        after = _encoded(what, out) if what or before is not None else None
        if after is not None and before is not None and _same(before, buffers, after, out):
            after = None
    except BaseException as e:
        del out[first:]
        return failed(ErrorCode.REPLY_UNENCODABLE, unencodable(what, e), traceback_of(e))
    return (
        id_, None, part, after, about.group_id, about.created_at,
        decoded - begun, executed - decoded, clock() - executed,
    )  # fmt: skip


def _made(client: Any, context: Context) -> Any:
    app = client(context)
    if not callable(app):
        raise TypeError(f"{client.__qualname__} made a {type(app).__name__}, which is no ClientApp")
    return app


def _decoded(part: tuple[bytes, tuple[int, ...]], buffers: list[Buffer]) -> Any:
    pickled, wheres = part
    return decode(pickled, [buffers[i] for i in wheres])


def _encoded(content: Any, out: list[Buffer]) -> tuple[bytes, tuple[int, ...]]:
    pickled, made = encode(content)
    if not made:
        return pickled, ()
    out.extend(made)
    return pickled, tuple(range(len(out) - len(made), len(out)))


def _same(
    before: tuple[bytes, tuple[int, ...]],
    buffers: list[Buffer],
    after: tuple[bytes, tuple[int, ...]],
    out: list[Buffer],
) -> bool:
    return (
        before[0] == after[0]
        and len(before[1]) == len(after[1])
        and all(buffers[i] == out[j] for i, j in zip(before[1], after[1], strict=True))
    )

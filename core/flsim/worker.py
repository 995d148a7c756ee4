"""The worker loop in the driver, and ``run_lease`` in the worker: pull, instantiate, return."""

from __future__ import annotations

import asyncio
import bdb
import contextlib
import pickle
import resource
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from flsim import guard, open_files
from flsim.allocator import keep_freed_memory
from flsim.apps import Context
from flsim.blackbox import BlackBox, BlackBoxes, black_box, mebibytes
from flsim.breakpoints import refused_in_workers
from flsim.envelope import (
    TEXT_LIMIT,
    TRACEBACK_LIMIT,
    Generators,
    around_lease,
    clean,
    describe,
    seed_globals,
    traceback_of,
)
from flsim.errors import AppLoadError, BackendBroken, NoRoom, WorkerLost
from flsim.fleet import FIRST_NODE_ID
from flsim.job import Job, JobKind, inspect_host, known_job, prepare, worker_name
from flsim.message import SERVER_NODE_ID, Error, ErrorCode, Message, Metadata
from flsim.payload import Frames, Keep, copies
from flsim.pickling import Buffer, decode, encode, unencodable
from flsim.records import RecordDict
from flsim.resources import Place, Resources
from flsim.wire import (
    DONE,
    HOST,
    JOB_WANTED,
    NOT_LOADED,
    NOT_READ,
    PROBE,
    Part,
    Reply,
    Terms,
    outcomes_of,
    pack_lease,
    reply,
    unpack_reply,
    with_job,
)

if TYPE_CHECKING:
    from flsim.backend import Backend
    from flsim.heart import Lease
    from flsim.linkstate import LinkState

# ---- in the driver

SILENCE = 30.0
"""Seconds beyond its limits after which a lease is aborted whose worker says nothing."""


@dataclass(frozen=True, slots=True)
class JobSent:
    """The job, as the loops send it."""

    job: bytes
    digest: bytes
    generators: Generators
    boxes: BlackBoxes
    own_process: bool
    """Whether a lease has a process of its own."""
    aborts: bool
    """Whether the backend can end a lease."""


async def worker_loop(link: LinkState, backend: Backend, sent: JobSent, kind: int) -> None:
    """Pull, have it run where the worker is, return; until the run is over. One loop per slot."""
    while (lease := await link.pull(kind)) is not None:
        await _run(link, backend, sent, kind, lease)


async def _run(link: LinkState, backend: Backend, sent: JobSent, kind: int, lease: Lease) -> None:
    """Have a lease run, and return what comes of it. Whatever ends the run from here is handed to the LinkState,
    whose waiters raise it."""
    need, limit = link.heart.needs[kind], link.fleet.kinds[kind].time_limit
    folder = str(sent.boxes.folder) if sent.own_process else ""
    overdue = limit * len(lease.entries) + SILENCE if limit is not None and sent.aborts else None
    try:
        frames = pack_lease(
            [link.packed(e) for e in lease.entries], Terms(lease.id, folder, sent.digest, kind, sent.generators)
        )
        result = await send(link, backend, frames, need, lease.place, lease.devices, overdue)
        answer = unpack_reply(result)
        if answer.status == JOB_WANTED:
            frames = with_job(frames, sent.job)
            result = await send(link, backend, frames, need, lease.place, lease.devices, overdue)
            answer = unpack_reply(result)
        sent.boxes.heard(answer.boxed)
        outcomes = outcomes_of(answer, result.buffers)
    except WorkerLost as e:
        link.lost(lease, sent.boxes.explain(e, lease.id, limit, link.clock() - lease.pulled))
    except (BackendBroken, AppLoadError, NoRoom, bdb.BdbQuit) as e:
        link.fail(e)
    except asyncio.CancelledError:
        raise
    except BaseException as e:  # a backend is foreign code; a loop that ended unheard would leave the run waiting
        error = BackendBroken(f"the backend failed with {describe(e)}")
        error.__cause__ = e
        link.fail(error)
    else:
        link.returned(lease, answer.worker, outcomes)
        if answer.outgrown:
            link.announce(f"worker {answer.worker} is replaced: {answer.outgrown}")


async def send(
    link: LinkState,
    backend: Backend,
    frames: Frames,
    need: Resources,
    place: Place,
    devices: tuple[int, ...] = (),
    overdue: float | None = None,
) -> Frames:
    """Submit a lease and wait for what comes back, with one hop from the backend's thread to the engine's.

    Args:
        overdue: seconds after which it is aborted, counted from when it is known to have started. The worker's own
            limits come first: this is for one that does not run at all any more.

    Raises whatever the future fails with.
    """
    future: Future[Frames] = backend.submit(frames, need, place, devices)
    done = link.loop.create_future()

    def arrived() -> None:
        if not done.done():
            done.set_result(None)

    def from_their_thread(_: Future[Frames]) -> None:
        link.call_soon(arrived)

    future.add_done_callback(from_their_thread)
    if overdue is not None:
        await _abort_overdue(backend, future, done, overdue)
    await done
    return future.result()


async def _abort_overdue(backend: Backend, future: Future[Frames], done: asyncio.Future[None], overdue: float) -> None:
    started: float | None = None
    while True:
        now = time.monotonic()
        if started is None and future.running():
            started = now
        left = SILENCE if started is None else started + overdue - now
        if left <= 0:
            break
        if (await asyncio.wait([done], timeout=left))[0]:
            return
    backend.abort(future)


# ---- in the worker


def run_lease(frames: Frames, keep: Keep = copies) -> Frames:
    """Answer each message of a lease. Runs in a worker; whatever goes wrong comes back in the Frames.

    Args:
        frames: as the backend's ``submit`` was given them, with the buffers of each Shared in its place, read-only.
        keep: keeps what is large in the replies; by itself it is copied.

    One exception passes: a ``quit`` at a breakpoint (``bdb.BdbQuit``), which ends the run. And the process itself ends
    where a message runs longer, or holds more memory, than its kind may.
    """
    buffers = frames.buffers
    box, boxed = None, False
    try:
        what, *asked = pickle.loads(frames.header)
        if what == PROBE:
            return reply(HOST, asdict(inspect_host(*asked)))
        told, count, contents, messages = asked
        terms = Terms(*told)
        if terms.folder:
            box = black_box(terms.folder)
            box.at(terms.lease)
            boxed = box.kept
        job = prepare(buffers[count]) if len(buffers) > count else known_job(terms.digest)
        if job is None:
            return reply(JOB_WANTED, "", boxed=boxed)
    except bdb.BdbQuit:
        raise
    except AppLoadError as e:
        return reply(NOT_LOADED, str(e), boxed=boxed)
    except BaseException as e:
        return reply(NOT_READ, traceback_of(e), boxed=boxed)
    kind, seed = job.kinds[terms.kind], terms.generators != Generators.LEAVE
    out: list[Any] = []
    outcomes = []
    restore = terms.generators == Generators.SEED_AND_RESTORE
    if terms.folder and not kind.memory:  # what is kept would count as held, where that is limited
        keep_freed_memory()
    noted = contextlib.nullcontext() if box is None or kind.memory else _noted(box)
    caught = around_lease(kind.resources.threads, restore=restore, alone=bool(terms.folder))
    with caught as printed, refused_in_workers(), noted:
        for message in messages:
            kept = partial(kept_in, out, keep, message is messages[-1])
            if box is None:
                outcome = answer_message(job, kind, seed, message, contents, buffers, kept)
            else:
                box.at(terms.lease, message[0])
                with limits(kind, box):
                    outcome = answer_message(job, kind, seed, message, contents, buffers, kept)
            outcomes.append((*outcome, printed()))
    outgrown = "" if box is None else open_files.nearly_all() or guard.outgrown(kind.memory, kind.resources.cpus)
    return Reply(DONE, worker_name(), boxed, outgrown, peak_memory(), outcomes).encoded(out)


_NO_LIMITS = contextlib.nullcontext()


def limits(kind: JobKind, box: BlackBox) -> contextlib.AbstractContextManager[None]:
    """Hold one message to what its kind may take of time and memory: what exceeds it ends this process."""
    return _limited(kind, box) if kind.memory or kind.time_limit is not None else _NO_LIMITS


@contextlib.contextmanager
def _noted(box: BlackBox) -> Iterator[None]:
    """Note what a lease without a limit of memory holds."""
    guard.memory_guard().note(box)
    try:
        yield
    finally:
        guard.memory_guard().note(None)


@contextlib.contextmanager
def _limited(kind: JobKind, box: BlackBox) -> Iterator[None]:
    if kind.memory:
        guard.memory_guard().begin(box, kind.memory)
    if kind.time_limit is not None:
        box.end_after(kind.time_limit)
    try:
        yield
    finally:
        if kind.time_limit is not None:
            box.go_on()
        if kind.memory:
            guard.memory_guard().end()


def peak_memory() -> int:
    """Bytes that this process has held in memory at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _RSS_UNIT


_RSS_UNIT = 1 if sys.platform == "darwin" else 1024


def answer_message(
    job: Job,
    kind: JobKind,
    seed: bool,
    packed: tuple[int, int, int, str, str, float, float | None, int, int],
    contents: list[Part],
    buffers: list[Buffer],
    kept: Callable[[list[memoryview]], tuple[int, ...]],
) -> tuple[Any, ...]:
    """One message: decoded, executed, encoded. The order of the result is Outcome's, less ``printed``.

    Args:
        kept: keeps what lies beside a pickle, and says where it is among the buffers of the reply.
    """
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
    context = Context(job.run_id, node, node_config, state, job.run_config, (job.seed, (node, k)))
    try:
        if seed:
            seed_globals(job.seed, (node, k))
        app = made(kind.client, context) if kind.makes else kind.client
        answer = app(message, context)
    except bdb.BdbQuit:
        raise
    except BaseException as e:
        executed = clock()
        return failed(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, describe(e), traceback_of(e))
    executed = clock()

    try:
        fault, sent = _faults(answer, metadata.message_id)
    except BaseException as e:  # the app may have put anything in the place of what a Message has
        fault, sent = f"the reply cannot be read: {describe(e)}", None
    if fault or sent is None:
        return failed(ErrorCode.REPLY_INVALID, fault)
    error = None
    if sent.error is not None:
        reason, traceback = clean(sent.error.reason, TEXT_LIMIT), clean(sent.error.traceback, TRACEBACK_LIMIT)
        error = (int(sent.error.code), reason, traceback)
        if not getattr(app, "keeps_state_with_errors", False):
            return failed(*error)
    try:
        what: Any = sent.content
        pickled, raws = encode(what) if error is None else (b"", [])
        what = context.state
        if type(what) is not RecordDict:
            raise TypeError(f"context.state is a RecordDict, not {type(what).__name__}")
        state_part = encode(what) if what or before is not None else None
        if before is not None and state_part is not None and _same(before, buffers, *state_part):
            state_part = None
    except BaseException as e:
        return failed(ErrorCode.REPLY_UNENCODABLE, unencodable(what, e), traceback_of(e))
    beside = [*raws, *(state_part[1] if state_part else ())]
    size = len(pickled) + (len(state_part[0]) if state_part else 0)
    if beside:
        size += sum([raw.nbytes for raw in beside])
    if job.largest and size > job.largest:
        most = f"at most {mebibytes(job.largest)} are taken, which is half of what the driver may hold"
        return failed(ErrorCode.REPLY_TOO_LARGE, f"the reply and the node's state are {mebibytes(size)}, and {most}")
    try:
        wheres = kept(beside) if beside else ()
    except BaseException as e:  # it is the backend's; that there is no room is the most that is to be expected
        reason = f"worker {worker_name()} cannot keep the reply: {describe(e)}"
        return failed(ErrorCode.REPLY_UNENCODABLE, reason, traceback_of(e))
    part = (pickled, wheres[: len(raws)]) if error is None else None
    after = None if state_part is None else (state_part[0], wheres[len(raws) :])
    return (
        id_, error, part, after, sent.group_id, sent.created_at,
        decoded - begun, executed - decoded, clock() - executed,
    )  # fmt: skip


class _Sent(NamedTuple):
    """What of a ClientApp's reply is sent, of the types that it must be of."""

    content: Any
    error: Error | None
    group_id: str
    created_at: float


def _faults(answer: Any, message_id: str) -> tuple[str, _Sent | None]:
    """What is wrong with what a ClientApp returned, or what of it is sent."""
    if not isinstance(answer, Message):
        return f"the ClientApp returned {type(answer).__name__}, not a Message", None
    about = answer.metadata
    if about.reply_to_message_id != message_id:
        return "the ClientApp returned no reply to its message; write Message(content, reply_to=msg)", None
    if type(about.group_id) is not str or type(about.created_at) is not float:
        kinds = f"{type(about.group_id).__name__} and {type(about.created_at).__name__}"
        return f"the reply has a group_id and a created_at of type {kinds}, not str and float", None
    if not answer.has_error():
        return "", _Sent(answer.content, None, about.group_id, about.created_at)
    error = answer.error
    if not isinstance(error.code, int) or type(error.reason) is not str or type(error.traceback) is not str:
        return "the reply carries an Error whose code, reason and traceback are not an int and two str", None
    return "", _Sent(None, error, about.group_id, about.created_at)


def made(client: Any, context: Context) -> Any:
    """The ClientApp that ``client`` makes for a message."""
    app = client(context)
    if not callable(app):
        raise TypeError(f"{client.__qualname__} made a {type(app).__name__}, which is no ClientApp")
    return app


def _decoded(part: Part, buffers: list[Buffer]) -> Any:
    pickled, wheres = part
    return decode(pickled, [buffers[i] for i in wheres])


def kept_in(out: list[Any], keep: Keep, last: bool, raws: list[memoryview]) -> tuple[int, ...]:
    """Keep what lies beside a pickle in ``out``, and say where it is there."""
    first = len(out)
    out.extend(keep(raws, last))
    return tuple(range(first, len(out)))


def _same(before: Part, buffers: list[Buffer], pickled: bytes, raws: list[memoryview]) -> bool:
    """Whether a node's state is what it was."""
    if before[0] != pickled or len(before[1]) != len(raws):
        return False
    import numpy as np

    return all(
        np.array_equal(np.frombuffer(buffers[i], np.uint8), np.frombuffer(raw, np.uint8))
        for i, raw in zip(before[1], raws, strict=True)
    )

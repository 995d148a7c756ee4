"""Quarantine: messages that cost a worker, kept in the run's folder with what is needed to run each of them alone.

::

    quarantine/
    ├── 7.json              what message 7 is, how it ended, and where its buffers are: written last
    ├── 7.lease             the header of a lease that holds it alone
    ├── 7.buffers           what lies beside its pickles
    ├── shared-1.buffers    what it carries that other messages carry too, once
    ├── job.pickle          the job of the run, as workers get it
    ├── app-DIGEST.zip      the app's files, as they were
    └── left-out.json       how many were not kept, and why: where there are such

All of it is the user's alone (0600). To read a pickle is to run what is in it, so nothing here does that: it is
:mod:`flsim.replay` that does, where the user asks for it.
"""

from __future__ import annotations

import json
import mmap
import os
import queue
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any

from flsim.code import Code, Reference
from flsim.envelope import Generators, clean, describe
from flsim.errors import ConfigError, UnknownName
from flsim.fleet import FIRST_NODE_ID, Kind
from flsim.job import inspect_host, job_digest
from flsim.message import Error, ErrorCode
from flsim.payload import Carried, Frames, Piece, Shared
from flsim.pickling import Buffer
from flsim.wire import Packed, Terms, pack_lease

FOLDER = "quarantine"
LEFT_OUT = "left-out.json"
JOB = "job.pickle"

SCHEMA = 1
"""The version of what is in the folder."""

MESSAGES = 100
"""Messages of a run that are kept, at most."""

BYTES = 2**30
"""Bytes that they take together, at most."""

ALIGNED = 64
"""Bytes to whose multiple a buffer begins in its file, as in a worker: sums must come out the same."""


class Quarantine:
    """In the driver: puts the messages of a run there, from a thread of its own.

    Args:
        run_dir: the run's folder.
        job: as workers get it.
        kinds: of the run's nodes.
        generators: what its leases do with the global generators.
        archived: whether the job holds the app's files.
        say: tells the user one line.
    """

    def __init__(
        self,
        run_dir: Path,
        job: bytes,
        kinds: Sequence[Kind],
        generators: Generators,
        archived: bool,
        say: Callable[[str], None],
    ) -> None:
        self._folder = run_dir / FOLDER
        self._job = job
        self._kinds = kinds
        self._generators = generators
        self._archived = archived
        self._say = say
        self._kept = self._bytes = self._left_out = 0
        self._shared: weakref.WeakKeyDictionary[Carried, str] = weakref.WeakKeyDictionary()
        """The files of what is shared, as long as somebody has it: messages of one push carry the same."""
        self._files = 0
        self._app_not_kept: str | None = None
        """Why the app's files are not there; empty: they are; None: nobody has looked yet."""
        self._tasks: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def put(self, message: Packed, kind: int, attempts: int, error: Error, done: Callable[[], None]) -> None:
        """Keep a message, and call ``done`` when what it carries is needed no more. From one thread; does not wait.

        Args:
            kind: of its node.
            attempts: leases that it was part of.
            error: how it ended.
        """
        new, size = [], len(message.content.pickled)
        for blob in (message.content, message.state):
            size += sum(len(b) for b in blob.unshared) if blob is not None else 0
        for carried in message.content.carried:
            if carried not in self._shared:
                new.append(carried)
                size += sum(b.nbytes for b in message.content.buffers if isinstance(b, Piece) and b.carried is carried)
        fault = ""
        if self._kept >= MESSAGES:
            fault = f"it holds {MESSAGES} messages, and takes no more"
        elif self._bytes + size > BYTES:
            fault = f"it holds {self._bytes / 1e6:,.0f} MB, and would hold more than {BYTES / 1e6:,.0f} with the next"
        if fault:
            done()
            self._do(lambda: self._leave_out(message.message_id, fault))
            return
        self._kept += 1
        self._bytes += size
        for carried in new:
            self._files += 1
            self._shared[carried] = f"shared-{self._files}.buffers"
        names = {id(c.shared): self._shared[c] for c in message.content.carried}
        terms = Terms(message.message_id, "", job_digest(self._job), kind, self._generators)
        frames = pack_lease([message], terms)
        about = self._about(message, kind, attempts, error)

        def keep() -> None:
            try:
                self._write(about, frames, names)
            except Exception as e:  # the disk is full, or the backend does not give back what it shares
                self._leave_out(message.message_id, describe(e))
            finally:
                done()

        self._do(keep)

    def close(self) -> None:
        """Wait until all is written. While the backend still has what it shares."""
        if self._thread is not None:
            self._tasks.put(None)
            self._thread.join()
            self._thread = None

    def _about(self, message: Packed, kind: int, attempts: int, error: Error) -> dict[str, Any]:
        of = self._kinds[kind]
        return {
            "schema": SCHEMA,
            "message": message.message_id,
            "node": message.node,
            "partition": message.node - FIRST_NODE_ID,
            "type": message.message_type,
            "kind": of.name,
            "client": str(of.client) if isinstance(of.client, Reference) else type(of.client).__name__,
            "k": message.k,
            "code": error.code,
            "error": ErrorCode.name_of(error.code),
            "reason": error.reason,
            "traceback": error.traceback,
            "attempts": attempts,
            "ended": time.time(),
            "cpus": of.resources.cpus,
            "memory": of.resources.memory,
            "time_limit": of.time_limit,
            "bytes": message.content.nbytes,
            "state_bytes": None if message.state is None else message.state.nbytes,
        }

    # ---- in the thread

    def _do(self, task: Callable[[], None]) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="flsim-quarantine", daemon=True)
            self._thread.start()
        self._tasks.put(task)

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            task()

    def _write(self, about: dict[str, Any], frames: Frames, names: Mapping[int, str]) -> None:
        self._folder.mkdir(mode=0o700, exist_ok=True)
        self._write_app()
        id_ = about["message"]
        parts = []
        own: list[Buffer] = []
        for buffer in frames.buffers:
            if isinstance(buffer, Shared):
                name = names[id(buffer)]
                parts.append({"file": name, "spans": self._write_shared(name, buffer)})
            else:
                own.append(buffer)
                parts.append({"file": f"{id_}.buffers", "spans": []})
        spans = iter(_write_buffers(self._folder / f"{id_}.buffers", own) if own else ())
        for part in parts:
            part["spans"] = part["spans"] or [next(spans)]
        _write_file(self._folder / f"{id_}.lease", [frames.header])
        versions = dict(inspect_host(()).versions)
        about |= {"versions": versions, "parts": parts, "app_not_kept": self._app_not_kept}
        self._write_json(f"{id_}.json", about)

    def _write_shared(self, name: str, shared: Shared) -> list[tuple[int, int]]:
        buffers = shared.buffers()
        if (self._folder / name).exists():
            return _spans(buffers)
        return _write_buffers(self._folder / name, buffers)

    def _write_app(self) -> None:
        """What all messages need: the job, and the app's files where they still are what they were."""
        if self._app_not_kept is not None:
            return
        _write_file(self._folder / JOB, [self._job])
        faults = []
        codes = [] if self._archived else [k.client.code for k in self._kinds if isinstance(k.client, Reference)]
        for code in {c.digest: c for c in codes}.values():
            try:
                if code.intact():
                    _write_file(_archive(self._folder, code), [code.archive()])
                else:
                    faults.append(f"the files in {code.folder} had changed while the run was under way")
            except ConfigError as e:  # they are too large
                faults.append(str(e))
        self._app_not_kept = "; ".join(faults)

    def _leave_out(self, id_: int, why: str) -> None:
        self._left_out += 1
        if self._left_out == 1:
            self._say(f"message {id_} is not kept in {FOLDER}/ of the run's folder: {why}")
        try:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            self._write_json(LEFT_OUT, {"messages": self._left_out, "last": id_, "why": why})
        except OSError as e:
            self._say(f"nor can that be written there: {describe(e)}")

    def _write_json(self, name: str, values: Mapping[str, Any]) -> None:
        new = self._folder / f"{name}.new"
        _write_file(new, [json.dumps(values, indent=2).encode()])
        new.replace(self._folder / name)


@dataclass(frozen=True, slots=True)
class Quarantined:
    """A message that is in quarantine."""

    folder: Path
    about: Mapping[str, Any]
    """What its JSON says."""

    @property
    def id(self) -> int:
        """The message's."""
        return int(self.about["message"])

    def frames(self) -> Frames:
        """The lease that holds it alone. Its buffers are in place in their files. Raises ConfigError."""
        try:
            header = (self.folder / f"{self.id}.lease").read_bytes()
            files = {name: _mapped(self.folder / name) for name in {Path(p["file"]).name for p in self.about["parts"]}}
            parts = [(Path(p["file"]).name, begin, end) for p in self.about["parts"] for begin, end in p["spans"]]
            return Frames(header, [files[name][begin:end] for name, begin, end in parts])
        except (OSError, ValueError, TypeError, KeyError) as e:
            raise ConfigError(f"message {self.id} in {self.folder} cannot be read: {describe(e)}") from e

    def job(self) -> bytes:
        """The job of its run. Raises ConfigError."""
        return _read(self.folder / JOB)

    def archives(self) -> dict[str, bytes]:
        """The app's files, by their digest. Raises ConfigError."""
        return {f.stem.removeprefix("app-"): _read(f) for f in self.folder.glob("app-*.zip")}


def quarantined(run_dir: Path) -> list[Quarantined]:
    """The messages of a run that are in quarantine, in order: those that can be read."""
    return _looked_through(run_dir)[0]


def unreadable(run_dir: Path) -> dict[str, str]:
    """Which files of a run's quarantine cannot be read, and why: by the id that their name gives."""
    return _looked_through(run_dir)[1]


def find_message(run_dir: Path, message: str) -> Quarantined:
    """The message of this id. Raises UnknownName or ConfigError."""
    found, wrong = _looked_through(run_dir)
    there = {str(q.id): q for q in found}
    if message in wrong:
        raise ConfigError(wrong[message])
    if message not in there:
        raise UnknownName("message in quarantine", message, there)
    return there[message]


def _looked_through(run_dir: Path) -> tuple[list[Quarantined], dict[str, str]]:
    folder = run_dir / FOLDER
    found, wrong = [], {}
    for file in sorted(folder.glob("[0-9]*.json")):
        try:
            about = json.loads(_read(file))
            _check(about, _ABOUT)
            if str(about["message"]) != file.stem:
                raise ValueError("it is about another message than its name says")
        except (ConfigError, ValueError, TypeError, KeyError, RecursionError) as e:
            wrong[clean(file.stem, 20)] = clean(f"{file} cannot be read: {describe(e)}", 1000)
        else:
            found.append(Quarantined(folder, about))
    return sorted(found, key=lambda q: q.id), wrong


_ABOUT: Mapping[str, tuple[type, ...]] = {
    **dict.fromkeys(("message", "node", "partition", "k", "code", "attempts", "memory", "bytes"), (int,)),
    **dict.fromkeys(("type", "kind", "client", "error", "reason", "traceback", "app_not_kept"), (str,)),
    "time_limit": (int, float, NoneType),
    "versions": (dict,),
    "parts": (list,),
}
"""What the JSON of a message says that is used: a run may be a stranger's."""


def _check(about: Any, types: Mapping[str, tuple[type, ...]]) -> None:
    """Raises ValueError, TypeError or KeyError where ``about`` is not what is written here."""
    if about["schema"] != SCHEMA:
        raise ValueError(f"it was written by another version of flsim: schema {about['schema']}, and not {SCHEMA}")
    for name, known in types.items():
        value = about[name]
        if type(value) not in known:
            raise TypeError(f"its {name} is no {known[0].__name__}")
        if isinstance(value, (int, float)) and not abs(value) < 2**63:
            raise ValueError(f"its {name} is too large")


def count(run_dir: Path) -> int:
    """How many messages of a run are in quarantine."""
    return sum(1 for _ in (run_dir / FOLDER).glob("[0-9]*.json"))


def left_out(run_dir: Path) -> dict[str, Any]:
    """How many messages of a run are not in quarantine that should be (``messages``), and ``why``; else empty. Raises
    ConfigError."""
    file = run_dir / FOLDER / LEFT_OUT
    if not file.exists():
        return {}
    try:
        said = dict(json.loads(_read(file)))
        _check({"schema": SCHEMA, **said}, {"messages": (int,), "why": (str,)})
    except (ValueError, TypeError, KeyError, RecursionError) as e:
        raise ConfigError(f"{file} cannot be read: {describe(e)}") from e
    return said


def _archive(folder: Path, code: Code) -> Path:
    return folder / f"app-{code.digest}.zip"


def _spans(buffers: Iterable[Buffer]) -> list[tuple[int, int]]:
    spans, at = [], 0
    for buffer in buffers:
        spans.append((at, at + len(buffer)))
        at += -(-len(buffer) // ALIGNED) * ALIGNED
    return spans


def _write_buffers(file: Path, buffers: Sequence[Buffer]) -> list[tuple[int, int]]:
    padded = (part for b in buffers for part in (b, bytes(-len(b) % ALIGNED)))
    _write_file(file, padded)
    return _spans(buffers)


def _write_file(file: Path, parts: Iterable[Buffer]) -> None:
    """A file that is there in full or not at all."""
    try:
        with open(file, "wb", opener=lambda path, flags: os.open(path, flags, 0o600)) as out:
            for part in parts:
                out.write(part)
    except OSError:
        file.unlink(missing_ok=True)
        raise


def _mapped(file: Path) -> memoryview:
    with file.open("rb") as f:
        return memoryview(mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ))


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as e:
        raise ConfigError(f"{file} cannot be read: {e.strerror}") from e

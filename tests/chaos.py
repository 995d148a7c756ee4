"""Chaos: a run whose workers are killed every two seconds, with messages among it that end their worker or hang.

``nox -s chaos -- --backend loky --seconds 20``. It is no test of every day: by itself it takes five minutes a backend.
Each message has to be answered, those that are innocent as in a run without any fault, and nothing may be left behind.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import hashlib
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import flsim
from flsim import ClientApp, ConfigRecord, Context, ErrorCode, Grid, Message, MetricRecord, RecordDict, ServerApp
from flsim.testing.watch import children, shared_memory, until

NODES = 390
"""No multiple of 200, so that other nodes have the bad messages from round to round."""

SEED = 9
KILL_EVERY = 2.0
"""Seconds."""

SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGKILL, signal.SIGTERM)
"""What a worker is killed by, one of these by chance: mostly as the kernel does it, and as a batch system does."""

TIME_LIMIT = 1.0
WORK = 0.01
"""Seconds that a message takes, at the least."""

POISON = {57: "exit", 257: "segfault", 457: "kill"}
HANG = {133: "python", 333: "c"}
"""What is wrong with a message, by its number modulo 600 and 400: one of 200 each."""

client = ClientApp()


def fault(number: int) -> str:
    """What is wrong with a message; empty where it is innocent."""
    return POISON.get(number % 600, "") or HANG.get(number % 400, "")


@client.query()
def answer(msg: Message, context: Context) -> Message:
    """Draw, count in the node's state, and say so; or do what is wrong."""
    asked = msg.content["asked"]
    if folder := asked["folder"]:  # else it is the run without faults
        Path(str(folder), str(os.getpid())).touch()
        time.sleep(WORK)  # work, in the middle of which workers are killed
    what = asked["fault"]
    if what and not folder:
        raise RuntimeError("as if it had failed")
    match what:
        case "exit":
            os._exit(3)
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "segfault":
            ctypes.string_at(0)
        case "python":
            time.sleep(600)  # this is the hang
        case "c":
            ctypes.PyDLL(None).sleep(600)
    count = int(context.state["count"]["n"]) + 1 if "count" in context.state else 1
    context.state["count"] = MetricRecord({"n": count})
    drawn = [context.rng.random(), random.random()]
    return Message(RecordDict({"drawn": MetricRecord({"drawn": drawn, "count": count})}), reply_to=msg)


@dataclass
class Seen:
    """What came of a run."""

    messages: int = 0
    innocent: int = 0
    digests: list[str] = field(default_factory=list)
    """Of the replies to the innocent, a round."""
    wrong: list[str] = field(default_factory=list)
    codes: Counter[str] = field(default_factory=Counter)


ALLOWED = {
    "exit": {ErrorCode.WORKER_DIED},
    "kill": {ErrorCode.WORKER_DIED},
    "segfault": {ErrorCode.WORKER_DIED},
    # One that hangs may have been with a worker that was killed, twice.
    "python": {ErrorCode.TIME_LIMIT, ErrorCode.WORKER_DIED},
    "c": {ErrorCode.TIME_LIMIT, ErrorCode.WORKER_DIED},
}


def run(backend: str, folder: str, *, seconds: float = 0.0, rounds: int = 0) -> Seen:
    """Rounds until the time is over, or so many of them."""
    seen = Seen()
    server = ServerApp()

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        end = time.monotonic() + seconds
        while len(seen.digests) < rounds or time.monotonic() < end:
            first = len(seen.digests) * NODES
            faults = [fault(first + i) for i in range(NODES)]
            asked = (RecordDict({"asked": ConfigRecord({"fault": f, "folder": folder})}) for f in faults)
            messages = [Message(a, n, "query") for a, n in zip(asked, grid.get_node_ids(), strict=True)]
            digest = hashlib.sha256()
            replies = grid.send_and_receive(messages)
            if [r.metadata.src_node_id for r in replies] != list(grid.get_node_ids()):
                seen.wrong.append(f"round {len(seen.digests)}: {len(replies)} replies to {NODES} messages")
            for what, reply in zip(faults, replies, strict=True):
                seen.messages += 1
                code = ErrorCode.name_of(reply.error.code) if reply.has_error() else ""
                if what:
                    seen.codes[code or "content"] += 1
                    if folder and (not reply.has_error() or reply.error.code not in ALLOWED[what]):
                        seen.wrong.append(f"{what} gave {reply}")
                elif reply.has_error():
                    seen.wrong.append(f"an innocent message failed: {reply.error}")
                else:
                    seen.innocent += 1
                    digest.update(repr(dict(reply.content["drawn"])).encode())
            seen.digests.append(digest.hexdigest())

    options = {"cpus": 1.0} if backend == "serial" else {"cpus": 2.0}
    kind = flsim.Kind("default", client, NODES, time_limit=TIME_LIMIT if folder else None)
    flsim.run(server, [kind], backend=backend, options=options, seed=SEED, quiet=True)
    return seen


class Killer:
    """Kills a worker that has been seen at work, every two seconds."""

    def __init__(self, folder: Path) -> None:
        self.killed: list[int] = []
        self.memory: set[Path] = set()
        """Shared memory that processes of the run have had by a name, as far as it was seen."""
        self._folder = folder
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._kill)

    def __enter__(self) -> Killer:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._over.set()
        self._thread.join()

    def _kill(self) -> None:
        chance = random.Random(SEED)
        while not self._over.wait(KILL_EVERY):
            self.memory |= shared_memory({os.getpid(), *children()})
            # Of our own alone, and seen of late: another process may have the number of one that is dead.
            since = time.time() - KILL_EVERY
            seen = {int(p.name) for p in self._folder.iterdir() if p.stat().st_mtime > since}
            if at_work := sorted(seen & children()):
                self.killed.append(chance.choice(at_work))
                with contextlib.suppress(ProcessLookupError):  # it has just died otherwise
                    os.kill(self.killed[-1], chance.choice(SIGNALS))


@contextlib.contextmanager
def temporary_files() -> Iterator[Path]:
    """A folder for all temporary files of this process and of those that it starts. Its path is short: a socket's may
    hold 107 bytes."""
    folder = Path(tempfile.mkdtemp(prefix="c-"))
    os.environ["TMPDIR"] = tempfile.tempdir = str(folder)
    try:
        yield folder
    finally:
        os.environ["TMPDIR"] = tempfile.tempdir = str(folder.parent)
        shutil.rmtree(folder)


def left(folder: Path, memory: set[Path]) -> list[str]:
    """What a run has left: processes, files, and what its processes had of shared memory."""
    found = [f"process {pid}" for pid in children()]
    return found + [str(p) for p in memory if p.exists()] + [str(p) for p in folder.iterdir()]


def main() -> int:
    """Run, compare, and say what came of it. Returns 1 where something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", action="append", help="loky, dask or ray; repeatable; default: all three")
    parser.add_argument("--seconds", type=float, default=300.0, help="of each backend; default: 300")
    arguments = parser.parse_args()
    bad = False
    for backend in arguments.backend or ["loky", "dask", "ray"]:
        with tempfile.TemporaryDirectory(prefix="chaos-") as pids, temporary_files() as folder:
            begun = time.monotonic()
            with Killer(Path(pids)) as killer:
                seen = run(backend, pids, seconds=arguments.seconds)
            took = time.monotonic() - begun
            until(lambda k=killer, f=folder: not left(f, k.memory), 10)  # type: ignore[misc]
            leaks = left(folder, killer.memory)
        calm = run("serial", "", rounds=len(seen.digests))
        differ = [i for i, (a, b) in enumerate(zip(seen.digests, calm.digests, strict=True)) if a != b]
        wrong = [*seen.wrong, *(f"the replies of round {i} are not those of the calm run" for i in differ)]
        wrong += [f"left behind: {what}" for what in leaks]
        bad = bad or bool(wrong) or not killer.killed
        equal = f"{len(seen.digests) - len(differ)} of {len(seen.digests)} rounds equal to the calm run's"
        print(
            f"{backend}: {took:.0f} s, {len(seen.digests)} rounds, {seen.messages:,} messages, all answered; "
            f"{len(killer.killed)} workers killed; bad messages ended as {dict(seen.codes)}; "
            f"{seen.innocent:,} innocent, {equal}; "
            f"{len(leaks)} things left behind; {len(wrong)} wrong",
            flush=True,
        )
        for text in wrong[:20]:
            print(f"  {text}", flush=True)
    return int(bad)


if __name__ == "__main__":
    sys.exit(main())

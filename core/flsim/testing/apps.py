"""The apps that the contract's checks run. What happened in a worker is told by files, since replies can be lost."""

from __future__ import annotations

import ctypes
import hashlib
import json
import logging
import multiprocessing
import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flsim.apps import ClientApp, Context
from flsim.message import Message
from flsim.records import ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from flsim.testing.watch import until
from flsim.testing.wrongs import RAISED, wrong_return

client = ClientApp()
"""Does what the message's type says, to what its ConfigRecord ``plan`` says."""


def reply(msg: Message, **values: Any) -> Message:
    """A reply that carries ``values``."""
    return Message(RecordDict({"values": ConfigRecord(values)}), reply_to=msg)


def plan(msg: Message) -> dict[str, Any]:
    """What the message says."""
    return dict(msg.content["plan"])


def note(folder: Any, text: str = "") -> None:
    """Leave a file that says that this call was here: counted, whatever becomes of the reply."""
    path = Path(str(folder), f"{time.time_ns()}-{uuid.uuid4().hex}")
    path.with_suffix(".tmp").write_text(text)
    path.with_suffix(".tmp").rename(path.with_suffix(".note"))


def notes(folder: Path) -> list[str]:
    """What calls have left in ``folder``, in order of time."""
    return [p.read_text() for p in sorted(folder.glob("*.note"))]


@client.query("echo")
def echo(msg: Message, context: Context) -> Message:
    """Say who answers, and give back the content."""
    content = RecordDict(dict(msg.content))
    content["values"] = ConfigRecord({"pid": os.getpid(), "node": context.node_id})
    return Message(content, reply_to=msg)


@client.query("model")
def model(msg: Message, context: Context) -> Message:
    """Say what was sent, give back new arrays, and one that this process fills anew for each message, which is also
    the node's state."""
    import numpy as np

    sent: ArrayRecord = msg.content["model"]
    kept = float(context.state["kept"]["0"].max()) if context.state else -1.0
    scratch = _scratch.setdefault("array", np.zeros(40_000))
    scratch[:] = context.node_id
    context.state["kept"] = ArrayRecord([scratch])
    values = {
        "sum": float(sum(a.sum() for a in sent.values())),
        "writeable": any(a.flags.writeable for a in sent.values()),
        "kept": kept,
        "raw": hashlib.sha256(bytes(msg.content["raw"]["raw"])).hexdigest(),
    }
    content = {
        "values": ConfigRecord(values),
        "new": ArrayRecord({"w": sent["w"] + 1, "scratch": scratch}),
    }
    return Message(RecordDict(content), reply_to=msg)


_scratch: dict[str, Any] = {}


@client.query("hold")
def hold(msg: Message, context: Context) -> Message:
    """Take ``seconds``, and note from when to when, by a clock that all processes of a host share, in which process,
    with which gpus, and what the node's config says of its weight and share of a gpu."""
    begun = time.monotonic()
    time.sleep(float(plan(msg)["seconds"]))
    about = {
        "weight": context.node_config.get("weight", 1),
        "share": context.node_config.get("share", 0),
        "begun": begun,
        "ended": time.monotonic(),
        "pid": os.getpid(),
        "gpus": os.environ.get("CUDA_VISIBLE_DEVICES"),
    }
    note(plan(msg)["folder"], json.dumps(about))
    return reply(msg, pid=os.getpid())


def held(folder: Path) -> list[dict[str, Any]]:
    """What calls of *hold* have noted."""
    return [json.loads(text) for text in notes(folder)]


@client.query("hang")
def hang(msg: Message, context: Context) -> Message:
    """Do not return: in Python, or in C with the GIL held, so that no thread of this process runs on."""
    if plan(msg)["how"] == "python":
        time.sleep(600)  # this is the hang
    ctypes.PyDLL(None).sleep(600)
    return reply(msg)


_kept: list[bytearray] = []


@client.query("take")
def take(msg: Message, context: Context) -> Message:
    """Hold so many ``mebibytes`` for 0.3 s, or with ``keep`` for ever."""
    taken = bytearray(b"x") * (int(plan(msg)["mebibytes"]) * 2**20)
    if plan(msg)["keep"]:
        _kept.append(taken)
    else:
        time.sleep(0.3)  # so long that whoever watches sees it
    return reply(msg, pid=os.getpid())


@client.query("begin")
def begin(msg: Message, context: Context) -> Message:
    """Note that it has begun, and take ``seconds``."""
    note(plan(msg)["folder"], str(os.getpid()))
    time.sleep(float(plan(msg)["seconds"]))
    return reply(msg)


@client.query("much")
def much(msg: Message, context: Context) -> Message:
    """Answer with so many ``mebibytes``, or with ``state`` leave them there."""
    much = ConfigRecord({"much": bytes(int(plan(msg)["mebibytes"]) * 2**20)})
    if "state" not in plan(msg):
        return Message(RecordDict({"much": much}), reply_to=msg)
    context.state["much"] = much
    return reply(msg)


@client.query("work")
def work(msg: Message, context: Context) -> Message:
    """Note in which process, take ``seconds``, and draw a number."""
    note(plan(msg)["folder"], str(os.getpid()))
    time.sleep(float(plan(msg)["seconds"]))
    return reply(msg, drawn=context.rng.random())


@client.query("wait")
def wait(msg: Message, context: Context) -> Message:
    """Note in which process, wait until there is a file ``go on`` beside the note, and draw a number. Hold so many
    ``mebibytes`` meanwhile."""
    folder = Path(plan(msg)["folder"])
    _holds = bytearray(b"x") * (int(plan(msg).get("mebibytes", 0)) * 2**20)
    note(folder, str(os.getpid()))
    if not until((folder / "go on").exists, float(plan(msg)["patience"])):
        raise TimeoutError("nobody said that this may go on")
    return reply(msg, drawn=context.rng.random())


_files: list[int] = []


@client.query("files")
def files(msg: Message, context: Context) -> Message:
    """Open files until this process may have no more."""
    most = len(list(Path("/proc/self/fd").iterdir())) + 50
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    while True:
        _files.append(os.open(os.devnull, os.O_RDONLY))


@client.query("start")
def start(msg: Message, context: Context) -> Message:
    """Start a process that outlives this call, note its pid, and answer, or with ``hang`` do not return."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], stdin=subprocess.DEVNULL)
    note(plan(msg)["folder"], str(child.pid))
    if plan(msg)["hang"]:
        time.sleep(600)  # this is the hang
    return reply(msg, pid=os.getpid())


@client.query("pool")
def pool(msg: Message, context: Context) -> Message:
    """Have two processes of a pool work, as those of a DataLoader do."""
    with multiprocessing.get_context("spawn").Pool(2) as made:
        return reply(msg, made=made.map(abs, [-1, -2, -3]))


@client.query("die")
def die(msg: Message, context: Context) -> Message:
    """End the worker, as ``how`` says."""
    how = plan(msg)["how"]
    if "folder" in plan(msg):
        note(plan(msg)["folder"])
    sys.stdout.flush()
    if how == "exit":
        os._exit(5)
    elif how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif how == "segfault":
        ctypes.string_at(0)
    raise AssertionError(f"still alive after {how}")


@client.query("die_once")
def die_once(msg: Message, context: Context) -> Message:
    """End the worker the first time, and answer from then on."""
    mark = Path(str(plan(msg)["folder"]), f"died-{context.node_id}")
    if not mark.exists():
        mark.touch()
        os._exit(5)
    return draw(msg, context)


@client.query("draw")
def draw(msg: Message, context: Context) -> Message:
    """Numbers from each generator, a matrix product, and a count kept in the node's state."""
    import numpy as np

    count = int(context.state["count"]["n"]) + 1 if "count" in context.state else 1
    context.state["count"] = MetricRecord({"n": count})
    matrix = context.rng.standard_normal((64, 64)).astype(np.float32)
    drawn = [context.rng.random(), np.random.random(), random.random()]
    arrays = ArrayRecord({"drawn": np.array(drawn), "product": matrix @ matrix.T})
    about = MetricRecord({"count": count, "node": context.node_id, "num-examples": 1 + context.node_id % 3})
    return Message(RecordDict({"arrays": arrays, "about": about}), reply_to=msg)


def untouched_generators() -> Callable[[], bool]:
    """A function that says whether the global generators still give what they would have given now."""
    import numpy as np

    ours, numpys = random.Random(), np.random.RandomState()
    ours.setstate(random.getstate())
    numpys.set_state(np.random.get_state())
    return lambda: (random.random(), np.random.random()) == (ours.random(), numpys.random_sample())


@client.query("rest")
def rest(msg: Message, context: Context) -> Message:
    """Do nothing for a second, and say whether the global generators were left alone meanwhile."""
    untouched = untouched_generators()
    time.sleep(1)
    return reply(msg, untouched=untouched())


@client.query("raise")
def raise_(msg: Message, context: Context) -> Message:
    """Raise what ``how`` says."""
    if "folder" in plan(msg):
        note(plan(msg)["folder"])
    raise RAISED[str(plan(msg)["how"])]()


@client.query("return")
def return_(msg: Message, context: Context) -> Any:
    """Return what ``what`` says, which is no proper reply."""
    if "folder" in plan(msg):
        note(plan(msg)["folder"])
    return wrong_return(str(plan(msg)["what"]), msg)


@client.query("threads")
def threads(msg: Message, context: Context) -> Message:
    """Say how many threads BLAS may use."""
    import numpy as np
    from threadpoolctl import threadpool_info

    np.ones((8, 8)) @ np.ones((8, 8))
    return reply(msg, threads=max((i["num_threads"] for i in threadpool_info()), default=0))


@client.query("print")
def print_(msg: Message, context: Context) -> Message:
    """Print ``characters``."""
    print("x" * int(plan(msg)["characters"]))
    return reply(msg)


_log = logging.Logger("checks")
_log.addHandler(logging.StreamHandler())  # as logging.basicConfig() does it when an app is imported


@client.query("write")
def write(msg: Message, context: Context) -> Message:
    """Write ``text``, ``how`` it says."""
    text = str(plan(msg)["text"]) + "\n"
    match plan(msg)["how"]:
        case "thread":
            thread = threading.Thread(target=print, args=(text,))
            thread.start()
            thread.join()
        case "buffer":
            sys.stdout.buffer.write(text.encode())
        case "interpreter's stream":
            assert sys.__stderr__ is not None
            sys.__stderr__.write(text)
        case "logger":
            _log.warning(text)
        case "child":
            subprocess.run([sys.executable, "-c", "import sys; print(sys.argv[1])", text], check=True)
        case "descriptor":
            os.write(2, text.encode())
    return reply(msg)

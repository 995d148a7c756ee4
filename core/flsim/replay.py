"""Replay: a message of a quarantine runs again, alone, in this process and as it did in the run.

What is in a quarantine is pickles and the code of an app: it is trusted as an app is.
"""

from __future__ import annotations

import faulthandler
import pickle
import signal
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

from flsim.apps import Context, Handler
from flsim.blackbox import BlackBox
from flsim.code import Reference
from flsim.debugger import debugged
from flsim.envelope import Generators, clean, limited_threads, traceback_of
from flsim.errors import AppLoadError, ConfigError
from flsim.job import Job, inspect_host, loaded, worker_name
from flsim.message import Message
from flsim.payload import copies
from flsim.quarantine import Quarantined
from flsim.wire import DONE, Outcome, Reply, Terms, outcomes_of
from flsim.worker import answer_message, kept_in, limits, made, peak_memory


class Replayed(NamedTuple):
    """What came of it."""

    outcome: Outcome
    interrupted: bool
    """Whether Ctrl-C ended it."""


@dataclass(frozen=True, slots=True)
class Code:
    """Whose code answers the message."""

    job: Job
    """Its apps not yet imported."""
    said: str
    """For people: which files."""


def code_of(quarantined: Quarantined, *, edited: bool = False) -> Code:
    """The code of a message's app: as it was in the run, or with ``edited`` as it is now.

    Raises:
        ConfigError: it cannot be read, or is not there as it was.
        AppLoadError: the job cannot be unpickled here.
    """
    pickled, archives = quarantined.job(), quarantined.archives()
    try:
        job: Job = pickle.loads(pickled)
    except BaseException as e:  # a ClientApp that is in it imports what it needs
        text = "the ClientApp came from Python, and what it needs must be importable here"
        raise AppLoadError(f"the job of the run cannot be unpickled: {text}\n{traceback_of(e)}") from e
    archives = {**job.archives, **archives}
    client = job.kinds[_terms(quarantined.frames().header).kind].client
    if not isinstance(client, Reference):
        return Code(job, "as it was when the run began: it was given from Python, and no path")
    code = client.code
    if code.intact():
        return Code(replace(job, archives={}), f"{code.folder}, as it was in the run")
    if edited:
        return Code(replace(job, archives={}), f"{code.folder}, as it is now: it has changed since the run")
    if code.digest in archives:
        said = f"{code.folder}, as it was in the run: what is there has changed since, and --edited runs that"
        return Code(replace(job, archives=archives), said)
    why = quarantined.about["app_not_kept"] or "its archive is gone"
    raise ConfigError(f"the app in {code.folder} has changed since the run, and was not kept: {why}. --edited runs it")


def other_versions(quarantined: Quarantined) -> dict[str, tuple[str, str]]:
    """What of this environment is not as it was in the run: by name, the version then and now."""
    then = {clean(name, 100): clean(str(v), 100) for name, v in quarantined.about["versions"].items()}
    now = inspect_host(()).versions
    return {name: (version, now[name]) for name, version in then.items() if now.get(name, version) != version}


def replay(
    quarantined: Quarantined,
    job: Job,
    *,
    debug: bool = False,
    time_limit: float | None = None,
    memory: int = 0,
) -> Replayed:
    """Run it in this thread, which is the process's first: with its content, its node's state, config and seed.

    What it prints is seen at once; a crash shows its stack on stderr, as does SIGQUIT (Ctrl-\\) and the end by a limit.
    It may well end this process.

    Args:
        job: from :func:`code_of`.
        debug: call the ClientApp under Python's debugger.
        time_limit: seconds after which this process ends; None: it may take as long as it likes.
        memory: bytes; this process ends where it holds more; 0: there is no limit.

    Raises:
        ConfigError: it cannot be read.
        AppLoadError: the app cannot be imported.
        bdb.BdbQuit: the user quit at a breakpoint.
    """
    frames = quarantined.frames()
    _, told, _, contents, (message,) = pickle.loads(frames.header)
    terms = Terms(*told)
    box = BlackBox("")  # which writes to stderr
    if hasattr(signal, "SIGQUIT"):
        faulthandler.register(signal.SIGQUIT, chain=True)
    ready = loaded(job)
    kind = ready.kinds[terms.kind]
    app = _Watched(kind.client, kind.makes, debug)
    kind = replace(kind, client=app, makes=False, time_limit=time_limit, memory=memory)
    out: list[Any] = []
    kept = partial(kept_in, out, copies, True)
    seed = terms.generators != Generators.LEAVE
    with limited_threads(kind.resources.threads), limits(kind, box):
        outcome = answer_message(ready, kind, seed, message, contents, frames.buffers, kept)
    done = Reply(DONE, worker_name(), False, "", peak_memory(), [(*outcome, "")])
    return Replayed(outcomes_of(done, out)[0], app.interrupted)


class _Watched:
    """The ClientApp, and whether Ctrl-C ended its call."""

    def __init__(self, client: Any, makes: bool, debug: bool) -> None:
        self.interrupted = False
        self._client = client
        self._makes = makes
        self._debug = debug

    def __call__(self, message: Message, context: Context) -> Message:
        try:
            app: Handler = made(self._client, context) if self._makes else self._client
            return debugged(app, message, context) if self._debug else app(message, context)
        except KeyboardInterrupt:
            self.interrupted = True
            raise


def _terms(header: bytes) -> Terms:
    return Terms(*pickle.loads(header)[1])

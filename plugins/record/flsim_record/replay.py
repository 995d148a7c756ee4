"""``flsim replay``: a message that cost its worker, run again alone."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from flsim_record.arguments import RUN, RUNS_DIR

if TYPE_CHECKING:
    from flsim.quarantine import Quarantined
    from flsim.replay import Replayed


def replay(
    run: str = RUN,
    message: str | None = typer.Argument(
        None, metavar="MESSAGE", help="The message's id; without it, list those in quarantine."
    ),
    runs_dir: Path = RUNS_DIR,
    debug: bool = typer.Option(
        False, "--debug", help="Stop at the ClientApp's first line, and where it raises or you type Ctrl-C."
    ),
    edited: bool = typer.Option(False, "--edited", help="Run the app as it is now, and not as it was in the run."),
    limits: bool = typer.Option(
        False, "--limits", help="Hold it to the time_limit and the memory of its kind; nothing holds it by default."
    ),
    time_limit: float | None = typer.Option(
        None, "--time-limit", metavar="SECONDS", help="Seconds after which to end it with its stack."
    ),
) -> None:
    """Run a message alone that cost its worker, in this process.

    Messages that ended with WORKER_DIED, OUT_OF_MEMORY or TIME_LIMIT are in quarantine/ of the folder of a run that was
    recorded. One runs with the content, the node's state, the config, the seed and the app that it had there.

    It runs code and reads pickles from the run's folder: replay only runs that you trust as you trust their app.

    Exit codes: 0 it got a reply; 1 it failed with an error, or reached a limit; 2 wrong usage; 130 Ctrl-C; or that with
    which the message ends this process.
    """
    from flsim.fleet import seconds
    from flsim.quarantine import find_message, left_out, quarantined, unreadable
    from flsim_record.find import find_run

    if time_limit is not None:
        time_limit = seconds("--time-limit", time_limit)
    folder = find_run(runs_dir, run)
    if message is None:
        from flsim_record.shown import show_quarantine

        show_quarantine(
            [q.about for q in quarantined(folder)],
            left_out(folder),
            list(unreadable(folder).values()),
            run if runs_dir == Path("runs") else str(folder),
        )
        return
    raise typer.Exit(_replay(find_message(folder, message), debug, edited, limits, time_limit))


def _replay(which: Quarantined, debug: bool, edited: bool, limits: bool, time_limit: float | None) -> int:
    """Run it, and say what came of it. Returns the exit code."""
    import bdb

    from flsim.replay import code_of, other_versions, replay

    about = which.about
    code = code_of(which, edited=edited)
    if limits and time_limit is None:
        time_limit = about["time_limit"]
    memory = about["memory"] if limits else 0
    _announce(about, code.said, time_limit, memory)
    for name, (then, now) in other_versions(which).items():
        print(f"note: {name} was {then} in the run, and is {now} here", file=sys.stderr)
    begun = time.perf_counter()
    try:
        replayed = replay(which, code.job, debug=debug, time_limit=time_limit, memory=memory)
    except bdb.BdbQuit:
        print("quit: the message was ended at a breakpoint", file=sys.stderr)
        return 1
    sys.stdout.flush()
    return _show_outcome(replayed, about, time.perf_counter() - begun)


def _announce(about: Mapping[str, Any], code: str, time_limit: float | None, memory: int) -> None:
    from flsim.blackbox import mebibytes
    from flsim_record.shown import plain

    held = [f"for at most {time_limit:g} s"] if time_limit is not None else []
    held += [f"with at most {mebibytes(memory)} of memory"] if memory else []
    print(
        f"message {about['message']} to node {about['node']} (partition {about['partition']}), {plain(about['type'])}\n"
        f"in the run:  {plain(about['error'])}, attempts: {about['attempts']}; {plain(about['reason'])}\n"
        f"its code:    {plain(about['client'])} of {plain(code)}\n"
        f"it now runs in this process ({os.getpid()}) {' and '.join(held) or 'without a limit'}, and may end it as it "
        "ended its worker.\n"
        "Ctrl-C ends it and shows where it is; Ctrl-\\ does so where it does not come back to Python.\n",
        flush=True,
    )


def _show_outcome(replayed: Replayed, about: Mapping[str, Any], took: float) -> int:
    """Say what came of it. Returns the exit code."""
    from flsim.blackbox import mebibytes
    from flsim.envelope import clean, describe
    from flsim.message import Error, ErrorCode

    outcome, interrupted = replayed
    error, shown = outcome.error, list[str]()
    if error is None:
        try:
            shown = [f"  {line}" for line in _described(outcome.reply.decoded())]
            if outcome.state is not None:
                shown += ["its node's state is now:"]
                shown += [f"  {line}" for line in _described(outcome.state.decoded())]
        except Exception as e:  # to unpickle the app's objects runs its code
            error = Error(int(ErrorCode.REPLY_UNDECODABLE), describe(e))
    end = "it was interrupted" if interrupted else "it got a reply" if error is None else "it failed"
    limit = f" (its time_limit: {about['time_limit']:g} s)" if about["time_limit"] is not None else ""
    memory = f" (its kind may hold {mebibytes(about['memory'])})" if about["memory"] else ""
    print(f"\n{end} after {took:.2f} s{limit}; this process has held {mebibytes(outcome.peak_memory)}{memory}")
    for line in shown:
        print(clean(line, SHOWN))
    if error is None:
        return 0
    print(f"{ErrorCode.name_of(error.code)}: {clean(error.reason, TEXT)}\n{clean(error.traceback.rstrip(), TEXT)}")
    return 130 if interrupted else 1


SHOWN = 300
"""Characters of a line of a reply."""

TEXT = 20_000
"""Characters of an error."""


def _described(content: Any) -> Iterator[str]:
    """A line for each record, or for each array of one."""
    from flsim.records import ArrayRecord, RecordDict

    if not isinstance(content, RecordDict):
        yield repr(content)
        return
    for name, record in content.items():
        if isinstance(record, ArrayRecord):
            for key, array in record.items():
                yield f"{name}[{key!r}]: {array.dtype} {array.shape}"
        else:
            yield f"{name}: {dict(record)}"

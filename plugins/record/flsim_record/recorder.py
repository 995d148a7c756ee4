"""Recorder: the observer that keeps a run in its folder."""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from flsim.envelope import describe
from flsim.events import Event, RunFinished, RunStarted, ServerAppCalled
from flsim.folder import lock
from flsim.hooks import RunView
from flsim.result import RunResult
from flsim_record.folder import DATABASE, LOCK, RUN_JSON, read_json, write_json
from flsim_record.state import save_state
from flsim_record.surroundings import commit, machine, modules, versions
from flsim_record.tables import Tables

log = logging.getLogger(__name__)


class Recorder:
    """Keeps a run in ``folder``. What cannot be kept is said once, in the log and in run.json; the run goes on, and so
    does the keeping of all else."""

    def __init__(self, folder: Path, run: RunView) -> None:
        self._folder = folder
        self._lock = lock(folder / LOCK)
        self._about = read_json(folder)
        self._tables: Tables | None = Tables(folder / DATABASE, run.rows)
        self._counts: dict[str, list[int]] = self._tables.counts
        # While the backend starts, so that no message waits for it.
        helper = ThreadPoolExecutor(1, "flsim-surroundings")
        self._around: dict[str, Future[Any]] = {
            "versions": helper.submit(versions, run.requirements),
            "machine": helper.submit(machine),
            "git": helper.submit(commit, run.path, run.runs_dir),
        }
        helper.shutdown(wait=False)
        self._finished: RunFinished | None = None

    def on(self, events: Sequence[Event]) -> None:
        """Take what happened."""
        for event in events:
            if isinstance(event, RunStarted):
                self._about |= {"places": list(event.places), "slots": event.slots}
            elif isinstance(event, ServerAppCalled):
                began = datetime.now().astimezone() - timedelta(seconds=time.monotonic() - event.at)
                self._about["began"] = began.isoformat(timespec="milliseconds")
                self._write_beginning()
            elif isinstance(event, RunFinished):
                self._finished = event
        self._write(lambda tables: _take(tables, events))
        if self._about["began"] is not None and any(found.done() for found in self._around.values()):
            self._write_beginning()

    def close(self) -> None:
        """Write what the run came to."""
        try:
            self._write(Tables.close)
            wait(self._around.values())
            self._look_around()
            self._end(self._finished or RunFinished(0.0, "it is not known how the run ended", status="failed"))
            with self._or_said("end", f"{RUN_JSON} cannot be written"):
                write_json(self._folder / RUN_JSON, self._about, last=True)
        finally:
            os.close(self._lock)

    def _write_beginning(self) -> None:
        self._look_around()
        with self._or_said("beginning", f"{RUN_JSON} cannot be written"):  # at the end there may be room again
            write_json(self._folder / RUN_JSON, self._about)

    def _end(self, finished: RunFinished) -> None:
        self._about |= {
            "status": finished.status,
            "ended": datetime.now().astimezone().isoformat(timespec="milliseconds"),
            "seconds": finished.seconds,
            "messages": {t: {"ended": e, "failed": f, "kept": k} for t, (e, f, k) in self._counts.items()},
        }
        with self._or_said("modules", "which modules there were cannot be told"):
            self._about["modules"] = modules()
        if finished.result is None:
            self._about["error"] = {"text": finished.error, "traceback": finished.traceback}
            return
        self._about["result"] = _result(finished.result)
        with self._or_said("state", "the state cannot be kept"):
            save_state(self._folder, finished.result.state)

    def _look_around(self) -> None:
        """Take in what is known by now of what the run depends on beside its settings: git may take its time, and the
        other observers' thread is this one."""
        for name in [name for name, found in self._around.items() if found.done()]:
            with self._or_said(name, f"{name} cannot be told"):
                self._about[name] = self._around.pop(name).result()

    def _write(self, write: Callable[[Tables], None]) -> None:
        tables, self._tables = self._tables, None
        if tables is None:
            return
        with self._or_said("tables", f"{DATABASE} cannot be written, and is left as it is"):
            write(tables)
            self._tables = tables
        if self._tables is None:
            with contextlib.suppress(sqlite3.Error):  # of which the cause is told
                tables.abandon()

    @contextlib.contextmanager
    def _or_said(self, what: str, wrong: str) -> Iterator[None]:
        """Whatever fails within costs nothing else: it is said, once."""
        try:
            yield
        except Exception as e:
            self._about.setdefault("not_kept", {})[what] = f"{wrong}: {describe(e)}"
            log.warning("%s: %s: %s", self._folder, wrong, describe(e))


def _take(tables: Tables, events: Sequence[Event]) -> None:
    for event in events:
        tables.take(event)
    if not events or tables.due():
        tables.write()


def _result(result: RunResult) -> dict[str, Any]:
    """What a run gave back, less what is in other files; of its metrics the last."""
    told = result.to_json()
    last: dict[str, Any] = {}
    for report in told["metrics"]:
        if "node" not in report:
            last |= report
    return {key: told[key] for key in ("digest", "seconds", "messages_per_second", "counts")} | {"last": last}

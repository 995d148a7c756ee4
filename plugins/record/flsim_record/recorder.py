"""Recorder: the observer that keeps a run in its folder."""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from flsim.events import Event, RunFinished, RunStarted
from flsim.folder import lock
from flsim.hooks import RunView
from flsim.result import RunResult
from flsim_record.folder import DATABASE, LOCK, RUN_JSON, read_json, write_json
from flsim_record.state import save_state
from flsim_record.surroundings import commit, machine, modules, versions
from flsim_record.tables import Tables

log = logging.getLogger(__name__)


class Recorder:
    """Keeps a run in ``folder``. What cannot be written is said once, in the log and in run.json; the run goes on."""

    def __init__(self, folder: Path, run: RunView) -> None:
        self._folder = folder
        self._run = run
        self._lock = lock(folder / LOCK)
        self._about = read_json(folder)
        self._tables: Tables | None = Tables(folder / DATABASE, run.rows)
        self._counts: dict[str, list[int]] = self._tables.counts
        # While the backend starts, so that no message waits for it.
        helper = ThreadPoolExecutor(1, "flsim-surroundings")
        self._around = helper.submit(_around, run)
        helper.shutdown(wait=False)
        self._finished: RunFinished | None = None

    def on(self, events: Sequence[Event]) -> None:
        """Take what happened."""
        for event in events:
            if isinstance(event, RunStarted):
                self._begin(event)
            elif isinstance(event, RunFinished):
                self._finished = event
            if self._tables is not None:
                self._tables.take(event)
        if self._tables is not None and (not events or self._tables.due()):
            self._write(self._tables.write)

    def close(self) -> None:
        """Write what the run came to."""
        if self._tables is not None:
            self._write(self._tables.close)
        finished = self._finished or RunFinished(0.0, "it is not known how the run ended", status="failed")
        if finished.result is not None:
            try:
                save_state(self._folder, finished.result.state)
            except OSError as e:
                self._say("state", f"the state cannot be kept: {e}")
        self._about |= {
            **self._around.result(),
            "status": finished.status,
            "ended": datetime.now().astimezone().isoformat(timespec="milliseconds"),
            "seconds": finished.seconds,
            "modules": modules(),
            "messages": {t: {"ended": e, "failed": f, "kept": k} for t, (e, f, k) in self._counts.items()},
        }
        if finished.result is not None:
            self._about["result"] = _result(finished.result)
        else:
            self._about["error"] = {"text": finished.error, "traceback": finished.traceback}
        write_json(self._folder / RUN_JSON, self._about, last=True)
        os.close(self._lock)

    def _begin(self, event: RunStarted) -> None:
        began = datetime.now().astimezone() - timedelta(seconds=time.monotonic() - event.at)
        self._about |= {
            "began": began.isoformat(timespec="milliseconds"),
            "places": list(event.places),
            "slots": event.slots,
            **self._around.result(),
        }
        try:
            write_json(self._folder / RUN_JSON, self._about)
        except OSError as e:  # at the end there may be room again
            self._say("beginning", f"{RUN_JSON} cannot be written: {e}")

    def _write(self, write: Callable[[], None]) -> None:
        tables = self._tables
        try:
            write()
        except (sqlite3.Error, OSError) as e:
            self._tables = None
            self._say("tables", f"{DATABASE} cannot be written, and is left as it is: {e}")
            if tables is not None:
                with contextlib.suppress(sqlite3.Error):  # of which the cause is told
                    tables.abandon()

    def _say(self, what: str, text: str) -> None:
        self._about.setdefault("not_kept", {})[what] = text
        log.warning("%s: %s", self._folder, text)


def _around(run: RunView) -> dict[str, Any]:
    """What the run depends on beside its settings."""
    return {"versions": versions(run.requirements), "machine": machine(), "git": commit(run.path)}


def _result(result: RunResult) -> dict[str, Any]:
    """What a run gave back, less what is in other files; of its metrics the last."""
    told = result.to_json()
    last: dict[str, Any] = {}
    for report in told["metrics"]:
        if "node" not in report:
            last |= report
    return {key: told[key] for key in ("digest", "seconds", "messages_per_second", "counts")} | {"last": last}

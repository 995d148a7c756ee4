"""Writes what TensorBoard shows of a run."""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Sequence
from pathlib import Path

from tensorboardX import SummaryWriter

from flsim.events import Event, Reported, RunFinished
from flsim.hooks import RunView
from flsim_tensorboard.hparams import session_end, session_start
from flsim_tensorboard.plugin import Options

FLUSH_SECONDS = 5
"""After so many seconds what was written is in the file, for who watches the run."""


class TensorBoardWriter:
    """Observes a run: each metric that is reported becomes a curve over the rounds, the configuration its hparams,
    and how it ended their status and a text."""

    def __init__(self, run: RunView, options: Options) -> None:
        self._run = run
        self._nodes = options.nodes
        self._folder = _folder(run, options)
        self._writer: SummaryWriter | None = None

    def on(self, events: Sequence[Event]) -> None:
        for event in events:
            if isinstance(event, Reported):
                self._report(self._open(), event)
            elif isinstance(event, RunFinished):
                self._finish(self._open(), event)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()

    def _open(self) -> SummaryWriter:
        if self._writer is None:
            run = self._run
            self._writer = SummaryWriter(str(self._folder), flush_secs=FLUSH_SECONDS)
            hparams = {"backend": run.backend, "nodes": run.nodes, "seed": run.seed, **run.config}
            self._writer.file_writer.add_summary(session_start(hparams, time.time()))
        return self._writer

    def _report(self, writer: SummaryWriter, event: Reported) -> None:
        if event.node is not None and not self._nodes:
            return
        for name, value in event.metrics.items():
            tag = name if event.node is None else f"{name}/node-{event.node}"
            if isinstance(value, str):
                writer.add_text(tag, value, event.round)
            else:
                writer.add_scalar(tag, _number(value), event.round)

    def _finish(self, writer: SummaryWriter, event: RunFinished) -> None:
        facts: dict[str, object] = {
            "app": self._run.app,
            "ended": event.error or "finished",
            "seconds": f"{event.seconds:.2f}",
        }
        if event.result is not None:
            errors = event.result.sent - event.result.answered
            facts |= {"digest": event.result.digest, "messages": event.result.sent, "errors": errors}
        if self._run.run_dir is not None:
            facts["recorded in"] = self._run.run_dir
        rows = "\n".join(f"| {name} | {_cell(str(value))} |" for name, value in facts.items())
        writer.add_text("run", f"| | |\n|---|---|\n{rows}")
        writer.file_writer.add_summary(session_end(not event.error, time.time()))


def _folder(run: RunView, options: Options) -> Path:
    """Of this run alone, since a curve of TensorBoard is a folder's."""
    if options.folder is None and run.run_dir is not None:
        return run.run_dir
    name = f"{time.strftime('%Y%m%d-%H%M%S')}-{run.backend}-{secrets.token_hex(3)}"
    return Path(options.folder or "tensorboard") / (name if run.run_dir is None else run.run_dir.name)


def _number(value: float) -> float:
    try:
        return float(value)
    except OverflowError:  # an integer beyond all floats
        return math.inf if value > 0 else -math.inf


def _cell(text: str) -> str:
    """Text in a cell of a Markdown table, which TensorBoard renders."""
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")

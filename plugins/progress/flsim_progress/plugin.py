"""What this plugin offers."""

from __future__ import annotations

import os
import sys
from typing import TextIO

from flsim.events import Observer
from flsim.hooks import RunView, hookimpl


@hookimpl
def flsim_observer(run: RunView) -> Observer | None:
    """The progress of a run that is not quiet, in the form that fits where it goes."""
    if run.out is None:
        return None
    from flsim_progress.tally import rounds_of

    if _is_notebook(run.out):
        from flsim_progress.notebook import NotebookProgress

        return NotebookProgress(run.out, rounds_of(run.config))
    if _is_live(run.out):
        from flsim_progress.live import LiveProgress

        return LiveProgress(run.out, rounds_of(run.config))
    from flsim_progress.plain import PlainProgress

    return PlainProgress(run.out)


def _is_live(out: TextIO) -> bool:
    """Whether ``out`` is a terminal whose cursor can be moved, and which nobody else draws on."""
    if not out.isatty() or hasattr(out, "rich_proxied_file"):
        return False
    if not (out.encoding or "").lower().startswith("utf"):
        return False
    return os.environ.get("TERM", "dumb").lower() not in ("dumb", "unknown", "")


def _is_notebook(out: TextIO) -> bool:
    """Whether a kernel passes on to a notebook what is written to ``out``. Imports nothing to find out."""
    streams, ipython = sys.modules.get("ipykernel.iostream"), sys.modules.get("IPython")
    return (
        streams is not None
        and ipython is not None
        and isinstance(out, streams.OutStream)
        and ipython.get_ipython() is not None
    )

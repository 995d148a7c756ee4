"""What this plugin offers."""

from __future__ import annotations

from flsim.events import Observer
from flsim.hooks import RunView, hookimpl


@hookimpl
def flsim_observer(run: RunView) -> Observer | None:
    """The progress of a run that is not quiet."""
    if run.out is None:
        return None
    from flsim_progress.plain import PlainProgress

    return PlainProgress(run.out)

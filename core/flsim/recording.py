"""Whether a run is recorded, and where."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from flsim.errors import ConfigError

RUNS_DIR = "runs"
"""Where runs are kept, beneath the current folder, where nobody names another place."""

ROWS = 1_000_000
"""Messages of a run of which a row is kept, where nobody says how many."""


@dataclass(frozen=True, slots=True)
class Recording:
    """What is said of the recording of a run: by the app, or by the user. None: nothing is said.

    Raises:
        ConfigError: a value is of the wrong type, or contradicts another.
    """

    record: bool | None = None
    """Whether it is recorded."""
    runs_dir: str | None = None
    """The folder that holds the folders of runs."""
    rows: int | None = None
    """Messages of which a row is kept, at most."""

    def __post_init__(self) -> None:
        if self.record is not None and not isinstance(self.record, bool):
            raise ConfigError(f"record is true or false, not {self.record!r}")
        if self.runs_dir is not None and not (isinstance(self.runs_dir, str) and self.runs_dir):
            raise ConfigError(f"runs_dir is the path of a folder, not {self.runs_dir!r}")
        if self.rows is not None and (isinstance(self.rows, bool) or not isinstance(self.rows, int) or self.rows < 0):
            raise ConfigError(f"record_rows is a whole number, zero or more, not {self.rows!r}")
        if self.record is False and self.runs_dir is not None:
            raise ConfigError("a run that is not recorded has no runs_dir; give one or the other")

    def over(self, other: Recording) -> Recording:
        """This, and what it does not say as ``other`` says it."""
        said: dict[str, Any] = {k: v for k in ("record", "runs_dir", "rows") if (v := getattr(self, k)) is not None}
        if self.runs_dir is not None:
            said["record"] = True
        elif self.record is False:
            said["runs_dir"] = None
        return replace(other, **said)

    def folder(self, *, by_default: bool) -> Path | None:
        """Where the run is to be kept; None where it is not.

        Args:
            by_default: whether it is recorded where nobody says anything of it.
        """
        record = self.record if self.record is not None else self.runs_dir is not None or by_default
        return Path(self.runs_dir or RUNS_DIR).absolute() if record else None

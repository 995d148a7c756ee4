"""The files that the command writes."""

from __future__ import annotations

from dataclasses import dataclass, fields
from importlib.util import find_spec
from pathlib import Path

from flsim.errors import ConfigError
from flsim_bench.report import Report


@dataclass(frozen=True, slots=True)
class Outputs:
    """Where to write what."""

    json: Path | None = None
    html: Path | None = None
    png: Path | None = None

    def check(self) -> None:
        """Find out now what would be in the way later. Raises ConfigError."""
        for f in fields(self):
            file = getattr(self, f.name)
            if file is not None and (file.is_dir() or not file.absolute().parent.is_dir()):
                raise ConfigError(f"--{f.name} {file}: it is a folder, or there is none to write it into")
        if self.png is not None and find_spec("matplotlib") is None:
            raise ConfigError("--png needs matplotlib. Install it with: pip install 'flsim-bench[png]'")

    def write(self, report: Report) -> None:
        """Write them."""
        if self.json is not None:
            self.json.write_text(report.to_json(), encoding="utf-8")
        if self.html is not None:
            from flsim_bench.page import page

            self.html.write_text(page(report), encoding="utf-8")
        if self.png is not None:
            from flsim_bench.png import draw

            draw(report, self.png)

"""How Sphinx builds these pages. Every warning is an error there, and pages fetch nothing from the network."""

import re
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.util import logging

from flsim import __version__

log = logging.getLogger(__name__)

project = "flsim"
author = "the flsim developers"
release = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["examples"]
html_theme = "furo"
html_title = f"flsim {release}"
html_static_path = ["static"]
html_css_files = ["flsim.css"]
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
napoleon_numpy_docstring = False

REMOTE = re.compile(
    r'<(?:script|img|iframe|source)[^>]+src="(https?:)?//|<link[^>]+href="(https?:)?//|@import|url\(["\']?https?:'
)


def fetches_nothing(app: Sphinx, failed: Exception | None) -> None:
    """Warn of pages that would fetch a script, a font or a picture from elsewhere: they are read from disk, too."""
    if failed is None and app.builder.format == "html":
        for file in [*Path(app.outdir).rglob("*.html"), *Path(app.outdir).rglob("*.css")]:
            if match := REMOTE.search(file.read_text(encoding="utf-8")):
                log.warning("%s fetches from the network: %s", file.relative_to(app.outdir), match[0])


class PlainAttributes:
    """Undoes what napoleon does to docstrings of attributes: it takes what stands before a colon for a type."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def keep(self, app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
        """Before napoleon."""
        self._lines = list(lines)

    def restore(self, app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
        """After it."""
        if what in ("attribute", "property"):
            lines[:] = self._lines


def setup(app: Sphinx) -> None:
    """Sphinx calls this."""
    plain = PlainAttributes()
    app.connect("autodoc-process-docstring", plain.keep, priority=400)
    app.connect("autodoc-process-docstring", plain.restore, priority=600)
    app.connect("build-finished", fetches_nothing)

"""``flsim show``: runs that were kept."""

from __future__ import annotations


def show() -> None:
    """Show runs."""

"""Nothing may be left behind by a test."""

from pathlib import Path

import pytest

from flsim.testing.leaks import *  # noqa: F403  # fixtures


@pytest.fixture(autouse=True)
def elsewhere(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where commands run: they keep their runs there."""
    folder = tmp_path_factory.mktemp("elsewhere")
    monkeypatch.chdir(folder)
    return folder

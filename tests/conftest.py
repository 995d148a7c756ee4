"""Nothing may be left behind by a test."""

from pathlib import Path

import pytest

from flsim.testing.leaks import *  # noqa: F403  # fixtures


@pytest.fixture(scope="session")
def somewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where tests are run from: `flsim run` keeps its runs beneath the current folder."""
    return tmp_path_factory.mktemp("here")


@pytest.fixture(autouse=True)
def run_somewhere_else(somewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test depends on where it is started, nor keeps a run there."""
    monkeypatch.chdir(somewhere)

"""Runs that tests look at; and nothing may be left behind by one."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest
from recorded import APP, FLSIM, ODD, SLOW, flsim

from flsim.testing.leaks import *  # noqa: F403  # fixtures
from flsim_record.schema import read


@pytest.fixture(scope="session")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Sequence[Path]:
    """The folders of two runs of one app, on loky and on serial, both with failures."""
    folder = tmp_path_factory.mktemp("kept")
    (folder / "app.py").write_text(APP, encoding="utf-8")
    for backend in (("loky", "--set", "die=true"), ("serial",)):
        done = flsim("run", "app.py", "-n", "8", "--seed", "1", "-b", *backend, cwd=folder)
        assert done.returncode == 0, done.stderr
    return sorted((folder / "runs").iterdir())


@pytest.fixture(scope="session")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run with odd metrics."""
    folder = tmp_path_factory.mktemp("odd")
    (folder / "app.py").write_text(ODD, encoding="utf-8")
    done = flsim("run", "app.py", "-b", "serial", "--set", "word=\x1b[31mred", cwd=folder)
    assert done.returncode == 0, done.stderr
    (run,) = (folder / "runs").iterdir()
    return run


def leases_kept(runs: Path) -> int:
    """How many leases are in the database of the only run; it is written twice a second."""
    for file in runs.glob("*/run.sqlite"):
        with closing(read(file)) as database:
            return int(database.execute("SELECT count(*) FROM leases WHERE returned > 0").fetchone()[0])
    return 0


@pytest.fixture(scope="session")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run whose driver was killed in the midst of it."""
    folder = tmp_path_factory.mktemp("killed")
    (folder / "app.py").write_text(SLOW, encoding="utf-8")
    process = subprocess.Popen(
        [str(FLSIM), "run", "app.py", "-n", "4", "-b", "serial"], stdout=subprocess.PIPE, text=True, cwd=folder
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("round") and leases_kept(folder / "runs") > 4:
            break
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=30)
    (run,) = (folder / "runs").iterdir()
    return run

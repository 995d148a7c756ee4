"""Nothing may be left behind by a test, and nothing is told to MLflow's makers."""

import gc
import os
from collections.abc import Iterator

import pytest
from sqlalchemy import Engine

from flsim.testing.leaks import *  # noqa: F403  # fixtures

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"  # read when it is imported


@pytest.fixture(autouse=True)
def connections_are_closed(nothing_is_left_behind: None) -> Iterator[None]:
    """MLflow keeps those to a store in a file as long as the process lives."""
    yield
    for thing in gc.get_objects():
        if type(thing) is Engine:
            thing.dispose()

"""Nothing may be left behind by a test, and nothing is told to MLflow's makers."""

import os

from flsim.testing.leaks import *  # noqa: F403  # fixtures

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"  # read when it is imported

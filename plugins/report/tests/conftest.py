"""Nothing may be left behind by a test."""

from flsim.testing.leaks import *  # noqa: F403  # fixtures

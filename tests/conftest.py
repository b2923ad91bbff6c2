"""Settings for all tests."""

import os

from hypothesis import settings

# One property test must not take a machine's bad moment for a failure; the examples are the same on every run.
settings.register_profile("project", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("project")

# TensorFlow's start-up notes hide the test's own output.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

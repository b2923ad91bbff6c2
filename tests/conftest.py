"""Settings for all tests."""

import collections
import dataclasses
import os

import pytest
from hypothesis import settings

from faults import reliability

# One property test must not take a machine's bad moment for a failure; the examples are the same on every run.
settings.register_profile("project", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("project")

# TensorFlow's start-up notes hide the test's own output.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

_OUTCOMES = pytest.StashKey[collections.Counter]()
_IS_PARTIAL = pytest.StashKey[bool]()


def pytest_deselected(items):
    for item in items:
        item.getparent(pytest.Module).stash[_IS_PARTIAL] = True


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item):
    report = yield
    if report.when == "call" or not report.passed:
        item.getparent(pytest.Module).stash.setdefault(_OUTCOMES, collections.Counter())[report.outcome] += 1
    return report


@pytest.fixture(scope="module", autouse=True)
def row_of_the_module(request):
    """Records the `TRIAL` of a module that has one, where all its tests were run and passed."""
    yield
    outcomes = request.node.stash.get(_OUTCOMES, {})
    # Tests that are left out by naming others (path::test) are not told to `pytest_deselected`.
    is_whole = _IS_PARTIAL not in request.node.stash and not any("::" in name for name in request.config.args)
    if hasattr(request.module, "TRIAL") and is_whole and set(outcomes) == {"passed"}:
        path = request.path.relative_to(request.config.rootpath)
        times, command = f"{outcomes['passed']} tests", f"python -m pytest {path}"
        reliability.record(dataclasses.replace(request.module.TRIAL, times=times, command=command))

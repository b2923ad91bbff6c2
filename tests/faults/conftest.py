"""What the fault harness works on: small FOVs, a data set for training, and how often each fault is tried."""

from __future__ import annotations

import os
import pathlib

import commands
import jobs
import pytest

import small_fovs
import trainer_data

_HERE = pathlib.Path(__file__).parent


def pytest_collection_modifyitems(items):
    for item in items:
        if _HERE in item.path.parents:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def num_kills():
    """Kills of each command; FAULT_KILLS=30 for RELIABILITY.md."""
    return int(os.environ.get("FAULT_KILLS", "6"))


@pytest.fixture(scope="session")
def fovs(tmp_path_factory):
    """Folder with images/ and labels.csv of 8 FOVs of 384 px, 9 cells each."""
    return small_fovs.write_set(
        tmp_path_factory.mktemp("fovs"), num_fovs=8, labels=("0", "5", "7|0", "16"), num_cells=9, height=384, width=384
    )


@pytest.fixture(scope="session")
def examples(tmp_path_factory):
    """Data set of 48 training pictures of 32 px."""
    return trainer_data.write_dataset(tmp_path_factory.mktemp("examples") / "set")


@pytest.fixture(scope="session")
def cells(fovs, tmp_path_factory):
    """Cell store of the FOVs, made undisturbed."""
    folder = tmp_path_factory.mktemp("whole")
    status, lines = jobs.run(commands.segment(fovs), folder)
    assert status == 0, lines
    return folder / "cells"


@pytest.fixture(scope="session")
def dataset(cells, tmp_path_factory):
    """Data set of the cells, made undisturbed."""
    folder = tmp_path_factory.mktemp("whole")
    status, lines = jobs.run(commands.shard(cells), folder)
    assert status == 0, lines
    return folder / "dataset"

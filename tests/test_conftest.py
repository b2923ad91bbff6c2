"""A row of RELIABILITY.md stands for a whole module: whatever was left out or failed, there is no row."""

import os
import pathlib
import subprocess
import sys

import pytest

_TESTS = pathlib.Path(__file__).parent
_MODULE = """
import pytest
from faults import reliability
TRIAL = reliability.Trial("Killed", "fault", "outcome", "promise")
def test_one(): pass
@pytest.mark.slow
def test_two(): pass
def test_three(): pass
"""


@pytest.mark.parametrize(
    ("arguments", "num_rows"),
    [
        (["test_rows.py"], 1),
        (["test_rows.py", "-k", "one"], 0),
        (["test_rows.py", "-m", "not slow"], 0),
        (["test_rows.py", "--deselect", "test_rows.py::test_two"], 0),
        (["test_rows.py::test_one"], 0),
    ],
)
def test_a_part_of_a_module_has_no_row(tmp_path, arguments, num_rows):
    (tmp_path / "test_rows.py").write_text(_MODULE)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = slow\n")
    rows = tmp_path / "rows.jsonl"
    environment = {**os.environ, "RELIABILITY_OUT": str(rows), "PYTHONPATH": str(_TESTS)}
    command = [sys.executable, "-m", "pytest", "-p", "conftest", "-q", *arguments]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert (len(rows.read_text().splitlines()) if rows.exists() else 0) == num_rows

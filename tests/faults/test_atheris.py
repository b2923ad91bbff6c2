"""The targets of tests/test_fuzzing.py, driven by what code an input reaches; a few seconds each."""

import os
import pathlib
import re
import subprocess
import sys

import pytest
import reliability

from faults.fuzz_targets import TARGETS

pytest.importorskip("atheris", reason="atheris is not installed")

_SECONDS = os.environ.get("FUZZ_SECONDS", "2")
_MAX_LENGTH = 4096
_MAX_MEMORY_MB = 2048
_MAX_SECONDS_AN_INPUT = 20


@pytest.fixture(scope="module")
def executed():
    """Target that passed -> inputs and seconds; a row of all of them at the end."""
    found = {}
    yield found
    if found.keys() == TARGETS.keys():
        inputs, seconds = map(sum, zip(*found.values(), strict=True))
        reliability.record(
            reliability.Trial(
                part="Fuzzing",
                fault=f"Each of {len(TARGETS)} parsers fed bytes that atheris found by what code they reach",
                times=f"{inputs:,} inputs in {seconds} s",
                outcome="only the errors of the docstrings; no crash, no input of more than "
                f"{_MAX_SECONDS_AN_INPUT} s or {_MAX_MEMORY_MB} MB. Inputs: "
                + ", ".join(f"{name} {num:,} ({seconds} s)" for name, (num, seconds) in found.items()),
                promise="A damaged or made-up file ends in an error that names it.",
                command=f"FUZZ_SECONDS={_SECONDS} python -m pytest tests/faults/test_atheris.py",
            )
        )


@pytest.mark.parametrize("name", TARGETS)
def test_no_input_brings_out_another_error(name, executed, tmp_path):
    corpus, found = tmp_path / "corpus", tmp_path / "found"
    for folder in (corpus, found):
        folder.mkdir()
    for number, seed in enumerate(TARGETS[name].seeds()):
        (corpus / f"seed-{number}").write_bytes(seed)
    script = pathlib.Path(__file__).with_name("fuzz.py")
    limits = [
        f"-max_total_time={_SECONDS}",
        f"-max_len={_MAX_LENGTH}",
        f"-rss_limit_mb={_MAX_MEMORY_MB}",
        f"-timeout={_MAX_SECONDS_AN_INPUT}",
        # The same inputs on every run, as far as the time goes.
        "-seed=1",
    ]
    ended = subprocess.run(
        [sys.executable, str(script), name, str(corpus), *limits, f"-artifact_prefix={found}/"],
        capture_output=True,
        check=False,
        env={
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "OPENCV_LOG_LEVEL": "SILENT",
        },
    )
    output = ended.stderr.decode(errors="replace") + ended.stdout.decode(errors="replace")
    inputs = "\n".join(f"{path.name}: {path.read_bytes()!r}" for path in sorted(found.iterdir()))
    assert ended.returncode == 0, f"{name}:\n{output[-4000:]}\n{inputs}"
    done = re.search(r"Done (\d+) runs in (\d+) second", output)
    assert done, output[-2000:]
    executed[name] = (int(done[1]), int(done[2]))

"""The targets of tests/test_fuzzing.py, driven by what code an input reaches; a few seconds each."""

import os
import pathlib
import subprocess
import sys

import pytest

from faults.fuzz_targets import TARGETS

pytestmark = pytest.mark.slow
pytest.importorskip("atheris", reason="atheris is not installed")

_SECONDS = os.environ.get("FUZZ_SECONDS", "4")
_MAX_LENGTH = 4096
_MAX_MEMORY_MB = 2048
_MAX_SECONDS_AN_INPUT = 20


@pytest.mark.parametrize("name", TARGETS)
def test_no_input_brings_out_another_error(name, tmp_path):
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
    assert "Done " in output, output[-2000:]

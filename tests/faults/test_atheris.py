"""The targets of tests/test_fuzzing.py, driven by what code an input reaches; a few seconds each.

As CI runs it, a run does not go by the clock: libFuzzer starts from the same seeds with the same random numbers and tries as
many inputs as the target says, so it tries the same inputs every time, and fails where it has failed before. That holds for
one Python, one set of requirements and one state of the code: what an input reaches decides which is tried next.
FUZZ_SECONDS=60 goes on for so long instead, from the same start.
"""

import os
import pathlib
import re
import subprocess
import sys

import pytest
import reliability

from faults.fuzz_targets import MODULE_OF_TARGET, TARGETS

pytest.importorskip("atheris", reason="atheris is not installed")

_SECONDS = os.environ.get("FUZZ_SECONDS")
# A machine that needs more than that for two seconds' worth hangs.
_MAX_SECONDS = 300
_MIN_MAX_LENGTH = 4096
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
                times=f"{inputs:,} inputs in {seconds} s" + ("" if _SECONDS else ", the same ones every time"),
                outcome="only the errors of the docstrings; no crash, no input of more than "
                f"{_MAX_SECONDS_AN_INPUT} s or {_MAX_MEMORY_MB} MB. Inputs: "
                + ", ".join(f"{name} {num:,}" for name, (num, _) in found.items()),
                promise="A damaged or made-up file ends in an error that names it.",
                command=(f"FUZZ_SECONDS={_SECONDS} " if _SECONDS else "")
                + "python -m pytest tests/faults/test_atheris.py",
            )
        )


def fuzz(name, folder, how_long):
    """Runs libFuzzer on one target; returns its exit status, what it said, and the inputs that it found, in `folder`."""
    target = TARGETS[name]
    seeds = target.seeds()
    for number, seed in enumerate(seeds):
        (folder / f"seed-{number}").write_bytes(seed)
    found = folder / "found"
    found.mkdir()
    options = [
        *how_long,
        "-seed=1",
        # Files by name: in what order a folder lists them is the file system's business.
        "-seed_inputs=" + ",".join(str(folder / f"seed-{number}") for number in range(len(seeds))),
        f"-max_len={max(_MIN_MAX_LENGTH, 2 * max(map(len, seeds)))}",
        f"-rss_limit_mb={_MAX_MEMORY_MB}",
        f"-timeout={_MAX_SECONDS_AN_INPUT}",
        f"-artifact_prefix={found}/",
    ]
    script = pathlib.Path(__file__).with_name("fuzz.py")
    ended = subprocess.run(
        [sys.executable, str(script), f"{MODULE_OF_TARGET[name]}.{name}", *options],
        capture_output=True,
        check=False,
        env={
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "OPENCV_LOG_LEVEL": "SILENT",
            # Else sets of texts come in another order in every process, and with it what code is reached.
            "PYTHONHASHSEED": "0",
            "TMPDIR": str(folder),
        },
    )
    output = ended.stderr.decode(errors="replace") + ended.stdout.decode(errors="replace")
    inputs = "\n".join(f"{path.name}: {path.read_bytes()!r}" for path in sorted(found.iterdir()))
    return ended.returncode, output, inputs


@pytest.mark.parametrize("name", TARGETS)
def test_no_input_brings_out_another_error(name, executed, tmp_path):
    how_long = (
        [f"-max_total_time={_SECONDS}"]
        if _SECONDS
        else [f"-runs={TARGETS[name].num_runs}", f"-max_total_time={_MAX_SECONDS}"]
    )
    status, output, inputs = fuzz(name, tmp_path, how_long)
    assert status == 0, f"{name}:\n{output[-4000:]}\n{inputs}"
    done = re.search(r"Done (\d+) runs in (\d+) second", output)
    assert done, output[-2000:]
    if not _SECONDS:
        assert int(done[1]) >= TARGETS[name].num_runs, f"{name}: only {done[1]} inputs in {done[2]} s"
    executed[name] = (int(done[1]), int(done[2]))


def test_a_run_tries_the_same_inputs_again(tmp_path):
    def progress(folder):
        folder.mkdir()
        status, output, _ = fuzz("label_file", folder, ["-runs=3000"])
        assert status == 0, output[-2000:]
        # What each input that was worth keeping reached, how long it is and how it was made; not times and memory.
        lines = re.findall(r"^#\d+\t(?!pulse).*$", output, re.MULTILINE)
        return [re.sub(r"(exec/s|rss): \S+", "", line) for line in lines]

    first = progress(tmp_path / "first")
    assert len(first) > 10
    assert progress(tmp_path / "second") == first

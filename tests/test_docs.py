"""README.md and WORKSPACE.md tell the truth: every command that they name exists and takes the flags they give it."""

import pathlib
import re
import subprocess
import sys

import pytest

_ROOT = pathlib.Path(__file__).parents[1]
_DOCS = ("README.md", "WORKSPACE.md")
_COMMAND = re.compile(r"python -m ((?:beam_jobs|trainer)\.\w+)((?:[^`|\n]|\\\n)*)")
_FLAG = re.compile(r"--(\w+)")
# Not a job's own flags but those of a Beam runner.
_BEAM_FLAGS = {"runner", "flink_master"}


def commands():
    found = {}
    for name in _DOCS:
        for module, rest in _COMMAND.findall((_ROOT / name).read_text(), re.M):
            found.setdefault(module, set()).update(set(_FLAG.findall(rest)) - _BEAM_FLAGS)
    return found


@pytest.mark.parametrize(("module", "used"), sorted(commands().items()))
def test_command_of_the_docs_exists_with_its_flags(module, used):
    done = subprocess.run([sys.executable, "-m", module, "--help"], capture_output=True, text=True, timeout=120)
    known = set(re.findall(r"--(?:\[no\])?(\w+)", done.stdout))
    assert known, done.stderr
    assert used - known - {"help"} == set()


def test_targets_of_the_docs_are_in_the_makefile():
    makefile = (_ROOT / "Makefile").read_text()
    for name in _DOCS:
        for target in re.findall(r"(?:`|^)make ([a-z][\w-]*)", (_ROOT / name).read_text(), re.M):
            assert f"\n{target}:" in makefile, f"{name}: make {target}"


def test_files_that_the_map_names_are_there():
    text = (_ROOT / "WORKSPACE.md").read_text().split("```")[1]
    folder = ""
    for line in text.splitlines():
        if line and not line.startswith(" "):
            folder = line.split()[0]
        names = re.findall(r"[\w*]+\.(?:py|proto)", line.split("   ")[0] if not line.startswith(" ") else line)
        for name in names:
            assert list((_ROOT / folder).glob(name)), f"{folder}{name}"

"""The rules of direction between the packages, read from the imports."""

import ast
import pathlib

import pytest

_ROOT = pathlib.Path(__file__).parents[1]
_PACKAGES = {"proto": "hpa_proto", "beam_jobs": "beam_jobs", "trainer": "trainer"}
_FILES = sorted(path for package in _PACKAGES for path in (_ROOT / package).rglob("*.py"))

# Where a heavy library may be imported; everything else stays quick to import and easy to test.
_ALLOWED = {
    "apache_beam": {
        "beam_jobs/runner.py",
        "beam_jobs/forked_workers.py",
        "beam_jobs/local_worker.py",
        "beam_jobs/segment.py",
        "beam_jobs/segment_fovs.py",
        "beam_jobs/dataset_job.py",
        "beam_jobs/write_shards.py",
    },
    "tensorflow": {
        "trainer/benchmark_input.py",
        "trainer/dataset.py",
        "trainer/strategy.py",
        "trainer/tensorboard.py",
    },
    # hpacellseg.py imports it, and what needs it, only when a network is wanted: jobs run without torch.
    "torch": {
        "beam_jobs/segmenters/dpn_unet.py",
        "beam_jobs/segmenters/hpacellseg.py",
        "beam_jobs/segmenters/winograd.py",
        "trainer/benchmark_peers.py",  # its DataLoader is one of those compared
    },
}


def imported(path):
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add(node.module)
    return {name.split(".")[0] for name in names}


@pytest.mark.parametrize("path", _FILES, ids=lambda path: str(path.relative_to(_ROOT)))
def test_imports_follow_the_rules(path):
    name = path.relative_to(_ROOT).as_posix()
    names = imported(path)
    package = name.split("/")[0]
    others = {"beam_jobs", "trainer"} - {package}
    assert not names & others, f"{name} imports {names & others}: the halves meet in hpa_proto only"
    if package == "proto":
        assert not names & {"beam_jobs", "trainer"}
    for library, files in _ALLOWED.items():
        assert library not in names or name in files, f"{name} imports {library}"


@pytest.mark.parametrize("path", _FILES, ids=lambda path: str(path.relative_to(_ROOT)))
def test_flags_are_read_in_mains_only(path):
    text = path.read_text()
    is_main = 'if __name__ == "__main__"' in text or path.name == "command.py"
    assert is_main or "absl.flags" not in text.replace("from absl import flags", "absl.flags")


def test_proto_has_no_init():
    assert not (_ROOT / "proto" / "__init__.py").exists(), "it would shadow proto-plus, which Beam imports as `proto`"

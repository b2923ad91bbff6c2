"""Whatever stands where a FOV is wanted becomes a dead letter or good cells: no stop, no hang, no memory gone."""

from __future__ import annotations

import collections
import json
import re
import sys

import jobs
import mutated_fovs
import pandas as pd
import pytest
import reliability

import small_fovs
from beam_jobs import fov_reader, fov_source
from hpa_proto.errors import FovError

_NUM_CELLS = 4
_MAX_FOV_PIXELS = 1_000_000
# A FOV of the limit takes less than this, at 80 bytes a pixel (four channels, float copies, distance maps).
# Peak memory of a command in KB, as its last line: asked of a small process of its own, because a child begins with the
# peak of the process that starts it.
_LAUNCHER = """
import resource, subprocess, sys
status = subprocess.call(sys.argv[1:])
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // (1024 if sys.platform == "darwin" else 1))
sys.exit(status)
"""
_MEMORY_KB = 80 * _MAX_FOV_PIXELS // 1024


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """images/ of 200 FOVs whose green picture is mutated, and of 4 sound ones, with masks/ for all."""
    folder = tmp_path_factory.mktemp("mutants")
    small_fovs.write_set(folder, num_fovs=mutated_fovs.NUM_MUTANTS + 4, num_cells=_NUM_CELLS)
    small_fovs.write_set(folder / "sound", num_fovs=4, num_cells=_NUM_CELLS)
    grey = small_fovs.draw_fov(seed=0)[0][..., 1]
    names = {}
    for index, (name, data) in enumerate(mutated_fovs.make_mutants(grey, seed=9), start=4):
        (folder / "images" / f"fov-{index}_green.png").write_bytes(data)
        names[f"fov-{index}"] = name
    (folder / "names.json").write_text(json.dumps(names))
    return folder


def segment(folder, cells_dir):
    """Runs the command; returns its peak memory in KB and the lines of its output."""
    where = (f"--images={folder}/images", f"--labels={folder}/labels.csv", f"--masks_dir={folder}/masks")
    how = ("--segmenter=masks", "--pixel_size_um=0.5", "--max_dead_fraction=1", f"--max_fov_pixels={_MAX_FOV_PIXELS}")
    cells_dir.parent.mkdir(exist_ok=True)
    command = jobs.command("beam_jobs.segment", *where, *how, f"--cells_dir={cells_dir}")
    status, lines = jobs.run([sys.executable, "-c", _LAUNCHER, *command], cells_dir.parent)
    assert status == 0, lines
    return int(lines[-1]), lines


def test_mutated_fovs_become_dead_letters_or_good_cells(folder, tmp_path):
    sound_kb, _ = segment(folder / "sound", tmp_path / "sound" / "cells")
    peak_kb, lines = segment(folder, tmp_path / "mutants" / "cells")
    names = json.loads((folder / "names.json").read_text())
    fovs = pd.read_parquet(tmp_path / "mutants" / "cells" / "fovs.parquet").set_index("fov_id")
    assert len(names) == mutated_fovs.NUM_MUTANTS
    assert set(names) <= set(fovs.index)
    good = fovs[fovs["error_reason"] == ""]
    dead = fovs[fovs["error_reason"] != ""]
    assert set(good["num_cells"]) == {_NUM_CELLS}
    assert dead["error_detail"].str.len().between(20, 1000).all()
    # Those beside them are what they are without bad company.
    expected, found = (jobs.contents(tmp_path / name / "cells" / "fovs") for name in ("sound", "mutants"))
    assert {name: found[name] for name in expected if name.endswith(".tfrecord")} == {
        name: digest for name, digest in expected.items() if name.endswith(".tfrecord")
    }
    assert peak_kb < sound_kb + _MEMORY_KB, lines
    reasons = collections.Counter(dead["error_reason"])
    reliability.record(
        reliability.Trial(
            part="Bad input",
            fault="FOV files that are cut, altered, of huge declared sizes, packed bombs, of other formats, animated, CMYK, "
            "palette, 1 bit, 16 bit, float, empty",
            times=f"{len(names)} files",
            outcome=f"{len(dead)} dead letters ({', '.join(f'{n} {reason}' for reason, n in reasons.most_common())}), "
            f"{len(names) - len(dead)} read as good cells; peak memory {peak_kb / 1024:.0f} MB, of four sound FOVs alone "
            f"{sound_kb / 1024:.0f} MB",
            promise="A bad FOV costs its own cells and nothing else.",
            command="python -m pytest -m slow tests/faults/test_mutated_fovs.py",
        )
    )


@pytest.mark.parametrize(
    ("name", "reason", "words"),
    [
        ("PNG declared 60,000 px square", "too_large", "60000 x 60000 = 3,600,000,000 px, --max_fov_pixels=1000000"),
        ("PNG of 20,000 px square in 400 KB", "too_large", "20000 x 20000"),
        ("JPEG declared 60,000 px square", "too_large", "60000 x 60000"),
        ("TIFF declared 60,000 px high", "too_large", "128 x 60000"),
        ("TIFF of tiles of 60,000 px", "too_large", "3,600,000,000 samples"),
        ("TIFF, 32-bit float", "wrong_depth", "float32"),
        ("GIF behind .png", "unreadable_image", "GIF87a"),
    ],
)
def test_a_dead_letter_says_what_was_found(folder, name, reason, words):
    names = json.loads((folder / "names.json").read_text())
    fov_id = next(fov_id for fov_id, text in names.items() if text == name)
    (fov,) = [fov for fov in fov_source.find_fovs(f"{folder}/images", None).fovs if fov.fov_id == fov_id]
    with pytest.raises(FovError, match=re.escape(words)) as caught:
        fov_reader.read_fov(fov, max_pixels=_MAX_FOV_PIXELS)
    assert caught.value.reason == reason

"""Whatever stands where a FOV is wanted becomes a dead letter or cells of its own: no stop, no hang, no memory gone.

Damage that a reader can see, it must see: what is read has the pixels of the undamaged file. PNG has checksums. JPEG has
none, nor has TIFF beside deflate's; libjpeg warns of some damage, but no library in requirements.txt hands its warnings on. Of
these formats it is counted what was read with other pixels.
"""

from __future__ import annotations

import collections
import re
import sys

import jobs
import mutated_fovs
import numpy as np
import pandas as pd
import pytest
import reliability

import small_fovs
from beam_jobs import fov_reader, fov_source
from hpa_proto.errors import FovError

_NUM_CELLS = 4
_MAX_FOV_PIXELS = 1_000_000
# A FOV of the limit takes less than this, at 80 bytes a pixel (four channels, float copies, distance maps).
_MEMORY_KB = 80 * _MAX_FOV_PIXELS // 1024
# Peak memory of a command in KB, as its last line: asked of a small process of its own, because a child begins with the
# peak of the process that starts it.
_LAUNCHER = """
import resource, subprocess, sys
status = subprocess.call(sys.argv[1:])
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // (1024 if sys.platform == "darwin" else 1))
sys.exit(status)
"""


@pytest.fixture(scope="module")
def mutants():
    """FOV id -> mutant."""
    made = mutated_fovs.make_mutants(small_fovs.draw_fov(seed=0)[0], seed=9)
    return {f"fov-{index}": mutant for index, mutant in enumerate(made, start=4)}


@pytest.fixture(scope="module")
def folder(mutants, tmp_path_factory):
    """images/ of 200 mutated FOVs and of 4 sound ones, with masks/ for all; sound/ of these 4 alone."""
    folder = tmp_path_factory.mktemp("mutants")
    small_fovs.write_set(folder, num_fovs=mutated_fovs.NUM_MUTANTS + 4, num_cells=_NUM_CELLS)
    small_fovs.write_set(folder / "sound", num_fovs=4, num_cells=_NUM_CELLS)
    for fov_id, mutant in mutants.items():
        paths = small_fovs.write_fov(folder / "images", fov_id, small_fovs.draw_fov(seed=0)[0])
        if not mutant.files.keys() & {f"_{channel}.png" for channel in paths}:
            for path in paths.values():
                path.unlink()
        for end, data in mutant.files.items():
            (folder / "images" / f"{fov_id}{end}").write_bytes(data)
    return folder


@pytest.fixture(scope="module")
def fovs(folder):
    """FOV id -> FOV."""
    return {fov.fov_id: fov for fov in fov_source.find_fovs(f"{folder}/images", None).fovs}


def segment(folder, cells_dir):
    """Runs the command; returns its peak memory in KB and the lines of its output."""
    where = (f"--images={folder}/images", f"--labels={folder}/labels.csv", f"--masks_dir={folder}/masks")
    how = ("--segmenter=masks", "--pixel_size_um=0.5", "--max_dead_fraction=1", f"--max_fov_pixels={_MAX_FOV_PIXELS}")
    cells_dir.parent.mkdir(exist_ok=True)
    command = jobs.command("beam_jobs.segment", *where, *how, f"--cells_dir={cells_dir}")
    status, lines = jobs.run([sys.executable, "-c", _LAUNCHER, *command], cells_dir.parent)
    assert status == 0, lines
    return int(lines[-1]), lines


def find_altered(mutants, fovs, fov_ids):
    """Ids of the FOVs that are read with other pixels than an undamaged file's."""
    return [
        fov_id
        for fov_id in fov_ids
        if not np.array_equal(
            fov_reader.read_fov(fovs[fov_id], max_pixels=_MAX_FOV_PIXELS).pixels, mutants[fov_id].pixels
        )
    ]


def test_mutated_fovs_become_dead_letters_or_cells(mutants, folder, fovs, tmp_path):
    sound_kb, _ = segment(folder / "sound", tmp_path / "sound" / "cells")
    peak_kb, lines = segment(folder, tmp_path / "mutants" / "cells")
    rows = pd.read_parquet(tmp_path / "mutants" / "cells" / "fovs.parquet").set_index("fov_id").loc[list(mutants)]
    assert len(rows) == mutated_fovs.NUM_MUTANTS
    read = rows[rows["error_reason"] == ""]
    dead = rows[rows["error_reason"] != ""]
    assert set(read["num_cells"]) == {_NUM_CELLS}
    assert dead["error_detail"].str.len().between(20, 1000).all()
    # Those beside them are what they are without bad company.
    expected, found = (jobs.contents(tmp_path / name / "cells" / "fovs") for name in ("sound", "mutants"))
    assert {name: found[name] for name in expected if name.endswith(".tfrecord")} == {
        name: digest for name, digest in expected.items() if name.endswith(".tfrecord")
    }
    assert peak_kb < sound_kb + _MEMORY_KB, lines
    altered = [mutants[fov_id] for fov_id in find_altered(mutants, fovs, read.index)]
    for mutant in altered:
        assert mutant.name == mutated_fovs.HALF_JPEG or mutant.name.endswith("flipped bits")
        assert "PNG" not in mutant.name
        assert "deflate" not in mutant.name
    num_jpegs = sum("JPEG" in mutant.name for mutant in altered)
    reasons = collections.Counter(dead["error_reason"])
    reliability.record(
        reliability.Trial(
            part="Bad input",
            fault="FOVs whose PNG, JPEG, TIFF or OME-TIFF is cut, altered, of huge declared sizes, a packed bomb, of another "
            "format, animated, interlaced, CMYK, palette, 1 bit, 16 bit, float, empty; one channel, three or all of them",
            times=f"{len(mutants)} FOVs",
            outcome=f"{len(dead)} dead letters ({', '.join(f'{n} {reason}' for reason, n in reasons.most_common())}), "
            f"{len(read)} read as cells, {len(read) - len(altered)} of them with the pixels of the undamaged file and "
            f"{len(altered)} with others: {num_jpegs} JPEGs and {len(altered) - num_jpegs} TIFFs, uncompressed or LZW, "
            f"none of which has a checksum; no PNG; peak memory {peak_kb / 1024:.0f} MB, of four sound FOVs alone "
            f"{sound_kb / 1024:.0f} MB",
            promise="A bad FOV costs its own cells and nothing else; a damaged PNG is not taken for a picture.",
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
        ("TIFF of 500 pages", "wrong_channel_count", "over 100 pages"),
        ("GIF behind .png", "unreadable_image", "GIF87a"),
        ("PNG, flipped bits", "unreadable_image", "its checksum is wrong"),
        ("OME-TIFF whose yellow is in another file", "missing_channel", "in other files"),
    ],
)
def test_a_dead_letter_says_what_was_found(mutants, fovs, name, reason, words):
    fov_id = next(fov_id for fov_id, mutant in mutants.items() if mutant.name == name)
    with pytest.raises(FovError, match=re.escape(words)) as caught:
        fov_reader.read_fov(fovs[fov_id], max_pixels=_MAX_FOV_PIXELS)
    assert caught.value.reason == reason

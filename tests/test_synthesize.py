"""`beam_jobs.synthesize` writes the same bytes for the same flags, truth beside the pixels, or nothing at all."""

import csv
import dataclasses
import hashlib
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest

from beam_jobs import synthesize
from beam_jobs.simulation import label_plan
from beam_jobs.synthesize import SynthesizeConfig
from hpa_proto import labels as labels_lib
from hpa_proto import schema
from hpa_proto.errors import ConfigError

ROOT = Path(__file__).resolve().parent.parent


def small_config(out_dir, **changes) -> SynthesizeConfig:
    defaults = SynthesizeConfig(
        out_dir=str(out_dir), num_fovs=3, labels=(0, 16, 18), height_px=96, width_px=128, pixel_size_um=0.48
    )
    return dataclasses.replace(defaults, **changes)


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def read_table(path: Path) -> dict[str, tuple[int, ...]]:
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    table = {row["ID"]: labels_lib.parse_label_set(row["Label"]) for row in rows}
    assert len(table) == len(rows)
    return table


def read_plane(path: Path) -> np.ndarray:
    plane = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert plane is not None, path
    return plane


def test_writes_every_channel_mask_and_table(tmp_path):
    summary = synthesize.run(small_config(tmp_path))
    names = {f"sim-{index:05d}" for index in range(3)}
    expected = {f"images/{name}_{channel}.png" for name in names for channel in schema.CHANNELS}
    expected |= {f"masks/{name}_{kind}.png" for name in names for kind in ("cell", "nuclei")}
    assert set(digests(tmp_path)) == expected | {"labels.csv", "cell_labels.csv"}
    assert summary.num_fovs == 3
    assert summary.num_bytes == sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
    for name in names:
        planes = [read_plane(tmp_path / "images" / f"{name}_{channel}.png") for channel in schema.CHANNELS]
        assert {(plane.shape, plane.dtype.name) for plane in planes} == {((96, 128), "uint8")}


def test_tables_agree_with_masks(tmp_path):
    summary = synthesize.run(small_config(tmp_path, weak_label_share=0.5))
    fovs, cells = read_table(tmp_path / "labels.csv"), read_table(tmp_path / "cell_labels.csv")
    assert fovs == {"sim-00000": (0,), "sim-00001": (16,), "sim-00002": (18,)}
    assert len(cells) == summary.num_cells
    for name, labels in fovs.items():
        mask = read_plane(tmp_path / "masks" / f"{name}_cell.png")
        nuclei = read_plane(tmp_path / "masks" / f"{name}_nuclei.png")
        assert mask.dtype == nuclei.dtype == np.uint16
        assert {f"{name}_{index}" for index in range(1, mask.max() + 1)} == {
            cell for cell in cells if cell.startswith(name)
        }
        assert set(np.unique(nuclei)) == set(np.unique(mask))
        assert all(cells[f"{name}_{i}"] in (labels, (labels_lib.NEGATIVE,)) for i in range(1, mask.max() + 1))
    assert (labels_lib.NEGATIVE,) in [shown for cell, shown in cells.items() if not cell.startswith("sim-00002")]


def test_same_flags_same_bytes_with_one_and_two_workers(tmp_path):
    for name, num_workers in (("first", 1), ("again", 1), ("two", 2)):
        synthesize.run(small_config(tmp_path / name, num_workers=num_workers, labels_per_fov_max=2))
    assert digests(tmp_path / "first") == digests(tmp_path / "again") == digests(tmp_path / "two")


def test_a_fov_depends_on_seed_and_index_only(tmp_path):
    synthesize.run(small_config(tmp_path / "three"))
    synthesize.run(small_config(tmp_path / "two", num_fovs=2))
    synthesize.run(small_config(tmp_path / "other", num_fovs=2, seed=1))
    three, two, other = (digests(tmp_path / name) for name in ("three", "two", "other"))
    images = [name for name in two if name.startswith(("images", "masks"))]
    assert all(three[name] == two[name] for name in images)
    assert all(other[name] != two[name] for name in images)
    assert len({three[f"images/sim-0000{index}_blue.png"] for index in range(3)}) == 3


@pytest.mark.parametrize(("bit_depth", "dtype"), [(8, np.uint8), (12, np.uint16), (14, np.uint16), (16, np.uint16)])
def test_bit_depth_of_the_files(tmp_path, bit_depth, dtype):
    synthesize.run(small_config(tmp_path, num_fovs=1, bit_depth=bit_depth))
    blue = read_plane(tmp_path / "images" / "sim-00000_blue.png")
    assert blue.dtype == dtype
    assert 2 ** (bit_depth - 2) < blue.max() < 2**bit_depth


def plan(*, num_fovs: int, labels=tuple(range(labels_lib.NUM_LABELS)), labels_per_fov_max=1, class_skew=0.0):
    return label_plan.plan_labels(
        labels,
        np.random.default_rng(0),
        num_fovs=num_fovs,
        labels_per_fov_max=labels_per_fov_max,
        class_skew=class_skew,
    )


def test_classes_get_fovs_in_turn():
    assert plan(num_fovs=38) == [(label,) for label in range(labels_lib.NUM_LABELS)] * 2


def test_class_skew_makes_frequencies_fall_geometrically():
    planned = plan(num_fovs=700, labels=(5, 3, 9), class_skew=float(np.log(2)))
    assert Counter(planned) == {(5,): 400, (3,): 200, (9,): 100}


def test_several_labels_are_sets_that_can_be_drawn():
    planned = plan(num_fovs=400, labels_per_fov_max=3)
    assert {len(labels) for labels in planned} == {1, 2, 3}
    for labels in planned:
        assert list(labels) == sorted(set(labels))
        assert labels == (18,) or 18 not in labels
        assert 11 not in labels or not set(labels) & set(range(6))


def test_crowding_range_gives_sparse_and_crowded_fovs(tmp_path):
    synthesize.run(small_config(tmp_path, num_fovs=4, crowding=(0.0, 1.0), height_px=160, width_px=160))
    covered = [(read_plane(path) > 0).mean() for path in sorted((tmp_path / "masks").glob("*_cell.png"))]
    assert max(covered) - min(covered) > 0.3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_fovs": 0}, "--num_fovs=0"),
        ({"labels": ()}, "labels"),
        ({"labels": (3, 3)}, "twice"),
        ({"labels": (19,)}, "0 to 18"),
        ({"labels_per_fov_max": 0}, "--labels_per_fov_max=0"),
        ({"weak_label_share": 1.2}, "weak_label_share"),
        ({"height_px": 10}, "height_px 10"),
        ({"pixel_size_um": -1.0}, "pixel_size_um"),
        ({"crowding": (0.8, 0.2)}, "--crowding"),
        ({"crowding": (0.2, 1.2)}, "crowding"),
        ({"bit_depth": 10}, "bit_depth"),
        ({"class_skew": -1.0}, "--class_skew"),
        ({"seed": -1}, "--seed"),
        ({"num_workers": 0}, "--num_workers"),
    ],
)
def test_bad_config_fails_before_anything_is_written(tmp_path, change, message):
    out_dir = tmp_path / "sim"
    with pytest.raises(ConfigError, match=message):
        synthesize.run(small_config(out_dir, **change))
    assert not out_dir.exists()


def test_folder_of_a_larger_run_is_refused_untouched(tmp_path):
    synthesize.run(small_config(tmp_path))
    before = digests(tmp_path)
    with pytest.raises(ConfigError, match=r"sim-00002.* of another run"):
        synthesize.run(small_config(tmp_path, num_fovs=2))
    assert digests(tmp_path) == before


def test_out_dir_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "sim").write_text("mine")
    with pytest.raises(ConfigError, match="is a file"):
        synthesize.run(small_config(tmp_path / "sim"))


def command(*flags: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "beam_jobs.synthesize", *flags],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_command_says_what_it_wrote_and_what_comes_next(tmp_path):
    size = ["--height_px=96", "--width_px=96", "--pixel_size_um=0.48", "--crowding=0.5", "--num_fovs=2"]
    done = command(f"--out_dir={tmp_path / 'sim'}", "--labels=Nucleoli,16", *size)
    assert done.returncode == 0, done.stderr
    assert f"wrote 2 FOVs with {len(read_table(tmp_path / 'sim' / 'cell_labels.csv'))} cells" in done.stdout
    assert f"python -m beam_jobs.convert --images={tmp_path / 'sim' / 'images'}" in done.stdout
    assert set(read_table(tmp_path / "sim" / "labels.csv").values()) == {(2,), (16,)}


@pytest.mark.parametrize(
    ("flag", "message"),
    [("--labels=Nucleolus", "neither a number"), ("--crowding=a", "--crowding=a"), ("--colour=red", "--colour=red")],
)
def test_bad_flag_is_one_line_and_status_1(tmp_path, flag, message):
    done = command(f"--out_dir={tmp_path / 'sim'}", flag)
    assert done.returncode == 1
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "sim").exists()

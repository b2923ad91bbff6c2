"""Promises of the dry run: it says what the job would do, reads no pixel, writes no data set."""

import shutil
import subprocess
import sys

import cv2
import pytest
from absl import flags
from absl.testing import flagsaver

import small_dataset
from beam_jobs import dry_run, shard
from beam_jobs.dry_run import DryRunConfig
from beam_jobs.plan_config import PlanConfig
from hpa_proto.errors import ConfigError

_PLAN = PlanConfig(splits=(("train", 3), ("test", 1)), cells_per_shard=8)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return small_dataset.make(tmp_path_factory.mktemp("made"), plan=_PLAN)


@pytest.fixture
def tables(made, tmp_path):
    """A cell store of which only config and tables are there."""
    folder = tmp_path / "cells"
    folder.mkdir()
    for name in ("config.json", "cells.parquet", "fovs.parquet"):
        shutil.copy(made.cells_dir / name, folder)
    return folder


def run_command(module, *flags):
    return subprocess.run([sys.executable, "-m", module, *flags], capture_output=True, text=True, timeout=300)


def test_dry_run_counts_what_the_job_makes_without_a_pixel(made, tables):
    result = dry_run.run(DryRunConfig(cells_dir=str(tables), plan=_PLAN))
    summary = made.sharded.summary
    assert result.summary.per_class.equals(summary.per_class)
    assert result.summary.per_split.equals(summary.per_split)
    assert result.summary.dropped == summary.dropped == {"multi_label_fov": 8}
    assert sorted(path.name for path in tables.parent.rglob("*.*")) == ["cells.parquet", "config.json", "fovs.parquet"]


def test_words_name_every_reason_class_and_split(tables):
    config = DryRunConfig(cells_dir=str(tables), plan=_PLAN)
    words = dry_run.describe(dry_run.run(config), config)
    for part in (
        "32 in the store: 24 would be kept",
        "8 would be dropped: multi_label_fov",
        "before    The largest class has 2.0 times as many cells as the smallest: Nucleoplasm 16",
        "after     The largest class has 1.0 times as many",
        "split     train: 12 cells (50.00 %, wanted 75.00 %) of 3 FOVs in 2 shards",
        "Golgi apparatus",
        "no data set was written",
    ):
        assert part in words


def test_picture_is_drawn_and_only_as_png_of_classes(tables, tmp_path):
    path = tmp_path / "plan.png"
    dry_run.run(DryRunConfig(cells_dir=str(tables), plan=_PLAN, picture_path=str(path)))
    assert cv2.imread(str(path)).shape[1] > 1000
    with pytest.raises(ConfigError, match=r"ends in \.png"):
        DryRunConfig(cells_dir="cells", plan=_PLAN, picture_path="plan.html")
    unlabelled = PlanConfig(label_scope="unlabelled", splits=(("predict", 1),))
    with pytest.raises(ConfigError, match="knows none"):
        DryRunConfig(cells_dir="cells", plan=unlabelled, picture_path="plan.png")


def test_unlabelled_cells_have_no_table_of_classes(tables):
    config = DryRunConfig(cells_dir=str(tables), plan=PlanConfig(label_scope="unlabelled", splits=(("predict", 1),)))
    words = dry_run.describe(dry_run.run(config), config)
    assert "predict: 32 cells" in words
    assert "Nucleoplasm" not in words


def test_command_with_a_list_of_cells_to_leave_out(tables, tmp_path):
    listed = tmp_path / "doubtful.csv"
    listed.write_text("cell_id,score\nfov-0_1,0.1\nfov-1_2,0.2\n")
    done = run_command("beam_jobs.shard", f"--cells_dir={tables}", "--dry_run", f"--exclude={listed}")
    assert done.returncode == 0, done.stderr
    assert "2 would be dropped: excluded" in done.stdout


def run_main(*arguments):
    """Runs the main in this process: starting another takes seconds."""
    with flagsaver.flagsaver():
        rest = flags.FLAGS(["shard", *arguments], known_only=True)
        shard.main(rest[1:])


def test_unknown_cells_to_leave_out_are_counted_and_the_first_named(tables, tmp_path):
    listed = tmp_path / "doubtful.txt"
    listed.write_text("fov-0_1\nfov-0_99\nfov-9_1\n")
    with pytest.raises(ConfigError, match="2 ids are not in the cell table, first fov-0_99, fov-9_1"):
        run_main(f"--cells_dir={tables}", "--dry_run", f"--exclude={listed}")


def test_mistyped_flag_of_a_dry_run_is_an_error(tables):
    with pytest.raises(ConfigError, match="unknown flag --max_cell_per_class=3"):
        run_main(f"--cells_dir={tables}", "--dry_run", "--max_cell_per_class=3")


def test_picture_without_dry_run_is_an_error(tables):
    with pytest.raises(ConfigError, match="add --dry_run"):
        run_main(f"--cells_dir={tables}", "--data_dir=dataset", "--dry_run_out=plan.png")


def test_convert_plans_with_cells_that_are_there_and_segments_none(made, tables):
    done = run_command(
        "beam_jobs.convert",
        f"--images={made.images_dir}",
        f"--labels={made.images_dir.parent}/labels.csv",
        f"--cells_dir={tables}",
        f"--data_dir={tables.parent}/dataset",
        "--segmenter=masks",
        f"--masks_dir={made.masks_dir}",
        "--dry_run",
    )
    assert done.returncode == 0, done.stderr
    assert "32 in the store: 24 would be kept" in done.stdout
    assert not (tables.parent / "dataset").exists()
    assert sorted(path.name for path in tables.iterdir()) == ["cells.parquet", "config.json", "fovs.parquet"]

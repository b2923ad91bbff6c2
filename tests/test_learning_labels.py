"""Wrong labels are found: simulated FOVs, a tenth of them labelled wrongly, through the commands that a user types."""

import csv
import random
import subprocess
import sys

import pandas as pd
import pytest

from beam_jobs.exclusions import read_exclusions

CLASSES = "7,14,2,8,5,4,16,0"
NUM_FOVS, NUM_FOLDS = 128, 3
WRONG_SHARE = 0.1


def run(module, **flags):
    arguments = [f"--{name}" if value is True else f"--{name}={value}" for name, value in flags.items()]
    done = subprocess.run([sys.executable, "-m", module, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def flip_labels(path, target):
    """Gives a tenth of the FOVs the label of another class; returns their ids."""
    rows = list(csv.DictReader(path.open()))
    draw = random.Random(0)
    flipped = draw.sample(rows, round(WRONG_SHARE * len(rows)))
    for row in flipped:
        row["Label"] = draw.choice([label for label in CLASSES.split(",") if label != row["Label"]])
    with target.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return {row["ID"] for row in flipped}


@pytest.mark.slow
@pytest.mark.learning
def test_cells_of_wrongly_labelled_fovs_come_first(tmp_path):
    fovs, cells, data_dir = tmp_path / "fovs", tmp_path / "cells", tmp_path / "set"
    size = {"height_px": 640, "width_px": 640, "pixel_size_um": 0.16}
    run("beam_jobs.synthesize", out_dir=fovs, num_fovs=NUM_FOVS, labels=CLASSES, num_workers=2, **size)
    wrong = flip_labels(fovs / "labels.csv", tmp_path / "labels.csv")
    sources = {"images": fovs / "images", "labels": tmp_path / "labels.csv"}
    run("beam_jobs.segment", **sources, cells_dir=cells, pixel_size_um=0.16, num_workers=2)
    run("beam_jobs.shard", cells_dir=cells, data_dir=data_dir, num_folds=NUM_FOLDS, image_size_px=64)
    for fold in range(NUM_FOLDS):
        run(
            "trainer.train",
            data_dir=data_dir,
            runs_dir=tmp_path,
            name=f"cv{fold}",
            fold=fold,
            num_folds=NUM_FOLDS,
            model="resnet10w16",
            batch_size=32,
            epochs=8,
            optimizer="adamw",
            learning_rate=3e-3,
            weight_decay=0.02,
            schedule="cosine",
            warmup_epochs=1,
        )
    runs = ",".join(str(tmp_path / f"cv{fold}") for fold in range(NUM_FOLDS))
    out_dir = tmp_path / "label-errors"
    run("trainer.find_label_errors", runs=runs, data_dir=data_dir, out_dir=out_dir, max_cells=200)

    ranked = pd.read_parquet(out_dir / "label_errors.parquet")
    is_wrong = ranked["fov_id"].isin(wrong)
    half = int(is_wrong.sum()) // 2
    assert half > 50
    print(
        f"of the first {half} cells {is_wrong.head(half).mean():.3f} have a wrong label, of all {is_wrong.mean():.3f}"
    )
    assert is_wrong.head(half).mean() >= 0.7

    # The list is taken as it is, and leaves fewer wrong labels.
    exclude = out_dir / "exclude.csv"
    printed = run("beam_jobs.shard", cells_dir=cells, data_dir=tmp_path / "clean", exclude=exclude, image_size_px=64)
    listed = set(read_exclusions(str(exclude)))
    assert f"{len(listed)} dropped: excluded" in printed
    assert ranked.loc[~ranked["cell_id"].isin(listed), "fov_id"].isin(wrong).mean() < is_wrong.mean() / 2

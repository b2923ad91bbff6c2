"""Training leads somewhere: simulated FOVs through the commands that a user types, to an accuracy and to a loss."""

import csv
import json
import subprocess
import sys

import pytest

# The old project's twelve classes.
CLASSES = "12,16,6,7,8,14,5,4,2,3,0,13"


def run(module, **flags):
    arguments = [f"--{name}" if value is True else f"--{name}={value}" for name, value in flags.items()]
    done = subprocess.run([sys.executable, "-m", module, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    """A cell store of 240 FOVs, 20 a class."""
    folder = tmp_path_factory.mktemp("simulated")
    fovs = {"num_fovs": 240, "labels": CLASSES, "height_px": 768, "width_px": 768, "pixel_size_um": 0.16}
    run("beam_jobs.synthesize", out_dir=folder / "fovs", num_workers=2, **fovs)
    images, labels = folder / "fovs" / "images", folder / "fovs" / "labels.csv"
    store = folder / "cells"
    run("beam_jobs.segment", images=images, labels=labels, cells_dir=store, pixel_size_um=0.16, num_workers=2)
    return store


@pytest.mark.slow
@pytest.mark.learning
def test_small_network_tells_twelve_classes_of_unseen_fovs_apart(cells, tmp_path):
    run("beam_jobs.shard", cells_dir=cells, data_dir=tmp_path / "set", image_size_px=128, cells_per_shard=512)
    run(
        "trainer.train",
        data_dir=tmp_path / "set",
        runs_dir=tmp_path,
        name="run",
        model="resnet10w16",
        batch_size=32,
        epochs=8,
        optimizer="adamw",
        learning_rate=3e-3,
        weight_decay=0.02,
        schedule="cosine",
        warmup_epochs=1,
    )
    run(
        "trainer.evaluate",
        run_dir=tmp_path / "run",
        data_dir=tmp_path / "set",
        split="test",
        out_dir=tmp_path / "report",
    )
    metrics = json.loads((tmp_path / "report" / "metrics.json").read_text())
    assert metrics["overall"]["accuracy"]["value"] >= 0.85


@pytest.mark.slow
@pytest.mark.learning
def test_efficientnetb6_learns_sixteen_cells_by_heart(cells, tmp_path):
    run(
        "beam_jobs.shard",
        cells_dir=cells,
        data_dir=tmp_path / "set",
        classes="2,4,6,7,8,13,14,16",
        max_cells_per_class=2,
        splits="train=1",
        image_size_px=64,
        channels="rgb",
    )
    run(
        "trainer.train",
        data_dir=tmp_path / "set",
        runs_dir=tmp_path,
        name="run",
        model="efficientnetb6",
        validation_split="train",
        batch_size=16,
        epochs=10,
        steps_per_epoch=10,
        learning_rate=1e-3,
        dropout=0,
        noaugment=True,
    )
    rows = list(csv.DictReader((tmp_path / "run" / "history.csv").open()))
    assert min(float(row["loss"]) for row in rows) < 0.1

"""What compare_trees takes for equal, and what not: it is what `make reproduce` goes by."""

import json
import shutil

import compare_trees
import keras
import numpy as np
import pandas as pd
import pytest

import small_fovs
import tiny_train
from beam_jobs import dataset_job, segment
from beam_jobs.dataset_job import ShardConfig
from beam_jobs.examples import ExampleConfig
from beam_jobs.plan_config import PlanConfig
from beam_jobs.segment import SegmentConfig
from trainer import loop
from trainer.config import TrainConfig

tiny_train.register()


def make_tree(fovs, folder):
    """Makes cells, a data set and a run below a folder."""
    segment.run(
        SegmentConfig(
            images=f"{fovs}/images",
            labels=f"{fovs}/labels.csv",
            cells_dir=f"{folder}/cells",
            segmenter="masks",
            masks_dir=f"{fovs}/masks",
            pixel_size_um=0.5,
        )
    )
    plan = PlanConfig(label_scope="all", splits=(("train", 1), ("validation", 1)))
    example = ExampleConfig(image_size_px=32)
    dataset_job.run(
        ShardConfig(
            f"{folder}/cells", f"{folder}/dataset", plan=plan, example=example, command_line=(f"--data_dir={folder}",)
        )
    )
    # As in a new process: Keras numbers its layers.
    keras.backend.clear_session()
    loop.run(
        TrainConfig(
            data_dir=f"{folder}/dataset",
            run_dir=f"{folder}/runs/first",
            model="tiny",
            batch_size=4,
            epochs=1,
            steps_per_epoch=2,
            deterministic=True,
        )
    )
    return folder


@pytest.fixture(autouse=True)
def no_row(monkeypatch):
    """Only `make reproduce` has one."""
    monkeypatch.delenv("RELIABILITY_OUT", raising=False)


@pytest.fixture(scope="module")
def trees(tmp_path_factory):
    fovs = small_fovs.write_set(tmp_path_factory.mktemp("fovs"), labels=("0", "5"))
    return [make_tree(fovs, tmp_path_factory.mktemp(name)) for name in ("first", "second")]


def test_two_runs_of_the_same_commands_differ_in_nothing_but_times_and_folders(trees):
    comparison = compare_trees.compare(*trees)
    assert comparison.different == []
    assert comparison.allowed["*runs/*/tensorboard/*"] == ["runs/first/tensorboard/*"]
    names = {path.relative_to(trees[0]).as_posix() for path in trees[0].rglob("*") if path.is_file()}
    assert comparison.num_equal > len(names) / 2
    assert compare_trees.main(["compare_trees", *map(str, trees)]) == 0


def _flip_a_bit(folder):
    path = next(folder.glob("dataset/train-*.tfrecord"))
    data = bytearray(path.read_bytes())
    data[50] ^= 1
    path.write_bytes(bytes(data))


def _lose_a_file(folder):
    next(folder.glob("cells/fovs/*/fov-2.tfrecord")).unlink()


def _add_a_file(folder):
    (folder / "dataset" / ".tmp-x").write_bytes(b"")


def _change_the_fov_table(folder):
    path = folder / "cells" / "fovs.parquet"
    table = pd.read_parquet(path)
    table.loc[1, "num_cells"] += 1
    table.to_parquet(path, index=False)


def _change_a_note(folder):
    path = next(folder.glob("cells/fovs/*/fov-1.json"))
    note = json.loads(path.read_text())
    note["cells"][0]["focus"] += 1
    path.write_text(json.dumps(note))


def _change_the_manifest(folder):
    path = folder / "dataset" / "manifest.json"
    path.write_text(path.read_text().replace('"image_size_px": 32', '"image_size_px": 33'))


def _change_a_weight(folder):
    path = folder / "runs" / "first" / "checkpoints" / "last.npz"
    with np.load(path) as arrays:
        content = dict(arrays)
    content["v00000"] = content["v00000"] + 1
    np.savez(path, **content)


def _change_the_history(folder):
    path = folder / "runs" / "first" / "history.csv"
    table = pd.read_csv(path)
    table.loc[0, "loss"] += 1e-6
    table.to_csv(path, index=False)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (_flip_a_bit, "train-"),
        (_lose_a_file, "fov-2.tfrecord: only in"),
        (_add_a_file, ".tmp-x: only in"),
        (_change_the_fov_table, "fovs.parquet: differs beyond times of a FOV (`*_msec`): num_cells"),
        (_change_a_note, "fov-1.json"),
        (_change_the_manifest, "manifest.json: differs beyond command_line: image_size_px"),
        (_change_a_weight, "last.npz"),
        (_change_the_history, "history.csv"),
    ],
)
def test_every_other_difference_is_named(trees, tmp_path, change, named, capsys):
    changed = shutil.copytree(trees[1], tmp_path / "changed")
    assert not compare_trees.compare(trees[1], changed).different
    change(changed)
    (line,) = compare_trees.compare(trees[0], changed).different
    assert named in line
    assert compare_trees.main(["compare_trees", str(trees[0]), str(changed)]) == 1
    assert f"DIFFERENT  {line}" in capsys.readouterr().out


def test_two_empty_folders_show_nothing(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    assert compare_trees.main(["compare_trees", str(tmp_path / "a"), str(tmp_path / "b")]) == 1


@pytest.mark.parametrize(("name", "is_equal"), [("images_per_second", True), ("loss", False)])
def test_a_report_may_differ_in_the_speed_of_training_alone(tmp_path, name, is_equal):
    metrics = {"accuracy": 0.9, "history": [{"loss": 1.5, "images_per_second": 90.7}]}
    folders = [tmp_path / "first", tmp_path / "second"]
    for folder in folders:
        path = folder / "runs" / "first" / "report" / "metrics.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(metrics))
        metrics["history"][0][name] = 0.5
    assert (compare_trees.compare(*folders).different == []) == is_equal

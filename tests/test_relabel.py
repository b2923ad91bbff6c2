"""Promises of trainer.relabel: from runs of folds to a file of cell labels that beam_jobs.shard takes."""

import dataclasses
import hashlib
import json
import pathlib

import pandas as pd
import pyarrow.parquet as pq
import pytest

import small_dataset
import tiny_train
from beam_jobs import cell_labels, dataset_job
from beam_jobs.dataset_job import ShardConfig
from beam_jobs.examples import ExampleConfig
from beam_jobs.plan_config import PlanConfig
from hpa_proto.errors import ConfigError
from trainer import checkpoints, loop, relabel, relabelling
from trainer.config import TrainConfig
from trainer.relabel import RelabelConfig

tiny_train.register()
NUM_FOLDS = 2
PLAN = PlanConfig(label_scope="all", splits=(("fold0", 1), ("fold1", 1)))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """32 cells of 8 FOVs with the labels 0, 5, 0|7 and 16, in two folds."""
    return small_dataset.make(tmp_path_factory.mktemp("made"), plan=PLAN)


@pytest.fixture(scope="module")
def run_dirs(made, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        tiny_train.draw_no_pictures(patch)
        for fold in range(NUM_FOLDS):
            loop.run(
                TrainConfig(
                    data_dir=str(made.data_dir),
                    run_dir=str(folder / f"cv{fold}"),
                    model="tiny",
                    fold=fold,
                    num_folds=NUM_FOLDS,
                    epochs=1,
                    batch_size=8,
                    augment=None,
                    tensorboard=False,
                )
            )
    return tuple(str(folder / f"cv{fold}") for fold in range(NUM_FOLDS))


@pytest.fixture(scope="module")
def result(made, run_dirs, tmp_path_factory):
    out_dir = str(tmp_path_factory.mktemp("out") / "relabelled")
    return relabel.run(RelabelConfig(run_dirs, out_dir, data_dir=str(made.data_dir)))


def test_every_cell_is_in_the_file_with_labels_of_its_fov_or_none(made, result):
    table = pd.read_parquet(result.path)
    cells = pd.read_parquet(made.cells_dir / "cells.parquet").set_index("cell_id")["labels"]
    assert sorted(table["cell_id"]) == sorted(cells.index)
    for row in table.itertuples():
        assert "|".join(map(str, row.fov_labels)) == cells[row.cell_id]
        assert set(row.labels) <= set(row.fov_labels)
    kept = table.explode("labels").groupby("labels").size()
    per_class = result.relabelled.per_class.set_index("label")
    assert kept.to_dict() == {label: num for label, num in per_class["num_kept"].items() if num}
    assert per_class["num_given"].to_dict() == {0: 16, 5: 8, 7: 8, 16: 8}


def test_record_says_how_and_stands_beside_the_file_and_in_it(made, run_dirs, result):
    path = pathlib.Path(result.path)
    beside = json.loads((path.parent / relabel.RECORD_NAME).read_text())
    inside = cell_labels.read_cell_labels(result.path).about
    assert inside == {name: value for name, value in beside.items() if name not in ("file", "sha256")} == result.record
    assert beside["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (beside["null_quantile"], beside["min_cells_per_fov_label"], beside["leftover"]) == (0.95, 1, "negative")
    assert beside["rules"] == relabelling.RULES
    assert [one["run_dir"] for one in beside["runs"]] == ["cv0", "cv1"]
    for run_dir, one in zip(run_dirs, beside["runs"], strict=True):
        data = (pathlib.Path(run_dir) / checkpoints.BEST_NAME).read_bytes()
        assert one["checkpoint_sha256"] == hashlib.sha256(data).hexdigest()
    manifest = (made.data_dir / "manifest.json").read_bytes()
    assert beside["manifest_sha256"] == hashlib.sha256(manifest).hexdigest()
    thresholds = result.relabelled.per_class["threshold"]
    assert [one["threshold"] for one in beside["classes"]] == thresholds.tolist()
    assert beside["num_cells"] == pq.read_metadata(result.path).num_rows == 32


def test_shard_takes_the_file_and_its_manifest_has_the_rules(made, result, tmp_path):
    written = dataset_job.run(
        ShardConfig(
            cells_dir=str(made.cells_dir),
            data_dir=str(tmp_path / "strong"),
            plan=PLAN,
            example=ExampleConfig(image_size_px=32),
            splits_of=str(made.data_dir),
            cell_labels=result.path,
        )
    )
    per_class = result.relabelled.per_class.set_index("label")
    assert written.summary.per_class["num_kept"].to_dict() == per_class["num_kept"].to_dict()
    recorded = json.loads((tmp_path / "strong" / "manifest.json").read_text())["cell_labels"]
    assert recorded["about"]["rules"] == relabelling.RULES
    assert [one["name"] for one in recorded["about"]["classes"]] == per_class["name"].tolist()
    splits = [dataset_job.read_splits(str(folder)) for folder in (made.data_dir, tmp_path / "strong")]
    assert splits[1].items() <= splits[0].items()


def test_data_set_is_not_needed_once_its_folds_are_predicted(run_dirs, result, tmp_path):
    again = relabel.run(RelabelConfig(run_dirs, str(tmp_path)))
    assert (again.relabelled.labels == result.relabelled.labels).all()
    assert again.record == result.record


def test_command_prints_the_table_and_what_comes_next(made, run_dirs, tmp_path, capsys):
    flags = [f"--runs={','.join(run_dirs)}", f"--data_dir={made.data_dir}", f"--out_dir={tmp_path}", "--leftover=drop"]
    assert relabel.main(["relabel", *flags, "--null_quantile=0.9"]) == 0
    words = capsys.readouterr().out
    assert "Golgi apparatus" in words
    assert (
        f"next: python -m beam_jobs.shard --cell_labels={tmp_path}/cell_labels.parquet --splits_of={made.data_dir}"
        in words
    )
    record = json.loads((tmp_path / relabel.RECORD_NAME).read_text())
    assert (record["null_quantile"], record["leftover"]) == (0.9, "drop")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out_dir=out"], "--runs is missing"),
        (["--runs=a"], "--out_dir is missing"),
        (["--runs=nowhere", "--out_dir=out"], "nowhere"),
        (["--runs=a", "--out_dir=out", "--null_quantile=2"], "--null_quantile=2.0: give a share"),
        (["--runs=a", "--out_dir=out", "--leftover=keep"], "--leftover"),
        (["--runs=a", "--out_dir=out", "--checkpoint=first"], "--checkpoint=first"),
        (["--runs=a", "--out_dir=out", "--batch_size=0"], "--batch_size=0"),
    ],
)
def test_wrong_command_lines_end_in_one_line(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert relabel.main(["relabel", *arguments]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_help_has_every_flag_and_the_rules(capsys):
    assert relabel.main(["relabel", "--help"]) == 0
    text = capsys.readouterr().out
    for field in (*dataclasses.fields(RelabelConfig), *dataclasses.fields(relabelling.RelabelRules)):
        assert field.name == "rules" or f"--{field.name}" in text
    assert relabelling.RULES in text


def test_one_run_of_two_is_an_error(made, run_dirs, tmp_path):
    with pytest.raises(ConfigError, match="no run held out fold 1 of 2"):
        relabel.run(RelabelConfig(run_dirs[:1], str(tmp_path), data_dir=str(made.data_dir)))

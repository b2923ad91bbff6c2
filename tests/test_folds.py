"""Cross-validation: folds by FOV, runs that hold one out, and predictions that are all out of fold."""

import dataclasses
import itertools
import json
import os
import shutil

import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver

import small_dataset
import tiny_train
import trainer_data
from beam_jobs import shard
from beam_jobs.plan_config import PlanConfig
from hpa_proto import schema
from hpa_proto.errors import ConfigError, DatasetError
from trainer import (
    checkpoints,
    dataset,
    evaluate,
    folds,
    loop,
    out_of_fold,
    predict,
    run_folder,
    shards,
    source,
    train,
    trained_model,
    training_model,
)
from trainer.config import TrainConfig
from trainer.optimizers import OptimizerConfig

tiny_train.register()
NUM_FOLDS = 3
CLASSES = (3, 0, 14)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """Folds of 12 cells; class 14 is rare in fold 2."""
    even = [(label,) for _ in range(4) for label in CLASSES]
    uneven = [(3,)] * 8 + [(0,)] * 3 + [(14,)]
    sets = {"fold0": even, "fold1": even, "fold2": uneven}
    return str(trainer_data.write_dataset(tmp_path_factory.mktemp("data") / "set", label_sets=sets))


def run_config(data_dir, run_dir, *, fold, **changes):
    return TrainConfig(
        data_dir=data_dir,
        run_dir=str(run_dir),
        model="tiny",
        fold=fold,
        num_folds=NUM_FOLDS,
        epochs=1,
        batch_size=8,
        augment=None,
        tensorboard=False,
        optimizer=OptimizerConfig(learning_rate=1e-2, warmup_epochs=0),
        **changes,
    )


@pytest.fixture(scope="module")
def run_dirs(data_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        tiny_train.draw_no_pictures(patch)
        for fold in range(NUM_FOLDS):
            loop.run(run_config(data_dir, folder / f"cv{fold}", fold=fold))
    return [str(folder / f"cv{fold}") for fold in range(NUM_FOLDS)]


def plan_of(*arguments):
    with flagsaver.flagsaver():
        flags.FLAGS(["shard", *arguments], known_only=True)
        return shard.dry_run_from_flags([], cells_dir="cells").plan


def test_num_folds_is_short_for_equal_splits():
    assert plan_of("--num_folds=3") == PlanConfig(splits=(("fold0", 1.0), ("fold1", 1.0), ("fold2", 1.0)))
    with pytest.raises(ConfigError, match="leave --splits out"):
        plan_of("--num_folds=3", "--splits=train=1")
    with pytest.raises(ConfigError, match="cells without labels"):
        plan_of("--num_folds=3", "--label_scope=unlabelled")


def test_folds_of_real_shards_share_no_fov_and_hold_each_class(tmp_path):
    made = small_dataset.make(tmp_path, labels=("0", "5"), num_fovs=8, plan=plan_of("--num_folds=2"))
    manifest, _ = shards.read_manifest(str(made.data_dir))
    assert [(split.name, split.num_fovs) for split in manifest.splits] == [("fold0", 4), ("fold1", 4)]
    assert schema.count_folds(manifest) == 2
    assert [dict(split.num_examples_per_label) for split in manifest.splits] == [{0: 8, 5: 8}, {0: 8, 5: 8}]


@pytest.mark.parametrize(
    ("names", "num_folds"), [(["train"], 0), (["fold1", "fold0"], 2), (["fold1"], 0), (["fold0", "test", "fold2"], 1)]
)
def test_folds_are_counted_by_their_names(names, num_folds):
    manifest = schema.cells_pb2.DatasetManifest()
    for name in names:
        manifest.splits.add(name=name)
    assert schema.count_folds(manifest) == num_folds


def test_several_splits_are_read_as_one(data_dir):
    data = source.open_source(data_dir, ("fold0+fold2",))
    assert data.num_examples("fold0+fold2") == 24
    assert source.class_counts(data, "fold0+fold2") == [12, 7, 5]
    batches = dataset.training_dataset(data, split="fold0+fold2", batch_size=8, seed=3)
    whole = list(itertools.islice(dataset.iterate(batches, data, split="fold0+fold2", as_numpy=True), 6))
    for epoch in (whole[:3], whole[3:]):
        ids = {cell_id.decode() for batch in epoch for cell_id in batch["id"]}
        assert ids == {f"fold{fold}_{index}" for fold in (0, 2) for index in range(12)}
    resumed = dataset.training_dataset(data, split="fold0+fold2", batch_size=8, seed=3, start_step=4)
    for wanted, found in zip(
        whole[4:], dataset.iterate(resumed, data, split="fold0+fold2", as_numpy=True), strict=False
    ):
        assert wanted["id"].tolist() == found["id"].tolist()
        np.testing.assert_array_equal(wanted["image"], found["image"])


def test_balanced_sampling_counts_the_classes_of_all_folds_learned(data_dir):
    data = source.open_source(data_dir, ("fold0+fold2",))
    batches = dataset.training_dataset(data, split="fold0+fold2", batch_size=24, seed=0, balanced=True)
    taken = itertools.islice(dataset.iterate(batches, data, split="fold0+fold2", as_numpy=True), 40)
    shares = np.mean([batch["labels"].mean(axis=0) for batch in taken], axis=0)
    np.testing.assert_allclose(shares, 1 / 3, atol=0.04)


def test_a_wrong_part_of_several_splits_is_an_error(data_dir):
    with pytest.raises(DatasetError, match="no split 'fold7'; it has fold0, fold1, fold2"):
        source.open_source(data_dir, ("fold0+fold7",))
    with pytest.raises(DatasetError, match="stands twice"):
        source.open_source(data_dir, ("fold0+fold0",))


def test_a_fold_decides_both_splits():
    config = train.make_config(train.parse_flags(["train", "--data_dir=d", "--name=n", "--fold=1", "--num_folds=4"]))
    assert (config.train_split, config.validation_split) == ("fold0+fold2+fold3", "fold1")
    assert dataclasses.replace(config, epochs=3).train_split == "fold0+fold2+fold3"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"fold": 1}, "--fold and --num_folds go together"),
        ({"num_folds": 3}, "--fold and --num_folds go together"),
        ({"fold": 3, "num_folds": 3}, "--fold=3 --num_folds=3: give 2 folds or more"),
        ({"fold": -1, "num_folds": 3}, "--fold=-1"),
        ({"fold": 0, "num_folds": 1}, "2 folds or more"),
        ({"fold": 0, "num_folds": 3, "train_split": "learn"}, "leave --train_split=learn out"),
        ({"fold": 0, "num_folds": 3, "validation_split": "fold2"}, "leave --validation_split=fold2 out"),
    ],
)
def test_folds_that_do_not_go_together_are_an_error(options, words):
    with pytest.raises(ConfigError, match=words):
        TrainConfig(data_dir="d", run_dir="r", **options)


def test_a_data_set_with_other_folds_or_none_is_an_error(data_dir, tmp_path):
    other = dataclasses.replace(run_config(data_dir, tmp_path / "run", fold=0), fold=None, num_folds=None)
    with pytest.raises(ConfigError, match="has 3 folds: --num_folds=5 does not fit it"):
        loop.run(TrainConfig(data_dir=data_dir, run_dir=other.run_dir, fold=0, num_folds=5))
    plain = trainer_data.write_dataset(tmp_path / "plain", examples_per_class=4)
    with pytest.raises(ConfigError, match=r"no folds, but train, validation, test: .* beam_jobs.shard --num_folds=3"):
        loop.run(run_config(str(plain), tmp_path / "run", fold=0))


def test_a_run_records_its_fold_and_never_learns_from_it(run_dirs):
    record = run_folder.read_record(run_dirs[1])["config"]
    assert (record["fold"], record["num_folds"]) == (1, 3)
    assert (record["train_split"], record["validation_split"]) == ("fold0+fold2", "fold1")
    assert trained_model.load_trained_model(run_dirs[1]).config.fold == 1
    # 24 cells of two folds, 8 a step.
    assert checkpoints.Checkpoints(run_dirs[1]).read_state()["step"] == 3


def test_class_weights_are_of_the_folds_learned(data_dir, monkeypatch):
    seen = []
    weigh = training_model.class_weights

    def watched(counts, *, num_examples, multi_label):
        seen.append((counts.tolist(), num_examples))
        return weigh(counts, num_examples=num_examples, multi_label=multi_label)

    monkeypatch.setattr("trainer.training_model.class_weights", watched)
    config = run_config(data_dir, "run", fold=0, imbalance="class_weight")
    data = source.open_source(data_dir, (config.train_split,))
    training_model.build_training_model(config, data, num_parts=1)
    assert seen == [([12, 7, 5], 24)]


def test_a_fold_run_predicts_and_is_judged_on_its_held_out_fold(run_dirs, data_dir, tmp_path):
    run_dir = shutil.copytree(run_dirs[2], tmp_path / "cv2")
    result = predict.run(predict.PredictConfig((str(run_dir),), data_dir))
    assert (result.path, result.num_cells) == (str(run_dir / "predictions-fold2.parquet"), 12)
    found = evaluate.run(evaluate.EvaluateConfig(run_dir=str(run_dir), data_dir=data_dir, grad_cam=False))
    assert (found.split, found.num_cells) == ("fold2", 12)
    assert folds.held_out_split(run_dirs[:1]) == "fold0"
    with pytest.raises(ConfigError, match="no fold was held out by all of these runs"):
        predict.run(predict.PredictConfig(tuple(run_dirs[:2]), data_dir, out=str(tmp_path / "both.parquet")))


def test_predictions_of_what_a_fold_run_learned_from_are_refused(run_dirs, data_dir, tmp_path):
    with pytest.raises(ConfigError, match="learned from fold1; out of fold it can only predict fold0"):
        predict.run(predict.PredictConfig((run_dirs[0],), data_dir, "fold1"))
    with pytest.raises(ConfigError, match="learned from fold1, fold2"):
        predict.run(predict.PredictConfig((run_dirs[0],), data_dir, "fold0+fold1+fold2"))
    other = trainer_data.write_dataset(tmp_path, label_sets={f"fold{fold}": [(3,), (0,), (14,)] for fold in range(3)})
    with pytest.raises(ConfigError, match="folds of another data set"):
        predict.run(predict.PredictConfig((run_dirs[0],), str(other), "fold0"))


def test_gathered_predictions_are_each_of_the_run_that_has_not_seen_the_fov(run_dirs, data_dir):
    found = out_of_fold.gather([run_dirs[2], run_dirs[0], run_dirs[1]], data_dir)
    assert found.cell_ids.tolist() == [f"fold{fold}_{index}" for fold in range(3) for index in range(12)]
    assert found.info.split == "fold0+fold1+fold2"
    assert [run["run_dir"] for run in found.info.runs] == ["cv0", "cv1", "cv2"]
    for fold, run_dir in enumerate(run_dirs):
        kept = predict.predictions.read_predictions(f"{run_dir}/predictions-fold{fold}.parquet")
        is_own = found.fov_ids == f"fold{fold}"
        np.testing.assert_array_equal(found.logits[is_own], kept.logits)
        np.testing.assert_array_equal(found.labels[is_own], kept.labels)
        assert [run["run_dir"] for run in kept.info.runs] == [f"cv{fold}"]


def test_kept_predictions_are_used_until_the_checkpoint_is_newer(run_dirs, data_dir, tmp_path, monkeypatch):
    copies = [str(shutil.copytree(run_dir, tmp_path / os.path.basename(run_dir))) for run_dir in run_dirs]
    first = out_of_fold.gather(copies, data_dir)
    monkeypatch.setattr("trainer.predict.run", lambda config: pytest.fail(f"predicted again: {config.split}"))
    for given in (data_dir, None):
        np.testing.assert_array_equal(out_of_fold.gather(copies, given).logits, first.logits)
    later = os.path.getmtime(f"{copies[1]}/predictions-fold1.parquet") + 1
    os.utime(f"{copies[1]}/{checkpoints.BEST_NAME}", (later, later))
    with pytest.raises(ConfigError, match=r"predictions-fold1.parquet: no predictions of the run's best checkpoint"):
        out_of_fold.gather(copies, None)


def change_record(run_dir, target, *, config=None, **changes):
    shutil.copytree(run_dir, target)
    path = target / run_folder.CONFIG_NAME
    about = json.loads(path.read_text())
    about["run"].update(changes)
    about["run"]["config"].update(config or {})
    path.write_text(json.dumps(about))
    return str(target)


def test_runs_that_are_not_one_cross_validation_are_refused(run_dirs, data_dir, tmp_path):
    first, second, third = run_dirs
    no_fold = change_record(first, tmp_path / "plain", config={"fold": None, "num_folds": None})
    of_four = change_record(second, tmp_path / "four", config={"num_folds": 4})
    elsewhere = change_record(third, tmp_path / "else", manifest_sha256="0" * 64)
    for runs, words in (
        ([], "no runs given"),
        ([first, second], "no run held out fold 2 of 3"),
        ([first, second, second, third], "both held out fold 1"),
        ([no_fold, second, third], "plain: not a run of folds"),
        ([first, of_four, third], "of 4 folds, but"),
        ([first, second, elsewhere], "differ in manifest_sha256"),
    ):
        with pytest.raises(ConfigError, match=words):
            out_of_fold.gather(runs, data_dir)
    other = trainer_data.write_dataset(tmp_path / "other", examples_per_class=4)
    with pytest.raises(DatasetError, match="not the data set of the runs"):
        out_of_fold.gather(run_dirs, str(other))

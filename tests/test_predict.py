"""The command `trainer.predict`: what the run's model says about each cell, in the data set's order, or one clear error."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest
from scipy import special

import small_dataset
import tiny_train
import trainer_data
from hpa_proto import schema
from hpa_proto.errors import ConfigError, DatasetError
from trainer import checkpoints, loop, predict, predictions, run_folder, trained_model
from trainer.config import TrainConfig
from trainer.optimizers import OptimizerConfig
from trainer.predict import PredictConfig
from trainer.predictor import Predictor

tiny_train.register()

CLASSES = (3, 0, 14)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return str(trainer_data.write_dataset(tmp_path_factory.mktemp("data") / "set", image_format="raw"))


@pytest.fixture(scope="module")
def trained(data_dir, tmp_path_factory):
    """A run, and the logits of its last validation as the training computed them."""
    run_dir = tmp_path_factory.mktemp("runs") / "first"
    config = TrainConfig(
        data_dir=data_dir,
        run_dir=str(run_dir),
        model="tinynorm",
        batch_size=12,
        epochs=1,
        steps_per_epoch=8,
        augment=None,
        tensorboard=False,
        optimizer=OptimizerConfig(learning_rate=1e-2, warmup_epochs=0),
    )
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        tiny_train.draw_no_pictures(patch)
        measure = loop.validation.measure

        def keep(labels, logits, **options):
            seen.append(logits)
            return measure(labels, logits, **options)

        patch.setattr("trainer.loop.validation.measure", keep)
        loop.run(config)
    return str(run_dir), seen[-1]


@pytest.fixture(scope="module")
def run_dir(trained):
    return trained[0]


def copy_run(run_dir, target, *, seed=None, **record):
    """Copies a run, with other weights or another record."""
    shutil.copytree(run_dir, target)
    path = target / run_folder.CONFIG_NAME
    about = json.loads(path.read_text())
    about["run"].update(record)
    path.write_text(json.dumps(about))
    if seed is not None:
        classifier = trained_model.load_trained_model(str(target)).classifier
        kernel, bias = classifier.get_layer("logits").get_weights()
        noise = np.random.default_rng(seed).normal(size=kernel.shape)
        classifier.get_layer("logits").set_weights([kernel + noise, bias])
        (target / checkpoints.BEST_NAME).unlink()
        checkpoints.Checkpoints(str(target)).save_best(classifier, monitor="val_loss", value=0.1, epoch=7)
    return str(target)


def predicted(tmp_path, run_dirs, data_dir, **options):
    run_dirs = (run_dirs,) if isinstance(run_dirs, str) else tuple(run_dirs)
    config = PredictConfig(run_dirs, data_dir, **{"out": str(tmp_path / "p.parquet"), "batch_size": 5, **options})
    result = predict.run(config)
    found = predictions.read_predictions(result.path)
    assert found.num_cells == result.num_cells
    return found


def test_logits_are_those_of_the_training(trained, data_dir, tmp_path):
    run_dir, wanted = trained
    found = predicted(tmp_path, run_dir, data_dir, split="validation")
    assert np.ptp(wanted, axis=0).min() > 0.1, "the cells are too alike to tell anything"
    np.testing.assert_allclose(found.logits, wanted, atol=1e-5)
    np.testing.assert_allclose(found.probabilities, special.softmax(wanted, axis=1), atol=1e-5)
    assert found.info == predictions.PredictionsInfo(
        classes=tuple(predictions.ClassInfo(label, f"class {label}") for label in CLASSES),
        label_scope="single",
        multi_label=False,
        split="validation",
        manifest_sha256=run_folder.read_record(run_dir)["manifest_sha256"],
        runs=({"name": "first", "run_dir": "first", "checkpoint": "best", "epoch": 1, "model": "tinynorm"},),
        tta=False,
    )


def test_cells_come_in_the_manifests_order(run_dir, data_dir, tmp_path):
    found = predicted(tmp_path, run_dir, data_dir, split="train")
    order = [index for shard in range(4) for index in range(shard, 48, 4)]
    assert found.cell_ids.tolist() == [f"train_{index}" for index in order]
    assert found.labels.argmax(axis=1).tolist() == [index % 3 for index in order]
    one_by_one = predicted(tmp_path, run_dir, data_dir, split="train", batch_size=48)
    np.testing.assert_allclose(found.logits, one_by_one.logits, atol=1e-5)


def square_moves(planes):
    """The eight flips and rotations of [C, S, S] as NumPy makes them."""
    return [np.rot90(mirrored, turns, axes=(1, 2)) for mirrored in (planes, planes[:, :, ::-1]) for turns in range(4)]


def test_tta_is_the_mean_over_the_eight_moves(run_dir):
    trained = trained_model.load_trained_model(run_dir)
    planes = np.stack([trainer_data.grating(label, index=7, num_channels=4, size_px=32) for label in CLASSES])
    moved = [np.stack(views) for views in zip(*(square_moves(cell) for cell in planes), strict=True)]
    alone = Predictor([trained], embeddings=True)
    single = [alone.predict(views) for views in moved]
    assert np.ptp([one["probabilities"] for one in single], axis=0).max() > 1e-3, "moving must matter to this model"
    with_tta = Predictor([trained], tta=True, embeddings=True)
    for views in (moved[0], moved[3], moved[5]):
        found = with_tta.predict(views)
        for name, tolerance in (("probabilities", 1e-5), ("logits", 1e-4), ("embedding", 1e-3)):
            np.testing.assert_allclose(found[name], np.mean([o[name] for o in single], axis=0), atol=tolerance)


def test_tta_by_flag_is_written_down(run_dir, data_dir, tmp_path):
    plain, with_tta = (predicted(tmp_path, run_dir, data_dir, tta=tta) for tta in (False, True))
    assert (plain.info.tta, with_tta.info.tta) == (False, True)
    assert np.abs(plain.probabilities - with_tta.probabilities).max() > 1e-3


def test_an_ensemble_is_the_mean_probability(run_dir, data_dir, tmp_path):
    other = copy_run(run_dir, tmp_path / "second", seed=1)
    alone = [predicted(tmp_path, path, data_dir, embeddings=True) for path in (run_dir, other)]
    both = predicted(tmp_path, (run_dir, other), data_dir, embeddings=True)
    wanted = (alone[0].probabilities + alone[1].probabilities) / 2
    assert np.abs(alone[0].probabilities - alone[1].probabilities).max() > 0.05
    np.testing.assert_allclose(both.probabilities, wanted, atol=1e-6)
    np.testing.assert_allclose(both.logits, np.log(wanted), atol=1e-4)
    np.testing.assert_array_equal(both.embeddings, alone[0].embeddings)
    assert [run["name"] for run in both.info.runs] == ["first", "second"]
    assert [run["epoch"] for run in both.info.runs] == [1, 7]


def test_multi_label_runs_give_a_sigmoid_per_class(run_dir, tmp_path):
    label_sets = {"test": [(3,), (0, 14), (3, 0), (14,)]}
    data_dir = str(trainer_data.write_dataset(tmp_path / "set", label_sets=label_sets))
    runs = [copy_run(run_dir, tmp_path / f"run{seed}", seed=seed, label_scope="all") for seed in (1, 2)]
    alone = [predicted(tmp_path, path, data_dir) for path in runs]
    assert alone[0].info.multi_label
    np.testing.assert_allclose(alone[0].probabilities, special.expit(alone[0].logits), atol=1e-6)
    assert alone[0].labels.tolist() == [[1, 0, 0], [0, 1, 1], [1, 1, 0], [0, 0, 1]]
    both = predicted(tmp_path, runs, data_dir)
    wanted = (alone[0].probabilities + alone[1].probabilities) / 2
    np.testing.assert_allclose(both.probabilities, wanted, atol=1e-6)
    np.testing.assert_allclose(special.expit(both.logits), wanted, atol=1e-5)


def test_embeddings_are_the_pooled_features(run_dir, data_dir, tmp_path):
    found = predicted(tmp_path, run_dir, data_dir, embeddings=True)
    classifier = trained_model.load_trained_model(run_dir).classifier
    kernel, bias = classifier.get_layer("logits").get_weights()
    assert found.embeddings.shape == (12, 16)
    np.testing.assert_allclose(found.embeddings @ kernel + bias, found.logits, atol=1e-3)


def make_unlabelled(folder, **options):
    trainer_data.write_dataset(folder, classes=(), label_sets={"predict": [()] * 7}, **options)
    path = folder / schema.MANIFEST_NAME
    manifest = schema.parse_manifest(path.read_text(), source="test")
    manifest.label_scope = "unlabelled"
    path.write_text(schema.format_manifest(manifest))
    return str(folder)


def test_unlabelled_cells_are_predicted(run_dir, tmp_path):
    found = predicted(tmp_path, run_dir, make_unlabelled(tmp_path / "set"), split="predict")
    assert (found.num_cells, found.info.label_scope) == (7, "unlabelled")
    assert found.class_names == ["class 3", "class 0", "class 14"]
    assert found.labels.shape == (7, 3)
    assert not found.labels.any()


@pytest.mark.slow
def test_a_set_that_the_data_half_made_without_labels_is_predicted(run_dir, tmp_path):
    made = small_dataset.make(tmp_path / "made", with_labels=False, num_fovs=2)
    found = predicted(tmp_path, run_dir, str(made.data_dir), split="predict")
    assert found.num_cells == 8
    assert found.info.label_scope == "unlabelled"
    assert set(found.fov_ids) == {"fov-0", "fov-1"}


def test_classes_in_another_order_are_mapped_by_number(run_dir, data_dir, tmp_path):
    label_sets = {"test": [(CLASSES[i % 3],) for i in range(12)]}
    # Class 5 has no cell in this split, and so needs no column.
    other = trainer_data.write_dataset(
        tmp_path / "set", classes=(14, 5, 3, 0), label_sets=label_sets, image_format="raw"
    )
    wanted, found = (predicted(tmp_path, run_dir, path) for path in (data_dir, str(other)))
    np.testing.assert_array_equal(found.labels, wanted.labels)
    np.testing.assert_allclose(found.logits, wanted.logits, atol=1e-5)


def test_labels_that_the_run_lacks_are_an_error_unless_ignored(run_dir, tmp_path):
    other = str(trainer_data.write_dataset(tmp_path / "set", classes=(3, 16, 0)))
    with pytest.raises(ConfigError, match=r"does not know: class 16 \(label 16, 4 cells\).*--ignore_labels"):
        predicted(tmp_path, run_dir, other)
    found = predicted(tmp_path, run_dir, other, ignore_labels=True)
    assert (found.num_cells, found.info.label_scope) == (12, "unlabelled")
    assert not found.labels.any()


def test_the_default_file_lies_in_the_first_runs_folder(run_dir, data_dir, tmp_path, capsys):
    copied = copy_run(run_dir, tmp_path / "run")
    assert predict.main(["predict", f"--run_dir={copied}", f"--data_dir={data_dir}", "--split=validation"]) == 0
    path = f"{copied}/predictions-validation.parquet"
    assert capsys.readouterr().out == f"{path}: 12 cells, 3 classes\n"
    assert predictions.read_predictions(path).num_cells == 12


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"run_dirs": ("nowhere",)}, r"nowhere is no run"),
        ({"checkpoint": "newest"}, "choose one of best, last"),
        ({"split": "predict"}, "no split 'predict'; it has train, validation, test"),
        ({"data_dir": "nowhere"}, r"nowhere: no manifest\.json"),
        ({"check_shards": "none"}, "choose one of auto, size, sha256"),
    ],
)
def test_what_is_not_there_is_an_error(run_dir, data_dir, tmp_path, changes, reason):
    arguments = {"run_dirs": (run_dir,), "data_dir": data_dir, "out": str(tmp_path / "p.parquet"), **changes}
    with pytest.raises((ConfigError, DatasetError), match=reason):
        predict.run(PredictConfig(**arguments))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"size_px": 48}, "learned from image size 32 px, but .*set has 48 px"),
        ({"channels": "rgb"}, "learned from channels red-green-blue-yellow, but .*set has red-green-blue"),
    ],
)
def test_pictures_that_the_model_did_not_learn_from_are_an_error(run_dir, tmp_path, options, reason):
    other = str(trainer_data.write_dataset(tmp_path / "set", **options))
    with pytest.raises(ConfigError, match=reason):
        predicted(tmp_path, run_dir, other)


@pytest.mark.parametrize("check", ["auto", "size"])
def test_a_truncated_shard_is_an_error_and_leaves_no_file(run_dir, tmp_path, check):
    folder = trainer_data.write_dataset(tmp_path / "set")
    shard = folder / "test-00000-of-00001.tfrecord"
    data = bytearray(shard.read_bytes())
    if check == "auto":
        shard.write_bytes(data[:-100])
    else:
        # Of the right size, so that only the reader sees it.
        data[len(data) // 2 :] = bytes(len(data) - len(data) // 2)
        shard.write_bytes(data)
    with pytest.raises(DatasetError, match="test-00000-of-00001"):
        predicted(tmp_path, run_dir, str(folder), check_shards=check, batch_size=2)
    assert not (tmp_path / "p.parquet").exists()


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (
            {"classes": [{"label": label, "name": f"class {label}"} for label in (0, 3, 14)]},
            "same classes in the same order",
        ),
        ({"label_scope": "all"}, "learned several labels a cell, but .*first one label a cell"),
    ],
)
def test_runs_that_cannot_answer_together_are_an_error(run_dir, data_dir, tmp_path, record, reason):
    other = copy_run(run_dir, tmp_path / "second", **record)
    with pytest.raises(ConfigError, match=reason):
        predicted(tmp_path, (run_dir, other), data_dir)


def test_a_model_that_gives_nan_leaves_no_file(run_dir, data_dir, tmp_path):
    copied = copy_run(run_dir, tmp_path / "run")
    classifier = trained_model.load_trained_model(copied).classifier
    kernel, bias = classifier.get_layer("logits").get_weights()
    classifier.get_layer("logits").set_weights([np.full_like(kernel, np.nan), bias])
    checkpoints.Checkpoints(copied).save_best(classifier, monitor="val_loss", value=0.1, epoch=7)
    with pytest.raises(DatasetError, match="cell 'test_0' has probability nan"):
        predicted(tmp_path, copied, data_dir)
    assert not (tmp_path / "p.parquet").exists()


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--data_dir=set"], "--run_dir is missing"),
        (["--run_dir=runs/first"], "--data_dir is missing"),
        (["--run_dir=a,a", "--data_dir=set"], "a run stands twice"),
        (["--run_dir=a", "--data_dir=set", "--batch_size=0"], "give at least 1"),
        (["--run_dir=a", "--data_dir=set", "stray"], "stray"),
    ],
)
def test_wrong_flags_are_one_line_on_stderr(flags, reason, capsys):
    assert predict.main(["predict", *flags]) == 1
    message = capsys.readouterr().err
    assert reason in message
    assert message.count("\n") == 1


def test_flags_reach_the_config():
    flags = ["--run_dir=runs/a,runs/b", "--data_dir=set", "--split=validation", "--out=x", "--checkpoint=last", "--tta"]
    more = ["--embeddings", "--ignore_labels", "--batch_size=7", "--check_shards=size"]
    assert predict.make_config(["predict", *flags, *more]) == PredictConfig(
        run_dirs=("runs/a", "runs/b"),
        data_dir="set",
        split="validation",
        out="x",
        checkpoint="last",
        tta=True,
        embeddings=True,
        ignore_labels=True,
        batch_size=7,
        check_shards="size",
    )
    plain = predict.make_config(["predict", "--run_dir=runs/a", "--data_dir=set"])
    assert plain == PredictConfig(("runs/a",), "set")
    assert plain.path == "runs/a/predictions-test.parquet"


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_other_backends_say_the_same(run_dir, data_dir, tmp_path, backend):
    pytest.importorskip(backend)
    if keras.backend.backend() == backend:
        pytest.skip("it is this one")
    script = (
        "import sys, tiny_train; from trainer import predict; tiny_train.register(); sys.exit(predict.main(sys.argv))"
    )
    out = str(tmp_path / "other.parquet")
    tests = str(pathlib.Path(__file__).parent)
    done = subprocess.run(
        [sys.executable, "-c", script, f"--run_dir={run_dir}", f"--data_dir={data_dir}", f"--out={out}", "--tta"],
        env={**os.environ, "KERAS_BACKEND": backend, "PYTHONPATH": tests},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    wanted = predicted(tmp_path, run_dir, data_dir, tta=True)
    np.testing.assert_allclose(predictions.read_predictions(out).logits, wanted.logits, atol=1e-4)

"""The command `trainer.train`: flags, flagfiles, whole runs on small data, and errors in one line."""

import csv
import dataclasses
import json
from pathlib import Path

import keras
import numpy as np
import pytest

import tiny_train
import trainer_data
from hpa_proto import schema, storage
from hpa_proto.errors import ConfigError
from trainer import loop, train
from trainer.augment import AugmentConfig
from trainer.config import TrainConfig
from trainer.optimizers import OptimizerConfig

tiny_train.register()
AUGMENT = AugmentConfig(zoom=0, shift=0.05, gamma=0)
CONFIGS = sorted((Path(train.__file__).parent / "configs").glob("*.cfg"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return trainer_data.write_dataset(tmp_path_factory.mktemp("data") / "set")


def config_of(*flags):
    return train.make_config(train.parse_flags(["train", "--data_dir=set", "--name=run", *flags]))


@pytest.fixture
def without_pictures(monkeypatch):
    tiny_train.draw_no_pictures(monkeypatch)


def run_config(folder, run_dir, **changes):
    defaults = {
        "model": "tiny",
        "batch_size": 12,
        "epochs": 2,
        "steps_per_epoch": 4,
        "tensorboard": False,
        "augment": None,
        "optimizer": OptimizerConfig(learning_rate=3e-3, warmup_epochs=0),
    }
    return TrainConfig(data_dir=str(folder), run_dir=str(run_dir), **{**defaults, **changes})


def test_flags_without_values_are_the_configs_defaults():
    assert config_of() == TrainConfig(data_dir="set", run_dir=str(Path("runs") / "run"))


def test_every_field_has_a_flag():
    values = train.parse_flags(["train"]).flag_values_dict()
    made_up = {"run_dir", "optimizer", "augment"}
    fields = [
        field.name for kind in (TrainConfig, OptimizerConfig, AugmentConfig) for field in dataclasses.fields(kind)
    ]
    assert not {name for name in fields if name not in values} - made_up


def test_flags_reach_the_config():
    config = config_of("--optimizer=nadam", "--zoom=0.1", "--imbalance=focal", "--profile_steps=3,5", "--freeze")
    assert (config.optimizer.optimizer, config.augment.zoom, config.imbalance) == ("nadam", 0.1, "focal")
    assert (config.profile_steps, config.freeze) == ((3, 5), True)
    assert config_of("--noaugment").augment is None
    assert config_of("--runs_dir=gs://bucket/runs/", "--name=first").run_dir == "gs://bucket/runs/first"


def test_quick_is_small():
    config = config_of("--quick", "--batch_size=64", "--epochs=100")
    assert (config.batch_size, config.epochs, config.steps_per_epoch) == (8, 2, 20)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_flagfiles_parse_and_say_what_they_are(path):
    config = config_of(f"--flagfile={path}")
    assert config.model in path.stem.replace("_", "")
    assert config.batch_size == 7
    assert config.augment.rotation_degrees == 40
    header = "".join(line for line in path.read_text().splitlines(keepends=True) if line.startswith("#"))
    assert all(word in header for word in ("Cost:", "Result then:", "%", "beam_jobs.shard"))


def test_there_is_a_flagfile_for_each_old_experiment():
    b6 = {f"old_efficientnetb6_{data}" for data in ("12_classes", "19_classes", "19_classes_capped")}
    assert {path.stem for path in CONFIGS} == {"old_vgg16", "old_resnet101"} | b6


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--nosuchflag"], "nosuchflag"),
        (["--batch_size=many"], "batch_size"),
        (["--batch_size=0"], "batch_size"),
        (["--optimizer=lion"], "optimizer"),
        (["--unfreeze_after=3"], "--freeze"),
        (["--num_hosts=2"], "--coordinator"),
        (["--host_index=1"], "host_index"),
        (["--profile_steps=5"], "profile_steps"),
        (["--label_smoothing=1"], "label_smoothing"),
        (["--name=../run"], "plain name"),
        (["--name=.."], "plain name"),
        (["--zoom=2"], "zoom"),
        (["stray"], "stray"),
    ],
)
def test_wrong_flags_are_config_errors(flags, reason):
    with pytest.raises(ConfigError, match=reason):
        config_of(*flags)


def test_a_run_learns_and_leaves_its_files(folder, tmp_path):
    run_dir = tmp_path / "run"
    result = loop.run(
        run_config(
            folder, run_dir, epochs=6, steps_per_epoch=8, augment=AUGMENT, tensorboard=True, profile_steps=(2, 3)
        )
    )
    assert result.num_steps == 48
    assert result.history[-1]["loss"] < 0.5 * result.history[0]["loss"]
    assert result.history[-1]["val_accuracy"] > 0.6
    names = {path.relative_to(run_dir).as_posix() for path in run_dir.rglob("*") if path.is_file()}
    assert names >= {
        "config.json",
        "history.csv",
        "augmented.png",
        "confusion_matrix.png",
        "checkpoints/last.npz",
        "checkpoints/best.weights.h5",
    }
    assert any("tfevents" in name for name in names)
    assert any(name.endswith("xplane.pb") for name in names)
    with open(run_dir / "history.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == [str(8 * epoch) for epoch in range(1, 7)]
    assert set(rows[0]) >= {"loss", "accuracy", "val_loss", "val_accuracy", "learning_rate", "images_per_second"}
    assert all(0 <= float(row["input_wait_share"]) <= 1 for row in rows)
    record = json.loads((run_dir / "config.json").read_text())
    assert record["run"]["config"]["model"] == "tiny"
    assert len(record["run"]["manifest_sha256"]) == 64


@pytest.mark.usefixtures("without_pictures")
@pytest.mark.parametrize(
    "changes",
    [
        {"imbalance": "class_weight", "label_smoothing": 0.1},
        {"imbalance": "focal", "augment": AugmentConfig(mixup=0.2, cutout=0.2)},
        {"imbalance": "balanced_sampling", "augment": AugmentConfig(), "precision": "mixed_bfloat16"},
        {
            "precision": "mixed_float16",
            "optimizer": OptimizerConfig(accumulation_steps=2, ema_momentum=0.9, clip_norm=1),
        },
    ],
    ids=["class_weight", "focal_mixup", "balanced_bfloat16", "float16_accumulation_ema"],
)
def test_options_go_together(folder, tmp_path, changes):
    try:
        result = loop.run(run_config(folder, tmp_path / "run", epochs=1, **changes))
    finally:
        keras.config.set_dtype_policy("float32")
    assert np.isfinite([result.history[0]["loss"], result.history[0]["val_loss"]]).all()


@pytest.mark.usefixtures("without_pictures")
def test_several_labels_are_learned_with_sigmoids(tmp_path):
    sets = {"train": [(0, 3), (14,), (0,), (3, 14)] * 6, "validation": [(0, 3), (14,)] * 3}
    folder = trainer_data.write_dataset(tmp_path / "set", label_sets=sets, num_shards=2)
    result = loop.run(run_config(folder, tmp_path / "run", epochs=1))
    assert 0 < result.history[0]["val_loss"] < 5
    record = json.loads((tmp_path / "run" / "config.json").read_text())
    assert record["run"]["label_scope"] == "all"


@pytest.mark.usefixtures("without_pictures")
def test_a_frozen_backbone_stays_and_is_freed_on_time(folder, tmp_path):
    from trainer import source, strategy

    config = run_config(folder, tmp_path / "run", model="tinynorm", freeze=True, unfreeze_after=1, epochs=2)
    data = source.open_source(config.data_dir, ("train", "validation"))
    training = loop.Training(config, data, strategy.open_devices(config))
    backbone = training.model.classifier.get_layer("backbone")
    kept = []

    def remember(*arguments, **options):
        kept.append([array.copy() for array in backbone.get_weights()])
        return validate(*arguments, **options)

    kept.append([array.copy() for array in backbone.get_weights()])
    validate, training.validate = training.validate, remember
    training.train()
    before, frozen, freed = kept
    assert all((a == b).all() for a, b in zip(before, frozen, strict=True))
    assert not any((a == b).all() for a, b in zip(frozen, freed, strict=True))


@pytest.mark.usefixtures("without_pictures")
def test_early_stopping_ends_the_run(folder, tmp_path):
    optimizer = OptimizerConfig(learning_rate=1e-12, schedule="constant")
    config = run_config(
        folder, tmp_path / "run", epochs=9, steps_per_epoch=1, early_stopping_patience=2, monitor="val_accuracy"
    )
    config = dataclasses.replace(config, optimizer=optimizer)
    assert len(loop.run(config).history) == 3
    assert len(loop.run(config).history) == 3  # finished: not trained on


def run_main(folder, tmp_path, *flags):
    return train.main(
        ["train", f"--data_dir={folder}", f"--runs_dir={tmp_path}", "--name=run", "--model=tiny", "--quick", *flags]
    )


@pytest.mark.usefixtures("without_pictures")
def test_a_loss_that_is_not_finite_stops_the_run(folder, tmp_path, capsys):
    flags = (
        "--notensorboard",
        "--noaugment",
        "--optimizer=sgd",
        "--schedule=constant",
        "--learning_rate=90",
        "--checkpoint_every_steps=1",
    )
    assert run_main(folder, tmp_path, *flags) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert "the loss of step" in error or "a weight is no longer finite after step" in error
    if "the loss of step" in error:
        assert error.count("train_") == 8
    with np.load(tmp_path / "run" / "checkpoints" / "last.npz") as arrays:
        assert all(np.isfinite(arrays[name]).all() for name in arrays if name != "state")


@pytest.mark.usefixtures("without_pictures")
def test_a_loss_that_is_not_a_number_names_its_cells(folder, tmp_path, capsys, monkeypatch):
    from trainer import training_model

    take_step = training_model.StepRunner.train

    def poisoned(self, inputs):
        logs = take_step(self, inputs)
        return {**logs, "loss": np.float32("nan")} if int(inputs["position"][0]) == 3 * 8 else logs

    monkeypatch.setattr(training_model.StepRunner, "train", poisoned)
    assert run_main(folder, tmp_path, "--notensorboard", "--noaugment") == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "the loss of step 3 is nan" in error
    assert error.count("train_") == 8


def break_manifest(folder):
    (folder / schema.MANIFEST_NAME).unlink()


def break_version(folder):
    path = folder / schema.MANIFEST_NAME
    path.write_text(path.read_text().replace('"schema_version": 1', '"schema_version": 2'))


def break_shard(folder):
    path = next(folder.glob("train-*"))
    path.write_bytes(path.read_bytes()[:-9])


def alter_shard(folder):
    path = next(folder.glob("validation-*"))
    path.write_bytes(path.read_bytes()[:-9] + b"altered!!")


@pytest.mark.parametrize(
    ("damage", "flags", "reason"),
    [
        (break_manifest, [], "no manifest.json"),
        (break_version, [], "schema version 2"),
        (break_shard, [], "truncated record at byte"),
        (alter_shard, [], "corrupt record at byte"),
        (None, ["--batch_size=999", "--noquick"], "larger than split 'train', which has 24"),
        (None, ["--train_split=learn"], "no split 'learn'"),
        (None, ["--model=alexnet"], "alexnet"),
        (None, ["--num_hosts=2", "--coordinator=localhost:1"], "KERAS_BACKEND=jax"),
    ],
)
def test_bad_input_is_one_line_and_status_1(tmp_path, capsys, damage, flags, reason):
    folder = trainer_data.write_dataset(tmp_path / "set", examples_per_class=8, num_shards=2)
    if damage:
        damage(folder)
    assert run_main(folder, tmp_path, *flags) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert reason in error


def test_the_preview_is_a_picture(folder, tmp_path):
    assert train.main(["train", f"--data_dir={folder}", f"--preview={tmp_path / 'cells.png'}"]) == 0
    assert (tmp_path / "cells.png").read_bytes().startswith(b"\x89PNG")


def test_the_preview_may_be_at_a_url(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert train.main(["train", f"--data_dir={folder}", "--preview=memory://previews/cells.png"]) == 0
    assert storage.read_bytes("memory://previews/cells.png").startswith(b"\x89PNG")
    assert list(tmp_path.iterdir()) == []
    storage.remove_folder("memory://previews")


def test_credentials_of_a_weights_url_stand_in_no_record():
    config = TrainConfig(data_dir="set", run_dir="runs/a", weights="https://me:secret@host/w.h5")
    assert config.decisive()["weights"] == "https://***@host/w.h5"


def test_ctrl_c_is_one_line_that_says_how_to_go_on(tmp_path, capsys, monkeypatch):
    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(loop, "run", interrupt)
    assert train.main(["train", "--data_dir=set", "--name=a", f"--runs_dir={tmp_path}"]) == 130
    assert capsys.readouterr().err == "\nstopped; run the same command to go on from the last epoch that ended\n"

"""A run that is killed and started again is the run that was never killed."""

import csv
import hashlib
import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest

import fake_s3
import tiny_train
import trainer_data
from hpa_proto import storage
from hpa_proto.errors import ConfigError
from trainer import loop
from trainer.checkpoints import Checkpoints
from trainer.config import TrainConfig
from trainer.optimizers import OptimizerConfig
from trainer.run_folder import RunFolder
from trainer.trained_model import load_trained_model

tiny_train.register()
TIMES = ("images_per_second", "input_wait_share")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return trainer_data.write_dataset(tmp_path_factory.mktemp("data") / "set")


def start(folder, *runs_dirs):
    """Starts the command, once for each folder, with all that has a state: BatchNorm, dropout, augmentation, averages."""
    arguments = []
    for runs_dir in runs_dirs:
        arguments += [
            "--then",
            f"--data_dir={folder}",
            f"--runs_dir={runs_dir}",
            "--name=run",
            "--model=tinynorm",
            "--batch_size=10",
            "--epochs=3",
            "--steps_per_epoch=7",
            "--checkpoint_every_steps=2",
            "--ema_momentum=0.9",
            "--deterministic",
            "--notensorboard",
        ]
    command = [sys.executable, str(Path(tiny_train.__file__)), *arguments[1:]]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=dict(os.environ))


def finish(process):
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    return output


def kill_after(process, checkpoints, step):
    """Sends SIGKILL as soon as a checkpoint of at least this step is there."""
    until = time.monotonic() + 240
    while time.monotonic() < until and process.poll() is None:
        state = checkpoints.read_state()
        if state is not None and state["step"] >= step:
            break
        time.sleep(0.02)
    process.kill()
    output, _ = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL, output


def digest_of(run_dir):
    digest = hashlib.sha256()
    with np.load(io.BytesIO(storage.read_bytes(f"{run_dir}/checkpoints/last.npz"))) as arrays:
        for name in sorted(set(arrays.files) - {"state"}):
            digest.update(arrays[name].tobytes())
    return digest.hexdigest()


def history_of(run_dir):
    rows = csv.DictReader(storage.read_text(f"{run_dir}/history.csv").splitlines())
    return [{name: value for name, value in row.items() if name not in TIMES} for row in rows]


@pytest.fixture(params=["disk", pytest.param("store", marks=pytest.mark.slow)])
def place(request, tmp_path):
    """Where the killed run writes to."""
    if request.param == "disk":
        yield str(tmp_path)
    else:
        with fake_s3.s3_server():
            yield fake_s3.make_bucket()


def test_a_killed_run_ends_with_the_weights_of_one_that_was_not(folder, tmp_path, place):
    whole, killed = f"{tmp_path}/whole", f"{place}/killed"
    kill_after(start(folder, killed), Checkpoints(f"{killed}/run"), 9)
    state = Checkpoints(f"{killed}/run").read_state()
    assert 9 <= state["step"] < 21
    output = finish(start(folder, killed, whole))
    assert f"at step {state['step']}" in output
    assert digest_of(f"{killed}/run") == digest_of(f"{whole}/run")
    assert history_of(f"{killed}/run") == history_of(f"{whole}/run")
    assert [row["epoch"] for row in history_of(f"{killed}/run")] == ["1", "2", "3"]
    best = [Checkpoints(f"{path}/run").best() for path in (whole, killed)]
    assert best[0] == best[1]


@pytest.fixture
def without_pictures(monkeypatch):
    tiny_train.draw_no_pictures(monkeypatch)


def run_config(folder, run_dir, **changes):
    defaults = {
        "model": "tiny",
        "batch_size": 12,
        "epochs": 1,
        "steps_per_epoch": 2,
        "tensorboard": False,
        "optimizer": OptimizerConfig(learning_rate=3e-3, schedule="constant"),
    }
    return TrainConfig(data_dir=str(folder), run_dir=str(run_dir), **{**defaults, **changes})


@pytest.mark.usefixtures("without_pictures")
def test_another_config_or_data_set_is_refused(folder, tmp_path):
    loop.run(run_config(folder, tmp_path / "run"))
    with pytest.raises(ConfigError, match=r"batch_size is 12, here 6; seed is 0, here 1"):
        loop.run(run_config(folder, tmp_path / "run", batch_size=6, seed=1))
    other = trainer_data.write_dataset(tmp_path / "other", examples_per_class=12)
    with pytest.raises(ConfigError, match="manifest_sha256"):
        loop.run(run_config(other, tmp_path / "run"))


@pytest.mark.usefixtures("without_pictures")
def test_a_checkpoint_of_another_model_is_refused(folder, tmp_path):
    loop.run(run_config(folder, tmp_path / "a"))
    checkpoint = tmp_path / "b" / "checkpoints" / "last.npz"
    RunFolder(str(tmp_path / "b")).open(
        loop.describe_run(
            config := run_config(folder, tmp_path / "b", model="tinynorm"),
            loop.open_source(config.data_dir, ("train",)),
        )
    )
    checkpoint.parent.mkdir()
    checkpoint.write_bytes((tmp_path / "a" / "checkpoints" / "last.npz").read_bytes())
    with pytest.raises(ConfigError, match="a checkpoint of another model"):
        loop.run(config)


@pytest.mark.usefixtures("without_pictures")
def test_a_checkpoint_without_a_part_of_its_state_is_an_error(folder, tmp_path):
    config = run_config(folder, tmp_path / "run")
    loop.run(config)
    Checkpoints(config.run_dir).save_last({"step": 1}, [])
    with pytest.raises(ConfigError, match=r"last\.npz: not a checkpoint \(its state has no 'accuracy_sum'\)"):
        loop.run(config)
    with pytest.raises(ConfigError, match="its state has no 'backbone_trainable'"):
        load_trained_model(config.run_dir, checkpoint="last")


@pytest.mark.usefixtures("without_pictures")
def test_best_weights_that_were_damaged_are_not_loaded(folder, tmp_path):
    config = run_config(folder, tmp_path / "run")
    loop.run(config)
    assert load_trained_model(config.run_dir).epoch == 1
    path = tmp_path / "run" / "checkpoints" / "best.weights.h5"
    with h5py.File(path, "a") as file:
        file.visititems(lambda _, item: item.write_direct(item[()] + 1) if isinstance(item, h5py.Dataset) else None)
    with pytest.raises(ConfigError, match=rf"{path}: .*its SHA-256 does not fit its content"):
        load_trained_model(config.run_dir)


@pytest.mark.usefixtures("without_pictures")
def test_a_worse_epoch_does_not_replace_the_best_after_a_restart(folder, tmp_path):
    config = run_config(folder, tmp_path / "run", epochs=2, monitor="val_accuracy")
    checkpoints = Checkpoints(config.run_dir)
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    # As if the epoch under way had been better before the kill than it is when it is computed again.
    checkpoints.save_best(model, monitor="val_accuracy", value=1.5, epoch=1)
    before = (tmp_path / "run" / "checkpoints" / "best.weights.h5").read_bytes()
    loop.run(config)
    assert (tmp_path / "run" / "checkpoints" / "best.weights.h5").read_bytes() == before
    assert checkpoints.best() == ("val_accuracy", 1.5)


@pytest.mark.usefixtures("without_pictures")
def test_early_stopping_remembers_its_patience(folder, tmp_path):
    optimizer = OptimizerConfig(learning_rate=1e-12, schedule="constant")
    config = run_config(
        folder,
        tmp_path / "run",
        epochs=9,
        steps_per_epoch=1,
        early_stopping_patience=3,
        monitor="val_accuracy",
        optimizer=optimizer,
    )
    stopped = RuntimeError("as if killed")
    report = loop.epoch_report.report_epoch

    def stop_in_third(*arguments, **options):
        report(*arguments, **options)
        if len(arguments[1]) == 3:
            raise stopped

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.epoch_report, "report_epoch", stop_in_third)
        with pytest.raises(RuntimeError, match="as if killed"):
            loop.run(config)
    assert Checkpoints(config.run_dir).read_state()["epochs_without_better"] == 1
    result = loop.run(config)
    assert [row["epoch"] for row in result.history] == [1, 2, 3, 4]

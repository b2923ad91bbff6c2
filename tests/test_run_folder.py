"""Run folders: one run each, whole checkpoints, a best that stays the best."""

import csv
import json

import h5py
import keras
import numpy as np
import pytest

from hpa_proto.errors import ConfigError
from trainer import run_folder
from trainer.run_folder import RunFolder, read_record

RECORD = {"config": {"model": "tiny", "optimizer": {"learning_rate": 0.1}, "seed": 0}, "manifest_sha256": "ab"}


def variables(*arrays):
    return [keras.Variable(np.asarray(array)) for array in arrays]


def small_model(units=3):
    return keras.Sequential([keras.Input((2,)), keras.layers.Dense(units)])


def test_an_equal_run_opens_the_folder_again(tmp_path):
    for _ in range(2):
        RunFolder(str(tmp_path / "run")).open(RECORD)
    assert read_record(str(tmp_path / "run")) == RECORD
    assert "keras" in json.loads((tmp_path / "run" / "config.json").read_text())["versions"]


def test_another_run_is_refused_with_what_differs(tmp_path):
    RunFolder(str(tmp_path)).open(RECORD)
    other = {"config": {"model": "tiny", "optimizer": {"learning_rate": 0.2}, "seed": 5}, "manifest_sha256": "ab"}
    with pytest.raises(ConfigError, match=r"optimizer\.learning_rate is 0\.1, here 0\.2; seed is 0, here 5"):
        RunFolder(str(tmp_path)).open(other)


def test_a_checkpoint_comes_back_bit_for_bit(tmp_path):
    folder = RunFolder(str(tmp_path))
    arrays = [np.random.default_rng(0).normal(size=(3, 2)).astype("float32"), np.int32(7)]
    folder.save_last({"step": 3, "loss_sum": 0.1 + 0.2}, variables(*arrays))
    restored = variables(np.zeros((3, 2), "float32"), np.int32(0))
    folder.restore_variables(restored)
    for variable, array in zip(restored, arrays, strict=True):
        assert keras.ops.convert_to_numpy(variable).tobytes() == array.tobytes()
    state = folder.read_state()
    assert (state["step"], state["loss_sum"]) == (3, 0.1 + 0.2)


def test_a_checkpoint_of_another_model_is_an_error(tmp_path):
    folder = RunFolder(str(tmp_path))
    folder.save_last({}, variables(np.zeros((3, 2), "float32")))
    for other in (variables(np.zeros((3, 4), "float32")), variables(np.zeros((3, 2), "float32"), np.float32(0))):
        with pytest.raises(ConfigError, match="a checkpoint of another model"):
            folder.restore_variables(other)


def test_a_broken_checkpoint_is_an_error(tmp_path):
    folder = RunFolder(str(tmp_path))
    folder.save_last({}, variables(np.zeros(100, "float32")))
    path = tmp_path / "checkpoints" / "last.npz"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ConfigError, match="not a checkpoint"):
        folder.read_state()


def flip_bit(path, place):
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def test_a_bit_flipped_in_a_checkpoint_is_an_error(tmp_path):
    folder = RunFolder(str(tmp_path))
    arrays = variables(np.arange(100, dtype="float32"))
    folder.save_last({}, arrays)
    path = tmp_path / "checkpoints" / "last.npz"
    flip_bit(path, path.read_bytes().index(np.float32(50).tobytes()))
    with pytest.raises(ConfigError, match=r"last\.npz: not a checkpoint \(Bad CRC-32.*remove it to start anew"):
        folder.restore_variables(arrays)


def test_a_checkpoint_whose_state_lacks_a_name_is_an_error(tmp_path):
    folder = RunFolder(str(tmp_path))
    folder.save_last({"step": 1}, variables(np.float32(1)))
    assert folder.read_state(required=("step", "variables"))["step"] == 1
    with pytest.raises(ConfigError, match=r"last\.npz: not a checkpoint \(its state has no 'epoch'\); remove it"):
        folder.read_state(required=("step", "epoch"))


def test_a_write_that_fails_leaves_the_old_checkpoint(tmp_path):
    folder = RunFolder(str(tmp_path))
    folder.save_last({"step": 1}, variables(np.float32(1)))
    with pytest.raises(TypeError):
        folder.save_last({"step": object()}, variables(np.float32(2)))
    assert folder.read_state()["step"] == 1


def test_a_checkpoint_without_config_is_refused(tmp_path):
    RunFolder(str(tmp_path)).save_last({}, variables(np.float32(1)))
    with pytest.raises(ConfigError, match="has a checkpoint but no"):
        RunFolder(str(tmp_path)).open(RECORD)


def test_the_best_checkpoint_knows_its_value_and_loads_into_the_model(tmp_path):
    folder, model = RunFolder(str(tmp_path)), small_model()
    assert folder.best() is None
    folder.save_best(model, monitor="val_loss", value=0.25, epoch=2)
    assert folder.best() == ("val_loss", 0.25)
    mine, theirs = small_model(), small_model()
    assert folder.load_best(mine) == 2
    theirs.load_weights(tmp_path / "checkpoints" / "best.weights.h5")
    for expected, *found in zip(model.get_weights(), mine.get_weights(), theirs.get_weights(), strict=True):
        assert all((expected == each).all() for each in found)


@pytest.fixture
def best(tmp_path):
    """Path of a best checkpoint of epoch 2."""
    RunFolder(str(tmp_path)).save_best(small_model(), monitor="val_loss", value=0.25, epoch=2)
    return tmp_path / "checkpoints" / "best.weights.h5"


def test_a_bit_flipped_in_the_best_weights_is_an_error(best, tmp_path):
    assert RunFolder(str(tmp_path)).load_best(small_model()) == 2
    with h5py.File(best) as file:
        flip_bit(best, file["layers/dense/vars/0"].id.get_offset())
    with pytest.raises(ConfigError, match=r"best\.weights\.h5: .*damaged: its SHA-256 does not fit its content.*copy"):
        RunFolder(str(tmp_path)).load_best(small_model())


def test_another_epochs_value_does_not_fit_the_best_weights(best, tmp_path):
    with h5py.File(best, "a") as file:
        file.attrs["epoch"] = 3
    with pytest.raises(ConfigError, match="its SHA-256 does not fit"):
        RunFolder(str(tmp_path)).load_best(small_model())


def test_best_weights_of_before_there_were_digests_are_read(best, tmp_path):
    with h5py.File(best, "a") as file:
        del file.attrs["sha256"]
    assert RunFolder(str(tmp_path)).load_best(small_model()) == 2


@pytest.mark.parametrize("name", ["epoch", "monitor", "value"])
def test_best_weights_without_what_they_carry_are_an_error(best, tmp_path, name):
    with h5py.File(best, "a") as file:
        del file.attrs[name]
    with pytest.raises(ConfigError, match=r"best\.weights\.h5: not a checkpoint of this program"):
        RunFolder(str(tmp_path)).load_best(small_model())


@pytest.mark.parametrize(
    ("run_dir", "name"),
    [("runs/first", "first"), ("runs/x/../first/", "first"), ("s3://bucket/runs/first/", "first")],
)
def test_a_run_has_the_name_of_its_folder(run_dir, name):
    assert run_folder.name_of(run_dir) == name


def test_history_is_a_table(tmp_path):
    RunFolder(str(tmp_path)).write_history([{"epoch": 1, "loss": 0.5}, {"epoch": 2, "loss": 0.25}])
    with open(tmp_path / "history.csv", newline="") as file:
        assert list(csv.DictReader(file)) == [{"epoch": "1", "loss": "0.5"}, {"epoch": "2", "loss": "0.25"}]


def test_a_folder_that_is_no_run_is_an_error(tmp_path):
    with pytest.raises(
        ConfigError, match=r"is no run \(no config\.json in it\); give the folder of one, as runs/<name>"
    ):
        read_record(str(tmp_path))

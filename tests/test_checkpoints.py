"""Checkpoints: whole or not at all, and a best that stays the best."""

import json
import zipfile

import h5py
import keras
import numpy as np
import pytest

from hpa_proto.errors import ConfigError
from trainer.checkpoints import Checkpoints


def variables(*arrays):
    return [keras.Variable(np.asarray(array)) for array in arrays]


def small_model(units=3):
    return keras.Sequential([keras.Input((2,)), keras.layers.Dense(units)])


def test_a_checkpoint_comes_back_bit_for_bit(tmp_path):
    files = Checkpoints(str(tmp_path))
    arrays = [np.random.default_rng(0).normal(size=(3, 2)).astype("float32"), np.int32(7)]
    files.save_last({"step": 3, "loss_sum": 0.1 + 0.2}, variables(*arrays))
    restored = variables(np.zeros((3, 2), "float32"), np.int32(0))
    files.restore_variables(restored)
    for variable, array in zip(restored, arrays, strict=True):
        assert keras.ops.convert_to_numpy(variable).tobytes() == array.tobytes()
    state = files.read_state()
    assert (state["step"], state["loss_sum"]) == (3, 0.1 + 0.2)


def test_a_checkpoint_of_another_model_is_an_error(tmp_path):
    files = Checkpoints(str(tmp_path))
    files.save_last({}, variables(np.zeros((3, 2), "float32")))
    for other in (variables(np.zeros((3, 4), "float32")), variables(np.zeros((3, 2), "float32"), np.float32(0))):
        with pytest.raises(ConfigError, match="a checkpoint of another model"):
            files.restore_variables(other)


def test_a_broken_checkpoint_is_an_error(tmp_path):
    files = Checkpoints(str(tmp_path))
    files.save_last({}, variables(np.zeros(100, "float32")))
    path = tmp_path / "checkpoints" / "last.npz"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ConfigError, match="not a checkpoint"):
        files.read_state()


def flip_bit(path, place):
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def test_a_bit_flipped_in_a_checkpoint_is_an_error(tmp_path):
    files = Checkpoints(str(tmp_path))
    arrays = variables(np.arange(100, dtype="float32"))
    files.save_last({}, arrays)
    path = tmp_path / "checkpoints" / "last.npz"
    flip_bit(path, path.read_bytes().index(np.float32(50).tobytes()))
    with pytest.raises(ConfigError, match=r"last\.npz: not a checkpoint \(Bad CRC-32.*remove it to start anew"):
        files.restore_variables(arrays)


def test_a_checkpoint_whose_state_lacks_a_name_is_an_error(tmp_path):
    files = Checkpoints(str(tmp_path))
    files.save_last({"step": 1}, variables(np.float32(1)))
    assert files.read_state(required=("step", "variables"))["step"] == 1
    with pytest.raises(ConfigError, match=r"last\.npz: not a checkpoint \(its state has no 'epoch'\); remove it"):
        files.read_state(required=("step", "epoch"))


@pytest.mark.parametrize("content", [[], 3, {"variables": 3}, {"variables": None}])
def test_a_checkpoint_whose_state_is_something_else_is_an_error(tmp_path, content):
    files = Checkpoints(str(tmp_path))
    files.save_last({}, ())
    state = np.frombuffer(json.dumps(content).encode(), np.uint8)
    np.savez(tmp_path / "checkpoints" / "last.npz", state=state)
    with pytest.raises(ConfigError, match=r"last\.npz: not a checkpoint"):
        files.restore_variables(())


@pytest.mark.parametrize("array", [np.zeros(3, "float32"), np.zeros((2, 3), "int64"), np.zeros((2, 3), "S1")])
def test_a_checkpoint_whose_numbers_are_not_what_its_state_says_is_an_error(tmp_path, array):
    files = Checkpoints(str(tmp_path))
    own = variables(np.ones((2, 3), "float32"))
    files.save_last({}, own)
    path = tmp_path / "checkpoints" / "last.npz"
    with np.load(path) as found:
        state = found["state"]
    np.savez(path, state=state, v00000=array)
    with pytest.raises(ConfigError, match=r"not a checkpoint \(?damaged: .* for float32\[2, 3\]"):
        files.restore_variables(own)


@pytest.mark.parametrize("name", ["state", "v00000"])
def test_a_checkpoint_with_a_member_that_is_no_array_is_an_error(tmp_path, name):
    """Found by fuzzing: NumPy gives it as bytes."""
    files = Checkpoints(str(tmp_path))
    own = variables(np.ones((2, 3), "float32"))
    files.save_last({}, own)
    path = tmp_path / "checkpoints" / "last.npz"
    with zipfile.ZipFile(path) as archive:
        members = {each: archive.read(each) for each in archive.namelist()}
    members[f"{name}.npy"] = b"no array"
    with zipfile.ZipFile(path, "w") as archive:
        for each, content in members.items():
            archive.writestr(each, content)
    with pytest.raises(ConfigError, match=rf"last\.npz: not a checkpoint \({name} in it is no array\)"):
        files.restore_variables(own)


def test_a_write_that_fails_leaves_the_old_checkpoint(tmp_path):
    files = Checkpoints(str(tmp_path))
    files.save_last({"step": 1}, variables(np.float32(1)))
    with pytest.raises(TypeError):
        files.save_last({"step": object()}, variables(np.float32(2)))
    assert files.read_state()["step"] == 1


def test_the_best_checkpoint_knows_its_value_and_loads_into_the_model(tmp_path):
    files, model = Checkpoints(str(tmp_path)), small_model()
    assert files.best() is None
    files.save_best(model, monitor="val_loss", value=0.25, epoch=2)
    assert files.best() == ("val_loss", 0.25)
    mine, theirs = small_model(), small_model()
    assert files.load_best(mine) == 2
    theirs.load_weights(tmp_path / "checkpoints" / "best.weights.h5")
    for expected, *found in zip(model.get_weights(), mine.get_weights(), theirs.get_weights(), strict=True):
        assert all((expected == each).all() for each in found)


@pytest.fixture
def best(tmp_path):
    """Path of a best checkpoint of epoch 2."""
    Checkpoints(str(tmp_path)).save_best(small_model(), monitor="val_loss", value=0.25, epoch=2)
    return tmp_path / "checkpoints" / "best.weights.h5"


def test_a_bit_flipped_in_the_best_weights_is_an_error(best, tmp_path):
    assert Checkpoints(str(tmp_path)).load_best(small_model()) == 2
    with h5py.File(best) as file:
        flip_bit(best, file["layers/dense/vars/0"].id.get_offset())
    with pytest.raises(ConfigError, match=r"best\.weights\.h5: .*damaged: its SHA-256 does not fit its content.*copy"):
        Checkpoints(str(tmp_path)).load_best(small_model())


def test_another_epochs_value_does_not_fit_the_best_weights(best, tmp_path):
    with h5py.File(best, "a") as file:
        file.attrs["epoch"] = 3
    with pytest.raises(ConfigError, match="its SHA-256 does not fit"):
        Checkpoints(str(tmp_path)).load_best(small_model())


def test_best_weights_of_before_there_were_digests_are_read(best, tmp_path):
    with h5py.File(best, "a") as file:
        del file.attrs["sha256"]
    assert Checkpoints(str(tmp_path)).load_best(small_model()) == 2


@pytest.mark.parametrize("name", ["epoch", "monitor", "value"])
def test_best_weights_without_what_they_carry_are_an_error(best, tmp_path, name):
    with h5py.File(best, "a") as file:
        del file.attrs[name]
    with pytest.raises(ConfigError, match=r"best\.weights\.h5: not a checkpoint of this program"):
        Checkpoints(str(tmp_path)).load_best(small_model())


def _enlarge(file, name, _):
    file.create_dataset(name, shape=(1 << 38,), dtype="f4", chunks=(1024,))


def _read_outside(file, name, folder):
    (folder / "other").write_bytes(b"x" * 100)
    file.create_dataset(name, shape=(3,), dtype="f4", external=[(str(folder / "other"), 0, h5py.h5f.UNLIMITED)])


def _link(file, name, folder):
    with h5py.File(folder / "other.h5", "w") as other:
        other["x"] = np.ones(3, "f4")
    layout = h5py.VirtualLayout((3,), "f4")
    layout[:] = h5py.VirtualSource(str(folder / "other.h5"), "x", shape=(3,))
    file.create_virtual_dataset(name, layout)


def _write_texts(file, name, _):
    file.create_dataset(name, data=["a", "b"], dtype=h5py.string_dtype())


@pytest.mark.parametrize("harm", [_enlarge, _read_outside, _link, _write_texts])
def test_best_weights_that_reach_beyond_their_file_are_an_error(best, tmp_path, harm):
    with h5py.File(best, "a") as file:
        del file["layers/dense/vars/0"]
        harm(file, "layers/dense/vars/0", tmp_path)
    words = r"not a checkpoint of this program \(layers/dense/vars/0 (has its numbers elsewhere|is .*, far more than)"
    with pytest.raises(ConfigError, match=words):
        Checkpoints(str(tmp_path)).load_best(small_model())

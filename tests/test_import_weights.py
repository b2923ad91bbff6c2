"""Promises about pickled networks: their tensors are read, whole and exact, and nothing in the file is ever run."""

import collections
import functools
import io
import os
import pathlib
import pickle
import subprocess
import sys
import types
import zipfile

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import nn

from beam_jobs import import_weights
from beam_jobs.import_weights import ImportConfig
from beam_jobs.segmenters import dpn_unet, network_weights, pth_reader
from hpa_proto.errors import ConfigError

FORMATS = pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "legacy"])


def save(thing, path, *, is_zip=True):
    torch.save(thing, path, _use_new_zipfile_serialization=is_zip)
    return str(path)


@pytest.fixture
def zoo(monkeypatch):
    """The package of the published modules, gone again before anything is read, as on a user's machine."""

    class DPNUnet(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder_stages = nn.ModuleList([nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())])
            self.final = nn.Conv2d(4, 3, 1).to(memory_format=torch.channels_last)
            self.scale = nn.Parameter(torch.randn(5).half())
            # What such modules carry beside tensors: classes, options, functions of torch.
            self.bottleneck_type = nn.Conv2d
            self.options = {"name": "dpn92", "filters": [64, 336], "where": torch.device("cpu"), "kinds": {1, 2}}
            self.activation = nn.functional.relu

    module = types.ModuleType("pytorch_zoo")
    module.unet = types.ModuleType("pytorch_zoo.unet")
    module.unet.DPNUnet = DPNUnet
    DPNUnet.__module__, DPNUnet.__qualname__ = "pytorch_zoo.unet", "DPNUnet"
    for name in ("pytorch_zoo", "pytorch_zoo.unet"):
        monkeypatch.setitem(sys.modules, name, module if name == "pytorch_zoo" else module.unet)
    return monkeypatch, DPNUnet


@FORMATS
@pytest.mark.parametrize("wrap", [lambda module: module, nn.DataParallel, lambda module: module.state_dict()])
@pytest.mark.filterwarnings("ignore:Couldn't retrieve source code")
def test_tensors_of_a_pickled_module_are_read_without_its_package(tmp_path, zoo, wrap, is_zip):
    monkeypatch, zoo_class = zoo
    module = zoo_class()
    path = save(wrap(module), tmp_path / "network.pth", is_zip=is_zip)
    monkeypatch.delitem(sys.modules, "pytorch_zoo")
    monkeypatch.delitem(sys.modules, "pytorch_zoo.unet")
    found = pth_reader.read_pth(path)
    wanted = {name: value for name, value in module.state_dict().items() if "num_batches_tracked" not in name}
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        np.testing.assert_array_equal(found[name], tensor.numpy())
        assert found[name].dtype == tensor.numpy().dtype


@FORMATS
def test_views_of_one_storage_are_read_as_what_they_show(tmp_path, is_zip):
    base = torch.arange(24.0)
    state = {"all": base, "turned": base.view(4, 6).t(), "part": base[5:9], "repeated": base[:1].expand(3, 2)}
    found = pth_reader.read_pth(save(state, tmp_path / "views.pth", is_zip=is_zip))
    for name, tensor in state.items():
        np.testing.assert_array_equal(found[name], tensor.numpy())


class Calls:
    """Pickles into a call of a function."""

    def __init__(self, function, *arguments):
        self._call = function, arguments

    def __reduce__(self):
        return self._call


@FORMATS
@pytest.mark.parametrize(
    ("attack", "name"),
    [
        (lambda path: Calls(os.system, f"touch {path}"), "posix.system"),
        (lambda path: Calls(eval, f"open({str(path)!r}, 'w')"), "builtins.eval"),
        (lambda path: Calls(exec, f"open({str(path)!r}, 'w')"), "builtins.exec"),
        (lambda path: Calls(subprocess.Popen, ["touch", str(path)]), "subprocess.Popen"),
        (lambda path: Calls(open, str(path), "w"), "io.open|_io.open"),
        (lambda path: Calls(torch.load, str(path)), "torch.serialization.load"),
        (lambda path: Calls(np.load, str(path)), "numpy.load"),
        (lambda path: Calls(functools.partial, os.system, f"touch {path}"), "functools.partial"),
        (lambda path: Calls(getattr, "x", "system"), "builtins.getattr"),
        (lambda path: Calls(__import__, "antigravity"), "builtins.__import__"),
    ],
)
def test_pickle_that_runs_code_is_refused_by_name(tmp_path, attack, name, is_zip):
    mark = tmp_path / "was-run"
    state = collections.OrderedDict(weight=torch.zeros(2))
    state["bad"] = attack(mark)
    path = save(state, tmp_path / "bad.pth", is_zip=is_zip)
    with pytest.raises(ConfigError, match=rf"bad\.pth: it names ({name.replace('.', '[.]')})") as caught:
        pth_reader.read_pth(path)
    assert "nothing of it was run" in str(caught.value)
    assert not mark.exists()


def test_plain_pickle_that_runs_code_is_refused(tmp_path):
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Calls(os.system, f"touch {tmp_path}/was-run")))
    with pytest.raises(ConfigError, match=r"it names posix\.system"):
        pth_reader.read_pth(str(tmp_path / "plain.pth"))
    assert not (tmp_path / "was-run").exists()


def write_archive(path, program, numbers=b"\0" * 16):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", program)
        archive.writestr("archive/data/0", numbers)
    return str(path)


def tensor_program(*, offset=0, shape=(2, 2), strides=(2, 1), num_values=4):
    class Storage:
        pass

    class Pickler(pickle.Pickler):
        def persistent_id(self, thing):
            return ("storage", torch.FloatStorage, "0", "cpu", num_values) if isinstance(thing, Storage) else None

    file = io.BytesIO()
    tensor = Calls(torch._utils._rebuild_tensor_v2, Storage(), offset, shape, strides, False, {})
    Pickler(file, protocol=2).dump({"weight": tensor})
    return file.getvalue()


@pytest.mark.parametrize(
    "change",
    [
        {"offset": 1},
        {"offset": -1},
        {"shape": (3, 2)},
        {"strides": (4, 1)},
        {"strides": (-2, 1)},
        {"shape": (1 << 40, 2), "strides": (0, 4)},
        {"num_values": 1 << 40},
        {"num_values": -4},
        {"num_values": 8},
        {"shape": (2,)},
    ],
)
def test_tensor_outside_of_its_numbers_is_an_error(tmp_path, change):
    good = write_archive(tmp_path / "good.pth", tensor_program(), np.arange(4, dtype=np.float32).tobytes())
    np.testing.assert_array_equal(pth_reader.read_pth(good)["weight"], [[0, 1], [2, 3]])
    path = write_archive(tmp_path / "bad.pth", tensor_program(**change))
    with pytest.raises(ConfigError, match=r"bad\.pth: damaged, or no file of torch\.save"):
        pth_reader.read_pth(path)


@FORMATS
def test_truncated_file_is_an_error_wherever_it_ends(tmp_path, is_zip):
    whole = save(nn.Linear(3, 2).state_dict(), tmp_path / "whole.pth", is_zip=is_zip)
    data = pathlib.Path(whole).read_bytes()
    for length in {0, 1, 3, *range(4, len(data) - 1, 37), len(data) - 1}:
        (tmp_path / "cut.pth").write_bytes(data[:length])
        with pytest.raises(ConfigError, match=r"cut\.pth"):
            pth_reader.read_pth(str(tmp_path / "cut.pth"))


def test_storage_that_no_bytes_stand_for_is_an_error(tmp_path):
    path = save({"weight": torch.ones(2)}, tmp_path / "whole.pth", is_zip=False)
    data = pathlib.Path(path).read_bytes()
    # The list of storages is the last of the file's five pickles: an empty one in its place.
    start = data.rindex(b"\x80\x02]")
    (tmp_path / "empty.pth").write_bytes(data[:start] + pickle.dumps([], protocol=2))
    with pytest.raises(ConfigError, match="a storage that is not in the file"):
        pth_reader.read_pth(str(tmp_path / "empty.pth"))


@pytest.mark.parametrize("thing", [{}, [torch.zeros(2)], {"epoch": 3}, "text"])
def test_file_without_named_tensors_is_an_error(tmp_path, thing):
    with pytest.raises(ConfigError, match="no tensors in it"):
        pth_reader.read_pth(save(thing, tmp_path / "other.pth"))


def test_modules_within_themselves_come_to_an_end(tmp_path):
    module = nn.Sequential(nn.Linear(1, 1))
    module.add_module("self", module)
    with pytest.raises(ConfigError, match="without end"):
        pth_reader.read_pth(save(module, tmp_path / "loop.pth"))


@pytest.fixture(scope="module")
def published_state():
    """All 499 tensors in little room: each shows one value everywhere."""
    shapes = dpn_unet.state_shapes()
    state = {
        f"module.{name}": torch.tensor([index / 7]).expand(shape) for index, (name, shape) in enumerate(shapes.items())
    }
    counters = [name.replace("running_var", "num_batches_tracked") for name in state if name.endswith("running_var")]
    return state | {name: torch.tensor(5) for name in counters}


def test_import_writes_all_tensors_with_kind_and_source(tmp_path, published_state):
    pth = save(published_state, tmp_path / "dpn_unet_cell_3ch_v1.pth")
    out = str(tmp_path / "cell.safetensors")
    assert import_weights.run(ImportConfig(pth, out)).kind == "cell_3ch"
    with safe_open(out, framework="numpy") as file:
        assert file.metadata() == {
            "network": "dpn_unet",
            "kind": "cell_3ch",
            "source_sha256": network_weights.sha256(pth),
        }
        assert {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()} == dpn_unet.state_shapes()  # noqa: SIM118
        last = list(dpn_unet.state_shapes()).index("final.0.bias")
        np.testing.assert_array_equal(file.get_tensor("final.0.bias"), np.float32([last / 7] * 3))
    assert network_weights.read_kind(out) == "cell_3ch"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"module.final.0.bias": None}, r"1 missing, as final\.0\.bias"),
        ({"module.final.1.bias": torch.zeros(3)}, r"1 unknown, as final\.1\.bias"),
        ({"module.final.0.bias": torch.zeros(4)}, r"1 of another shape, as final\.0\.bias is \[4\], wanted \[3\]"),
        ({"module.final.0.bias": torch.tensor([0, 0, torch.nan])}, r"final\.0\.bias holds values that are no finite"),
        ({"module.final.0.bias": torch.zeros(3, dtype=torch.int64)}, r"final\.0\.bias holds values that are no finite"),
    ],
)
def test_other_tensors_than_the_networks_are_refused_by_name(tmp_path, published_state, change, message):
    state = {name: value for name, value in (published_state | change).items() if value is not None}
    pth = save(state, tmp_path / "dpn_unet_nuclei_v1.pth")
    with pytest.raises(ConfigError, match=message):
        import_weights.run(ImportConfig(pth, str(tmp_path / "out.safetensors")))
    assert not (tmp_path / "out.safetensors").exists()


def test_renamed_file_needs_its_kind(tmp_path):
    (tmp_path / "nuclei-model.pth").write_bytes(b"x")
    with pytest.raises(ConfigError, match=r"dpn_unet_nuclei_v1\.pth.*--kind.*nuclei, cell_3ch, cell_2ch"):
        ImportConfig(str(tmp_path / "nuclei-model.pth"), "out.safetensors")
    assert ImportConfig(str(tmp_path / "nuclei-model.pth"), "out.safetensors", kind="nuclei").kind == "nuclei"


@pytest.mark.parametrize(
    ("pth", "out", "message"),
    [("none.pth", "x.safetensors", "Zenodo record 4665863"), (__file__, "x.pth", "ends in .safetensors")],
)
def test_bad_flag_is_an_error(pth, out, message):
    with pytest.raises(ConfigError, match=message):
        ImportConfig(pth, out, kind="nuclei")


def test_command_says_in_one_line_what_is_wrong(tmp_path):
    (tmp_path / "bad.pth").write_bytes(pickle.dumps(Calls(os.system, "true")))
    arguments = [f"--pth={tmp_path}/bad.pth", f"--out={tmp_path}/bad.safetensors", "--kind=nuclei"]
    ended = subprocess.run(
        [sys.executable, "-m", "beam_jobs.import_weights", *arguments], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 1
    assert ended.stderr.startswith("error: ")
    assert len(ended.stderr.splitlines()) == 1
    assert "posix.system" in ended.stderr


@pytest.mark.parametrize("data", [b"", b"\0" * 4, b"\xff" * 64, b"\x05\0\0\0\0\0\0\0hello", b"\x04\0\0\0\0\0\0\0[12]"])
def test_damaged_safetensors_is_an_error(tmp_path, data):
    (tmp_path / "x.safetensors").write_bytes(data)
    with pytest.raises(ConfigError, match="no readable safetensors file"):
        network_weights.read_weights(str(tmp_path / "x.safetensors"))

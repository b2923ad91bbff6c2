"""Promises about ZIP archives that are damaged or made up: every reader answers with its own error, which names the file."""

import io
import pathlib
import struct
import zipfile

import keras
import numpy as np
import pytest

import tiny_backbone
from beam_jobs.segmenters import masks, pth_reader
from faults import fuzz_targets
from hpa_proto import zip_file
from hpa_proto.errors import ConfigError, FovError
from trainer import models, pretrained
from trainer.checkpoints import Checkpoints
from trainer.pretrained import WeightsFile

_LOCAL, _CENTRAL = b"PK\x03\x04", b"PK\x01\x02"


def pack(members, method):
    """An archive, and the place of the packed bytes of its first member."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
        start = zipfile.sizeFileHeader + len(archive.infolist()[0].filename)
    return bytearray(file.getvalue()), start


def set_number(data, *, local, central, code, number):
    """Sets a number of every member, by its place in the header before the member and in the one at the end."""
    for signature, place in ((_LOCAL, local), (_CENTRAL, central)):
        start = data.find(signature)
        while place is not None and start >= 0:
            struct.pack_into(code, data, start + place, number)
            start = data.find(signature, start + 4)
    return bytes(data)


def encrypted(members):
    return set_number(pack(members, zipfile.ZIP_STORED)[0], local=6, central=8, code="<H", number=1)


def packed_in_an_unknown_way(members):
    return set_number(pack(members, zipfile.ZIP_STORED)[0], local=8, central=10, code="<H", number=99)


def before_the_file(members):
    data, _ = pack(members, zipfile.ZIP_STORED)
    # The end says that the list of members lies later than it does: all places are counted from before the file.
    place = data.rindex(b"PK\x05\x06") + 16
    struct.pack_into("<I", data, place, struct.unpack_from("<I", data, place)[0] + 100)
    return bytes(data)


def damaged(method, first=0):
    def harm(members):
        data, start = pack(members, method)
        harmed = slice(start + first, start + first + 30)
        data[harmed] = bytes(each ^ 0xFF for each in data[harmed])
        return bytes(data)

    return harm


HARMS = pytest.mark.parametrize(
    "harm",
    [
        pytest.param(encrypted, id="encrypted"),
        pytest.param(packed_in_an_unknown_way, id="unknown method"),
        pytest.param(before_the_file, id="before the file"),
        pytest.param(damaged(zipfile.ZIP_DEFLATED), id="deflate"),
        pytest.param(damaged(zipfile.ZIP_BZIP2), id="bzip2"),
        pytest.param(damaged(zipfile.ZIP_LZMA), id="lzma, header"),
        pytest.param(damaged(zipfile.ZIP_LZMA, first=9), id="lzma, content"),
    ],
)


def members_of(data):
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@HARMS
def test_no_archive_brings_out_another_error_of_zipfile(harm):
    """That the list is whole: what the readers catch is what zipfile raises."""
    file = io.BytesIO(harm({"a": bytes(range(256)) * 4}))
    with pytest.raises((*zip_file.DAMAGE, OSError)), zipfile.ZipFile(file) as archive:
        archive.read("a")


@HARMS
def test_weights_of_torch(tmp_path, harm):
    sound = fuzz_targets.TARGETS["pth"].seeds()[0]
    (tmp_path / "bad.pth").write_bytes(harm(members_of(sound)))
    with pytest.raises(ConfigError, match=r"bad\.pth: damaged, or no file of torch\.save"):
        pth_reader.read_pth(str(tmp_path / "bad.pth"))


def test_file_of_torch_that_cannot_be_read_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        pth_reader.read_pth(str(tmp_path / "none.pth"))
    with pytest.raises(IsADirectoryError):
        pth_reader.read_pth(str(tmp_path))


@HARMS
def test_label_maps(tmp_path, harm):
    file = io.BytesIO()
    np.savez(file, np.arange(48).reshape(6, 8))
    (tmp_path / "fov.npz").write_bytes(harm(members_of(file.getvalue())))
    with pytest.raises(FovError, match=r"fov\.npz cannot be read") as caught:
        masks.read_mask(str(tmp_path / "fov.npz"), "fov")
    assert caught.value.reason == "unreadable_mask"


@HARMS
def test_checkpoints(tmp_path, harm):
    files = Checkpoints(str(tmp_path))
    files.save_last({"epoch": 1}, [keras.Variable(np.zeros(3, "float32"))])
    path = pathlib.Path(tmp_path) / "checkpoints" / "last.npz"
    path.write_bytes(harm(members_of(path.read_bytes())))
    with pytest.raises(ConfigError, match=r"last\.npz: not a checkpoint"):
        files.restore_variables([keras.Variable(np.zeros(3, "float32"))])


@HARMS
def test_keras_files(tmp_path, monkeypatch, harm):
    tiny_backbone.register(monkeypatch)
    classifier = models.build_classifier(
        tiny_backbone.NAME, num_classes=3, num_channels=3, image_size_px=32, weights="none"
    )
    keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]).save(tmp_path / "sound.keras")
    path = tmp_path / "bad.keras"
    members = members_of((tmp_path / "sound.keras").read_bytes())
    # First, where the harm is done: what Keras reads in any case.
    path.write_bytes(harm({"config.json": members.pop("config.json"), **members}))
    with pytest.raises(ConfigError, match=r"bad\.keras: not a Keras model that can be loaded safely"):
        pretrained.load_weights(classifier, WeightsFile(tiny_backbone.NAME, str(path), "0" * 32))


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_packing_without_a_bound_is_refused(method):
    data, _ = pack({"a": bytes(100)}, method)
    with zipfile.ZipFile(io.BytesIO(data)) as archive, pytest.raises(zipfile.BadZipFile, match="wanted: stored or"):
        zip_file.check_members(archive)

"""The commands beside test_object_store_chain.py's on s3:// and gs://: what they write is what they write on a disk."""

import json
import pathlib
import struct
import subprocess
import sys

import numpy as np
import pytest

import atlas_server
import fake_gs
import fake_s3
import fold_runs
import random_predictions
import small_fovs
from beam_jobs import fetch_hpa, fetch_notes, import_weights
from beam_jobs.fetch_hpa import FetchConfig
from beam_jobs.import_weights import ImportConfig
from beam_jobs.segmenters import dpn_unet
from faults import reliability
from hpa_proto import storage
from trainer import find_label_errors, relabel, specialise
from trainer.find_label_errors import LabelErrorsConfig
from trainer.relabel import RelabelConfig
from trainer.specialise import SpecialiseConfig

pytestmark = pytest.mark.slow
TRIAL = reliability.Trial(
    part="Object stores",
    fault="`fetch_hpa`, `convert`, `find_label_errors`, `relabel`, `specialise` and `import_weights` with paths and run "
    "folders on s3:// (moto's server) and gs:// (an emulator)",
    outcome="pictures, tables, shards and weights are those that they write on a disk, byte for byte",
    promise="A URL can stand wherever a folder can.",
)


@pytest.fixture(scope="module", params=["s3", "gs"])
def bucket(request):
    if request.param == "gs":
        with fake_gs.gs_bucket() as url:
            yield url
    else:
        with fake_s3.s3_server():
            yield fake_s3.make_bucket()


def copy(folder, url):
    # In the order of their times: predictions must not become older than their checkpoint.
    for path in sorted(pathlib.Path(folder).rglob("*"), key=lambda path: path.stat().st_mtime):
        if path.is_file():
            storage.write_bytes(storage.join(url, path.relative_to(folder).as_posix()), path.read_bytes())
    return url


def read_all(folder):
    return {name: storage.read_bytes(storage.join(folder, name)) for name in storage.list_files(folder)}


def test_tools_of_folds_write_the_same_bytes(tmp_path, bucket):
    whole = random_predictions.make_predictions(num_cells=90, num_classes=3, multi_label=True, skill=3.0)
    data_dir, runs = fold_runs.write(tmp_path, whole, num_folds=3)
    url = copy(data_dir, storage.join(bucket, "set"))
    urls = [copy(run_dir, storage.join(bucket, "runs", pathlib.Path(run_dir).name)) for run_dir in runs]
    for out, source, folders in ((str(tmp_path / "out"), data_dir, runs), (storage.join(bucket, "out"), url, urls)):
        errors = LabelErrorsConfig(tuple(folders), source, storage.join(out, "errors"), max_cells=9, picture_size_px=32)
        find_label_errors.run(errors)
        relabel.run(RelabelConfig(tuple(folders), storage.join(out, "labels"), data_dir=source))
        predictions = storage.join(folders[0], "predictions-fold0.parquet")
        specialise.run(SpecialiseConfig(predictions, source, worst=2, out=storage.join(out, "specialise.json")))
    ours, theirs = read_all(storage.join(bucket, "out")), read_all(str(tmp_path / "out"))
    assert ours.keys() == theirs.keys() >= {"errors/exclude.csv", "labels/cell_labels.parquet", "specialise.json"}
    # Commands to copy stand in these, with their folders.
    named = ("errors/gallery.html", "specialise.json")
    assert [name for name in ours if ours[name] != theirs[name] and name not in named] == []


def test_fetched_fovs_are_the_same(tmp_path, bucket):
    storage.write_text(storage.join(bucket, "ids.txt"), "\n".join(atlas_server.IDS))
    ids, folders = fetch_hpa.read_ids(storage.join(bucket, "ids.txt")), (str(tmp_path), storage.join(bucket, "fetched"))
    with atlas_server.serve() as server:
        configs = [FetchConfig(ids, out_dir=folder, base_url=server.url, max_rate=1e6) for folder in folders]
        assert [fetch_hpa.run(config).num_fetched for config in configs] == [8, 8]
        storage.remove(storage.join(folders[1], "36_410_D12_2_green.jpg"))
        storage.write_text(storage.join(folders[1], fetch_notes.NOTES_NAME), "")
        assert fetch_hpa.run(configs[1]).num_fetched == 8
    assert read_all(folders[1]) == read_all(folders[0])


def test_converting_writes_the_same_bytes(tmp_path, bucket):
    fovs = small_fovs.write_set(tmp_path / "fovs", num_fovs=4, labels=("0", "5"))
    url = copy(fovs, storage.join(bucket, "fovs"))
    flags = ["--segmenter=masks", "--pixel_size_um=0.5", "--splits=train=1,test=1", "--image_size_px=32"]
    for place, out in ((str(fovs), str(tmp_path / "out")), (url, storage.join(bucket, "converted"))):
        where = (f"--images={place}/images", f"--labels={place}/labels.csv", f"--masks_dir={place}/masks")
        command = [sys.executable, "-m", "beam_jobs.convert", *where, f"--out_dir={out}", *flags]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr
    ours, theirs = read_all(storage.join(bucket, "converted/dataset")), read_all(str(tmp_path / "out" / "dataset"))
    assert ours.keys() == theirs.keys()
    # Both have the command line.
    assert {name for name in ours if ours[name] != theirs[name]} == {"manifest.json", "report.html"}


def test_imported_weights_are_the_same(tmp_path, bucket, monkeypatch):
    torch = pytest.importorskip("torch")
    weights = {"w": np.arange(6, dtype=np.float32).reshape(2, 3)}
    monkeypatch.setattr(dpn_unet, "state_shapes", lambda: {name: array.shape for name, array in weights.items()})
    torch.save({name: torch.from_numpy(array) for name, array in weights.items()}, tmp_path / "net.pth")
    storage.write_bytes(storage.join(bucket, "net.pth"), (tmp_path / "net.pth").read_bytes())
    made = []
    for folder in (str(tmp_path), bucket):
        paths = [storage.join(folder, f"net.{suffix}") for suffix in ("pth", "safetensors")]
        import_weights.run(ImportConfig(*paths, kind="nuclei"))
        data = storage.read_bytes(paths[1])
        end = 8 + struct.unpack_from("<Q", data)[0]
        # The library writes the header's entries in any order.
        made.append((json.loads(data[8:end]), data[end:]))
    assert made[0] == made[1]

"""Every command on s3://, the chain on gs://, by servers of this machine: the same bytes as on a disk, errors of one line."""

import dataclasses
import io
import itertools
import json
import pathlib
import subprocess
import sys

import h5py
import numpy as np
import pandas as pd
import pytest

import fake_gs
import fake_s3
import tiny_train
from beam_jobs import compare_masks, dataset_job, dry_run, explore, inspect, picture, segment, synthesize, write_shards
from beam_jobs.cell_store import CellStore
from beam_jobs.dataset_job import ShardConfig
from beam_jobs.examples import ExampleConfig
from beam_jobs.plan_config import PlanConfig
from beam_jobs.segment import SegmentConfig
from beam_jobs.segmenters.watershed import WatershedSegmenter
from beam_jobs.synthesize import SynthesizeConfig
from faults import reliability
from hpa_proto import folder_lock, object_store, storage
from hpa_proto.errors import ConfigError, DatasetError
from trainer import compare, dataset, embed, evaluate, export, loop, overlay, predict, score, shards, submit
from trainer.checkpoints import Checkpoints
from trainer.config import TrainConfig
from trainer.optimizers import OptimizerConfig
from trainer.source import open_source

TRIAL = reliability.Trial(
    part="Object stores",
    fault="The commands from FOVs to a submission with their paths and run folders on s3:// (moto's server) and gs:// (an "
    "emulator); on s3:// jobs and training stopped, two workers, damaged shards, a damaged checkpoint, credentials in URLs",
    outcome="cells, shards, manifest, plan, batches, weights, predictions and report are those on a disk, byte for byte; "
    "stopped jobs and runs go on to the same bytes; damage and missing buckets named in one line; no credential in any file "
    "or output",
    promise="A URL can stand wherever a folder can.",
)
tiny_train.register()

_FOVS = dict(num_fovs=4, labels=(0, 5), height_px=256, width_px=256, pixel_size_um=0.32, crowding=(0.3, 0.3))
_PLAN = PlanConfig(splits=(("train", 1), ("validation", 1)), shards=(("train", 3),))
# Times, and what names the place.
_DIFFERING_COLUMNS = ["read_msec", "segment_msec", "store_msec"]


@pytest.fixture(scope="module")
def address():
    with fake_s3.s3_server() as address:
        yield address


@pytest.fixture(scope="module")
def bucket(address):
    return fake_s3.make_bucket()


def segment_config(folder, **changes):
    return SegmentConfig(
        images=storage.join(folder, "fovs", "images"),
        labels=storage.join(folder, "fovs", "labels.csv"),
        cells_dir=storage.join(folder, "cells"),
        pixel_size_um=0.32,
        **changes,
    )


def shard_config(folder, **changes):
    given = {"data_dir": storage.join(folder, "dataset"), "plan": _PLAN, "example": ExampleConfig(image_size_px=32)}
    return ShardConfig(cells_dir=storage.join(folder, "cells"), **{**given, **changes})


def make_dataset(folder, *, num_workers):
    """Simulates FOVs, segments and shards them."""
    synthesize.run(SynthesizeConfig(out_dir=storage.join(folder, "fovs"), num_workers=1, **_FOVS))
    segment.run(segment_config(folder, num_workers=num_workers))
    dataset_job.run(shard_config(folder, num_workers=num_workers))


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    """A data set on the disk, made in one process."""
    folder = str(tmp_path_factory.mktemp("local"))
    make_dataset(folder, num_workers=1)
    return folder


@pytest.fixture(scope="module")
def stored(bucket):
    """The same in the store."""
    folder = storage.join(bucket, "demo")
    make_dataset(folder, num_workers=1)
    return folder


@pytest.fixture(scope="module")
def google():
    """The same in Google's store."""
    with fake_gs.gs_bucket() as bucket:
        make_dataset(storage.join(bucket, "demo"), num_workers=1)
        yield storage.join(bucket, "demo")


def read_all(folder):
    return {name: storage.read_bytes(storage.join(folder, name)) for name in storage.list_files(folder)}


@pytest.fixture(params=["stored", pytest.param("google", marks=pytest.mark.slow)])
def place(request):
    """The data set in each of the stores."""
    return request.getfixturevalue(request.param)


def test_jobs_write_the_same_bytes_as_on_a_disk(local, place):
    ours, theirs = read_all(place), read_all(local)
    assert ours.keys() == theirs.keys()
    assert sum(name.endswith(".tfrecord") for name in ours) == 8
    timed = {
        name for name in ours if name.endswith("fovs.parquet") or (name.startswith("cells/fovs/") and ".json" in name)
    }
    assert [name for name in ours if ours[name] != theirs[name] and name not in timed] == []
    mine, other = (storage.read_table(storage.join(folder, "cells/fovs.parquet")) for folder in (place, local))
    pd.testing.assert_frame_equal(mine.drop(columns=_DIFFERING_COLUMNS), other.drop(columns=_DIFFERING_COLUMNS))


@pytest.mark.slow
def test_two_workers_write_the_same_bytes(bucket, stored):
    folder = storage.join(bucket, "workers")
    changes = {"cells_dir": storage.join(folder, "cells"), "num_workers": 2}
    segment.run(dataclasses.replace(segment_config(stored), **changes))
    dataset_job.run(shard_config(folder, num_workers=2))
    assert read_all(storage.join(folder, "dataset")) == read_all(storage.join(stored, "dataset"))


@pytest.mark.slow
def test_stopped_segmenting_goes_on(bucket, stored, monkeypatch):
    folder = storage.join(bucket, "stopped")
    config = dataclasses.replace(segment_config(stored), cells_dir=storage.join(folder, "cells"))
    find_cells = WatershedSegmenter.segment

    def stop(self, image, *, fov_id):
        if fov_id == "sim-00002":
            raise RuntimeError("stopped")
        return find_cells(self, image, fov_id=fov_id)

    with monkeypatch.context() as patch:
        patch.setattr(WatershedSegmenter, "segment", stop)
        with pytest.raises(RuntimeError, match="stopped"):
            segment.run(config)
    num_finished = len([name for name in read_all(folder) if name.endswith(".tfrecord")])
    assert segment.run(config).num_segmented == 4 - num_finished
    pd.testing.assert_frame_equal(*(storage.read_table(f"{cells}/cells/cells.parquet") for cells in (folder, stored)))


def test_stopped_sharding_goes_on(bucket, stored, monkeypatch):
    config = shard_config(stored, data_dir=storage.join(bucket, "stopped-dataset"))
    write_shard = write_shards.write_shard

    def stop(store, task, **options):
        if task.row_group == 2:
            raise RuntimeError("stopped")
        return write_shard(store, task, **options)

    with monkeypatch.context() as patch:
        patch.setattr(write_shards, "write_shard", stop)
        with pytest.raises(RuntimeError, match="stopped"):
            dataset_job.run(config)
    before = read_all(config.data_dir)
    assert "manifest.json" not in before
    result = dataset_job.run(config)
    finished = [shard for shard in result.manifest.shards if shard.name in before]
    assert result.num_written == sum(shard.num_examples for shard in result.manifest.shards if shard not in finished)
    assert read_all(config.data_dir) == read_all(storage.join(stored, "dataset"))


def test_a_cell_is_fetched_alone(stored, monkeypatch):
    """What a job asks of the store: one request a cell, for its bytes and no more."""
    asked = []
    read_range = object_store.read_range

    def note(url, *, offset_bytes, length_bytes):
        asked.append((url, length_bytes))
        return read_range(url, offset_bytes=offset_bytes, length_bytes=length_bytes)

    monkeypatch.setattr(object_store, "read_range", note)
    store = CellStore.open(storage.join(stored, "cells"))
    cells, _ = store.read_tables()
    places = list(zip(cells["file"], cells["offset_bytes"], cells["length_bytes"], strict=True))
    found = [f"{cell.fov_id}_{cell.cell_index}" for cell in store.read_cells(places)]
    assert found == cells["cell_id"].tolist()
    assert sorted(length for _, length in asked) == sorted(cells["length_bytes"])


@pytest.mark.slow
def test_what_looks_at_data_takes_urls(bucket, stored):
    out = storage.join(bucket, "looked")
    inspect.run(inspect.InspectConfig(storage.join(stored, "dataset"), num_shown=4, picture_path=f"{out}/cells.png"))
    picture.run(picture.PictureConfig(segment_config(stored), "sim-00001", f"{out}/fov.png"))
    explore.run(explore.ExploreConfig(labels=storage.join(stored, "fovs/labels.csv"), out_dir=out))
    dry_run.run(
        dry_run.DryRunConfig(cells_dir=storage.join(stored, "cells"), plan=_PLAN, picture_path=f"{out}/plan.png")
    )
    compare_masks.run(
        compare_masks.CompareConfig(
            storage.join(stored, "fovs/masks"),
            storage.join(stored, "cells"),
            images=storage.join(stored, "fovs/images"),
            out_dir=storage.join(out, "masks"),
        )
    )
    names = storage.list_files(out)
    assert {"cells.png", "fov.png", "plan.png", "report.html", "masks/sim-00001.jpg"} <= set(names)


def read_training(data_dir, *, start_step=0, **options):
    source = open_source(data_dir, ("train",))
    batches = dataset.training_dataset(source, batch_size=4, seed=3, start_step=start_step, **options)
    return list(itertools.islice(dataset.iterate(batches, source, split="train", as_numpy=True), 12))


@pytest.mark.slow
def test_batches_are_those_from_a_disk_and_resume_where_they_stopped(local, stored):
    ours, theirs = (read_training(storage.join(folder, "dataset"), balanced=True) for folder in (stored, local))
    for mine, other in zip(ours, theirs, strict=True):
        for key in mine:
            np.testing.assert_array_equal(mine[key], other[key])
    later = read_training(storage.join(stored, "dataset"), balanced=True, start_step=7)
    np.testing.assert_array_equal(later[0]["image"], ours[7]["image"])


@pytest.mark.slow
def test_a_damaged_shard_in_the_store_is_named_with_its_offset(bucket, stored):
    broken = storage.join(bucket, "broken")
    files = read_all(storage.join(stored, "dataset"))
    name = min(name for name in files if name.startswith("train"))
    data = bytearray(files[name])
    data[len(data) // 2] ^= 1
    for other, content in files.items():
        storage.write_bytes(storage.join(broken, other), bytes(data) if other == name else content)
    with pytest.raises(DatasetError, match=rf"{broken}/{name}: corrupt record at byte \d+"):
        read_training(broken)
    with pytest.raises(DatasetError, match=f"{name}: corrupt record"):
        open_source(broken, ("train",), check="sha256")
    storage.remove(storage.join(broken, name))
    with pytest.raises(DatasetError, match=f"{name}: missing"):
        open_source(broken, ("train",))


def train(data_dir, run_dir, **changes):
    given = {"model": "tiny", "epochs": 1, "steps_per_epoch": 3, "tensorboard": False, **changes}
    optimizer = OptimizerConfig(warmup_epochs=0)
    config = TrainConfig(data_dir, run_dir, batch_size=4, deterministic=True, optimizer=optimizer, **given)
    with pytest.MonkeyPatch.context() as patch:
        if not config.tensorboard:
            tiny_train.draw_no_pictures(patch)
        return loop.run(config)


def read_run(run_dir):
    """All that a run has written, but for what differs from run to run: speeds, TensorBoard's files, Keras' names of layers."""
    files = {name: data for name, data in read_all(run_dir).items() if not name.startswith("tensorboard/")}
    history = pd.read_csv(io.BytesIO(files["history.csv"])).drop(columns=["images_per_second", "input_wait_share"])
    with np.load(io.BytesIO(files.pop("checkpoints/last.npz"))) as arrays:
        files |= {f"last/{name}": arrays[name].tobytes() for name in arrays.files if name != "state"}
        state = json.loads(arrays["state"].tobytes())
    with h5py.File(io.BytesIO(files.pop("checkpoints/best.weights.h5"))) as file:
        # The SHA-256 of the content among them.
        best = dict(file.attrs)
    return {**files, "history.csv": history.to_csv(), "step": state["step"], "best": best}


@pytest.mark.slow
def test_training_half_on_urls(tmp_path, local, place):
    data_dir, out = storage.join(place, "dataset"), storage.join(place, "results")
    ours = train(data_dir, storage.join(place, "runs/first"), tensorboard=True, profile_steps=(1, 1))
    theirs = train(storage.join(local, "dataset"), f"{tmp_path}/first", tensorboard=True)
    assert read_run(ours.run_dir) == read_run(theirs.run_dir)
    logs = [name.partition("/")[2] for name in read_all(ours.run_dir) if name.startswith("tensorboard/")]
    assert [name for name in logs if name.startswith("events.out.tfevents")]
    assert [name for name in logs if name.endswith(".xplane.pb")]
    for run, folder in ((ours, data_dir), (theirs, f"{local}/dataset")):
        options = {"data_dir": folder, "split": "validation"}
        predict.run(predict.PredictConfig((run.run_dir,), **options, embeddings=True))
        report = evaluate.EvaluateConfig(run_dir=run.run_dir, **options, num_resamples=10)
        evaluate.run(report)
        assert predict.is_current(
            predict.PredictConfig((run.run_dir,), **options), manifest_sha256=shards.read_manifest(folder)[1]
        )
        last = predict.PredictConfig((run.run_dir,), **options, checkpoint="last", out=f"{run.run_dir}/last.parquet")
        predict.run(last)
    mine, other = read_all(ours.run_dir), read_all(theirs.run_dir)
    made = {name for name in mine if name.endswith(".parquet") or name.startswith("report/")}
    assert {"predictions-validation.parquet", "last.parquet", "report/report.html"} <= made
    # Which has the run's speeds.
    metrics = [json.loads(run.pop("report/metrics.json")) | {"history": None} for run in (mine, other)]
    assert metrics[0] == metrics[1]
    assert {name for name in made if mine.get(name) != other.get(name)} == set()
    predictions = f"{ours.run_dir}/predictions-validation.parquet"
    submit.run(submit.SubmitConfig(predictions, data_dir, f"{out}/submission.csv"))
    flags = [f"--submission={out}/submission.csv", f"--data_dir={data_dir}", "--split=validation"]
    assert score.main(["score", *flags, f"--out={out}/score.json"]) == 0
    fov_id = storage.read_table(predictions)["fov_id"].iloc[0]
    overlay.run(
        overlay.OverlayConfig(predictions, data_dir, storage.join(place, "fovs/images"), fov_id, out=f"{out}/fov.png")
    )
    export.run(export.ExportConfig(ours.run_dir, f"{out}/model", formats=("keras",)))
    embed.run(embed.EmbedConfig(predictions))
    both = (ours.run_dir, theirs.run_dir)
    compare.run(compare.CompareConfig(both, "validation", out_dir=f"{out}/compared", num_resamples=10))
    names = storage.list_files(out)
    assert {"submission.csv", "score.json", "fov.png", "compared/comparison.csv"} <= set(names)
    assert {"model/model.keras", "model/export.json"} <= set(names)
    assert storage.exists(f"{ours.run_dir}/predictions-validation-pca.png")
    with pytest.raises(ConfigError, match="not there yet"):
        export.run(export.ExportConfig(ours.run_dir, f"{out}/model", formats=("keras",)))


@pytest.mark.slow
@pytest.mark.parametrize("stopped_at", [4, 6])
def test_stopped_training_goes_on_to_the_same_bytes(tmp_path, local, bucket, stopped_at):
    """Stopped between two checkpoints, and after an epoch; the step after the last checkpoint is computed again."""
    options = {"model": "tinynorm", "epochs": 2, "steps_per_epoch": 5, "checkpoint_every_steps": 2}
    data_dir, run_dir = f"{local}/dataset", storage.join(bucket, f"stopped-{stopped_at}")
    theirs = train(data_dir, f"{tmp_path}/whole", **options)
    save = Checkpoints.save_last

    def stop(files, state, variables):
        save(files, state, variables)
        if state["step"] >= stopped_at:
            raise RuntimeError("stopped")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoints, "save_last", stop)
        with pytest.raises(RuntimeError, match="stopped"):
            train(data_dir, run_dir, **options)
    assert Checkpoints(run_dir).read_state()["step"] == stopped_at
    ours = train(data_dir, run_dir, **options)
    assert ours.num_steps == theirs.num_steps == 10
    assert read_run(ours.run_dir) == read_run(theirs.run_dir)


@pytest.mark.slow
def test_a_run_folder_in_a_store_is_one_runs(local, bucket):
    data_dir, run_dir = f"{local}/dataset", storage.join(bucket, "taken")
    with folder_lock.hold(run_dir), pytest.raises(ConfigError, match="another job is at work there"):
        train(data_dir, run_dir)
    train(data_dir, run_dir)
    with pytest.raises(ConfigError, match=rf"{run_dir}: holds a run with another config: seed is 0, here 1"):
        train(data_dir, run_dir, seed=1)
    checkpoint = storage.join(run_dir, "checkpoints/last.npz")
    storage.write_bytes(checkpoint, storage.read_bytes(checkpoint)[:200])
    with pytest.raises(ConfigError, match=rf"{checkpoint}: not a checkpoint"):
        train(data_dir, run_dir)
    with pytest.raises(ConfigError, match=rf"{bucket}/none is no run"):
        predict.run(predict.PredictConfig((f"{bucket}/none",), data_dir, split="validation"))


def run_command(*arguments):
    return subprocess.run([sys.executable, "-m", *arguments], capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.slow
def test_a_job_with_a_missing_bucket_ends_with_one_line(address):
    done = run_command(
        "beam_jobs.segment", "--images=s3://no-such-bucket/images", "--cells_dir=s3://no-such-bucket/cells"
    )
    assert done.returncode == 1
    assert done.stderr == "error: s3://no-such-bucket/images: The specified bucket does not exist\n"


@pytest.mark.slow
def test_credentials_in_urls_are_nowhere_to_be_read(address, local, tmp_path):
    """A label file and images behind a password, one of them behind a signature that is of no use."""
    bucket = fake_s3.make_bucket().removeprefix("s3://")
    secret = "planted-secret"
    place = address.replace("://", f"://someone:{secret}@") + f"/{bucket}"
    fovs = pathlib.Path(local) / "fovs"
    for path in (fovs / "labels.csv", *(fovs / "images").iterdir()):
        storage.write_bytes(f"s3://{bucket}/{path.name}", path.read_bytes())
    lines = ["ID,red,green,blue,yellow"]
    for fov_id in ("sim-00000", "sim-00001", "sim-00002"):
        lines.append(
            ",".join([fov_id, *(f"{place}/{fov_id}_{channel}.png" for channel in ("red", "green", "blue", "yellow"))])
        )
    lines[-1] = lines[-1].replace("_red.png", f"_lost.png?X-Amz-Signature={secret}")
    (tmp_path / "fovs.csv").write_text("\n".join(lines) + "\n")
    done = run_command(
        "beam_jobs.convert",
        f"--images={tmp_path}/fovs.csv",
        f"--labels={place}/labels.csv?X-Amz-Signature={secret}",
        f"--out_dir={tmp_path}/out",
        "--pixel_size_um=0.32",
        "--image_size_px=32",
        "--splits=train=1,validation=1",
        "--max_dead_fraction=0.5",
    )
    assert done.returncode == 0, done.stderr
    manifest = json.loads((tmp_path / "out/dataset/manifest.json").read_text())
    assert (
        f"--labels={place}/labels.csv?X-Amz-Signature=***".replace(f"someone:{secret}", "***")
        in manifest["command_line"]
    )
    dead = (tmp_path / "out/cells/dead_letters.jsonl").read_text()
    assert "_lost.png?X-Amz-Signature=***" in dead
    outputs = {str(path): path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    outputs |= {"stdout": done.stdout.encode(), "stderr": done.stderr.encode()}
    assert [name for name, data in outputs.items() if secret.encode() in data] == []
    tables = [pd.read_parquet(name).to_csv() for name in outputs if name.endswith(".parquet")]
    assert not any(secret in text for text in tables)

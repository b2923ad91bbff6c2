"""Promises of the sharding job: the data set on disk is the plan, whatever the runner, and whole or not there."""

import hashlib
import shutil

import pandas as pd
import pytest

import small_fovs
from beam_jobs import dataset_job, examples, inspect, segment
from beam_jobs.dataset_job import ShardConfig
from beam_jobs.examples import ExampleConfig
from beam_jobs.inspect import InspectConfig
from beam_jobs.plan_config import PlanConfig
from beam_jobs.segment import SegmentConfig
from hpa_proto import records, storage
from hpa_proto.errors import ConfigError, DatasetError

_SMALL = ExampleConfig(image_size_px=32)
_HALVES = (("train", 1), ("test", 1))


@pytest.fixture(scope="module")
def cells_dir(tmp_path_factory):
    folder = small_fovs.write_set(tmp_path_factory.mktemp("set"), num_fovs=16, labels=("0", "5", "7|0", "16"))
    config = SegmentConfig(
        images=f"{folder}/images",
        labels=f"{folder}/labels.csv",
        cells_dir=f"{folder}/cells",
        segmenter="masks",
        masks_dir=f"{folder}/masks",
        pixel_size_um=0.5,
    )
    segment.run(config)
    return config.cells_dir


def make_config(cells_dir, tmp_path, **changes):
    options = {
        "cells_dir": cells_dir,
        "data_dir": str(tmp_path / "dataset"),
        "plan": PlanConfig(splits=(("train", 3), ("test", 1)), cells_per_shard=8),
        "example": _SMALL,
    }
    return ShardConfig(**{**options, **changes})


def read_shards(result):
    found = {}
    for shard in result.manifest.shards:
        path = storage.join(result.data_dir, shard.name)
        with open(path, "rb") as file:
            found[shard.name] = [examples.parse_example(data) for _, data in records.read_records(file, path=path)]
    return found


def hashes(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*.tfrecord")}


def test_shards_hold_what_the_plan_says_in_its_order(cells_dir, tmp_path):
    result = dataset_job.run(make_config(cells_dir, tmp_path))
    plan = pd.read_parquet(tmp_path / "dataset" / "plan.parquet")
    assert set(plan["dropped"]) == {"", "multi_label_fov"}
    assert (plan["dropped"] == "").sum() == 48
    shards = read_shards(result)
    assert len(shards) == 7
    for shard in result.manifest.shards:
        number = int(shard.name.split("-")[1])
        rows = plan[(plan["split"] == shard.split) & (plan["shard"] == number)].sort_values("index")
        assert [example.cell_id for example in shards[shard.name]] == list(rows["cell_id"])
        assert ["|".join(map(str, example.labels)) for example in shards[shard.name]] == list(rows["example_labels"])
        assert all(example.image.shape == (4, 32, 32) for example in shards[shard.name])


def test_manifest_adds_up(cells_dir, tmp_path):
    result = dataset_job.run(make_config(cells_dir, tmp_path))
    manifest = dataset_job.read_manifest(result.data_dir)
    assert manifest == result.manifest
    assert [(info.label, info.name) for info in manifest.classes] == [
        (0, "Nucleoplasm"),
        (5, "Nuclear bodies"),
        (16, "Cytosol"),
    ]
    assert sum(split.num_examples for split in manifest.splits) == 48
    plan = (tmp_path / "dataset" / "plan.parquet").read_bytes()
    assert manifest.plan_sha256 == hashlib.sha256(plan).hexdigest()
    for shard in manifest.shards:
        data = (tmp_path / "dataset" / shard.name).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (shard.num_bytes, shard.sha256)
        assert sum(shard.num_examples_per_label.values()) == shard.num_examples
    for split in manifest.splits:
        for label, count in split.num_examples_per_label.items():
            own = [shard for shard in manifest.shards if shard.split == split.name]
            assert sum(shard.num_examples_per_label[label] for shard in own) == count


def test_no_fov_is_in_two_splits(cells_dir, tmp_path):
    dataset_job.run(make_config(cells_dir, tmp_path))
    plan = pd.read_parquet(tmp_path / "dataset" / "plan.parquet")
    kept = plan[plan["dropped"] == ""]
    assert (kept.groupby("fov_id")["split"].nunique() == 1).all()
    assert set(kept["split"]) == {"train", "test"}


def test_two_workers_write_the_same_bytes(cells_dir, tmp_path):
    dataset_job.run(make_config(cells_dir, tmp_path / "one"))
    dataset_job.run(make_config(cells_dir, tmp_path / "two", num_workers=2))
    assert hashes(tmp_path / "one") == hashes(tmp_path / "two")
    assert (tmp_path / "one" / "dataset" / "plan.parquet").read_bytes() == (
        tmp_path / "two" / "dataset" / "plan.parquet"
    ).read_bytes()


def test_same_command_again_writes_nothing_new(cells_dir, tmp_path):
    config = make_config(cells_dir, tmp_path)
    first = dataset_job.run(config)
    second = dataset_job.run(config)
    assert (first.num_written, second.num_written) == (48, 0)
    assert second.manifest == first.manifest


def test_lost_shard_is_written_again(cells_dir, tmp_path):
    config = make_config(cells_dir, tmp_path)
    dataset_job.run(config)
    before = hashes(tmp_path)
    (tmp_path / "dataset" / "train-00001-of-00005.tfrecord").unlink()
    assert dataset_job.run(config).num_written in (7, 8)
    assert hashes(tmp_path) == before


def flip_bit(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_damaged_shard_of_a_finished_data_set_is_written_again(cells_dir, tmp_path):
    config = make_config(cells_dir, tmp_path)
    dataset_job.run(config)
    before = hashes(tmp_path)
    flip_bit(tmp_path / "dataset" / "train-00001-of-00005.tfrecord")
    assert dataset_job.run(config).num_written in (7, 8)
    assert hashes(tmp_path) == before


def stop_after(num_shards, config):
    """Runs a job that ends as if it were killed when it has written so many shards."""
    write_shard = dataset_job.write_shards.write_shard

    def fail_late(store, task, *, data_dir, config):
        if task.row_group == num_shards:
            raise RuntimeError("stopped")
        return write_shard(store, task, data_dir=data_dir, config=config)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dataset_job.write_shards, "write_shard", fail_late)
        with pytest.raises(RuntimeError, match="stopped"):
            dataset_job.run(config)


def test_damaged_shard_of_a_stopped_job_is_written_again(cells_dir, tmp_path):
    dataset_job.run(make_config(cells_dir, tmp_path / "undisturbed"))
    config = make_config(cells_dir, tmp_path)
    stop_after(6, config)
    flip_bit(next((tmp_path / "dataset").glob("*.tfrecord")))
    dataset_job.run(config)
    assert hashes(tmp_path / "dataset") == hashes(tmp_path / "undisturbed")


@pytest.mark.parametrize(
    "text", [b"", b"\xff", b"[]", b"3", b'{"digest": "x"}', b'{"digest": 1, "shard": 2}', b"[" * 9999]
)
def test_note_that_cannot_be_read_is_none(cells_dir, tmp_path, text):
    config = make_config(cells_dir, tmp_path)
    stop_after(6, config)
    notes = list((tmp_path / "dataset" / ".shards").iterdir())
    assert notes
    for path in notes:
        path.write_bytes(text)
    assert dataset_job.run(config).num_written == 48


def test_note_of_another_shard_is_none(cells_dir, tmp_path):
    config = make_config(cells_dir, tmp_path)
    stop_after(6, config)
    first, second, *_ = sorted((tmp_path / "dataset" / ".shards").iterdir())
    second.write_bytes(first.read_bytes())
    dataset_job.run(config)
    dataset_job.run(make_config(cells_dir, tmp_path / "undisturbed"))
    assert hashes(tmp_path / "dataset") == hashes(tmp_path / "undisturbed")


@pytest.mark.parametrize("damage", [lambda text: text[:-9], lambda text: text.replace("jpeg-planes", "raw")])
def test_damaged_manifest_is_an_error_and_replaced_where_asked(cells_dir, tmp_path, damage):
    config = make_config(cells_dir, tmp_path)
    first = dataset_job.run(config)
    path = tmp_path / "dataset" / "manifest.json"
    path.write_text(damage(path.read_text()))
    with pytest.raises(DatasetError, match=r"manifest\.json: .*--overwrite"):
        dataset_job.run(config)
    assert dataset_job.run(make_config(cells_dir, tmp_path, overwrite=True)).manifest == first.manifest


def test_stopped_job_goes_on_with_what_is_finished(cells_dir, tmp_path):
    config = make_config(cells_dir, tmp_path)
    undisturbed = dataset_job.run(make_config(cells_dir, tmp_path / "undisturbed"))
    stop_after(4, config)
    with pytest.raises(DatasetError, match="no data set"):
        dataset_job.read_manifest(config.data_dir)
    result = dataset_job.run(config)
    assert 0 < result.num_written < 48
    assert list(result.manifest.shards) == list(undisturbed.manifest.shards)
    assert hashes(tmp_path / "dataset") == hashes(tmp_path / "undisturbed")
    names = {path.name for path in (tmp_path / "dataset").rglob("*")}
    assert names == {*hashes(tmp_path / "dataset"), "manifest.json", "plan.parquet", "report.html"}


def test_other_settings_are_refused_and_with_overwrite_leave_nothing_behind(cells_dir, tmp_path):
    dataset_job.run(make_config(cells_dir, tmp_path))
    other = {"plan": PlanConfig(splits=(("train", 3), ("test", 1)), cells_per_shard=24)}
    with pytest.raises(ConfigError, match="--overwrite"):
        dataset_job.run(make_config(cells_dir, tmp_path, **other))
    result = dataset_job.run(make_config(cells_dir, tmp_path, overwrite=True, **other))
    assert set(hashes(tmp_path)) == {shard.name for shard in result.manifest.shards}


def test_changed_picture_settings_write_all_shards_anew(cells_dir, tmp_path):
    dataset_job.run(make_config(cells_dir, tmp_path))
    changed = make_config(cells_dir, tmp_path, overwrite=True, example=ExampleConfig(image_size_px=32, jpeg_quality=50))
    assert dataset_job.run(changed).num_written == 48


def test_every_picture_setting_counts(cells_dir, tmp_path):
    dataset_job.run(make_config(cells_dir, tmp_path))
    stretched = ExampleConfig(image_size_px=32, keep_aspect_ratio=False)
    with pytest.raises(ConfigError, match="--overwrite"):
        dataset_job.run(make_config(cells_dir, tmp_path, example=stretched))
    assert dataset_job.run(make_config(cells_dir, tmp_path, example=stretched, overwrite=True)).num_written == 48


def test_other_pixels_under_the_same_ids_are_other_content(cells_dir, tmp_path):
    first = dataset_job.run(make_config(cells_dir, tmp_path / "a"))
    copy = tmp_path / "cells"
    shutil.copytree(cells_dir, copy)
    cells = pd.read_parquet(copy / "cells.parquet")
    cells.loc[0, "record_crc32c"] += 1
    cells.to_parquet(copy / "cells.parquet")
    second = dataset_job.run(make_config(str(copy), tmp_path / "b"))
    assert first.manifest.plan_digest == second.manifest.plan_digest
    assert first.manifest.shards_digest != second.manifest.shards_digest


def test_overwrite_always_writes(cells_dir, tmp_path):
    dataset_job.run(make_config(cells_dir, tmp_path))
    assert dataset_job.run(make_config(cells_dir, tmp_path, overwrite=True)).num_written == 48


def test_folder_with_other_peoples_files_is_left_alone(cells_dir, tmp_path):
    folder = tmp_path / "dataset"
    folder.mkdir()
    (folder / "train-00000-of-00016.tfrecord").write_bytes(b"not ours")
    with pytest.raises(ConfigError, match="not empty and no data set"):
        dataset_job.run(make_config(cells_dir, tmp_path))
    assert (folder / "train-00000-of-00016.tfrecord").read_bytes() == b"not ours"


def test_all_labels_scope_keeps_label_sets(cells_dir, tmp_path):
    plan = PlanConfig(label_scope="all", splits=(("train", 1),))
    result = dataset_job.run(make_config(cells_dir, tmp_path, plan=plan))
    (cells,) = read_shards(result).values()
    assert {example.labels for example in cells} == {(0,), (5,), (0, 7), (16,)}
    assert result.manifest.label_scope == "all"


def test_unlabelled_scope_makes_a_prediction_set(cells_dir, tmp_path):
    plan = PlanConfig(label_scope="unlabelled", splits=(("predict", 1),))
    result = dataset_job.run(make_config(cells_dir, tmp_path, plan=plan))
    assert [(split.name, split.num_examples) for split in result.manifest.splits] == [("predict", 64)]
    assert not result.manifest.classes
    assert all(example.labels == () for cells in read_shards(result).values() for example in cells)


def test_damaged_cell_fails_the_job_and_leaves_no_manifest(cells_dir, tmp_path):
    cells, _ = dataset_job.CellStore.open(cells_dir).read_tables()
    path = storage.join(cells_dir, cells["file"].iloc[0])
    data = storage.read_bytes(path)
    storage.write_bytes(path, data[: len(data) // 2])
    try:
        with pytest.raises(Exception, match="truncated record at byte"):
            dataset_job.run(make_config(cells_dir, tmp_path))
    finally:
        storage.write_bytes(path, data)
    assert not (tmp_path / "dataset" / "manifest.json").exists()


def test_closing_words_name_counts_reasons_and_places(cells_dir, tmp_path):
    text = dataset_job.describe(dataset_job.run(make_config(cells_dir, tmp_path)))
    for part in ("64 in the store: 48 kept", "16 dropped: multi_label_fov", "Cytosol", "manifest.json", "report.html"):
        assert part in text


def test_store_and_data_set_in_one_folder_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="its own folder"):
        ShardConfig(cells_dir=f"{tmp_path}/x", data_dir=f"{tmp_path}/x/")


def test_unfinished_store_is_an_error(cells_dir, tmp_path):
    with pytest.raises(ConfigError, match="no cell store"):
        dataset_job.run(make_config(str(tmp_path / "none"), tmp_path))


def test_second_data_set_keeps_the_splits_of_the_first(cells_dir, tmp_path):
    plan = PlanConfig(splits=(("train", 3), ("test", 1)), seed=1)
    first = dataset_job.run(make_config(cells_dir, tmp_path, plan=plan))
    other = PlanConfig(splits=(("train", 3), ("test", 1)), seed=2, classes=(0, 5))
    second = dataset_job.run(
        make_config(cells_dir, tmp_path, data_dir=f"{tmp_path}/second", plan=other, splits_of=first.data_dir)
    )
    splits = dataset_job.read_splits(first.data_dir)
    found = dataset_job.read_splits(second.data_dir)
    assert found
    assert found.items() <= splits.items()


@pytest.fixture
def store_with_copies(cells_dir, tmp_path):
    """A store in which FOVs 1, 5 and 8 show, but for some bits of their hashes, what FOV 0 does."""
    copy = tmp_path / "cells"
    shutil.copytree(cells_dir, copy)
    fovs = pd.read_parquet(copy / "fovs.parquet").set_index("fov_id")
    number = int(fovs.at["fov-0", "perceptual_hash"], 16)
    for position, name in enumerate(("fov-1", "fov-5", "fov-8")):
        fovs.at[name, "perceptual_hash"] = f"{number ^ (7 << 60 * position):064x}"
    fovs.reset_index().to_parquet(copy / "fovs.parquet")
    return str(copy)


def test_near_identical_fovs_share_a_split_and_the_closing_words_say_so(store_with_copies, tmp_path):
    result = dataset_job.run(make_config(store_with_copies, tmp_path, plan=PlanConfig(splits=_HALVES)))
    plan = pd.read_parquet(f"{result.data_dir}/plan.parquet").query("dropped == ''")
    assert plan.loc[plan["duplicate_set"] == "fov-0", "split"].nunique() == 1
    assert plan["split"].nunique() == 2
    assert set(plan.loc[plan["duplicate_set"] == "fov-0", "fov_id"]) == {"fov-0", "fov-1", "fov-5", "fov-8"}
    assert "sound" in inspect.run(InspectConfig(result.data_dir, quick=True))
    text = dataset_job.describe(result)
    assert "note      4 FOVs are near-identical to others, in 1 set: each set is in one split" in text
    assert "different labels in 1 set, as fov-0 and fov-1" in text
    assert "Near-identical FOVs</h2>" in (tmp_path / "dataset" / "report.html").read_text()


def test_without_looking_for_copies_they_leak_and_inspect_finds_them(store_with_copies, tmp_path):
    store = dataset_job.CellStore.open(store_with_copies)
    for seed in range(9):
        config = PlanConfig(splits=_HALVES, seed=seed, duplicate_bits=0)
        plan, _ = dataset_job.make_plan(store, config, splits_of=None)
        if plan.loc[plan["fov_id"].isin(["fov-0", "fov-1", "fov-5", "fov-8"]), "split"].nunique() > 1:
            break
    result = dataset_job.run(make_config(store_with_copies, tmp_path, plan=config))
    with pytest.raises(DatasetError, match="are near-identical"):
        inspect.run(InspectConfig(result.data_dir, quick=True))


def test_a_copy_of_another_data_sets_fov_keeps_its_split(store_with_copies, tmp_path):
    for split in ("train", "test"):
        first = dataset_job.run(
            make_config(
                store_with_copies,
                tmp_path / split,
                plan=PlanConfig(splits=((split, 1),), drop_duplicate_fovs=True, classes=(0,)),
            )
        )
        assert set(dataset_job.read_splits(first.data_dir)) & {"fov-0", "fov-1", "fov-5", "fov-8"} == {"fov-0"}
        other = pd.read_parquet(f"{store_with_copies}/cells.parquet").query("fov_id != 'fov-0'")
        alone = tmp_path / split / "cells"
        shutil.copytree(store_with_copies, alone)
        other.to_parquet(alone / "cells.parquet")
        pd.read_parquet(alone / "fovs.parquet").query("fov_id != 'fov-0'").to_parquet(alone / "fovs.parquet")
        plan, _ = dataset_job.make_plan(
            dataset_job.CellStore.open(str(alone)), PlanConfig(splits=_HALVES), splits_of=first.data_dir
        )
        assert set(plan.loc[plan["fov_id"].isin(["fov-1", "fov-5", "fov-8"]), "split"]) == {split}


def test_splits_of_a_folder_that_is_no_data_set_are_an_error(cells_dir, tmp_path):
    with pytest.raises(DatasetError, match="no data set"):
        dataset_job.run(make_config(cells_dir, tmp_path, splits_of=str(tmp_path)))

"""Promises of the check of a data set: a sound one passes, and every kind of damage is found, named and placed."""

import hashlib
import json
import shutil
import subprocess
import sys

import cv2
import pandas as pd
import pytest

import small_dataset
from beam_jobs import dataset_check, inspect, near_duplicates
from beam_jobs.examples import ExampleConfig
from beam_jobs.inspect import InspectConfig
from hpa_proto import records, schema
from hpa_proto.errors import ConfigError, DatasetError

_FIRST = "train-00000-of-00002.tfrecord"
_SECOND = "train-00001-of-00002.tfrecord"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return small_dataset.make(tmp_path_factory.mktemp("made"))


@pytest.fixture
def data_dir(made, tmp_path):
    return shutil.copytree(made.data_dir, tmp_path / "dataset")


def check(data_dir, **options):
    return inspect.run(InspectConfig(str(data_dir), **options))


def offsets(path):
    with open(path, "rb") as file:
        return [offset for offset, _ in records.read_records(file, path=str(path))]


def read_all(path):
    with open(path, "rb") as file:
        return [record for _, record in records.read_records(file, path=str(path))]


def edit_manifest(data_dir, edit):
    """Edits a manifest and takes its digest away, as if it were an old one, so that the checks behind it are reached."""
    path = data_dir / schema.MANIFEST_NAME
    content = json.loads(path.read_text())
    edit(content)
    content.pop("digest", None)
    path.write_text(json.dumps(content))


def shard_of(content, name):
    return next(shard for shard in content["shards"] if shard["name"] == name)


def replace_records(data_dir, name, new_records):
    """Writes a shard with other records and makes size and hash in the manifest fit."""
    data = b"".join(records.frame_record(record) for record in new_records)
    (data_dir / name).write_bytes(data)

    def edit(content):
        shard_of(content, name).update(num_bytes=str(len(data)), sha256=hashlib.sha256(data).hexdigest())

    edit_manifest(data_dir, edit)


def replace_plan(data_dir, plan):
    """Writes another plan and makes its SHA-256 in the manifest fit."""
    path = data_dir / schema.PLAN_NAME
    plan.to_parquet(path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    edit_manifest(data_dir, lambda content: content.update(plan_sha256=digest))


def edit_plan(data_dir, edit):
    replace_plan(data_dir, edit(pd.read_parquet(data_dir / schema.PLAN_NAME)))


def assert_fault(data_dir, *parts, **options):
    with pytest.raises(DatasetError) as error:
        check(data_dir, **options)
    for part in parts:
        assert part in str(error.value)


@pytest.mark.parametrize("options", [{}, {"quick": True}, {"num_threads": 2}])
def test_sound_data_set_passes_and_is_described(data_dir, options):
    text = check(data_dir, **options)
    assert "32 px, rgby, jpeg-planes, quality 95" in text
    assert "32 in 3 shards" in text
    rows = {line[:3].strip(): line.split()[-2:] for line in text.splitlines() if line[:2].strip().isdigit()}
    assert {label: sum(map(int, counts)) for label, counts in rows.items()} == {"0": 16, "5": 8, "7": 8, "16": 8}


@pytest.mark.parametrize(
    "example",
    [
        ExampleConfig(image_size_px=24, image_format="png"),
        ExampleConfig(image_size_px=24, image_format="raw", channels=("green",)),
    ],
    ids=lambda example: example.image_format,
)
def test_every_format_passes(tmp_path, example):
    data_dir = small_dataset.make(tmp_path, num_fovs=4, example=example).data_dir
    assert "all 16 records checked" in check(data_dir)


def test_set_without_labels_passes(tmp_path):
    data_dir = small_dataset.make(tmp_path, num_fovs=2, with_labels=False).data_dir
    assert "all 8 records checked" in check(data_dir, num_shown=3, picture_path=str(tmp_path / "cells.png"))


@pytest.mark.parametrize("quick", [False, True])
def test_missing_shard_is_a_fault(data_dir, quick):
    (data_dir / _SECOND).unlink()
    assert_fault(data_dir, f"{data_dir}/{_SECOND}: missing", quick=quick)


def test_truncated_shard_is_a_fault_at_its_last_record(data_dir):
    path = data_dir / _FIRST
    last = offsets(path)[-1]
    path.write_bytes(path.read_bytes()[:-7])
    assert_fault(data_dir, f"{path}: truncated record at byte {last}")


def test_truncated_shard_is_a_fault_for_a_quick_check_too(data_dir):
    path = data_dir / _FIRST
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[:-7])
    assert_fault(data_dir, f"{path}: ends at byte {size - 7}, the manifest says {size} bytes", quick=True)


def test_shard_cut_between_records_is_a_fault_at_its_end(data_dir):
    path = data_dir / _FIRST
    last, num_records = offsets(path)[-1], len(offsets(path))
    path.write_bytes(path.read_bytes()[:last])
    assert_fault(data_dir, f"{path}: ends after {num_records - 1} of {num_records} records at byte {last}")


def test_record_too_many_is_a_fault_at_its_start(data_dir):
    path = data_dir / _FIRST
    size = path.stat().st_size
    replace_records(data_dir, _FIRST, [*read_all(path), b"more"])
    assert_fault(data_dir, f"{path}: more records", f"at byte {size}")


@pytest.mark.parametrize("where", ["length", "picture", "checksum"])
def test_one_flipped_bit_is_a_fault_at_its_record(data_dir, where):
    path = data_dir / _SECOND
    start, stop = offsets(path)[1:3]
    place = {"length": start + 1, "picture": (start + stop) // 2, "checksum": stop - 1}[where]
    data = bytearray(path.read_bytes())
    data[place] ^= 4
    path.write_bytes(data)
    assert_fault(data_dir, f"{path}: corrupt record", f"at byte {start} ")


def test_swapped_shard_files_are_a_fault(data_dir):
    (data_dir / _FIRST).rename(data_dir / "other")
    (data_dir / _SECOND).rename(data_dir / _FIRST)
    (data_dir / "other").rename(data_dir / _SECOND)
    assert_fault(data_dir, f"{data_dir}/{_FIRST}: from byte 0 on what the manifest says of {_SECOND}")


def test_shards_swapped_in_the_manifest_too_are_a_fault_of_the_plan(data_dir):
    first, second = ((data_dir / name).read_bytes() for name in (_FIRST, _SECOND))
    (data_dir / _FIRST).write_bytes(second)
    (data_dir / _SECOND).write_bytes(first)

    def edit(content):
        for key in ("num_bytes", "sha256"):
            one, other = shard_of(content, _FIRST), shard_of(content, _SECOND)
            one[key], other[key] = other[key], one[key]

    edit_manifest(data_dir, edit)
    assert_fault(data_dir, f"{data_dir}/{_FIRST}: cell ", "where the plan has", "at byte 0")


def test_record_that_is_no_example_is_a_fault_at_its_start(data_dir):
    path = data_dir / _FIRST
    start = offsets(path)[2]
    found = read_all(path)
    replace_records(data_dir, _FIRST, [*found[:2], b"no example", *found[3:]])
    assert_fault(data_dir, f"{path}: not a readable example", f"at byte {start}")


def test_other_example_with_the_same_id_is_a_fault_of_the_hash(data_dir, made, tmp_path):
    # As a shard that another version of the program wrote again: sound in itself, but not what was trained on.
    other = small_dataset.make(tmp_path / "other", example=ExampleConfig(image_size_px=32, jpeg_quality=40))
    shutil.copy(other.data_dir / _FIRST, data_dir / _FIRST)
    size = (data_dir / _FIRST).stat().st_size
    edit_manifest(data_dir, lambda content: shard_of(content, _FIRST).update(num_bytes=str(size)))
    assert_fault(data_dir, f"{data_dir}/{_FIRST}: every record is sound, but the SHA-256")


def test_picture_of_another_size_is_a_fault(data_dir):
    edit_manifest(data_dir, lambda content: content.update(image_size_px=48))
    assert_fault(data_dir, f"{data_dir}/", "has a picture of 32 px, the manifest says 48 px at byte 0")


def test_other_channels_are_a_fault(data_dir):
    edit_manifest(data_dir, lambda content: content.update(channels=["green"]))
    assert_fault(data_dir, "has channels red, green, blue, yellow, not green at byte 0")


def test_edited_count_of_a_split_is_a_fault(data_dir):
    edit_manifest(data_dir, lambda content: content["splits"][0].update(num_examples=7))
    assert_fault(data_dir, f"{data_dir}/{schema.MANIFEST_NAME}: split train has 7 examples")


@pytest.mark.parametrize("quick", [False, True])
def test_edited_counts_that_add_up_are_a_fault(data_dir, quick):
    def edit(content):
        shard_of(content, _FIRST)["num_examples"] += 1
        shard_of(content, _SECOND)["num_examples"] -= 1

    edit_manifest(data_dir, edit)
    fault = f"{schema.PLAN_NAME}: {_FIRST} has" if quick else f"{_FIRST}: ends after"
    assert_fault(data_dir, f"{data_dir}/{fault}", quick=quick)


@pytest.mark.parametrize(
    "edit",
    [
        lambda content: content["splits"][0]["num_examples_per_label"].update({"5": 99}),
        lambda content: shard_of(content, _FIRST)["num_examples_per_label"].pop("5"),
        lambda content: content["splits"][1].update(num_fovs=9),
        lambda content: content.update(classes=content["classes"][1:]),
        lambda content: content["shards"].pop(),
    ],
    ids=["class of split", "class of shard", "fovs", "classes", "shard gone"],
)
def test_edited_manifest_is_a_fault(data_dir, edit):
    edit_manifest(data_dir, edit)
    assert_fault(data_dir, f"{data_dir}/", quick=True)


def test_manifest_that_does_not_fit_its_digest_is_a_fault(data_dir):
    path = data_dir / schema.MANIFEST_NAME
    path.write_text(path.read_text().replace('"jpeg_quality": 95', '"jpeg_quality": 90'))
    assert_fault(data_dir, f"{path}: was edited: its digest does not fit its content", "beam_jobs.shard", quick=True)


def test_missing_manifest_is_a_fault(data_dir):
    (data_dir / schema.MANIFEST_NAME).unlink()
    assert_fault(data_dir, "is no data set (no manifest.json)")


def test_missing_plan_is_a_fault(data_dir):
    (data_dir / schema.PLAN_NAME).unlink()
    assert_fault(data_dir, f"{data_dir}/{schema.PLAN_NAME}: missing")


@pytest.mark.parametrize("content", [b"", b"not parquet", b"PAR1 and so on PAR1"])
def test_damaged_plan_is_a_fault(data_dir, content):
    (data_dir / schema.PLAN_NAME).write_bytes(content)
    assert_fault(data_dir, f"{data_dir}/{schema.PLAN_NAME}: not a readable table")


def change_first_kept(plan, **values):
    row = plan.index[plan["dropped"] == ""][0]
    for column, value in values.items():
        plan.loc[row, column] = value
    return plan


def put_one_cell_of_a_fov_into_another_split(plan):
    train, test = (plan.index[(plan["split"] == name) & (plan["index"] == 0)][0] for name in ("train", "test"))
    plan.loc[test, "fov_id"] = plan.loc[train, "fov_id"]
    return plan


@pytest.mark.parametrize(
    ("edit", "text"),
    [
        (lambda plan: change_first_kept(plan, cell_id=plan["cell_id"].iloc[1]), "stands twice"),
        (lambda plan: change_first_kept(plan, dropped="border"), "is neither kept nor dropped"),
        (put_one_cell_of_a_fov_into_another_split, "is in more than one split"),
        (lambda plan: change_first_kept(plan, example_labels="18"), "label 18 is no class of the manifest"),
        (lambda plan: change_first_kept(plan, index=7777), "are not numbered from 0 on"),
        (lambda plan: plan.iloc[1:], "the manifest says"),
        (lambda plan: plan.drop(columns="split"), "not a readable table"),
    ],
)
def test_plan_that_does_not_hold_together_is_a_fault(data_dir, edit, text):
    edit_plan(data_dir, edit)
    assert_fault(data_dir, f"{data_dir}/{schema.PLAN_NAME}: ", text, quick=True)


def test_near_identical_fovs_in_two_splits_are_a_fault(data_dir):
    plan = pd.read_parquet(data_dir / schema.PLAN_NAME)
    train, test = (plan.loc[plan["split"] == name].iloc[0] for name in ("train", "test"))
    number = int(train["perceptual_hash"], 16)
    for num_bits, is_fault in ((near_duplicates.DEFAULT_MAX_BITS, True), (near_duplicates.DEFAULT_MAX_BITS + 1, False)):
        near = f"{number ^ ((1 << num_bits) - 1):064x}"
        plan.loc[plan["fov_id"] == test["fov_id"], "perceptual_hash"] = near
        replace_plan(data_dir, plan)
        if is_fault:
            first, second = sorted([train, test], key=lambda row: row["fov_id"])
            names = [f"{row['fov_id']} ({row['split']})" for row in (first, second)]
            text = f"FOVs {names[0]} and {names[1]} are near-identical (40 of the 256 bits of their hashes differ)"
            assert_fault(data_dir, f"{data_dir}/{schema.PLAN_NAME}: {text}", quick=True)
            assert "sound" in check(data_dir, quick=True, duplicate_bits=0)
        else:
            assert "sound" in check(data_dir, quick=True)


def test_dropped_copies_in_another_split_are_no_leak(data_dir):
    plan = pd.read_parquet(data_dir / schema.PLAN_NAME)
    train = plan.loc[plan["split"] == "train"].iloc[0]
    extra = pd.DataFrame([{**train, "cell_id": "copy_1", "fov_id": "copy", "split": "", "dropped": "duplicate_fov"}])
    replace_plan(data_dir, pd.concat([plan, extra.astype(plan.dtypes)]))
    assert "sound" in check(data_dir, quick=True)


def test_plan_of_another_sha256_is_a_fault_and_older_manifests_have_none(data_dir):
    path = data_dir / schema.PLAN_NAME
    plan = pd.read_parquet(path)
    plan["file"] = "elsewhere"
    plan.to_parquet(path)
    fault = f"{path}: was edited: its SHA-256 is not the manifest's; write the data set again with `python -m beam_jobs.shard`"
    assert_fault(data_dir, fault)
    edit_manifest(data_dir, lambda content: content.pop("plan_sha256"))
    assert "sound" in check(data_dir)


def test_damaged_hash_is_a_fault(data_dir):
    edit_plan(data_dir, lambda plan: change_first_kept(plan, perceptual_hash="xyz"))
    assert_fault(data_dir, f"{data_dir}/{schema.PLAN_NAME}: FOV ", "'xyz' is no perceptual hash", quick=True)


def test_data_set_made_before_there_were_hashes_passes_with_a_note(data_dir):
    assert "perceptual hashes" not in check(data_dir, quick=True)
    edit_plan(data_dir, lambda plan: plan.drop(columns=["perceptual_hash", "duplicate_set"]))
    text = check(data_dir, quick=True)
    assert "made before FOVs had perceptual hashes" in text
    assert "sound" in text


def test_label_other_than_the_plans_is_a_fault(data_dir):
    plan = pd.read_parquet(data_dir / schema.PLAN_NAME)
    rows = plan[(plan["split"] == "train") & (plan["shard"] == 0)].sort_values("index")
    first = rows.index[0]
    other = rows.index[rows["example_labels"] != rows["example_labels"].iloc[0]][0]
    plan.loc[[first, other], "example_labels"] = plan.loc[[other, first], "example_labels"].to_numpy()
    replace_plan(data_dir, plan)
    assert_fault(data_dir, f"{data_dir}/{_FIRST}: cell {plan.loc[first, 'cell_id']} has labels", "at byte 0")


def test_the_first_fault_is_reported_with_any_number_of_threads(data_dir):
    for name in (_FIRST, _SECOND):
        data = bytearray((data_dir / name).read_bytes())
        data[200] ^= 1
        (data_dir / name).write_bytes(data)
    for num_threads in (1, 3):
        assert_fault(data_dir, f"{data_dir}/{_FIRST}: corrupt record", num_threads=num_threads)


def test_shown_cells_are_spread_over_classes_and_splits(made):
    plan = dataset_check.read_plan(str(made.data_dir))
    chosen = dataset_check.choose_cells(plan, num_cells=8)
    places = {(label, row.split) for row in chosen.itertuples() for label in row.example_labels.split("|")}
    kept = plan[plan["dropped"] == ""]
    assert places == {(label, row.split) for row in kept.itertuples() for label in row.example_labels.split("|")}
    assert chosen["cell_id"].is_unique
    found = dataset_check.read_examples(str(made.data_dir), chosen, plan)
    assert [example.cell_id for example in found] == list(chosen["cell_id"])


def test_picture_of_cells_is_written(data_dir, tmp_path):
    path = tmp_path / "cells.png"
    text = check(data_dir, num_shown=5, picture_path=str(path))
    picture = cv2.imread(str(path))
    assert str(path) in text
    assert picture.shape[1] > 5 * 192
    # Drawn cells and captions, not an empty sheet.
    assert len(set(map(tuple, picture[::7, ::7].reshape(-1, 3).tolist()))) > 100


@pytest.mark.parametrize("options", [{"num_shown": 3}, {"picture_path": "cells.png"}])
def test_number_of_cells_and_picture_go_together(options):
    with pytest.raises(ConfigError, match="go together"):
        InspectConfig("dataset", **options)


def test_picture_of_unknown_format_is_refused():
    with pytest.raises(ConfigError, match=r"--out=cells\.bmp"):
        InspectConfig("dataset", num_shown=3, picture_path="cells.bmp")


def test_main_ends_with_status_1_and_one_line(data_dir):
    path = data_dir / _FIRST
    last = offsets(path)[-1]
    path.write_bytes(path.read_bytes()[:-1])
    done = subprocess.run(
        [sys.executable, "-m", "beam_jobs.inspect", str(data_dir)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.strip() == f"error: {path}: truncated record at byte {last}"

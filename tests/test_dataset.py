"""The input pipeline: order, resume, labels, formats, hosts, balance and bad input."""

import collections
import itertools

import numpy as np
import pytest
import tensorflow as tf

import trainer_data
from hpa_proto import schema, storage
from hpa_proto.errors import ConfigError, DatasetError
from hpa_proto.records import read_records
from trainer import dataset, shards, source

CLASSES = (3, 0, 14)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return trainer_data.write_dataset(tmp_path_factory.mktemp("data") / "set", classes=CLASSES)


@pytest.fixture(scope="module")
def data(folder):
    return source.open_source(str(folder), ("train", "validation", "test"))


def read(data, num_batches, *, batch_size=10, seed=0, **options):
    batches = dataset.training_dataset(data, batch_size=batch_size, seed=seed, **options)
    return list(itertools.islice(dataset.iterate(batches, data, split="train", as_numpy=True), num_batches))


def ids_of(batches):
    return [cell_id.decode() for batch in batches for cell_id in batch["id"]]


def test_a_batch_has_planes_labels_and_ids(data):
    batch = read(data, 1)[0]
    assert batch["image"].shape == (10, 4, 32, 32)
    assert batch["image"].dtype == np.uint8
    assert batch["labels"].shape == (10, 3)
    assert batch["labels"].dtype == np.float32
    assert batch["position"].tolist() == list(range(10))
    # Example i is of class i modulo 3 (see trainer_data): the columns are the manifest's classes in its order.
    numbers = [int(cell_id.split("_")[1]) for cell_id in ids_of([batch])]
    assert batch["labels"].argmax(axis=1).tolist() == [number % 3 for number in numbers]
    assert (batch["labels"].sum(axis=1) == 1).all()


def test_the_pixels_are_the_encoded_ones(tmp_path):
    for image_format, channels in (
        *itertools.product(schema.IMAGE_FORMATS, ("rg", "rgby")),
        ("png", "g"),
        ("png", "rgb"),
    ):
        folder = trainer_data.write_dataset(
            tmp_path / f"{image_format}-{channels}", image_format=image_format, channels=channels, examples_per_class=4
        )
        data = source.open_source(str(folder), ("train",))
        batch = read(data, 1, batch_size=4)[0]
        for cell_id, image in zip(ids_of([batch]), batch["image"], strict=True):
            index = int(cell_id.split("_")[1])
            drawn = trainer_data.grating(CLASSES[index % 3], index=index, num_channels=len(channels), size_px=32)
            # Swapped planes differ by 13 on average.
            tolerance = 4 if image_format == "jpeg-planes" else 0
            difference = np.abs(image.astype(int) - drawn.astype(int)).mean(axis=(1, 2))
            assert difference.max() <= tolerance, (image_format, channels)


@pytest.mark.parametrize("balanced", [False, True])
def test_any_step_can_be_the_first(data, balanced):
    whole = read(data, 15, balanced=balanced)
    tf.random.set_seed(123)  # of the program: has no say
    for start in (4, 14):
        rest = read(data, 15 - start, start_step=start, balanced=balanced)
        for expected, found in zip(whole[start:], rest, strict=True):
            assert all((expected[key] == found[key]).all() for key in expected)


def test_each_epoch_is_another_order_of_the_whole_split(data):
    ids = ids_of(read(data, 48, batch_size=6))
    epochs = [ids[start : start + 48] for start in range(0, len(ids), 48)]
    assert len(epochs) == 6
    assert all(len(set(epoch)) == 48 for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 6


def test_the_seed_decides_the_order(data):
    assert ids_of(read(data, 5, seed=1)) == ids_of(read(data, 5, seed=1))
    assert ids_of(read(data, 5, seed=1)) != ids_of(read(data, 5, seed=2))


def test_hosts_share_the_shards_and_one_batch(data):
    parts = [read(data, 8, batch_size=12, num_hosts=2, host_index=host) for host in (0, 1)]
    own = [set(ids_of(part)) for part in parts]
    assert not own[0] & own[1]
    assert len(own[0] | own[1]) == 48
    positions = [position for pair in zip(*parts, strict=True) for batch in pair for position in batch["position"]]
    assert positions == list(range(8 * 12))


def test_balanced_sampling_shows_all_classes_equally_often(tmp_path):
    sets = [(3,)] * 60 + [(0,)] * 15 + [(14,)] * 5
    folder = trainer_data.write_dataset(tmp_path, label_sets={"train": sets}, num_shards=2)
    data = source.open_source(str(folder), ("train",))
    shares = np.mean([batch["labels"].mean(axis=0) for batch in read(data, 80, batch_size=20, balanced=True)], axis=0)
    np.testing.assert_allclose(shares, 1 / 3, atol=0.04)
    plain = np.mean([batch["labels"].mean(axis=0) for batch in read(data, 40, batch_size=20)], axis=0)
    np.testing.assert_allclose(plain, [0.75, 0.1875, 0.0625], atol=1e-6)


def test_several_labels_become_several_ones(tmp_path):
    sets = [(0, 3), (14,), (), (0, 3, 14)]
    folder = trainer_data.write_dataset(tmp_path, label_sets={"train": sets}, num_shards=1)
    data = source.open_source(str(folder), ("train",))
    assert data.multi_label
    batch = next(dataset.iterate(dataset.evaluation_dataset(data, split="train", batch_size=4), data, split="train"))
    assert batch["labels"].numpy().tolist() == [[1, 1, 0], [0, 0, 1], [0, 0, 0], [1, 1, 1]]
    assert len(set(ids_of(read(data, 20, batch_size=4, balanced=True)))) == 4


def test_evaluation_keeps_the_order_and_drops_nothing(data):
    def evaluate(**options):
        batches = dataset.evaluation_dataset(data, split="validation", batch_size=5, **options)
        return list(dataset.iterate(batches, data, split="validation", as_numpy=True))

    batches = evaluate()
    assert ids_of(batches) == [f"validation_{index}" for index in range(12)]
    assert [len(batch["id"]) for batch in batches] == [5, 5, 2]
    padded = evaluate(pad_last_batch=True)
    assert [len(batch["id"]) for batch in padded] == [5, 5, 5]
    assert ids_of(padded) == [*ids_of(batches), "", "", ""]
    assert (padded[-1]["image"][:2] == batches[-1]["image"]).all()
    assert not padded[-1]["labels"][2:].any()


def test_a_training_dataset_works_inside_a_map(data):
    doubled = dataset.training_dataset(data, batch_size=4, seed=0).map(lambda batch: batch["labels"] * 2)
    assert collections.Counter(next(iter(doubled)).numpy().ravel().tolist()) == {0.0: 8, 2.0: 4}


def test_a_batch_larger_than_the_split_is_an_error(data):
    with pytest.raises(ConfigError, match="larger than split 'train' with 48"):
        dataset.training_dataset(data, batch_size=49, seed=0)
    with pytest.raises(ConfigError, match="shared evenly"):
        dataset.training_dataset(data, batch_size=9, seed=0, num_hosts=2)
    with pytest.raises(ConfigError, match="4 shards, too few for 5 hosts"):
        dataset.training_dataset(data, batch_size=10, seed=0, num_hosts=5)


def write_small(folder, **options):
    return trainer_data.write_dataset(folder, examples_per_class=8, num_shards=2, **options)


def rewrite_manifest(folder, change):
    path = folder / schema.MANIFEST_NAME
    manifest = schema.parse_manifest(path.read_text(), source="test")
    change(manifest)
    path.write_text(schema.format_manifest(manifest))


def test_a_folder_without_manifest_is_an_error(tmp_path):
    folder = write_small(tmp_path)
    (folder / schema.MANIFEST_NAME).unlink()
    with pytest.raises(DatasetError, match=r"no manifest\.json"):
        source.open_source(str(folder), ("train",))


def test_another_schema_version_is_an_error(tmp_path):
    path = write_small(tmp_path) / schema.MANIFEST_NAME
    path.write_text(path.read_text().replace('"schema_version": 1', '"schema_version": 99'))
    with pytest.raises(DatasetError, match="schema version 99"):
        source.open_source(str(tmp_path), ("train",))


def test_an_edited_manifest_is_an_error_before_the_first_step(tmp_path):
    path = write_small(tmp_path) / schema.MANIFEST_NAME
    path.write_text(path.read_text().replace('"image_size_px": 32', '"image_size_px": 64'))
    with pytest.raises(DatasetError, match=r"manifest\.json: was edited: its digest does not fit its content"):
        source.open_source(str(tmp_path), ("train",))


def test_a_class_without_examples_is_an_error(tmp_path):
    folder = trainer_data.write_dataset(tmp_path, classes=CLASSES, label_sets={"train": [(3,), (0,)] * 4}, num_shards=1)
    with pytest.raises(DatasetError, match="no example of class 14"):
        source.check_labels(source.open_source(str(folder), ("train",)), "train")


def test_a_missing_shard_is_an_error(tmp_path):
    folder = write_small(tmp_path)
    (folder / "train-00001-of-00002.tfrecord").unlink()
    for check in ("auto", "size"):
        with pytest.raises(DatasetError, match=r"train-00001-of-00002\.tfrecord"):
            source.open_source(str(folder), ("train",), check=check)


def test_a_truncated_shard_is_an_error_before_the_first_step(tmp_path):
    path = write_small(tmp_path) / "train-00001-of-00002.tfrecord"
    path.write_bytes(path.read_bytes()[:-100])
    for check, fault in (
        ("auto", r"truncated record at byte \d+"),
        ("size", r"ends at byte \d+, the manifest says \d+"),
    ):
        with pytest.raises(DatasetError, match=rf"train-00001-of-00002\.tfrecord: {fault}"):
            source.open_source(str(tmp_path), ("train",), check=check)


def alter(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_an_altered_shard_is_an_error_before_the_first_step(tmp_path):
    alter(write_small(tmp_path) / "train-00000-of-00002.tfrecord")
    with pytest.raises(DatasetError, match=r"train-00000-of-00002\.tfrecord: corrupt record at byte"):
        source.open_source(str(tmp_path), ("train",))


def test_a_shard_altered_later_is_named_when_it_is_read(tmp_path):
    folder = write_small(tmp_path)
    data = source.open_source(str(folder), ("train",))
    alter(folder / "train-00001-of-00002.tfrecord")
    with pytest.raises(DatasetError, match=r"train-00001-of-00002\.tfrecord: corrupt record at byte"):
        read(data, 10)


def test_a_shard_with_fewer_examples_than_the_manifest_says_is_named(tmp_path):
    folder = write_small(tmp_path)
    data = source.open_source(str(folder), ("train",))
    path = folder / "train-00001-of-00002.tfrecord"
    first_frame = 16 + int.from_bytes(path.read_bytes()[:8], "little")
    path.write_bytes(path.read_bytes()[first_frame:])
    for batches in (
        dataset.training_dataset(data, batch_size=8, seed=0),
        dataset.evaluation_dataset(data, split="train", batch_size=8),
    ):
        with pytest.raises(DatasetError, match=r"train-00001-of-00002\.tfrecord: ends after 11 of 12 records"):
            list(itertools.islice(dataset.iterate(batches, data, split="train"), 20))


def test_a_label_outside_the_manifests_classes_names_the_cell(tmp_path):
    rewrite_manifest(write_small(tmp_path), lambda manifest: setattr(manifest.classes[2], "label", 15))
    data = source.open_source(str(tmp_path), ("train",))
    batches = dataset.evaluation_dataset(data, split="train", batch_size=24)
    with pytest.raises(DatasetError, match="train_2"):
        list(dataset.iterate(batches, data, split="train"))


def test_pictures_of_another_size_than_the_manifests_are_an_error(tmp_path):
    rewrite_manifest(write_small(tmp_path), lambda manifest: setattr(manifest, "image_size_px", 64))
    data = source.open_source(str(tmp_path), ("train",))
    with pytest.raises(DatasetError, match=r"the manifest says jpeg-planes of \(4, 64, 64\)"):
        read(data, 1)


@pytest.mark.parametrize("balanced", [False, True])
def test_a_url_gives_the_batches_of_the_disk_from_any_step(folder, data, balanced):
    url = "memory://test-dataset"
    for path in folder.iterdir():
        storage.write_bytes(f"{url}/{path.name}", path.read_bytes())
    stored = source.open_source(url, ("train", "validation", "test"))
    for ours, theirs in zip(read(stored, 12, balanced=balanced), read(data, 12, balanced=balanced), strict=True):
        assert ours.keys() == theirs.keys()
        for key in ours:
            np.testing.assert_array_equal(ours[key], theirs[key])
    assert ids_of(read(stored, 2, start_step=7)) == ids_of(read(data, 9)[7:])


def test_a_shard_is_read_in_groups_of_some_bytes(folder, data):
    path = f"{folder}/{shards.shards_of(data.manifest, 'train')[0].name}"
    groups = list(shards.read_groups(path, num_bytes=10_000))
    assert len(groups) > 1
    with open(path, "rb") as file:
        assert [record for group in groups for record in group] == [
            record for _, record in read_records(file, path=path)
        ]
    assert all(sum(map(len, group)) >= 10_000 > sum(map(len, group[:-1])) for group in groups[:-1])


def test_a_sound_set_has_no_fault(data):
    assert shards.find_fault(data.data_dir, shards.shards_of(data.manifest, "train")) is None

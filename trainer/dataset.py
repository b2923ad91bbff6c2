"""From a manifest and a split to batches of uint8 pictures: files -> interleave -> shuffle -> parse and decode -> batch.

Records stay encoded until after the shuffle, so that skipping and shuffling cost no decoding. Pictures leave as planes
[B, C, H, W]: the device transposes (a host that does it reads half as many). No augmentation here.

The order of training is a pure function of (seed, step): epoch e has its own order of shards and its own shuffle, both
drawn from (seed, e), and batch s starts at example s * batch_size of the endless stream of epochs. A run that goes on at
step s opens that epoch and skips encoded records.

Shards on a disk are read by TensorFlow. Those of an object store it cannot read (s3://), or only with credentials of its own
(gs://): they come through fsspec, some megabytes at a time and several shards at once, in the same order, with no copy kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from hpa_proto import cells_pb2, labels, memory, schema, storage
from hpa_proto.errors import ConfigError, DatasetError
from trainer import shards
from trainer.source import Source

_KEYS = schema.FEATURE_KEYS
_READ_BUFFER_BYTES = 1 << 22
_SHUFFLE_BUFFER_BYTES = 512 << 20
_MAX_SHUFFLE_BUFFER = 4096
# Copies of a rare cell must stay far apart in the shuffle buffer, or a batch would hold several.
_MAX_COPIES = 64
_NUM_READERS = 8
_REPEAT_GROUP = 16
# TensorFlow's default is INTEGER_FAST: 7 % quicker, but 47.9 instead of 50.6 dB on real cells (quality 95).
_DCT_METHOD = "INTEGER_ACCURATE"
_INT32 = 2**31


def training_dataset(
    source: Source,
    *,
    split: str = "train",
    batch_size: int,
    seed: int,
    start_step: int = 0,
    balanced: bool = False,
    num_hosts: int = 1,
    host_index: int = 0,
) -> tf.data.Dataset:
    """Reads a split without end, in an order that only (seed, step) decides.

    Args:
      source: the data set.
      split: of the manifest.
      batch_size: of all hosts together; each yields `batch_size / num_hosts` examples of its own shards.
      seed: from 0.
      start_step: the first batch is that of this step.
      balanced: repeat each example so that all classes come equally often; see `_copies_per_class`.
      num_hosts: machines that train together.
      host_index: this one, from 0.

    Returns:
      Endless batches of {"id": string [b], "image": uint8 [b, C, S, S], "labels": float32 [b, K], "position": int32
      [b]}. `position` counts the examples of all hosts, step * batch_size + place in the batch, modulo 2**31.

    Raises:
      ConfigError: the batch does not fit the split or the hosts.
    """
    host_batch = _host_batch_size(batch_size, num_hosts=num_hosts)
    own_shards = shards.host_shards(source.manifest, split, num_hosts=num_hosts, host_index=host_index)
    num_examples = sum(shard.num_examples for shard in own_shards)
    if host_batch > num_examples:
        raise ConfigError(
            f"a batch of {host_batch} is larger than split {split!r} with {num_examples} examples (on this host); "
            "give a smaller --batch_size"
        )
    copies = _copies_per_class(source.manifest, own_shards) if balanced else None
    epoch, start = divmod(start_step * host_batch, num_examples)
    encoded = tf.data.Dataset.range(epoch, np.iinfo(np.int64).max).flat_map(
        lambda epoch: _epoch_records(source, own_shards, epoch, seed=seed, copies=copies)
    )
    examples = encoded.skip(start).enumerate(start=start_step * host_batch)

    def parse(position: tf.Tensor, record: tf.Tensor) -> dict[str, tf.Tensor]:
        step, place = position // host_batch, position % host_batch
        position = step * batch_size + host_index * host_batch + place
        return {**_parse(source, record), "position": tf.cast(position % _INT32, tf.int32)}

    return _batches(examples.map(parse, num_parallel_calls=tf.data.AUTOTUNE), source, host_batch)


def evaluation_dataset(source: Source, *, split: str, batch_size: int, pad_last_batch: bool = False) -> tf.data.Dataset:
    """Reads a split once, in the manifest's order, with nothing dropped.

    Args:
      source: the data set.
      split: of the manifest.
      batch_size: of all but the last batch.
      pad_last_batch: fill the last batch with black pictures, id "" and no labels, so that every batch has one shape.

    Returns:
      Batches of {"id": string [B], "image": uint8 [B, C, S, S], "labels": float32 [B, K]}.
    """
    split_shards = shards.shards_of(source.manifest, split)
    encoded = _shard_table(source, split_shards).flat_map(_reader(source))
    examples = encoded.map(lambda record: _parse(source, record), num_parallel_calls=tf.data.AUTOTUNE)
    missing = -sum(shard.num_examples for shard in split_shards) % batch_size
    if pad_last_batch and missing:
        filler = {key: tf.zeros(spec.shape, spec.dtype) for key, spec in examples.element_spec.items() if key != "id"}
        filler["id"] = tf.constant("")
        examples = examples.concatenate(tf.data.Dataset.from_tensors(filler).repeat(missing))
    return _batches(examples, source, batch_size)


def iterate(
    dataset: tf.data.Dataset, source: Source, *, split: str, as_numpy: bool = False
) -> Iterator[dict[str, Any]]:
    """Iterates over batches and turns TensorFlow's errors about the data into one that names the file.

    Args:
      dataset: of this module.
      source: what it reads.
      split: what it reads.
      as_numpy: yield numpy arrays instead of tensors.

    Raises:
      DatasetError: a shard is truncated, altered or holds what the manifest does not say.
    """
    iterator = dataset.as_numpy_iterator() if as_numpy else iter(dataset)
    while True:
        try:
            batch = next(iterator)
        except StopIteration:
            return
        except tf.errors.OpError as error:
            fault = shards.find_fault(source.data_dir, shards.shards_of(source.manifest, split))
            described = f"the manifest says {source.manifest.image_format} of {source.image_shape}"
            reason = fault or f"{source.data_dir}, split {split!r}: {error.message.splitlines()[0][:400]} ({described})"
            raise DatasetError(reason) from error
        yield batch


def _host_batch_size(batch_size: int, *, num_hosts: int) -> int:
    if batch_size % num_hosts:
        raise ConfigError(f"a batch of {batch_size} cannot be shared evenly by {num_hosts} hosts")
    return batch_size // num_hosts


def _shard_table(source: Source, split_shards: Sequence[cells_pb2.ShardInfo]) -> tf.data.Dataset:
    paths = [storage.join(source.data_dir, shard.name) for shard in split_shards]
    counts = [shard.num_examples for shard in split_shards]
    return tf.data.Dataset.from_tensor_slices((paths, np.array(counts, dtype=np.int64)))


def _reader(source: Source) -> Callable[[tf.Tensor, tf.Tensor], tf.data.Dataset]:
    """Returns what reads a shard: (path, number of examples) -> encoded records."""
    read_file = _read_stored_file if storage.is_url(source.data_dir) else _read_local_file

    def read(path: tf.Tensor, num_examples: tf.Tensor) -> tf.data.Dataset:
        return read_file(path).apply(tf.data.experimental.assert_cardinality(num_examples))

    return read


def _read_local_file(path: tf.Tensor) -> tf.data.Dataset:
    return tf.data.TFRecordDataset(path, buffer_size=_READ_BUFFER_BYTES)


def _read_groups(path: bytes) -> Iterator[np.ndarray]:
    for group in shards.read_groups(path.decode(), num_bytes=_READ_BUFFER_BYTES):
        yield np.array(group, dtype=object)


def _read_stored_file(path: tf.Tensor) -> tf.data.Dataset:
    # By groups: Python has to do with megabytes then, not with every record. One group is fetched ahead.
    groups = tf.data.Dataset.from_generator(
        _read_groups, args=(path,), output_signature=tf.TensorSpec([None], tf.string)
    )
    return groups.prefetch(1).flat_map(tf.data.Dataset.from_tensor_slices)


def _epoch_records(
    source: Source,
    own_shards: Sequence[cells_pb2.ShardInfo],
    epoch: tf.Tensor,
    *,
    seed: int,
    copies: np.ndarray | None,
) -> tf.data.Dataset:
    """Reads the encoded records of one epoch, each shard's number of examples, in the order of (seed, epoch)."""
    # This is traced into a graph of its own, and so sets that graph's seed only. Without it the order would depend on
    # the program's global seed; and 0 would make TensorFlow compare the tensors below with 0, which a graph cannot.
    tf.random.set_seed(1)
    seeds = tf.random.stateless_uniform([3], seed=[seed, epoch], minval=1, maxval=tf.int64.max, dtype=tf.int64)
    num_examples = sum(shard.num_examples for shard in own_shards)
    encoded = (
        _shard_table(source, own_shards)
        .shuffle(len(own_shards), seed=seeds[0], reshuffle_each_iteration=False)
        .interleave(
            _reader(source),
            cycle_length=min(_NUM_READERS, len(own_shards)),
            num_parallel_calls=min(_NUM_READERS, len(own_shards)),
            deterministic=True,
        )
    )
    if copies is not None:
        # By groups: a data set of its own for every record takes half a millisecond on the one thread that is here.
        encoded = (
            encoded.enumerate()
            .map(
                lambda index, record: (record, _num_copies(record, copies, seed=tf.stack([seeds[2], index]))),
                num_parallel_calls=_NUM_READERS,
                deterministic=True,
            )
            .batch(_REPEAT_GROUP)
            .flat_map(lambda group, times: tf.data.Dataset.from_tensor_slices(tf.repeat(group, times)))
        )
    mean_bytes = sum(shard.num_bytes for shard in own_shards) // num_examples
    buffer_size = max(1, min(_MAX_SHUFFLE_BUFFER, _SHUFFLE_BUFFER_BYTES // max(1, mean_bytes), num_examples))
    encoded = encoded.shuffle(buffer_size, seed=seeds[1], reshuffle_each_iteration=False)
    # With copies an epoch has about as many examples as the shards; made exact, a step's epoch is known without reading.
    return encoded if copies is None else encoded.repeat().take(num_examples)


def _copies_per_class(manifest: cells_pb2.DatasetManifest, own_shards: Sequence[cells_pb2.ShardInfo]) -> np.ndarray:
    """Computes how often an example of each label is to be repeated: float32[19], by Kaggle's number.

    For single labels: num_examples / (num_classes * num_examples of the class), so that all classes come equally often.
    An example of several labels takes the largest of theirs (repeat-factor sampling: Gupta et al. 2019,
    arXiv:1908.03195). A fraction is kept at random.
    """
    counts = np.zeros(labels.NUM_LABELS)
    for shard in own_shards:
        for label, count in shard.num_examples_per_label.items():
            counts[label] += count
    present = [info.label for info in manifest.classes if counts[info.label]]
    copies = np.zeros(labels.NUM_LABELS, dtype=np.float32)
    copies[present] = counts.sum() / (len(present) * counts[present])
    return np.minimum(copies, _MAX_COPIES)


def _num_copies(record: tf.Tensor, copies: np.ndarray, *, seed: tf.Tensor) -> tf.Tensor:
    parsed = tf.io.parse_single_example(record, {_KEYS.labels: tf.io.RaggedFeature(tf.int64)})
    wanted = tf.reduce_max(tf.gather(copies, tf.clip_by_value(parsed[_KEYS.labels], 0, labels.NUM_LABELS - 1)))
    # The largest of no labels is minus infinity; a cell without labels is kept once.
    wanted = tf.where(tf.math.is_finite(wanted), wanted, 1.0)
    return tf.cast(tf.floor(wanted + tf.random.stateless_uniform([], seed=seed)), tf.int64)


def _parse(source: Source, record: tf.Tensor) -> dict[str, tf.Tensor]:
    """Parses and decodes one record; labels are counted per Kaggle number and checked by the batch (`_check_labels`)."""
    features = {
        _KEYS.image: tf.io.FixedLenFeature([], tf.string),
        _KEYS.cell_id: tf.io.FixedLenFeature([], tf.string),
        _KEYS.labels: tf.io.RaggedFeature(tf.int64),
    }
    parsed = tf.io.parse_single_example(record, features)
    kaggle_labels = parsed[_KEYS.labels]
    return {
        "id": parsed[_KEYS.cell_id],
        "image": decode_image(source, parsed[_KEYS.image]),
        # One more column than labels, so that a number out of range is seen.
        "labels": tf.reduce_sum(
            tf.one_hot(
                tf.clip_by_value(kaggle_labels, -1, labels.NUM_LABELS) % (labels.NUM_LABELS + 1), labels.NUM_LABELS + 1
            ),
            axis=0,
        ),
    }


def decode_image(source: Source, data: tf.Tensor) -> tf.Tensor:
    """Decodes one encoded picture of a data set: uint8[C, S, S]."""
    num_channels, size_px, _ = shape = source.image_shape
    if source.manifest.image_format == "raw":
        return tf.reshape(tf.io.decode_raw(data, tf.uint8), shape)
    if source.manifest.image_format == "jpeg-planes":
        return tf.reshape(tf.io.decode_jpeg(data, channels=1, dct_method=_DCT_METHOD), shape)
    if num_channels == 2:
        return tf.reshape(tf.io.decode_png(data, channels=1), shape)
    image = tf.reshape(tf.io.decode_png(data, channels=num_channels), (size_px, size_px, num_channels))
    return tf.transpose(image, (2, 0, 1))


def _batches(examples: tf.data.Dataset, source: Source, batch_size: int) -> tf.data.Dataset:
    # Of a set without labels there are none, and a list would have no type then.
    columns = np.array([info.label for info in source.manifest.classes], dtype=np.int32)
    others = [label for label in range(labels.NUM_LABELS + 1) if label not in columns]
    is_single = source.manifest.label_scope == "single"

    def finish(batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        counts = batch["labels"]
        wanted = tf.gather(counts, columns, axis=1)
        is_wrong = tf.reduce_any(tf.gather(counts, others, axis=1) > 0, axis=1)
        if is_single:
            is_wrong |= (tf.reduce_sum(wanted, axis=1) != 1) & (batch["id"] != "")
        wrong_ids = tf.boolean_mask(batch["id"], is_wrong)
        check = tf.debugging.Assert(
            tf.size(wrong_ids) == 0, ["cells whose labels are not the manifest's classes:", wrong_ids], summarize=4
        )
        with tf.control_dependencies([check]):
            return {**batch, "labels": tf.identity(wanted)}

    memory.keep_freed_memory()
    options = tf.data.Options()
    options.deterministic = True
    options.autotune.enabled = True
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    return examples.batch(batch_size).map(finish).prefetch(tf.data.AUTOTUNE).with_options(options)

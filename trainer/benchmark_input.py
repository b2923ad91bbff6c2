"""Suites of the input's parts: reading records, decoding pictures."""

from __future__ import annotations

import concurrent.futures
import contextlib
import gc
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from hpa_proto import records, storage
from hpa_proto.benchmarking import Figure, Suite, Work
from trainer import benchmark_data, dataset, shards
from trainer.benchmark_data import SPLIT, Pictures
from trainer.source import Source

BATCH_SIZE = 32
QUALITIES = (75, 85, 90, 95, 98)
# Pictures that a thread decodes in one go, and how often in one call. At a call's end threads wait for a part of a piece;
# of pieces of 4 the way into TensorFlow is a sixth of the time of a picture of one channel.
_PIECE = 16
_PIECES = 16


class InputSuite(Suite):
    """A suite that measures on cells."""

    # tf.data finds its degree of parallelism in about a second; other loaders start processes.
    settle_sec = 3.0
    warm_ups = 0

    def __init__(self, pictures: Pictures):
        super().__init__()
        self.pictures = pictures


class Loader(contextlib.AbstractContextManager):
    """Work of one batch a call, from a loader that is opened for each timing and closed after it."""

    def __init__(self, open_batches: Callable[[], Iterator[Any]], *, images: Any):
        """Says what to open.

        Args:
          open_batches: returns an endless iterator.
          images: key or index of a batch's pictures.
        """
        self._open_batches, self._images = open_batches, images
        self._batches: Iterator[Any] | None = None

    def __enter__(self) -> None:
        self._batches = self._open_batches()

    def __call__(self) -> float:
        """Takes a batch and returns its number of pictures."""
        return float(len(next(self._batches)[self._images]))

    def __exit__(self, *error: object) -> None:
        # The loaders end their threads and processes when nobody holds them any more.
        self._batches = None
        gc.collect()


class RecordsSuite(InputSuite):
    """Reading whole shards without decoding a picture."""

    name = "records"
    title = "reading records, not decoded"
    unit = "record"
    settle_sec = 0.0
    warm_ups = 1

    def prepare(self, folder: str) -> None:
        """Lists the files."""
        source = self.pictures.source
        self._paths = [storage.join(source.data_dir, shard.name) for shard in shards.shards_of(source.manifest, SPLIT)]
        self._num_examples = source.num_examples(SPLIT)

    def variants(self) -> dict[str, Work]:
        """Returns the bytes alone, TensorFlow's reader and this project's."""
        return {
            "bytes of the files, nothing else": self._read_bytes,
            "TFRecordDataset, checksums": self._read_with_tensorflow,
            "hpa_proto.records, checksums": self._read_with_python,
        }

    def _read_bytes(self) -> float:
        for path in self._paths:
            with storage.open_read(path) as file:
                while file.read(1 << 22):
                    pass
        return self._num_examples

    def _read_with_tensorflow(self) -> float:
        dataset_records = tf.data.TFRecordDataset(self._paths, buffer_size=1 << 22)
        return float(dataset_records.reduce(np.int64(0), lambda count, _: count + 1))

    def _read_with_python(self) -> float:
        for path in self._paths:
            with storage.open_read(path) as file:
                for _ in records.read_records(file, path=path):
                    pass
        return self._num_examples


class BareDecoder:
    """The pipeline's decoder called in threads on pictures in memory, with nothing around it."""

    def __init__(self, source: Source, *, num_threads: int):
        images = tf.constant(benchmark_data.encoded_images(source))
        num_images = len(images)

        # A loop inside TensorFlow: in Python the threads would take turns.
        @tf.function(input_signature=[tf.TensorSpec([], tf.int64)])
        def decode(first: tf.Tensor) -> tf.Tensor:
            used = tf.constant(0)
            for index in tf.range(first, first + _PIECE):
                tf.autograph.experimental.set_loop_options(parallel_iterations=1)
                image = dataset.decode_image(source, images[index % num_images])
                # What nobody looks at is not computed.
                used += tf.cast(image[0, 0, 0], tf.int32)
            return used

        self._decode = decode
        self._num_threads = num_threads
        self._next = 0
        self._pool = concurrent.futures.ThreadPoolExecutor(num_threads)

    def __call__(self) -> float:
        """Decodes `_PIECES` pieces; who is done first takes the next."""
        firsts = range(self._next, self._next + _PIECE * _PIECES, _PIECE)
        self._next = firsts.stop
        todo = iter([tf.constant(first, tf.int64) for first in firsts])
        for future in [self._pool.submit(self._work, todo) for _ in range(self._num_threads)]:
            future.result()
        return float(_PIECE * _PIECES)

    def _work(self, todo: Iterator[tf.Tensor]) -> None:
        for first in todo:
            self._decode(first)

    def close(self) -> None:
        """Ends the threads."""
        self._pool.shutdown()


class DecodeSuite(InputSuite):
    """Each format of the data sets: speed in one thread, bytes, fidelity."""

    name = "decode"
    title = "decoding one four-channel picture in one thread, by format"
    settle_sec = 0.0
    warm_ups = 1

    def prepare(self, folder: str) -> None:
        """Writes the pictures in every format."""
        formats = {f"jpeg-planes, quality {quality}": ("jpeg-planes", quality) for quality in QUALITIES}
        formats |= {"png": ("png", 0), "raw": ("raw", 0)}
        self._sources = {
            title: benchmark_data.write_dataset(
                storage.join(folder, title.replace(" ", "_")), self.pictures.planes, image_format=name, quality=quality
            )
            for title, (name, quality) in formats.items()
        }
        self._decoders = {title: BareDecoder(source, num_threads=1) for title, source in self._sources.items()}

    def variants(self) -> dict[str, Work]:
        """Returns a decoder for each format."""
        return dict(self._decoders)

    def own_figures(self) -> Sequence[Figure]:
        """Returns kilobytes and, where something is lost, decibels of each picture."""
        figures = []
        for title, source in self._sources.items():
            images = benchmark_data.encoded_images(source)
            kilobytes = tuple(len(image) / 1000 for image in images)
            figures.append(Figure(self.name, f"{title}: size", "KB", kilobytes, less_is_better=True))
            if source.manifest.image_format == "jpeg-planes":
                # The shards hold every num_shards-th picture; sorted like the files, so are the planes.
                order = itertools.chain.from_iterable(
                    range(len(images))[start :: len(source.manifest.shards)]
                    for start in range(len(source.manifest.shards))
                )
                decoded = (dataset.decode_image(source, image).numpy() for image in images)
                decibels = tuple(
                    _psnr(self.pictures.planes[index], image) for index, image in zip(order, decoded, strict=True)
                )
                figures.append(Figure(self.name, f"{title}: fidelity (PSNR)", "dB", decibels))
        return figures

    def close(self) -> None:
        """Ends the threads."""
        for decoder in getattr(self, "_decoders", {}).values():
            decoder.close()


def _psnr(original: np.ndarray, decoded: np.ndarray) -> float:
    """Peak signal-to-noise ratio, 20 log10(255 / root of the mean squared error), over all pixels and channels."""
    error = np.mean((original.astype(np.float32) - decoded) ** 2)
    return float(10 * np.log10(255**2 / max(error, 1e-9)))

"""Suites of the whole input pipeline: against its limit, against the old folder pipeline, and by setting."""

from __future__ import annotations

import contextlib
import functools
import io
import os
import pathlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import cv2
import numpy as np

from hpa_proto import benchmarking, schema, storage
from hpa_proto.benchmarking import NotMeasuredError, Ratio, Work
from trainer import benchmark_data, dataset
from trainer.benchmark_data import SPLIT
from trainer.benchmark_input import BATCH_SIZE, BareDecoder, InputSuite, Loader
from trainer.source import Source

# Examples of the lossless data sets: a picture has 1.1 MB.
_LOSSLESS = 256


def pipeline_work(source: Source, **options: Any) -> Loader:
    """Returns the whole input pipeline of training, with the options of `open_pipeline`, as work."""
    return Loader(open_pipeline(source, **options), images="image")


def open_pipeline(
    source: Source, *, batch_size: int = BATCH_SIZE, balanced: bool = False
) -> Callable[[], Iterator[dict[str, Any]]]:
    """Returns what opens the pipeline; its graph is built here, once."""
    batches = dataset.training_dataset(source, split=SPLIT, batch_size=batch_size, seed=0, balanced=balanced)
    return functools.partial(dataset.iterate, batches, source, split=SPLIT)


class PipelineSuite(InputSuite):
    """The whole pipeline against the bare decoder and against the old folder pipeline."""

    name = "pipeline"
    title = f"the whole input pipeline, batches of {BATCH_SIZE}"

    def prepare(self, folder: str) -> None:
        """Writes the green channel as a data set and as PNGs in a folder a class."""
        cores = benchmarking.num_cores()
        source, planes = self.pictures.source, self.pictures.planes
        green_planes = planes[:, [schema.CHANNELS.index("green")]]
        green = benchmark_data.write_dataset(
            storage.join(folder, "green"), green_planes, num_examples=source.num_examples(SPLIT)
        )
        write_png_folder(storage.join(folder, "png"), green_planes[:, 0])
        self.notes.append(
            "the old folder pipeline reads grey PNGs as RGB, which its three-channel networks took: Keras' default; grey: its "
            "best"
        )
        self._bare = BareDecoder(source, num_threads=cores)
        self._bare_green = BareDecoder(green, num_threads=cores)
        self._works = {
            "four channels": pipeline_work(source),
            f"four channels, bare decoder in {cores} threads": self._bare,
            "one channel": pipeline_work(green),
            f"one channel, bare decoder in {cores} threads": self._bare_green,
            "old folder pipeline, RGB": folder_pipeline_work(storage.join(folder, "png"), color_mode="rgb"),
            "old folder pipeline, grey": folder_pipeline_work(storage.join(folder, "png"), color_mode="grayscale"),
        }

    def variants(self) -> dict[str, Work]:
        """Returns the pipelines and their limits."""
        return self._works

    def ratios(self) -> Sequence[Ratio]:
        """Returns the pipeline against the limit and the old way."""
        four, bare, one, bare_one, old, old_grey = self._works
        return (
            Ratio("four channels against the bare decoder", four, bare, at_least=0.85),
            Ratio("one channel against the bare decoder", one, bare_one),
            Ratio("one channel against the old folder pipeline", one, old, at_least=60),
            Ratio("one channel against the old folder pipeline, grey", one, old_grey),
        )

    def close(self) -> None:
        """Ends the threads."""
        for name in ("_bare", "_bare_green"):
            if hasattr(self, name):
                getattr(self, name).close()


class SettingsSuite(InputSuite):
    """The pipeline by cores, batch, format and use."""

    name = "settings"
    title = "the input pipeline of four channels by cores, batch, format and use"

    def prepare(self, folder: str) -> None:
        """Writes the pictures in the lossless formats."""
        source, planes = self.pictures.source, self.pictures.planes
        others = {
            name: benchmark_data.write_dataset(
                storage.join(folder, name), planes, image_format=name, num_examples=_LOSSLESS
            )
            for name in ("png", "raw")
        }
        self._works: dict[str, Work] = {f"batches of {BATCH_SIZE}": pipeline_work(source)}
        self._works |= {f"batches of {size}": pipeline_work(source, batch_size=size) for size in (7, 128)}
        self._works |= {name: pipeline_work(other) for name, other in others.items()}
        self._works["evaluation"] = Loader(_open_evaluation(source), images="image")
        self._works["balanced sampling"] = pipeline_work(source, balanced=True)
        if hasattr(os, "sched_setaffinity"):
            for cores in range(1, benchmarking.num_cores()):
                self._works[f"{cores} of {benchmarking.num_cores()} cores"] = _OnCores(
                    open_pipeline(source), images="image", num_cores=cores
                )

    def variants(self) -> dict[str, Work]:
        """Returns the pipeline in each setting."""
        return self._works


def _open_evaluation(source: Source) -> Callable[[], Iterator[dict[str, Any]]]:
    batches = dataset.evaluation_dataset(source, split=SPLIT, batch_size=BATCH_SIZE).repeat()
    return functools.partial(dataset.iterate, batches, source, split=SPLIT)


class _OnCores(Loader):
    """Holds all threads of this process on the first few cores while the loader is open."""

    def __init__(self, open_batches: Callable[[], Iterator[Any]], *, images: Any, num_cores: int):
        super().__init__(open_batches, images=images)
        self._num_cores = num_cores

    def __enter__(self) -> None:
        self._before = os.sched_getaffinity(0)
        _move_threads(sorted(self._before)[: self._num_cores])
        super().__enter__()

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        _move_threads(self._before)


def _move_threads(cores: Sequence[int] | set[int]) -> None:
    for task in os.listdir("/proc/self/task"):
        with contextlib.suppress(ProcessLookupError):
            os.sched_setaffinity(int(task), cores)


def write_png_folder(folder: str, planes: np.ndarray) -> None:
    """Writes uint8[N, H, W] as PNGs in a folder a class, as the old project kept its cells."""
    for index, plane in enumerate(planes):
        path = pathlib.Path(folder) / f"class_{index % 12}" / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), plane)


def folder_pipeline_work(folder: str, *, color_mode: str) -> Work:
    """Returns the old project's pipeline as work of one batch of seven a call: Keras' ImageDataGenerator on PNGs.

    Raises:
      NotMeasuredError: this Keras does not have it any more.
    """
    try:
        from keras.src.legacy.preprocessing.image import ImageDataGenerator
    except ImportError as error:
        raise NotMeasuredError(f"this Keras has no ImageDataGenerator ({error})") from error
    warnings.filterwarnings("ignore", category=UserWarning, module="keras")
    generator = ImageDataGenerator(
        rescale=1 / 255,
        rotation_range=40,
        width_shift_range=0.2,
        height_shift_range=0.2,
        shear_range=0.2,
        zoom_range=0.3,
        horizontal_flip=True,
        vertical_flip=True,
    )
    size = cv2.imread(str(next(pathlib.Path(folder).rglob("*.png"))), cv2.IMREAD_UNCHANGED).shape[:2]
    with contextlib.redirect_stdout(io.StringIO()):
        batches = generator.flow_from_directory(
            folder, target_size=size, color_mode=color_mode, batch_size=7, class_mode="categorical", seed=0
        )
    return lambda: float(len(next(batches)[0]))

"""The pipeline against torch's DataLoader, grain and webdataset on the same pictures, each in the best of some settings."""

from __future__ import annotations

import functools
import importlib.util
import io
import itertools
import os
import pathlib
import tarfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import cv2
import numpy as np

from hpa_proto import benchmarking, storage
from hpa_proto.benchmarking import NotMeasuredError, Ratio, Work
from trainer import benchmark_data
from trainer.benchmark_data import Pictures
from trainer.benchmark_input import BATCH_SIZE, InputSuite, Loader
from trainer.benchmark_pipeline import pipeline_work

_OURS = "this project"
# Of each setting: passes, in each batches that fill its buffers, then time.
_SEARCH_PASSES = 2
_SEARCH_BATCHES = 16
_SEARCH_SEC = 3.0
_FILES_A_TAR = 300
Settings = dict[str, int]


def decode_file(path: str, *, shape: tuple[int, int, int]) -> np.ndarray:
    """Reads and decodes a file of planes one below the other (JPEG), or an RGBA one (PNG): uint8[C, S, S]."""
    return _decode(np.fromfile(path, dtype=np.uint8), shape=shape)


def _decode(data: np.ndarray, *, shape: tuple[int, int, int]) -> np.ndarray:
    image = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    return image.reshape(shape) if image.ndim == 2 else np.ascontiguousarray(image.transpose(2, 0, 1))


class FileSource:
    """Cells as files, by number: what torch's DataLoader and grain read from."""

    def __init__(self, paths: Sequence[str], shape: tuple[int, int, int]):
        self._paths, self._shape = list(paths), shape

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        path = self._paths[index]
        return decode_file(path, shape=self._shape), index % 12


class PeersSuite(InputSuite):
    """The same four-channel pictures through the loaders that people use."""

    name = "peers"
    title = f"the input pipeline of four channels, batches of {BATCH_SIZE}, against other loaders"
    # The best of them come within a fifth.
    least_rounds = 7

    def __init__(self, pictures: Pictures):
        super().__init__(pictures)
        self._works: dict[str, Work] = {}
        self._ratios: list[Ratio] = []

    def prepare(self, folder: str) -> None:
        """Writes the pictures as files and tar files and looks for the best settings of each loader."""
        # What a worker decodes in is its own business: one thread each, or they fight for the cores.
        self._cv2_threads = cv2.getNumThreads()
        cv2.setNumThreads(1)
        source = self.pictures.source
        images = benchmark_data.encoded_images(source)
        jpegs = FileSource(_write_files(storage.join(folder, "jpeg"), images, suffix="jpg"), source.image_shape)
        pngs = [benchmark_data.encode_planes(planes, image_format="png") for planes in self.pictures.planes]
        png_paths = _write_files(storage.join(folder, "png"), pngs, suffix="png")
        png_shape = self.pictures.planes.shape[1:]
        tars = _write_tars(storage.join(folder, "tar"), images)
        self._works[_OURS] = pipeline_work(source)
        cores = benchmarking.num_cores()
        workers = [{"num_workers": number} for number in sorted({0, 1, cores, 2 * cores})]
        threads = [{"num_threads": number, "num_workers": 0} for number in sorted({cores, 2 * cores, 16})]
        self._add("torch", "torch DataLoader", functools.partial(_open_torch, jpegs), workers)
        self._add(
            "torch",
            "torch DataLoader on PNGs",
            functools.partial(_open_torch, FileSource(png_paths, png_shape)),
            workers,
        )
        self._add(
            "grain",
            "grain",
            functools.partial(_open_grain, jpegs),
            [*threads, {"num_threads": 1, "num_workers": cores}],
        )
        self._add("webdataset", "webdataset", functools.partial(_open_webdataset, tars, source.image_shape), workers)
        if len(self._works) == 1:
            raise NotMeasuredError("none of torch, grain and webdataset is there; pip install torch grain webdataset")

    def _add(
        self, package: str, name: str, open_loader: Callable[..., Iterator[Any]], settings: Sequence[Settings]
    ) -> None:
        if importlib.util.find_spec(package) is None:
            self.notes.append(f"{name} not measured: {package} is not installed")
            return
        loaders = [Loader(functools.partial(open_loader, **setting), images=0) for setting in settings]
        # In turn and twice: another program's burst must not choose the setting.
        passes = [[_speed(loader) for loader in loaders] for _ in range(_SEARCH_PASSES)]
        speeds = [max(tried) for tried in zip(*passes, strict=True)]
        best = int(np.argmax(speeds))
        tried = "; ".join(f"{setting}: {speed:.0f}/s" for setting, speed in zip(settings, speeds, strict=True))
        self.notes.append(f"{name} with {settings[best]}, the best of {tried}")
        self._works[name] = loaders[best]
        self._ratios.append(Ratio(f"against {name}", _OURS, name, at_least=1.0))

    def variants(self) -> dict[str, Work]:
        """Returns the loaders that are there."""
        return self._works

    def ratios(self) -> Sequence[Ratio]:
        """Returns this project against each."""
        return self._ratios

    def close(self) -> None:
        """Gives OpenCV its threads back."""
        if hasattr(self, "_cv2_threads"):
            cv2.setNumThreads(self._cv2_threads)


def _speed(loader: Loader) -> float:
    """Images a second once the loader runs."""
    with loader:
        for _ in range(_SEARCH_BATCHES):
            loader()
        start, num_images = time.perf_counter(), 0.0
        while time.perf_counter() - start < _SEARCH_SEC:
            num_images += loader()
        return num_images / (time.perf_counter() - start)


def _open_torch(cells: FileSource, *, num_workers: int) -> Iterator[Any]:
    import torch

    # Without an end: a new epoch would start its workers' queues anew.
    sampler = torch.utils.data.RandomSampler(cells, num_samples=10**8)
    options = {"num_workers": num_workers, "prefetch_factor": 4 if num_workers else None}
    with warnings.catch_warnings():
        # It advises against more workers than cores; whether they help is what is tried here.
        warnings.simplefilter("ignore", UserWarning)
        return iter(torch.utils.data.DataLoader(cells, batch_size=BATCH_SIZE, sampler=sampler, **options))


def _open_grain(cells: FileSource, *, num_threads: int, num_workers: int) -> Iterator[Any]:
    import grain

    options = grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=4 * BATCH_SIZE)
    dataset = grain.MapDataset.source(cells).shuffle(seed=0).repeat().to_iter_dataset(options).batch(BATCH_SIZE)
    if num_workers:
        dataset = dataset.mp_prefetch(grain.MultiprocessingOptions(num_workers=num_workers))
    else:
        # Stacks the next batch while this one is used.
        dataset = grain.experimental.ThreadPrefetchIterDataset(dataset, prefetch_buffer_size=2)
    return iter(dataset)


def _open_webdataset(tars: Sequence[str], shape: tuple[int, int, int], *, num_workers: int) -> Iterator[Any]:
    import webdataset

    def decode(sample: dict[str, Any]) -> tuple[np.ndarray, int]:
        return _decode(np.frombuffer(sample["jpg"], dtype=np.uint8), shape=shape), int(sample["cls"])

    pipeline = webdataset.WebDataset(list(tars), resampled=True, shardshuffle=False).shuffle(1000).map(decode)
    options = {"num_workers": num_workers, "prefetch_factor": 4 if num_workers else None}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return iter(webdataset.WebLoader(pipeline.batched(BATCH_SIZE, partial=False), batch_size=None, **options))


def _write_files(folder: str, images: Sequence[bytes], *, suffix: str) -> list[str]:
    paths = [storage.join(folder, f"{index:06d}.{suffix}") for index in range(len(images))]
    os.makedirs(folder)
    for path, image in zip(paths, images, strict=True):
        pathlib.Path(path).write_bytes(image)
    return paths


def _write_tars(folder: str, images: Sequence[bytes]) -> list[str]:
    os.makedirs(folder)
    paths = []
    numbered = iter(enumerate(images))
    while piece := list(itertools.islice(numbered, _FILES_A_TAR)):
        paths.append(storage.join(folder, f"{len(paths):05d}.tar"))
        with tarfile.open(paths[-1], "w") as file:
            for index, image in piece:
                for suffix, data in (("jpg", image), ("cls", str(index % 12).encode())):
                    _add_to_tar(file, f"{index:06d}.{suffix}", data)
    return paths


def _add_to_tar(file: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    file.addfile(info, io.BytesIO(data))

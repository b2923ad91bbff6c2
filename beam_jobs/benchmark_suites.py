"""What the data half's benchmark measures: stages of a FOV, shards, workers, memory."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Callable, Sequence

from beam_jobs import cutting, examples
from beam_jobs.examples import ExampleConfig
from beam_jobs.fov_reader import read_fov
from beam_jobs.fov_source import find_fovs
from beam_jobs.segmenters import WatershedSegmenter
from hpa_proto import cells_pb2, records, schema, storage
from hpa_proto.benchmarking import Figure, Ratio, Suite, Work

_SIMULATED_FOVS = 4
_MB = 1e6


class FovSuite(Suite):
    """A suite that measures on FOVs."""

    unit = "FOV"
    reads_as = "time"

    def __init__(self, images: str, *, pixel_size_um: float, num_fovs: int):
        """Says what to measure on.

        Args:
          images: folder of FOVs.
          pixel_size_um: side of a pixel in micrometres.
          num_fovs: FOVs of the suites that run whole jobs.
        """
        super().__init__()
        self._images, self._pixel_size_um, self._num_fovs = images, pixel_size_um, num_fovs

    def _read_and_segment(self) -> None:
        """Holds every FOV at every stage in memory, so that a stage is timed by itself."""
        self._fovs = find_fovs(self._images, None).fovs
        self._segmenter = WatershedSegmenter(pixel_size_um=self._pixel_size_um)
        self._pixels = [read_fov(fov) for fov in self._fovs]
        self._found = [
            self._segmenter.segment(image.pixels, fov_id=fov.fov_id)
            for fov, image in zip(self._fovs, self._pixels, strict=True)
        ]
        self._cells = [self._cut(number) for number in range(len(self._fovs))]

    def _cut(self, number: int) -> list[cells_pb2.Cell]:
        fov, image, found = self._fovs[number], self._pixels[number], self._found[number]
        return list(cutting.cut_cells(image, found, fov_id=fov.fov_id, labels=(), pixel_size_um=self._pixel_size_um))


class StagesSuite(FovSuite):
    """One FOV through each stage in one thread."""

    name = "stages"
    title = "a FOV through the stages of the data half, one thread"

    def prepare(self, folder: str) -> None:
        """Computes what each stage starts from."""
        self._folder = folder
        self._read_and_segment()
        num_cells = sum(len(cells) for cells in self._cells) / len(self._cells)
        self.notes.append(f"{len(self._fovs)} FOVs, {num_cells:.0f} cells a FOV")

    def variants(self) -> dict[str, Work]:
        """Returns the stages."""

        def each(stage: Callable[[int], object]) -> Work:
            def work() -> float:
                for number in range(len(self._fovs)):
                    stage(number)
                return len(self._fovs)

            return work

        stages: dict[str, Callable[[int], object]] = {
            "read": lambda number: read_fov(self._fovs[number]),
            "watershed": lambda number: self._segmenter.segment(self._pixels[number].pixels, fov_id="fov"),
            "cut and measure": self._cut,
            "store": self._store,
        }
        return {name: each(stage) for name, stage in stages.items()}

    def _store(self, number: int) -> None:
        frames = [records.frame_record(cell.SerializeToString(deterministic=True)) for cell in self._cells[number]]
        storage.write_bytes(storage.join(self._folder, "stages.tfrecord"), b"".join(frames))


class ShardSuite(FovSuite):
    """Stored cells that one core turns into examples, for each format."""

    name = "shard"
    title = "a stored cell to an example of four channels and 528 px, one thread"
    unit = "cell"
    reads_as = "rate"

    def prepare(self, folder: str) -> None:
        """Segments the FOVs."""
        self._read_and_segment()
        self._stored = [cell.SerializeToString() for cells in self._cells for cell in cells]

    def variants(self) -> dict[str, Work]:
        """Returns the formats."""

        def work(config: ExampleConfig) -> float:
            for data in self._stored:
                records.frame_record(examples.make_example(cells_pb2.Cell.FromString(data), (0,), config))
            return len(self._stored)

        configs = {name: ExampleConfig(image_format=name) for name in schema.IMAGE_FORMATS}
        return {name: lambda config=config: work(config) for name, config in configs.items()}


class WorkersSuite(FovSuite):
    """The whole segmenting job with 1 and with 2 workers."""

    name = "workers"
    title = "the whole segmenting job by workers"
    warm_ups = 0

    def prepare(self, folder: str) -> None:
        """Lists the FOVs again and again."""
        self._folder = folder
        self._table = _repeat_fovs(self._images, storage.join(folder, "fovs.csv"), self._num_fovs)

    def variants(self) -> dict[str, Work]:
        """Returns the job with 1 and 2 workers."""
        return {f"{number} worker(s)": lambda number=number: self._segment(number) for number in (1, 2)}

    def _segment(self, num_workers: int) -> float:
        cells_dir = storage.join(self._folder, "cells")
        _segment(self._table, cells_dir, self._pixel_size_um, num_workers=num_workers)
        storage.remove_folder(cells_dir)
        return self._num_fovs

    def ratios(self) -> Sequence[Ratio]:
        """Returns what the second worker brings."""
        return (Ratio("2 workers against 1", "2 worker(s)", "1 worker(s)", at_least=1.8),)


class MemorySuite(FovSuite):
    """Peak memory of the largest process of the segmenting job with 2 workers, over a tenth of the FOVs and over all."""

    name = "memory"
    title = "peak memory of a process of the segmenting job"
    warm_ups = 0

    def prepare(self, folder: str) -> None:
        """Lists the FOVs again and again."""
        self._folder = folder
        self._peaks: dict[int, list[float]] = {max(1, self._num_fovs // 10): [], self._num_fovs: []}

    def variants(self) -> dict[str, Work]:
        """Returns the job over few and over many FOVs."""
        return {f"{count} FOVs": lambda count=count: self._segment(count) for count in self._peaks}

    def _segment(self, count: int) -> float:
        cells_dir = storage.join(self._folder, "cells")
        table = _repeat_fovs(self._images, storage.join(self._folder, "fovs.csv"), count)
        self._peaks[count].append(_in_child(lambda: _segment(table, cells_dir, self._pixel_size_um, num_workers=2)))
        storage.remove_folder(cells_dir)
        return count

    def own_figures(self) -> Sequence[Figure]:
        """Returns the peaks and their ratio."""
        few, many = self._peaks
        figures = [
            Figure(self.name, f"peak, {count} FOVs", "MB", tuple(peaks), less_is_better=True)
            for count, peaks in self._peaks.items()
        ]
        ratios = tuple(b / a for a, b in zip(self._peaks[few], self._peaks[many], strict=True))
        name = f"peak, {many} FOVs against {few}"
        return [*figures, Figure(self.name, name, "x", ratios, at_most=1.1, less_is_better=True)]


SUITES: dict[str, type[FovSuite]] = {
    suite.name: suite for suite in (StagesSuite, ShardSuite, WorkersSuite, MemorySuite)
}


def simulate_fovs(folder: str, pixel_size_um: float) -> str:
    """Simulates a few FOVs of 2048 px (at 0.08 um) and returns the folder of their images."""
    side = str(round(2048 * 0.08 / pixel_size_um))
    flags = {"out_dir": folder, "num_fovs": str(_SIMULATED_FOVS), "height_px": side, "width_px": side}
    arguments = [f"--{name}={value}" for name, value in flags.items()]
    _run([sys.executable, "-m", "beam_jobs.synthesize", f"--pixel_size_um={pixel_size_um}", *arguments])
    return storage.join(folder, "images")


def _repeat_fovs(images: str, path: str, num_fovs: int) -> str:
    """Writes a CSV that lists the FOVs again and again under new ids."""
    fovs = find_fovs(os.path.abspath(images), None).fovs
    lines = ["ID," + ",".join(schema.CHANNELS)]
    for number in range(num_fovs):
        paths = dict(fovs[number % len(fovs)].paths)
        lines.append(f"fov-{number}," + ",".join(paths[channel] for channel in schema.CHANNELS))
    storage.write_text(path, "\n".join(lines) + "\n")
    return path


def _segment(table: str, cells_dir: str, pixel_size_um: float, *, num_workers: int) -> None:
    flags = [f"--images={table}", f"--cells_dir={cells_dir}", f"--pixel_size_um={pixel_size_um}"]
    _run([sys.executable, "-m", "beam_jobs.segment", *flags, f"--num_workers={num_workers}"])


def _run(arguments: list[str]) -> None:
    subprocess.run(arguments, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _in_child(action: Callable[[], None]) -> float:
    """Runs an action in a forked process and returns the peak memory, in MB, of the largest process it waited for.

    The system keeps that peak for all children together, so each measurement needs a parent of its own.
    """
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        action()
        # Linux counts in kilobytes, macOS in bytes.
        unit = 1 if sys.platform == "darwin" else 1024
        os.write(writer, str(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit / _MB).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as stream:
        text = stream.read()
    os.waitpid(pid, 0)
    return float(text)

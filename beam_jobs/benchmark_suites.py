"""What the benchmark measures. A suite prepares its input, times its parts and returns figures with units."""

from __future__ import annotations

import dataclasses
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

from beam_jobs import cutting, examples
from beam_jobs.examples import ExampleConfig
from beam_jobs.fov_reader import read_fov
from beam_jobs.fov_source import FovRef, find_fovs
from beam_jobs.segmenters import WatershedSegmenter
from hpa_proto import cells_pb2, records, schema, storage

_SIMULATED_FOVS = 4
_MB = 1e6


@dataclasses.dataclass(frozen=True)
class Figure:
    """One measured figure.

    Attributes:
      name: what was measured.
      unit: of the values.
      values: one a round.
    """

    name: str
    unit: str
    values: tuple[float, ...]

    def quantiles(self) -> tuple[float, float, float]:
        """Least, median and greatest value."""
        return min(self.values), statistics.median(self.values), max(self.values)


def simulate_fovs(folder: str, pixel_size_um: float) -> str:
    """Simulates a few FOVs of 2048 px (at 0.08 um) and returns the folder of their images."""
    side = str(round(2048 * 0.08 / pixel_size_um))
    flags = {"out_dir": folder, "num_fovs": str(_SIMULATED_FOVS), "height_px": side, "width_px": side}
    arguments = [f"--{name}={value}" for name, value in flags.items()]
    _run([sys.executable, "-m", "beam_jobs.synthesize", f"--pixel_size_um={pixel_size_um}", *arguments])
    return storage.join(folder, "images")


def measure_stages(images: str, *, folder: str, pixel_size_um: float, repeats: int, num_fovs: int) -> list[Figure]:
    """CPU time a FOV of reading, segmenting, cutting with measuring, and storing; one thread."""
    fovs = find_fovs(images, None).fovs
    rounds: dict[str, list[float]] = {
        name: [] for name in ("read", "watershed", "cut and measure", "store", "all four")
    }
    num_cells = 0
    # The first round pays for imports and page faults of fresh memory.
    for number in range(repeats + 1):
        seconds = dict.fromkeys(rounds, 0.0)
        num_cells = 0
        for fov in fovs:
            marks, cells = _segment_and_mark(fov, folder, pixel_size_um)
            for name, start, stop in zip(rounds, marks, marks[1:], strict=False):
                seconds[name] += stop - start
            seconds["all four"] += marks[-1] - marks[0]
            num_cells += len(cells)
        if number:
            for name in rounds:
                rounds[name].append(seconds[name] / len(fovs))
    title = f"FOV of {num_cells / len(fovs):.0f} cells: "
    return [Figure(title + name, "s of CPU", tuple(values)) for name, values in rounds.items()]


def measure_shard(images: str, *, folder: str, pixel_size_um: float, repeats: int, num_fovs: int) -> list[Figure]:
    """Cells a second that one core turns into examples, for each format."""
    cells: list[bytes] = []
    for fov in find_fovs(images, None).fovs:
        cells += [cell.SerializeToString() for cell in _segment_and_mark(fov, folder, pixel_size_um)[1]]
    figures = []
    for image_format in schema.IMAGE_FORMATS:
        config = ExampleConfig(image_format=image_format)
        rates = []
        for _ in range(repeats + 1):
            start = time.process_time()
            for data in cells:
                records.frame_record(examples.make_example(cells_pb2.Cell.FromString(data), (0,), config))
            rates.append(len(cells) / (time.process_time() - start))
        figures.append(Figure(f"shard, {image_format}, four channels, 528 px", "cells/s/core", tuple(rates[1:])))
    return figures


def measure_workers(images: str, *, folder: str, pixel_size_um: float, repeats: int, num_fovs: int) -> list[Figure]:
    """Wall time of the whole segmenting job with 1 and with 2 workers, measured in turn, and their ratio."""
    table = _repeat_fovs(images, storage.join(folder, "workers.csv"), num_fovs)
    seconds: dict[int, list[float]] = {1: [], 2: []}
    for number in range(repeats):
        for workers in seconds:
            cells_dir = storage.join(folder, f"workers-{workers}-{number}")
            start = time.monotonic()
            _segment(table, cells_dir, pixel_size_um, num_workers=workers)
            seconds[workers].append(time.monotonic() - start)
            storage.remove_folder(cells_dir)
    ratios = tuple(one / two for one, two in zip(seconds[1], seconds[2], strict=True))
    return [
        *(Figure(f"segment {num_fovs} FOVs, {workers} worker(s)", "s", tuple(seconds[workers])) for workers in seconds),
        Figure(f"segment {num_fovs} FOVs, 1 worker against 2", "x", ratios),
    ]


def measure_memory(images: str, *, folder: str, pixel_size_um: float, repeats: int, num_fovs: int) -> list[Figure]:
    """Peak memory of the largest process of a segmenting job with 2 workers, over a tenth of the FOVs and over all."""
    peaks = {}
    for count in (max(1, num_fovs // 10), num_fovs):
        table = _repeat_fovs(images, storage.join(folder, f"memory-{count}.csv"), count)
        cells_dir = storage.join(folder, f"memory-{count}")
        peaks[count] = _in_child(
            lambda table=table, cells_dir=cells_dir: _segment(table, cells_dir, pixel_size_um, num_workers=2)
        )
        storage.remove_folder(cells_dir)
    few, many = peaks
    return [
        *(Figure(f"peak memory of a process, {count} FOVs", "MB", (peak,)) for count, peak in peaks.items()),
        Figure(f"peak memory, {many} FOVs against {few}", "x", (peaks[many] / peaks[few],)),
    ]


SUITES: dict[str, Callable[..., list[Figure]]] = {
    "stages": measure_stages,
    "shard": measure_shard,
    "workers": measure_workers,
    "memory": measure_memory,
}


def _segment_and_mark(fov: FovRef, folder: str, pixel_size_um: float) -> tuple[list[float], list[cells_pb2.Cell]]:
    marks = [time.process_time()]
    image = read_fov(fov)
    marks.append(time.process_time())
    segmentation = WatershedSegmenter(pixel_size_um=pixel_size_um).segment(image.pixels, fov_id=fov.fov_id)
    marks.append(time.process_time())
    cells = list(cutting.cut_cells(image, segmentation, fov_id=fov.fov_id, labels=(), pixel_size_um=pixel_size_um))
    marks.append(time.process_time())
    frames = [records.frame_record(cell.SerializeToString(deterministic=True)) for cell in cells]
    storage.write_bytes(storage.join(folder, "stages.tfrecord"), b"".join(frames))
    marks.append(time.process_time())
    return marks, cells


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

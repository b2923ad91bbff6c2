"""FOVs to measure the data half on: those of a folder, or simulated ones, held in memory at every stage."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

import cv2

from beam_jobs import cutting
from beam_jobs.fov_reader import read_fov
from beam_jobs.fov_source import find_fovs
from beam_jobs.segmenters import WatershedSegmenter
from hpa_proto import cells_pb2, schema, storage
from hpa_proto.benchmarking import Suite, Work
from hpa_proto.errors import ConfigError, FovError

_SIMULATED_FOVS = 4
_BYTES_PER_MB = 1e6
# On Linux a process inherits the peak of the one that starts it: one that holds FOVs must not do so itself.
_LAUNCHER = """
import resource, subprocess, sys
status = subprocess.call([sys.executable, "-m", *sys.argv[1:]], stdout=sys.stderr)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(status)
"""


class FovSuite(Suite):
    """A suite that measures on FOVs."""

    unit = "FOV"
    reads_as = "time"

    def __init__(self, images: str, *, pixel_size_um: float):
        """Says what to measure on.

        Args:
          images: folder of FOVs.
          pixel_size_um: side of a pixel in micrometres.
        """
        super().__init__()
        self._images, self._pixel_size_um = images, pixel_size_um

    def _read_and_segment(self) -> None:
        """Holds every FOV at every stage in memory, so that a stage is timed by itself.

        Raises:
          ConfigError: a FOV cannot be used.
        """
        self._fovs = find_fovs(self._images, None).fovs
        self._segmenter = WatershedSegmenter(pixel_size_um=self._pixel_size_um)
        try:
            self._pixels = [read_fov(fov) for fov in self._fovs]
            self._found = [
                self._segmenter.segment(image.pixels, fov_id=fov.fov_id)
                for fov, image in zip(self._fovs, self._pixels, strict=True)
            ]
        except FovError as error:
            raise ConfigError(f"{self._images}: give FOVs that can be used: {error}") from error
        sizes = [
            f"{image.pixels.shape[1]} x {image.pixels.shape[0]} px with {found.num_cells} cells"
            for image, found in zip(self._pixels, self._found, strict=True)
        ]
        self.notes.append(f"a piece of work is {len(sizes)} FOVs: {', '.join(sizes)}")

    def _cut(self, number: int) -> list[cells_pb2.Cell]:
        fov, image, found = self._fovs[number], self._pixels[number], self._found[number]
        return list(cutting.cut_cells(image, found, fov_id=fov.fov_id, labels=(), pixel_size_um=self._pixel_size_um))

    def _each_fov(self, stage: Callable[[int], object]) -> Work:
        """Makes a piece of work that puts every FOV, by its number, through a stage."""

        def work() -> float:
            for number in range(len(self._fovs)):
                stage(number)
            return len(self._fovs)

        return work


def simulate_fovs(folder: str, pixel_size_um: float) -> str:
    """Simulates a few FOVs of 2048 px (at 0.08 um) and returns the folder of their images."""
    side = str(round(2048 * 0.08 / pixel_size_um))
    flags = {"out_dir": folder, "num_fovs": str(_SIMULATED_FOVS), "height_px": side, "width_px": side}
    arguments = [f"--{name}={value}" for name, value in flags.items()]
    run_module("beam_jobs.synthesize", f"--pixel_size_um={pixel_size_um}", *arguments)
    return storage.join(folder, "images")


def shrink_fovs(images: str, folder: str, *, factor: int) -> None:
    """Writes FOVs with sides shorter by a factor as PNGs into a folder."""
    for fov in find_fovs(images, None).fovs:
        pixels = read_fov(fov).pixels
        size = (pixels.shape[1] // factor, pixels.shape[0] // factor)
        small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
        for channel, plane in zip(schema.CHANNELS, cv2.split(small), strict=True):
            path = storage.join(folder, f"{fov.fov_id}_{channel}.png")
            storage.write_bytes(path, cv2.imencode(".png", plane)[1].tobytes())


def repeat_fovs(images: str, path: str, num_fovs: int) -> str:
    """Writes a CSV that lists the FOVs of a folder again and again under new ids; returns its path."""
    fovs = find_fovs(images if storage.is_url(images) else os.path.abspath(images), None).fovs
    lines = ["ID," + ",".join(schema.CHANNELS)]
    for number in range(num_fovs):
        paths = dict(fovs[number % len(fovs)].paths)
        lines.append(f"fov-{number}," + ",".join(paths[channel] for channel in schema.CHANNELS))
    storage.write_text(path, "\n".join(lines) + "\n")
    return path


def run_module(module: str, *arguments: str) -> float:
    """Runs a main of this package in a process of its own and waits for it.

    Returns:
      Peak memory in MB of the largest of this process and of all that it started and waited for.

    Raises:
      RuntimeError: it failed.
    """
    launched = subprocess.run(
        [sys.executable, "-c", _LAUNCHER, module, *arguments], capture_output=True, text=True, check=False
    )
    if launched.returncode:
        raise RuntimeError(f"python -m {module} failed:\n{launched.stderr[-2000:]}")
    # Linux counts in kilobytes, macOS in bytes.
    return int(launched.stdout) * (1 if sys.platform == "darwin" else 1024) / _BYTES_PER_MB

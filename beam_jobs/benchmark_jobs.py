"""Suites of whole jobs in processes of their own: by workers, and by number of FOVs for their memory."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence

from beam_jobs.benchmark_fovs import FovSuite, repeat_fovs, run_module, shrink_fovs
from hpa_proto import benchmarking, storage
from hpa_proto.benchmarking import Figure, Ratio, Work

# Few enough cells a shard that even a short job has more shards than workers.
_CELLS_PER_SHARD = 64
# Small FOVs, but no pixels larger than the watershed takes.
_MAX_SHRINK, _MAX_PIXEL_SIZE_UM = 4, 0.7
# Computes for about a second, in the processor alone.
_HASH = "import hashlib; data = bytes(1 << 20); [hashlib.sha256(data).digest() for _ in range(1000)]"
_HASH_ROUNDS = 3


class JobSuite(FovSuite):
    """Runs `beam_jobs.convert`: FOVs to data set, with all that it does once (start, tables, plan, report)."""

    warm_ups = 0

    def __init__(self, images: str, *, pixel_size_um: float, num_fovs: int):
        """Says what to measure on.

        Args:
          images: folder of FOVs.
          pixel_size_um: side of a pixel in micrometres.
          num_fovs: FOVs of the largest job: those there are, again and again.
        """
        super().__init__(images, pixel_size_um=pixel_size_um)
        self._num_fovs = num_fovs
        self._peaks: dict[str, list[float]] = {}
        self._seconds: dict[str, list[float]] = {}

    def _job(self, name: str, images: str, *, num_fovs: int, num_workers: int, pixel_size_um: float) -> Work:
        """Makes a whole job a piece of work; what it needs of memory and time goes into `_peaks` and `_seconds`."""
        out_dir = storage.join(self._folder, "out")
        table = repeat_fovs(images, storage.join(self._folder, f"{num_fovs}.csv"), num_fovs)
        flags = [f"--images={table}", f"--out_dir={out_dir}", f"--pixel_size_um={pixel_size_um}"]
        flags += [f"--num_workers={num_workers}", f"--cells_per_shard={_CELLS_PER_SHARD}"]
        peaks, seconds = self._peaks.setdefault(name, []), self._seconds.setdefault(name, [])

        def work() -> float:
            start = time.perf_counter()
            peaks.append(run_module("beam_jobs.convert", *flags))
            seconds.append(time.perf_counter() - start)
            storage.remove_folder(out_dir)
            return num_fovs

        return work

    def own_figures(self) -> Sequence[Figure]:
        """Returns the peak of memory of the largest process of each job."""
        return [
            Figure(self.name, f"peak memory of a process, {name}", "MB", tuple(peaks), less_is_better=True)
            for name, peaks in self._peaks.items()
        ]


class WorkersSuite(JobSuite):
    """The whole job by number of workers, over a few FOVs and over many.

    What a FOV more costs is the difference: starting processes, tables and report cost the same however many FOVs there are.
    """

    name = "workers"
    title = "the whole job, FOVs to data set, by workers"

    def prepare(self, folder: str) -> None:
        """Takes the folder."""
        self._folder = folder
        self._sizes = (max(1, self._num_fovs // 6), self._num_fovs)
        self._workers = {
            f"{number} worker{'s' if number > 1 else ''}": number for number in sorted({1, 2, benchmarking.num_cores()})
        }
        few, many = self._sizes
        self.notes.append(
            f"a FOV more: jobs of {many} FOVs less jobs of {few}, without starting the processes, tables and report"
        )

    def variants(self) -> dict[str, Work]:
        """Returns jobs of both sizes with one worker, with two, and with one a core."""
        return {
            job_name: self._job(
                job_name, self._images, num_fovs=count, num_workers=number, pixel_size_um=self._pixel_size_um
            )
            for workers, number in self._workers.items()
            for count in self._sizes
            for job_name in [_job_name(workers, count)]
        }

    def ratios(self) -> Sequence[Ratio]:
        """Returns what the second worker brings to a job of the larger size, all that is done once in it."""
        many = self._sizes[1]
        names = (_job_name(workers, many) for workers in ("2 workers", "1 worker"))
        return (Ratio(f"2 workers against 1, jobs of {many} FOVs", *names),)

    def own_figures(self) -> Sequence[Figure]:
        """Returns what a FOV more costs, and what a second process brings on this machine at best: cores may share much."""
        figures = []
        for workers in self._workers:
            few, many = (self._seconds[_job_name(workers, count)] for count in self._sizes)
            added = self._sizes[1] - self._sizes[0]
            seconds = tuple((b - a) / added for a, b in zip(few, many, strict=True))
            figures.append(Figure(self.name, f"a FOV more, {workers}", "s/FOV", seconds, less_is_better=True))
        one, two = (figure.values for figure in figures[:2])
        ratios = tuple(a / b for a, b in zip(one, two, strict=True))
        limits = tuple(2 * _hash_seconds(1) / _hash_seconds(2) for _ in range(_HASH_ROUNDS))
        return [
            *figures,
            Figure(self.name, "2 workers against 1, a FOV more", "x", ratios, at_least=1.8),
            Figure(self.name, "limit: 2 processes that hash in the processor's cache against 1", "x", limits),
            *super().own_figures(),
        ]


def _job_name(workers: str, num_fovs: int) -> str:
    return f"{workers}, {num_fovs} FOVs"


def _hash_seconds(num_processes: int) -> float:
    start = time.perf_counter()
    processes = [subprocess.Popen([sys.executable, "-c", _HASH]) for _ in range(num_processes)]
    for process in processes:
        process.wait()
    return time.perf_counter() - start


class MemorySuite(JobSuite):
    """Peak memory of the largest process of the job with 2 workers, over a tenth of the FOVs and over all.

    The FOVs are made smaller first: memory that grows with their number shows the more, and the job is short.
    """

    name = "memory"
    title = "peak memory of the whole job with 2 workers, by number of FOVs"

    def prepare(self, folder: str) -> None:
        """Makes the FOVs smaller."""
        self._folder = folder
        self._small = storage.join(folder, "small")
        self._factor = max(1, min(_MAX_SHRINK, int(_MAX_PIXEL_SIZE_UM / self._pixel_size_um)))
        shrink_fovs(self._images, self._small, factor=self._factor)
        self.notes.append(f"FOVs with sides {self._factor} times as short as those given")

    def variants(self) -> dict[str, Work]:
        """Returns the job over few and over many FOVs."""
        return {
            name: self._job(
                name, self._small, num_fovs=count, num_workers=2, pixel_size_um=self._factor * self._pixel_size_um
            )
            for count in (max(1, self._num_fovs // 10), self._num_fovs)
            for name in [f"{count} FOVs"]
        }

    def own_figures(self) -> Sequence[Figure]:
        """Returns the peaks and their ratio."""
        few, many = self._peaks
        ratios = tuple(b / a for a, b in zip(self._peaks[few], self._peaks[many], strict=True))
        name = f"peak memory of a process, {many} against {few}"
        ratio = Figure(self.name, name, "x", ratios, at_most=1.1, less_is_better=True)
        return [*super().own_figures(), ratio]

"""Measures the data half on this machine: CPU time of each stage, workers against one worker, peak memory.

    python -m beam_jobs.benchmark
    python -m beam_jobs.benchmark --images=images --suites=stages,shard

Without --images it simulates FOVs. Figures are medians of --repeats rounds with the spread behind; two variants are
measured in turn in one run, because machines drift. Needs a quiet machine to mean anything.
"""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import tempfile

from absl import flags

from beam_jobs import benchmark_suites, command, worker_setup
from beam_jobs.benchmark_suites import SUITES, Figure
from hpa_proto import storage
from hpa_proto.errors import ConfigError

_IMAGES = flags.DEFINE_string("images", None, "Folder of FOVs to measure on; default: simulated ones.")
_PIXEL_SIZE_UM = flags.DEFINE_float("pixel_size_um", 0.08, "Side of a pixel in micrometres.")
_SUITES = flags.DEFINE_list("suites", list(SUITES), "Which suites.")
_REPEATS = flags.DEFINE_integer("repeats", 3, "Rounds of each measurement.", 1)
_NUM_FOVS = flags.DEFINE_integer("num_fovs", 40, "FOVs of the suites that run whole jobs.", 2)
_OUT = flags.DEFINE_string("out", None, "Writes the figures as JSON.")


@dataclasses.dataclass(frozen=True)
class BenchmarkConfig:
    """What is measured; the fields are the flags."""

    images: str | None = None
    pixel_size_um: float = 0.08
    suites: tuple[str, ...] = tuple(SUITES)
    repeats: int = 3
    num_fovs: int = 40

    def __post_init__(self) -> None:
        for suite in self.suites:
            if suite not in SUITES:
                raise ConfigError(f"--suites: {suite!r} is none of {', '.join(SUITES)}")


def run(config: BenchmarkConfig) -> list[Figure]:
    """Runs the suites and returns their figures."""
    worker_setup.set_up_worker()
    figures = []
    with tempfile.TemporaryDirectory() as folder:
        images = config.images or benchmark_suites.simulate_fovs(storage.join(folder, "fovs"), config.pixel_size_um)
        for suite in config.suites:
            figures += SUITES[suite](
                images,
                folder=folder,
                pixel_size_um=config.pixel_size_um,
                repeats=config.repeats,
                num_fovs=config.num_fovs,
            )
    return figures


def format_table(figures: list[Figure]) -> str:
    """Writes figures as a Markdown table."""
    lines = ["| what | median | spread | unit |", "| --- | --- | --- | --- |"]
    for figure in figures:
        low, middle, high = figure.quantiles()
        lines.append(f"| {figure.name} | {middle:.3g} | {low:.3g} to {high:.3g} | {figure.unit} |")
    return "\n".join(lines)


def main(unknown_flags: list[str]) -> None:
    """Runs what the flags ask for."""
    if unknown_flags:
        raise ConfigError(f"unknown flag {unknown_flags[0]}; see --help")
    figures = run(
        BenchmarkConfig(_IMAGES.value, _PIXEL_SIZE_UM.value, tuple(_SUITES.value), _REPEATS.value, _NUM_FOVS.value)
    )
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    print(format_table(figures))
    if _OUT.value:
        storage.write_text(_OUT.value, json.dumps([dataclasses.asdict(figure) for figure in figures], indent=2) + "\n")


if __name__ == "__main__":
    command.run_main(main)

r"""Measures the data half on this machine: each stage of a FOV, shards, workers against one worker, peak memory.

    python -m beam_jobs.benchmark
    python -m beam_jobs.benchmark --images=images --suites=stages,shard --out=benchmarks/data.json

Without --images it simulates FOVs. Variants are timed in turn; a figure is the median of --repeats rounds, with the
middle half of them behind it. Wall times need a quiet machine; CPU times bear some noise.
"""

from __future__ import annotations

import dataclasses
import sys
import tempfile

from absl import flags

from beam_jobs import benchmark_suites, command, worker_setup
from beam_jobs.benchmark_suites import SUITES
from hpa_proto import benchmark_report, benchmarking, storage
from hpa_proto.benchmark_report import Result
from hpa_proto.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class BenchmarkConfig:
    """What is measured; the fields are the flags."""

    images: str | None = None
    pixel_size_um: float = 0.08
    suites: tuple[str, ...] = tuple(SUITES)
    repeats: int = 3
    round_seconds: float = 1.0
    num_fovs: int = 40

    def __post_init__(self) -> None:
        for suite in self.suites:
            if suite not in SUITES:
                raise ConfigError(f"--suites: {suite!r} is none of {', '.join(SUITES)}")


def run(config: BenchmarkConfig) -> Result:
    """Runs the suites."""
    worker_setup.set_up_worker()
    about = benchmark_report.describe_run("python -m beam_jobs.benchmark", dataclasses.asdict(config))
    with tempfile.TemporaryDirectory() as folder:
        images = config.images or benchmark_suites.simulate_fovs(storage.join(folder, "fovs"), config.pixel_size_um)
        suites = [
            SUITES[name](images, pixel_size_um=config.pixel_size_um, num_fovs=config.num_fovs) for name in config.suites
        ]
        figures, notes = benchmarking.run_suites(suites, repeats=config.repeats, round_sec=config.round_seconds)
    return Result(
        about, figures, (f"measured on {'the FOVs of --images' if config.images else 'simulated FOVs'}", *notes)
    )


def define_flags() -> None:
    """Defines the flags; those of the measurement go into one BenchmarkConfig."""
    default = BenchmarkConfig()
    flags.DEFINE_string("images", None, "Folder of FOVs to measure on; default: simulated ones.")
    flags.DEFINE_float("pixel_size_um", default.pixel_size_um, "Side of a pixel in micrometres.")
    flags.DEFINE_list("suites", list(SUITES), "Which suites.")
    flags.DEFINE_integer("repeats", default.repeats, "Rounds of each measurement.", 1)
    flags.DEFINE_float("round_seconds", default.round_seconds, "Least time of one timing.", 0.0)
    flags.DEFINE_integer("num_fovs", default.num_fovs, "FOVs of the suites that run whole jobs.", 2)
    flags.DEFINE_boolean("quick", False, "A short round: stages and shard only.")
    flags.DEFINE_string("out", None, "JSON to write; the table goes beside it as .md.")
    flags.DEFINE_string("baseline", None, "JSON of an earlier --out to compare with.")


def main(unknown_flags: list[str]) -> None:
    """Runs what the flags ask for."""
    if unknown_flags:
        raise ConfigError(f"unknown flag {unknown_flags[0]}; see --help")
    values = flags.FLAGS
    config = BenchmarkConfig(
        images=values.images,
        pixel_size_um=values.pixel_size_um,
        suites=("stages", "shard") if values.quick else tuple(values.suites),
        repeats=values.repeats,
        round_seconds=values.round_seconds,
        num_fovs=values.num_fovs,
    )
    sys.stdout.write(benchmark_report.publish(lambda: run(config), out=values.out, baseline=values.baseline))


if __name__ == "__main__":
    define_flags()
    command.run_main(main)

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

_IMAGES = flags.DEFINE_string("images", None, "Folder of FOVs to measure on; default: simulated ones.")
_PIXEL_SIZE_UM = flags.DEFINE_float("pixel_size_um", 0.08, "Side of a pixel in micrometres.")
_SUITES = flags.DEFINE_list("suites", list(SUITES), "Which suites.")
_REPEATS = flags.DEFINE_integer("repeats", 3, "Rounds of each measurement.", 1)
_ROUND_SECONDS = flags.DEFINE_float("round_seconds", 1.0, "Least time of one timing.", 0.0)
_NUM_FOVS = flags.DEFINE_integer("num_fovs", 40, "FOVs of the suites that run whole jobs.", 2)
_QUICK = flags.DEFINE_boolean("quick", False, "A short round: stages and shard only.")
_OUT = flags.DEFINE_string("out", None, "JSON to write; the table goes beside it as .md.")
_BASELINE = flags.DEFINE_string("baseline", None, "JSON of an earlier --out to compare with.")


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


def main(unknown_flags: list[str]) -> None:
    """Runs what the flags ask for."""
    if unknown_flags:
        raise ConfigError(f"unknown flag {unknown_flags[0]}; see --help")
    config = BenchmarkConfig(
        images=_IMAGES.value,
        pixel_size_um=_PIXEL_SIZE_UM.value,
        suites=("stages", "shard") if _QUICK.value else tuple(_SUITES.value),
        repeats=_REPEATS.value,
        round_seconds=_ROUND_SECONDS.value,
        num_fovs=_NUM_FOVS.value,
    )
    sys.stdout.write(benchmark_report.publish(lambda: run(config), out=_OUT.value, baseline=_BASELINE.value))


if __name__ == "__main__":
    command.run_main(main)

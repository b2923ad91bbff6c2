r"""Measures the data half on this machine: stages of a FOV against decoding, the old way, workers, memory, the plan.

    python -m beam_jobs.benchmark
    python -m beam_jobs.benchmark --images=images --fov_table=train_cells.csv --out=benchmarks/data.json
    python -m beam_jobs.benchmark --images=images --suites=stages,shard --baseline=benchmarks/data.json

Without --images it simulates FOVs. Variants are timed in turn; a figure is the median of --repeats rounds, with the
middle half of them behind it. Wall times need a quiet machine; CPU times bear some noise. A full round on two cores takes
about twenty minutes.
"""

from __future__ import annotations

import dataclasses
import sys
import tempfile
from collections.abc import Callable

from absl import flags

from beam_jobs import benchmark_fovs, command, worker_setup
from beam_jobs.benchmark_jobs import MemorySuite, WorkersSuite
from beam_jobs.benchmark_old_way import OldWaySuite
from beam_jobs.benchmark_plan import PlanSuite
from beam_jobs.benchmark_segment_suite import SegmentSuite
from beam_jobs.benchmark_stages import ShardSuite, StagesSuite
from beam_jobs.segmenters import WatershedSegmenter
from hpa_proto import benchmark_report, benchmarking, storage
from hpa_proto.benchmark_report import Result
from hpa_proto.benchmarking import Suite
from hpa_proto.errors import ConfigError

SUITES = ("stages", "segment", "old_way", "shard", "workers", "memory", "plan")
_QUICK_SUITES = ("stages", "old_way", "shard")


@dataclasses.dataclass(frozen=True)
class BenchmarkConfig:
    """What is measured; the fields are the flags.

    Attributes:
      images: folder of FOVs; None: simulated ones.
      pixel_size_um: side of their pixels.
      suites: of SUITES.
      repeats: rounds.
      round_seconds: least time of one timing.
      num_fovs: FOVs of the larger jobs of the suite `workers`.
      memory_fovs: FOVs of the larger job of the suite `memory`.
      fov_table: CSV with ID, Label, num_cells for the suite `plan`; None: made up, of the competition's size.
      nuclei_weights: of hpacellseg, for the suite `segment`; None: made up.
      cell_weights: likewise.
    """

    images: str | None = None
    pixel_size_um: float = 0.08
    suites: tuple[str, ...] = SUITES
    repeats: int = 3
    round_seconds: float = 1.0
    num_fovs: int = 60
    memory_fovs: int = 200
    fov_table: str | None = None
    nuclei_weights: str | None = None
    cell_weights: str | None = None

    def __post_init__(self) -> None:
        unknown = [suite for suite in self.suites if suite not in SUITES]
        if unknown or not self.suites:
            raise ConfigError(f"--suites={','.join(self.suites)}: choose of {', '.join(SUITES)}")
        # Refuses a size that cannot be.
        WatershedSegmenter(pixel_size_um=self.pixel_size_um)


def run(config: BenchmarkConfig) -> Result:
    """Runs the suites.

    Raises:
      ConfigError: an input that cannot work.
    """
    worker_setup.set_up_worker()
    about = benchmark_report.describe_run("python -m beam_jobs.benchmark", dataclasses.asdict(config))
    with tempfile.TemporaryDirectory() as folder:
        images = ""
        # The plan alone needs no pixels.
        if set(config.suites) != {"plan"}:
            images = config.images or benchmark_fovs.simulate_fovs(storage.join(folder, "fovs"), config.pixel_size_um)
        makers = _suites(config, images)
        suites = (makers[name]() for name in config.suites)
        figures, notes = benchmarking.run_suites(suites, repeats=config.repeats, round_sec=config.round_seconds)
    if images:
        notes = (f"FOVs: {'those of --images' if config.images else 'simulated'}", *notes)
    return Result(about, figures, notes)


def _suites(config: BenchmarkConfig, images: str) -> dict[str, Callable[[], Suite]]:
    of_fovs = {"images": images, "pixel_size_um": config.pixel_size_um}
    weights = {"nuclei_weights": config.nuclei_weights, "cell_weights": config.cell_weights}
    return {
        "stages": lambda: StagesSuite(**of_fovs),
        "segment": lambda: SegmentSuite(**of_fovs, **weights),
        "old_way": lambda: OldWaySuite(**of_fovs),
        "shard": lambda: ShardSuite(**of_fovs),
        "workers": lambda: WorkersSuite(**of_fovs, num_fovs=config.num_fovs),
        "memory": lambda: MemorySuite(**of_fovs, num_fovs=config.memory_fovs),
        "plan": lambda: PlanSuite(config.fov_table),
    }


def define_flags() -> None:
    """Defines the flags; those of the measurement go into one BenchmarkConfig."""
    default = BenchmarkConfig()
    flags.DEFINE_string("images", None, "Folder of FOVs to measure on; default: simulated ones.")
    flags.DEFINE_float("pixel_size_um", default.pixel_size_um, "Side of a pixel in micrometres.")
    flags.DEFINE_list("suites", list(SUITES), "Suites to run, comma-separated.")
    flags.DEFINE_integer("repeats", default.repeats, "Rounds of each measurement.", 1)
    flags.DEFINE_float("round_seconds", default.round_seconds, "Least time of one timing.", 0.0)
    flags.DEFINE_integer("num_fovs", default.num_fovs, "FOVs of the larger jobs of the suite workers.", 2)
    flags.DEFINE_integer("memory_fovs", default.memory_fovs, "FOVs of the larger job of the suite memory.", 2)
    flags.DEFINE_string("fov_table", None, "CSV with ID, Label, num_cells for the suite plan; default: made up.")
    flags.DEFINE_string("nuclei_weights", None, "Weights of hpacellseg, for the suite segment; default: made up.")
    flags.DEFINE_string("cell_weights", None, "Weights of its cell network; likewise.")
    flags.DEFINE_boolean("quick", False, f"A short round: {', '.join(_QUICK_SUITES)} only.")
    flags.DEFINE_string("out", None, "JSON to write; the table goes beside it as .md.")
    flags.DEFINE_string("baseline", None, "JSON of an earlier --out to compare with.")


def main(unknown_flags: list[str]) -> None:
    """Runs what the flags ask for."""
    if unknown_flags:
        raise ConfigError(f"unknown flag {unknown_flags[0]}; see --help")
    values = flags.FLAGS
    names = [field.name for field in dataclasses.fields(BenchmarkConfig)]
    chosen = {name: getattr(values, name) for name in names} | {"suites": tuple(values.suites)}
    if values.quick and not values["suites"].present:
        chosen["suites"] = _QUICK_SUITES
    config = BenchmarkConfig(**chosen)
    sys.stdout.write(benchmark_report.publish(lambda: run(config), out=values.out, baseline=values.baseline))


if __name__ == "__main__":
    define_flags()
    command.run_main(main)

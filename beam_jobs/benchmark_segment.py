r"""Measures how good and how fast the segmenters are: the figures that a user needs to trust them.

    python -m beam_jobs.benchmark_segment
    python -m beam_jobs.benchmark_segment --images=fovs --masks=masks --predictions=vectors --out=benchmarks/segment.json

Always: the watershed on simulated FOVs, from sparse to crowded. With --images and --masks: on these FOVs too, as they are and
made smaller, dim in a channel, or brighter in the other stain. With --predictions: `label_cell` on outputs of the networks,
against the labels that the HPA-Cell-Segmentation tool made of them. With torch: the speed of its network. Times are CPU
times of one thread, but for the network's.
"""

from __future__ import annotations

import dataclasses
import sys

from absl import flags

from beam_jobs import benchmark_segmenters, command, worker_setup
from beam_jobs.benchmark_networks import NetworkSuite
from hpa_proto import benchmark_report, benchmarking, storage
from hpa_proto.benchmark_report import Result
from hpa_proto.errors import ConfigError

_MIN_REAL_F1, _MIN_SIMULATED_F1 = 0.92, 0.95


@dataclasses.dataclass(frozen=True)
class BenchmarkConfig:
    """What is measured.

    Attributes:
      images: FOVs to measure on; None: simulated ones only.
      masks: their cells: a folder of masks, or a cell store.
      predictions: folder of `<id>_{nuclei,cell}_prediction.png` and the tool's `<id>_{nuclei,cell}_label.png`.
      pixel_size_um: side of a pixel of `images`.
      repeats: timed rounds.
      num_fovs: simulated FOVs of each of five crowdings.
      networks: measure the network of hpacellseg.
      device: of the network: "cpu", "cuda" or "cuda:<n>".
    """

    images: str | None = None
    masks: str | None = None
    predictions: str | None = None
    pixel_size_um: float = 0.08
    repeats: int = 3
    num_fovs: int = 6
    networks: bool = True
    device: str = "cpu"

    def __post_init__(self) -> None:
        if bool(self.images) != bool(self.masks):
            raise ConfigError(
                "--images and --masks belong together: give both, or neither to measure on simulated FOVs"
            )


def run(config: BenchmarkConfig) -> Result:
    """Measures.

    Raises:
      ConfigError: no FOV with a mask, or no predictions.
    """
    worker_setup.set_up_worker()
    about = benchmark_report.describe_run("python -m beam_jobs.benchmark_segment", dataclasses.asdict(config))
    figures, notes = [], ["F1 is that of cells at IoU 0.6, unless its name says otherwise"]
    # What can be wrong about the input comes first.
    if config.images and config.masks:
        fovs = benchmark_segmenters.read_fovs(config.images, config.masks, pixel_size_um=config.pixel_size_um)
        figures += benchmark_segmenters.measure_watershed(
            fovs, suite="watershed", min_f1=_MIN_REAL_F1, repeats=config.repeats
        )
        figures += benchmark_segmenters.measure_robustness(fovs, suite="watershed", min_f1=_MIN_REAL_F1)
    else:
        notes.append("no --images and --masks: measured on simulated FOVs only")
    if config.predictions:
        figures += benchmark_segmenters.measure_labelling(config.predictions, repeats=config.repeats)
    else:
        notes.append("no --predictions: label_cell was not measured")
    simulated = benchmark_segmenters.simulate_fovs(num_fovs_each=config.num_fovs)
    figures += benchmark_segmenters.measure_watershed(
        simulated, suite="watershed, simulated", min_f1=_MIN_SIMULATED_F1, repeats=config.repeats
    )
    figures += benchmark_segmenters.measure_robustness(
        simulated, suite="watershed, simulated", min_f1=_MIN_SIMULATED_F1
    )
    if config.networks:
        suites = [NetworkSuite(config.device)]
        network_figures, network_notes = benchmarking.run_suites(suites, repeats=config.repeats, round_sec=0.1)
        figures += network_figures
        notes += network_notes
    return Result(about, tuple(figures), tuple(notes))


def define_flags() -> None:
    """Defines the flags; their values go into one BenchmarkConfig."""
    default = BenchmarkConfig()
    flags.DEFINE_string("images", None, "FOVs to measure on, with --masks.")
    flags.DEFINE_string("masks", None, "Their cells: folder of masks, or cell store.")
    flags.DEFINE_string("predictions", None, "Folder of the networks' outputs and of the tool's labels of them.")
    flags.DEFINE_string("shared_dir", None, "Folder with hpa/fovs, hpa/masks and vectors/hpacellseg: sets all three.")
    flags.DEFINE_float("pixel_size_um", default.pixel_size_um, "Side of a pixel of --images in micrometres.")
    flags.DEFINE_integer("repeats", default.repeats, "Timed rounds.", 1)
    flags.DEFINE_integer("num_fovs", default.num_fovs, "Simulated FOVs of each of five crowdings.", 1)
    flags.DEFINE_boolean(
        "networks", default.networks, "Measure the network of hpacellseg too: about a minute on a CPU."
    )
    flags.DEFINE_string("device", default.device, "Device for the network: cpu, cuda or cuda:<n>.")
    flags.DEFINE_string("out", None, "JSON to write; the table goes beside it as .md.")
    flags.DEFINE_string("baseline", None, "JSON of an earlier --out to compare with.")


def main(unknown_flags: list[str]) -> None:
    """Runs what the flags ask for.

    Raises:
      ConfigError: as `run`, or an unknown flag.
    """
    if unknown_flags:
        raise ConfigError(f"unknown flag {unknown_flags[0]}; see --help")
    values = flags.FLAGS
    shared = {"images": "hpa/fovs", "masks": "hpa/masks", "predictions": "vectors/hpacellseg"}
    folders = {
        name: getattr(values, name) or (storage.join(values.shared_dir, place) if values.shared_dir else None)
        for name, place in shared.items()
    }
    config = BenchmarkConfig(
        **folders,
        pixel_size_um=values.pixel_size_um,
        repeats=values.repeats,
        num_fovs=values.num_fovs,
        networks=values.networks,
        device=values.device,
    )
    sys.stdout.write(benchmark_report.publish(lambda: run(config), out=values.out, baseline=values.baseline))


if __name__ == "__main__":
    define_flags()
    command.run_main(main)

r"""Measures the training half on this machine: input, decoders, augmentation, the step; against peers and against limits.

    python -m trainer.benchmark --data_dir=out/dataset --out=benchmarks/training.json
    python -m trainer.benchmark --quick
    python -m trainer.benchmark --would_it_wait --device_images_per_second=63

Without --data_dir it measures on simulated cells whose JPEGs have the size of real ones. Variants are timed in turn; a
figure is the median of --repeats rounds, with the middle half of them behind it. Wall times need a quiet machine; CPU
times bear some noise. The suite `peers` takes `pip install torch grain webdataset` and skips what is not there;
`object_store` takes `pip install moto[server] s3fs`, or --s3_url.

All flags: python -m trainer.benchmark --help
"""

from __future__ import annotations

import dataclasses
import math
import sys
import tempfile
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from absl import flags

from hpa_proto import benchmark_report, benchmarking
from hpa_proto.benchmark_report import Result
from hpa_proto.benchmarking import Suite
from hpa_proto.errors import ConfigError
from trainer import command

if TYPE_CHECKING:
    from trainer.benchmark_data import Pictures

# Of a batch of the suite `settings`.
_MIN_EXAMPLES = 128
SUITES = ("records", "decode", "pipeline", "settings", "peers", "object_store", "augment", "step")


@dataclasses.dataclass(frozen=True)
class BenchmarkConfig:
    """What is measured.

    Attributes:
      data_dir: a data set of 528 px four-channel cells; None: simulated cells.
      suites: of SUITES.
      repeats: rounds.
      round_seconds: least time of one timing.
      num_pictures: different cells.
      num_examples: of data sets written from them.
      model: backbone of the suite `step`.
      step_size_px: its pictures' side.
      step_batch_size: pictures of its step.
      s3_url: folder in an object store for the suite `object_store`; None: moto's server on this machine.
      would_it_wait: compare the pipeline with a device's speed instead.
      device_images_per_second: that speed, training, four channels at 528 px.
      out: JSON to write, with the table beside it as .md.
      baseline: JSON of an earlier result to compare with.
    """

    data_dir: str | None = None
    suites: tuple[str, ...] = SUITES
    repeats: int = 9
    round_seconds: float = 3.0
    num_pictures: int = 96
    num_examples: int = 1200
    model: str = "efficientnetb0"
    step_size_px: int = 224
    step_batch_size: int = 16
    s3_url: str | None = None
    would_it_wait: bool = False
    device_images_per_second: float = 63.0
    out: str | None = None
    baseline: str | None = None

    def __post_init__(self) -> None:
        unknown = [suite for suite in self.suites if suite not in SUITES]
        if unknown or not self.suites:
            raise ConfigError(f"--suites={','.join(self.suites)}: choose of {', '.join(SUITES)}")
        above_zero = ("repeats", "round_seconds", "num_pictures", "step_size_px", "step_batch_size")
        for name in (*above_zero, "device_images_per_second"):
            # NaN is not below either.
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigError(f"--{name}={getattr(self, name)}: give more than 0")
        if self.num_examples < _MIN_EXAMPLES:
            raise ConfigError(f"--num_examples={self.num_examples}: give at least {_MIN_EXAMPLES}, the largest batch")
        if self.would_it_wait and (self.out or self.baseline):
            raise ConfigError("--would_it_wait prints its answer: leave --out and --baseline out")


# Of this command alone: the flags of two commands may have the same names, and absl's own registry is one for all.
_FLAGS = flags.FlagValues()
_DEFAULT = BenchmarkConfig()
_QUICK_SUITES = ("records", "decode", "pipeline", "augment", "step")
_QUICK = {
    "suites": _QUICK_SUITES,
    "repeats": 3,
    "round_seconds": 0.5,
    "num_pictures": 24,
    "num_examples": 240,
    "step_batch_size": 4,
}
flags.DEFINE_boolean("help", False, "Show this help.", flag_values=_FLAGS)
flags.DEFINE_string("data_dir", None, "Data set of 528 px four-channel cells; default: simulated.", flag_values=_FLAGS)
flags.DEFINE_list("suites", list(SUITES), "Suites to run, comma-separated.", flag_values=_FLAGS)
flags.DEFINE_integer(
    "repeats",
    _DEFAULT.repeats,
    "How often everything is timed; the median counts. peers and step, whose variants are close: 7 and 15 times at least.",
    flag_values=_FLAGS,
)
flags.DEFINE_float(
    "round_seconds", _DEFAULT.round_seconds, "Seconds that one timing takes at least.", flag_values=_FLAGS
)
flags.DEFINE_integer("num_pictures", _DEFAULT.num_pictures, "Different cells to measure on.", flag_values=_FLAGS)
flags.DEFINE_integer(
    "num_examples", _DEFAULT.num_examples, "Examples of data sets written from them.", flag_values=_FLAGS
)
flags.DEFINE_string("model", _DEFAULT.model, "Backbone of the suite step.", flag_values=_FLAGS)
flags.DEFINE_integer("step_size_px", _DEFAULT.step_size_px, "Side of the suite step's pictures.", flag_values=_FLAGS)
flags.DEFINE_integer("step_batch_size", _DEFAULT.step_batch_size, "Pictures of its step.", flag_values=_FLAGS)
flags.DEFINE_boolean(
    "quick",
    False,
    f"A short round of {', '.join(_QUICK_SUITES)} on few pictures; other flags count before it.",
    flag_values=_FLAGS,
)
flags.DEFINE_string(
    "s3_url",
    None,
    "Folder in an object store for the suite object_store; default: moto's server here.",
    flag_values=_FLAGS,
)
flags.DEFINE_boolean("would_it_wait", False, "Would a device of a given speed wait for input here?", flag_values=_FLAGS)
flags.DEFINE_float(
    "device_images_per_second", _DEFAULT.device_images_per_second, "Speed for --would_it_wait.", flag_values=_FLAGS
)
flags.DEFINE_string("out", None, "JSON to write; the table goes beside it as .md.", flag_values=_FLAGS)
flags.DEFINE_string("baseline", None, "JSON of an earlier --out to compare with.", flag_values=_FLAGS)


def run(config: BenchmarkConfig) -> Result:
    """Runs the suites.

    Raises:
      ConfigError: the flags do not fit the data.
      DatasetError: the data set is not what its manifest says.
    """
    # grain reads flags of its own in absl's registry.
    flags.FLAGS.mark_as_parsed()
    about = benchmark_report.describe_run("python -m trainer.benchmark", dataclasses.asdict(config))
    with tempfile.TemporaryDirectory() as folder:
        pictures = _pictures(config, folder)
        makers = _suites(config, pictures)
        figures, notes = benchmarking.run_suites(
            (makers[name]() for name in config.suites), repeats=config.repeats, round_sec=config.round_seconds
        )
    return Result(about, figures, (f"measured on {pictures.description}", *notes))


def would_it_wait(config: BenchmarkConfig) -> str:
    """Returns, as Markdown, how many cores the input of a device of `config.device_images_per_second` needs here."""
    from trainer import benchmark_wait

    with tempfile.TemporaryDirectory() as folder:
        return benchmark_wait.measure_wait(
            _pictures(config, folder),
            images_per_second=config.device_images_per_second,
            repeats=config.repeats,
            round_sec=config.round_seconds,
        )


def _pictures(config: BenchmarkConfig, folder: str) -> Pictures:
    # TensorFlow takes seconds to import; --help should not.
    from trainer import benchmark_data

    return benchmark_data.Pictures(
        config.data_dir, folder, num_pictures=config.num_pictures, num_examples=config.num_examples
    )


def _suites(config: BenchmarkConfig, pictures: Pictures) -> dict[str, Callable[[], Suite]]:
    from trainer import benchmark_device, benchmark_input, benchmark_peers, benchmark_pipeline, benchmark_store

    suites: dict[str, Callable[[], Suite]] = {
        suite.name: lambda suite=suite: suite(pictures)
        for suite in (
            benchmark_input.RecordsSuite,
            benchmark_input.DecodeSuite,
            benchmark_pipeline.PipelineSuite,
            benchmark_pipeline.SettingsSuite,
            benchmark_peers.PeersSuite,
            benchmark_device.AugmentSuite,
        )
    }
    suites["object_store"] = lambda: benchmark_store.ObjectStoreSuite(pictures, s3_url=config.s3_url)
    suites["step"] = lambda: benchmark_device.StepSuite(
        pictures, model=config.model, size_px=config.step_size_px, batch_size=config.step_batch_size
    )
    return suites


def make_config(argv: Sequence[str]) -> BenchmarkConfig | None:
    """Makes the config that a command line asks for; None where it asks for help.

    Raises:
      ConfigError: a flag that is not known, without a value, of another type or of a value that cannot be.
    """
    config = command.read_config(
        _FLAGS, argv, BenchmarkConfig, module="trainer.benchmark", suites=lambda values: tuple(values.suites)
    )
    if config is None or not _FLAGS.quick:
        return config
    quick = {name: value for name, value in _QUICK.items() if not _FLAGS[name].present}
    return dataclasses.replace(config, **quick)


def _work(config: BenchmarkConfig) -> str:
    if config.would_it_wait:
        return would_it_wait(config)
    return benchmark_report.publish(lambda: run(config), out=config.out, baseline=config.baseline)


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns the exit status: 1 after an error, which stands in one line on stderr."""
    return command.run_main(argv, make_config, _work, values=_FLAGS, doc=__doc__)


if __name__ == "__main__":
    sys.exit(main(sys.argv))

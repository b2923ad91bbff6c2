r"""Compares runs: one table of what they are, how long they took and how good they are, and whether differences are real.

    python -m trainer.compare runs/first runs/second --out_dir=comparison

Prints Markdown; with --out_dir also writes comparison.md, comparison.csv and comparison.html, with the curves of the runs.
Figures on the split are of RUN/predictions-<split>.parquet, which `python -m trainer.predict` and `python -m
trainer.evaluate` write; every run is compared with the first one, on the same cells.

All flags: python -m trainer.compare --help
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from absl import flags

from hpa_proto import storage
from hpa_proto.errors import ConfigError
from trainer import command

if TYPE_CHECKING:
    from trainer.comparison import Comparison

MARKDOWN_NAME = "comparison.md"
TABLE_NAME = "comparison.csv"
PAGE_NAME = "comparison.html"


@dataclasses.dataclass(frozen=True)
class CompareConfig:
    """One comparison.

    Attributes:
      run_dirs: folders or fsspec URLs of the runs; each is compared with the first.
      split: that predictions are compared on.
      out_dir: folder to write; empty: none.
      num_resamples: of the bootstrap over FOVs.
      seed: of the bootstrap.
    """

    run_dirs: tuple[str, ...]
    split: str = "test"
    out_dir: str = ""
    num_resamples: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.run_dirs:
            raise ConfigError("name the runs, as in `python -m trainer.compare runs/first runs/second`")
        if self.num_resamples < 1:
            raise ConfigError(f"--num_resamples={self.num_resamples}: give at least 1")


# Of this command alone: the flags of two commands may have the same names, and absl's own registry is one for all.
_FLAGS = flags.FlagValues()
_DEFAULT = CompareConfig(run_dirs=("-",))
flags.DEFINE_boolean("help", False, "Show this help.", flag_values=_FLAGS)
flags.DEFINE_string(
    "split", _DEFAULT.split, "Split to compare on: each run needs a predictions-<split>.parquet.", flag_values=_FLAGS
)
flags.DEFINE_string("out_dir", "", "Folder to write; default: print only.", flag_values=_FLAGS)
flags.DEFINE_integer(
    "num_resamples",
    _DEFAULT.num_resamples,
    "Random draws of FOVs (bootstrap) for the confidence intervals; more take longer.",
    flag_values=_FLAGS,
)
flags.DEFINE_integer("seed", _DEFAULT.seed, "Seed of the bootstrap's random draws.", flag_values=_FLAGS)


def run(config: CompareConfig) -> Comparison:
    """Compares, and writes the folder if one is named.

    Raises:
      ConfigError: a folder that is no run.
      DatasetError: a predictions file that cannot be used.
    """
    # Late: a wrong flag should not cost seconds of imports.
    from trainer import comparison, comparison_report

    found = comparison.compare_runs(
        config.run_dirs, split=config.split, num_resamples=config.num_resamples, seed=config.seed
    )
    if config.out_dir:
        for name, text in {
            MARKDOWN_NAME: comparison_report.render_markdown(found),
            TABLE_NAME: comparison.make_table(found).to_csv(index=False),
            PAGE_NAME: comparison_report.render_page(found),
        }.items():
            storage.write_text(storage.join(config.out_dir, name), text)
    return found


def make_config(argv: Sequence[str]) -> CompareConfig | None:
    """Makes the config that a command line asks for; None where it asks for help.

    Raises:
      ConfigError: no run, or a flag that is not known, without a value or of another type.
    """
    run_dirs = tuple(command.parse_flags(_FLAGS, argv, module="trainer.compare", takes_names=True))
    if _FLAGS.help:
        return None
    names = {field.name for field in dataclasses.fields(CompareConfig)} - {"run_dirs"}
    return CompareConfig(run_dirs, **{name: _FLAGS[name].value for name in names})


def _work(config: CompareConfig) -> str:
    from trainer import comparison_report

    text = comparison_report.render_markdown(run(config)).rstrip("\n")
    return f"{text}\n\nsee {config.out_dir}/{PAGE_NAME}" if config.out_dir else text


def main(argv: Sequence[str]) -> int:
    """Runs the command and returns its exit status."""
    return command.run_main(argv, make_config, _work, values=_FLAGS, doc=__doc__)


if __name__ == "__main__":
    sys.exit(main(sys.argv))

r"""Draws where cells lie by what a model sees in them: a picture by class, or an .h5ad file for scanpy.

    python -m trainer.predict --run_dir=runs/first --data_dir=dataset --split=test --embeddings
    python -m trainer.embed --predictions=runs/first/predictions-test.parquet --method=umap --out=map.png
    python -m trainer.embed --predictions=runs/first/predictions-test.parquet --format=anndata --out=cells.h5ad

UMAP needs `pip install 'hpa-single-cell[embeddings]'`, --format=anndata `pip install 'hpa-single-cell[anndata]'`.

All flags: python -m trainer.embed --help
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence

from absl import flags

from hpa_proto import storage
from hpa_proto.errors import ConfigError
from trainer import command

METHODS: tuple[str, ...] = ("pca", "umap")
# Format -> how its file's name ends.
ENDINGS: dict[str, str] = {"picture": ".png", "anndata": ".h5ad"}


@dataclasses.dataclass(frozen=True)
class EmbedConfig:
    """One picture or file.

    Attributes:
      predictions: predictions.parquet with embeddings.
      out: file to write, local or an fsspec URL; empty: beside the predictions.
      method: "pca" or "umap"; an .h5ad file has PCA in any case.
      format: "picture" or "anndata".
      seed: of UMAP.
    """

    predictions: str
    out: str = ""
    method: str = "pca"
    format: str = "picture"
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.predictions:
            raise ConfigError("--predictions is missing: a file of `python -m trainer.predict --embeddings`")
        for name, choices in {"method": METHODS, "format": tuple(ENDINGS)}.items():
            if getattr(self, name) not in choices:
                raise ConfigError(f"--{name}={getattr(self, name)}: choose one of {', '.join(choices)}")
        if self.out and not self.out.endswith(ENDINGS[self.format]):
            raise ConfigError(
                f"--out={self.out}: --format={self.format} writes a file that ends in {ENDINGS[self.format]}"
            )
        if not 0 <= self.seed < 2**32:
            raise ConfigError(f"--seed={self.seed}: give a number from 0 to {2**32 - 1}")

    @property
    def path(self) -> str:
        """Of the file to write."""
        return self.out or f"{self.predictions.removesuffix('.parquet')}-{self.method}{ENDINGS[self.format]}"


# Of this command alone: the flags of two commands may have the same names, and absl's own registry is one for all.
_FLAGS = flags.FlagValues()
_DEFAULT = EmbedConfig(predictions="file")
flags.DEFINE_boolean("help", False, "Show this help.", flag_values=_FLAGS)
flags.DEFINE_string(
    "predictions", "", "predictions.parquet, written by `python -m trainer.predict --embeddings`.", flag_values=_FLAGS
)
flags.DEFINE_string("out", "", "File to write; default: beside the predictions.", flag_values=_FLAGS)
flags.DEFINE_string(
    "method", _DEFAULT.method, "How features become a map of two dimensions: pca or umap.", flag_values=_FLAGS
)
flags.DEFINE_string("format", _DEFAULT.format, "picture (.png) or anndata (.h5ad).", flag_values=_FLAGS)
flags.DEFINE_integer("seed", _DEFAULT.seed, "Seed of UMAP's random start, with --method=umap.", flag_values=_FLAGS)


def run(config: EmbedConfig) -> int:
    """Writes the file; returns the number of cells.

    Raises:
      ConfigError: a package is missing.
      DatasetError: no predictions, or without embeddings.
    """
    # Late: a wrong flag should not cost seconds of imports.
    from trainer import embedding_map
    from trainer.predictions import read_predictions

    predictions = read_predictions(config.predictions)
    layout = embedding_map.compute_map(predictions, method=config.method, seed=config.seed)
    if config.format == "picture":
        storage.write_bytes(config.path, embedding_map.draw_map(layout, predictions))
    else:
        embedding_map.write_anndata(config.path, layout, predictions)
    return predictions.num_cells


def make_config(argv: Sequence[str]) -> EmbedConfig | None:
    """Makes the config that a command line asks for; None where it asks for help.

    Raises:
      ConfigError: a flag that is not known, missing, without a value or of another type.
    """
    return command.read_config(_FLAGS, argv, EmbedConfig, module="trainer.embed")


def _work(config: EmbedConfig) -> str:
    return f"{config.path}: {run(config)} cells"


def main(argv: Sequence[str]) -> int:
    """Runs the command and returns its exit status."""
    return command.run_main(argv, make_config, _work, values=_FLAGS, doc=__doc__)


if __name__ == "__main__":
    sys.exit(main(sys.argv))

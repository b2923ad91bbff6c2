r"""Finds cells and FOVs whose given label is doubtful, from the runs of a cross-validation.

    python -m beam_jobs.shard --cells_dir=cells --data_dir=folds --num_folds=4
    python -m trainer.train --data_dir=folds --name=cv0 --fold=0 --num_folds=4      (and so for the folds 1 to 3)
    python -m trainer.find_label_errors --runs=runs/cv0,runs/cv1,runs/cv2,runs/cv3 --data_dir=folds --out_dir=label-errors

Each cell is judged by the run that has not seen its FOV; predictions that are missing are made, and kept in the runs' folders.
OUT_DIR then has

    label_errors.parquet              a row a cell, the most doubtful first: `trainer/label_errors.py` describes all three
    label_errors_by_fov.parquet       a row a FOV
    label_errors_by_class.parquet     a row a class
    exclude.csv                       cells whose label is likely wrong
    gallery.html, gallery/            their pictures, to look through, mark and make a list of one's own

`python -m beam_jobs.shard --exclude=FILE` takes exclude.csv or the list from the page as it is.

All flags: python -m trainer.find_label_errors --help
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from absl import flags

from hpa_proto import storage
from hpa_proto.errors import ConfigError
from trainer import command, label_errors

if TYPE_CHECKING:
    from trainer.label_errors import LabelErrors
    from trainer.predictions import PredictionsInfo

CELLS_NAME = "label_errors.parquet"
FOVS_NAME = "label_errors_by_fov.parquet"
CLASSES_NAME = "label_errors_by_class.parquet"
EXCLUDE_NAME = "exclude.csv"
_MAX_PICTURE_PX = 512


@dataclasses.dataclass(frozen=True)
class LabelErrorsConfig:
    """One search.

    Attributes:
      runs: folders or fsspec URLs of the runs, one for each fold.
      data_dir: the runs' data set.
      out_dir: folder to write.
      checkpoint: "best" or "last".
      batch_size: of predicting.
      fov_weight: see `label_errors.find_label_errors`.
      max_cells: cells in the gallery; 0: no gallery.
      picture_size_px: side of a cell's picture there.
    """

    runs: tuple[str, ...]
    data_dir: str
    out_dir: str = "label-errors"
    checkpoint: str = "best"
    batch_size: int = 32
    fov_weight: float = label_errors.FOV_WEIGHT
    max_cells: int = 2000
    picture_size_px: int = 128

    def __post_init__(self) -> None:
        if not self.runs or not all(self.runs):
            raise ConfigError("--runs is missing: the folders of the runs, one a fold, as runs/cv0,runs/cv1,runs/cv2")
        for name, lowest in {"batch_size": 1, "max_cells": 0, "picture_size_px": 16}.items():
            if getattr(self, name) < lowest:
                raise ConfigError(f"--{name}={getattr(self, name)}: give at least {lowest}")
        if self.picture_size_px > _MAX_PICTURE_PX:
            raise ConfigError(f"--picture_size_px={self.picture_size_px}: give at most {_MAX_PICTURE_PX}")
        if not 0 <= self.fov_weight <= 1:
            raise ConfigError(f"--fov_weight={self.fov_weight}: give a share from 0 to 1")


# Of this command alone: the flags of two commands may have the same names, and absl's own registry is one for all.
_FLAGS = flags.FlagValues()
_DEFAULT = LabelErrorsConfig(runs=("run",), data_dir="")
flags.DEFINE_boolean("help", False, "Show this help.", flag_values=_FLAGS)
flags.DEFINE_list("runs", [], "Folders of the runs, one a fold, comma-separated.", flag_values=_FLAGS)
flags.DEFINE_string("data_dir", None, "Folder or URL of the runs' data set.", flag_values=_FLAGS)
flags.DEFINE_string("out_dir", _DEFAULT.out_dir, "Folder to write.", flag_values=_FLAGS)
flags.DEFINE_string(
    "checkpoint",
    _DEFAULT.checkpoint,
    "Which weights of the runs: those of the best epoch (best) or of the last (last).",
    flag_values=_FLAGS,
)
flags.DEFINE_integer("batch_size", _DEFAULT.batch_size, "Pictures that are predicted at a time.", flag_values=_FLAGS)
flags.DEFINE_float(
    "fov_weight",
    _DEFAULT.fov_weight,
    "How much the other cells of its FOV say about a cell; 0: nothing, 1: all, so that whole FOVs are judged.",
    flag_values=_FLAGS,
)
flags.DEFINE_integer("max_cells", _DEFAULT.max_cells, "Cells in the gallery; 0: no gallery.", flag_values=_FLAGS)
flags.DEFINE_integer(
    "picture_size_px", _DEFAULT.picture_size_px, "Side of a cell's picture in the gallery.", flag_values=_FLAGS
)


def run(config: LabelErrorsConfig) -> LabelErrors:
    """Judges the labels, writes the folder and returns what was found.

    Raises:
      ConfigError: the runs, the data set and the flags do not go together.
      DatasetError: the data set is not the runs', incomplete or altered, or nothing in it can be judged.
    """
    # Late: a wrong flag should not cost seconds of imports.
    from trainer import label_error_page, out_of_fold

    predictions = out_of_fold.gather(
        config.runs, config.data_dir, checkpoint=config.checkpoint, batch_size=config.batch_size
    )
    found = label_errors.find_label_errors(predictions, fov_weight=config.fov_weight)
    for name, table in ((CELLS_NAME, found.cells), (FOVS_NAME, found.fovs), (CLASSES_NAME, found.per_class)):
        storage.write_table(storage.join(config.out_dir, name), table)
    doubtful = found.cells.loc[found.cells["is_issue"], ["cell_id", "fov_id", "label_quality"]]
    storage.write_text(storage.join(config.out_dir, EXCLUDE_NAME), doubtful.to_csv(index=False, lineterminator="\n"))
    if config.max_cells:
        label_error_page.write_page(
            config.out_dir,
            found,
            predictions.info,
            data_dir=config.data_dir,
            max_cells=config.max_cells,
            picture_size_px=config.picture_size_px,
            settings=_list_settings(config, predictions.info),
        )
    return found


def _list_settings(config: LabelErrorsConfig, info: PredictionsInfo) -> list[tuple[str, str]]:
    runs = [f"{run['name']}: {run['model']}, {run['checkpoint']} of epoch {run['epoch']}" for run in info.runs]
    return [
        ("runs", "; ".join(runs)),
        ("manifest of the data set, sha256", info.manifest_sha256),
        ("label scope of the data", info.label_scope),
        ("weight of the FOV", f"{config.fov_weight:g}"),
    ]


def make_config(argv: Sequence[str]) -> LabelErrorsConfig | None:
    """Makes the config that a command line asks for; None where it asks for help.

    Raises:
      ConfigError: a flag that is not known, missing, without a value or of another type.
    """
    return command.read_config(
        _FLAGS,
        argv,
        LabelErrorsConfig,
        module="trainer.find_label_errors",
        required=("data_dir",),
        runs=lambda values: tuple(values.runs),
    )


def _work(config: LabelErrorsConfig) -> str:
    found = run(config)
    from trainer import label_error_page

    fovs = found.fovs[found.fovs["issue_share"] > 0.5]
    lines = [
        f"cells     {len(found.cells):,}: the label of {found.num_issues:,} is likely wrong",
        f"FOVs      {len(found.fovs):,}: in {len(fovs):,} that holds for most cells",
    ]
    for row in found.per_class.sort_values("issue_share", ascending=False).itertuples():
        if row.num_issues:
            like = f", most often like {row.most_often_like}" if row.most_often_like else ""
            lines.append(f"class     {row.name}: {row.num_issues:,} of {row.num_cells:,} cells{like}")
    lines.append(f"list      {storage.join(config.out_dir, EXCLUDE_NAME)}")
    if config.max_cells:
        lines.append(f"gallery   {storage.join(config.out_dir, label_error_page.PAGE_NAME)}")
    return "\n".join(lines)


def main(argv: Sequence[str]) -> int:
    """Runs the command and returns its exit status."""
    return command.run_main(argv, make_config, _work, values=_FLAGS, doc=__doc__)


if __name__ == "__main__":
    sys.exit(main(sys.argv))

"""Chooses cells of a cell store and writes them as stratified TFRecord shards with a manifest, a plan and a report.

    python -m beam_jobs.shard --cells_dir=cells --data_dir=dataset --num_workers=2

Choosing is cheap: make as many data sets from one cell store as you like. The old project's 12 classes:

    python -m beam_jobs.shard --cells_dir=cells --data_dir=dataset-12 --min_green_png_bytes=4096 \
        --max_green_png_bytes=1048576 --min_cells_per_class=1000 --drop_classes=Negative

What would come of it, by class and reason, without a pixel read or a file of the data set written:

    python -m beam_jobs.shard --cells_dir=cells --dry_run --dry_run_out=plan.png --max_cells_per_class=4500

Folds for cross-validation, FOV by FOV, that `trainer.train --fold=0 --num_folds=5` reads:

    python -m beam_jobs.shard --cells_dir=cells --data_dir=dataset-folds --num_folds=5

Labels of single cells in the place of their FOV's, in the same folds:

    python -m beam_jobs.shard --cells_dir=cells --data_dir=dataset-relabelled --label_scope=all --num_folds=5 \
        --splits_of=dataset-folds --cell_labels=relabelled/cell_labels.parquet

Stopped in the middle? The same command goes on. Flags of Apache Beam may follow, as --runner=FlinkRunner.
"""

from __future__ import annotations

import sys

from absl import flags

from beam_jobs import command, dataset_job, dry_run, exclusions, near_duplicates, runner
from beam_jobs.dataset_job import ShardConfig
from beam_jobs.dry_run import DryRunConfig
from beam_jobs.examples import ExampleConfig
from beam_jobs.plan_config import DEFAULT_SPLITS, PlanConfig
from hpa_proto import schema
from hpa_proto.errors import ConfigError
from hpa_proto.redaction import redact_arguments

DATA_DIR = flags.DEFINE_string("data_dir", None, "Folder of the data set to write.")
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replaces a data set that was made with other flags, or is damaged.")
DRY_RUN = flags.DEFINE_bool(
    "dry_run", False, "Only says what would be kept, dropped, capped and split; writes no data set."
)
_DRY_RUN_OUT = flags.DEFINE_string("dry_run_out", None, "PNG of the classes before and after, of a dry run.")

# Which cells.
_LABEL_SCOPE = flags.DEFINE_enum(
    "label_scope",
    None,
    schema.LABEL_SCOPES,
    "Cells of FOVs with a single label (strong labels), of all labelled FOVs (weak labels), or of any FOV, without labels. "
    "Default: single; of convert without --labels: unlabelled.",
)
_CLASSES = flags.DEFINE_list("classes", None, "Classes in scope, numbers or names; default: all.")
_DROP_CLASSES = flags.DEFINE_list("drop_classes", [], "Classes out of scope, numbers or names.")
_EXCLUDE = flags.DEFINE_string(
    "exclude", None, "File of ids of cells to leave out: one a line, or CSV with a column cell_id."
)
_CELL_LABELS = flags.DEFINE_string(
    "cell_labels",
    None,
    "CSV or Parquet with cell_id and labels, which count in the place of the FOV's (trainer.relabel).",
)
_MIN_CELLS = flags.DEFINE_integer("min_cells_per_class", 0, "A class with fewer cells is out (old project: 1000).", 0)
_MAX_CELLS = flags.DEFINE_integer(
    "max_cells_per_class", None, "Cap of a class, spread evenly over its FOVs (old project: 4500).", 1
)
_MIN_PNG = flags.DEFINE_integer("min_green_png_bytes", None, "Least PNG size of the green crop (old project: 4096).", 0)
_MAX_PNG = flags.DEFINE_integer(
    "max_green_png_bytes", None, "Greatest PNG size of the green crop (old project: 1048576).", 1
)
_DROP_BORDER = flags.DEFINE_bool("drop_border_cells", False, "Drops cells that the FOV's border cuts.")
_DROP_NO_NUCLEUS = flags.DEFINE_bool("drop_without_nucleus", False, "Drops cells without a nucleus.")
_MAX_NUCLEI = flags.DEFINE_integer("max_nuclei", None, "Greatest number of nuclei in a cell.", 1)
_MIN_FOCUS = flags.DEFINE_float("min_focus", None, "Least focus (column focus of cells.parquet).", 0)
_MAX_SATURATED = flags.DEFINE_float("max_saturated_fraction", None, "Greatest share of saturated pixels.", 0, 1)
_MIN_AREA = flags.DEFINE_float("min_area_um2", None, "Least area of a cell, square micrometres.", 0)
_MAX_AREA = flags.DEFINE_float("max_area_um2", None, "Greatest area of a cell, square micrometres.", 0)
_MIN_GREEN_SNR = flags.DEFINE_float("min_green_snr", None, "Least signal over background of the protein channel.", 0)

_DROP_DUPLICATES = flags.DEFINE_bool("drop_duplicate_fovs", False, "Keeps one of near-identical FOVs.")
_DUPLICATE_BITS = flags.DEFINE_integer(
    "duplicate_bits",
    near_duplicates.DEFAULT_MAX_BITS,
    "FOVs whose perceptual hashes differ in at most so many of 256 bits are near-identical and share a split; 0: none are.",
    0,
)

# Which split, which shard.
_SPLITS = flags.DEFINE_list("splits", None, "Splits and weights; default train=12,validation=3,test=1 or predict=1.")
_NUM_FOLDS = flags.DEFINE_integer(
    "num_folds", None, "Folds of equal weight for cross-validation, instead of --splits: fold0, fold1, ...", 2
)
_GROUP_COLUMN = flags.DEFINE_string("group_column", "fov_id", "Cells with equal values here share a split.")
_SPLITS_OF = flags.DEFINE_string("splits_of", None, "Data set whose FOVs keep the split they have there.")
_CELLS_PER_SHARD = flags.DEFINE_integer("cells_per_shard", 1024, "Greatest number of cells in a shard.", 1)
_SHARDS = flags.DEFINE_list("shards", [], "Number of shards of a split, as train=16,test=2; overrides cells_per_shard.")
_SEED = flags.DEFINE_integer("seed", 0, "Another seed gives another choice, split and order.", 0, 2**63 - 1)

# Which pictures.
_IMAGE_SIZE = flags.DEFINE_integer("image_size_px", 528, "Side of the square pictures.")
_CHANNELS = flags.DEFINE_string("channels", "rgby", "Initials of the channels, in order: rgby, rgb, g, ...")
_FORMAT = flags.DEFINE_enum("format", "jpeg-planes", schema.IMAGE_FORMATS, "Encoding of the pictures.")
_JPEG_QUALITY = flags.DEFINE_integer("jpeg_quality", 95, "Quality of jpeg-planes.", 1, 100)
_MASK_BACKGROUND = flags.DEFINE_bool("mask_background", True, "Makes everything outside the cell black.")
_KEEP_ASPECT = flags.DEFINE_bool("keep_aspect_ratio", True, "Centres the cell on a black square; no: stretches it.")

flags.adopt_module_key_flags(command)


def config_from_flags(
    beam_args: list[str], *, cells_dir: str | None, data_dir: str | None, default_label_scope: str = "single"
) -> ShardConfig:
    """Makes the job's config from the flags.

    Raises:
      ConfigError: a flag is missing or wrong.
    """
    if _DRY_RUN_OUT.value and not DRY_RUN.value:
        raise ConfigError("--dry_run_out is the picture of a dry run: add --dry_run, or leave it out")
    return ShardConfig(
        cells_dir=command.required("cells_dir", cells_dir),
        data_dir=command.required("data_dir", data_dir),
        plan=_plan_from_flags(default_label_scope),
        example=ExampleConfig(
            image_size_px=_IMAGE_SIZE.value,
            channels=schema.parse_channels(_CHANNELS.value),
            image_format=_FORMAT.value,
            jpeg_quality=_JPEG_QUALITY.value,
            mask_background=_MASK_BACKGROUND.value,
            keep_aspect_ratio=_KEEP_ASPECT.value,
        ),
        splits_of=_SPLITS_OF.value,
        cell_labels=_CELL_LABELS.value,
        overwrite=_OVERWRITE.value,
        num_workers=command.NUM_WORKERS.value,
        beam_args=tuple(beam_args),
        command_line=tuple(redact_arguments(sys.argv[1:])),
    )


def dry_run_from_flags(
    beam_args: list[str], *, cells_dir: str | None, default_label_scope: str = "single"
) -> DryRunConfig:
    """Makes the config of a dry run from the flags.

    Raises:
      ConfigError: a flag is missing or wrong.
    """
    # A dry run uses no Beam, but a mistyped flag of the plan lands among Beam's.
    runner.check_beam_args(beam_args)
    return DryRunConfig(
        cells_dir=command.required("cells_dir", cells_dir),
        plan=_plan_from_flags(default_label_scope),
        splits_of=_SPLITS_OF.value,
        cell_labels=_CELL_LABELS.value,
        picture_path=_DRY_RUN_OUT.value,
    )


def _plan_from_flags(default_label_scope: str) -> PlanConfig:
    label_scope = _LABEL_SCOPE.value or default_label_scope
    return PlanConfig(
        label_scope=label_scope,
        splits=_splits_from_flags(label_scope),
        exclude=exclusions.read_exclusions(_EXCLUDE.value) if _EXCLUDE.value else (),
        min_green_png_bytes=_MIN_PNG.value,
        max_green_png_bytes=_MAX_PNG.value,
        drop_border_cells=_DROP_BORDER.value,
        drop_without_nucleus=_DROP_NO_NUCLEUS.value,
        max_nuclei=_MAX_NUCLEI.value,
        min_focus=_MIN_FOCUS.value,
        max_saturated_fraction=_MAX_SATURATED.value,
        min_area_um2=_MIN_AREA.value,
        max_area_um2=_MAX_AREA.value,
        min_green_snr=_MIN_GREEN_SNR.value,
        classes=None if _CLASSES.value is None else tuple(_CLASSES.value),
        drop_classes=tuple(_DROP_CLASSES.value),
        min_cells_per_class=_MIN_CELLS.value,
        max_cells_per_class=_MAX_CELLS.value,
        duplicate_bits=_DUPLICATE_BITS.value,
        drop_duplicate_fovs=_DROP_DUPLICATES.value,
        group_column=_GROUP_COLUMN.value,
        cells_per_shard=_CELLS_PER_SHARD.value,
        shards=command.to_counts("shards", command.parse_pairs("shards", _SHARDS.value)),
        seed=_SEED.value,
    )


def _splits_from_flags(label_scope: str) -> tuple[tuple[str, float], ...]:
    if _NUM_FOLDS.value is None:
        return DEFAULT_SPLITS[label_scope] if _SPLITS.value is None else command.parse_pairs("splits", _SPLITS.value)
    if _SPLITS.value is not None:
        raise ConfigError(
            f"--num_folds={_NUM_FOLDS.value} makes splits of its own, fold0 to {schema.fold_name(_NUM_FOLDS.value - 1)}: "
            "leave --splits out"
        )
    if label_scope == "unlabelled":
        raise ConfigError(
            "--num_folds is for training in turn on all folds but one; cells without labels teach nothing"
        )
    return tuple((schema.fold_name(fold), 1.0) for fold in range(_NUM_FOLDS.value))


def main(beam_args: list[str]) -> None:
    """Runs the job that the flags describe."""
    if DRY_RUN.value:
        config = dry_run_from_flags(beam_args, cells_dir=command.CELLS_DIR.value)
        print(dry_run.describe(dry_run.run(config), config))
        return
    config = config_from_flags(beam_args, cells_dir=command.CELLS_DIR.value, data_dir=DATA_DIR.value)
    print(dataset_job.describe(dataset_job.run(config)))


if __name__ == "__main__":
    command.run_main(main)

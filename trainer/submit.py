r"""Turns the predictions of `trainer.predict` into a submission of Kaggle's HPA single-cell competition.

    python -m trainer.submit --predictions=predictions.parquet --data_dir=out/dataset --out=submission.csv \
        --sample_submission=sample_submission.csv

Every cell is submitted with every class of the model; its mask is that of the data set. Where no cell was found, or none
is left, the row is the competition's placeholder: `0 1` and an empty mask. The rows are those of --sample_submission, in
its order; without it, those of the FOVs that have cells. `python -m trainer.score` scores the file, `python -m
trainer.overlay` draws a FOV of it.

All flags: python -m trainer.submit --help
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator, Sequence

import numpy as np
from absl import flags

from hpa_proto import labels as hpa_labels
from hpa_proto.errors import ConfigError, DatasetError
from trainer import cell_masks, command, fov_scores, predictions, shards, submission
from trainer.cell_masks import CellMask
from trainer.predictions import Predictions
from trainer.submission import Detection, FovSize, SubmissionRow

NEGATIVES: tuple[str, ...] = ("predicted", "product")


@dataclasses.dataclass(frozen=True)
class SubmitConfig:
    """One submission.

    Attributes:
      predictions: file of `trainer.predict`.
      data_dir: data set that was predicted, for the masks.
      out: file to write.
      sample_submission: CSV with the wanted FOVs in the wanted order; "": those of the data set.
      min_confidence: detections below are left out.
      negative: "predicted": Negative's own probability; "product": that no other class is there, the product of
        (1 - confidence).
      fov_weight: w in (1 - w) * cell + w * FOV, of each class; 0: the cell alone.
      fov_method: how the FOV's probability is made from its cells': "mean" or "max".
    """

    predictions: str
    data_dir: str
    out: str
    sample_submission: str = ""
    min_confidence: float = 0.0
    negative: str = "predicted"
    fov_weight: float = 0.0
    fov_method: str = "mean"

    def __post_init__(self) -> None:
        for name in ("min_confidence", "fov_weight"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"--{name}={getattr(self, name):g}: give a number from 0 to 1")
        for name, choices in (("negative", NEGATIVES), ("fov_method", fov_scores.METHODS)):
            if getattr(self, name) not in choices:
                raise ConfigError(f"--{name}={getattr(self, name)}: choose one of {', '.join(choices)}")


@dataclasses.dataclass(frozen=True)
class SubmitResult:
    """What was written: rows, rows with nothing but the placeholder, detections."""

    num_rows: int
    num_placeholders: int
    num_detections: int


# Of this command alone: the flags of two commands may have the same names, and absl's own registry is one for all.
_FLAGS = flags.FlagValues()
_DEFAULT = SubmitConfig(predictions="", data_dir="", out="")
flags.DEFINE_boolean("help", False, "Show this help.", flag_values=_FLAGS)
flags.DEFINE_string(
    "predictions", None, "predictions.parquet, as `python -m trainer.predict` writes it.", flag_values=_FLAGS
)
flags.DEFINE_string("data_dir", None, "Folder of the data set that was predicted.", flag_values=_FLAGS)
flags.DEFINE_string("out", None, "CSV to write: the submission.", flag_values=_FLAGS)
flags.DEFINE_string("sample_submission", "", "CSV with the wanted FOVs, in order, and their sizes.", flag_values=_FLAGS)
flags.DEFINE_float(
    "min_confidence",
    _DEFAULT.min_confidence,
    "Leave out answers with a lower confidence, 0 to 1; 0: keep all.",
    flag_values=_FLAGS,
)
flags.DEFINE_enum(
    "negative",
    _DEFAULT.negative,
    NEGATIVES,
    "Confidence of Negative: as predicted, or the product of (1 - p) over all other classes.",
    flag_values=_FLAGS,
)
flags.DEFINE_float(
    "fov_weight",
    _DEFAULT.fov_weight,
    "How much the FOV's probability counts beside the cell's own, 0 to 1; 0: not at all.",
    flag_values=_FLAGS,
)
flags.DEFINE_enum(
    "fov_method",
    _DEFAULT.fov_method,
    fov_scores.METHODS,
    "How the FOV's probability is made from those of its cells, with --fov_weight.",
    flag_values=_FLAGS,
)


def run(config: SubmitConfig) -> SubmitResult:
    """Writes the submission, row by row; what is held are the predictions and the masks' run lengths.

    Raises:
      ConfigError: a setting that cannot work.
      DatasetError: predictions, data set and sample do not belong together, or one of them is damaged.
    """
    predicted = predictions.read_predictions(config.predictions)
    fovs = _read_fovs(config, predicted)
    sizes = {fov_id: cells[0].fov_size for fov_id, cells in fovs.items()}
    if config.sample_submission:
        sample = submission.read_sample(config.sample_submission)
        _check_sample(config, sizes, sample)
        sizes = sample
    labels, confidences = decide_confidences(config, predicted)
    row_of_cell = {cell_id: row for row, cell_id in enumerate(predicted.cell_ids)}
    num_placeholders = num_detections = 0

    def make_rows() -> Iterator[SubmissionRow]:
        nonlocal num_placeholders, num_detections
        for fov_id, size in sizes.items():
            detections = [
                Detection(label, confidence, cell.counts)
                for cell in fovs.get(fov_id, ())
                for label, confidence in zip(labels, confidences[row_of_cell[cell.cell_id]].tolist(), strict=True)
                if confidence >= config.min_confidence
            ]
            num_detections += len(detections)
            num_placeholders += not detections
            yield SubmissionRow(fov_id, size, tuple(detections) or submission.placeholder(size))

    num_rows = submission.write_submission(config.out, make_rows())
    return SubmitResult(num_rows, num_placeholders, num_detections)


def decide_confidences(config: SubmitConfig, predicted: Predictions) -> tuple[tuple[int, ...], np.ndarray]:
    """Makes the confidences that are submitted: first the FOVs are mixed in, then Negative is made from the others.

    Args:
      config: of the submission.
      predicted: N cells, K classes.

    Returns:
      (labels of the columns, Kaggle's numbers; float64[N, columns], 0..1). Columns are the model's classes and, with
      negative="product", Negative.
    """
    labels = [info.label for info in predicted.info.classes]
    # A float32 softmax may give a little more than 1.
    confidences = np.clip(predicted.probabilities.astype(np.float64), 0, 1)
    if config.fov_weight:
        ids, _, scores = fov_scores.score_fovs(
            predicted.fov_ids, predicted.labels > 0, confidences, method=config.fov_method
        )
        of_fov = scores[np.searchsorted(ids, predicted.fov_ids)]
        confidences = np.clip((1 - config.fov_weight) * confidences + config.fov_weight * of_fov, 0, 1)
    if config.negative == "product":
        others = [column for column, label in enumerate(labels) if label != hpa_labels.NEGATIVE]
        negative = np.prod(1 - confidences[:, others], axis=1)
        labels = [*(labels[column] for column in others), hpa_labels.NEGATIVE]
        confidences = np.column_stack([confidences[:, others], negative])
    return tuple(labels), confidences


def _read_fovs(config: SubmitConfig, predicted: Predictions) -> dict[str, list[CellMask]]:
    manifest, digest = shards.read_manifest(config.data_dir)
    info = predicted.info
    if digest != info.manifest_sha256:
        raise DatasetError(
            f"{config.predictions}: made from another data set: its manifest has sha256 {info.manifest_sha256[:16]}..., "
            f"that of {config.data_dir} {digest[:16]}...; give the data set that was predicted"
        )
    fovs = cell_masks.group_by_fov(config.data_dir, manifest, info.split)
    in_data = {cell.cell_id for cells in fovs.values() for cell in cells}
    differing = sorted(in_data ^ set(predicted.cell_ids))
    if differing:
        raise DatasetError(
            f"{config.predictions} and split {info.split!r} of {config.data_dir} differ in {len(differing)} cells, the "
            f"first is {differing[0]}; predict the split again with `python -m trainer.predict`"
        )
    return fovs


def _check_sample(config: SubmitConfig, sizes: dict[str, FovSize], sample: dict[str, FovSize]) -> None:
    for fov_id, size in sizes.items():
        if fov_id not in sample:
            raise DatasetError(
                f"FOV {fov_id} of {config.data_dir} is not in {config.sample_submission}; give the list that it is of"
            )
        if sample[fov_id] != size:
            raise DatasetError(
                f"FOV {fov_id} is {size.width} x {size.height} px in {config.data_dir}, "
                f"{sample[fov_id].width} x {sample[fov_id].height} px in {config.sample_submission}"
            )


def make_config(argv: Sequence[str]) -> SubmitConfig | None:
    """Makes the config that a command line asks for; None where it asks for help.

    Raises:
      ConfigError: a flag that is not known, missing, without a value or of another type.
    """
    return command.read_config(
        _FLAGS,
        argv,
        SubmitConfig,
        module="trainer.submit",
        required=("predictions", "data_dir", "out"),
    )


def _work(config: SubmitConfig) -> str:
    result = run(config)
    return (
        f"{config.out}: {result.num_rows:,} rows, {result.num_detections:,} detections; {result.num_placeholders:,} rows "
        "are placeholders: no cell, or none from --min_confidence on"
    )


def main(argv: Sequence[str]) -> int:
    """Runs the command and returns its exit status."""
    return command.run_main(argv, make_config, _work, values=_FLAGS, doc=__doc__)


if __name__ == "__main__":
    sys.exit(main(sys.argv))

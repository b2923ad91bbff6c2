"""Scores a submission with the metric of Kaggle's HPA single-cell competition, before anyone uploads it.

    python -m trainer.score --submission=submission.csv --truth=ground_truth.csv

The truth is a CSV, `ImageID,ImageWidth,ImageHeight,LabelName,IsGroupOf,Mask` with a row an object, or a split of a data set
of this project, whose cells have labels and masks:

    python -m trainer.score --submission=submission.csv --data_dir=out/dataset --split=validation

Prints both readings of which classes count as checked in a FOV (`trainer/scoring.py` says what that means); the first is
the score. FOVs of the submission that the truth does not have count as FOVs without objects.

All flags: python -m trainer.score --help
"""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from collections.abc import Sequence

from absl import flags

from hpa_proto import labels as hpa_labels
from hpa_proto import storage
from hpa_proto.errors import ConfigError, DatasetError
from trainer import cell_masks, command, scoring, submission
from trainer.scoring import MeanAveragePrecision
from trainer.submission import TruthFov


@dataclasses.dataclass(frozen=True)
class ScoreConfig:
    """One score.

    Attributes:
      submission: CSV to score.
      truth: CSV of objects; "": the truth is a split of `data_dir`.
      data_dir: data set with labels.
      split: of the data set.
      sample_submission: CSV whose rows the submission must have; "": not checked.
      iou_threshold: least IoU of a true positive.
      out: JSON file to write; "": none.
    """

    submission: str
    truth: str = ""
    data_dir: str = ""
    split: str = "test"
    sample_submission: str = ""
    iou_threshold: float = scoring.IOU_THRESHOLD
    out: str = ""

    def __post_init__(self) -> None:
        if bool(self.truth) == bool(self.data_dir):
            raise ConfigError("give the truth as --truth=FILE, or as --data_dir=FOLDER with --split, and not as both")


@dataclasses.dataclass(frozen=True)
class Score:
    """What was found.

    Attributes:
      results: by reading, in the order of `scoring.READINGS`.
      num_fovs: rows of the submission.
      num_fovs_without_objects: of these, FOVs that the truth does not have.
    """

    results: dict[str, MeanAveragePrecision]
    num_fovs: int
    num_fovs_without_objects: int


# Of this command alone: the flags of two commands may have the same names, and absl's own registry is one for all.
_FLAGS = flags.FlagValues()
_DEFAULT = ScoreConfig(submission="", truth="-")
flags.DEFINE_boolean("help", False, "Show this help.", flag_values=_FLAGS)
flags.DEFINE_string("submission", None, "CSV to score, as `python -m trainer.submit` writes it.", flag_values=_FLAGS)
flags.DEFINE_string(
    "truth",
    "",
    "CSV of the truth, a row for each object: ImageID,ImageWidth,ImageHeight,LabelName,IsGroupOf,Mask.",
    flag_values=_FLAGS,
)
flags.DEFINE_string(
    "data_dir",
    "",
    "Instead of --truth: folder of a data set with labels, whose --split is the truth.",
    flag_values=_FLAGS,
)
flags.DEFINE_string("split", _DEFAULT.split, "Split of --data_dir.", flag_values=_FLAGS)
flags.DEFINE_string("sample_submission", "", "CSV whose rows the submission must have.", flag_values=_FLAGS)
flags.DEFINE_float(
    "iou_threshold",
    _DEFAULT.iou_threshold,
    "Overlap (IoU) with an object from which on a detection is right.",
    flag_values=_FLAGS,
)
flags.DEFINE_string("out", "", "JSON file to write the scores to.", flag_values=_FLAGS)


def run(config: ScoreConfig) -> Score:
    """Scores; the submission is read row by row.

    Raises:
      ConfigError: a setting that cannot work.
      DatasetError: submission, truth or sample is damaged, or they do not belong together; the text names the row.
    """
    scorer = scoring.Scorer(iou_threshold=config.iou_threshold)
    truth = _read_truth(config)
    fov_ids = []
    for row in submission.read_submission(config.submission):
        fov_ids.append(row.fov_id)
        fov = truth.get(row.fov_id, TruthFov(row.size, ()))
        if fov.size != row.size:
            raise DatasetError(
                f"{config.submission}, row {len(fov_ids)} (ID {row.fov_id}): the FOV is {row.size.width} x "
                f"{row.size.height} px, in the truth {fov.size.width} x {fov.size.height} px"
            )
        scorer.add_fov(row.size, row.detections, fov.objects)
    if config.sample_submission:
        submission.check_rows(fov_ids, submission.read_sample(config.sample_submission), source=config.submission)
    missing = sorted(truth.keys() - set(fov_ids))
    if missing:
        raise DatasetError(
            f"{config.submission}: no row for {len(missing)} of {len(truth)} FOVs of the truth, the first is {missing[0]}"
        )
    return Score(
        results={reading: scorer.result(reading=reading) for reading in scoring.READINGS},
        num_fovs=len(fov_ids),
        num_fovs_without_objects=len(fov_ids) - len(truth),
    )


def describe(score: Score) -> str:
    """Writes a score as a table of classes."""
    first, second = score.results.values()
    lines = [
        f"mAP {first.mean:.6f} ({first.reading}), {second.mean:.6f} ({second.reading}) at mask IoU {first.iou_threshold:g}; "
        f"{score.num_fovs:,} FOVs, {score.num_fovs_without_objects:,} without objects in the truth",
        "",
        f"{'class':<44}{'objects':>9}{'detections':>12}{'AP':>10}{'AP, only gt':>14}",
    ]
    for label, entry in first.per_class.items():
        precisions = [entry.average_precision, second.per_class[label].average_precision]
        shown = ["-" if math.isnan(precision) else f"{precision:.4f}" for precision in precisions]
        name = f"{label:>2} {hpa_labels.LABEL_NAMES[label]}"
        lines.append(f"{name:<44}{entry.num_objects:>9,}{entry.num_detections:>12,}{shown[0]:>10}{shown[1]:>14}")
    return "\n".join(lines)


def to_json(score: Score) -> str:
    """Writes a score as JSON; what is not defined is null."""

    def number(value: float) -> float | None:
        return None if math.isnan(value) else value

    content = {
        "num_fovs": score.num_fovs,
        "num_fovs_without_objects": score.num_fovs_without_objects,
        "readings": {
            reading: {
                "mean_average_precision": number(result.mean),
                "iou_threshold": result.iou_threshold,
                "classes": [
                    {
                        "label": label,
                        "name": hpa_labels.LABEL_NAMES[label],
                        **entry._asdict(),
                        "average_precision": number(entry.average_precision),
                    }
                    for label, entry in result.per_class.items()
                ],
            }
            for reading, result in score.results.items()
        },
    }
    return json.dumps(content, indent=2) + "\n"


def _read_truth(config: ScoreConfig) -> dict[str, TruthFov]:
    if config.truth:
        return submission.read_truth(config.truth)
    return cell_masks.read_truth(config.data_dir, config.split)


def make_config(argv: Sequence[str]) -> ScoreConfig | None:
    """Makes the config that a command line asks for; None where it asks for help.

    Raises:
      ConfigError: a flag that is not known, missing, without a value or of another type.
    """
    return command.read_config(_FLAGS, argv, ScoreConfig, module="trainer.score", required=("submission",))


def _work(config: ScoreConfig) -> str:
    score = run(config)
    if config.out:
        storage.write_text(config.out, to_json(score))
    return describe(score)


def main(argv: Sequence[str]) -> int:
    """Runs the command and returns its exit status."""
    return command.run_main(argv, make_config, _work, values=_FLAGS, doc=__doc__)


if __name__ == "__main__":
    sys.exit(main(sys.argv))

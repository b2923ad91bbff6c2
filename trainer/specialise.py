r"""Gives the classes that a model does badly on to a second model, and judges the two together.

Which classes, and the commands that make the second model:

    python -m trainer.specialise --predictions=runs/first/predictions-validation.parquet --data_dir=dataset --below=0.6

And then, on other cells, what the second is worth:

    python -m trainer.specialise --predictions=runs/first/predictions-test.parquet \
        --second_predictions=runs/second/predictions-test.parquet --second_data_dir=dataset-weak

A cell goes to the second model when its likeliest class is one of the second's, or by --min_mass when their probabilities
add up to enough. Both forms print a table and write JSON.

All flags: python -m trainer.specialise --help
"""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from absl import flags

from hpa_proto import storage
from hpa_proto.errors import ConfigError
from trainer import command

if TYPE_CHECKING:
    import pandas as pd

    from trainer.predictions import PredictionsInfo

_FIGURES = ("f1", "recall", "precision")


@dataclasses.dataclass(frozen=True)
class SpecialiseConfig:
    """A choice of classes, or the judgement of two models together.

    Attributes:
      predictions: file of the first model: of the validation split to choose classes, of the test split to judge.
      data_dir: data set of the predictions; needed to choose.
      below: classes whose figure is below this are weak; one of `below` and `worst` is needed to choose.
      worst: so many classes are weak.
      figure: "f1", "recall" or "precision".
      second_predictions: file of the second model on the same cells; given: judge, empty: choose.
      second_data_dir: data set that the second model learned from, to see that no FOV is judged that it knows.
      min_mass: route by the sum of probabilities; None: by the likeliest class.
      num_resamples: of the bootstrap over FOVs.
      seed: of the bootstrap.
      out: JSON file; empty: specialise.json or specialised.json beside the predictions.
    """

    predictions: str
    data_dir: str = ""
    below: float | None = None
    worst: int | None = None
    figure: str = "f1"
    second_predictions: str = ""
    second_data_dir: str = ""
    min_mass: float | None = None
    num_resamples: int = 1000
    seed: int = 0
    out: str = ""

    def __post_init__(self) -> None:
        if not self.predictions:
            raise ConfigError("--predictions is missing: a file of `python -m trainer.predict`")
        if self.figure not in _FIGURES:
            raise ConfigError(f"--figure={self.figure}: choose one of {', '.join(_FIGURES)}")
        if self.min_mass is not None and not 0 < self.min_mass <= 1:
            raise ConfigError(f"--min_mass={self.min_mass}: give a probability above 0, up to 1")
        if self.num_resamples < 1 or self.seed < 0:
            raise ConfigError(
                f"--num_resamples={self.num_resamples} --seed={self.seed}: give at least 1, and at least 0"
            )
        if self.second_predictions:
            return
        if (self.below is None) == (self.worst is None):
            raise ConfigError("give --below=0.6 or --worst=3 to choose classes, or --second_predictions to judge")
        if self.below is not None and not 0 < self.below <= 1:
            raise ConfigError(f"--below={self.below}: give a figure above 0, up to 1")
        if self.worst is not None and self.worst < 2:
            raise ConfigError(f"--worst={self.worst}: give at least 2; a model of one class has nothing to tell apart")
        if not self.data_dir:
            raise ConfigError("--data_dir is missing: the data set of the predictions")

    @property
    def path(self) -> str:
        """Of the JSON file."""
        name = "specialised.json" if self.second_predictions else "specialise.json"
        folder = self.predictions.rpartition("/")[0]
        return self.out or (storage.join(folder, name) if folder else name)


# Of this command alone: the flags of two commands may have the same names, and absl's own registry is one for all.
_FLAGS = flags.FlagValues()
_DEFAULT = SpecialiseConfig(predictions="file", second_predictions="file")
flags.DEFINE_boolean("help", False, "Show this help.", flag_values=_FLAGS)
flags.DEFINE_string("predictions", "", "predictions.parquet of the first model.", flag_values=_FLAGS)
flags.DEFINE_string("data_dir", "", "Folder of the data set that the first model predicted.", flag_values=_FLAGS)
flags.DEFINE_float("below", None, "Choose the classes whose figure is below this.", flag_values=_FLAGS)
flags.DEFINE_integer("worst", None, "Choose this many classes: those with the lowest figure.", flag_values=_FLAGS)
flags.DEFINE_string("figure", _DEFAULT.figure, "Figure to choose by: f1, recall or precision.", flag_values=_FLAGS)
flags.DEFINE_string("second_predictions", "", "Judge: the second model's, of the same cells.", flag_values=_FLAGS)
flags.DEFINE_string("second_data_dir", "", "Judge: data set that the second model learned from.", flag_values=_FLAGS)
flags.DEFINE_float(
    "min_mass", None, "Judge: least sum of probabilities that sends a cell to the second model.", flag_values=_FLAGS
)
flags.DEFINE_integer(
    "num_resamples",
    _DEFAULT.num_resamples,
    "Random draws of FOVs (bootstrap) for the confidence intervals; more take longer.",
    flag_values=_FLAGS,
)
flags.DEFINE_integer("seed", _DEFAULT.seed, "Seed of the bootstrap's random draws.", flag_values=_FLAGS)
flags.DEFINE_string("out", "", "JSON file to write; default: beside the predictions.", flag_values=_FLAGS)


def run(config: SpecialiseConfig) -> dict[str, Any]:
    """Chooses classes, or judges two models; writes and returns the JSON values.

    Raises:
      ConfigError: no classes, one or all would be chosen.
      DatasetError: predictions that cannot be judged, or not together.
    """
    found = judge_together(config) if config.second_predictions else choose(config)
    storage.write_text(config.path, json.dumps(found, indent=2, allow_nan=False) + "\n")
    return found


def choose(config: SpecialiseConfig) -> dict[str, Any]:
    """Finds the weak classes and the commands that make a second model of them, as JSON values."""
    from trainer import judged, routing, second_model, shards
    from trainer.predictions import read_predictions

    predictions = read_predictions(config.predictions)
    judged.check_dataset(predictions, config.data_dir)
    answers = judged.judge(predictions)
    weak = routing.find_weak_classes(answers, figure=config.figure, below=config.below, worst=config.worst)
    manifest, _ = shards.read_manifest(config.data_dir)
    classes = ",".join(str(label) for label in weak["label"])
    return {
        **_describe(predictions.info),
        "chosen_by": {"figure": config.figure, "below": config.below, "worst": config.worst},
        "classes": _rows(weak),
        "other_classes": _rows(routing.class_table(answers).query("label not in @weak.label")),
        "classes_flag": f"--classes={classes}",
        "commands": second_model.make_commands(
            manifest, predictions.info, classes=classes, data_dir=config.data_dir, predictions=config.predictions
        ),
    }


def judge_together(config: SpecialiseConfig) -> dict[str, Any]:
    """Judges the first model alone and both together, as JSON values."""
    from trainer import judged, routing
    from trainer.predictions import read_predictions

    predictions, second = (read_predictions(path) for path in (config.predictions, config.second_predictions))
    if config.data_dir:
        judged.check_dataset(predictions, config.data_dir)
    answers = judged.judge(predictions)
    if config.second_data_dir:
        routing.check_not_learned(answers, config.second_data_dir)
    routed = routing.route(answers, second, min_mass=config.min_mass)
    differences = routed.differences(num_resamples=config.num_resamples, seed=config.seed)
    return {
        **_describe(predictions.info),
        "second_runs": list(second.info.runs),
        "rule": "likeliest class" if config.min_mass is None else f"probability mass of at least {config.min_mass}",
        "second_classes": [entry._asdict() for entry in second.info.classes],
        "fovs_checked_to_be_unknown_to_the_second": bool(config.second_data_dir),
        "counts": routed.counts(),
        "one": routing.overall(routed.first),
        "both": routing.overall(routed.both),
        "difference": {
            name: {key: _number(value) for key, value in dataclasses.asdict(difference).items()}
            for name, difference in differences.items()
        },
        "classes_one": _rows(routing.class_table(routed.first)),
        "classes_both": _rows(routing.class_table(routed.both)),
    }


def _describe(info: PredictionsInfo) -> dict[str, Any]:
    return {"split": info.split, "manifest_sha256": info.manifest_sha256, "runs": list(info.runs)}


def _rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [{name: _number(value) for name, value in row.items()} for row in table.to_dict("records")]


def _number(value: Any) -> Any:
    """JSON has no NaN: what is not defined is null."""
    return None if isinstance(value, float) and math.isnan(value) else value


def describe(found: dict[str, Any]) -> str:
    """Writes what `run` returns as tables for people."""
    if "classes" in found:
        return "\n".join([_format(found["classes"]), "", "a second model of these classes:", *found["commands"]])
    counts, lines = found["counts"], []
    scope = {row["label"] for row in found["second_classes"]}
    for one, both in zip(found["classes_one"], found["classes_both"], strict=True):
        figures = {
            f"{name} of {who}": row[name] for name in ("f1", "recall") for who, row in (("one", one), ("both", both))
        }
        lines.append(
            {"second": "*" if one["label"] in scope else "", "name": one["name"], "cells": one["support"], **figures}
        )
    texts = [_format(lines), "* class of the second model", ""]
    for name in ("accuracy", "macro_f1"):
        own = found["difference"][name]
        texts.append(
            f"{name}: one {found['one'][name]:.4f}, both {found['both'][name]:.4f}, difference {own['value']:+.4f}"
            + ("" if own["low"] is None else f" (95 % of resamples of FOVs: {own['low']:+.4f} to {own['high']:+.4f})")
        )
    texts.append(
        f"{counts['num_routed']} of {counts['num_cells']} cells went to the second model ({found['rule']}), "
        f"{counts['num_routed_in_scope']} of them of its classes; {counts['num_changed']} answers changed: "
        f"{counts['num_mended']} became right, {counts['num_broken']} wrong"
    )
    if not found["fovs_checked_to_be_unknown_to_the_second"]:
        texts.append("not checked whether the second model learned from these FOVs: give --second_data_dir")
    return "\n".join(texts)


def _format(rows: list[dict[str, Any]]) -> str:
    import pandas as pd

    return pd.DataFrame(rows).to_string(index=False, float_format="%.3f", na_rep="-")


def make_config(argv: Sequence[str]) -> SpecialiseConfig | None:
    """Makes the config that a command line asks for; None where it asks for help.

    Raises:
      ConfigError: a flag that is not known, missing, without a value or of another type.
    """
    return command.read_config(_FLAGS, argv, SpecialiseConfig, module="trainer.specialise")


def _work(config: SpecialiseConfig) -> str:
    return f"{describe(run(config))}\n\nsee {config.path}"


def main(argv: Sequence[str]) -> int:
    """Runs the command and returns its exit status."""
    return command.run_main(argv, make_config, _work, values=_FLAGS, doc=__doc__)


if __name__ == "__main__":
    sys.exit(main(sys.argv))

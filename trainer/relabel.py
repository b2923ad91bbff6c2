r"""Turns labels of FOVs into labels of cells: a cell keeps a label of its FOV only where the models agree.

A FOV's label says that some of its cells show a class. Train on them with --label_scope=all and folds, so that every cell is
judged by a model that never saw its FOV; then relabel, write the data set again with the labels, and train on that one:

    python -m beam_jobs.shard --cells_dir=cells --data_dir=weak --label_scope=all --num_folds=3
    python -m trainer.train --data_dir=weak --name=weak0 --fold=0 --num_folds=3      # likewise weak1, weak2
    python -m trainer.relabel --runs=runs/weak0,runs/weak1,runs/weak2 --data_dir=weak --out_dir=relabelled
    python -m beam_jobs.shard --cells_dir=cells --data_dir=strong --label_scope=all --num_folds=3 --splits_of=weak \
        --cell_labels=relabelled/cell_labels.parquet

Writes cell_labels.parquet (cell_id, labels, fov_labels; its metadata, and through `beam_jobs.shard` the manifest, say how it
was made) and the same as relabel.json, for people: runs, rules, and for each class its threshold and what was kept and removed.
Cells that are left without a label are in the file with an empty set; `beam_jobs.shard` drops them as no_cell_label.

All rules and flags: python -m trainer.relabel --help
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from absl import flags

from hpa_proto import schema, storage
from hpa_proto.errors import ConfigError
from trainer import command, relabelling
from trainer.relabelling import Relabelled, RelabelRules

if TYPE_CHECKING:
    from trainer.predictions import Predictions

LABELS_NAME = "cell_labels.parquet"
RECORD_NAME = "relabel.json"


@dataclasses.dataclass(frozen=True)
class RelabelConfig:
    """One relabelling.

    Attributes:
      runs: folders or fsspec URLs of the runs of a cross-validation, one for each fold.
      out_dir: folder to write, local or an fsspec URL.
      data_dir: folder of the runs' data set; None: their predictions are there already.
      checkpoint: "best" or "last".
      batch_size: of predicting.
      rules: the choices in the rules.
    """

    runs: tuple[str, ...]
    out_dir: str
    data_dir: str | None = None
    checkpoint: str = "best"
    batch_size: int = 32
    rules: RelabelRules = dataclasses.field(default_factory=RelabelRules)

    def __post_init__(self) -> None:
        if self.checkpoint not in ("best", "last"):
            raise ConfigError(f"--checkpoint={self.checkpoint}: choose best or last")
        if self.batch_size < 1:
            raise ConfigError(f"--batch_size={self.batch_size}: give at least 1")


@dataclasses.dataclass(frozen=True)
class RelabelResult:
    """What was written.

    Attributes:
      path: of the cell labels.
      record: of relabel.json.
      relabelled: labels and counts.
    """

    path: str
    record: dict[str, Any]
    relabelled: Relabelled


# Of this command alone: the flags of two commands may have the same names, and absl's own registry is one for all.
_FLAGS = flags.FlagValues()
_DEFAULT = RelabelConfig(runs=(), out_dir="")
flags.DEFINE_boolean("help", False, "Show this help.", flag_values=_FLAGS)
flags.DEFINE_list("runs", [], "Folders of the runs, one for each fold, comma-separated.", flag_values=_FLAGS)
flags.DEFINE_string("out_dir", None, "Folder to write.", flag_values=_FLAGS)
flags.DEFINE_string(
    "data_dir",
    None,
    "Folder of the runs' data set; not needed where they have predicted their folds.",
    flag_values=_FLAGS,
)
flags.DEFINE_string("checkpoint", _DEFAULT.checkpoint, "best or last.", flag_values=_FLAGS)
flags.DEFINE_integer("batch_size", _DEFAULT.batch_size, "Of predicting.", flag_values=_FLAGS)
flags.DEFINE_float(
    "null_quantile",
    _DEFAULT.rules.null_quantile,
    "Share of the cells of FOVs without a class that stay below its threshold.",
    flag_values=_FLAGS,
)
flags.DEFINE_integer(
    "min_cells_per_fov_label",
    _DEFAULT.rules.min_cells_per_fov_label,
    "Cells of a FOV that keep a label of it at least.",
    flag_values=_FLAGS,
)
flags.DEFINE_enum(
    "leftover",
    _DEFAULT.rules.leftover,
    relabelling.LEFTOVER,
    "Cells that keep no label: Negative where the models say so, or dropped.",
    flag_values=_FLAGS,
)


def run(config: RelabelConfig) -> RelabelResult:
    """Relabels, and writes the two files.

    Raises:
      ConfigError: runs that are not one of each fold of one data set.
      DatasetError: the data set or its predictions cannot be used.
    """
    # Late: importing Keras and TensorFlow takes seconds, and a wrong flag should not.
    from trainer import out_of_fold

    predictions = out_of_fold.gather(
        config.runs, config.data_dir, checkpoint=config.checkpoint, batch_size=config.batch_size
    )
    relabelled = relabelling.relabel(predictions, config.rules)
    record = describe(config, predictions, relabelled)
    data = _to_parquet(predictions, relabelled, record)
    path = storage.join(config.out_dir, LABELS_NAME)
    storage.write_bytes(path, data)
    file = {"file": LABELS_NAME, "sha256": hashlib.sha256(data).hexdigest()}
    storage.write_text(storage.join(config.out_dir, RECORD_NAME), json.dumps({**file, **record}, indent=2) + "\n")
    return RelabelResult(path, record, relabelled)


def describe(config: RelabelConfig, predictions: Predictions, relabelled: Relabelled) -> dict[str, Any]:
    """Returns how the labels came about, as JSON values: rules in words and numbers, runs, classes, counts."""
    from trainer import run_folder
    from trainer.checkpoints import Checkpoints

    digest_of = {}
    for run_dir in config.runs:
        with storage.open_read(Checkpoints(run_dir).path_of(config.checkpoint)) as file:
            digest_of[run_folder.name_of(run_dir)] = hashlib.file_digest(file, "sha256").hexdigest()
    # NaN is not JSON.
    per_class = relabelled.per_class.astype(object).where(relabelled.per_class.notna(), None)
    changed = relabelled.labels != (predictions.labels > 0)
    return {
        "made_by": "trainer.relabel",
        "rules": relabelling.RULES,
        **dataclasses.asdict(config.rules),
        "manifest_sha256": predictions.info.manifest_sha256,
        "runs": [{**one, "checkpoint_sha256": digest_of[one["run_dir"]]} for one in predictions.info.runs],
        "num_cells": predictions.num_cells,
        "num_cells_changed": int(changed.any(axis=1).sum()),
        "num_cells_without_label": int((~relabelled.labels.any(axis=1)).sum()),
        "classes": per_class.to_dict("records"),
    }


def _to_parquet(predictions: Predictions, relabelled: Relabelled, record: dict[str, Any]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    numbers = [info.label for info in predictions.info.classes]

    def to_lists(is_set: Any) -> Any:
        return pa.array([sorted(numbers[k] for k in row.nonzero()[0]) for row in is_set], pa.list_(pa.int64()))

    columns = {
        "cell_id": pa.array(predictions.cell_ids, pa.string()),
        "labels": to_lists(relabelled.labels),
        "fov_labels": to_lists(predictions.labels > 0),
    }
    table = pa.table(columns).replace_schema_metadata({schema.CELL_LABELS_KEY: json.dumps(record)})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return sink.getvalue().to_pybytes()


def make_config(argv: Sequence[str]) -> RelabelConfig | None:
    """Makes the config that a command line asks for; None where it asks for help.

    Raises:
      ConfigError: a flag that is not known, missing, without a value or of another type.
    """
    return command.read_config(
        _FLAGS,
        argv,
        RelabelConfig,
        module="trainer.relabel",
        required=("runs", "out_dir"),
        runs=lambda values: tuple(values.runs),
        rules=lambda values: RelabelRules(
            **{field.name: values[field.name].value for field in dataclasses.fields(RelabelRules)}
        ),
    )


def _work(config: RelabelConfig) -> str:
    result = run(config)
    record, table = result.record, result.relabelled.per_class
    table = table.drop(columns=["label", "null_quantile", "self_confidence"]).rename(columns={"name": "class"})
    table.columns = [name.removeprefix("num_").replace("_", " ") for name in table.columns]
    without = record["num_cells_without_label"]
    return "\n".join(
        [
            table.to_string(index=False, na_rep="-", float_format="{:.3f}".format),
            "",
            f"{record['num_cells']:,} cells, {record['num_cells_changed']:,} changed, {without:,} without a label",
            f"wrote {result.path} and {storage.join(config.out_dir, RECORD_NAME)}",
            f"next: python -m beam_jobs.shard --cell_labels={result.path} --splits_of={config.data_dir or 'DATASET'} "
            f"--num_folds={len(config.runs)} --label_scope=all --cells_dir=... --data_dir=...",
        ]
    )


def main(argv: Sequence[str]) -> int:
    """Runs the command and returns its exit status."""
    return command.run_main(argv, make_config, _work, values=_FLAGS, doc=f"{__doc__}\n{relabelling.RULES}\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv))

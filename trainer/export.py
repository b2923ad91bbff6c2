r"""Exports the classifier of a run as a model of its own: uint8 cells in, probabilities out, class names inside.

    python -m trainer.export --run_dir=runs/first --out_dir=exported --formats=saved_model,keras,onnx

Writes, whole or not at all, saved_model/, model.keras and model.onnx, each compared with Keras in the same run, and
export.json, the model card. `trainer/exported_model.py` says how to call each of them. onnx needs
`pip install tf2onnx onnx onnxruntime`.

All flags: python -m trainer.export --help
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags

from hpa_proto import storage
from hpa_proto.errors import ConfigError
from trainer import command

if TYPE_CHECKING:
    import keras

    from trainer.trained_model import TrainedModel

CARD_NAME = "export.json"


@dataclasses.dataclass(frozen=True)
class ExportConfig:
    """One export.

    Attributes:
      run_dir: folder or fsspec URL of the run.
      out_dir: folder or fsspec URL to make; it must not be there yet, or be empty.
      formats: of "saved_model", "keras" and "onnx".
      checkpoint: "best" or "last".
      embeddings: the pooled features are a second output.
    """

    run_dir: str
    out_dir: str
    formats: tuple[str, ...] = ("saved_model", "keras")
    checkpoint: str = "best"
    embeddings: bool = False


# Of this command alone: the flags of two commands may have the same names, and absl's own registry is one for all.
_FLAGS = flags.FlagValues()
_DEFAULT = ExportConfig(run_dir="", out_dir="")
flags.DEFINE_boolean("help", False, "Show this help.", flag_values=_FLAGS)
flags.DEFINE_string("run_dir", None, "Folder or URL of the run (runs/<name>).", flag_values=_FLAGS)
flags.DEFINE_string("out_dir", None, "Folder or URL to write; it must not be there yet.", flag_values=_FLAGS)
flags.DEFINE_list(
    "formats",
    list(_DEFAULT.formats),
    "Formats to write, comma-separated: saved_model, keras, onnx.",
    flag_values=_FLAGS,
)
flags.DEFINE_string(
    "checkpoint",
    _DEFAULT.checkpoint,
    "Which weights of the run: those of its best epoch (best) or of its last (last).",
    flag_values=_FLAGS,
)
flags.DEFINE_boolean("embeddings", False, "The model gives each cell's features (embedding) too.", flag_values=_FLAGS)


def run(config: ExportConfig) -> dict[str, Any]:
    """Exports; returns the model card.

    Raises:
      ConfigError: the run folder, the output folder or a format cannot be used.
      ConversionError: a written model does not compute what the Keras model does.
    """
    # Late: importing Keras takes seconds, and a wrong flag should not.
    from trainer import exported_model, trained_model

    formats = tuple(dict.fromkeys(config.formats))
    exported_model.check_formats(formats)
    with _make_folder(config.out_dir) as part:
        trained = trained_model.load_trained_model(config.run_dir, checkpoint=config.checkpoint)
        model = exported_model.build_exported_model(
            trained.classifier,
            trained.source.class_names,
            channels=trained.source.manifest.channels,
            multi_label=trained.source.multi_label,
            embeddings=config.embeddings,
        )
        differences = exported_model.write_formats(model, part, formats)
        files = {name: exported_model.FILE_NAMES[name] for name in formats}
        card = describe_export(config, trained, model, differences=differences, files=files)
        (part / CARD_NAME).write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
    return card


@contextlib.contextmanager
def _make_folder(out_dir: str) -> Iterator[Path]:
    """Yields a folder to fill; it becomes `out_dir` when the block ends without an error."""
    taken = ConfigError(f"--out_dir={out_dir}: give a folder that is not there yet")
    if storage.is_url(out_dir):
        if storage.list_files(out_dir):
            raise taken
        with tempfile.TemporaryDirectory() as part:
            yield Path(part)
            # With the card the export is whole.
            storage.upload_folder(part, out_dir, last=CARD_NAME)
        return
    folder = Path(out_dir).absolute()
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise taken
    part = folder.with_name(f".tmp-{folder.name}")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        yield part
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def describe_export(
    config: ExportConfig,
    trained: TrainedModel,
    model: keras.Model,
    *,
    differences: dict[str, dict[str, float]],
    files: dict[str, str],
) -> dict[str, Any]:
    """Returns the model card, as JSON values.

    Args:
      config: of the export.
      trained: what is exported.
      model: of `exported_model.build_exported_model`.
      differences: of `exported_model.write_formats`.
      files: format -> name of its file or folder.
    """
    from trainer import exported_model, run_folder

    manifest = trained.source.manifest
    with storage.open_read(trained.checkpoint) as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    versions = run_folder.versions()
    if "onnx" in files:
        versions |= {name: importlib.metadata.version(name) for name in exported_model.ONNX_PACKAGES}
    return {
        "run": run_folder.name_of(config.run_dir),
        "model": trained.config.model,
        "checkpoint": {
            "name": config.checkpoint,
            "epoch": trained.epoch,
            "averaged_weights": trained.averaged,
            "sha256": digest,
        },
        "manifest_sha256": trained.source.manifest_sha256,
        "classes": [{"label": info.label, "name": info.name} for info in manifest.classes],
        "label_scope": manifest.label_scope,
        "probabilities": "sigmoid" if trained.source.multi_label else "softmax",
        "channels": list(manifest.channels),
        "image_size_px": manifest.image_size_px,
        "input": {"name": "planes", "dtype": "uint8", "shape": list(model.input_shape), "axes": "BCHW"},
        "outputs": {
            name: {"dtype": output.dtype, "shape": list(output.shape)} for name, output in model.output.items()
        },
        "formats": {
            name: {"file": file, "max_abs_difference_to_keras": differences[name]} for name, file in files.items()
        },
        "versions": versions,
    }


def make_config(argv: Sequence[str]) -> ExportConfig | None:
    """Makes the config that a command line asks for; None where it asks for help.

    Raises:
      ConfigError: a flag that is not known, missing, without a value or of another type.
    """
    return command.read_config(
        _FLAGS,
        argv,
        ExportConfig,
        module="trainer.export",
        required=("run_dir", "out_dir"),
        formats=lambda values: tuple(values.formats),
    )


def _work(config: ExportConfig) -> str:
    card = run(config)
    lines = []
    for entry in card["formats"].values():
        differences = ", ".join(f"{key} {value:.1e}" for key, value in entry["max_abs_difference_to_keras"].items())
        lines.append(f"{config.out_dir}/{entry['file']}: largest difference to Keras on random cells: {differences}")
    lines.append(f"{len(card['classes'])} classes, {card['probabilities']}; see {config.out_dir}/{CARD_NAME}")
    return "\n".join(lines)


def main(argv: Sequence[str]) -> int:
    """Runs the command and returns its exit status."""
    return command.run_main(argv, make_config, _work, values=_FLAGS, doc=__doc__, errors=(ArithmeticError,))


if __name__ == "__main__":
    sys.exit(main(sys.argv))

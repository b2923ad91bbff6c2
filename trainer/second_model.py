"""The commands that make a second model of some of a data set's classes, and judge it with the first."""

from __future__ import annotations

import posixpath
import shlex
from collections.abc import Sequence
from typing import Any

from hpa_proto import cells_pb2, schema, storage
from hpa_proto.redaction import redact_arguments
from trainer.predictions import PredictionsInfo

# Flags of beam_jobs.shard that choose cells and splits: the second data set is chosen as the first was, but for the classes.
KEPT_FLAGS: tuple[str, ...] = (
    "cells_dir",
    "max_cells_per_class",
    "min_green_png_bytes",
    "max_green_png_bytes",
    "drop_border_cells",
    "drop_without_nucleus",
    "max_nuclei",
    "min_focus",
    "max_saturated_fraction",
    "min_area_um2",
    "max_area_um2",
    "min_green_snr",
    "splits",
    "group_column",
    "cells_per_shard",
    "seed",
)


def make_commands(
    manifest: cells_pb2.DatasetManifest, info: PredictionsInfo, *, classes: str, data_dir: str, predictions: str
) -> list[str]:
    """Writes the commands that make a second model, train it and judge both.

    Args:
      manifest: of the first model's data set.
      info: of the first model's predictions.
      classes: of the second, as --classes takes them.
      data_dir: of the first; the second's gets "-weak" after it.
      predictions: file of the first model's predictions.
    """
    run = info.runs[0] if info.runs else {"name": "first", "model": None}
    folder = posixpath.dirname(predictions)
    first = folder if posixpath.basename(folder) == run["name"] else f"runs/{run['name']}"
    second, weak_dir = f"{first}-weak", f"{data_dir.rstrip('/')}-weak"
    chosen = read_flags(manifest.command_line)
    # What `beam_jobs.convert` made has its cell store beside it.
    beside = storage.join(posixpath.dirname(data_dir.rstrip("/")) or ".", "cells")
    options = {"cells_dir": storage.join(chosen.get("out_dir", ""), "cells")}
    options |= {name: value for name, value in chosen.items() if name in KEPT_FLAGS}
    if "cells_dir" not in chosen and storage.exists(storage.join(beside, "config.json")):
        options["cells_dir"] = beside
    if manifest.jpeg_quality:
        options["jpeg_quality"] = manifest.jpeg_quality
    shard = options | {
        "data_dir": weak_dir,
        # Else FOVs that the first model is judged on might be learned from.
        "splits_of": data_dir,
        "classes": classes,
        "label_scope": manifest.label_scope,
        "image_size_px": manifest.image_size_px,
        "channels": schema.channel_initials(manifest.channels),
        "format": manifest.image_format,
        "mask_background": manifest.mask_background,
        "keep_aspect_ratio": manifest.keep_aspect_ratio,
    }
    train = {"data_dir": weak_dir, "runs_dir": posixpath.dirname(first) or ".", "name": posixpath.basename(second)}
    if run["model"]:
        train["model"] = run["model"]
    predict = {"data_dir": data_dir, "split": "test"}
    judge = {
        "predictions": f"{first}/predictions-test.parquet",
        "second_predictions": f"{second}/predictions-test.parquet",
        "second_data_dir": weak_dir,
    }
    return [
        _command("beam_jobs.shard", shard),
        _command("trainer.train", train),
        _command("trainer.predict", {"run_dir": first, **predict}),
        # The second model does not know all classes of these cells.
        _command("trainer.predict", {"run_dir": second, **predict, "ignore_labels": True}),
        _command("trainer.specialise", judge),
    ]


def read_flags(command_line: Sequence[str]) -> dict[str, str]:
    """Reads flags back from a command line, as a manifest records it: name -> value, "true" or "false" without one."""
    found = {}
    for index, token in enumerate(command_line):
        if not token.startswith("-"):
            continue
        name, has_value, value = token.lstrip("-").partition("=")
        if not has_value:
            following = command_line[index + 1 : index + 2]
            value = following[0] if following and not following[0].startswith("-") else "true"
        if name.removeprefix("no") in KEPT_FLAGS and name.startswith("no"):
            name, value = name.removeprefix("no"), "false"
        found[name] = value
    return found


def _command(module: str, options: dict[str, Any]) -> str:
    texts = {name: str(value).lower() if isinstance(value, bool) else value for name, value in options.items()}
    # They are printed, and written to a file.
    return shlex.join(
        redact_arguments(["python", "-m", module, *(f"--{name}={value}" for name, value in texts.items())])
    )

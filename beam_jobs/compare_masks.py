"""Compares two segmentations of the same FOVs: which cells agree, which are missed, merged, split, and where.

    python -m beam_jobs.compare_masks --a=masks --b=cells --images=images --out_dir=comparison

--a and --b are folders of masks, as --segmenter=masks reads them, or cell stores. Writes <out_dir>/comparison.csv, with a
row per FOV and the figures of all FOVs, and <out_dir>/<fov_id>.jpg, a picture of the disagreements.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
from absl import flags

from beam_jobs import cell_pictures, command, examples, mask_comparison, mask_source
from beam_jobs.fov_reader import read_fov
from beam_jobs.fov_source import FovRef, check_id, find_fovs
from hpa_proto import pictures, storage
from hpa_proto.errors import ConfigError, FovError

TABLE_NAME = "comparison.csv"
# Rows of the table beside the FOVs. An id cannot start with a bracket.
POOLED = "(all objects)"
MEAN = "(mean of FOVs)"

_PICTURE_SIDE_PX = 1400
_MAX_NAMES = 3
_PRINTED = {
    "num_a": "a",
    "num_b": "b",
    "f1_0.50": "F1@0.5",
    "f1_0.60": "F1@0.6",
    "f1_0.75": "F1@0.75",
    "f1_0.90": "F1@0.9",
    "mean_f1": "F1 mean",
    "mean_iou": "IoU mean",
    "num_merges": "merges",
    "num_splits": "splits",
    "num_missed": "missed",
    "num_extra": "extra",
}


@dataclasses.dataclass(frozen=True)
class CompareConfig:
    """What is compared.

    Attributes:
      a: folder of masks or cell store; the reference.
      b: likewise.
      kind: "cells" or "nuclei".
      images: the FOVs' images, for the pictures; None: outlines on black.
      out_dir: where table and pictures go; None: nothing is written.
      iou_threshold: 0.5 to 1; what counts as missed or extra.
    """

    a: str
    b: str
    kind: str = mask_source.CELLS
    images: str | None = None
    out_dir: str | None = None
    iou_threshold: float = 0.6

    def __post_init__(self) -> None:
        if self.kind not in mask_source.KINDS:
            raise ConfigError(f"--which={self.kind}: choose one of {', '.join(mask_source.KINDS)}")
        if not 0.5 <= self.iou_threshold <= 1:
            raise ConfigError(f"--iou_threshold={self.iou_threshold}: give 0.5 to 1, where a match is unique")
        if self.images and not self.out_dir:
            raise ConfigError("--images is for the pictures; say with --out_dir where they are to go")


@dataclasses.dataclass(frozen=True)
class CompareResult:
    """What was found.

    Attributes:
      table: a row per FOV, sorted by id, and the rows `POOLED` and `MEAN`; columns of `Agreement.to_row`.
      only_in_a: ids of FOVs that b lacks.
      only_in_b: ids of FOVs that a lacks.
    """

    table: pd.DataFrame
    only_in_a: tuple[str, ...]
    only_in_b: tuple[str, ...]


def run(config: CompareConfig) -> CompareResult:
    """Compares the FOVs that both have, and writes table and pictures.

    Raises:
      ConfigError: a folder without masks, no FOV in common, masks of different size, a mask or an image that cannot be read.
      DatasetError: a damaged cell store.
    """
    source_a, source_b = (mask_source.open_masks(path, kind=config.kind) for path in (config.a, config.b))
    common = sorted(source_a.fov_ids & source_b.fov_ids)
    if not common:
        raise ConfigError(
            f"no FOV has {config.kind} in both: {config.a} has {_name_some(source_a.fov_ids)}; "
            f"{config.b} has {_name_some(source_b.fov_ids)}"
        )
    images = {fov.fov_id: fov for fov in find_fovs(config.images, None).fovs} if config.images else {}
    agreements = {}
    for fov_id in common:
        # It becomes the name of a picture.
        check_id(fov_id, f"{config.a} and {config.b}")
        a, b = source_a.read(fov_id), source_b.read(fov_id)
        if a.shape != b.shape:
            raise ConfigError(f"fov {fov_id}: its mask is {_size(a)} px in {config.a} and {_size(b)} px in {config.b}")
        agreements[fov_id], disagreement = mask_comparison.compare(a, b, iou_threshold=config.iou_threshold)
        if config.out_dir:
            pixels = _read_pixels(images, fov_id, a) if config.images else None
            picture = mask_comparison.draw(a, b, disagreement, pixels=pixels, max_side_px=_PICTURE_SIDE_PX)
            caption = (f"{fov_id}: {_describe(agreements[fov_id], config)}", *mask_comparison.LEGEND)
            sheet = pictures.contact_sheet([picture], [caption], num_columns=1)
            cell_pictures.write_picture(storage.join(config.out_dir, f"{fov_id}.jpg"), sheet)
    table = pd.DataFrame([agreement.to_row() for agreement in agreements.values()], index=common)
    pooled = mask_comparison.pool(list(agreements.values())).to_row()
    table = pd.concat([table, pd.DataFrame([pooled, table.mean()], index=[POOLED, MEAN])])
    if config.out_dir:
        text = table.to_csv(index_label="fov_id", float_format="%.6g")
        storage.write_text(storage.join(config.out_dir, TABLE_NAME), text)
    return CompareResult(
        table, tuple(sorted(source_a.fov_ids - source_b.fov_ids)), tuple(sorted(source_b.fov_ids - source_a.fov_ids))
    )


def describe(result: CompareResult, config: CompareConfig) -> str:
    """Writes the table and the notes for a terminal."""
    table = result.table[list(_PRINTED)].rename(columns=_PRINTED)
    formats = {_PRINTED[name]: "{:.4g}".format if name.startswith("num_") else "{:.3f}".format for name in _PRINTED}
    lines = [
        f"{config.kind} of a = {config.a} and b = {config.b}; missed and extra at IoU {config.iou_threshold:g}",
        table.to_string(formatters=formats),
    ]
    for name, ids in (("a", result.only_in_a), ("b", result.only_in_b)):
        if ids:
            lines.append(f"note      only in {name}, not compared: {_name_some(ids)}")
    if config.out_dir:
        lines.append(f"wrote     {storage.join(config.out_dir, TABLE_NAME)} and a picture of each FOV beside it")
    return "\n".join(lines)


def _describe(agreement: mask_comparison.Agreement, config: CompareConfig) -> str:
    row = agreement.to_row()
    counts = ", ".join(f"{name} {row[f'num_{name}']}" for name in ("merges", "splits", "missed", "extra"))
    return f"{row['num_a']} {config.kind} in a, {row['num_b']} in b, F1 {row['f1_0.60']:.2f} at IoU 0.6; {counts}"


def _read_pixels(images: dict[str, FovRef], fov_id: str, mask: np.ndarray) -> np.ndarray:
    if fov_id not in images:
        raise ConfigError(f"fov {fov_id}: no image of it under --images")
    try:
        image = read_fov(images[fov_id])
    except FovError as error:
        raise ConfigError(error.detail) from error
    if image.pixels.shape[:2] != mask.shape:
        raise ConfigError(f"fov {fov_id}: its image is {_size(image.pixels)} px, its masks are {_size(mask)} px")
    return examples.to_uint8(image.pixels, bit_depth=image.bit_depth)


def _size(image: np.ndarray) -> str:
    return f"{image.shape[0]} x {image.shape[1]}"


def _name_some(ids: frozenset[str] | tuple[str, ...]) -> str:
    named = sorted(ids)
    rest = len(named) - _MAX_NAMES
    return ", ".join(named[:_MAX_NAMES]) + (f" and {rest} more" if rest > 0 else "") if named else "none"


def define_flags() -> None:
    """Defines the flags; their values go into one CompareConfig."""
    flags.DEFINE_string("a", None, "Folder of masks, or cell store: the reference.")
    flags.DEFINE_string("b", None, "Folder of masks, or cell store: what is compared with it.")
    flags.DEFINE_enum("which", mask_source.CELLS, list(mask_source.KINDS), "What is compared.")
    flags.DEFINE_string("images", None, "The FOVs' images, to be drawn below the outlines.")
    flags.DEFINE_string("out_dir", None, "Folder for the table and the pictures.")
    flags.DEFINE_float("iou_threshold", 0.6, "What overlaps less counts as missed or extra; 0.5 to 1.")


def main(unknown_flags: list[str]) -> None:
    """Compares what the flags name.

    Raises:
      ConfigError: as `run`, or an unknown flag.
    """
    if unknown_flags:
        raise ConfigError(f"unknown flag {unknown_flags[0]}; see --help")
    values = flags.FLAGS
    config = CompareConfig(
        a=command.required("a", values.a),
        b=command.required("b", values.b),
        kind=values.which,
        images=values.images,
        out_dir=values.out_dir,
        iou_threshold=values.iou_threshold,
    )
    print(describe(run(config), config))


if __name__ == "__main__":
    define_flags()
    command.run_main(main)

"""Checks a data set: every shard against manifest and plan, every record's checksum, every picture.

    python -m beam_jobs.inspect dataset
    python -m beam_jobs.inspect dataset --quick --show=48 --out=cells.png

Prints what the data set holds. Ends with status 1 and the first fault's file and byte offset when something is wrong.
--quick looks at manifest, plan and file sizes only. --show=N draws N cells, spread over classes and splits.
--num_threads=N checks N shards at the same time. Near-identical FOVs (near_duplicates) in different splits are a fault;
--duplicate_bits=0 does not look for them.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import sys

import cv2
import numpy as np
import pandas as pd
import tqdm
from absl import flags

from beam_jobs import cell_pictures, command, dataset_check, dataset_job, near_duplicates
from hpa_proto import cells_pb2, pictures, schema, shard_check, storage
from hpa_proto import labels as hpa_labels
from hpa_proto.errors import ConfigError, DatasetError

_SHOWN_SIDE_PX = 192
_SHEET_COLUMNS = 8


@dataclasses.dataclass(frozen=True)
class InspectConfig:
    """What to look at.

    Attributes:
      data_dir: the data set's folder.
      quick: reads no shard.
      num_shown: cells to draw.
      picture_path: where to draw them.
      num_threads: shards that are read at the same time.
      duplicate_bits: FOVs are near-identical if at most so many of the 256 bits of their hashes differ; 0: not looked for.
    """

    data_dir: str
    quick: bool = False
    num_shown: int = 0
    picture_path: str = ""
    num_threads: int = 1
    duplicate_bits: int = near_duplicates.DEFAULT_MAX_BITS

    def __post_init__(self) -> None:
        near_duplicates.check_max_bits(self.duplicate_bits)
        if bool(self.num_shown) != bool(self.picture_path):
            raise ConfigError("--show=N and --out=cells.png go together: how many cells to draw, and where")
        if self.picture_path:
            pictures.check_picture_path(self.picture_path)


def run(config: InspectConfig) -> str:
    """Checks a data set and describes it.

    Raises:
      DatasetError: the first fault, with its file and offset.
    """
    manifest = dataset_job.read_manifest(config.data_dir)
    plan = dataset_check.read_plan(config.data_dir)
    if config.quick:
        dataset_check.check_sizes(config.data_dir, manifest.shards)
    try:
        dataset_check.check_plan(plan, manifest, path=storage.join(config.data_dir, schema.PLAN_NAME))
    except DatasetError:
        # A manifest that does not fit the shards is first of all that, and the trainer says it in the same words.
        if not config.quick:
            for shard in manifest.shards:
                shard_check.check_content(config.data_dir, shard, manifest)
        raise
    hashes = dataset_check.read_hashes(config.data_dir)
    dataset_check.check_duplicates(
        plan,
        hashes or {},
        path=storage.join(config.data_dir, schema.PLAN_NAME),
        max_bits=config.duplicate_bits,
    )
    if not config.quick:
        _check_shards(config, plan, manifest)
    if config.num_shown:
        cell_pictures.write_picture(config.picture_path, draw_cells(config.data_dir, plan, num_cells=config.num_shown))
    return describe(manifest, plan, config, has_hashes=hashes is not None)


def describe(
    manifest: cells_pb2.DatasetManifest, plan: pd.DataFrame, config: InspectConfig, *, has_hashes: bool
) -> str:
    """Writes what a sound data set holds."""
    num_cells = sum(split.num_examples for split in manifest.splits)
    num_bytes = sum(each.num_bytes for each in manifest.shards)
    quality = f", quality {manifest.jpeg_quality}" if manifest.jpeg_quality else ""
    background = "black outside the cell" if manifest.mask_background else "neighbours kept"
    dropped = plan.loc[plan["dropped"] != "", "dropped"].value_counts()
    lines = [
        f"data set  {config.data_dir}",
        f"pictures  {manifest.image_size_px} px, {schema.channel_initials(manifest.channels)}, "
        f"{manifest.image_format}{quality}, {background}",
        f"cells     {num_cells:,} in {len(manifest.shards):,} shards, {num_bytes / 1e6:,.1f} MB "
        f"({num_bytes / 1e3 / max(1, num_cells):,.1f} KB a cell); label scope {manifest.label_scope}",
        *(f"dropped   {count:,} {reason}" for reason, count in dropped.items()),
        "",
        _count_classes(manifest).to_string(),
        "",
    ]
    if config.num_shown:
        lines.append(f"picture   {config.picture_path}")
    if not has_hashes:
        lines.append(
            "note      made before FOVs had perceptual hashes: no one looked for near-identical FOVs across splits"
        )
    checked = "manifest, plan and file sizes" if config.quick else f"manifest, plan and all {num_cells:,} records"
    return "\n".join([*lines, f"sound     {checked} checked"])


def draw_cells(data_dir: str, plan: pd.DataFrame, *, num_cells: int) -> np.ndarray:
    """Draws a contact sheet of examples with their classes and splits: uint8[H, W, 3], RGB."""
    chosen = dataset_check.choose_cells(plan, num_cells=num_cells)
    drawn, captions = [], []
    for example, split in zip(dataset_check.read_examples(data_dir, chosen, plan), chosen["split"], strict=True):
        planes = np.moveaxis(example.image, 0, 2)
        small = cv2.resize(planes, (_SHOWN_SIDE_PX, _SHOWN_SIDE_PX), interpolation=cv2.INTER_AREA)
        small = small.reshape(_SHOWN_SIDE_PX, _SHOWN_SIDE_PX, -1)  # OpenCV drops a single channel's axis
        drawn.append(pictures.colour_picture(small, channels=example.channels))
        names = ", ".join(hpa_labels.LABEL_NAMES[label] for label in example.labels) or "not labelled"
        captions.append((names, f"{split}, {hpa_labels.format_label_set(example.labels)}".rstrip(", ")))
    return pictures.contact_sheet(drawn, captions, num_columns=_SHEET_COLUMNS)


def _check_shards(config: InspectConfig, plan: pd.DataFrame, manifest: cells_pb2.DatasetManifest) -> None:
    planned = dataset_check.group_by_shard(plan)

    def check(info: cells_pb2.ShardInfo) -> int:
        dataset_check.check_shard(config.data_dir, info, planned[info.name], manifest)
        return info.num_bytes

    num_bytes = sum(info.num_bytes for info in manifest.shards)
    with (
        tqdm.tqdm(total=num_bytes, desc="check", unit="B", unit_scale=True, disable=not sys.stderr.isatty()) as bar,
        concurrent.futures.ThreadPoolExecutor(config.num_threads) as pool,
    ):
        # In the manifest's order, so that the first fault is the same however many threads there are.
        for size in pool.map(check, manifest.shards):
            bar.update(size)


def _count_classes(manifest: cells_pb2.DatasetManifest) -> pd.DataFrame:
    rows = {
        f"{each.label:>2} {each.name}": [split.num_examples_per_label.get(each.label, 0) for split in manifest.splits]
        for each in manifest.classes
    }
    rows["all cells"] = [split.num_examples for split in manifest.splits]
    rows["FOVs"] = [split.num_fovs for split in manifest.splits]
    return pd.DataFrame.from_dict(rows, orient="index", columns=[split.name for split in manifest.splits])


def define_flags() -> None:
    """Defines the flags."""
    flags.DEFINE_string("data_dir", None, "Folder of the data set; may also stand without a flag.")
    flags.DEFINE_bool("quick", False, "Checks manifest, plan and file sizes only; reads no shard.")
    flags.DEFINE_integer("show", 0, "Draws this many cells, spread over classes and splits.", 0)
    flags.DEFINE_string("out", None, "Picture to write with --show, .png or .jpg.")
    flags.DEFINE_integer("num_threads", 1, "Shards that are checked at the same time.", 1)
    flags.DEFINE_integer(
        "duplicate_bits",
        near_duplicates.DEFAULT_MAX_BITS,
        "FOVs whose perceptual hashes differ in at most so many of 256 bits may not be in two splits; 0: they may.",
        0,
    )


def main(arguments: list[str]) -> None:
    """Checks the data set that the first argument or the flag names.

    Raises:
      ConfigError: none or several are named, or a flag is unknown.
    """
    values = flags.FLAGS
    if unknown := [argument for argument in arguments if argument.startswith("-")]:
        raise ConfigError(f"unknown flag {' '.join(unknown)}; see --help")
    data_dirs = [*arguments, *([values.data_dir] if values.data_dir else [])]
    if len(data_dirs) != 1:
        raise ConfigError(f"give one data set, as in `python -m beam_jobs.inspect dataset`; got {data_dirs or 'none'}")
    config = InspectConfig(
        data_dirs[0],
        quick=values.quick,
        num_shown=values.show,
        picture_path=values.out or "",
        num_threads=values.num_threads,
        duplicate_bits=values.duplicate_bits,
    )
    print(run(config))


if __name__ == "__main__":
    define_flags()
    command.run_main(main)

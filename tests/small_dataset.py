"""Small data sets for tests, made by the real jobs: drawn FOVs, their masks as segmentation, a cell store, shards."""

import dataclasses
import pathlib

import small_fovs
from beam_jobs import dataset_job, segment
from beam_jobs.dataset_job import ShardConfig, ShardResult
from beam_jobs.examples import ExampleConfig
from beam_jobs.plan_config import PlanConfig
from beam_jobs.segment import SegmentConfig, SegmentResult


@dataclasses.dataclass(frozen=True)
class SmallDataset:
    """Where things lie, and what the jobs returned."""

    images_dir: pathlib.Path
    masks_dir: pathlib.Path
    cells_dir: pathlib.Path
    data_dir: pathlib.Path
    segmented: SegmentResult
    sharded: ShardResult


def make(
    folder,
    *,
    labels=("0", "5", "7|0", "16"),
    num_fovs=8,
    num_cells=4,
    dead_fovs=(),
    with_labels=True,
    plan=None,
    example=None,
    **drawing,
):
    """Makes a data set below a folder.

    Args:
      folder: an empty folder.
      labels: labels of the FOVs, in turn.
      num_fovs: FOVs.
      num_cells: cells of each.
      dead_fovs: numbers of FOVs whose green image is cut short.
      with_labels: False makes a set for prediction.
      plan: default: two splits, two shards of the first.
      example: default: pictures of 32 px.
      **drawing: of `small_fovs.draw_fov`, as height and width.
    """
    folder = small_fovs.write_set(folder, num_fovs=num_fovs, labels=labels, num_cells=num_cells, **drawing)
    for number in dead_fovs:
        path = folder / "images" / f"fov-{number}_green.png"
        path.write_bytes(path.read_bytes()[:-20])
    scope, splits = ("all", (("train", 3), ("test", 1))) if with_labels else ("unlabelled", (("predict", 1),))
    plan = plan or PlanConfig(label_scope=scope, splits=splits, shards=((splits[0][0], 2),))
    segmented = segment.run(
        SegmentConfig(
            images=f"{folder}/images",
            labels=f"{folder}/labels.csv" if with_labels else None,
            cells_dir=f"{folder}/cells",
            segmenter="masks",
            masks_dir=f"{folder}/masks",
            pixel_size_um=0.5,
            max_dead_fraction=1,
        )
    )
    sharded = dataset_job.run(
        ShardConfig(
            cells_dir=f"{folder}/cells",
            data_dir=f"{folder}/dataset",
            plan=plan,
            example=example or ExampleConfig(image_size_px=32),
        )
    )
    return SmallDataset(
        images_dir=folder / "images",
        masks_dir=folder / "masks",
        cells_dir=folder / "cells",
        data_dir=folder / "dataset",
        segmented=segmented,
        sharded=sharded,
    )

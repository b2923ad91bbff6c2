"""The main job: fields of view become a data set of stratified TFRecord shards. Segments, then shards.

    python -m beam_jobs.convert --images=images --labels=train.csv --out_dir=out --num_workers=2

Writes out/cells (the cell store) and out/dataset (shards, manifest.json, plan.parquet, report.html). Takes the flags of
`beam_jobs.segment` and `beam_jobs.shard`. Stopped in the middle? The same command goes on. Without --labels it makes a
set for prediction. No images at hand? `python -m beam_jobs.synthesize` makes some.
"""

from __future__ import annotations

from absl import flags

from beam_jobs import command, dataset_job, dry_run, fov_source, segment, shard
from beam_jobs.store_tables import CELL_COLUMNS
from hpa_proto import storage
from hpa_proto.errors import ConfigError

_OUT_DIR = flags.DEFINE_string("out_dir", None, "Folder for cells/ and dataset/.")
flags.adopt_module_key_flags(command)
flags.adopt_module_key_flags(segment)
flags.adopt_module_key_flags(shard)


def main(beam_args: list[str]) -> int:
    """Runs both jobs as the flags describe."""
    out_dir = _OUT_DIR.value
    if not (command.CELLS_DIR.value and shard.DATA_DIR.value):
        command.required("out_dir", out_dir)
    cells_dir = command.CELLS_DIR.value or storage.join(out_dir, "cells")
    data_dir = shard.DATA_DIR.value or storage.join(out_dir, "dataset")
    # Both configs first: a wrong flag of the second job must not come up after hours of the first.
    segment_config = segment.config_from_flags(beam_args, cells_dir=cells_dir)
    label_scope = "single" if segment_config.labels else "unlabelled"
    shard_config = shard.config_from_flags(
        beam_args, cells_dir=cells_dir, data_dir=data_dir, default_label_scope=label_scope
    )
    if shard.DRY_RUN.value:
        # Nothing is segmented for it: it plans with the cells of an earlier run, and says so where there is none.
        dry_run_config = shard.dry_run_from_flags(beam_args, cells_dir=cells_dir, default_label_scope=label_scope)
        print(dry_run.describe(dry_run.run(dry_run_config), dry_run_config))
        return 0
    group_column = shard_config.plan.group_column
    extra = fov_source.label_columns(segment_config.labels) if segment_config.labels else ()
    if group_column not in (*CELL_COLUMNS, *extra):
        raise ConfigError(
            f"--group_column={group_column}: the label file has no such column; it has {', '.join(extra)}"
        )
    segmented = segment.run(segment_config)
    print(segment.describe(segmented))
    if segmented.too_many_dead:
        return 1
    print(dataset_job.describe(dataset_job.run(shard_config)))
    return 0


if __name__ == "__main__":
    command.run_main(main)

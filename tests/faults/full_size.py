"""Segments and shards as many FOVs and cells as the Kaggle set has, with pictures so small that hours become minutes.

    python tests/faults/full_size.py --table=train_cells.csv --out_dir=full

Nothing of the jobs is replaced. A table says how many cells each FOV has; all FOVs with the same number of cells share one
drawn picture of a few hundred pixels and its masks. Three sizes are run: what a cell more costs is the slope between two
of them, free of what starting costs, and a few thousand cells more would drown in its noise. Prints the figures, checks
that nothing is lost, draws memory over time, and ends with status 1 where time or memory of a cell grows with their number.
"""

from __future__ import annotations

import argparse
import collections
import json
import pathlib
import shutil
import statistics
import sys
from collections.abc import Sequence

import cv2
import numpy as np
import pandas as pd
import reliability
import watched_job

from hpa_proto import labels as hpa_labels
from hpa_proto import schema

_TILE_PX = 8
_CELL_RADIUS_PX = 3
_NEGATIVE = 18
# Sizes below the whole table, in cells. From the first on the report has all its pictures.
SMALL_SIZES = (5_000, 50_000)
_SMALL_ROUNDS = 3
# At most: cost of a cell more beyond the second size against below it, and of all cells, starting included, against the
# first size; memory late in a job against its middle.
_MAX_RATIO = 1.3
_MAX_GROWTH = 1.1
# Of a job's time, where memory is told: begun, in the middle of its work, late in it and before its closing tables.
_SHARES = (0.1, 0.4, 0.8)


def draw_picture(num_cells: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draws a FOV: image uint8[H, W, 4], cell mask and nucleus mask uint16[H, W]; cells are discs of 7 px in a grid."""
    columns = max(1, int(np.ceil(np.sqrt(num_cells))))
    rows = max(1, -(-num_cells // columns))
    y, x = np.mgrid[:_TILE_PX, :_TILE_PX] - _TILE_PX // 2
    ids = np.arange(1, rows * columns + 1).reshape(rows, columns)
    tiles = np.kron(np.where(ids <= num_cells, ids, 0), np.ones((_TILE_PX, _TILE_PX), np.int64))
    distance = np.tile(np.hypot(y, x), (rows, columns))
    cell_mask = np.where(distance <= _CELL_RADIUS_PX, tiles, 0).astype(np.uint16)
    nucleus_mask = np.where(distance <= 1, tiles, 0).astype(np.uint16)
    rng = np.random.default_rng(num_cells)
    # Brighter from corner to corner, so that a FOV has structure larger than a cell: without, it counts as empty.
    ramp = np.add.outer(*(np.linspace(0.05, 0.4, side) for side in cell_mask.shape))
    texture = 180 * ramp * rng.uniform(0.8, 1.0, cell_mask.shape)
    planes = [texture * ((nucleus_mask if channel == "blue" else cell_mask) > 0) for channel in schema.CHANNELS]
    return (np.dstack(planes) + 120 * ramp[..., None]).astype(np.uint8), cell_mask, nucleus_mask


def write_set(folder: pathlib.Path, table: pd.DataFrame) -> None:
    """Writes drawn/, masks/, images.csv and labels.csv.

    Args:
      folder: a new one.
      table: `ID`, `Label`, `num_cells`.
    """
    drawn, masks = folder / "drawn", folder / "masks"
    for path in (drawn, masks):
        path.mkdir(parents=True)
    for num_cells in sorted(table["num_cells"].unique()):
        image, cell_mask, nucleus_mask = draw_picture(num_cells)
        for plane, channel in enumerate(schema.CHANNELS):
            cv2.imwrite(str(drawn / f"{num_cells}_{channel}.png"), image[..., plane])
        cv2.imwrite(str(drawn / f"{num_cells}_cell.png"), cell_mask)
        cv2.imwrite(str(drawn / f"{num_cells}_nuclei.png"), nucleus_mask)
    for row in table.itertuples():
        for kind in ("cell", "nuclei"):
            (masks / f"{row.ID}_{kind}.png").symlink_to(f"../drawn/{row.num_cells}_{kind}.png")
    paths = {channel: [f"drawn/{n}_{channel}.png" for n in table["num_cells"]] for channel in schema.CHANNELS}
    pd.DataFrame({"ID": table["ID"], **paths}).to_csv(folder / "images.csv", index=False)
    table[["ID", "Label"]].to_csv(folder / "labels.csv", index=False)


def run_size(folder: pathlib.Path, table: pd.DataFrame, *, num_workers: int) -> dict[str, watched_job.Job]:
    """Segments and shards the FOVs of a table below a new folder; returns the jobs by name.

    Raises:
      RuntimeError: a job failed.
      AssertionError: something was lost.
    """
    write_set(folder, table)
    jobs = {
        "segment": watched_job.run(
            "beam_jobs.segment",
            f"--images={folder}/images.csv",
            f"--labels={folder}/labels.csv",
            f"--cells_dir={folder}/cells",
            "--segmenter=masks",
            f"--masks_dir={folder}/masks",
            "--pixel_size_um=1",
            "--max_dead_fraction=0.01",
            f"--num_workers={num_workers}",
        ),
        "shard": watched_job.run(
            "beam_jobs.shard",
            f"--cells_dir={folder}/cells",
            f"--data_dir={folder}/dataset",
            "--label_scope=all",
            "--drop_classes=Negative",
            "--image_size_px=32",
            # FOVs share pictures here on purpose.
            "--duplicate_bits=0",
            f"--num_workers={num_workers}",
        ),
    }
    check_counts(folder, table)
    return jobs


def check_counts(folder: pathlib.Path, table: pd.DataFrame) -> None:
    """Counts every FOV and cell of the table again, from the files.

    Raises:
      AssertionError: one is missing or too many.
    """
    fovs = pd.read_parquet(folder / "cells" / "fovs.parquet")
    plan = pd.read_parquet(folder / "dataset" / "plan.parquet")
    manifest = schema.parse_manifest((folder / "dataset" / "manifest.json").read_text(), source="manifest.json")
    empty = set(table.loc[table["num_cells"] == 0, "ID"])
    assert set(fovs["fov_id"]) == set(table["ID"])
    assert set(fovs.loc[fovs["error_reason"] != "", "fov_id"]) == empty
    assert len((folder / "cells" / "dead_letters.jsonl").read_text().splitlines()) == len(empty)
    wanted = table.set_index("ID")["num_cells"]
    assert plan.groupby("fov_id").size().reindex(wanted.index, fill_value=0).equals(wanted)
    assert plan["cell_id"].is_unique
    is_wanted = table["Label"].map(lambda text: set(hpa_labels.parse_label_set(text)) != {_NEGATIVE})
    num_kept = int(table.loc[is_wanted, "num_cells"].sum())
    assert (plan["dropped"] == "").sum() == num_kept
    assert (plan["dropped"] == "class_out_of_scope").sum() == len(plan) - num_kept
    for counted in (manifest.splits, manifest.shards):
        assert sum(part.num_examples for part in counted) == num_kept
    in_classes: collections.Counter[int] = collections.Counter()
    for shard in manifest.shards:
        in_classes.update(dict(shard.num_examples_per_label))
    expected: collections.Counter[int] = collections.Counter()
    for text, count in table.groupby("Label")["num_cells"].sum().items():
        expected.update({label: count for label in hpa_labels.parse_label_set(text) if label != _NEGATIVE})
    assert in_classes == expected
    assert not list(folder.rglob(".tmp-*"))


def first_fovs(table: pd.DataFrame, num_cells: int) -> pd.DataFrame:
    """Returns the first FOVs of a table that have `num_cells` cells together, or all."""
    return table[table["num_cells"].cumsum() - table["num_cells"] < num_cells]


def read_table(path: str) -> pd.DataFrame:
    """Reads `ID`, `Label`, `num_cells` of a CSV."""
    return pd.read_csv(path).astype({"ID": "str", "Label": "str", "num_cells": "int64"})


def describe(jobs_of_size: dict[int, list[dict[str, watched_job.Job]]]) -> dict[str, dict[str, object]]:
    """Makes the figures of each job: CPU time of a cell between sizes, medians of the rounds of a size, and memory."""
    sizes = sorted(jobs_of_size)
    figures: dict[str, dict[str, object]] = {}
    for name in ("segment", "shard"):
        cpu_sec = [statistics.median(jobs[name].cpu_sec for jobs in jobs_of_size[size]) for size in sizes]
        slopes = [
            1000 * (cpu_sec[index + 1] - cpu_sec[index]) / (sizes[index + 1] - sizes[index])
            for index in range(len(sizes) - 1)
        ]
        last = jobs_of_size[sizes[-1]][-1][name]
        figures[name] = {
            "cells": sizes,
            "wall_sec": [[round(jobs[name].wall_sec, 1) for jobs in jobs_of_size[size]] for size in sizes],
            "cpu_sec": [[round(jobs[name].cpu_sec, 1) for jobs in jobs_of_size[size]] for size in sizes],
            "cpu_msec_of_a_cell": [round(1000 * cpu / size, 3) for cpu, size in zip(cpu_sec, sizes, strict=True)],
            "cpu_msec_of_a_cell_more": [round(slope, 3) for slope in slopes],
            "ratio": round(slopes[-1] / slopes[0], 3) if len(slopes) > 1 else None,
            "memory_mib": [
                {
                    "process": memory.name,
                    "at_shares_of_the_time": {share: round(memory.at(share)) for share in _SHARES},
                    "highest": round(max(memory.mib)),
                }
                for memory in last.memories
            ],
        }
    return figures


def find_unmet(figures: dict[str, dict[str, object]]) -> list[str]:
    """Lists what the figures of `describe` do not fulfil; fewer than three sizes say nothing."""
    unmet = []
    for name, found in figures.items():
        if found["ratio"] is None:
            continue
        if not 0 < found["ratio"] <= _MAX_RATIO:
            unmet.append(f"{name}: a cell more costs {found['ratio']} x as much at full size; at most {_MAX_RATIO}")
        first, _, last = found["cpu_msec_of_a_cell"]
        if last > _MAX_RATIO * first:
            unmet.append(
                f"{name}: a cell costs {last} ms at full size, {first} ms in the smallest; at most {_MAX_RATIO} x"
            )
        for memory in found["memory_mib"]:
            _, middle, late = memory["at_shares_of_the_time"].values()
            if late > _MAX_GROWTH * middle:
                unmet.append(f"{name}: memory of a {memory['process']} grows from {middle} to {late} MiB")
    return unmet


def record(figures: dict[str, dict[str, object]], table: pd.DataFrame) -> None:
    """Records a row for each job."""
    for name, found in figures.items():
        before, after = found["cpu_msec_of_a_cell_more"]
        first, _, last = found["cpu_msec_of_a_cell"]
        memory = found["memory_mib"][0]
        mib = ", ".join(f"{value:,}" for value in memory["at_shares_of_the_time"].values())
        reliability.record(
            reliability.Trial(
                part="Full size",
                fault=f"`beam_jobs.{name}` of {found['cells'][-1]:,} tiny cells in {len(table):,} FOVs",
                times=f"1 run, {_SMALL_ROUNDS} of {found['cells'][0]:,} and of {found['cells'][1]:,} cells",
                outcome=f"{found['wall_sec'][-1][0]:,.0f} s; every FOV and cell counted again: nothing lost. CPU of a cell "
                f"{last} ms, of {found['cells'][0]:,} cells {first} ms; of a cell more, starting not counted, {after} ms, "
                f"below {found['cells'][1]:,} cells {before} ms: {found['ratio']} x. Memory at "
                f"{', '.join(f'{share:.0%}' for share in _SHARES)} of the time: {mib} MiB; highest {memory['highest']:,}",
                promise=f"A cell of the whole competition costs at most {_MAX_RATIO} x what one of a small set does, in memory "
                "that stays while cells are made; the tables of all cells take more at the end.",
                command="python tests/faults/full_size.py --table=train_cells.csv --out_dir=full "
                "--memory_png=docs/full_size_memory.png",
            )
        )


def main(argv: Sequence[str] | None = None) -> None:
    """Runs all sizes and prints what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", required=True, help="CSV with ID, Label and num_cells of each FOV.")
    parser.add_argument("--out_dir", required=True, help="A folder for everything; emptied first.")
    parser.add_argument("--memory_png", default=None, help="Where the memory is drawn; default: in --out_dir.")
    parser.add_argument("--num_workers", type=int, default=1)
    parser.add_argument("--max_cells", type=int, default=None, help="No size larger than this.")
    options = parser.parse_args(argv)
    folder, table = pathlib.Path(options.out_dir), read_table(options.table)
    table = table if options.max_cells is None else first_fovs(table, options.max_cells)
    shutil.rmtree(folder, ignore_errors=True)
    small = [part for part in (first_fovs(table, size) for size in SMALL_SIZES) if len(part) < len(table)]
    jobs_of_size: dict[int, list[dict[str, watched_job.Job]]] = {}
    for part in (*small * _SMALL_ROUNDS, table):
        num_cells = int(part["num_cells"].sum())
        rounds = jobs_of_size.setdefault(num_cells, [])
        rounds.append(run_size(folder / f"{num_cells}-{len(rounds)}", part, num_workers=options.num_workers))
        print(f"{num_cells:,} cells of {len(part):,} FOVs: nothing lost", flush=True)
    figures = describe(jobs_of_size)
    (folder / "figures.json").write_text(json.dumps(figures, indent=2) + "\n")
    print(json.dumps(figures, indent=2))
    watched_job.draw_memory(jobs_of_size[max(jobs_of_size)][-1], options.memory_png or folder / "memory.png")
    if unmet := find_unmet(figures):
        sys.exit("NOT MET: " + "; ".join(unmet))
    if len(jobs_of_size) > len(SMALL_SIZES):
        record(figures, table)


if __name__ == "__main__":
    main()

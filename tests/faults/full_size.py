"""Segments and shards as many FOVs and cells as the Kaggle set has, with pictures so small that hours become minutes.

    python tests/faults/full_size.py --table=train_cells.csv --out_dir=full

Nothing of the jobs is replaced. A table says how many cells each FOV has; all FOVs with the same number of cells share one
drawn picture of a few hundred pixels and its masks. Three sizes are run: what a cell more costs is the slope between two
of them, free of what starting costs. Prints the figures, checks that nothing is lost, and draws memory over time.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

import cv2
import numpy as np
import pandas as pd
import psutil
from matplotlib.figure import Figure

from hpa_proto import labels as hpa_labels
from hpa_proto import schema

_TILE_PX = 8
_CELL_RADIUS_PX = 3
_NEGATIVE = 18
# Sizes below the whole table, in cells. From the first on the report has all its pictures.
SMALL_SIZES = (2_000, 5_000)


@dataclasses.dataclass
class Memory:
    """Resident memory of one process over time.

    Attributes:
      name: "job" or "worker".
      seconds: since the job's start.
      mib: at these times.
    """

    name: str
    seconds: list[float] = dataclasses.field(default_factory=list)
    mib: list[float] = dataclasses.field(default_factory=list)

    def at(self, share: float) -> float:
        """Median of five samples around a share of the process's life, MiB."""
        middle = round(share * (len(self.mib) - 1))
        return float(np.median(self.mib[max(0, middle - 2) : middle + 3]))


@dataclasses.dataclass
class Job:
    """A finished command.

    Attributes:
      output: what it printed.
      wall_sec: time.
      cpu_sec: of all its processes.
      memories: of the job first, then of its workers.
    """

    output: str
    wall_sec: float
    cpu_sec: float
    memories: list[Memory]


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


def run_job(module: str, *flags: str, sample_sec: float = 0.25) -> Job:
    """Runs a command of this project and watches the memory of its processes.

    Raises:
      RuntimeError: it failed; the text ends with what it said.
    """
    memories: dict[int, Memory] = {}
    start = time.monotonic()
    # A file and no pipe: nobody reads while the job runs.
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", module, *flags],
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        job = psutil.Process(process.pid)
        usage = None
        while usage is None:
            time.sleep(sample_sec)
            _sample(job, memories, time.monotonic() - start)
            pid, status, found = os.wait4(process.pid, os.WNOHANG)
            usage = found if pid else None
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        text = output.read()
    if process.returncode:
        raise RuntimeError(f"{module} ended with {process.returncode}: {text[-3000:]}")
    return Job(text, time.monotonic() - start, usage.ru_utime + usage.ru_stime, list(memories.values()))


def _sample(job: psutil.Process, memories: dict[int, Memory], seconds: float) -> None:
    try:
        processes = [job, *job.children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for process in processes:
        try:
            mib = process.memory_info().rss / 2**20
        except psutil.NoSuchProcess:
            continue
        # A shell between job and worker is none of them, and a process that has ended has no memory.
        if process is job or mib > 50:
            memory = memories.setdefault(process.pid, Memory("job" if process is job else "worker"))
            memory.seconds.append(seconds)
            memory.mib.append(mib)


def run_size(folder: pathlib.Path, table: pd.DataFrame, *, num_workers: int) -> dict[str, Job]:
    """Segments and shards the FOVs of a table below a new folder; returns the jobs by name.

    Raises:
      RuntimeError: a job failed.
      AssertionError: something was lost.
    """
    write_set(folder, table)
    jobs = {
        "segment": run_job(
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
        "shard": run_job(
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


def draw_memory(jobs: dict[str, Job], path: pathlib.Path) -> None:
    """Draws the memory of each process over time, a panel a job."""
    figure = Figure(figsize=(11, 4), layout="constrained")
    for axes, (name, job) in zip(figure.subplots(1, len(jobs), sharey=True), jobs.items(), strict=True):
        for number, memory in enumerate(job.memories):
            label = memory.name if memory.name == "job" else f"worker {number}"
            axes.plot(memory.seconds, memory.mib, label=label, linewidth=1)
        axes.set(title=f"beam_jobs.{name}", xlabel="seconds", ylim=(0, None))
        axes.legend(loc="upper left")
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("resident memory, MiB")
    figure.savefig(path, dpi=110)


def describe(jobs_of_size: dict[int, dict[str, Job]]) -> dict[str, object]:
    """Makes the figures: CPU time a cell between sizes, and memory."""
    sizes = sorted(jobs_of_size)
    figures: dict[str, object] = {}
    for name in ("segment", "shard"):
        runs = [jobs_of_size[size][name] for size in sizes]
        slopes = [
            1000 * (runs[index + 1].cpu_sec - runs[index].cpu_sec) / (sizes[index + 1] - sizes[index])
            for index in range(len(sizes) - 1)
        ]
        figures[name] = {
            "cells": sizes,
            "wall_sec": [round(run.wall_sec, 1) for run in runs],
            "cpu_sec": [round(run.cpu_sec, 1) for run in runs],
            "cpu_msec_of_a_cell_more": [round(slope, 3) for slope in slopes],
            "ratio": round(slopes[-1] / slopes[0], 3) if len(slopes) > 1 else None,
            "memory_mib": [
                {
                    memory.name: [round(memory.at(share)) for share in (0.1, 0.5, 0.9)],
                    "highest": round(max(memory.mib)),
                }
                for memory in runs[-1].memories
            ],
        }
    return figures


def main(argv: Sequence[str] | None = None) -> None:
    """Runs all sizes and prints what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", required=True, help="CSV with ID, Label and num_cells of each FOV.")
    parser.add_argument("--out_dir", required=True, help="A folder for everything; emptied first.")
    parser.add_argument("--num_workers", type=int, default=1)
    parser.add_argument("--max_cells", type=int, default=None, help="No size larger than this.")
    options = parser.parse_args(argv)
    folder, table = pathlib.Path(options.out_dir), read_table(options.table)
    table = table if options.max_cells is None else first_fovs(table, options.max_cells)
    shutil.rmtree(folder, ignore_errors=True)
    parts = [first_fovs(table, size) for size in SMALL_SIZES]
    jobs_of_size = {}
    for part in (*parts, table):
        num_cells = int(part["num_cells"].sum())
        if num_cells not in jobs_of_size:
            jobs_of_size[num_cells] = run_size(folder / str(num_cells), part, num_workers=options.num_workers)
            print(f"{num_cells:,} cells of {len(part):,} FOVs: nothing lost", flush=True)
    draw_memory(jobs_of_size[max(jobs_of_size)], folder / "memory.png")
    figures = describe(jobs_of_size)
    (folder / "figures.json").write_text(json.dumps(figures, indent=2) + "\n")
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()

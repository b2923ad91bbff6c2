"""Writes simulated Human Protein Atlas fields of view, with masks as truth: the input of demo, tests and experiments.

    python -m beam_jobs.synthesize --out_dir=fovs --num_fovs=38 --height_px=1024 --width_px=1024 --pixel_size_um=0.16

Writes, for the FOV ids sim-00000, sim-00001, ...:

    <out_dir>/images/<fov_id>_{red,green,blue,yellow}.png   grey, 8 or 16 bit
    <out_dir>/masks/<fov_id>_cell.png, <fov_id>_nuclei.png  uint16 label maps, 0 = background
    <out_dir>/labels.csv                                    ID,Label: what each FOV is labelled, as in train.csv of Kaggle
    <out_dir>/cell_labels.csv                               ID,Label: what each cell (<fov_id>_<cell_index>) truly shows

The same flags write the same bytes, with any number of workers.

Labels of FOVs are weak: with --weak_label_share=0.3 that share of cells lacks its FOV's label (of several, some of them), as
single cells vary; a cell left with none looks Negative. A cell store of --segmenter=masks --masks_dir=<out_dir>/masks has the
ids of cell_labels.csv: `beam_jobs.shard --cell_labels=<out_dir>/cell_labels.csv` then writes a data set with the true labels.
"""

from __future__ import annotations

import concurrent.futures
import csv
import dataclasses
import io
import multiprocessing
import os
from collections.abc import Iterator

import cv2
import numpy as np
import tqdm
from absl import flags

from beam_jobs import command
from beam_jobs.simulation import fov as fov_lib
from beam_jobs.simulation import label_plan
from hpa_proto import labels as labels_lib
from hpa_proto import schema, storage
from hpa_proto.errors import ConfigError

LABELS_NAME = "labels.csv"
CELL_LABELS_NAME = "cell_labels.csv"
IMAGES_DIR = "images"
MASKS_DIR = "masks"
_MAX_FOVS = 100_000


@dataclasses.dataclass(frozen=True)
class SynthesizeConfig:
    """What to simulate.

    Attributes:
      out_dir: folder or fsspec URL to write into; made if it is not there.
      num_fovs: number of FOVs.
      labels: classes in use; FOVs take them in turn.
      labels_per_fov_max: most labels of one FOV; the number is drawn evenly from 1 to this.
      weak_label_share: share of cells that lack their FOV's label.
      height_px: rows of a FOV.
      width_px: columns of a FOV.
      pixel_size_um: side of a pixel, micrometres.
      crowding: least and greatest crowding, 0..1; FOVs spread evenly in between.
      bit_depth: 8, or 12, 14, 16 in 16-bit files.
      class_skew: 0 gives each class equally many FOVs; s makes each class exp(-s) as frequent as the one before it.
      seed: of everything.
      num_workers: processes.
    """

    out_dir: str
    num_fovs: int = 38
    labels: tuple[int, ...] = tuple(range(labels_lib.NUM_LABELS))
    labels_per_fov_max: int = 1
    weak_label_share: float = 0.0
    height_px: int = 2048
    width_px: int = 2048
    pixel_size_um: float = 0.08
    crowding: tuple[float, float] = (0.3, 0.8)
    bit_depth: int = 8
    class_skew: float = 0.0
    seed: int = 0
    num_workers: int = 1


@dataclasses.dataclass(frozen=True)
class SynthesizeSummary:
    """What was written: numbers of FOVs and of cells, and bytes."""

    num_fovs: int
    num_cells: int
    num_bytes: int


def run(config: SynthesizeConfig) -> SynthesizeSummary:
    """Simulates and writes all FOVs; the tables come last.

    Raises:
      ConfigError: a field of the config is out of its range, or the folder holds another run; nothing is written then.
    """
    _check_config(config)
    _check_out_dir(config)
    label_sets = label_plan.plan_labels(
        config.labels,
        np.random.default_rng((config.seed, _MAX_FOVS)),
        num_fovs=config.num_fovs,
        labels_per_fov_max=config.labels_per_fov_max,
        class_skew=config.class_skew,
    )
    # Tables of an earlier run must not stand beside this run's pixels if this one is stopped.
    for name in (CELL_LABELS_NAME, LABELS_NAME):
        storage.remove(storage.join(config.out_dir, name))
    cell_labels: list[tuple[str, str]] = []
    num_bytes = 0
    for index, (shown, size) in enumerate(_write_fovs(config, label_sets)):
        num_bytes += size
        cell_labels += [
            (f"{fov_name(index)}_{cell}", labels_lib.format_label_set(mine)) for cell, mine in enumerate(shown, start=1)
        ]
    fov_labels = [(fov_name(index), labels_lib.format_label_set(mine)) for index, mine in enumerate(label_sets)]
    for name, rows in ((CELL_LABELS_NAME, cell_labels), (LABELS_NAME, fov_labels)):
        num_bytes += _write(storage.join(config.out_dir, name), _format_table(rows))
    return SynthesizeSummary(num_fovs=config.num_fovs, num_cells=len(cell_labels), num_bytes=num_bytes)


def fov_name(index: int) -> str:
    """Names a simulated FOV: `sim-00007`."""
    return f"sim-{index:05d}"


def _write_fovs(
    config: SynthesizeConfig, label_sets: list[tuple[int, ...]]
) -> Iterator[tuple[tuple[tuple[int, ...], ...], int]]:
    """Yields what each FOV's cells show and the bytes written, in order, while a bar shows the progress."""
    jobs = [(config, index, label_set) for index, label_set in enumerate(label_sets)]
    with tqdm.tqdm(total=len(jobs), unit="FOV", desc="simulating", smoothing=0.1) as bar:
        if config.num_workers == 1:
            for job in jobs:
                yield _write_fov(job)
                bar.update()
            return
        # Not fork: a forked OpenCV or numpy may hang on locks that another thread held.
        context = multiprocessing.get_context("spawn")
        with concurrent.futures.ProcessPoolExecutor(config.num_workers, mp_context=context) as pool:
            for result in pool.map(_write_fov, jobs):
                yield result
                bar.update()


def _write_fov(job: tuple[SynthesizeConfig, int, tuple[int, ...]]) -> tuple[tuple[tuple[int, ...], ...], int]:
    config, index, label_set = job
    cv2.setNumThreads(1)
    simulated = fov_lib.simulate_fov(
        label_set,
        seed=(config.seed, index),
        height_px=config.height_px,
        width_px=config.width_px,
        pixel_size_um=config.pixel_size_um,
        crowding=_crowding_of(config, index),
        weak_label_share=config.weak_label_share,
        bit_depth=config.bit_depth,
    )
    name = fov_name(index)
    planes = {
        f"{IMAGES_DIR}/{name}_{channel}.png": simulated.image[..., plane]
        for plane, channel in enumerate(schema.CHANNELS)
    }
    planes[f"{MASKS_DIR}/{name}_cell.png"] = simulated.cell_mask
    planes[f"{MASKS_DIR}/{name}_nuclei.png"] = simulated.nucleus_mask
    num_bytes = sum(_write(storage.join(config.out_dir, path), _encode_png(plane)) for path, plane in planes.items())
    return simulated.cell_labels, num_bytes


def _crowding_of(config: SynthesizeConfig, index: int) -> float:
    """Steps through the range by the golden ratio, which covers it evenly however many FOVs there are."""
    low, high = config.crowding
    share = (np.random.default_rng(config.seed).random() + index * 0.6180339887498949) % 1.0
    return float(low + (high - low) * share)


def _encode_png(plane: np.ndarray) -> bytes:
    ok, encoded = cv2.imencode(".png", np.ascontiguousarray(plane), [cv2.IMWRITE_PNG_COMPRESSION, 3])
    if not ok:
        raise RuntimeError(f"OpenCV could not encode a {plane.dtype} plane of {plane.shape} as PNG")
    return encoded.tobytes()


def _format_table(rows: list[tuple[str, str]]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("ID", "Label"))
    writer.writerows(rows)
    return text.getvalue().encode()


def _write(path: str, data: bytes) -> int:
    storage.write_bytes(path, data)
    return len(data)


def _check_config(config: SynthesizeConfig) -> None:
    if not config.out_dir:
        raise ConfigError("--out_dir is empty: name a folder to write into")
    if not 1 <= config.num_fovs <= _MAX_FOVS:
        raise ConfigError(f"--num_fovs={config.num_fovs}: give 1 to {_MAX_FOVS}")
    if len(set(config.labels)) != len(config.labels):
        raise ConfigError(f"--labels={config.labels}: a class stands twice; name each once")
    if not 1 <= config.labels_per_fov_max <= labels_lib.NUM_LABELS:
        raise ConfigError(f"--labels_per_fov_max={config.labels_per_fov_max}: give 1 to {labels_lib.NUM_LABELS}")
    if not 0 <= config.class_skew <= 10:
        raise ConfigError(f"--class_skew={config.class_skew}: give 0 (all classes equal) to 10")
    if config.seed < 0:
        raise ConfigError(f"--seed={config.seed}: give 0 or more")
    if config.num_workers < 1:
        raise ConfigError(f"--num_workers={config.num_workers}: give 1 or more")
    if config.crowding[0] > config.crowding[1]:
        raise ConfigError(f"--crowding={config.crowding}: the first number must not exceed the second")
    for label in config.labels or (-1,):
        for crowding in config.crowding:
            fov_lib.check_arguments(
                (label,),
                height_px=config.height_px,
                width_px=config.width_px,
                pixel_size_um=config.pixel_size_um,
                crowding=crowding,
                weak_label_share=config.weak_label_share,
                bit_depth=config.bit_depth,
            )


def _check_out_dir(config: SynthesizeConfig) -> None:
    """Refuses a folder with FOVs that this run would not replace: readers of the folder would mix two runs."""
    if os.path.isfile(config.out_dir):
        raise ConfigError(f"--out_dir={config.out_dir} is a file: name a folder")
    expected = {fov_name(index) for index in range(config.num_fovs)}
    for folder in (IMAGES_DIR, MASKS_DIR):
        for name in storage.list_files(storage.join(config.out_dir, folder)):
            if name.rsplit("_", 1)[0] not in expected:
                raise ConfigError(
                    f"--out_dir={config.out_dir} holds {folder}/{name} of another run: name a new folder or empty it"
                )


def _parse_crowding(texts: list[str]) -> tuple[float, float]:
    try:
        numbers = [float(text) for text in texts]
    except ValueError:
        numbers = []
    if len(numbers) not in (1, 2):
        raise ConfigError(f"--crowding={','.join(texts)}: give one number from 0 to 1, or two: least,greatest")
    return numbers[0], numbers[-1]


def _parse_labels(texts: list[str]) -> tuple[int, ...]:
    try:
        return tuple(labels_lib.parse_label(text) for text in texts)
    except ValueError as error:
        raise ConfigError(f"--labels={','.join(texts)}: {error}") from error


def define_flags() -> None:
    """Defines the flags; their values go into one SynthesizeConfig."""
    default = SynthesizeConfig(out_dir="")
    flags.DEFINE_string("out_dir", None, "Folder for images/, masks/ and labels.csv.")
    flags.DEFINE_integer("num_fovs", default.num_fovs, "Number of FOVs.")
    flags.DEFINE_list("labels", list(map(str, default.labels)), "Classes, by number or name; FOVs take them in turn.")
    flags.DEFINE_integer("labels_per_fov_max", default.labels_per_fov_max, "Most labels of one FOV.")
    flags.DEFINE_float("weak_label_share", default.weak_label_share, "Share of cells that lack their FOV's label.")
    flags.DEFINE_integer("height_px", default.height_px, "Rows of a FOV.")
    flags.DEFINE_integer("width_px", default.width_px, "Columns of a FOV.")
    flags.DEFINE_float("pixel_size_um", default.pixel_size_um, "Side of a pixel, micrometres.")
    flags.DEFINE_list("crowding", list(map(str, default.crowding)), "0 = sparse, 1 = closed layer; or least,greatest.")
    flags.DEFINE_integer("bit_depth", default.bit_depth, "8, or 12, 14, 16 in 16-bit files.")
    flags.DEFINE_float("class_skew", default.class_skew, "Each class exp(-skew) as frequent as the one before it.")
    flags.DEFINE_integer("seed", default.seed, "Seed of all random draws: the same seed gives the same FOVs.")
    # --num_workers is of `command`.


def main(argv: list[str]) -> None:
    """Turns the flags into a config and runs it.

    Raises:
      ConfigError: a flag that cannot work; nothing has been written.
    """
    values = flags.FLAGS
    if argv:
        raise ConfigError(f"{argv[0]!r} is not a flag of this program; see --help")
    config = SynthesizeConfig(
        out_dir=command.required("out_dir", values.out_dir),
        num_fovs=values.num_fovs,
        labels=_parse_labels(values.labels),
        labels_per_fov_max=values.labels_per_fov_max,
        weak_label_share=values.weak_label_share,
        height_px=values.height_px,
        width_px=values.width_px,
        pixel_size_um=values.pixel_size_um,
        crowding=_parse_crowding(values.crowding),
        bit_depth=values.bit_depth,
        class_skew=values.class_skew,
        seed=values.seed,
        num_workers=command.NUM_WORKERS.value,
    )
    summary = run(config)
    out_dir = config.out_dir
    print(
        f"wrote {summary.num_fovs} FOVs with {summary.num_cells} cells ({summary.num_bytes / 1e6:.1f} MB) to {out_dir}\n"
        f"next: python -m beam_jobs.convert --images={out_dir}/{IMAGES_DIR} --labels={out_dir}/{LABELS_NAME} "
        f"--pixel_size_um={config.pixel_size_um:g} --out_dir={out_dir}"
    )


if __name__ == "__main__":
    define_flags()
    command.run_main(main)

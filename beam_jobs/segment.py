"""Segments fields of view into single cells and stores every cell, lossless, with its mask and measurements.

    python -m beam_jobs.segment --images=images --labels=train.csv --cells_dir=cells --num_workers=2

Stopped in the middle? The same command goes on; finished FOVs are not done again. FOVs that cannot be used are listed in
dead_letters.jsonl and make the exit status 1 unless --max_dead_fraction allows them. Flags of Apache Beam may follow, as
--runner=FlinkRunner.
"""

from __future__ import annotations

import dataclasses
import time

import apache_beam as beam
import pandas as pd
from absl import flags

from beam_jobs import command, runner, store_tables
from beam_jobs.cell_store import DEAD_LETTERS, CellStore, FovRow
from beam_jobs.fov_reader import BIT_DEPTHS, MAX_FOV_PIXELS
from beam_jobs.fov_source import FovListing, FovRef, find_fovs
from beam_jobs.segment_fovs import SegmentFovs
from beam_jobs.segmenters import SEGMENTERS, Segmenter, hpacellseg, label_cell, make_segmenter
from hpa_proto import folder_lock, storage
from hpa_proto import labels as hpa_labels
from hpa_proto.errors import ConfigError

_IMAGES = flags.DEFINE_string("images", None, "Folder, quoted glob, or CSV of paths of the FOVs' images.")
LABELS = flags.DEFINE_string("labels", None, "CSV with the columns ID and Label (as 8|5|0). Without: a prediction set.")
_SEGMENTER = flags.DEFINE_enum(
    "segmenter",
    "watershed",
    sorted(SEGMENTERS),
    "How cells are found: by watershed, from masks that are there, or by HPA-Cell-Segmentation's networks.",
)
_MASKS_DIR = flags.DEFINE_string("masks_dir", None, "Folder of <id>_cell.png label maps, for --segmenter=masks.")
_NUCLEI_WEIGHTS = flags.DEFINE_string(
    "nuclei_weights", None, "Weights from beam_jobs.import_weights, for --segmenter=hpacellseg."
)
_CELL_WEIGHTS = flags.DEFINE_string(
    "cell_weights", None, "Weights of the cell network, made likewise, for --segmenter=hpacellseg."
)
_DEVICE = flags.DEFINE_string("device", None, "cpu (default), cuda or cuda:<n>, for --segmenter=hpacellseg.")
_PRECISION = flags.DEFINE_enum(
    "precision",
    None,
    list(hpacellseg.PRECISIONS),
    "float32 (default), or bfloat16 where the processor or GPU computes with it, for --segmenter=hpacellseg.",
)
_LABELLING = flags.DEFINE_enum(
    "labelling",
    None,
    list(label_cell.MODES),
    "full (default), or fast: outlines at the networks' resolution, for --segmenter=hpacellseg.",
)
_PIXEL_SIZE_UM = flags.DEFINE_float("pixel_size_um", 0.08, "Side of a pixel in micrometres (HPA: 0.08).")
_BIT_DEPTH = flags.DEFINE_integer(
    "bit_depth", 0, "Bits in use in 16-bit files: 12, 14 or 16; 0: the fewest that hold each FOV's brightest pixel."
)
_MAX_FOV_PIXELS = flags.DEFINE_integer(
    "max_fov_pixels",
    MAX_FOV_PIXELS,
    "Height times width of the largest FOV that is read; looked up before decoding.",
    1,
)
_MAX_DEAD_FRACTION = flags.DEFINE_float("max_dead_fraction", 0.0, "Share of FOVs that may fail, 0..1.", 0.0, 1.0)

flags.adopt_module_key_flags(command)


@dataclasses.dataclass(frozen=True)
class SegmentConfig:
    """What a segmenting job does; the fields are the flags."""

    images: str
    cells_dir: str
    labels: str | None = None
    segmenter: str = "watershed"
    masks_dir: str | None = None
    nuclei_weights: str | None = None
    cell_weights: str | None = None
    device: str | None = None
    precision: str | None = None
    labelling: str | None = None
    pixel_size_um: float = 0.08
    bit_depth: int = 0
    max_fov_pixels: int = MAX_FOV_PIXELS
    max_dead_fraction: float = 0.0
    num_workers: int = 1
    beam_args: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.bit_depth not in (0, *BIT_DEPTHS[1:]):
            raise ConfigError(f"--bit_depth={self.bit_depth}: give 12, 14, 16, or 0 to find it for each FOV")
        if not self.pixel_size_um > 0:
            raise ConfigError(f"--pixel_size_um={self.pixel_size_um}: give the side of a pixel in micrometres")
        runner.check_beam_args(self.beam_args)

    def make_segmenter(self) -> Segmenter:
        """Makes the segmenter that the flags choose.

        Raises:
          ConfigError: as `segmenters.make_segmenter`.
        """
        options = ("masks_dir", "nuclei_weights", "cell_weights", "device", "precision", "labelling")
        return make_segmenter(
            self.segmenter,
            pixel_size_um=self.pixel_size_um,
            bit_depth=self.bit_depth,
            **{name: getattr(self, name) for name in options},
        )


@dataclasses.dataclass(frozen=True)
class SegmentResult:
    """What a segmenting job did.

    Attributes:
      store: the cell store.
      cells: the cell table.
      fovs: the FOV table.
      listing: what was asked for.
      num_segmented: FOVs done by this run; the others were finished before.
      seconds: wall time.
      max_dead_fraction: share of FOVs that may fail.
    """

    store: CellStore
    cells: pd.DataFrame
    fovs: pd.DataFrame
    listing: FovListing
    num_segmented: int
    seconds: float
    max_dead_fraction: float

    @property
    def num_dead(self) -> int:
        """FOVs that failed."""
        return int((self.fovs["error_reason"] != "").sum())

    @property
    def too_many_dead(self) -> bool:
        """True where more FOVs failed than allowed."""
        return self.num_dead > self.max_dead_fraction * len(self.fovs)


def config_from_flags(beam_args: list[str], *, cells_dir: str | None) -> SegmentConfig:
    """Makes the job's config from the flags.

    Raises:
      ConfigError: a flag is missing or wrong.
    """
    return SegmentConfig(
        images=command.required("images", _IMAGES.value),
        cells_dir=command.required("cells_dir", cells_dir),
        labels=LABELS.value,
        segmenter=_SEGMENTER.value,
        masks_dir=_MASKS_DIR.value,
        nuclei_weights=_NUCLEI_WEIGHTS.value,
        cell_weights=_CELL_WEIGHTS.value,
        device=_DEVICE.value,
        precision=_PRECISION.value,
        labelling=_LABELLING.value,
        pixel_size_um=_PIXEL_SIZE_UM.value,
        bit_depth=_BIT_DEPTH.value,
        max_fov_pixels=_MAX_FOV_PIXELS.value,
        max_dead_fraction=_MAX_DEAD_FRACTION.value,
        num_workers=command.NUM_WORKERS.value,
        beam_args=tuple(beam_args),
    )


def run(config: SegmentConfig) -> SegmentResult:
    """Runs the job.

    Raises:
      ConfigError: an input or an option that cannot work, or another job is at work in the store; no pixel has been read.
    """
    segmenter = config.make_segmenter()
    listing = find_fovs(config.images, config.labels)
    store_tables.check_extra_columns(name for extra in listing.extra_columns.values() for name in extra)
    with folder_lock.hold(config.cells_dir):
        return _segment(config, segmenter, listing)


def _segment(config: SegmentConfig, segmenter: Segmenter, listing: FovListing) -> SegmentResult:
    start = time.monotonic()
    store = CellStore.create(config.cells_dir, _store_config(config, segmenter))
    labels = {fov.fov_id: hpa_labels.format_label_set(fov.labels or ()) for fov in listing.fovs}
    finished = store.finished_fovs(labels)
    pending = [fov for fov in listing.fovs if not _is_unchanged(fov, finished.get(fov.fov_id))]
    store.remove_temporary_files()
    store.clear_notes(fov.fov_id for fov in pending)
    if pending:
        transform = SegmentFovs(
            store,
            segmenter,
            pixel_size_um=config.pixel_size_um,
            bit_depth=config.bit_depth,
            max_fov_pixels=config.max_fov_pixels,
        )
        with (
            runner.plain_errors(),
            runner.progress("segment", len(pending), count_done=store.count_notes, unit="FOV"),
            runner.make_pipeline(config.beam_args, num_workers=config.num_workers) as pipeline,
        ):
            _ = (
                pipeline
                | "ListFovs" >> beam.Create(pending)
                | "SpreadFovs" >> beam.Reshuffle()
                | "SegmentFovs" >> transform
            )
    unusable = [
        FovRow(name, error_stage="read", error_reason="bad_id", error_detail=detail)
        for name, detail in listing.unusable_names
    ]
    cells, fovs = store.write_tables(labels, extra_columns=listing.extra_columns, unusable=unusable)
    # Nothing may vanish: a runner that swallowed a FOV must not look like success.
    if missing := sorted(labels.keys() - set(fovs["fov_id"])):
        raise RuntimeError(f"{len(missing)} FOVs were neither segmented nor reported dead, as {missing[0]}")
    return SegmentResult(store, cells, fovs, listing, len(pending), time.monotonic() - start, config.max_dead_fraction)


def describe(result: SegmentResult) -> str:
    """Writes the job's closing words."""
    num_dead, num_fovs = result.num_dead, len(result.fovs)
    num_bytes = int(result.fovs["num_bytes"].sum())
    rate = f" ({result.num_segmented / result.seconds:.2f} FOVs/s)" if result.num_segmented else ""
    lines = [
        f"FOVs      {num_fovs:,} read: {num_fovs - num_dead:,} segmented, {num_dead:,} failed",
        f"          {result.num_segmented:,} in this run, in {result.seconds:.1f} s{rate}",
        f"cells     {len(result.cells):,} in {num_bytes / 1e6:,.1f} MB at {result.store.path}",
    ]
    dead = result.fovs[result.fovs["error_reason"] != ""]
    for reason, count in dead["error_reason"].value_counts().items():
        example = dead.loc[dead["error_reason"] == reason, "error_detail"].iloc[0]
        lines.append(f"failed    {count:,} {reason}, as: {example}")
    if num_dead:
        lines.append(f"          all of them: {result.store.path}/{DEAD_LETTERS}")
    if unmatched := result.listing.labels_without_image:
        lines.append(f"note      {len(unmatched):,} rows of the label file have no image, as {unmatched[0]}")
    if result.too_many_dead:
        lines.append(
            f"FAILED    {num_dead} of {num_fovs} FOVs are dead, over --max_dead_fraction={result.max_dead_fraction:g}; "
            "mend them or raise it and run again (what is finished stays)"
        )
    return "\n".join(lines)


def _is_unchanged(fov: FovRef, input_bytes: int | None) -> bool:
    """True for a finished FOV whose images have the size that they had. Only asked of local files: it is quick there."""
    if input_bytes is None or any(storage.is_url(path) for _, path in fov.paths):
        return input_bytes is not None
    return sum(storage.size(path) or 0 for _, path in fov.paths) == input_bytes


def _store_config(config: SegmentConfig, segmenter: Segmenter) -> dict[str, object]:
    return {
        "segmenter": segmenter.config(),
        "pixel_size_um": config.pixel_size_um,
        "bit_depth": config.bit_depth,
    }


def main(beam_args: list[str]) -> int:
    """Runs the job that the flags describe."""
    result = run(config_from_flags(beam_args, cells_dir=command.CELLS_DIR.value))
    print(describe(result))
    return 1 if result.too_many_dead else 0


if __name__ == "__main__":
    command.run_main(main)

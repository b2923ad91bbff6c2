"""The Beam transform that turns FOVs into files of the cell store."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterator

import apache_beam as beam
from apache_beam.metrics import Metrics

from beam_jobs import cutting, fov_overview, fov_quality, near_duplicates, worker_setup
from beam_jobs.cell_store import CellStore, FovRow
from beam_jobs.fov_reader import MAX_FOV_PIXELS, FovImage, read_fov
from beam_jobs.fov_source import FovRef
from beam_jobs.segmenters import Segmentation, Segmenter
from hpa_proto import labels as hpa_labels
from hpa_proto.errors import FovError

METRICS_NAMESPACE = "hpa"


class SegmentFovs(beam.PTransform):
    """Reads, segments, cuts and measures FOVs and writes their cells: PCollection[FovRef] -> PCollection[FovRow].

    A FOV that cannot be used becomes a row with its error; anything but FovError is a bug and fails the job.

    Attributes:
      do_fn: what is done with each, for whoever has no pipeline.
    """

    def __init__(
        self,
        store: CellStore,
        segmenter: Segmenter,
        *,
        pixel_size_um: float,
        bit_depth: int = 0,
        max_fov_pixels: int = MAX_FOV_PIXELS,
    ):
        """Sets the step up.

        Args:
          store: where the cells go.
          segmenter: finds the cells.
          pixel_size_um: side of a pixel.
          bit_depth: bits in use in 16-bit files; 0: found for each FOV.
          max_fov_pixels: height times width of the largest FOV that is read.
        """
        super().__init__()
        self.do_fn = _SegmentFov(
            store, segmenter, pixel_size_um=pixel_size_um, bit_depth=bit_depth, max_fov_pixels=max_fov_pixels
        )

    def expand(self, fovs: beam.PCollection) -> beam.PCollection:
        """Builds the step."""
        return fovs | "Segment" >> beam.ParDo(self.do_fn)


class _SegmentFov(beam.DoFn):
    def __init__(
        self, store: CellStore, segmenter: Segmenter, *, pixel_size_um: float, bit_depth: int, max_fov_pixels: int
    ):
        self._store = store
        self._segmenter = segmenter
        self._pixel_size_um = pixel_size_um
        self._bit_depth = bit_depth
        self._max_fov_pixels = max_fov_pixels
        self._fovs_segmented = Metrics.counter(METRICS_NAMESPACE, "fovs_segmented")
        self._fovs_failed = Metrics.counter(METRICS_NAMESPACE, "fovs_failed")
        self._cells_written = Metrics.counter(METRICS_NAMESPACE, "cells_written")

    def setup(self) -> None:
        worker_setup.set_up_worker()

    def process(self, fov: FovRef) -> Iterator[FovRow]:
        row = FovRow(fov.fov_id, hpa_labels.format_label_set(fov.labels or ()))
        try:
            row = self._segment(fov, row)
        except FovError as error:
            row = row.with_error(error)
        if row.error_reason:
            self._store.write_dead_fov(row)
            self._fovs_failed.inc()
        else:
            self._fovs_segmented.inc()
            self._cells_written.inc(row.num_cells)
        yield row

    def _segment(self, fov: FovRef, row: FovRow) -> FovRow:
        if fov.labels is None:
            raise FovError(
                "read", "no_label", f"fov {fov.fov_id}: not in the label file; add its row or remove its images"
            )
        start = time.monotonic()
        image = read_fov(fov, bit_depth=self._bit_depth, max_pixels=self._max_fov_pixels)
        read = time.monotonic()
        row = dataclasses.replace(
            row,
            height_px=image.pixels.shape[0],
            width_px=image.pixels.shape[1],
            bit_depth=image.bit_depth,
            input_bytes=image.input_bytes,
            perceptual_hash=near_duplicates.perceptual_hash(image.pixels),
            read_msec=round(1000 * (read - start)),
        )
        try:
            segmentation = self._segmenter.segment(image.pixels, fov_id=fov.fov_id)
        except FovError as error:
            # What can be seen in the pixels often tells why.
            return self._judge(row, image, None).with_error(error)
        segmented = time.monotonic()
        row = self._judge(row, image, segmentation)
        cells = list(
            cutting.cut_cells(
                image, segmentation, fov_id=fov.fov_id, labels=fov.labels, pixel_size_um=self._pixel_size_um
            )
        )
        row = dataclasses.replace(
            row,
            segment_msec=round(1000 * (segmented - read)),
            store_msec=round(1000 * (time.monotonic() - segmented)),
        )
        return self._store.write_fov(row, cells)

    def _judge(self, row: FovRow, image: FovImage, segmentation: Segmentation | None) -> FovRow:
        """Measures the quality of a FOV and keeps a picture of it where something looks wrong."""
        cell_mask, num_nuclei = (segmentation.cell_mask, segmentation.num_nuclei) if segmentation else (None, None)
        quality = fov_quality.measure_fov(image.pixels, cell_mask, pixel_size_um=self._pixel_size_um)
        reasons = fov_quality.find_reasons(quality, num_nuclei)
        if reasons or segmentation is None:
            overview = fov_overview.encode_overview(image.pixels, bit_depth=image.bit_depth)
            self._store.write_overview(row.fov_id, overview)
        # NaN is no JSON.
        known = {name: value for name, value in quality.items() if not math.isnan(value)}
        return dataclasses.replace(row, quality=known, looks_wrong="|".join(reasons))

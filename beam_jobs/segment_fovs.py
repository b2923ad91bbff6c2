"""The Beam transform that turns FOVs into files of the cell store."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator

import apache_beam as beam
from apache_beam.metrics import Metrics

from beam_jobs import cutting, worker_setup
from beam_jobs.cell_store import CellStore, FovRow
from beam_jobs.fov_reader import read_fov
from beam_jobs.fov_source import FovRef
from beam_jobs.segmenters import Segmenter
from hpa_proto import labels as hpa_labels
from hpa_proto.errors import FovError

METRICS_NAMESPACE = "hpa"


class SegmentFovs(beam.PTransform):
    """Reads, segments, cuts and measures FOVs and writes their cells: PCollection[FovRef] -> PCollection[FovRow].

    A FOV that cannot be used becomes a row with its error; anything but FovError is a bug and fails the job.
    """

    def __init__(self, store: CellStore, segmenter: Segmenter, *, pixel_size_um: float, bit_depth: int = 0):
        """Sets the step up.

        Args:
          store: where the cells go.
          segmenter: finds the cells.
          pixel_size_um: side of a pixel.
          bit_depth: bits in use in 16-bit files; 0: found for each FOV.
        """
        super().__init__()
        self._do_fn = _SegmentFov(store, segmenter, pixel_size_um=pixel_size_um, bit_depth=bit_depth)

    def expand(self, fovs: beam.PCollection) -> beam.PCollection:
        """Builds the step."""
        return fovs | "Segment" >> beam.ParDo(self._do_fn)


class _SegmentFov(beam.DoFn):
    def __init__(self, store: CellStore, segmenter: Segmenter, *, pixel_size_um: float, bit_depth: int):
        self._store = store
        self._segmenter = segmenter
        self._pixel_size_um = pixel_size_um
        self._bit_depth = bit_depth
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
        image = read_fov(fov, bit_depth=self._bit_depth)
        height_px, width_px = image.pixels.shape[:2]
        read = time.monotonic()
        segmentation = self._segmenter.segment(image.pixels, fov_id=fov.fov_id)
        segmented = time.monotonic()
        cells = list(
            cutting.cut_cells(
                image, segmentation, fov_id=fov.fov_id, labels=fov.labels, pixel_size_um=self._pixel_size_um
            )
        )
        row = dataclasses.replace(
            row,
            height_px=height_px,
            width_px=width_px,
            bit_depth=image.bit_depth,
            input_bytes=image.input_bytes,
            read_msec=round(1000 * (read - start)),
            segment_msec=round(1000 * (segmented - read)),
            store_msec=round(1000 * (time.monotonic() - segmented)),
        )
        return self._store.write_fov(row, cells)

"""Cuts a segmented FOV into its cells."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy import ndimage

from beam_jobs import cell_png, measurements
from beam_jobs.fov_reader import FovImage
from beam_jobs.segmenters import Segmentation
from hpa_proto import cells_pb2, masks


def cut_cells(
    image: FovImage,
    segmentation: Segmentation,
    *,
    fov_id: str,
    labels: tuple[int, ...],
    pixel_size_um: float,
) -> Iterator[cells_pb2.Cell]:
    """Cuts the cells out, at native resolution and with whatever lies beside them in their box, and measures them.

    Args:
      image: the FOV's pixels.
      segmentation: its cells.
      fov_id: its id.
      labels: its labels; every cell gets them.
      pixel_size_um: side of a pixel.

    Yields:
      Cells in the order of their index.
    """
    height, width = image.pixels.shape[:2]
    background = measurements.measure_background(image.pixels)
    for cell_index, box in enumerate(ndimage.find_objects(segmentation.cell_mask), start=1):
        if box is None:
            continue
        rows, columns = box
        crop = np.ascontiguousarray(image.pixels[box])
        mask = (segmentation.cell_mask[box] == cell_index).view(np.uint8)
        nucleus = (segmentation.nucleus_mask[box] == cell_index).view(np.uint8)
        measured = measurements.measure_cell(
            crop,
            mask,
            nucleus=nucleus,
            num_nuclei=int(segmentation.num_nuclei[cell_index]),
            touches_border=rows.start == 0 or columns.start == 0 or rows.stop == height or columns.stop == width,
            background=background,
            bit_depth=image.bit_depth,
            pixel_size_um=pixel_size_um,
        )
        yield cells_pb2.Cell(
            cell_id=f"{fov_id}_{cell_index}",
            fov_id=fov_id,
            cell_index=cell_index,
            labels=labels,
            bbox=cells_pb2.BoundingBox(x_min=columns.start, y_min=rows.start, x_max=columns.stop, y_max=rows.stop),
            fov_height=height,
            fov_width=width,
            bit_depth=image.bit_depth,
            image_png=cell_png.encode_png(np.moveaxis(crop, 2, 0)),
            cell_mask=_rle(mask),
            nucleus_mask=_rle(nucleus) if nucleus.any() else None,
            measurements=measured,
        )


def _rle(mask: np.ndarray) -> cells_pb2.RleMask:
    return cells_pb2.RleMask(height=mask.shape[0], width=mask.shape[1], counts=masks.encode_mask(mask))

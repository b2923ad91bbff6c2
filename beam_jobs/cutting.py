"""Cuts a segmented FOV into its cells."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np

from beam_jobs import crop_codec, measurements
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
    for cell_index, box in find_boxes(segmentation.cell_mask):
        rows, columns = box
        planes = [image.pixels[(*box, plane)] for plane in range(image.pixels.shape[2])]
        mask = (segmentation.cell_mask[box] == cell_index).view(np.uint8)
        nucleus = (segmentation.nucleus_mask[box] == cell_index).view(np.uint8)
        measured = measurements.measure_cell(
            planes,
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
            image_zstd=crop_codec.encode_crop(planes),
            cell_mask=_rle(mask),
            nucleus_mask=_rle(nucleus) if nucleus.any() else None,
            measurements=measured,
        )


def find_boxes(mask: np.ndarray) -> list[tuple[int, tuple[slice, slice]]]:
    """Finds the box of each object of a label map.

    `scipy.ndimage.find_objects` looks at every pixel; this looks at the runs of equal pixels: 3 to 4 times as fast.

    Args:
      mask: int[H, W], 0 background.

    Returns:
      (label, (rows, columns)) by label.
    """
    flat, width = mask.ravel(), mask.shape[1]
    # A run ends with its row, whatever the next one begins with.
    is_start = np.concatenate(([True], flat[1:] != flat[:-1]))
    is_start[::width] = True
    starts = np.flatnonzero(is_start)
    stops = np.append(starts[1:], flat.size)
    starts, stops = (ends[flat[starts] > 0] for ends in (starts, stops))
    order = np.argsort(flat[starts], kind="stable")
    starts, stops = starts[order], stops[order]
    labels, first = np.unique(flat[starts], return_index=True)
    if not len(labels):
        return []
    rows, left = np.divmod(starts, width)
    right = left + stops - starts
    # Runs are in raster order: the first and the last of a label are in its first and its last row.
    top, bottom = rows[first], rows[np.append(first[1:], len(rows)) - 1] + 1
    sides = (top, bottom, np.minimum.reduceat(left, first), np.maximum.reduceat(right, first))
    return [
        (label, (slice(y0, y1), slice(x0, x1)))
        for label, y0, y1, x0, x1 in zip(labels.tolist(), *(side.tolist() for side in sides), strict=True)
    ]


def _rle(mask: np.ndarray) -> cells_pb2.RleMask:
    # COCO goes column by column; OpenCV turns a picture faster than NumPy copies one into that order.
    counts = masks.encode_mask(cv2.transpose(mask).T)
    return cells_pb2.RleMask(height=mask.shape[0], width=mask.shape[1], counts=counts)

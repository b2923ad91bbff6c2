"""Pictures of stored cells and of FOVs put together from them, for people."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence

import cv2
import numpy as np

from beam_jobs import crop_codec, examples
from beam_jobs.examples import ExampleConfig
from hpa_proto import cells_pb2, masks, pictures, storage

KEPT_COLOUR = (255, 255, 255)
DROPPED_COLOUR = (255, 130, 0)

_JPEG_QUALITY = 92


def cell_picture(
    cell: cells_pb2.Cell, *, size_px: int, mask_background: bool, outline: tuple[int, int, int] | None = None
) -> np.ndarray:
    """Draws a stored cell in colour on a black square, as examples have it.

    Args:
      cell: from the cell store.
      size_px: side of the square.
      mask_background: everything outside the cell is black.
      outline: colour of a line around the cell.

    Returns:
      uint8[size_px, size_px, 3], RGB.
    """
    config = ExampleConfig(image_size_px=size_px, mask_background=mask_background)
    picture = pictures.colour_picture(np.moveaxis(examples.cell_planes(cell, config), 0, 2))
    if outline:
        mask = _decode_mask(cell)
        side_px = max(mask.shape)
        # The crop stands in the middle of its square.
        margin = np.array([side_px - mask.shape[1], side_px - mask.shape[0]]) / 2
        outlines = [line + margin for line in pictures.find_outlines(mask)]
        pictures.draw_outlines(picture, outlines, scale=size_px / side_px, colour=outline)
    return picture


def fov_from_cells(cells: Sequence[cells_pb2.Cell], *, dropped_ids: Container[str], max_side_px: int) -> np.ndarray:
    """Puts a FOV together from its stored cells, with their outlines; what lies outside every cell's box stays black.

    Args:
      cells: all stored cells of one FOV, at least one.
      dropped_ids: ids of the cells that get the other colour of outline.
      max_side_px: longer side of the picture.

    Returns:
      uint8[h, w, 3], RGB.
    """
    height, width = cells[0].fov_height, cells[0].fov_width
    scale = min(1.0, max_side_px / max(height, width))
    image = np.zeros((max(1, round(height * scale)), max(1, round(width * scale)), 4), dtype=np.uint8)
    inside = np.zeros(image.shape[:2], dtype=bool)
    for cell in cells:
        box = _scaled_box(cell.bbox, scale, inside.shape)
        crop = np.dstack(crop_codec.decode_crop(cell))
        crop = examples.to_uint8(crop, bit_depth=cell.bit_depth)
        size = (box[1].stop - box[1].start, box[0].stop - box[0].start)
        image[box] = cv2.resize(crop, size, interpolation=cv2.INTER_AREA)
        inside[box] = True
    picture = pictures.colour_picture(image, inside=inside)
    draw_cell_outlines(picture, cells, scale=scale, dropped_ids=dropped_ids)
    return picture


def draw_cell_outlines(
    picture: np.ndarray, cells: Iterable[cells_pb2.Cell], *, scale: float, dropped_ids: Container[str] = ()
) -> None:
    """Draws the outlines of stored cells into an RGB picture of their FOV at `scale` times its size."""
    for cell in cells:
        outlines = pictures.find_outlines(_decode_mask(cell), x_min=cell.bbox.x_min, y_min=cell.bbox.y_min)
        colour = DROPPED_COLOUR if cell.cell_id in dropped_ids else KEPT_COLOUR
        pictures.draw_outlines(picture, outlines, scale=scale, colour=colour)


def write_picture(path: str, picture: np.ndarray, *, palette: bool = False) -> None:
    """Writes a picture as PNG or JPEG, by its name.

    Args:
      path: .png, .jpg or .jpeg.
      picture: uint8[H, W, 3], RGB.
      palette: of `encode_png`.

    Raises:
      ConfigError: the name is of neither.
    """
    pictures.check_picture_path(path)
    if path.lower().endswith(".png"):
        storage.write_bytes(path, pictures.encode_png(picture, palette=palette))
    else:
        storage.write_bytes(path, pictures.encode_jpeg(picture, quality=_JPEG_QUALITY))


def _decode_mask(cell: cells_pb2.Cell) -> np.ndarray:
    rle = cell.cell_mask
    return masks.decode_mask(rle.counts, height=rle.height, width=rle.width)


def _scaled_box(bbox: cells_pb2.BoundingBox, scale: float, shape: tuple[int, int]) -> tuple[slice, slice]:
    def span(start: int, stop: int, size: int) -> slice:
        first = min(round(start * scale), size - 1)
        return slice(first, min(max(round(stop * scale), first + 1), size))

    return span(bbox.y_min, bbox.y_max, shape[0]), span(bbox.x_min, bbox.x_max, shape[1])

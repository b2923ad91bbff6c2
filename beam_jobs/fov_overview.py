"""A small picture of a whole FOV, kept in the cell store where something looks wrong, and how a report shows it."""

from __future__ import annotations

from collections.abc import Iterable

import cv2
import numpy as np

from beam_jobs import cell_pictures, examples
from hpa_proto import cells_pb2, picture_file, pictures, schema

# The longer side.
_SIDE_PX = 320
_QUALITY = 85
_GAP_PX = 4


def encode_overview(pixels: np.ndarray, *, bit_depth: int) -> bytes:
    """Shrinks a FOV and encodes it: a grey JPEG, the channels one below the other.

    Args:
      pixels: uint8 or uint16[H, W, 4], channels in `schema.CHANNELS` order.
      bit_depth: bits in use.
    """
    scale = min(1.0, _SIDE_PX / max(pixels.shape[:2]))
    size = (max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale)))
    small = examples.to_uint8(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), bit_depth=bit_depth)
    stacked = np.concatenate(cv2.split(small))
    return cv2.imencode(".jpg", stacked, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])[1].tobytes()


def decode_overview(data: bytes) -> np.ndarray:
    """Decodes the picture of `encode_overview`: uint8[h, w, 4].

    Raises:
      ValueError: it is damaged, or another picture.
    """
    stacked = picture_file.decode(data, max_pixels=len(schema.CHANNELS) * _SIDE_PX**2)
    if stacked.ndim != 2 or stacked.dtype != np.uint8 or len(stacked) % len(schema.CHANNELS):
        raise ValueError(f"no four grey pictures, one below the other: {stacked.dtype}{list(stacked.shape)}")
    return np.dstack(np.split(stacked, len(schema.CHANNELS)))


def draw_overview(overview: np.ndarray, cells: Iterable[cells_pb2.Cell], *, fov_width_px: int) -> np.ndarray:
    """Draws a FOV in colour with its cells' outlines and, beside it, its channels in grey.

    Args:
      overview: uint8[h, w, 4] of `decode_overview`.
      cells: the stored cells.
      fov_width_px: width of the FOV itself.

    Returns:
      uint8[h', w', 3], RGB, about twice as wide. The channels stand in reading order: red, green, blue, yellow; each has its
      own contrast.
    """
    height, width = overview.shape[:2]
    everywhere = np.ones((height, width), bool)
    colour = pictures.colour_picture(overview, inside=everywhere)
    cell_pictures.draw_cell_outlines(colour, cells, scale=width / fov_width_px)
    tile_size = (max(1, (width - _GAP_PX) // 2), max(1, (height - _GAP_PX) // 2))
    height = max(height, 2 * tile_size[1] + _GAP_PX)
    picture = np.full((height, width + 2 * (tile_size[0] + _GAP_PX), 3), 255, np.uint8)
    picture[: colour.shape[0], :width] = colour
    for plane in range(overview.shape[2]):
        # Pure green has full weight there: the stretched channel itself.
        grey = pictures.colour_picture(overview[..., [plane]], channels=("green",), inside=everywhere)[..., 1]
        tile = cv2.resize(grey, tile_size, interpolation=cv2.INTER_AREA)[..., None]
        row, column = divmod(plane, 2)
        top, left = row * (tile_size[1] + _GAP_PX), width + _GAP_PX + column * (tile_size[0] + _GAP_PX)
        picture[top : top + tile_size[1], left : left + tile_size[0]] = tile
    return picture

"""How a FOV becomes the input of the networks of HPA-Cell-Segmentation, and their output one of the FOV's size."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

from hpa_proto.errors import ConfigError

# What the networks were trained with.
_MEAN = np.array([124, 117, 104], np.float32) / 255
_STD = 1 / (0.0167 * 255)
_STRIDE_PX = 32
_BORDER_PX = 32


class FramedFov(NamedTuple):
    """A FOV as a network takes it.

    Attributes:
      pixels: float32[3, h, w], normalised, sides multiples of 32.
      rows: where in it the FOV is, from top to bottom.
      columns: likewise from left to right.
      size_px: height and width of the FOV.
    """

    pixels: np.ndarray
    rows: slice
    columns: slice
    size_px: tuple[int, int]


def frame(image: np.ndarray, *, scale_factor: float, padding: bool) -> FramedFov:
    """Scales, frames and normalises a FOV.

    Args:
      image: as `scale_image` takes it; [H, W] stands for three equal channels.
      scale_factor: side of the result by side of the FOV, without the border.
      padding: adds a reflected border of 32 px. Without it there is one, below and right, only up to the next multiple of 32.

    Raises:
      ConfigError: as `scale_image`.
    """
    small = scale_image(image, scale_factor)
    height, width = small.shape[:2]
    before = _BORDER_PX if padding else 0
    # The tool's border: behind the FOV 32 px less what is over a multiple of 32, so 1 to 32.
    after_rows, after_columns = (
        _STRIDE_PX - side % _STRIDE_PX if padding else -side % _STRIDE_PX for side in (height, width)
    )
    framed = cv2.copyMakeBorder(small, before, after_rows, before, after_columns, cv2.BORDER_REFLECT)
    pixels = np.broadcast_to(framed if framed.ndim == 3 else framed[..., None], (*framed.shape[:2], 3))
    return FramedFov(
        np.ascontiguousarray(np.moveaxis((pixels - _MEAN) / np.float32(_STD), 2, 0)),
        slice(before, before + height),
        slice(before, before + width),
        image.shape[:2],
    )


def unframe(prediction: np.ndarray, fov: FramedFov) -> np.ndarray:
    """Turns a network's output, float[3, h, w] of 0..1, into uint8[H, W, 3] of 0..255; the unused first plane is 0."""
    found = np.rint(prediction[:, fov.rows, fov.columns] * 255).astype(np.uint8)
    found[0] = 0
    height, width = fov.size_px
    # Enlarging by area, as the tool does: a network's pixel becomes a square of the FOV's.
    return cv2.resize(np.ascontiguousarray(np.moveaxis(found, 0, 2)), (width, height), interpolation=cv2.INTER_AREA)


def scale_image(image: np.ndarray, scale_factor: float) -> np.ndarray:
    """Scales a FOV for the networks, as skimage.transform.rescale with its defaults does.

    Args:
      image: [H, W] or [H, W, C]; uint8 and uint16 count as shares of their full range, floats are of 0..1.
      scale_factor: above 0.

    Returns:
      float32[h, w] or float32[h, w, C] of 0..1.

    Raises:
      ConfigError: another type, or a float above 1.
    """
    if image.dtype in (np.uint8, np.uint16):
        image = image.astype(np.float32) / np.float32(np.iinfo(image.dtype).max)
    elif not np.issubdtype(image.dtype, np.floating) or not image.size or not image.max() <= 1:
        raise ConfigError(f"an image of {image.dtype}{list(image.shape)}: give uint8, uint16, or floats of 0..1")
    image = np.ascontiguousarray(image, np.float32)
    sides = image.shape[:2]
    height, width = (max(1, round(side * scale_factor)) for side in sides)
    if (height, width) == sides:
        return image
    sigmas = [max(0.0, (side / scaled - 1) / 2) for side, scaled in zip(sides, (height, width), strict=True)]
    if max(sigmas) > 0:
        # Smoothed first, so that fine fibres do not turn into coarse patterns. Kernels end at four sigma.
        down, across = (cv2.getGaussianKernel(2 * int(4 * sigma + 0.5) + 1, max(sigma, 1e-6)) for sigma in sigmas)
        image = cv2.sepFilter2D(image, -1, across, down, borderType=cv2.BORDER_REFLECT_101)
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)

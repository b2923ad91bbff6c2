"""One affine warp per picture: the flips, rotation, shear, zoom and shift of a batch as one matrix and one interpolation.

Chained geometric layers interpolate once each: slower by their number, and every pass blurs.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import keras
from keras import ops

Tensor = Any
METHODS = ("auto", "op", "gather")


class Geometry(NamedTuple):
    """What happens to each picture, in this order about its centre; every entry is float32[B].

    Attributes:
      flip_x: -1 mirrors left and right, 1 does not.
      flip_y: -1 mirrors top and bottom, 1 does not.
      zoom: over 1 enlarges; the same along both axes, so that a cell keeps its shape.
      shear_rad: the rows slide over each other; tan(shear) px to the right per px downwards.
      rotation_rad: clockwise as displayed (row 0 on top).
      shift_x: to the right, as a share of the width.
      shift_y: downwards, as a share of the height.
    """

    flip_x: Tensor
    flip_y: Tensor
    zoom: Tensor
    shear_rad: Tensor
    rotation_rad: Tensor
    shift_x: Tensor
    shift_y: Tensor


def compose_transforms(geometry: Geometry, *, height_px: int, width_px: int) -> Tensor:
    """Composes the inverse map, from output pixel to input pixel, which is what a warp reads.

    With p the output pixel, c the centre and d the shift, the input pixel is F Z S R (p - c - d) + c, where R turns back,
    S shears back, Z shrinks back and F flips. Written out, not multiplied as matrices: a float32 matrix product
    may run in TensorFloat-32 on a GPU, whose 10 bits put a coordinate of 500 px off by a quarter of a pixel.

    Args:
      geometry: of B pictures.
      height_px: of the pictures.
      width_px: of the pictures.

    Returns:
      float32[B, 8]: (a0, a1, a2, b0, b1, b2, 0, 0) of `keras.ops.image.affine_transform`:
      x_in = a0 x + a1 y + a2, y_in = b0 x + b1 y + b2.
    """
    center_x, center_y = (width_px - 1) / 2, (height_px - 1) / 2
    cos, sin = ops.cos(geometry.rotation_rad), ops.sin(geometry.rotation_rad)
    tan = ops.tan(geometry.shear_rad)
    scale_x, scale_y = geometry.flip_x / geometry.zoom, geometry.flip_y / geometry.zoom
    a0, a1 = scale_x * (cos + tan * sin), scale_x * (sin - tan * cos)
    b0, b1 = -scale_y * sin, scale_y * cos
    from_x, from_y = center_x + geometry.shift_x * width_px, center_y + geometry.shift_y * height_px
    a2 = center_x - a0 * from_x - a1 * from_y
    b2 = center_y - b0 * from_x - b1 * from_y
    zero = ops.zeros_like(a0)
    return ops.stack([a0, a1, a2, b0, b1, b2, zero, zero], axis=-1)


def warp_images(images: Tensor, transforms: Tensor, *, method: str = "auto") -> Tensor:
    """Warps pictures with bilinear interpolation; outside is 0.

    Args:
      images: [B, H, W, C] of any data type; H, W and C are known.
      transforms: float32[B, 8] of `compose_transforms`.
      method: "op" is `keras.ops.image.affine_transform`, "gather" four gathers of whole pixels, "auto" the faster one:
        "op" on TensorFlow, "gather" elsewhere. TensorFlow has no XLA kernel for "op": inside jit_compile=True
        say "gather", which there is the faster one too.

    Returns:
      float32[B, H, W, C].
    """
    if method == "auto":
        method = "op" if keras.backend.backend() == "tensorflow" else "gather"
    if method == "op":
        return ops.image.affine_transform(
            ops.cast(images, "float32"), transforms, interpolation="bilinear", fill_mode="constant", fill_value=0
        )
    return _gather_bilinear(images, transforms)


def _gather_bilinear(images: Tensor, transforms: Tensor) -> Tensor:
    height_px, width_px, num_channels = images.shape[1:]
    x = ops.reshape(ops.arange(width_px, dtype="float32"), (1, 1, width_px))
    y = ops.reshape(ops.arange(height_px, dtype="float32"), (1, height_px, 1))
    entries = ops.reshape(transforms, (-1, 8, 1, 1))
    a0, a1, a2, b0, b1, b2 = (entries[:, entry] for entry in range(6))
    # A frame of zeros of 1 px and coordinates held inside it give 0 outside without a mask for each of the four corners.
    framed = ops.pad(images, [[0, 0], [1, 1], [1, 1], [0, 0]])
    in_x = ops.clip(a0 * x + a1 * y + a2, -1.0, float(width_px))
    in_y = ops.clip(b0 * x + b1 * y + b2, -1.0, float(height_px))
    left = ops.minimum(ops.floor(in_x), float(width_px - 1))
    top = ops.minimum(ops.floor(in_y), float(height_px - 1))
    weight_x = ops.expand_dims(in_x - left, -1)
    weight_y = ops.expand_dims(in_y - top, -1)

    stride = width_px + 2
    corner = (ops.cast(top, "int32") + 1) * stride + ops.cast(left, "int32") + 1
    corner = ops.reshape(corner, (-1, height_px * width_px, 1))
    # take_along_axis keeps the batch axis: one flat gather over the batch would make data-parallel devices send
    # each other their pictures.
    pixels = ops.reshape(framed, (-1, (height_px + 2) * stride, num_channels))

    def read(offset: int) -> Tensor:
        values = ops.cast(ops.take_along_axis(pixels, corner + offset, axis=1), "float32")
        return ops.reshape(values, (-1, height_px, width_px, num_channels))

    upper = read(0) * (1 - weight_x) + read(1) * weight_x
    lower = read(stride) * (1 - weight_x) + read(stride + 1) * weight_x
    return upper * (1 - weight_y) + lower * weight_y

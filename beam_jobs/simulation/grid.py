"""The field's two rasters: the image's pixels, and a fixed lattice in micrometres on which all geometry is drawn.

Geometry is computed on the lattice, whose spacing does not depend on the pixel size. So the same seed gives the same
cells, fibres and spots at any resolution.
"""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np

LATTICE_UM = 0.32
# The lattice reaches this far beyond the image, so that cells cut by the border go on behind it.
MARGIN_UM = 10.0


@dataclasses.dataclass(frozen=True)
class Grid:
    """Size and scale of one field.

    Attributes:
      height_px: rows of the image.
      width_px: columns of the image.
      pixel_size_um: side of a pixel, micrometres.
    """

    height_px: int
    width_px: int
    pixel_size_um: float

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the image."""
        return self.height_px, self.width_px

    @property
    def height_um(self) -> float:
        """Height of the image, micrometres."""
        return self.height_px * self.pixel_size_um

    @property
    def width_um(self) -> float:
        """Width of the image, micrometres."""
        return self.width_px * self.pixel_size_um

    @property
    def lattice_shape(self) -> tuple[int, int]:
        """Rows and columns of the lattice."""
        return _num_points(self.height_um, LATTICE_UM), _num_points(self.width_um, LATTICE_UM)

    def lattice_index(self, xy_um: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Finds the nearest lattice point of each position; positions outside go to the edge.

        Args:
          xy_um: float[..., 2], x and y from the image's upper left corner.

        Returns:
          Rows and columns, int32[...].
        """
        scaled = ((xy_um + MARGIN_UM) * (1 / LATTICE_UM) + 0.5).astype(np.int32)
        rows, columns = self.lattice_shape
        return np.clip(scaled[..., 1], 0, rows - 1), np.clip(scaled[..., 0], 0, columns - 1)

    def from_lattice(self, xy: np.ndarray) -> np.ndarray:
        """Turns lattice columns and rows (float[..., 2]) into micrometres from the image's upper left corner."""
        return xy * LATTICE_UM - MARGIN_UM

    def lattice_to_pixels(
        self, field: np.ndarray, *, row: int = 0, column: int = 0, box: tuple[int, int, int, int] | None = None
    ) -> np.ndarray:
        """Interpolates a lattice field, or a part of one, at the pixels' centres.

        Args:
          field: float32[h, w] on the lattice.
          row: lattice row of the field's first row.
          column: lattice column of the field's first column.
          box: y_min, y_max, x_min, x_max of the wanted pixels, half-open; the whole image without it.

        Returns:
          float32, the pixels of the box.
        """
        y_min, y_max, x_min, x_max = box or (0, self.height_px, 0, self.width_px)
        step = self.pixel_size_um / LATTICE_UM
        shift = (0.5 * self.pixel_size_um + MARGIN_UM) / LATTICE_UM
        matrix = np.array([[step, 0, x_min * step + shift - column], [0, step, y_min * step + shift - row]])
        return cv2.warpAffine(
            field,
            matrix,
            (x_max - x_min, y_max - y_min),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REPLICATE,
        )

    def lattice_noise(self, rng: np.random.Generator, *, scale_um: float) -> np.ndarray:
        """Draws smooth noise of about unit variance on the lattice, with details of `scale_um`."""
        values = self._white_noise(rng, scale_um)
        step = LATTICE_UM / scale_um
        rows, columns = self.lattice_shape
        matrix = np.array([[step, 0, 1.0], [0, step, 1.0]])
        smooth = cv2.warpAffine(
            values,
            matrix,
            (columns, rows),
            flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REPLICATE,
        )
        return smooth * np.float32(1.3)

    def noise(self, rng: np.random.Generator, *, scale_um: float) -> np.ndarray:
        """Draws smooth noise of about unit variance: float32[height_px, width_px] with details of `scale_um`.

        Details finer than a pixel lose contrast, as they do on a camera.
        """
        # warpAffine places samples to 1/32 of a source cell: coarse noise in one step would show stairs.
        if scale_um > 4 * LATTICE_UM:
            return self.lattice_to_pixels(self.lattice_noise(rng, scale_um=scale_um))
        values = self._white_noise(rng, scale_um)
        step = self.pixel_size_um / scale_um
        shift = (0.5 * self.pixel_size_um + MARGIN_UM) / scale_um
        fine = cv2.warpAffine(
            values,
            np.array([[step, 0, shift], [0, step, shift]]),
            (self.width_px, self.height_px),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REPLICATE,
        )
        return fine * np.float32(1.5 * min(1.0, scale_um / self.pixel_size_um))

    def _white_noise(self, rng: np.random.Generator, scale_um: float) -> np.ndarray:
        shape = _num_points(self.height_um, scale_um) + 2, _num_points(self.width_um, scale_um) + 2
        return rng.standard_normal(shape, dtype=np.float32)

    def blur(self, plane: np.ndarray, *, sigma_um: float) -> np.ndarray:
        """Blurs a plane of pixels with a Gaussian of `sigma_um`."""
        sigma_px = sigma_um / self.pixel_size_um
        # Wide blurs run on a smaller copy: nothing finer is left in the result.
        factor = int(sigma_px // 3)
        if factor < 2:
            return cv2.GaussianBlur(plane, (0, 0), sigma_px, borderType=cv2.BORDER_REFLECT)
        size = max(1, self.width_px // factor), max(1, self.height_px // factor)
        small = cv2.resize(plane, size, interpolation=cv2.INTER_AREA)
        small = cv2.GaussianBlur(small, (0, 0), sigma_px / factor, borderType=cv2.BORDER_REFLECT)
        return cv2.resize(small, (self.width_px, self.height_px), interpolation=cv2.INTER_LINEAR)


def _num_points(extent_um: float, spacing_um: float) -> int:
    # 256 * 0.32 and 1024 * 0.08 differ in the last bit: both must give the same lattice.
    return int(np.ceil((extent_um + 2 * MARGIN_UM) / spacing_um - 1e-6)) + 2

"""What every segmenter returns, the Protocol they stand behind, and how ids are made canonical."""

from __future__ import annotations

import dataclasses
from typing import Protocol

import numpy as np
from scipy import ndimage


@dataclasses.dataclass(frozen=True)
class Segmentation:
    """The cells of one FOV.

    Attributes:
      cell_mask: uint16 or int32[H, W], 0 is background, cells are 1..n without gaps, numbered from top to bottom: in raster
        order of their first pixels (`watershed`: of the pixels at its working resolution).
      nucleus_mask: as `cell_mask`; nucleus pixels carry the id of their cell and lie inside it; a cell may have none.
      num_nuclei: int32[n + 1], how many separate nuclei each cell has; entry 0 (background) is 0.
    """

    cell_mask: np.ndarray
    nucleus_mask: np.ndarray
    num_nuclei: np.ndarray

    @property
    def num_cells(self) -> int:
        """Number of cells, n."""
        return len(self.num_nuclei) - 1


class Segmenter(Protocol):
    """Finds the cells of a FOV. Implementations are picklable, hold no state and give equal output for equal input."""

    def config(self) -> dict[str, object]:
        """Returns the name and every parameter that changes the outcome, JSON-able, for the cell store's digest."""
        ...

    def segment(self, image: np.ndarray, *, fov_id: str) -> Segmentation:
        """Segments one FOV.

        Args:
          image: uint8 or uint16[H, W, 4], channels in `schema.CHANNELS` order.
          fov_id: name of the FOV, for files and errors.

        Raises:
          FovError: stage "segment"; the FOV cannot be segmented.
        """
        ...


def raster_order(mask: np.ndarray, *, num_ids: int) -> np.ndarray:
    """Finds the new id of each id of a map so that the new ids follow first pixels in raster order.

    Args:
      mask: int[H, W], 0 is background, ids within 1..num_ids; some may be missing.
      num_ids: largest id.

    Returns:
      int32[num_ids + 1]: new id of each old one, 1..n without gaps; 0 for the background and for missing ids.
    """
    boxes = ndimage.find_objects(mask, max_label=num_ids)
    first = []
    for old, box in enumerate(boxes, start=1):
        if box is not None:
            rows, columns = box
            column = columns.start + int(np.argmax(mask[rows.start, columns] == old))
            first.append((rows.start, column, old))
    new_ids = np.zeros(num_ids + 1, np.int32)
    new_ids[[old for _, _, old in sorted(first)]] = np.arange(1, len(first) + 1, dtype=np.int32)
    return new_ids

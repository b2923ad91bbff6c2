"""Suite of cutting and storing cells, against the way of the project that this one began as."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import cv2
import numpy as np

from beam_jobs.benchmark_fovs import FovSuite
from beam_jobs.cell_store import CellStore, FovRow
from hpa_proto import schema, storage
from hpa_proto.benchmarking import Ratio, Work

_NEW = "cut, measure and store"
_OLD = "old way"
_OLD_QUICK = "old way, masks without a loop"


def loop_mask(cell_mask: np.ndarray, cell_index: int) -> np.ndarray:
    """Makes the mask of one cell as the old project did: float64[H, W], set to 1 in a loop over the cell's pixels."""
    mask = np.zeros(cell_mask.shape)
    for row, column in zip(*np.nonzero(cell_mask == cell_index), strict=True):
        mask[row, column] = 1.0
    return mask


def quick_mask(cell_mask: np.ndarray, cell_index: int) -> np.ndarray:
    """Makes the same mask in one step of NumPy."""
    return (cell_mask == cell_index).astype(np.float64)


def cut_the_old_way(
    green: np.ndarray, cell_mask: np.ndarray, folder: str, *, make_mask: Callable[[np.ndarray, int], np.ndarray]
) -> list[str]:
    """Cuts the cells of a FOV out as the old project did, and writes a PNG a cell.

    For each cell: a mask of the whole FOV in floats, the channel multiplied by it, what is not zero of the product looked up,
    the product cut to it. Only the green channel, as there; no measurement. The description leaves open whether the loop went
    over the pixels of the cell or over those of the FOV; this is the quicker of the two.

    Args:
      green: uint8 or uint16[H, W].
      cell_mask: int32[H, W], 0 background.
      folder: an existing one.
      make_mask: `loop_mask` or `quick_mask`.

    Returns:
      Paths of the PNGs. A cell without a bright pixel has none.
    """
    paths = []
    for cell_index in range(1, int(cell_mask.max(initial=0)) + 1):
        product = green * make_mask(cell_mask, cell_index)
        rows, columns = np.nonzero(product)
        if not len(rows):
            continue
        crop = product[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        paths.append(storage.join(folder, f"{cell_index}.png"))
        cv2.imwrite(paths[-1], crop.astype(green.dtype))
    return paths


class OldWaySuite(FovSuite):
    """What happens to a segmented FOV: its cells in the store, all channels and measured, against green PNGs of the old way."""

    name = "old_way"
    title = "cutting and storing the cells of a segmented FOV, against the old project's way, one thread"

    def prepare(self, folder: str) -> None:
        """Segments the FOVs."""
        self._folder = folder
        self._read_and_segment()
        self.notes.append(
            "the new way stores four channels and their measurements, flushed to the disk; the old one writes green alone, and "
            "loops over the pixels of a cell (its description leaves open whether over all of the FOV, which takes longer)"
        )
        self._store = CellStore.create(storage.join(folder, "cells"), {})
        plane = schema.CHANNELS.index("green")
        self._green = [np.ascontiguousarray(image.pixels[..., plane]) for image in self._pixels]

    def variants(self) -> dict[str, Work]:
        """Returns the ways."""
        return {
            _NEW: self._each_fov(self._cut_and_store),
            _OLD: self._each_fov(lambda number: self._cut_old(number, loop_mask)),
            _OLD_QUICK: self._each_fov(lambda number: self._cut_old(number, quick_mask)),
        }

    def ratios(self) -> Sequence[Ratio]:
        """Returns the new way against the old ones."""
        return (
            Ratio("cutting and storing against the old way", _NEW, _OLD, at_least=10),
            Ratio("the same, against its masks without a loop", _NEW, _OLD_QUICK),
        )

    def _cut_and_store(self, number: int) -> None:
        self._store.write_fov(FovRow(self._fovs[number].fov_id), self._cut(number))

    def _cut_old(self, number: int, make_mask: Callable[[np.ndarray, int], np.ndarray]) -> None:
        cut_the_old_way(self._green[number], self._found[number].cell_mask, self._folder, make_mask=make_mask)

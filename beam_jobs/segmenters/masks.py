"""The segmenter that reads label maps which exist already: another tool's masks, Kaggle's, or hand-drawn ones."""

from __future__ import annotations

import dataclasses
import io
import math
import os
import zipfile
from typing import IO

import numpy as np
from skimage import measure

from beam_jobs import mask_metrics
from beam_jobs.segmenters.segmentation import Segmentation, raster_order
from hpa_proto import picture_file, storage, zip_file
from hpa_proto.errors import ConfigError, FovError
from hpa_proto.redaction import redact

# File names that are tried, in this order. HPA publishes *_predictedmask.png; Kaggle's shared cell masks are *.npz.
CELL_NAMES: tuple[str, ...] = ("{}_cell.png", "{}_predictedmask.png", "{}.npz", "{}.npy")
NUCLEUS_NAME = "{}_nuclei.png"

# A piece of a nucleus map smaller than this share of its cell's largest nucleus is a stray speck, not a second nucleus.
_SPECK_SHARE = 0.05

# 16,384 px squared.
_MAX_PIXELS = 1 << 28

# A file that cannot be read at all too: it must cost one FOV, not the job.
_DAMAGE = (*zip_file.ARRAY_DAMAGE, OSError)


@dataclasses.dataclass(frozen=True)
class MasksSegmenter:
    """Takes each FOV's cells from a file in a folder.

    The cell map is the first of `CELL_NAMES` that is there: integers, 0 background, ids in any order and of any size. It is
    renumbered. The nucleus map, `NUCLEUS_NAME`, is optional; it may be a yes/no mask, use the cells' ids or ids of its own:
    each nucleus goes to the cell that it overlaps most, and what lies outside that cell is left out.

    Attributes:
      masks_dir: folder or fsspec URL.
    """

    masks_dir: str

    def __post_init__(self) -> None:
        if not self.masks_dir or not storage.exists(self.masks_dir):
            raise ConfigError(
                f"--masks_dir={self.masks_dir}: no such folder; give the one that holds {CELL_NAMES[0].format('<id>')}"
            )

    def config(self) -> dict[str, object]:
        """Returns name and folder."""
        # However the folder is written, it is the same one.
        masks_dir = self.masks_dir.rstrip("/") if storage.is_url(self.masks_dir) else os.path.abspath(self.masks_dir)
        masks_dir = redact(masks_dir)
        return {"name": "masks", "masks_dir": masks_dir}

    def segment(self, image: np.ndarray, *, fov_id: str) -> Segmentation:
        """Reads the masks of one FOV.

        Args:
          image: uint8 or uint16[H, W, 4]; only its size is used.
          fov_id: the stem of the mask's file name.

        Raises:
          FovError: reason "missing_mask", "unreadable_mask", "mask_size" (not the FOV's size) or "no_cells".
        """
        cells = self._read_cells(fov_id)
        _check_size(cells, image, what=f"cell mask of {fov_id}")
        ids, cells = _renumber(cells, fov_id)
        if not len(ids):
            raise FovError("segment", "no_cells", f"fov {fov_id}: its mask in {self.masks_dir} holds no cell")
        cell_mask = raster_order(cells, num_ids=len(ids))[cells]
        nuclei_path = storage.join(self.masks_dir, NUCLEUS_NAME.format(fov_id))
        if not storage.exists(nuclei_path):
            return Segmentation(cell_mask, np.zeros_like(cell_mask), np.zeros(len(ids) + 1, np.int32))
        nuclei = read_mask(nuclei_path, fov_id)
        _check_size(nuclei, image, what=f"nucleus mask of {fov_id}")
        nucleus_mask, num_nuclei = assign_nuclei(_renumber(nuclei, fov_id)[1], cell_mask)
        return Segmentation(cell_mask, nucleus_mask, num_nuclei)

    def _read_cells(self, fov_id: str) -> np.ndarray:
        names = [name.format(fov_id) for name in CELL_NAMES]
        for name in names:
            path = storage.join(self.masks_dir, name)
            if storage.exists(path):
                return read_mask(path, fov_id)
        raise FovError(
            "segment",
            "missing_mask",
            f"fov {fov_id}: no cell mask in {self.masks_dir} (looked for {', '.join(names)}); add one or leave the id out",
        )


def assign_nuclei(nuclei: np.ndarray, cell_mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Gives each nucleus the id of the cell that it overlaps most.

    Args:
      nuclei: int[H, W], 0 background. Touching nuclei need different ids; the pieces of one id count as nuclei of their own.
      cell_mask: int32[H, W], 0 background, cells 1..n.

    Returns:
      int32[H, W] with the cells' ids, 0 outside the own cell; int32[n + 1], the number of nuclei of each cell.
    """
    pieces = measure.label(nuclei, connectivity=2)
    num_cells = int(cell_mask.max(initial=0))
    num_nuclei = np.zeros(num_cells + 1, np.int32)
    matches = mask_metrics.match_masks(pieces, cell_mask)
    cell_of_piece = np.zeros(int(pieces.max(initial=0)) + 1, np.int32)
    areas_px = np.zeros(len(cell_of_piece), np.int64)
    # Smallest overlap first: the largest one writes last. The sort is stable, so of equal overlaps the later cell wins.
    order = np.argsort(matches.pair_intersections_px, kind="stable")
    cell_of_piece[matches.pair_reference_ids[order]] = matches.pair_predicted_ids[order]
    areas_px[matches.pair_reference_ids[order]] = matches.pair_intersections_px[order]
    largest_px = np.zeros(num_cells + 1, np.int64)
    np.maximum.at(largest_px, cell_of_piece, areas_px)
    is_nucleus = (cell_of_piece > 0) & (areas_px >= _SPECK_SHARE * largest_px[cell_of_piece])
    np.add.at(num_nuclei, cell_of_piece[is_nucleus], 1)
    nucleus_mask = cell_of_piece[pieces]
    nucleus_mask[nucleus_mask != cell_mask] = 0
    return nucleus_mask, num_nuclei


def read_mask(path: str, fov_id: str) -> np.ndarray:
    """Reads a label map as it is in its file: int[H, W] of any integer type.

    Args:
      path: of `CELL_NAMES` or `NUCLEUS_NAME`.
      fov_id: for errors.

    Raises:
      FovError: reason "unreadable_mask".
    """
    try:
        data = storage.read_bytes(path)
        mask = _decode_array(data) if path.endswith((".npy", ".npz")) else _decode_image(data)
    except _DAMAGE as error:
        raise _unreadable(fov_id, f"{path} cannot be read: {error}") from error
    if mask.ndim != 2 or not np.issubdtype(mask.dtype, np.integer):
        raise _unreadable(fov_id, f"{path} holds {mask.dtype}{list(mask.shape)}; wanted: integers [H, W]")
    return mask


def _decode_array(data: bytes) -> np.ndarray:
    if not data.startswith(b"PK"):
        return _read_array(io.BytesIO(data))
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        zip_file.check_members(archive)
        names = archive.namelist()
        if len(names) != 1:
            raise ValueError(f"{len(names)} arrays ({', '.join(names)}); wanted: one")
        with archive.open(names[0]) as file:
            return _read_array(file)


def _read_array(file: IO[bytes]) -> np.ndarray:
    # The size first: a few bytes, deflated, may stand for more than the memory holds.
    is_first_version = np.lib.format.read_magic(file) == (1, 0)
    read_header = np.lib.format.read_array_header_1_0 if is_first_version else np.lib.format.read_array_header_2_0
    shape, _, _ = read_header(file)
    if math.prod(shape) > _MAX_PIXELS:
        raise ValueError(f"it holds {list(shape)} values; wanted: at most {_MAX_PIXELS}")
    file.seek(0)
    # A pickled array could run code: never allowed.
    return np.lib.format.read_array(file, allow_pickle=False)


def _decode_image(data: bytes) -> np.ndarray:
    mask = picture_file.decode(data, max_pixels=_MAX_PIXELS)
    if mask.ndim == 3 and all(np.array_equal(mask[..., 0], mask[..., plane]) for plane in (1, 2)):
        return mask[..., 0]
    return mask


def _check_size(mask: np.ndarray, image: np.ndarray, *, what: str) -> None:
    if mask.shape != image.shape[:2]:
        raise FovError(
            "segment",
            "mask_size",
            f"{what}: {mask.shape[0]} x {mask.shape[1]} px, the FOV is {image.shape[0]} x {image.shape[1]} px; "
            "masks are never resized: give one of the FOV's size",
        )


def _renumber(mask: np.ndarray, fov_id: str) -> tuple[np.ndarray, np.ndarray]:
    try:
        return mask_metrics.contiguous_ids(mask)
    except ValueError as error:
        raise _unreadable(fov_id, str(error)) from error


def _unreadable(fov_id: str, detail: str) -> FovError:
    return FovError("segment", "unreadable_mask", f"fov {fov_id}: {detail}")

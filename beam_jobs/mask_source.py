"""Where label maps of FOVs come from: a folder of mask files, or a cell store of any segmenter."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import pandas as pd

from beam_jobs import mask_metrics
from beam_jobs.cell_store import CellStore
from beam_jobs.segmenters import masks as mask_files
from hpa_proto import masks, storage
from hpa_proto.errors import ConfigError, FovError

CELLS = "cells"
NUCLEI = "nuclei"
KINDS: tuple[str, ...] = (CELLS, NUCLEI)


@dataclasses.dataclass(frozen=True)
class MaskFolder:
    """The label maps in a folder, by the file names that `--segmenter=masks` reads.

    Attributes:
      path: folder or fsspec URL.
      kind: "cells" or "nuclei".
    """

    path: str
    kind: str

    @functools.cached_property
    def fov_ids(self) -> frozenset[str]:
        """Ids of the FOVs that have a label map here."""
        return frozenset(self._files)

    def read(self, fov_id: str) -> np.ndarray:
        """Reads the label map of a FOV: int32[H, W], 0 background.

        Raises:
          ConfigError: the file cannot be read as a label map.
        """
        try:
            mask = mask_files.read_mask(storage.join(self.path, self._files[fov_id]), fov_id)
            return mask_metrics.contiguous_ids(mask)[1]
        except FovError as error:
            raise ConfigError(error.detail) from error
        except ValueError as error:
            raise ConfigError(f"{storage.join(self.path, self._files[fov_id])}: {error}") from error

    @functools.cached_property
    def _files(self) -> dict[str, str]:
        patterns = mask_files.CELL_NAMES if self.kind == CELLS else (mask_files.NUCLEUS_NAME,)
        names = [name for name in storage.list_files(self.path) if "/" not in name]
        files: dict[str, str] = {}
        for pattern in patterns:
            suffix = pattern.format("")
            for name in names:
                if name.endswith(suffix) and name != suffix:
                    # The first pattern counts, as for the segmenter.
                    files.setdefault(name.removesuffix(suffix), name)
        return files


@dataclasses.dataclass(frozen=True)
class StoredMasks:
    """The label maps of a cell store, put together from its cells.

    Attributes:
      store: the cell store.
      kind: "cells" or "nuclei".
    """

    store: CellStore
    kind: str

    @functools.cached_property
    def fov_ids(self) -> frozenset[str]:
        """Ids of the FOVs that were segmented."""
        fovs = self._tables[1]
        return frozenset(fovs.loc[fovs["error_reason"] == "", "fov_id"])

    def read(self, fov_id: str) -> np.ndarray:
        """Puts the label map of a FOV together: int32[H, W], 0 background, cells by their index.

        Raises:
          DatasetError: a damaged cell.
        """
        cells, fovs = self._tables
        fov = fovs[fovs["fov_id"] == fov_id].iloc[0]
        mask = np.zeros((int(fov["height_px"]), int(fov["width_px"])), np.int32)
        for row in cells[cells["fov_id"] == fov_id].itertuples():
            cell = self.store.read_cell(row.file, offset_bytes=row.offset_bytes, length_bytes=row.length_bytes)
            if self.kind == NUCLEI and not cell.HasField("nucleus_mask"):
                continue
            rle = cell.nucleus_mask if self.kind == NUCLEI else cell.cell_mask
            inside = masks.decode_mask(rle.counts, height=rle.height, width=rle.width)
            mask[row.y_min : row.y_max, row.x_min : row.x_max][inside] = row.cell_index
        return mask

    @functools.cached_property
    def _tables(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        return self.store.read_tables()


def open_masks(path: str, *, kind: str) -> MaskFolder | StoredMasks:
    """Opens a folder of mask files or a cell store.

    Args:
      path: folder or URL.
      kind: "cells" or "nuclei".

    Raises:
      ConfigError: no such folder, or it holds no label map; the text says what was looked for.
      DatasetError: a damaged cell store.
    """
    if not storage.exists(path):
        raise ConfigError(f"{path}: no such folder; give one of masks, or a cell store")
    if CellStore.is_store(path):
        return StoredMasks(CellStore.open(path), kind)
    folder = MaskFolder(path, kind)
    if not folder.fov_ids:
        patterns = mask_files.CELL_NAMES if kind == CELLS else (mask_files.NUCLEUS_NAME,)
        wanted = ", ".join(pattern.format("<id>") for pattern in patterns)
        raise ConfigError(f"{path} holds no masks of {kind} (looked for {wanted}) and is no cell store")
    return folder

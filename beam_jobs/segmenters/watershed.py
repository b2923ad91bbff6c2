"""The default segmenter: nuclei from the DNA stain, cells by watershed from the nuclei. No weights, no download."""

from __future__ import annotations

import dataclasses

import numpy as np

from beam_jobs.segmenters import cytoplasm, nuclei, working_grid
from beam_jobs.segmenters.segmentation import Segmentation, raster_order
from hpa_proto import schema
from hpa_proto.errors import ConfigError, FovError

# Part of the cell store's digest: raise it with every change that moves an outline.
_VERSION = 3

# On larger pixels the gaps between nuclei and between cells are lost, and a cut nucleus may be less than a pixel wide.
_MAX_PIXEL_SIZE_UM = 0.7


@dataclasses.dataclass(frozen=True)
class WatershedSegmenter:
    """Classical segmentation at a fixed working resolution.

    Attributes:
      pixel_size_um: side of a pixel of the FOV, in micrometres; HPA's images have 0.08.
    """

    pixel_size_um: float = 0.08

    def __post_init__(self) -> None:
        if not 0.01 <= self.pixel_size_um <= _MAX_PIXEL_SIZE_UM:
            raise ConfigError(
                f"--pixel_size_um={self.pixel_size_um}: give 0.01 to {_MAX_PIXEL_SIZE_UM} micrometres (HPA: 0.08)"
            )

    def config(self) -> dict[str, object]:
        """Returns name, version of the method and pixel size."""
        return {"name": "watershed", "version": _VERSION, "pixel_size_um": self.pixel_size_um}

    def segment(self, image: np.ndarray, *, fov_id: str) -> Segmentation:
        """Segments one FOV.

        Args:
          image: uint8 or uint16[H, W, 4], channels in `schema.CHANNELS` order.
          fov_id: for errors.

        Raises:
          FovError: reason "no_cells": no nucleus in the blue channel; "no_cell_stain": red and yellow are both empty.
        """
        small = working_grid.from_fov(image, pixel_size_um=self.pixel_size_um)
        channels = {name: small[..., plane] for plane, name in enumerate(schema.CHANNELS)}
        found = nuclei.find_nuclei(channels["blue"])
        if len(found.num_nuclei) == 1:
            raise FovError("segment", "no_cells", f"fov {fov_id}: no nucleus found in the blue channel")
        field = cytoplasm.NucleusField.from_labels(found.labels)
        signals = cytoplasm.stain_signals(channels["red"], channels["yellow"], field)
        if not signals:
            raise FovError("segment", "no_cell_stain", f"fov {fov_id}: red and yellow channel are both empty")
        cells = cytoplasm.grow_cells(signals, field)
        new_ids = raster_order(cells, num_ids=len(found.num_nuclei) - 1)
        num_nuclei = np.zeros_like(found.num_nuclei)
        num_nuclei[new_ids] = found.num_nuclei
        size = {"height_px": image.shape[0], "width_px": image.shape[1]}
        cell_mask = working_grid.to_fov(new_ids[cells], **size)
        nucleus_mask = working_grid.to_fov(new_ids[found.labels], **size)
        nucleus_mask *= nucleus_mask == cell_mask
        return Segmentation(cell_mask, nucleus_mask, num_nuclei)

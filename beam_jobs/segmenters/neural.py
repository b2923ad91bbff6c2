"""The segmenter of the field: the networks of HPA-Cell-Segmentation and its way to label what they predict."""

from __future__ import annotations

import dataclasses
import functools
import threading

import numpy as np

from beam_jobs.fov_reader import BIT_DEPTHS
from beam_jobs.segmenters import hpacellseg, label_cell, network_weights
from beam_jobs.segmenters.masks import assign_nuclei
from beam_jobs.segmenters.segmentation import Segmentation, raster_order
from hpa_proto import schema
from hpa_proto.errors import ConfigError, FovError

# Part of the cell store's digest: raise it with every change that moves an outline.
_VERSION = 1
# Side of a pixel that the networks were trained on: a quarter of HPA's resolution.
_NETWORK_PIXEL_SIZE_UM = 0.32
# On larger pixels the networks would see blurred cells only.
_MAX_PIXEL_SIZE_UM = 0.7

# Two networks are 1.1 GB: one pair a process, whatever the number of its threads, and one thread at a time in it.
_LOCK = threading.Lock()


@dataclasses.dataclass(frozen=True)
class HpaCellSegSegmenter:
    """Segments with the published networks.

    Attributes:
      nuclei_weights: file of `beam_jobs.import_weights`, or the published .pth.
      cell_weights: likewise; of the three- or the two-channel model.
      device: "cpu", "cuda" or "cuda:<n>".
      precision: one of `hpacellseg.PRECISIONS`.
      labelling: one of `label_cell.MODES`.
      pixel_size_um: side of a pixel of the FOV; HPA's images have 0.08.
      bit_depth: bits in use in 16-bit images; 0: the fewest that hold a FOV's brightest pixel.
    """

    nuclei_weights: str = ""
    cell_weights: str = ""
    device: str = "cpu"
    precision: str = "float32"
    labelling: str = "full"
    pixel_size_um: float = 0.08
    bit_depth: int = 0

    def __post_init__(self) -> None:
        for flag, path in (("nuclei_weights", self.nuclei_weights), ("cell_weights", self.cell_weights)):
            if not path:
                raise ConfigError(f"--segmenter=hpacellseg needs --{flag}: {network_weights.WHERE_TO_GET}")
        network_weights.check_kind(network_weights.read_kind(self.nuclei_weights), "nuclei", path=self.nuclei_weights)
        cell_kind = network_weights.read_kind(self.cell_weights)
        if cell_kind != "cell_2ch":
            network_weights.check_kind(cell_kind, "cell_3ch", path=self.cell_weights)
        for flag, value, choices in (
            ("precision", self.precision, hpacellseg.PRECISIONS),
            ("labelling", self.labelling, label_cell.MODES),
        ):
            if value not in choices:
                raise ConfigError(f"--{flag}={value}: choose one of {', '.join(choices)}")
        if not 0.01 <= self.pixel_size_um <= _MAX_PIXEL_SIZE_UM:
            raise ConfigError(
                f"--pixel_size_um={self.pixel_size_um}: give 0.01 to {_MAX_PIXEL_SIZE_UM} micrometres (HPA: 0.08)"
            )
        hpacellseg.check_device(self.device)

    def config(self) -> dict[str, object]:
        """Returns name, version of the method and all that moves an outline; reads both files of weights through."""
        return {
            "name": "hpacellseg",
            "version": _VERSION,
            "nuclei_weights_sha256": network_weights.sha256(self.nuclei_weights),
            "cell_weights_sha256": network_weights.sha256(self.cell_weights),
            "precision": self.precision,
            "labelling": self.labelling,
            "pixel_size_um": self.pixel_size_um,
        }

    def segment(self, image: np.ndarray, *, fov_id: str) -> Segmentation:
        """Segments one FOV.

        Args:
          image: uint8 or uint16[H, W, 4], channels in `schema.CHANNELS` order.
          fov_id: for errors.

        Raises:
          FovError: reason "no_cells": the networks see no cell.
        """
        red, blue, yellow = (image[..., schema.CHANNELS.index(name)] for name in ("red", "blue", "yellow"))
        full = np.float32((1 << _bits(image, self.bit_depth)) - 1)
        with _LOCK:
            networks = _networks(
                self.nuclei_weights, self.cell_weights, self.pixel_size_um, device=self.device, precision=self.precision
            )
            if not networks.multi_channel_model:
                yellow = np.zeros_like(yellow)
            nuclei_pred = networks.pred_nuclei([blue / full])[0]
            cell_pred = networks.pred_cells([np.dstack([red, yellow, blue]) / full], precombined=True)[0]
        nuclei, cells = label_cell.label_cell(
            nuclei_pred, cell_pred, mode=self.labelling, pixel_size_um=self.pixel_size_um
        )
        num_ids = int(cells.max(initial=0))
        if not num_ids:
            raise FovError("segment", "no_cells", f"fov {fov_id}: the networks see no cell in it")
        cell_mask = raster_order(cells, num_ids=num_ids)[cells]
        return Segmentation(cell_mask, *assign_nuclei(nuclei, cell_mask))


@functools.lru_cache(maxsize=1)
def _networks(
    nuclei_weights: str, cell_weights: str, pixel_size_um: float, *, device: str, precision: str
) -> hpacellseg.CellSegmentator:
    return hpacellseg.CellSegmentator(
        nuclei_weights,
        cell_weights,
        scale_factor=pixel_size_um / _NETWORK_PIXEL_SIZE_UM,
        device=device,
        padding=True,
        multi_channel_model=network_weights.read_kind(cell_weights) != "cell_2ch",
        precision=precision,
    )


def _bits(image: np.ndarray, bit_depth: int) -> int:
    if image.dtype == np.uint8:
        return 8
    return bit_depth or next(bits for bits in BIT_DEPTHS[1:] if int(image.max()) < 1 << bits)

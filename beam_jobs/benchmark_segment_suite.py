"""Suite of the segmenters on a whole FOV: the watershed against hpacellseg."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Sequence

from beam_jobs import benchmark_networks
from beam_jobs.benchmark_fovs import FovSuite
from beam_jobs.segmenters import HpaCellSegSegmenter, Segmenter, label_cell
from hpa_proto import storage
from hpa_proto.benchmarking import Ratio, Work
from hpa_proto.errors import FovError

_WATERSHED = "watershed"


class SegmentSuite(FovSuite):
    """The segmenters on one FOV, in one thread of this program; torch takes those it is given."""

    name = "segment"
    title = "segmenting one FOV"

    def __init__(self, images: str, *, pixel_size_um: float, nuclei_weights: str | None, cell_weights: str | None):
        """Says what to measure on.

        Args:
          images: folder of FOVs.
          pixel_size_um: side of a pixel in micrometres.
          nuclei_weights: file of weights of hpacellseg; None, both: made-up ones, which take as long.
          cell_weights: likewise.
        """
        super().__init__(images, pixel_size_um=pixel_size_um)
        self._weights = {"nuclei_weights": nuclei_weights, "cell_weights": cell_weights}

    def prepare(self, folder: str) -> None:
        """Reads the FOVs and checks the weights."""
        self._read_and_segment()
        segmenters: dict[str, Segmenter] = {_WATERSHED: self._segmenter}
        if not any(self._weights.values()) and importlib.util.find_spec("torch"):
            for name, kind in (("nuclei_weights", "nuclei"), ("cell_weights", "cell_3ch")):
                self._weights[name] = storage.join(folder, f"{kind}.safetensors")
                benchmark_networks.write_brightness_weights(self._weights[name], kind)
            self.notes.append("hpacellseg with made-up weights: networks that call what is bright a nucleus or a cell")
        if any(self._weights.values()):
            segmenters |= {
                f"hpacellseg, {mode} labelling": HpaCellSegSegmenter(
                    **{name: path or "" for name, path in self._weights.items()},
                    labelling=mode,
                    pixel_size_um=self._pixel_size_um,
                )
                for mode in label_cell.MODES
            }
        else:
            self.notes.append("hpacellseg not measured: torch is not installed")
        self._works = {name: self._work(segmenter) for name, segmenter in segmenters.items()}

    def _work(self, segmenter: Segmenter) -> Work:
        def segment(number: int) -> None:
            # Networks with made-up weights may see no cell, which takes as long.
            with contextlib.suppress(FovError):
                segmenter.segment(self._pixels[number].pixels, fov_id=self._fovs[number].fov_id)

        return self._each_fov(segment)

    def variants(self) -> dict[str, Work]:
        """Returns the segmenters."""
        return self._works

    def ratios(self) -> Sequence[Ratio]:
        """Returns the watershed against the others."""
        return [Ratio(f"{_WATERSHED} against {name}", _WATERSHED, name) for name in self._works if name != _WATERSHED]

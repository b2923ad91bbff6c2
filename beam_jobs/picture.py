"""Draws one FOV, the cells found in it, and the cells cut out of it, side by side: the picture of the README.

    python -m beam_jobs.picture --images=images --fov=sim-00003 --out=fov_outlines_cells.png --pixel_size_um=0.16

Takes the flags of `beam_jobs.segment` that choose the segmenter.
"""

from __future__ import annotations

import dataclasses
import math

import cv2
import numpy as np
from absl import flags

from beam_jobs import cell_pictures, command, cutting, examples, segment
from beam_jobs.fov_reader import read_fov
from beam_jobs.fov_source import FovRef, find_fovs
from beam_jobs.segment import SegmentConfig
from hpa_proto import cells_pb2, pictures
from hpa_proto.errors import ConfigError

_PANEL_PX = 528
_GAP_PX = 6
_WHITE = 255


@dataclasses.dataclass(frozen=True)
class PictureConfig:
    """What to draw.

    Attributes:
      segment: the FOVs and the segmenter; its other fields do not matter.
      fov_id: which FOV.
      picture_path: .png or .jpg.
      num_cells: most cells to show.
    """

    segment: SegmentConfig
    fov_id: str
    picture_path: str
    num_cells: int = 9

    def __post_init__(self) -> None:
        pictures.check_picture_path(self.picture_path)
        if self.num_cells < 1:
            raise ConfigError(f"--num_cells={self.num_cells}: give at least 1")


def run(config: PictureConfig) -> int:
    """Draws and writes the picture; returns the number of cells found.

    Raises:
      ConfigError: there is no such FOV, or a setting cannot work.
      FovError: the FOV cannot be read or segmented.
    """
    options = config.segment
    segmenter = options.make_segmenter()
    image = read_fov(_find_fov(options.images, config.fov_id), bit_depth=options.bit_depth)
    segmentation = segmenter.segment(image.pixels, fov_id=config.fov_id)
    cells = list(
        cutting.cut_cells(image, segmentation, fov_id=config.fov_id, labels=(), pixel_size_um=options.pixel_size_um)
    )
    pixels = examples.to_uint8(image.pixels, bit_depth=image.bit_depth)
    picture = draw(pixels, cells, num_cells=config.num_cells)
    # Pages carry it: noise makes a PNG of all colours twice as large.
    cell_pictures.write_picture(config.picture_path, picture, palette=True)
    return len(cells)


def draw(pixels: np.ndarray, cells: list[cells_pb2.Cell], *, num_cells: int) -> np.ndarray:
    """Draws FOV, outlines and the first cells that the border does not cut.

    Args:
      pixels: uint8[H, W, 4], channels in `schema.CHANNELS` order.
      cells: of the FOV.
      num_cells: most cells to show.

    Returns:
      uint8[h, w, 3], RGB; about 1600 px wide.
    """
    scale = _PANEL_PX / max(pixels.shape[:2])
    size = (max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale)))
    small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    fov = pictures.colour_picture(small, inside=np.ones(small.shape[:2], dtype=bool))
    outlined = fov.copy()
    cell_pictures.draw_cell_outlines(outlined, cells, scale=scale)
    whole_first = sorted(cells, key=lambda cell: bool(cell.measurements["touches_border"]))
    panels = [_fill_panel(fov), _fill_panel(outlined), _draw_cells(whole_first[:num_cells])]
    captions = [("field of view",), (f"{len(cells)} cells found",), ("cells cut out, as examples for training",)]
    return pictures.contact_sheet(panels, captions, num_columns=len(panels))


def _find_fov(images: str, fov_id: str) -> FovRef:
    fovs = {fov.fov_id: fov for fov in find_fovs(images, None).fovs}
    if fov_id not in fovs:
        raise ConfigError(f"--fov={fov_id}: no such FOV in {images}; it has {len(fovs)}, as {next(iter(fovs))}")
    return fovs[fov_id]


def _fill_panel(picture: np.ndarray) -> np.ndarray:
    panel = np.full((_PANEL_PX, _PANEL_PX, 3), _WHITE, dtype=np.uint8)
    panel[: picture.shape[0], : picture.shape[1]] = picture
    return panel


def _draw_cells(cells: list[cells_pb2.Cell]) -> np.ndarray:
    panel = np.full((_PANEL_PX, _PANEL_PX, 3), _WHITE, dtype=np.uint8)
    num_columns = math.ceil(math.sqrt(len(cells)))
    step_px = (_PANEL_PX + _GAP_PX) // num_columns
    for number, cell in enumerate(cells):
        top, left = (step_px * position for position in divmod(number, num_columns))
        side_px = step_px - _GAP_PX
        drawn = cell_pictures.cell_picture(cell, size_px=side_px, mask_background=True)
        panel[top : top + side_px, left : left + side_px] = drawn
    return panel


def define_flags() -> None:
    """Defines the flags that `beam_jobs.segment` does not have."""
    flags.DEFINE_string("fov", None, "Id of the FOV.")
    flags.DEFINE_string("out", None, "Picture to write, .png or .jpg.")
    flags.DEFINE_integer("num_cells", 9, "Most cells to show.", 1)


def main(arguments: list[str]) -> None:
    """Draws what the flags describe."""
    values = flags.FLAGS
    config = PictureConfig(
        # A picture needs no cell store, but the config that chooses the segmenter names one.
        segment=segment.config_from_flags(arguments, cells_dir="not written"),
        fov_id=command.required("fov", values.fov),
        picture_path=command.required("out", values.out),
        num_cells=values.num_cells,
    )
    num_cells = run(config)
    print(f"picture   {config.picture_path}: FOV {config.fov_id}, {num_cells} cells found")


if __name__ == "__main__":
    flags.adopt_module_key_flags(segment)
    define_flags()
    command.run_main(main)

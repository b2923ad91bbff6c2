"""Draws a FOV with the outlines of its cells and the likeliest classes of each, to check what is about to be submitted.

    python -m trainer.overlay --predictions=predictions.parquet --data_dir=out/dataset --images=images --fov=ID

Writes ID_overlay.png, or --out. --images is the folder of the FOVs' channels, <id>_red.png and so on (PNG, JPEG or TIFF).
The number before the first class is the cell's: cell 3 is <id>_3 in the predictions.

All flags: python -m trainer.overlay --help
"""

from __future__ import annotations

import dataclasses
import sys
import textwrap
from collections.abc import Sequence

import cv2
import numpy as np
from absl import flags
from PIL import Image, ImageDraw, ImageFont

from hpa_proto import masks, picture_file, pictures, schema, storage
from hpa_proto.errors import ConfigError, DatasetError
from trainer import cell_masks, command, predictions, shards
from trainer.cell_masks import CellMask
from trainer.predictions import Predictions

_SUFFIXES = tuple(
    form(suffix) for suffix in (".png", ".jpg", ".jpeg", ".tif", ".tiff") for form in (str.lower, str.upper)
)
_TIFF_STARTS = (b"II*\0", b"MM\0*")
# 16,384 px squared.
_MAX_PIXELS = 1 << 28
_OUTLINE = (255, 255, 255)
_FONT_SIZE_PX = 14
_STROKE_PX = 2
_NAME_LENGTH = 26


@dataclasses.dataclass(frozen=True)
class OverlayConfig:
    """What to draw.

    Attributes:
      predictions: file of `trainer.predict`.
      data_dir: data set that was predicted, for the outlines.
      images: folder of the FOV's channels.
      fov: id of the FOV.
      out: PNG or JPEG to write; "": <fov>_overlay.png.
      num_classes: classes to name at each cell, at most.
      min_confidence: less likely classes are not named.
      max_side_px: longer side of the picture, at most.
    """

    predictions: str
    data_dir: str
    images: str
    fov: str
    out: str = ""
    num_classes: int = 2
    min_confidence: float = 0.1
    max_side_px: int = 1600

    def __post_init__(self) -> None:
        pictures.check_picture_path(self.path)
        for name in ("num_classes", "max_side_px"):
            if getattr(self, name) < 1:
                raise ConfigError(f"--{name}={getattr(self, name)}: give at least 1")

    @property
    def path(self) -> str:
        """The file to write."""
        return self.out or f"{self.fov}_overlay.png"


# Of this command alone: the flags of two commands may have the same names, and absl's own registry is one for all.
_FLAGS = flags.FlagValues()
_DEFAULT = OverlayConfig(predictions="", data_dir="", images="", fov="")
flags.DEFINE_boolean("help", False, "Show this help.", flag_values=_FLAGS)
flags.DEFINE_string(
    "predictions", None, "predictions.parquet, as `python -m trainer.predict` writes it.", flag_values=_FLAGS
)
flags.DEFINE_string("data_dir", None, "Folder of the data set that was predicted.", flag_values=_FLAGS)
flags.DEFINE_string("images", None, "Folder with the FOV's pictures, <id>_red.png and so on.", flag_values=_FLAGS)
flags.DEFINE_string("fov", None, "Id of the FOV.", flag_values=_FLAGS)
flags.DEFINE_string("out", "", "PNG or JPEG to write; default <fov>_overlay.png.", flag_values=_FLAGS)
flags.DEFINE_integer(
    "num_classes", _DEFAULT.num_classes, "At most so many classes are named at a cell.", flag_values=_FLAGS
)
flags.DEFINE_float(
    "min_confidence", _DEFAULT.min_confidence, "Classes with a lower probability are not named.", flag_values=_FLAGS
)
flags.DEFINE_integer("max_side_px", _DEFAULT.max_side_px, "Longer side of the picture, at most.", flag_values=_FLAGS)


def run(config: OverlayConfig) -> int:
    """Draws and writes the picture; returns the number of cells.

    Raises:
      ConfigError: no cells of such a FOV, no images of it, or a setting that cannot work.
      DatasetError: predictions and data set do not belong together, or one of them is damaged.
    """
    predicted = predictions.read_predictions(config.predictions)
    rows = np.flatnonzero(predicted.fov_ids == config.fov)
    if not len(rows):
        raise ConfigError(
            f"--fov={config.fov}: {config.predictions} has no cell of it; it has FOVs as {predicted.fov_ids[0]}"
        )
    cells = _find_cells(config, predicted, wanted={predicted.cell_ids[row] for row in rows})
    image = read_channels(config.images, config.fov)
    if image.shape[:2] != tuple(cells[0].fov_size):
        raise ConfigError(
            f"{config.images}: FOV {config.fov} is {image.shape[1]} x {image.shape[0]} px, its cells are of one of "
            f"{cells[0].fov_size.width} x {cells[0].fov_size.height} px"
        )
    probabilities = dict(zip(predicted.cell_ids[rows], predicted.probabilities[rows], strict=True))
    captions = [_name_classes(cell, probabilities[cell.cell_id], predicted, config) for cell in cells]
    picture = draw(image, cells, captions, max_side_px=config.max_side_px)
    if config.path.lower().endswith(".png"):
        storage.write_bytes(config.path, pictures.encode_png(picture))
    else:
        storage.write_bytes(config.path, pictures.encode_jpeg(picture, quality=92))
    return len(cells)


def read_channels(images: str, fov_id: str) -> np.ndarray:
    """Reads the four channels of a FOV for display: uint8[H, W, 4], in `schema.CHANNELS` order.

    Raises:
      ConfigError: a channel is missing, unreadable or of another size.
    """
    planes = []
    for channel in schema.CHANNELS:
        candidates = (storage.join(images, f"{fov_id}_{channel}{suffix}") for suffix in _SUFFIXES)
        path = next(filter(storage.exists, candidates), None)
        try:
            plane = _decode(storage.read_bytes(path) if path else b"")
        except ValueError as error:
            raise ConfigError(
                f"--images={images}: no readable {fov_id}_{channel}.png (or .jpg, .tif): {error if path else 'not there'}"
            ) from error
        if plane.ndim == 3:
            # Public HPA pictures show a channel in its colour: the brightest of RGB is the channel.
            plane = plane[..., :3].max(axis=2)
        if planes and plane.shape != planes[0].shape:
            raise ConfigError(f"{path}: its size differs from that of the {schema.CHANNELS[0]} channel")
        num_bits = max(8, int(plane.max()).bit_length())
        planes.append(cv2.convertScaleAbs(plane, alpha=255 / ((1 << num_bits) - 1)))
    return cv2.merge(planes)


def _decode(data: bytes) -> np.ndarray:
    """Decodes PNG, JPEG or TIFF.

    Raises:
      ValueError: it cannot be decoded.
    """
    if not data.startswith(_TIFF_STARTS):
        return picture_file.decode(data, max_pixels=_MAX_PIXELS)
    height, width = picture_file.read_tiff_size(data)
    if height * width > _MAX_PIXELS:
        raise ValueError(f"it is {width} x {height} px; at most {_MAX_PIXELS:,} px are read")
    try:
        plane = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise ValueError(f"it cannot be decoded: {error}") from error
    if plane is None:
        raise ValueError("it cannot be decoded")
    if plane.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"it holds {plane.dtype} pixels; 8 and 16 bit are read")
    return plane


def draw(
    image: np.ndarray, cells: Sequence[CellMask], captions: Sequence[Sequence[str]], *, max_side_px: int
) -> np.ndarray:
    """Draws a FOV in colour, an outline around each cell and lines of text in its middle.

    Args:
      image: uint8[H, W, 4], channels in `schema.CHANNELS` order.
      cells: of this FOV.
      captions: lines of text of each cell.
      max_side_px: longer side of the picture, at most.

    Returns:
      uint8[h, w, 3], RGB.
    """
    scale = min(1.0, max_side_px / max(image.shape[:2]))
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    picture = pictures.colour_picture(small, inside=np.ones(small.shape[:2], dtype=bool))
    middles = []
    for cell in cells:
        mask = masks.decode_mask(cell.counts, height=cell.fov_size.height, width=cell.fov_size.width)
        outlines = pictures.find_outlines(mask)
        pictures.draw_outlines(picture, outlines, scale=scale, colour=_OUTLINE)
        middles.append(np.concatenate(outlines).mean(axis=0) * scale)
    sheet = Image.fromarray(picture)
    draft = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=_FONT_SIZE_PX)
    for middle, lines in zip(middles, captions, strict=True):
        text = "\n".join(lines)
        box = draft.multiline_textbbox((0, 0), text, font=font, stroke_width=_STROKE_PX)
        # Text of a cell at the border is moved inside.
        place = [
            min(max(centre - extent / 2, 0), max(side - extent, 0))
            for centre, extent, side in zip(middle, box[2:], sheet.size, strict=True)
        ]
        draft.multiline_text(
            place, text, fill="white", font=font, align="center", stroke_width=_STROKE_PX, stroke_fill="black"
        )
    return np.asarray(sheet)


def _find_cells(config: OverlayConfig, predicted: Predictions, *, wanted: set[str]) -> list[CellMask]:
    """Returns the wanted cells in the order of their numbers; reads no further than the last of them."""
    manifest, digest = shards.read_manifest(config.data_dir)
    if digest != predicted.info.manifest_sha256:
        raise DatasetError(
            f"{config.predictions}: not made from {config.data_dir} (sha256 of the manifest); give the data set that was "
            "predicted"
        )
    found = {}
    for cell in cell_masks.read_cell_masks(config.data_dir, manifest, predicted.info.split):
        if cell.cell_id in wanted:
            found[cell.cell_id] = cell
            if len(found) == len(wanted):
                break
    if missing := sorted(wanted - found.keys()):
        raise DatasetError(
            f"{config.data_dir}: split {predicted.info.split!r} has no cell {missing[0]}; predict it again"
        )
    return [found[cell_id] for cell_id in sorted(found, key=lambda cell_id: (len(cell_id), cell_id))]


def _name_classes(
    cell: CellMask, probabilities: np.ndarray, predicted: Predictions, config: OverlayConfig
) -> list[str]:
    likeliest = np.argsort(-probabilities, kind="stable")[: config.num_classes]
    names = [
        f"{textwrap.shorten(predicted.class_names[column], _NAME_LENGTH, placeholder='…')} {probabilities[column]:.2f}"
        for column in likeliest
        if probabilities[column] >= config.min_confidence
    ]
    number = cell.cell_id.rpartition("_")[2]
    return [f"{number} {names[0]}", *names[1:]] if names else [f"{number} -"]


def make_config(argv: Sequence[str]) -> OverlayConfig | None:
    """Makes the config that a command line asks for; None where it asks for help.

    Raises:
      ConfigError: a flag that is not known, missing, without a value or of another type.
    """
    return command.read_config(
        _FLAGS,
        argv,
        OverlayConfig,
        module="trainer.overlay",
        required=("predictions", "data_dir", "images", "fov"),
    )


def _work(config: OverlayConfig) -> str:
    num_cells = run(config)
    return f"{config.path}: FOV {config.fov}, {num_cells} cells"


def main(argv: Sequence[str]) -> int:
    """Runs the command and returns its exit status."""
    return command.run_main(argv, make_config, _work, values=_FLAGS, doc=__doc__)


if __name__ == "__main__":
    sys.exit(main(sys.argv))

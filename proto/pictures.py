"""Pictures for people: channels in HPA's colours, outlines of cells, contact sheets.

Colours are HPA's: red = microtubules, green = protein, blue = nucleus; the endoplasmic reticulum is added as a weak
yellow, so that it does not cover the protein. The contrast of every channel is stretched for display; nothing measured
comes from here.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from hpa_proto import schema
from hpa_proto.errors import ConfigError

# Share of each channel in red, green and blue.
_COLOURS = {"red": (0.8, 0.0, 0.0), "green": (0.0, 1.0, 0.0), "blue": (0.15, 0.25, 1.0), "yellow": (0.3, 0.2, 0.0)}
# Percentiles that become black and full brightness, and the least grey levels between them: noise must not look like
# a pattern.
_BLACK_PERCENTILE, _WHITE_PERCENTILE = 2.0, 99.7
_LEAST_RANGE = 24.0
_SUFFIXES = (".png", ".jpg", ".jpeg")
_SHIFT = 4  # bits of OpenCV's fractions of a pixel
_CAPTION_LINE_PX = 18
_FONT_SIZE_PX = 13
_GAP_PX = 6
_PAPER = (255, 255, 255)
_INK = (30, 30, 30)


def colour_picture(
    image: np.ndarray, *, channels: Sequence[str] = schema.CHANNELS, inside: np.ndarray | None = None
) -> np.ndarray:
    """Draws channels in their colours, each stretched to its own contrast.

    Args:
      image: uint8[H, W, C].
      channels: names of its channels.
      inside: bool[H, W], the pixels that set the contrast, all others become black; None: those that are not 0 in every
        channel.

    Returns:
      uint8[H, W, 3], RGB.
    """
    if inside is None:
        inside = image.any(axis=2)
    picture = np.zeros((*image.shape[:2], 3), dtype=np.float32)
    if not inside.any():
        return picture.astype(np.uint8)
    for index, channel in enumerate(channels):
        plane = image[..., index].astype(np.float32)
        black, white = np.percentile(plane[inside], (_BLACK_PERCENTILE, _WHITE_PERCENTILE))
        stretched = np.clip((plane - black) / max(white - black, _LEAST_RANGE), 0, 1)
        picture += stretched[..., None] * np.array(_COLOURS[channel], dtype=np.float32)
    picture[~inside] = 0
    return (255 * np.clip(picture, 0, 1)).astype(np.uint8)


def find_outlines(mask: np.ndarray, *, x_min: int = 0, y_min: int = 0) -> list[np.ndarray]:
    """Finds the outer outlines of a mask.

    Args:
      mask: bool or integer [H, W]; anything but 0 is inside.
      x_min: column of the FOV where the mask starts.
      y_min: row of the FOV where the mask starts.

    Returns:
      int32[n, 2] each: x and y in the FOV, px.
    """
    contours, _ = cv2.findContours((mask != 0).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return [contour[:, 0] + np.array([x_min, y_min], dtype=np.int32) for contour in contours]


def draw_outlines(
    picture: np.ndarray, outlines: Iterable[np.ndarray], *, scale: float, colour: tuple[int, int, int]
) -> None:
    """Draws closed lines into an RGB picture that is `scale` times as large as what the outlines were found in."""
    for outline in outlines:
        # Centres of pixels: pixel 0 of the FOV covers 0..scale of the picture.
        points = np.round(((outline + 0.5) * scale - 0.5) * (1 << _SHIFT)).astype(np.int32)
        cv2.polylines(picture, [points], isClosed=True, color=colour, lineType=cv2.LINE_AA, shift=_SHIFT)


def contact_sheet(pictures: Sequence[np.ndarray], captions: Sequence[Sequence[str]], *, num_columns: int) -> np.ndarray:
    """Lays pictures of one size out in rows, lines of text below each.

    Args:
      pictures: uint8[h, w, 3], RGB.
      captions: lines of text of each; too long ones are cut at the picture's width.
      num_columns: pictures in a row.

    Returns:
      uint8[H, W, 3], RGB, on white.
    """
    height, width = pictures[0].shape[:2]
    num_columns = min(num_columns, len(pictures))
    num_rows = -(-len(pictures) // num_columns)
    step_x = width + _GAP_PX
    step_y = height + _GAP_PX + _CAPTION_LINE_PX * max(len(lines) for lines in captions)
    sheet = Image.new("RGB", (num_columns * step_x + _GAP_PX, num_rows * step_y + _GAP_PX), _PAPER)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=_FONT_SIZE_PX)
    for number, (picture, lines) in enumerate(zip(pictures, captions, strict=True)):
        left, top = _GAP_PX + number % num_columns * step_x, _GAP_PX + number // num_columns * step_y
        sheet.paste(Image.fromarray(picture), (left, top))
        for line, text in enumerate(lines):
            place = (left, top + height + line * _CAPTION_LINE_PX + 1)
            draw.text(place, _fit_text(text, width, font), fill=_INK, font=font)
    return np.asarray(sheet)


def encode_jpeg(picture: np.ndarray, *, quality: int) -> bytes:
    """Encodes an RGB picture as JPEG; equal pictures give equal bytes."""
    return cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


def encode_png(picture: np.ndarray, *, palette: bool = False) -> bytes:
    """Encodes an RGB picture as PNG; equal pictures give equal bytes.

    Args:
      picture: uint8[H, W, 3].
      palette: keeps the 256 colours that fit best, for less than half the size.
    """
    if not palette:
        return cv2.imencode(".png", picture[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 9])[1].tobytes()
    buffer = io.BytesIO()
    Image.fromarray(picture).quantize(256).save(buffer, format="png", optimize=True)
    return buffer.getvalue()


def check_picture_path(path: str) -> None:
    """Refuses the name of a picture that is neither PNG nor JPEG.

    Raises:
      ConfigError: by its name.
    """
    if not path.lower().endswith(_SUFFIXES):
        raise ConfigError(f"--out={path}: give a name that ends in {' or '.join(_SUFFIXES)}")


def _fit_text(text: str, width_px: int, font: ImageFont.FreeTypeFont) -> str:
    if font.getlength(text) <= width_px:
        return text
    return next(
        (f"{text[:end]}…" for end in range(len(text), 0, -1) if font.getlength(f"{text[:end]}…") <= width_px), ""
    )

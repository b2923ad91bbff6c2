"""Pictures of cells as colour composites, to look at what augmentation makes of them."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from matplotlib import figure

from hpa_proto import storage
from hpa_proto.errors import ConfigError

# The colours of the Human Protein Atlas; yellow light is red and green light.
CHANNEL_COLORS = {
    "red": (1.0, 0.0, 0.0),
    "green": (0.0, 1.0, 0.0),
    "blue": (0.0, 0.0, 1.0),
    "yellow": (1.0, 1.0, 0.0),
}
_INCHES_PER_CELL = 2.0


def composite_channels(images: np.ndarray, channels: Sequence[str]) -> np.ndarray:
    """Adds the channels in their colours, as light; a single channel comes out grey, which shows more of it.

    Args:
      images: [N, H, W, C], 0..255, integer or floating.
      channels: names of the C channels, of `hpa_proto.schema.CHANNELS`.

    Returns:
      uint8[N, H, W, 3], red, green, blue.

    Raises:
      ConfigError: the number of names is not C.
    """
    if images.ndim != 4 or images.shape[-1] != len(channels):
        raise ConfigError(f"preview: images of shape {images.shape} for the channels {', '.join(channels)}")
    colors = [(1.0, 1.0, 1.0)] if len(channels) == 1 else [CHANNEL_COLORS[channel] for channel in channels]
    light = images.astype(np.float32) @ np.array(colors, dtype=np.float32)
    return np.clip(np.rint(light), 0, 255).astype(np.uint8)


def draw_preview(
    images: np.ndarray, channels: Sequence[str], *, path: str, captions: Sequence[str] = (), num_columns: int = 4
) -> None:
    """Draws cells in rows and writes them as one PNG.

    Args:
      images: [N, H, W, C], 0..255, integer or floating; what the training step sees, N of 16 suits.
      channels: names of the C channels.
      path: of the PNG.
      captions: one for each cell, or none.
      num_columns: cells in a row.

    Raises:
      ConfigError: no image, or the numbers of names or captions do not match.
    """
    if not len(images) or (captions and len(captions) != len(images)):
        raise ConfigError(
            f"preview: {len(images)} images and {len(captions)} captions; give one caption for each or none"
        )
    composites = composite_channels(images, channels)
    num_rows = -(-len(composites) // num_columns)
    size = (num_columns * _INCHES_PER_CELL, num_rows * (_INCHES_PER_CELL + (0.25 if captions else 0.0)))
    page = figure.Figure(figsize=size, layout="constrained")
    for axes in (cells := page.subplots(num_rows, num_columns, squeeze=False).ravel()):
        axes.set_axis_off()
    for axes, composite in zip(cells, composites, strict=False):
        axes.imshow(composite, interpolation="nearest")
    for axes, caption in zip(cells, captions, strict=False):
        axes.set_title(caption, fontsize=7)
    buffer = io.BytesIO()
    page.savefig(buffer, format="png", dpi=150)
    storage.write_bytes(path, buffer.getvalue())

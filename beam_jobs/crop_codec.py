"""The pixels of a stored cell: its channels one after the other, compressed by Zstandard.

    dtype = "<u2" if cell.bit_depth > 8 else "u1"
    planes = np.frombuffer(zstandard.decompress(cell.image_zstd), dtype).reshape(4, height, width)

Measured on the cells of three real FOVs, against the fastest PNG (libdeflate, no row filter): 2.5 times as fast to write, 2
times as fast to read, 2 % larger. A filter that stores differences of neighbours makes it 12 % smaller and 3 times slower to
read; deflate by ISA-L is as fast to write and half as fast to read.
"""

from __future__ import annotations

from collections.abc import Sequence

import imagecodecs
import numpy as np

from hpa_proto import cells_pb2, schema

_LEVEL = 1
# Four channels of a FOV of 8192 px squared that is one cell.
_MAX_VALUES = 1 << 28


def encode_crop(planes: Sequence[np.ndarray]) -> bytes:
    """Compresses the planes of a cell.

    Args:
      planes: in `schema.CHANNELS` order, each uint8 or uint16, [H, W], all alike and of at least one value.

    Returns:
      What `Cell.image_zstd` holds; equal planes give equal bytes.
    """
    values = np.stack(planes)
    return imagecodecs.zstd_encode(values.astype(values.dtype.newbyteorder("<"), copy=False), level=_LEVEL)


def decode_crop(cell: cells_pb2.Cell) -> np.ndarray:
    """Reads the pixels of a stored cell.

    Returns:
      uint8 or uint16, [4, H, W] in `schema.CHANNELS` order; read-only.

    Raises:
      ValueError: damaged, or not as large as the cell's box.
    """
    box = cell.bbox
    shape = (len(schema.CHANNELS), box.y_max - box.y_min, box.x_max - box.x_min)
    dtype = np.dtype("u1" if cell.bit_depth <= 8 else "<u2")
    num_values = shape[0] * shape[1] * shape[2]
    if min(shape) < 1 or num_values > _MAX_VALUES:
        raise ValueError(f"the box of the cell has {shape[2]} x {shape[1]} px")
    num_bytes = num_values * dtype.itemsize
    try:
        # Never more memory than the box needs, whatever the bytes say of themselves.
        data = imagecodecs.zstd_decode(cell.image_zstd, out=num_bytes)
    except imagecodecs.ZstdError as error:
        raise ValueError(f"the pixels of the cell are damaged: {error}") from error
    if len(data) != num_bytes:
        raise ValueError(
            f"the pixels of the cell are {len(data)} bytes; its box of {shape[2]} x {shape[1]} px has {num_bytes}"
        )
    return np.frombuffer(data, dtype).reshape(shape)

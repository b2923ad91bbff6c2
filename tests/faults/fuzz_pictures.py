"""What is fuzzed of pictures: FOVs, label maps, overviews."""

from __future__ import annotations

import io
from collections.abc import Callable

import cv2
import numpy as np
import tifffile

from beam_jobs import fov_overview, fov_reader, fov_source
from beam_jobs.segmenters import masks as mask_files
from faults.fuzz_target import FOLDER, SIZE, Target, npy_of, write, zip_of
from hpa_proto import picture_file, schema
from hpa_proto.errors import ConfigError, FovError
from trainer import overlay

_MAX_TIFF_PIXELS = 1 << 16
_MASK = np.arange(48, dtype=np.uint16).reshape(SIZE) // 16


def _picture(data: bytes) -> None:
    height, width = picture_file.read_size(data)
    assert picture_file.decode(data, max_pixels=1 << 20).shape[:2] == (height, width)


def _picture_seeds() -> list[bytes]:
    picture = np.arange(48, dtype=np.uint8).reshape(SIZE)
    colour = np.dstack([picture] * 4)
    files = [cv2.imencode(suffix, each) for suffix in (".png", ".jpg") for each in (picture, colour[..., :3])]
    return [
        data.tobytes()
        for _, data in (*files, cv2.imencode(".png", colour), cv2.imencode(".png", picture.astype(np.uint16) * 256))
    ]


def _tiff(data: bytes) -> None:
    pixels = fov_reader.decode_file(fov_source.FovRef("fov", (), ()), "fov.tif", data, max_pixels=_MAX_TIFF_PIXELS)
    assert pixels.dtype in (np.uint8, np.uint16)
    assert pixels.size <= len(schema.CHANNELS) * _MAX_TIFF_PIXELS


def _tiff_seeds() -> list[bytes]:
    grey = np.arange(48, dtype=np.uint8).reshape(SIZE)
    stack = np.stack([grey] * len(schema.CHANNELS))
    # By hand: tifffile's own has a random id.
    ome = (
        '<OME><Image><Pixels DimensionOrder="XYCZT" SizeX="8" SizeY="6" SizeC="4" SizeZ="1" SizeT="1">'
        + "".join(f'<Channel ID="{name}" Name="{name}"/>' for name in reversed(schema.CHANNELS))
        + '<TiffData IFD="0" PlaneCount="4"/></Pixels></Image></OME>'
    )
    seeds = []
    for pixels, options in (
        (grey, {}),
        (grey, {"compression": "lzw"}),
        (grey.astype(np.uint16) * 256, {"compression": "zlib", "predictor": True, "byteorder": ">"}),
        (stack, {"photometric": "minisblack", "bigtiff": True}),
        (stack, {"photometric": "minisblack", "description": ome, "metadata": None}),
    ):
        buffer = io.BytesIO()
        tifffile.imwrite(buffer, pixels, **options)
        seeds.append(buffer.getvalue())
    return seeds


def _label_map(suffix: str) -> Callable[[bytes], None]:
    def parse(data: bytes) -> None:
        mask = mask_files.read_mask(write(f"mask{suffix}", data), "fov")
        assert mask.ndim == 2
        assert np.issubdtype(mask.dtype, np.integer)

    return parse


def _npz(array: np.ndarray) -> bytes:
    return zip_of({"mask.npy": npy_of(array)})


def _overview(data: bytes) -> None:
    pixels = fov_overview.decode_overview(data)
    assert pixels.dtype == np.uint8
    assert pixels.shape[2:] == (len(schema.CHANNELS),)


def _overview_seeds() -> list[bytes]:
    pixels = np.arange(48 * 4, dtype=np.uint8).reshape(*SIZE, 4)
    return [fov_overview.encode_overview(pixels, bit_depth=8)]


def _shown_channels(data: bytes) -> None:
    """The pictures under predicted cells: PNG, JPEG or TIFF behind one name."""
    for channel in schema.CHANNELS:
        write(f"shown/fov_{channel}.png", data)
    assert overlay.read_channels(f"{FOLDER}/shown", "fov").shape[2] == len(schema.CHANNELS)


TARGETS: dict[str, Target] = {
    "picture": Target(_picture, (ValueError,), _picture_seeds, num_runs=20_000),
    "tiff": Target(_tiff, (FovError,), _tiff_seeds, num_runs=2_000),
    "label_map_npy": Target(_label_map(".npy"), (FovError,), lambda: [npy_of(_MASK)]),
    "label_map_png": Target(_label_map("_cell.png"), (FovError,), lambda: _picture_seeds()[:1]),
    "label_map_npz": Target(_label_map(".npz"), (FovError,), lambda: [_npz(_MASK)]),
    "overview": Target(_overview, (ValueError,), _overview_seeds, num_runs=20_000),
    "shown_channels": Target(
        _shown_channels, (ConfigError,), lambda: [*_picture_seeds(), *_tiff_seeds()[:3]], num_runs=2_000
    ),
}

"""Reads a FOV's pixels: PNG, JPEG and TIFF, 8 and 16 bit, one file a channel or one multi-channel TIFF."""

from __future__ import annotations

import dataclasses
import io
import re
import struct

import cv2
import numpy as np
import tifffile

from beam_jobs.fov_source import ALL_CHANNELS, FovRef
from hpa_proto import schema, storage
from hpa_proto.errors import FovError

BIT_DEPTHS = (8, 12, 14, 16)
_PNG_END = b"IEND\xaeB`\x82"
_JPEG_END = b"\xff\xd9"


@dataclasses.dataclass(frozen=True)
class FovImage:
    """Pixels of a FOV.

    Attributes:
      pixels: uint8 or uint16, [H, W, 4], channels in `schema.CHANNELS` order.
      bit_depth: bits in use; full brightness is 2 ** bit_depth - 1.
      input_bytes: size of the files together.
    """

    pixels: np.ndarray
    bit_depth: int
    input_bytes: int = 0


# What tifffile and OpenCV raise on damage; the fault is the file's in each. A damaged header may ask for terabytes.
_DAMAGE = (
    tifffile.TiffFileError,
    cv2.error,
    struct.error,
    ValueError,
    KeyError,
    IndexError,
    TypeError,
    AttributeError,
    ArithmeticError,
    MemoryError,
    OSError,
    RuntimeError,
)


def read_fov(fov: FovRef, *, bit_depth: int = 0) -> FovImage:
    """Reads the four channels of a FOV.

    Args:
      fov: which files.
      bit_depth: bits in use in 16-bit files: 12, 14 or 16; 0: the fewest of these that hold the brightest pixel.

    Raises:
      FovError: a channel is missing or stands twice; a file is missing, empty, truncated or not a picture; channels differ
        in size or depth; a pixel is brighter than `bit_depth` allows.
    """
    by_channel: dict[str, str] = {}
    for channel, path in fov.paths:
        if channel in by_channel or (ALL_CHANNELS in by_channel):
            first = by_channel.get(channel) or by_channel[ALL_CHANNELS]
            raise _error(fov, "duplicate_image", f"two files for channel {channel}: {first} and {path}; keep one")
        by_channel[channel] = path
    if ALL_CHANNELS in by_channel:
        if len(by_channel) > 1:
            raise _error(
                fov, "duplicate_image", f"a multi-channel file beside {len(by_channel) - 1} single ones; keep one"
            )
    else:
        _check_channels(fov, by_channel)
    files = {channel: read_file(fov, path) for channel, path in by_channel.items()}
    decode = _decode_stack if ALL_CHANNELS in by_channel else _decode_channels
    pixels = decode(fov, by_channel, files)
    return FovImage(pixels, _used_bits(fov, pixels, bit_depth), sum(map(len, files.values())))


def _check_channels(fov: FovRef, by_channel: dict[str, str]) -> None:
    for channel in schema.CHANNELS:
        if channel not in by_channel:
            example = next(iter(by_channel.values()), "")
            looked_for = example.replace(f"_{next(iter(by_channel), '')}", f"_{channel}")
            raise _error(fov, "missing_channel", f"no {channel} channel (looked for {looked_for}); add it")


def _decode_channels(fov: FovRef, by_channel: dict[str, str], files: dict[str, bytes]) -> np.ndarray:
    planes: list[np.ndarray] = []
    for channel in schema.CHANNELS:
        path = by_channel[channel]
        plane = _to_grey(fov, decode_file(fov, path, files[channel]), path)
        if planes and plane.shape != planes[0].shape:
            raise _error(
                fov,
                "size_mismatch",
                f"{channel} is {_size(plane)}, {schema.CHANNELS[0]} is {_size(planes[0])} px ({path})",
            )
        if planes and plane.dtype != planes[0].dtype:
            raise _error(
                fov, "depth_mismatch", f"{channel} is {plane.dtype}, {schema.CHANNELS[0]} is {planes[0].dtype}"
            )
        planes.append(plane)
    return cv2.merge(planes)


def _decode_stack(fov: FovRef, by_channel: dict[str, str], files: dict[str, bytes]) -> np.ndarray:
    path = by_channel[ALL_CHANNELS]
    stack = np.squeeze(decode_file(fov, path, files[ALL_CHANNELS]))
    if stack.ndim != 3 or 4 not in (stack.shape[0], stack.shape[2]):
        raise _error(
            fov, "wrong_channel_count", f"{path} has shape {stack.shape}, not four channels (4, H, W) or (H, W, 4)"
        )
    if stack.shape[2] != 4:
        stack = np.moveaxis(stack, 0, 2)
    return np.ascontiguousarray(_check_depth(fov, stack, path))


def read_file(fov: FovRef, path: str) -> bytes:
    """Reads a whole file of a FOV.

    Raises:
      FovError: missing, unreadable or empty.
    """
    try:
        data = storage.read_bytes(path)
    except FileNotFoundError as error:
        raise _error(fov, "missing_file", f"{path} is not there") from error
    except OSError as error:
        raise _error(fov, "unreadable_file", f"{path}: {error}") from error
    if not data:
        raise _error(fov, "empty_file", f"{path} has zero bytes; fetch it again")
    return data


def decode_file(fov: FovRef, path: str, data: bytes) -> np.ndarray:
    """Decodes a PNG, JPEG or TIFF as it is: [H, W] or [H, W, C], colours of PNG and JPEG as BGR.

    Raises:
      FovError: cut short, damaged or of another format.
    """
    if path.lower().endswith((".tif", ".tiff")):
        return _decode_tiff(fov, path, data)
    # OpenCV fills the missing part of a cut-off file with grey or black and says nothing.
    end = _PNG_END if path.lower().endswith(".png") else _JPEG_END
    if end not in data[-64:]:
        raise _error(fov, "truncated_image", f"{path} ends too early ({len(data)} bytes); fetch it again")
    try:
        image = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), cv2.IMREAD_UNCHANGED)
    except _DAMAGE as error:
        raise _error(fov, "unreadable_image", f"{path}: {error}") from error
    if image is None:
        raise _error(fov, "unreadable_image", f"{path} cannot be decoded; fetch it again")
    return image


def _decode_tiff(fov: FovRef, path: str, data: bytes) -> np.ndarray:
    try:
        with tifffile.TiffFile(io.BytesIO(data)) as tiff:
            # tifffile takes a cut-off file for one without pages, or fills what it lacks with zeros.
            ends = [
                end for page in tiff.pages for end in map(sum, zip(page.dataoffsets, page.databytecounts, strict=True))
            ]
            if not ends or max(ends) > len(data):
                raise _error(fov, "truncated_image", f"{path} ends too early ({len(data)} bytes); fetch it again")
            return _order_channels(fov, path, tiff.asarray(), tiff.ome_metadata)
    except FovError:
        raise
    except _DAMAGE as error:
        raise _error(fov, "unreadable_image", f"{path} is not a readable TIFF: {error}") from error


def _order_channels(fov: FovRef, path: str, stack: np.ndarray, ome_metadata: str | None) -> np.ndarray:
    """Brings the planes of an OME-TIFF that names its channels into our order."""
    names = [name.lower() for name in re.findall(r"<Channel[^>]*? Name=\"([^\"]*)\"", ome_metadata or "")]
    known = [name for name in names if name in schema.CHANNELS]
    if not known or stack.ndim != 3 or len(stack) != len(names):
        return stack
    if sorted(names) != sorted(schema.CHANNELS):
        raise _error(fov, "wrong_channels", f"{path} names its channels {names}; wanted: {', '.join(schema.CHANNELS)}")
    return stack[[names.index(channel) for channel in schema.CHANNELS]]


def _to_grey(fov: FovRef, image: np.ndarray, path: str) -> np.ndarray:
    if image.ndim == 3 and image.shape[2] in (3, 4):
        # Public HPA pictures show a channel in its colour (yellow as red and green): the brightest of RGB is the channel.
        image = image[..., :3].max(axis=2)
    if image.ndim != 2:
        raise _error(fov, "wrong_channel_count", f"{path} has shape {image.shape}, not one grey picture")
    return _check_depth(fov, image, path)


def _check_depth(fov: FovRef, image: np.ndarray, path: str) -> np.ndarray:
    if image.dtype not in (np.uint8, np.uint16):
        raise _error(fov, "wrong_depth", f"{path} holds {image.dtype} pixels; 8 and 16 bit are read")
    return image


def _used_bits(fov: FovRef, pixels: np.ndarray, bit_depth: int) -> int:
    if pixels.dtype == np.uint8:
        return 8
    brightest = int(pixels.max())
    if not bit_depth:
        return next(bits for bits in BIT_DEPTHS[1:] if brightest < 1 << bits)
    if brightest >= 1 << bit_depth:
        raise _error(fov, "too_bright", f"a pixel of {brightest} does not fit into {bit_depth} bits; see --bit_depth")
    return bit_depth


def _size(image: np.ndarray) -> str:
    return f"{image.shape[1]} x {image.shape[0]}"


def _error(fov: FovRef, reason: str, detail: str) -> FovError:
    return FovError("read", reason, f"fov {fov.fov_id}: {detail}")

"""Reads a FOV's pixels: PNG, JPEG and TIFF, 8 and 16 bit, one file a channel or one multi-channel TIFF."""

from __future__ import annotations

import dataclasses
import io
import itertools
import math
import os
import re
import stat
import struct
from xml.etree import ElementTree

import cv2
import numpy as np
import tifffile

from beam_jobs.fov_source import ALL_CHANNELS, FovRef
from hpa_proto import picture_file, records, schema, storage
from hpa_proto.errors import FovError

BIT_DEPTHS = (8, 12, 14, 16)
# Four times the largest FOV of the Atlas (4096 px square).
MAX_FOV_PIXELS = 8192 * 8192
_MAX_BYTES_PER_PIXEL = 8
_METADATA_BYTES = 64 << 20
_PNG_END = b"IEND\xaeB`\x82"
_JPEG_END = b"\xff\xd9"
_JPEG_SCAN = b"\xff\xda"
# A progressive JPEG has about ten. Each goes over the whole picture, so a small file of thousands takes hours.
_MAX_JPEG_SCANS = 100
_TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
# A FOV has four channels; every page takes time to look at.
_MAX_TIFF_PAGES = 100
# A strip in one of these cannot become larger than the page says. One that is itself a picture has a size of its own.
_TIFF_COMPRESSIONS = (
    tifffile.COMPRESSION.NONE,
    tifffile.COMPRESSION.LZW,
    tifffile.COMPRESSION.ADOBE_DEFLATE,
    tifffile.COMPRESSION.DEFLATE,
    tifffile.COMPRESSION.PACKBITS,
    tifffile.COMPRESSION.LZMA,
    tifffile.COMPRESSION.ZSTD,
)
_MAX_OME_LENGTH = 8 << 20
_OME_SIZE = re.compile(r"Size[XYCZT]")
_OME_COUNT = re.compile(r"Size[CZT]|First[CZT]|IFD|PlaneCount|NumPlanes")
# Neither can run past the next tag and try again from there: a description of many tags takes time by its length alone.
_CHANNEL_TAG = re.compile(r"<Channel\s([^<>]*)")
_CHANNEL_NAME = re.compile(r"(?<!\S)Name=\"([^\"]*)\"")
# tifffile hands out the numbers of a palette, ink and white-is-0 pictures as if they were brightness.
_TIFF_COLOURS = (tifffile.PHOTOMETRIC.MINISBLACK, tifffile.PHOTOMETRIC.RGB)


@dataclasses.dataclass(frozen=True)
class FovImage:
    """Pixels of a FOV.

    Attributes:
      pixels: uint8 or uint16, [H, W, 4], channels in `schema.CHANNELS` order; as read, each channel is a plane of its own in
        memory.
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


def read_fov(fov: FovRef, *, bit_depth: int = 0, max_pixels: int = MAX_FOV_PIXELS) -> FovImage:
    """Reads the four channels of a FOV.

    Args:
      fov: which files.
      bit_depth: bits in use in 16-bit files: 12, 14 or 16; 0: the fewest of these that hold the brightest pixel.
      max_pixels: height times width that is not exceeded; looked up before anything is decoded.

    Raises:
      FovError: a channel is missing or stands twice; a file is missing, empty, truncated, too large or not a picture;
        channels differ in size or depth; a pixel is brighter than `bit_depth` allows.
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
    files = {channel: read_file(fov, path, max_pixels=max_pixels) for channel, path in by_channel.items()}
    decode = _decode_stack if ALL_CHANNELS in by_channel else _decode_channels
    pixels = decode(fov, by_channel, files, max_pixels)
    return FovImage(pixels, _used_bits(fov, pixels, bit_depth), sum(map(len, files.values())))


def _check_channels(fov: FovRef, by_channel: dict[str, str]) -> None:
    for channel in schema.CHANNELS:
        if channel not in by_channel:
            example = next(iter(by_channel.values()), "")
            looked_for = example.replace(f"_{next(iter(by_channel), '')}", f"_{channel}")
            raise _error(fov, "missing_channel", f"no {channel} channel (looked for {looked_for}); add it")


def _decode_channels(fov: FovRef, by_channel: dict[str, str], files: dict[str, bytes], max_pixels: int) -> np.ndarray:
    planes: list[np.ndarray] = []
    for channel in schema.CHANNELS:
        path = by_channel[channel]
        plane = _to_grey(fov, decode_file(fov, path, files[channel], max_pixels=max_pixels), path)
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
    # A view: interleaving the channels, and parting them again for every cell, takes as long as a third of the decoding.
    return np.moveaxis(np.stack(planes), 0, 2)


def _decode_stack(fov: FovRef, by_channel: dict[str, str], files: dict[str, bytes], max_pixels: int) -> np.ndarray:
    path = by_channel[ALL_CHANNELS]
    stack = np.squeeze(decode_file(fov, path, files[ALL_CHANNELS], max_pixels=max_pixels))
    if stack.ndim != 3 or 4 not in (stack.shape[0], stack.shape[2]):
        raise _error(
            fov, "wrong_channel_count", f"{path} has shape {stack.shape}, not four channels (4, H, W) or (H, W, 4)"
        )
    planes = stack if stack.shape[2] != 4 else np.moveaxis(stack, 2, 0)
    _check_depth(fov, planes.dtype, path)
    return np.moveaxis(np.ascontiguousarray(planes), 0, 2)


def read_file(fov: FovRef, path: str, *, max_pixels: int = MAX_FOV_PIXELS) -> bytes:
    """Reads a whole file of a FOV.

    Raises:
      FovError: missing, unreadable, no regular file, empty, or larger than `max_pixels` need.
    """
    max_bytes = _MAX_BYTES_PER_PIXEL * max_pixels + _METADATA_BYTES
    try:
        # A pipe would be waited for without end.
        if not storage.is_url(path) and not stat.S_ISREG(os.stat(path).st_mode):
            raise OSError("a folder, pipe or device, where a file is wanted")
        with storage.open_read(path) as file:
            data = records.read_up_to(file, max_bytes + 1)
    except FileNotFoundError as error:
        raise _error(fov, "missing_file", f"{path} is not there") from error
    except (OSError, ValueError, TypeError, AttributeError) as error:
        # Beside OSError: a path that is none, or a URL that nothing here can open (ConfigError is a ValueError).
        raise _error(fov, "unreadable_file", f"{path!r}: {error}") from error
    if not data:
        raise _error(fov, "empty_file", f"{path} has zero bytes; fetch it again")
    if len(data) > max_bytes:
        raise _error(fov, "too_large", f"{path} has over {max_bytes:,} bytes; see --max_fov_pixels={max_pixels}")
    return data


def decode_file(fov: FovRef, path: str, data: bytes, *, max_pixels: int = MAX_FOV_PIXELS) -> np.ndarray:
    """Decodes a PNG, JPEG or TIFF as it is, whatever its name: [H, W] or [H, W, C], colours of PNG and JPEG as BGR.

    Raises:
      FovError: cut short, damaged, too large or of another format.
    """
    if data.startswith(_TIFF_STARTS):
        return _decode_tiff(fov, path, data, max_pixels)
    if not data.startswith((picture_file.PNG_START, picture_file.JPEG_START)):
        raise _error(fov, "unreadable_image", f"{path} is no PNG, JPEG or TIFF: it begins with {data[:12]!r}")
    is_png = data.startswith(picture_file.PNG_START)
    # OpenCV fills the missing part of a cut-off file with grey or black and says nothing.
    if (_PNG_END if is_png else _JPEG_END) not in data[-64:]:
        raise _error(fov, "truncated_image", f"{path} ends too early ({len(data)} bytes); fetch it again")
    try:
        height, width = picture_file.read_size(data)
    except ValueError as error:
        raise _error(fov, "unreadable_image", f"{path}: {error}; fetch it again") from error
    _check_size(fov, path, height=height, width=width, max_pixels=max_pixels)
    if not is_png and data.count(_JPEG_SCAN) > _MAX_JPEG_SCANS:
        raise _error(fov, "unreadable_image", f"{path} is a JPEG of over {_MAX_JPEG_SCANS} scans; save it anew")
    try:
        return picture_file.decode(data, max_pixels=max_pixels)
    except _DAMAGE as error:
        raise _error(fov, "unreadable_image", f"{path}: {error}; fetch it again") from error


def _check_size(fov: FovRef, path: str, *, height: int, width: int, max_pixels: int) -> None:
    if height * width > max_pixels:
        raise _error(
            fov,
            "too_large",
            f"{path} is {width} x {height} = {height * width:,} px, --max_fov_pixels={max_pixels} allows {max_pixels:,}; "
            "raise it if the picture is real",
        )


def _decode_tiff(fov: FovRef, path: str, data: bytes, max_pixels: int) -> np.ndarray:
    try:
        with tifffile.TiffFile(io.BytesIO(data)) as tiff:
            pages = list(itertools.islice(tiff.pages, _MAX_TIFF_PAGES + 1))
            if len(pages) > _MAX_TIFF_PAGES:
                raise _error(fov, "wrong_channel_count", f"{path} has over {_MAX_TIFF_PAGES} pages, not four channels")
            # tifffile takes a cut-off file for one without pages, or fills what it lacks with zeros.
            ends = [end for page in pages for end in map(sum, zip(page.dataoffsets, page.databytecounts, strict=True))]
            if not ends or max(ends) > len(data):
                raise _error(fov, "truncated_image", f"{path} ends too early ({len(data)} bytes); fetch it again")
            _check_tiff(fov, path, tiff, max_pixels)
            return _order_channels(fov, path, tiff.asarray(), tiff.ome_metadata)
    except FovError:
        raise
    except _DAMAGE as error:
        raise _error(fov, "unreadable_image", f"{path} is not a readable TIFF: {error}") from error


def _check_tiff(fov: FovRef, path: str, tiff: tifffile.TiffFile, max_pixels: int) -> None:
    page = tiff.pages.first
    _check_size(fov, path, height=page.imagelength, width=page.imagewidth, max_pixels=max_pixels)
    if page.is_ome:
        _check_ome(fov, path, page.description, max_pixels)
    num_samples = max(math.prod(tiff.series[0].shape), math.prod(page.chunks))
    if num_samples > len(schema.CHANNELS) * max_pixels:
        raise _error(
            fov,
            "too_large",
            f"{path} has {num_samples:,} samples, more than {len(schema.CHANNELS)} channels of --max_fov_pixels={max_pixels}",
        )
    # tifffile makes black of a plane that an OME-TIFF says is in another file.
    if any(each is None for each in tiff.series[0].pages):
        raise _error(fov, "missing_channel", f"{path} has a part of its planes in other files; save all in one")
    for dtype in (page.dtype, tiff.series[0].dtype):
        _check_depth(fov, dtype, path)
    if page.compression not in _TIFF_COMPRESSIONS:
        name = getattr(page.compression, "name", page.compression)
        raise _error(fov, "unreadable_image", f"{path} is compressed by {name}; save it with LZW, deflate or none")
    if "PhotometricInterpretation" in page.tags and page.photometric not in _TIFF_COLOURS:
        name = getattr(page.photometric, "name", page.photometric)
        raise _error(fov, "unreadable_image", f"{path} has {name} pixels; save it as grey, 0 is black")


def _check_ome(fov: FovRef, path: str, text: str, max_pixels: int) -> None:
    """Looks over the XML of an OME-TIFF: tifffile makes lists as long as it says before it looks at a plane."""
    if len(text) > _MAX_OME_LENGTH or "<!DOCTYPE" in text:
        wanted = f"at most {_MAX_OME_LENGTH:,} letters and no DOCTYPE"
        raise _error(fov, "unreadable_image", f"{path} has a description of {len(text):,} letters; wanted: {wanted}")
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError:
        # tifffile then goes by the pages.
        return
    for element in root.iter():
        # A modulo parts an axis into two, of any length.
        has_many = any(int(n) > _MAX_TIFF_PAGES for name, n in element.items() if _OME_COUNT.fullmatch(name))
        if has_many or element.tag[:-1].endswith("ModuloAlong"):
            raise _error(fov, "wrong_channel_count", f"{path} says it has over {_MAX_TIFF_PAGES} planes, not four")
        num_samples = math.prod(int(n) for name, n in element.items() if _OME_SIZE.fullmatch(name))
        if num_samples > len(schema.CHANNELS) * max_pixels:
            raise _error(fov, "too_large", f"{path} has {num_samples:,} samples; see --max_fov_pixels={max_pixels}")


def _order_channels(fov: FovRef, path: str, stack: np.ndarray, ome_metadata: str | None) -> np.ndarray:
    """Brings the planes of an OME-TIFF that names its channels into our order."""
    names = [name.lower() for tag in _CHANNEL_TAG.findall(ome_metadata or "") for name in _CHANNEL_NAME.findall(tag)]
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
    _check_depth(fov, image.dtype, path)
    return image


def _check_depth(fov: FovRef, dtype: np.dtype | None, path: str) -> None:
    if dtype not in (np.uint8, np.uint16):
        raise _error(fov, "wrong_depth", f"{path} holds {dtype} pixels; 8 and 16 bit are read")


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

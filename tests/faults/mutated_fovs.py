"""Pictures that are not what they should be: 200 files that stand where a FOV's green channel is wanted."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Iterator

import cv2
import numpy as np
import tifffile
from PIL import Image

NUM_MUTANTS = 200


def _png(image: np.ndarray) -> bytes:
    return cv2.imencode(".png", image)[1].tobytes()


def _saved(image: Image.Image, image_format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def _tiff(image: np.ndarray, **options: object) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, image, **options)
    return buffer.getvalue()


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _with_header(png: bytes, *, width: int, height: int, depth: int = 8, colour: int = 0) -> bytes:
    """Gives a PNG another header, with the checksum that belongs to it."""
    return png[:8] + _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)) + png[33:]


def _with_chunk(png: bytes, kind: bytes, data: bytes) -> bytes:
    return png[:33] + _chunk(kind, data) + png[33:]


def _empty_png(side: int) -> bytes:
    """A sound PNG of side * side black pixels, a thousandth of their number in bytes."""
    packer = zlib.compressobj(9)
    rows = b"".join(packer.compress(bytes(1 + side)) for _ in range(side)) + packer.flush()
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + _chunk(b"IDAT", rows) + _chunk(b"IEND", b"")


def _with_jpeg_size(jpeg: bytes, *, width: int, height: int) -> bytes:
    place = max(jpeg.find(b"\xff\xc0"), jpeg.find(b"\xff\xc2"))
    return jpeg[: place + 5] + struct.pack(">HH", height, width) + jpeg[place + 9 :]


def _with_scans(image: Image.Image, num_scans: int) -> bytes:
    """A progressive JPEG whose last scan stands there many times."""
    jpeg = _saved(image, "JPEG", progressive=True)
    last = jpeg.rfind(b"\xff\xda")
    return jpeg[:last] + jpeg[last:-2] * num_scans + jpeg[-2:]


def _with_tiff_tag(tiff: bytes, tag: int, value: int) -> bytes:
    """Sets a tag of a little-endian TIFF that has it in its first directory, as a 32-bit number."""
    start = struct.unpack_from("<I", tiff, 4)[0]
    data = bytearray(tiff)
    for index in range(struct.unpack_from("<H", tiff, start)[0]):
        entry = start + 2 + 12 * index
        if struct.unpack_from("<H", tiff, entry)[0] == tag:
            struct.pack_into("<HII", data, entry + 2, 4, 1, value)
    return bytes(data)


def _deflate_bomb(tiff_side: int, num_bytes: int) -> bytes:
    """A small TIFF whose one strip unpacks to far more than the picture needs."""
    tiff = _tiff(np.zeros((tiff_side, tiff_side), np.uint8), compression="zlib", rowsperstrip=tiff_side)
    strip = zlib.compress(bytes(num_bytes), 9)
    moved = _with_tiff_tag(_with_tiff_tag(tiff, 273, len(tiff)), 279, len(strip))
    return moved + strip


def _flipped(data: bytes, rng: np.random.Generator) -> bytes:
    changed = bytearray(data)
    for place in rng.integers(0, len(data), rng.integers(1, 6)):
        changed[place] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def _cut(data: bytes, rng: np.random.Generator) -> bytes:
    return data[: int(rng.integers(0, len(data)))]


def _fixed(grey: np.ndarray) -> dict[str, Callable[[], bytes]]:
    picture = Image.fromarray(grey)
    other = Image.fromarray(255 - grey)
    png, jpeg, tiff = _png(grey), _saved(picture, "JPEG"), _tiff(grey)
    height, width = grey.shape
    frames = {"save_all": True, "append_images": [other, picture]}
    return {
        "no bytes": lambda: b"",
        "text": lambda: b"<html>404 not found</html>" * 9,
        "zero bytes in a row": lambda: bytes(5000),
        "PNG signature alone": lambda: png[:8],
        "PNG of no width": lambda: _with_header(png, width=0, height=height),
        "PNG of no height": lambda: _with_header(png, width=width, height=0),
        "PNG declared wider": lambda: _with_header(png, width=width + 1, height=height),
        "PNG declared higher": lambda: _with_header(png, width=width, height=height * 2),
        "PNG declared lower": lambda: _with_header(png, width=width, height=height // 2),
        "PNG declared 60,000 px square": lambda: _with_header(png, width=60_000, height=60_000),
        "PNG declared 2**31 - 1 px square": lambda: _with_header(png, width=2**31 - 1, height=2**31 - 1),
        "PNG declared 16 bit": lambda: _with_header(png, width=width, height=height, depth=16),
        "PNG declared RGB": lambda: _with_header(png, width=width, height=height, colour=2),
        "PNG of an unknown kind": lambda: _with_header(png, width=width, height=height, depth=7, colour=9),
        "PNG without pixels": lambda: png[:33] + _chunk(b"IEND", b""),
        "PNG without end": lambda: png[:-12],
        "PNG and more after it": lambda: png + b"more",
        "PNG twice": lambda: png + png,
        "PNG of 20,000 px square in 400 KB": lambda: _empty_png(20_000),
        "PNG with 100 MB of text, packed": lambda: _with_chunk(
            png, b"zTXt", b"k\0\0" + zlib.compress(bytes(100 << 20))
        ),
        "PNG with a profile of 100 MB, packed": lambda: _with_chunk(
            png, b"iCCP", b"k\0\0" + zlib.compress(bytes(100 << 20))
        ),
        "PNG, interlaced": lambda: cv2.imencode(".png", grey, [cv2.IMWRITE_PNG_STRATEGY, 2])[1].tobytes(),
        "PNG, palette": lambda: _saved(picture.convert("P"), "PNG"),
        "PNG, 1 bit": lambda: _saved(picture.convert("1"), "PNG"),
        "PNG, grey with alpha": lambda: _saved(picture.convert("LA"), "PNG"),
        "PNG, RGB": lambda: _saved(picture.convert("RGB"), "PNG"),
        "PNG, RGBA": lambda: _saved(picture.convert("RGBA"), "PNG"),
        "PNG, 16 bit": lambda: _png(grey.astype(np.uint16) * 257),
        "PNG, 16 bit RGB": lambda: _png(np.dstack([grey.astype(np.uint16) * 257] * 3)),
        "PNG, animated": lambda: _saved(picture, "PNG", **frames),
        "PNG of another size": lambda: _png(grey[:-1]),
        "JPEG behind .png": lambda: jpeg,
        "JPEG, CMYK": lambda: _saved(picture.convert("CMYK"), "JPEG"),
        "JPEG, RGB": lambda: _saved(picture.convert("RGB"), "JPEG"),
        "JPEG declared 60,000 px square": lambda: _with_jpeg_size(jpeg, width=60_000, height=60_000),
        "JPEG of no height": lambda: _with_jpeg_size(jpeg, width=width, height=0),
        "JPEG of 20,000 scans": lambda: _with_scans(picture, 20_000),
        "JPEG without frame": lambda: jpeg[:2] + jpeg[-2:],
        "GIF behind .png": lambda: _saved(picture, "GIF"),
        "GIF, animated": lambda: _saved(picture, "GIF", **frames),
        "BMP behind .png": lambda: _saved(picture, "BMP"),
        "WebP behind .png": lambda: _saved(picture.convert("RGB"), "WEBP"),
        "WebP, animated": lambda: _saved(picture.convert("RGB"), "WEBP", **frames),
        "PPM behind .png": lambda: _saved(picture, "PPM"),
        "ICO behind .png": lambda: _saved(picture, "ICO"),
        "JPEG 2000 behind .png": lambda: _saved(picture, "JPEG2000"),
        "TIFF behind .png": lambda: tiff,
        "TIFF, big-endian": lambda: _tiff(grey, byteorder=">"),
        "TIFF of 64 bit offsets": lambda: _tiff(grey, bigtiff=True),
        "TIFF, 32-bit float": lambda: _tiff(grey.astype(np.float32)),
        "TIFF, 64-bit float": lambda: _tiff(grey.astype(np.float64)),
        "TIFF, signed": lambda: _tiff(grey.astype(np.int16)),
        "TIFF, complex": lambda: _tiff(grey.astype(np.complex64)),
        "TIFF, 1 bit": lambda: _saved(picture.convert("1"), "TIFF"),
        "TIFF, CMYK": lambda: _saved(picture.convert("CMYK"), "TIFF"),
        "TIFF, palette": lambda: _saved(picture.convert("P"), "TIFF"),
        "TIFF, RGB": lambda: _tiff(np.dstack([grey] * 3), photometric="rgb"),
        "TIFF of two pages": lambda: _tiff(np.stack([grey, grey]), photometric="minisblack"),
        "TIFF of 500 pages": lambda: _tiff(np.stack([grey] * 500), photometric="minisblack"),
        "TIFF holding a JPEG": lambda: _tiff(grey, compression="jpeg"),
        "TIFF holding a JPEG 2000": lambda: _tiff(grey, compression="jpeg2000"),
        "TIFF declared 60,000 px wide": lambda: _with_tiff_tag(tiff, 256, 60_000),
        "TIFF declared 60,000 px high": lambda: _with_tiff_tag(tiff, 257, 60_000),
        "TIFF of 60,000 channels": lambda: _with_tiff_tag(tiff, 277, 60_000),
        "TIFF of tiles of 60,000 px": lambda: _with_tiff_tag(
            _with_tiff_tag(_tiff(grey, tile=(64, 64), compression="zlib"), 322, 60_000), 323, 60_000
        ),
        "TIFF of a strip of 500 MB, packed": lambda: _deflate_bomb(64, 500 << 20),
        "TIFF that is its own next page": lambda: tiff[:4] + struct.pack("<I", 4) + tiff[8:],
    }


def make_mutants(grey: np.ndarray, *, seed: int) -> Iterator[tuple[str, bytes]]:
    """Makes the files.

    Args:
      grey: uint8[H, W], what a sound file would hold.
      seed: of the damage at random places.

    Yields:
      (what it is, its bytes), NUM_MUTANTS times.
    """
    rng = np.random.default_rng(seed)
    fixed = _fixed(grey)
    for name, make in fixed.items():
        yield name, make()
    sound = {
        "PNG": _png(grey),
        "JPEG": _saved(Image.fromarray(grey), "JPEG"),
        "progressive JPEG": _saved(Image.fromarray(grey), "JPEG", progressive=True),
        "TIFF": _tiff(grey),
        "LZW TIFF": _tiff(grey, compression="lzw"),
    }
    damage = {"cut": _cut, "flipped bits": _flipped}
    for index in range(NUM_MUTANTS - len(fixed)):
        kind = list(sound)[index % len(sound)]
        name = list(damage)[index // len(sound) % len(damage)]
        yield f"{kind}, {name}", damage[name](sound[kind], rng)

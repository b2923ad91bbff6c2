"""Pictures that are not what they should be: 200 FOVs with files that are damaged, of other formats or made to do harm."""

from __future__ import annotations

import dataclasses
import io
import struct
import zlib
from collections.abc import Callable, Iterator

import cv2
import numpy as np
import tifffile
from PIL import Image

from hpa_proto import schema

NUM_MUTANTS = 200
HALF_JPEG = "JPEG without its second half, the end put back"
_GREEN = "_green.png"
# First row, first column, step of rows, step of columns of each pass (PNG specification, 8.2).
_ADAM7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))


@dataclasses.dataclass(frozen=True)
class Mutant:
    """A FOV with something about its files.

    Attributes:
      name: what it is.
      files: what stands behind the FOV's id in a file's name -> the bytes. A file of one channel takes the place of the
        sound one; any other is a file of all channels.
      pixels: uint8[H, W, 4], what the FOV holds if the files are read, and as if they were not damaged.
    """

    name: str
    files: dict[str, bytes]
    pixels: np.ndarray


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


def _header(*, width: int, height: int, depth: int = 8, colour: int = 0, interlace: int = 0) -> bytes:
    """The first 33 bytes of a PNG."""
    fields = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", fields)


def _with_header(png: bytes, **fields: int) -> bytes:
    """Gives a PNG another header, with the checksum that belongs to it."""
    return _header(**fields) + png[33:]


def _with_chunk(png: bytes, kind: bytes, data: bytes) -> bytes:
    return png[:33] + _chunk(kind, data) + png[33:]


def _empty_png(side: int) -> bytes:
    """A sound PNG of side * side black pixels, a thousandth of their number in bytes."""
    packer = zlib.compressobj(9)
    rows = b"".join(packer.compress(bytes(1 + side)) for _ in range(side)) + packer.flush()
    return _header(width=side, height=side) + _chunk(b"IDAT", rows) + _chunk(b"IEND", b"")


def _interlaced_png(grey: np.ndarray) -> bytes:
    """Neither OpenCV nor Pillow writes one."""
    passes = (grey[y::step_y, x::step_x] for y, x, step_y, step_x in _ADAM7)
    rows = b"".join(b"\0" + row.tobytes() for each in passes for row in each)
    header = _header(width=grey.shape[1], height=grey.shape[0], interlace=1)
    return header + _chunk(b"IDAT", zlib.compress(rows)) + _chunk(b"IEND", b"")


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


def _stack(image: np.ndarray, **options: object) -> bytes:
    """A TIFF of all channels of uint8[H, W, C], a page each."""
    return _tiff(np.moveaxis(image, 2, 0), photometric="minisblack", **options)


def _ome_tiff(image: np.ndarray, names: tuple[str, ...], **options: object) -> bytes:
    """An OME-TIFF of uint8[H, W, 4], its channels in the order of the names and called by them."""
    planes = image[..., [schema.CHANNELS.index(name) if name in schema.CHANNELS else 0 for name in names]]
    return _stack(planes, ome=True, metadata={"axes": "CYX", "Channel": {"Name": names}}, **options)


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
        "PNG without its second half, the end put back": lambda: png[: len(png) // 2] + png[-12:],
        "PNG and more after it": lambda: png + b"more",
        "PNG twice": lambda: png + png,
        "PNG of 20,000 px square in 400 KB": lambda: _empty_png(20_000),
        "PNG with 100 MB of text, packed": lambda: _with_chunk(
            png, b"zTXt", b"k\0\0" + zlib.compress(bytes(100 << 20))
        ),
        "PNG with a profile of 100 MB, packed": lambda: _with_chunk(
            png, b"iCCP", b"k\0\0" + zlib.compress(bytes(100 << 20))
        ),
        "PNG, interlaced": lambda: _interlaced_png(grey),
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
        HALF_JPEG: lambda: jpeg[: len(jpeg) // 2] + jpeg[-2:],
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


def _fixed_stacks(image: np.ndarray) -> dict[str, dict[str, bytes]]:
    swapped = ("blue", "green", "red", "yellow")
    tags = "<OME><Channel " + "<Channel " * 20_000 + "</OME>"
    size = f'SizeX="{image.shape[1]}" SizeY="{image.shape[0]}" SizeC="4" SizeZ="1" SizeT="1"'
    other = (
        f'<OME><Image ID="Image:0"><Pixels DimensionOrder="XYCZT" {size}>'
        '<TiffData FirstC="3" IFD="0" PlaneCount="1"><UUID FileName="other.tif">urn:uuid:1</UUID></TiffData>'
        '<TiffData IFD="0" PlaneCount="3"/></Pixels></Image></OME>'
    )
    entities = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, 10))
    bomb = f'<!DOCTYPE OME [<!ENTITY e0 "ha">{entities}]><OME>&e9;</OME>'
    ome = _ome_tiff(image, swapped)
    return {
        "multi-channel TIFF": {".tif": _stack(image)},
        "multi-channel TIFF, channels last": {".tif": _tiff(image, photometric="minisblack", planarconfig="contig")},
        "multi-channel TIFF of three channels": {".tif": _stack(image[..., :3])},
        "multi-channel TIFF of five channels": {".tif": _stack(image[..., [0, 1, 2, 3, 0]])},
        "multi-channel TIFF, 32-bit float": {".tif": _stack(image.astype(np.float32))},
        "multi-channel TIFF that is a PNG": {".tif": _png(image)},
        "multi-channel TIFF beside a single channel": {".tif": _stack(image), _GREEN: _png(image[..., 1])},
        "OME-TIFF": {".ome.tif": ome},
        "OME-TIFF with an unknown channel": {".ome.tif": _ome_tiff(image, ("red", "green", "DAPI", "yellow"))},
        "OME-TIFF with a channel twice": {".ome.tif": _ome_tiff(image, ("red", "green", "green", "yellow"))},
        "OME-TIFF of 20,000 open tags": {".ome.tif": _stack(image, description=tags, metadata=None)},
        "OME-TIFF of nested entities": {".ome.tif": _stack(image, description=bomb, metadata=None)},
        "OME-TIFF whose yellow is in another file": {".ome.tif": _stack(image, description=other, metadata=None)},
        "OME-TIFF whose text is no UTF-8": {".ome.tif": ome.replace(b"<Image", b"<\xff\xfe\xfdge")},
    }


def _decoded(data: bytes) -> np.ndarray:
    """uint8[H, W] of a lossy file by another decoder than the jobs'."""
    return np.asarray(Image.open(io.BytesIO(data)).convert("L"))


def _with_green(image: np.ndarray, green: np.ndarray) -> np.ndarray:
    return np.dstack([image[..., 0], green, image[..., 2:]])


def make_mutants(image: np.ndarray, *, seed: int) -> Iterator[Mutant]:
    """Makes the FOVs: NUM_MUTANTS of them.

    Args:
      image: uint8[H, W, 4], what a sound FOV holds, channels in `schema.CHANNELS` order.
      seed: of the damage at random places.
    """
    rng = np.random.default_rng(seed)
    grey = image[..., 1]
    fixed, stacks = _fixed(grey), _fixed_stacks(image)
    sound_jpeg = _with_green(image, _decoded(_saved(Image.fromarray(grey), "JPEG")))
    for name, make in fixed.items():
        data, pixels = make(), sound_jpeg if "JPEG" in name else image
        if name == "PNG, 1 bit":
            pixels = _with_green(image, _decoded(data))
        yield Mutant(name, {_GREEN: data}, pixels)
    for name, files in stacks.items():
        yield Mutant(name, files, image)
    sound = {
        "PNG": {_GREEN: _png(grey)},
        "JPEG": {_GREEN: _saved(Image.fromarray(grey), "JPEG")},
        "progressive JPEG": {_GREEN: _saved(Image.fromarray(grey), "JPEG", progressive=True)},
        "TIFF": {_GREEN: _tiff(grey)},
        "LZW TIFF": {_GREEN: _tiff(grey, compression="lzw")},
        "multi-channel TIFF": {".tif": _stack(image)},
        "deflate OME-TIFF": {".ome.tif": _ome_tiff(image, ("blue", "green", "red", "yellow"), compression="zlib")},
        "three PNGs": {
            f"_{name}.png": _png(image[..., schema.CHANNELS.index(name)]) for name in ("red", "green", "blue")
        },
    }
    damage = {"cut": _cut, "flipped bits": _flipped}
    for index in range(NUM_MUTANTS - len(fixed) - len(stacks)):
        kind = list(sound)[index % len(sound)]
        name = list(damage)[index // len(sound) % len(damage)]
        files = {end: damage[name](data, rng) for end, data in sound[kind].items()}
        yield Mutant(f"{kind}, {name}", files, sound_jpeg if "JPEG" in kind else image)

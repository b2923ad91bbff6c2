"""Promises of beam_jobs.fov_reader: formats that are read, and every fault as a FovError with its reason."""

import contextlib
import os
import time

import cv2
import numpy as np
import pytest
import tifffile

import small_fovs
from beam_jobs.fov_reader import read_file, read_fov
from beam_jobs.fov_source import FovRef, find_fovs
from hpa_proto.errors import FovError


def ref(paths):
    return FovRef("f", tuple(sorted((channel, str(path)) for channel, path in paths.items())), ())


@pytest.fixture
def image():
    return small_fovs.draw_fov(height=40, width=60)[0]


@pytest.fixture
def paths(tmp_path, image):
    return small_fovs.write_fov(tmp_path, "f", image)


def reason_of(paths, **options):
    with pytest.raises(FovError) as caught:
        read_fov(ref(paths), **options)
    assert caught.value.stage == "read"
    assert "fov f: " in caught.value.detail
    return caught.value.reason


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_lossless_files_come_back_exactly(tmp_path, image, suffix):
    paths = small_fovs.write_fov(tmp_path, "f", image, suffix=suffix)
    read = read_fov(ref(paths))
    np.testing.assert_array_equal(read.pixels, image)
    assert (read.pixels.dtype, read.bit_depth) == (np.uint8, 8)


def test_jpeg_comes_back_nearly(tmp_path, image):
    smooth = cv2.GaussianBlur(image, (0, 0), 2)
    paths = small_fovs.write_fov(tmp_path, "f", smooth, suffix=".jpg")
    assert np.abs(read_fov(ref(paths)).pixels.astype(int) - smooth).mean() < 3


def test_coloured_jpegs_of_the_public_atlas_are_read_by_their_brightest_colour(tmp_path, image):
    paths = small_fovs.write_fov(tmp_path, "f", image)
    yellow = image[..., 3]
    cv2.imwrite(str(paths["yellow"]), np.dstack([np.zeros_like(yellow), yellow, yellow]))
    np.testing.assert_array_equal(read_fov(ref(paths)).pixels, image)


@pytest.mark.parametrize(("full", "bits"), [(4095, 12), (16383, 14), (65535, 16)])
def test_used_bits_of_16_bit_files_are_found(tmp_path, full, bits):
    image = small_fovs.draw_fov(dtype=np.uint16, full=full)[0]
    image[0, 0, 0] = full
    read = read_fov(ref(small_fovs.write_fov(tmp_path, "f", image)))
    np.testing.assert_array_equal(read.pixels, image)
    assert read.bit_depth == bits


def test_given_bits_stand_for_a_dim_fov(tmp_path):
    image = small_fovs.draw_fov(dtype=np.uint16, full=900)[0]
    paths = small_fovs.write_fov(tmp_path, "f", image)
    assert read_fov(ref(paths), bit_depth=16).bit_depth == 16


def test_pixel_over_the_given_bits_is_an_error(tmp_path):
    image = small_fovs.draw_fov(dtype=np.uint16, full=9000)[0]
    assert reason_of(small_fovs.write_fov(tmp_path, "f", image), bit_depth=12) == "too_bright"


@pytest.mark.parametrize("order", ["channels_first", "channels_last"])
def test_multi_channel_tiff_is_read(tmp_path, image, order):
    if order == "channels_first":
        tifffile.imwrite(
            tmp_path / "f.ome.tif", np.moveaxis(image, 2, 0), photometric="minisblack", metadata={"axes": "CYX"}
        )
    else:
        tifffile.imwrite(tmp_path / "f.tif", image, photometric="minisblack", planarconfig="contig")
    (fov,) = find_fovs(str(tmp_path), None).fovs
    np.testing.assert_array_equal(read_fov(fov).pixels, image)


def test_missing_channel_names_the_file_it_looked_for(paths):
    del paths["yellow"]
    with pytest.raises(FovError, match=r"no yellow channel \(looked for .*f_yellow.png\)") as caught:
        read_fov(ref(paths))
    assert caught.value.reason == "missing_channel"


def test_missing_file(paths):
    paths["blue"].unlink()
    assert reason_of(paths) == "missing_file"


def test_zero_bytes(paths):
    paths["red"].write_bytes(b"")
    assert reason_of(paths) == "empty_file"


@pytest.mark.parametrize("keep", [0.3, 0.9, 0.99])
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif"])
def test_truncated_file(tmp_path, image, suffix, keep):
    paths = small_fovs.write_fov(tmp_path, "f", image, suffix=suffix)
    data = paths["green"].read_bytes()
    paths["green"].write_bytes(data[: int(len(data) * keep)])
    assert reason_of(paths) in ("truncated_image", "unreadable_image")


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_file_that_is_no_picture(tmp_path, image, suffix):
    paths = small_fovs.write_fov(tmp_path, "f", image, suffix=suffix)
    paths["green"].write_bytes(b"<html>404 not found</html>" * 9)
    assert reason_of(paths) in ("truncated_image", "unreadable_image")


def test_damaged_png_is_not_read_as_a_picture(paths):
    data = bytearray(paths["green"].read_bytes())
    data[len(data) // 2] ^= 0xFF
    paths["green"].write_bytes(bytes(data))
    assert reason_of(paths) == "unreadable_image"


@pytest.mark.parametrize("kind", [b"IHDR", b"IDAT"])
def test_damaged_chunk_of_a_png_is_named_with_its_place(paths, kind):
    data = bytearray(paths["green"].read_bytes())
    place = data.index(kind)
    # A bit of IHDR's checksum, or of the pixels.
    data[place + 20] ^= 1
    paths["green"].write_bytes(bytes(data))
    with pytest.raises(
        FovError, match=rf"f_green\.png: .*chunk b'{kind.decode()}' at byte {place - 4} is damaged"
    ) as caught:
        read_fov(ref(paths))
    assert caught.value.reason == "unreadable_image"


def test_png_that_lost_bytes_between_its_ends_is_refused(paths):
    data = paths["green"].read_bytes()
    paths["green"].write_bytes(data[: len(data) // 2] + data[-12:])
    assert reason_of(paths) == "unreadable_image"


def test_picture_of_another_size_than_its_header_says_is_refused(paths, monkeypatch):
    monkeypatch.setattr(cv2, "imdecode", lambda *_: np.zeros((41, 60), np.uint8))
    with pytest.raises(FovError, match="says 60 x 40 px, it holds 60 x 41") as caught:
        read_fov(ref(paths))
    assert caught.value.reason == "unreadable_image"


@pytest.mark.parametrize("path", ["a\0b.png", "data://x", "github://x/y", "foo://x", "dir://x"])
def test_a_path_that_nothing_can_open_is_an_error_of_its_fov(paths, path):
    assert reason_of({**paths, "green": path}) == "unreadable_file"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
@pytest.mark.parametrize("is_link", [False, True])
def test_pipe_in_the_place_of_a_file_is_not_waited_for(tmp_path, paths, is_link):
    os.mkfifo(tmp_path / "pipe")
    paths["green"].unlink()
    os.symlink(tmp_path / "pipe", paths["green"]) if is_link else os.rename(tmp_path / "pipe", paths["green"])
    assert reason_of(paths) == "unreadable_file"


def test_folder_in_the_place_of_a_file_is_refused_and_a_link_to_a_file_is_read(tmp_path, paths):
    paths["green"].rename(tmp_path / "elsewhere")
    paths["green"].symlink_to(tmp_path / "elsewhere")
    assert read_file(ref(paths), str(paths["green"])) == (tmp_path / "elsewhere").read_bytes()
    assert reason_of({**paths, "green": tmp_path}) == "unreadable_file"


def test_channels_of_different_size(paths):
    cv2.imwrite(str(paths["green"]), np.zeros((40, 61), np.uint8))
    assert reason_of(paths) == "size_mismatch"


def test_channels_of_different_depth(paths):
    cv2.imwrite(str(paths["green"]), np.zeros((40, 60), np.uint16))
    assert reason_of(paths) == "depth_mismatch"


def test_float_pixels_are_not_guessed_at(tmp_path, image):
    paths = small_fovs.write_fov(tmp_path, "f", image, suffix=".tif")
    tifffile.imwrite(paths["red"], image[..., 0].astype(np.float32))
    assert reason_of(paths) == "wrong_depth"


@pytest.mark.parametrize("dtype", [np.int16, np.uint32, np.float32, np.complex128])
def test_depth_of_a_tiff_is_looked_up_before_it_is_decoded(paths, image, dtype, monkeypatch):
    tifffile.imwrite(paths["red"], image[..., 0].astype(dtype), compression="zlib")
    monkeypatch.setattr("tifffile.TiffFile.asarray", lambda *_: pytest.fail("decoded"))
    with pytest.raises(FovError, match=f"holds {np.dtype(dtype)} pixels") as caught:
        read_fov(ref(paths))
    assert caught.value.reason == "wrong_depth"


@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_16_bit_tiff_of_either_byte_order_is_read(tmp_path, image, byteorder):
    deep = image.astype(np.uint16) * 257
    tifffile.imwrite(tmp_path / "f.tif", np.moveaxis(deep, 2, 0), photometric="minisblack", byteorder=byteorder)
    np.testing.assert_array_equal(read_fov(ref({"all": tmp_path / "f.tif"})).pixels, deep)


def test_tiff_of_thousands_of_pages_is_refused_after_a_few(paths, monkeypatch):
    tifffile.imwrite(paths["red"], np.zeros((2000, 4, 6), np.uint8), photometric="minisblack", metadata=None)
    monkeypatch.setattr("tifffile.TiffFile.series", property(lambda _: pytest.fail("looked at all pages")))
    with pytest.raises(FovError, match="over 100 pages") as caught:
        read_fov(ref(paths))
    assert caught.value.reason == "wrong_channel_count"


def test_tiff_of_three_channels(tmp_path, image):
    tifffile.imwrite(tmp_path / "f.tif", np.moveaxis(image[..., :3], 2, 0), photometric="minisblack")
    assert reason_of({"all": tmp_path / "f.tif"}) == "wrong_channel_count"


def test_two_files_of_one_channel(paths):
    fov = FovRef("f", (*((c, str(p)) for c, p in paths.items()), ("red", "other/f_red.jpg")), ())
    with pytest.raises(FovError, match="two files for channel red"):
        read_fov(fov)


def test_stack_beside_single_channels(tmp_path, paths, image):
    tifffile.imwrite(tmp_path / "f.tif", np.moveaxis(image, 2, 0), photometric="minisblack")
    assert reason_of({**paths, "all": tmp_path / "f.tif"}) == "duplicate_image"


@pytest.mark.parametrize("num_pages", [2, 3])
def test_several_pages_in_a_channels_file(tmp_path, paths, num_pages):
    path = tmp_path / "red.tif"
    tifffile.imwrite(path, np.zeros((num_pages, 40, 60), np.uint8), photometric="minisblack")
    assert reason_of({**paths, "red": path}) == "wrong_channel_count"


def test_named_channels_of_an_ome_tiff_are_taken_by_name(tmp_path, image):
    names = ["blue", "green", "red", "yellow"]
    stack = np.stack([image[..., ("red", "green", "blue", "yellow").index(name)] for name in names])
    path = tmp_path / "f.ome.tif"
    tifffile.imwrite(path, stack, photometric="minisblack", metadata={"axes": "CYX", "Channel": {"Name": names}})
    np.testing.assert_array_equal(read_fov(ref({"all": path})).pixels, image)


def test_partly_known_channel_names_are_not_guessed_at(tmp_path, image):
    path = tmp_path / "f.ome.tif"
    metadata = {"axes": "CYX", "Channel": {"Name": ["red", "green", "DAPI", "yellow"]}}
    tifffile.imwrite(path, np.moveaxis(image, 2, 0), photometric="minisblack", metadata=metadata)
    assert reason_of({"all": path}) == "wrong_channels"


@pytest.mark.parametrize(
    "text", ["<Channel " * 20_000, "<Channel " + ' Name="' * 20_001, "<Channel " + " " * 200_000, "<Channel" * 20_000]
)
def test_long_description_without_channel_names_takes_no_time(tmp_path, image, text):
    path = tmp_path / "f.ome.tif"
    tifffile.imwrite(
        path, np.moveaxis(image, 2, 0), photometric="minisblack", description=f"{text}</OME>", metadata=None
    )
    begin = time.monotonic()
    np.testing.assert_array_equal(read_fov(ref({"all": path})).pixels, image)
    assert time.monotonic() - begin < 2


def ome_text(inside, *, num_channels=4):
    size = f'SizeX="60" SizeY="40" SizeC="{num_channels}" SizeZ="1" SizeT="1"'
    return f'<OME><Image><Pixels DimensionOrder="XYCZT" {size}>{inside}</Pixels></Image></OME>'


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('<!DOCTYPE OME [<!ENTITY a "ha"><!ENTITY b "&a;&a;">]><OME>&b;</OME>', "unreadable_image"),
        (f"<OME>{' ' * (9 << 20)}</OME>", "unreadable_image"),
        (ome_text('<TiffData IFD="0" PlaneCount="1000000000"/>'), "wrong_channel_count"),
        (ome_text('<TiffData IFD="0" PlaneCount="&#57;00000000"/>'), "wrong_channel_count"),
        (ome_text('<TiffData FirstC="900000000"/>', num_channels=10**9), "wrong_channel_count"),
        ('<OME><ModuloAlongC Start="0" End="1e9"/></OME>', "wrong_channel_count"),
        (ome_text("").replace('SizeX="60"', 'SizeX="60000000000"'), "too_large"),
        (ome_text("").replace('SizeX="60"', 'SizeX="?"'), "unreadable_image"),
    ],
)
def test_description_that_would_fill_the_memory_is_refused_before_tifffile_goes_by_it(
    tmp_path, image, monkeypatch, text, reason
):
    path = tmp_path / "f.ome.tif"
    tifffile.imwrite(path, np.moveaxis(image, 2, 0), photometric="minisblack", description=text, metadata=None)
    monkeypatch.setattr("tifffile.TiffFile.series", property(lambda _: pytest.fail("tifffile went by it")))
    assert reason_of({"all": path}) == reason


def test_plane_in_another_file_is_not_taken_for_a_black_one(tmp_path, image):
    path = tmp_path / "f.ome.tif"
    text = ome_text(
        '<TiffData FirstC="3" PlaneCount="1"><UUID FileName="other.tif">urn:uuid:1</UUID></TiffData>'
        '<TiffData IFD="0" PlaneCount="3"/>'
    )
    tifffile.imwrite(path, np.moveaxis(image, 2, 0), photometric="minisblack", description=text, metadata=None)
    with pytest.raises(FovError, match="in other files") as caught:
        read_fov(ref({"all": path}))
    assert caught.value.reason == "missing_channel"


def test_altered_bytes_of_a_tiff_give_pixels_or_a_fov_error(tmp_path, image):
    paths = small_fovs.write_fov(tmp_path, "f", image, suffix=".tif")
    good = paths["red"].read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(150):
        data = bytearray(good)
        for position in rng.integers(0, len(data), 3):
            data[position] = rng.integers(0, 256)
        paths["red"].write_bytes(bytes(data))
        # Nothing but pixels or a FovError: any other exception would stop a job for one bad file.
        with contextlib.suppress(FovError):
            assert read_fov(ref(paths)).pixels.shape == (40, 60, 4)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif"])
def test_a_picture_over_the_limit_is_refused_by_its_header(tmp_path, image, suffix, monkeypatch):
    paths = small_fovs.write_fov(tmp_path, "f", image, suffix=suffix)
    assert read_fov(ref(paths), max_pixels=40 * 60).pixels.shape == (40, 60, 4)
    for decoder in ("cv2.imdecode", "tifffile.TiffFile.asarray"):
        monkeypatch.setattr(decoder, lambda *_: pytest.fail("decoded"))
    with pytest.raises(FovError, match=r"60 x 40 = 2,400 px, --max_fov_pixels=2399 allows 2,399") as caught:
        read_fov(ref(paths), max_pixels=40 * 60 - 1)
    assert caught.value.reason == "too_large"


def test_a_file_of_more_bytes_than_the_limit_needs_is_refused(paths, monkeypatch):
    monkeypatch.setattr("beam_jobs.fov_reader._METADATA_BYTES", 0)
    assert reason_of(paths, max_pixels=9) == "too_large"


def test_a_jpeg_that_is_called_png_is_read(tmp_path, paths, image):
    path = small_fovs.write_fov(tmp_path / "jpeg", "f", image, suffix=".jpg")["green"].rename(paths["green"])
    assert path.read_bytes()[:2] == b"\xff\xd8"
    assert read_fov(ref(paths)).pixels.shape == (40, 60, 4)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"photometric": "miniswhite"}, "MINISWHITE"),
        ({"photometric": "palette", "colormap": np.zeros((3, 256), np.uint16)}, "PALETTE"),
        ({"compression": "jpeg"}, "JPEG"),
    ],
)
def test_tiff_whose_numbers_are_no_brightness_is_refused(paths, image, options, words):
    tifffile.imwrite(paths["red"], image[..., 0], **options)
    with pytest.raises(FovError, match=words):
        read_fov(ref(paths))


def test_jpeg_of_thousands_of_scans_is_refused(tmp_path, image):
    paths = small_fovs.write_fov(tmp_path, "f", image, suffix=".jpg")
    data = paths["red"].read_bytes()
    scan = data.index(b"\xff\xda")
    paths["red"].write_bytes(data[:scan] + data[scan:-2] * 200 + data[-2:])
    assert reason_of(paths) == "unreadable_image"

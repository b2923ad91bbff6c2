"""Promises of the pictures: colours mean channels, outlines lie on cells, FOVs come together again from their cells."""

import cv2
import numpy as np
import pytest

import small_fovs
from beam_jobs import cell_pictures, cutting, picture
from beam_jobs.fov_reader import FovImage
from beam_jobs.picture import PictureConfig
from beam_jobs.segment import SegmentConfig
from beam_jobs.segmenters import Segmentation
from hpa_proto import pictures, schema, storage
from hpa_proto.errors import ConfigError, FovError


def cut(image, cell_mask, nucleus_mask, *, bit_depth=8):
    segmentation = Segmentation(cell_mask, nucleus_mask, np.ones(int(cell_mask.max()) + 1, np.int32))
    fov = FovImage(image, bit_depth)
    return list(cutting.cut_cells(fov, segmentation, fov_id="fov-0", labels=(0,), pixel_size_um=0.5))


@pytest.fixture(scope="module")
def fov():
    return small_fovs.draw_fov(height=120, width=200, num_cells=6)


@pytest.fixture(scope="module")
def cells(fov):
    return cut(*fov)


@pytest.mark.parametrize(
    ("channel", "brightest"), [("red", "red"), ("green", "green"), ("blue", "blue"), ("yellow", "red")]
)
def test_each_channel_has_its_colour(channel, brightest):
    image = np.zeros((20, 20, 4), np.uint8)
    image[5:15, 5:15, schema.CHANNELS.index(channel)] = np.arange(100, 200).reshape(10, 10)
    drawn = pictures.colour_picture(image, inside=np.ones((20, 20), bool))
    means = dict(zip(("red", "green", "blue"), drawn.reshape(-1, 3).mean(axis=0), strict=True))
    assert max(means, key=means.get) == brightest
    assert means[brightest] > 10


def test_bright_yellow_leaves_the_protein_visible():
    image = np.zeros((20, 20, 4), np.uint8)
    image[..., schema.CHANNELS.index("yellow")] = np.linspace(0, 255, 400).reshape(20, 20)
    image[8:12, 8:12, schema.CHANNELS.index("green")] = 255
    drawn = pictures.colour_picture(image, inside=np.ones((20, 20), bool)).astype(int)
    assert drawn[8:12, 8:12, 1].min() > 240
    assert drawn[..., 1][image[..., 1] == 0].max() < 80


def test_channels_are_taken_by_name():
    image = np.zeros((10, 10, 2), np.uint8)
    image[:5, :, 0] = 200
    image[5:, :, 1] = 200
    drawn = pictures.colour_picture(image, channels=("blue", "green"))
    assert drawn[0, 0].argmax() == 2
    assert drawn[9, 9].argmax() == 1


def test_noise_is_not_stretched_into_a_pattern():
    image = np.random.default_rng(0).integers(1, 4, (50, 50, 4)).astype(np.uint8)
    assert pictures.colour_picture(image).mean() < 20


def test_picture_without_signal_is_black():
    assert not pictures.colour_picture(np.zeros((8, 8, 4), np.uint8)).any()


def test_outlines_follow_the_mask_and_its_place():
    mask = np.zeros((30, 40), bool)
    mask[10:20, 5:25] = True
    (outline,) = pictures.find_outlines(mask, x_min=100, y_min=200)
    assert outline.min(axis=0).tolist() == [105, 210]
    assert outline.max(axis=0).tolist() == [124, 219]


def test_every_piece_of_a_mask_has_an_outline():
    mask = np.zeros((30, 40), np.uint8)
    mask[2:5, 2:5] = mask[20:25, 20:25] = 1
    assert len(pictures.find_outlines(mask)) == 2


def test_outline_is_drawn_where_the_mask_ends_at_any_scale():
    mask = np.zeros((80, 80), bool)
    mask[20:60, 20:60] = True
    for scale in (1.0, 0.5, 0.25):
        side = round(80 * scale)
        canvas = np.zeros((side, side, 3), np.uint8)
        pictures.draw_outlines(canvas, pictures.find_outlines(mask), scale=scale, colour=(255, 255, 255))
        drawn = np.argwhere(canvas.max(axis=2) > 60)
        assert drawn.min() == pytest.approx(20 * scale, abs=1)
        assert drawn.max() == pytest.approx(60 * scale - 1, abs=1)
        assert not canvas[side // 2, side // 2].any()


def test_fov_comes_together_from_its_cells(fov, cells):
    image, cell_mask, _ = fov
    drawn = cell_pictures.fov_from_cells(cells, dropped_ids=set(), max_side_px=200)
    assert drawn.shape == (120, 200, 3)
    inside = cv2.erode((cell_mask > 0).astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    green = image[..., schema.CHANNELS.index("green")]
    assert np.corrcoef(drawn[..., 1][inside], green[inside])[0, 1] > 0.9
    covered = np.zeros(cell_mask.shape, bool)
    for cell in cells:
        covered[cell.bbox.y_min : cell.bbox.y_max, cell.bbox.x_min : cell.bbox.x_max] = True
    outside = cv2.dilate(covered.astype(np.uint8), np.ones((5, 5), np.uint8)) == 0
    assert outside.any()
    assert not drawn[outside].any()


def test_dropped_cells_have_another_outline(cells):
    kept = cell_pictures.fov_from_cells(cells, dropped_ids=set(), max_side_px=200).astype(int)
    dropped = cell_pictures.fov_from_cells(cells, dropped_ids={cells[2].cell_id}, max_side_px=200).astype(int)
    changed = (kept != dropped).any(axis=2)
    box = cells[2].bbox
    ys, xs = np.nonzero(changed)
    # The line is soft: half a pixel beyond the box may be touched.
    assert box.y_min - 1 <= ys.min()
    assert ys.max() <= box.y_max
    assert box.x_min - 1 <= xs.min()
    assert xs.max() <= box.x_max
    assert changed.sum() > 50
    blue = 2
    assert (kept[changed][:, blue] > dropped[changed][:, blue]).all()


def test_large_fov_is_drawn_small_and_small_one_is_not_enlarged(cells):
    assert cell_pictures.fov_from_cells(cells, dropped_ids=set(), max_side_px=50).shape == (30, 50, 3)
    assert cell_pictures.fov_from_cells(cells, dropped_ids=set(), max_side_px=999).shape == (120, 200, 3)


def test_16_bit_fov_looks_like_its_8_bit_twin(fov):
    image, cell_mask, nucleus_mask = fov
    twin = image.astype(np.uint16) * 16
    eight, twelve = (
        cell_pictures.fov_from_cells(
            cut(each, cell_mask, nucleus_mask, bit_depth=bits), dropped_ids=set(), max_side_px=200
        )
        for each, bits in ((image, 8), (twin, 12))
    )
    assert np.abs(eight.astype(int) - twelve).mean() < 2


def test_cell_picture_masks_and_outlines(cells):
    masked = cell_pictures.cell_picture(cells[0], size_px=64, mask_background=True)
    outlined = cell_pictures.cell_picture(cells[0], size_px=64, mask_background=True, outline=(255, 0, 255))
    assert masked.shape == (64, 64, 3)
    # The cell is a disc: its box's corners are outside, its middle is inside.
    assert not masked[0, 0].any()
    assert masked[32, 32].any()
    changed = np.argwhere((masked != outlined).any(axis=2))
    radius = np.hypot(*(changed - 31.5).T)
    assert radius.min() > 28
    assert radius.max() < 36


def test_contact_sheet_has_room_for_all():
    tiles = [np.full((20, 30, 3), value, np.uint8) for value in (10, 20, 30, 40, 50)]
    sheet = pictures.contact_sheet(tiles, [("one", "two")] * 5, num_columns=2)
    for tile in tiles:
        assert (sheet == tile[0, 0]).all(axis=2).sum() >= 600
    assert tuple(sheet[0, 0]) == (255, 255, 255)


def test_long_caption_stays_below_its_picture():
    tiles = [np.zeros((20, 60, 3), np.uint8)] * 2
    sheet = pictures.contact_sheet(tiles, [("a very long caption indeed",), ("",)], num_columns=2)
    below_second = sheet[30:, 72 + 6 :]
    assert (below_second == 255).all()
    assert (sheet[27:, :66] < 200).any()


@pytest.mark.parametrize("palette", [False, True])
def test_png_keeps_size_and_colours(palette):
    drawn = np.zeros((10, 20, 3), np.uint8)
    drawn[:5] = (200, 10, 30)
    data = pictures.encode_png(drawn, palette=palette)
    assert data == pictures.encode_png(drawn, palette=palette)
    read = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert np.array_equal(read, drawn)


@pytest.mark.parametrize("name", ["a.bmp", "a", "png"])
def test_picture_of_unknown_format_is_refused(tmp_path, name):
    with pytest.raises(ConfigError, match="--out="):
        cell_pictures.write_picture(str(tmp_path / name), np.zeros((4, 4, 3), np.uint8))


@pytest.fixture(scope="module")
def fov_set(tmp_path_factory):
    return small_fovs.write_set(tmp_path_factory.mktemp("set"), num_fovs=2, num_cells=5)


def make_config(fov_set, path, **changes):
    segment = SegmentConfig(
        images=f"{fov_set}/images", cells_dir="none", segmenter="masks", masks_dir=f"{fov_set}/masks", pixel_size_um=0.5
    )
    return PictureConfig(**{"segment": segment, "fov_id": "fov-1", "picture_path": str(path), **changes})


@pytest.mark.parametrize("name", ["fov.png", "fov.jpg"])
def test_picture_of_a_fov_is_wide(fov_set, tmp_path, name):
    path = tmp_path / "docs" / name
    assert picture.run(make_config(fov_set, path)) == 5
    read = cv2.imdecode(np.frombuffer(storage.read_bytes(str(path)), np.uint8), cv2.IMREAD_COLOR)
    assert read.shape[1] == pytest.approx(1600, abs=20)
    first, second = read[6:400, 6:534].astype(int), read[6:400, 540:1068].astype(int)
    # The same FOV twice, the second time with outlines.
    assert 0.005 < (np.abs(first - second).max(axis=2) > 100).mean() < 0.2


def test_picture_of_a_fov_that_is_not_there_is_refused(fov_set, tmp_path):
    with pytest.raises(ConfigError, match=r"--fov=nothing: no such FOV .* as fov-0"):
        picture.run(make_config(fov_set, tmp_path / "a.png", fov_id="nothing"))


def test_picture_of_a_broken_fov_is_an_error(fov_set, tmp_path):
    broken = small_fovs.write_set(tmp_path / "set", num_fovs=2)
    (broken / "images" / "fov-1_blue.png").unlink()
    with pytest.raises(FovError, match="blue"):
        picture.run(make_config(broken, tmp_path / "a.png"))

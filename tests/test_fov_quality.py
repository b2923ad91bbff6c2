"""Promises of the quality measures: what is wrong is named, what is right is left alone, at any size and brightness."""

import functools
import json
import pathlib

import cv2
import numpy as np
import pandas as pd
import pytest

import small_dataset
import small_fovs
from beam_jobs import fov_overview, fov_quality, segment
from beam_jobs.cell_store import CellStore
from beam_jobs.segment import SegmentConfig
from beam_jobs.simulation import fov as simulated_fov
from hpa_proto import schema
from hpa_proto.errors import ConfigError, DatasetError

SHARED = pathlib.Path(__file__).parents[2] / "shared" / "hpa" / "fovs"
REAL = ("000a6c98-bb9b", "a7faf0b4-bb99", "f0ac7116-bb99")
SPINDLE, NEGATIVE = 11, 18


@functools.cache
def real(name):
    paths = [SHARED / f"{name}-11e8-b2b9-ac1f6b6435d0_{channel}.png" for channel in schema.CHANNELS]
    if not paths[0].exists():
        pytest.skip(f"shared data not there: {paths[0]}")
    return np.dstack([cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for path in paths])


@functools.cache
def simulated(crowding=0.5, *, label=16, seed=0):
    """A field of 164 um, at a quarter of HPA's resolution: (pixels, cell mask)."""
    fov = simulated_fov.simulate_fov(
        (label,), seed=(4711, seed), height_px=512, width_px=512, pixel_size_um=0.32, crowding=crowding
    )
    return fov.image, fov.cell_mask


def reasons_of(pixels, *, pixel_size_um):
    quality = fov_quality.measure_fov(pixels, None, pixel_size_um=pixel_size_um)
    return fov_quality.find_reasons(quality, None)


def with_plane(pixels, channel, plane):
    changed = pixels.copy()
    changed[..., schema.CHANNELS.index(channel)] = plane
    return changed


def plane_of(pixels, channel, *, like):
    """A channel, repeated or cut to the size of another FOV."""
    plane = pixels[..., schema.CHANNELS.index(channel)]
    height, width = like.shape[:2]
    return np.tile(plane, (-(-height // plane.shape[0]), -(-width // plane.shape[1])))[:height, :width]


@pytest.mark.parametrize("name", REAL)
@pytest.mark.parametrize("factor", [1, 2, 4])
def test_real_fovs_look_right_at_any_size(name, factor):
    pixels = real(name)
    size = (pixels.shape[1] // factor, pixels.shape[0] // factor)
    smaller = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    assert reasons_of(smaller, pixel_size_um=0.08 * factor) == []


@pytest.mark.parametrize(
    ("crowding", "label"), [(0.0, 0), (0.3, 9), (0.6, 17), (1.0, 2), (0.5, SPINDLE), (0.5, NEGATIVE)]
)
def test_simulated_fovs_look_right(crowding, label):
    assert reasons_of(simulated(crowding, label=label)[0], pixel_size_um=0.32) == []


@pytest.mark.parametrize("channel", schema.CHANNELS)
def test_a_channel_of_another_field_is_named(channel):
    pixels, _ = simulated()
    other, _ = simulated(0.7, seed=1)
    changed = with_plane(pixels, channel, plane_of(other, channel, like=pixels))
    assert f"foreign_{channel}" in reasons_of(changed, pixel_size_um=0.32)


@pytest.mark.parametrize("channel", schema.CHANNELS)
def test_a_real_channel_of_another_field_is_named(channel):
    pixels = real(REAL[0])
    changed = with_plane(pixels, channel, plane_of(real(REAL[2]), channel, like=pixels))
    assert f"foreign_{channel}" in reasons_of(changed, pixel_size_um=0.08)


def test_a_channel_upside_down_is_named():
    pixels, _ = simulated()
    red = pixels[::-1, :, schema.CHANNELS.index("red")]
    assert "foreign_red" in reasons_of(with_plane(pixels, "red", red), pixel_size_um=0.32)


@pytest.mark.parametrize("channel", schema.CHANNELS)
@pytest.mark.parametrize("spread", [0, 1.5])
def test_an_empty_channel_is_named(channel, spread):
    pixels, _ = simulated()
    noise = np.random.default_rng(0).normal(6, spread, pixels.shape[:2]).round()
    assert reasons_of(with_plane(pixels, channel, noise), pixel_size_um=0.32) == [f"empty_{channel}"]


@pytest.mark.parametrize("channel", schema.CHANNELS)
def test_a_dim_channel_is_not_empty(channel):
    pixels, _ = simulated()
    dim = pixels[..., schema.CHANNELS.index(channel)] * 0.1
    dim = (dim + np.random.default_rng(0).normal(2, 0.6, dim.shape)).round().clip(0)
    assert reasons_of(with_plane(pixels, channel, dim), pixel_size_um=0.32) == []


@pytest.mark.parametrize("sigma_um", [0.8, 1.5, 3.0])
def test_a_blurred_fov_is_out_of_focus(sigma_um):
    for pixels, pixel_size_um in ((real(REAL[2]), 0.08), (simulated()[0], 0.32)):
        blurred = cv2.GaussianBlur(pixels, (0, 0), sigma_um / pixel_size_um)
        assert "out_of_focus" in reasons_of(blurred, pixel_size_um=pixel_size_um)


def test_brightness_and_bit_depth_do_not_change_the_measures():
    pixels, cell_mask = simulated()
    measured, brighter = (
        fov_quality.measure_fov(image, cell_mask, pixel_size_um=0.32)
        for image in (pixels, pixels.astype(np.uint16) * 16)
    )
    assert brighter == pytest.approx(measured, rel=0.02)


def test_red_and_yellow_correlate_in_cells_of_one_field_only():
    pixels, cell_mask = simulated()
    other, _ = simulated(0.7, seed=1)
    changed = with_plane(pixels, "red", plane_of(other, "red", like=pixels))
    right, wrong = (
        fov_quality.measure_fov(image, cell_mask, pixel_size_um=0.32)["red_yellow_correlation"]
        for image in (pixels, changed)
    )
    assert right > 0.25
    assert abs(wrong) < 0.15


def test_correlation_is_the_median_over_cells():
    cell_mask = np.zeros((256, 384), np.int32)
    pixels = np.zeros((256, 384, 4), np.uint8)
    ramp = np.arange(128, dtype=np.uint8)[None, :] + np.zeros((256, 1), np.uint8)
    for index, yellow in enumerate((ramp, ramp, 127 - ramp)):
        columns = slice(128 * index, 128 * (index + 1))
        cell_mask[:, columns] = index + 1
        pixels[:, columns, 0], pixels[:, columns, 3] = ramp, yellow
    measured = fov_quality.measure_fov(pixels, cell_mask, pixel_size_um=0.32)
    assert measured["red_yellow_correlation"] == pytest.approx(1, abs=0.01)
    flipped = fov_quality.measure_fov(pixels, np.where(cell_mask == 2, 0, cell_mask), pixel_size_um=0.32)
    assert flipped["red_yellow_correlation"] == pytest.approx(0, abs=0.01)


def test_small_fields_are_not_judged_by_chance_matches():
    rng = np.random.default_rng(0)
    pixels = cv2.GaussianBlur(rng.integers(0, 256, (200, 200, 4)).astype(np.uint8), (0, 0), 1.5)
    quality = fov_quality.measure_fov(pixels, None, pixel_size_um=0.32)
    assert all(np.isnan(quality[f"{channel}_match"]) for channel in schema.CHANNELS)
    assert fov_quality.find_reasons(quality, None) == []


@pytest.mark.parametrize("shape", [(1, 1), (3, 40), (33, 57)])
def test_a_fov_of_any_size_is_measured(shape):
    pixels = np.random.default_rng(0).integers(0, 255, (*shape, 4)).astype(np.uint8)
    quality = fov_quality.measure_fov(pixels, np.ones(shape, np.int32), pixel_size_um=0.08)
    assert set(quality) == set(fov_quality.QUALITY_TYPES)
    picture = fov_overview.decode_overview(fov_overview.encode_overview(pixels, bit_depth=8))
    assert fov_overview.draw_overview(picture, (), fov_width_px=shape[1]).dtype == np.uint8


def test_every_reason_has_words():
    reasons = [
        "no_nuclei",
        "out_of_focus",
        *(f"{kind}_{name}" for kind in ("empty", "foreign") for name in schema.CHANNELS),
    ]
    assert len({fov_quality.describe_reason(reason) for reason in reasons}) == len(reasons)


def make_cells(**changes):
    """Ten whole cells of about the same size; changes: column -> {row: value}."""
    areas = np.array([400, 420, 380, 410, 390, 430, 405, 395, 415, 385], float)
    cells = pd.DataFrame(
        {
            "fov_id": "fov",
            "area_um2": areas,
            "nucleus_area_um2": areas / 4,
            "num_nuclei": 1,
            "solidity": 0.9 + 0.002 * np.arange(10),
            "touches_border": False,
        }
    )
    for column, values in changes.items():
        for row, value in values.items():
            cells.loc[row, column] = value
    return cells


@pytest.mark.parametrize(
    "changes",
    [
        {"area_um2": {3: 820.0}, "nucleus_area_um2": {3: 210.0}},
        {"area_um2": {3: 820.0}, "num_nuclei": {3: 2}},
        {"area_um2": {3: 600.0}, "solidity": {3: 0.7}},
        {"area_um2": {3: 820.0}, "nucleus_area_um2": {3: 210.0}, "touches_border": {3: True}},
    ],
)
def test_a_cell_like_two_is_a_likely_merge(changes):
    flags = fov_quality.flag_cells(make_cells(**changes))
    assert list(flags.index[flags["likely_merge"]]) == [3]
    assert not flags["likely_split"].any()


@pytest.mark.parametrize(
    "changes",
    [
        {"area_um2": {3: 150.0}, "nucleus_area_um2": {3: 50.0}},
        {"area_um2": {3: 250.0}, "nucleus_area_um2": {3: 0.0}, "num_nuclei": {3: 0}},
    ],
)
def test_a_piece_of_a_cell_is_a_likely_split_unless_the_border_cuts_it(changes):
    flags = fov_quality.flag_cells(make_cells(**changes))
    assert list(flags.index[flags["likely_split"]]) == [3]
    assert not flags["likely_merge"].any()
    at_border = fov_quality.flag_cells(make_cells(**changes, touches_border={3: True}))
    assert not at_border.to_numpy().any()


def test_what_is_usual_is_asked_of_the_own_fov():
    small, large = make_cells(), make_cells().assign(fov_id="other")
    large[["area_um2", "nucleus_area_um2"]] *= 4
    mixed = pd.concat((small, large)).sample(frac=1, random_state=0)
    mixed.index = np.arange(len(mixed)) + 100
    flags = fov_quality.flag_cells(mixed)
    assert list(flags.index) == list(mixed.index)
    assert not flags.to_numpy().any()


def test_few_cells_say_nothing_about_what_is_usual():
    cells = make_cells(area_um2={0: 4000.0}, nucleus_area_um2={0: 900.0})
    assert fov_quality.flag_cells(cells)["likely_merge"].sum() == 1
    assert not fov_quality.flag_cells(cells.head(4)).to_numpy().any()
    assert not fov_quality.flag_cells(cells.assign(touches_border=True)).to_numpy().any()
    assert list(fov_quality.flag_cells(cells.head(0)).columns) == list(fov_quality.FLAG_TYPES)


def test_cells_twice_and_half_as_large_are_found_among_those_of_simulated_fovs():
    rng = np.random.default_rng(0)
    found = {"likely_merge": [], "likely_split": [], "neither": []}
    for seed in range(3):
        _, cell_mask = simulated(0.8, seed=seed)
        areas = np.bincount(cell_mask.ravel())[1:] * 0.32**2
        at_border = np.unique(np.concatenate((cell_mask[0], cell_mask[-1], cell_mask[:, 0], cell_mask[:, -1])))
        cells = pd.DataFrame({"fov_id": "fov", "area_um2": areas, "nucleus_area_um2": areas / 3, "num_nuclei": 1})
        cells["solidity"], cells["touches_border"] = 0.9, np.isin(cells.index + 1, at_border)
        merged, split = rng.permutation(cells.index[~cells["touches_border"]])[:8].reshape(2, 4)
        cells.loc[merged, ["area_um2", "nucleus_area_um2", "num_nuclei"]] *= 2
        cells.loc[split, "area_um2"] /= 2
        cells.loc[split, ["nucleus_area_um2", "num_nuclei"]] = 0
        flags = fov_quality.flag_cells(cells)
        found["likely_merge"] += flags.loc[merged, "likely_merge"].tolist()
        found["likely_split"] += flags.loc[split, "likely_split"].tolist()
        found["neither"] += (~flags.drop(index=[*merged, *split]).any(axis=1)).tolist()
    assert np.mean(found["likely_merge"]) >= 0.75
    assert np.mean(found["likely_split"]) == 1
    assert np.mean(found["neither"]) > 0.95


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Four FOVs: as they should be, without nuclei in the blue channel, without a mask, cut short."""
    folder = small_fovs.write_set(tmp_path_factory.mktemp("store"), num_cells=9)
    blue = folder / "images" / "fov-1_blue.png"
    cv2.imwrite(str(blue), np.zeros_like(cv2.imread(str(blue), cv2.IMREAD_UNCHANGED)))
    (folder / "masks" / "fov-2_cell.png").unlink()
    green = folder / "images" / "fov-3_green.png"
    green.write_bytes(green.read_bytes()[:-20])
    result = segment.run(
        SegmentConfig(
            images=f"{folder}/images",
            labels=f"{folder}/labels.csv",
            cells_dir=f"{folder}/cells",
            segmenter="masks",
            masks_dir=f"{folder}/masks",
            pixel_size_um=0.5,
            max_dead_fraction=1,
        )
    )
    return result.store, *result.store.read_tables()


def test_tables_hold_the_quality(store):
    _, cells, fovs = store
    assert fovs["looks_wrong"].tolist() == ["", "empty_blue", "", ""]
    assert fovs["focus"].notna().tolist() == [True, True, True, False]
    assert fovs["red_yellow_correlation"].notna().tolist() == [True, True, False, False]
    assert (fovs["blue_structure"] < 0.05).tolist() == [False, True, False, False]
    for name, dtype in fov_quality.FLAG_TYPES.items():
        assert cells[name].dtype == dtype


def test_pictures_are_kept_of_fovs_that_look_wrong_only(store):
    cell_store, _, _ = store
    overviews = [cell_store.read_overview(f"fov-{number}") for number in range(4)]
    assert [overview is not None for overview in overviews] == [False, True, True, False]
    pixels = fov_overview.decode_overview(overviews[1])
    assert pixels.shape == (96, 128, 4)
    assert pixels[..., schema.CHANNELS.index("blue")].max() < 12 < pixels[..., 0].max()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no picture",
        cv2.imencode(".jpg", np.zeros((7, 9), np.uint8))[1],
        cv2.imencode(".jpg", np.zeros((8, 9, 3)))[1],
    ],
)
def test_a_damaged_picture_of_a_fov_is_named(tmp_path, data):
    made = CellStore.create(str(tmp_path), {})
    made.write_overview("fov", bytes(data))
    with pytest.raises(DatasetError, match=r"fov\.jpg: damaged: .*; delete it: reports go without"):
        made.read_overview("fov")


def test_a_mended_fov_loses_its_picture(tmp_path):
    folder = small_fovs.write_set(tmp_path, num_fovs=2)
    image, _, _ = small_fovs.draw_fov()
    wrong = with_plane(image, "red", 0)
    config = SegmentConfig(
        images=f"{folder}/images",
        cells_dir=f"{folder}/cells",
        segmenter="masks",
        masks_dir=f"{folder}/masks",
        pixel_size_um=0.5,
    )
    small_fovs.write_fov(folder / "images", "fov-0", wrong)
    assert segment.run(config).store.read_overview("fov-0") is not None
    small_fovs.write_fov(folder / "images", "fov-0", image)
    result = segment.run(config)
    assert result.num_segmented == 1
    assert result.store.read_overview("fov-0") is None
    assert list(result.fovs["looks_wrong"]) == ["", ""]


def test_a_store_of_an_older_format_is_refused_with_both_versions(tmp_path):
    made = small_dataset.make(tmp_path, num_fovs=2)
    path = made.cells_dir / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format_version": 1}))
    with pytest.raises(ConfigError, match=r"format 1, this program reads 4.*--cells_dir=<another folder>"):
        CellStore.open(str(made.cells_dir))

"""Promises of the comparison of two segmentations: counts by hand, properties, pictures, the command."""

import subprocess
import sys

import cv2
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import small_fovs
from beam_jobs import compare_masks, mask_comparison, mask_metrics, mask_source, segment
from beam_jobs.compare_masks import CompareConfig
from beam_jobs.segment import SegmentConfig
from hpa_proto.errors import ConfigError

label_map_pairs = st.tuples(st.integers(1, 9), st.integers(1, 9)).flatmap(
    lambda shape: st.tuples(*[hnp.arrays(np.int32, shape, elements=st.integers(0, 4)) for _ in range(2)])
)
# Cells 1 and 2 merged to 10; 3 split into 20 and 21; 4 agrees; 5 is missed; 30 is extra.
A = np.array([[1, 1, 1, 2, 2, 0, 3, 3, 3, 3, 0, 4, 4, 0, 5, 0, 0]])
B = np.array([[10, 10, 10, 10, 10, 0, 20, 20, 21, 21, 0, 40, 40, 0, 0, 0, 30]])


def test_what_disagrees_is_named():
    agreement, disagreement = mask_comparison.compare(A, B, iou_threshold=0.7)
    assert disagreement == mask_comparison.Disagreement(
        agreed=frozenset({40}),
        only_a=frozenset({1, 2, 3, 5}),
        only_b=frozenset({10, 20, 21, 30}),
        merging=frozenset({10}),
        split=frozenset({3}),
        missed=frozenset({5}),
        extra=frozenset({30}),
    )
    row = agreement.to_row()
    counts = {"num_a": 5, "num_b": 5, "num_merges": 1, "num_splits": 1, "num_missed": 1, "num_extra": 1}
    assert {name: row[name] for name in counts} == counts
    # 10 and 1 have an IoU of 3/5, 20 and 21 one of exactly 1/2 with 3, which is no match.
    assert row["f1_0.50"] == row["f1_0.60"] == pytest.approx(4 / 10)
    assert row["f1_0.65"] == row["f1_0.95"] == pytest.approx(2 / 10)
    assert row["matched_iou_0.60"] == pytest.approx((1 + 3 / 5) / 2)
    assert row["mean_f1"] == pytest.approx((3 * 0.4 + 7 * 0.2) / 10)
    assert row["mean_iou"] == pytest.approx((3 / 5 + 2 / 5 + 1 / 2 + 1 + 0) / 5)


@given(label_map_pairs)
def test_scores_are_those_of_the_metric_and_turn_round_with_the_maps(maps):
    a, b = maps
    agreement, there = mask_comparison.compare(a, b, iou_threshold=0.6)
    back, other = mask_comparison.compare(b, a, iou_threshold=0.6)
    for threshold, score in zip(mask_comparison.THRESHOLDS, agreement.f1(), strict=True):
        assert score == pytest.approx(mask_metrics.f1_at_iou(a, b, iou_threshold=threshold))
    assert (there.merging, there.split, there.only_a) == (other.split, other.merging, other.only_b)
    assert (there.missed, there.extra) == (other.extra, other.missed)
    assert (agreement.f1() == back.f1()).all()


@given(label_map_pairs)
def test_every_object_is_accounted_for(maps):
    a, b = maps
    agreement, disagreement = mask_comparison.compare(a, b, iou_threshold=0.5)
    assert len(disagreement.agreed) + len(disagreement.only_a) == agreement.num_a
    assert len(disagreement.agreed) + len(disagreement.only_b) == agreement.num_b
    assert disagreement.missed <= disagreement.only_a
    assert disagreement.extra <= disagreement.only_b


def test_pooled_fovs_count_as_one():
    agreements = [
        mask_comparison.compare(A, B, iou_threshold=0.6)[0],
        mask_comparison.compare(A, A, iou_threshold=0.6)[0],
    ]
    joined = mask_comparison.compare(
        np.hstack((A, A + (A > 0) * 100)), np.hstack((B, A + (A > 0) * 100)), iou_threshold=0.6
    )[0]
    assert mask_comparison.pool(agreements).to_row() == pytest.approx(joined.to_row())


def test_two_empty_maps_agree():
    empty = np.zeros((3, 4), np.int32)
    row = mask_comparison.compare(empty, empty, iou_threshold=0.6)[0].to_row()
    assert (row["mean_f1"], row["mean_iou"]) == (1, 1)
    assert mask_comparison.compare(empty, A[:, :4].repeat(3, axis=0), iou_threshold=0.6)[0].to_row()["mean_iou"] == 0


def draw(**options):
    a, b = (np.kron(mask, np.ones((40, 20), int)).astype(np.int32) for mask in (A, B))
    _, disagreement = mask_comparison.compare(a, b, iou_threshold=0.7)
    return mask_comparison.draw(a, b, disagreement, max_side_px=340, **options)


@pytest.mark.parametrize(
    ("column", "colour"),
    [
        (3, mask_comparison.MERGED_COLOUR),
        (9, mask_comparison.SPLIT_COLOUR),
        (11, mask_comparison.AGREED_COLOUR),
        (14, mask_comparison.ONLY_A_COLOUR),
        (16, mask_comparison.ONLY_B_COLOUR),
    ],
)
def test_each_kind_of_disagreement_has_its_colour(column, colour):
    # The upper edge of the object, where its outline runs; a thick one shows on both sides of a thin one.
    assert colour in {tuple(pixel) for pixel in draw(pixels=None)[:4, 20 * column + 10].tolist()}


def test_the_fov_lies_below_the_outlines():
    pixels = np.random.default_rng(0).integers(0, 255, (40, 340, 4)).astype(np.uint8)
    picture, plain = draw(pixels=pixels), draw(pixels=None)
    assert (picture[plain == 0] > 0).mean() > 0.5
    assert tuple(picture[0, 20 * 14 + 10]) == mask_comparison.ONLY_A_COLOUR


@pytest.fixture
def folder(tmp_path):
    """Four FOVs with masks, and in other/ the same masks but for one cell that is missing in fov-1."""
    folder = small_fovs.write_set(tmp_path)
    (folder / "other").mkdir()
    for path in (folder / "masks").iterdir():
        mask = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        mask[mask == (2 if path.name == "fov-1_cell.png" else -1)] = 0
        cv2.imwrite(str(folder / "other" / path.name), mask)
    return folder


def test_table_and_pictures_are_written(folder):
    config = CompareConfig(a=f"{folder}/masks", b=f"{folder}/other", images=f"{folder}/images", out_dir=f"{folder}/out")
    result = compare_masks.run(config)
    table = pd.read_csv(folder / "out" / compare_masks.TABLE_NAME, index_col="fov_id")
    assert list(table.index) == ["fov-0", "fov-1", "fov-2", "fov-3", compare_masks.POOLED, compare_masks.MEAN]
    assert table["num_missed"].tolist() == [0, 1, 0, 0, 1, 0.25]
    assert table.loc["fov-1", "f1_0.60"] == pytest.approx(6 / 7, rel=1e-5)
    assert table.loc[compare_masks.POOLED, "f1_0.60"] == pytest.approx(30 / 31, rel=1e-5)
    assert table.loc[compare_masks.MEAN, "f1_0.60"] == pytest.approx((3 + 6 / 7) / 4, rel=1e-5)
    for number in range(4):
        assert cv2.imread(str(folder / "out" / f"fov-{number}.jpg")).shape[0] > 96
    text = compare_masks.describe(result, config)
    assert all(name in text for name in ("fov-3", "F1@0.6", "missed", compare_masks.POOLED))


def test_a_cell_store_is_as_good_as_the_masks_it_was_made_of(folder):
    segment.run(
        SegmentConfig(
            images=f"{folder}/images", cells_dir=f"{folder}/cells", segmenter="masks", masks_dir=f"{folder}/masks"
        )
    )
    for kind in mask_source.KINDS:
        table = compare_masks.run(CompareConfig(a=f"{folder}/masks", b=f"{folder}/cells", kind=kind)).table
        assert (table["mean_f1"] == 1).all()
        assert table.loc["fov-0", "num_b"] == 4


def test_fovs_of_one_side_only_are_named(folder):
    (folder / "other" / "fov-2_cell.png").unlink()
    config = CompareConfig(a=f"{folder}/masks", b=f"{folder}/other")
    result = compare_masks.run(config)
    assert result.only_in_a == ("fov-2",)
    assert "only in a, not compared: fov-2" in compare_masks.describe(result, config)


def test_nothing_in_common_is_an_error(folder):
    for path in (folder / "other").iterdir():
        path.rename(path.with_name(f"x{path.name}"))
    with pytest.raises(ConfigError, match=r"no FOV has cells in both: .*masks has fov-0, fov-1.* has xfov-0"):
        compare_masks.run(CompareConfig(a=f"{folder}/masks", b=f"{folder}/other"))


def test_a_folder_that_is_not_there_or_empty_is_an_error(folder):
    with pytest.raises(ConfigError, match="nowhere: no such folder"):
        compare_masks.run(CompareConfig(a=f"{folder}/masks", b=f"{folder}/nowhere"))
    with pytest.raises(ConfigError, match=r"images holds no masks of cells \(looked for <id>_cell.png"):
        compare_masks.run(CompareConfig(a=f"{folder}/images", b=f"{folder}/masks"))


def test_masks_of_different_size_are_an_error_with_both_sizes(folder):
    cv2.imwrite(str(folder / "other" / "fov-1_cell.png"), np.ones((96, 64), np.uint8))
    with pytest.raises(ConfigError, match=r"fov fov-1: its mask is 96 x 128 px in .*masks and 96 x 64 px in .*other"):
        compare_masks.run(CompareConfig(a=f"{folder}/masks", b=f"{folder}/other"))


def test_a_damaged_mask_is_an_error_with_its_name(folder):
    (folder / "other" / "fov-1_cell.png").write_bytes(b"no picture")
    with pytest.raises(ConfigError, match=r"fov-1_cell\.png"):
        compare_masks.run(CompareConfig(a=f"{folder}/masks", b=f"{folder}/other"))


@pytest.mark.parametrize("options", [{"kind": "cell"}, {"iou_threshold": 0.4}, {"images": "images"}])
def test_options_that_cannot_work_are_errors(options):
    with pytest.raises(ConfigError):
        CompareConfig(a="a", b="b", **options)


def test_command_prints_the_table_and_one_line_for_an_error(folder):
    # Means that are no whole numbers, beside counts.
    (folder / "other" / "fov-0_nuclei.png").write_bytes((folder / "other" / "fov-1_nuclei.png").read_bytes())

    def call(*flags):
        command = [sys.executable, "-m", "beam_jobs.compare_masks", f"--a={folder}/masks", *flags]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)

    done = call(f"--b={folder}/other", "--which=nuclei")
    assert done.returncode == 0, done.stderr
    assert "(all objects)" in done.stdout
    assert done.stderr == ""
    failed = call(f"--b={folder}/nowhere")
    assert failed.returncode == 1
    assert failed.stderr == f"error: {folder}/nowhere: no such folder; give one of masks, or a cell store\n"

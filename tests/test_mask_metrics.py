import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from beam_jobs import mask_metrics

label_maps = hnp.arrays(np.int32, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.integers(0, 5))
label_map_pairs = st.tuples(st.integers(1, 9), st.integers(1, 9)).flatmap(
    lambda shape: st.tuples(*[hnp.arrays(np.int32, shape, elements=st.integers(0, 4)) for _ in range(2)])
)


def brute_force_iou(reference, predicted, reference_id, predicted_id):
    a, b = reference == reference_id, predicted == predicted_id
    return (a & b).sum() / (a | b).sum()


@given(label_maps)
def test_a_map_agrees_with_itself(mask):
    for threshold in (0.5, 0.75, 1.0):
        assert mask_metrics.f1_at_iou(mask, mask, iou_threshold=threshold) == 1.0
    assert mask_metrics.match_masks(mask, mask).mean_iou() == 1.0


@given(label_maps, st.permutations(range(1, 6)))
def test_names_of_the_ids_do_not_matter(mask, names):
    renamed = np.array([0, *names])[mask] * 1000
    assert mask_metrics.f1_at_iou(mask, renamed, iou_threshold=1.0) == 1.0


@given(label_map_pairs)
def test_every_overlapping_pair_is_found_with_its_iou(maps):
    reference, predicted = maps
    matches = mask_metrics.match_masks(reference, predicted)
    found = dict(
        zip(
            zip(matches.pair_reference_ids.tolist(), matches.pair_predicted_ids.tolist(), strict=True),
            matches.pair_ious.tolist(),
            strict=True,
        )
    )
    expected = {
        (r, p): brute_force_iou(reference, predicted, r, p)
        for r in np.unique(reference[reference > 0]).tolist()
        for p in np.unique(predicted[predicted > 0]).tolist()
        if ((reference == r) & (predicted == p)).any()
    }
    assert found == pytest.approx(expected)


@given(label_map_pairs, st.sampled_from([0.5, 0.6, 0.9]))
def test_f1_is_symmetric_and_falls_with_the_threshold(maps, threshold):
    reference, predicted = maps
    score = mask_metrics.f1_at_iou(reference, predicted, iou_threshold=threshold)
    assert 0.0 <= score <= 1.0
    assert score == mask_metrics.f1_at_iou(predicted, reference, iou_threshold=threshold)
    assert score >= mask_metrics.f1_at_iou(reference, predicted, iou_threshold=1.0)


@given(label_map_pairs)
def test_no_object_is_matched_twice(maps):
    matches = mask_metrics.match_masks(*maps)
    num_matched = matches.num_matched(iou_threshold=0.5)
    assert num_matched <= min(len(matches.reference_ids), len(matches.predicted_ids))


def test_counts_by_hand():
    reference = np.array([[1, 1, 1, 1, 0, 2, 2, 0, 3]])
    predicted = np.array([[7, 7, 7, 0, 0, 9, 8, 8, 0]])
    matches = mask_metrics.match_masks(reference, predicted)
    assert matches.best_ious().tolist() == pytest.approx([3 / 4, 1 / 2, 0.0])
    assert matches.mean_iou() == pytest.approx((3 / 4 + 1 / 2) / 3)
    assert matches.num_matched(iou_threshold=0.6) == 1
    assert matches.f1(iou_threshold=0.6) == pytest.approx(2 / 6)
    assert matches.f1(iou_threshold=0.76) == 0.0


def test_maps_of_noise_take_memory_by_their_pixels():
    rng = np.random.default_rng(0)
    reference, predicted = rng.integers(1, 1 << 16, (2, 300, 300), dtype=np.uint16)
    tracemalloc.start()
    matches = mask_metrics.match_masks(reference, predicted)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 300 * reference.size
    assert matches.pair_intersections_px.sum() == reference.size
    assert matches.reference_areas_px.sum() == matches.predicted_areas_px.sum() == reference.size


def test_maps_without_pixels_have_no_pairs():
    empty = np.zeros((0, 5), np.int32)
    assert len(mask_metrics.match_masks(empty, empty).pair_ious) == 0


def test_two_empty_maps_agree_and_one_empty_map_does_not():
    empty, full = np.zeros((4, 4), np.int32), np.ones((4, 4), np.int32)
    assert mask_metrics.f1_at_iou(empty, empty, iou_threshold=0.6) == 1.0
    assert mask_metrics.f1_at_iou(full, empty, iou_threshold=0.6) == 0.0
    assert mask_metrics.match_masks(empty, empty).mean_iou() == 1.0
    assert mask_metrics.match_masks(full, empty).mean_iou() == 0.0
    assert mask_metrics.match_masks(empty, full).mean_iou() == 0.0


@pytest.mark.parametrize("threshold", [0.0, 0.49, 1.01])
def test_threshold_without_unique_matches_is_an_error(threshold):
    with pytest.raises(ValueError, match="iou_threshold"):
        mask_metrics.f1_at_iou(np.ones((2, 2), int), np.ones((2, 2), int), iou_threshold=threshold)


def test_maps_of_different_size_are_an_error():
    with pytest.raises(ValueError, match="different size"):
        mask_metrics.match_masks(np.ones((2, 2), int), np.ones((2, 3), int))


@pytest.mark.parametrize("mask", [np.ones((2, 2)), np.ones((2, 2, 3), int)])
def test_what_is_no_label_map_is_an_error(mask):
    with pytest.raises(ValueError, match="no label map"):
        mask_metrics.match_masks(mask, mask)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.int64])
def test_ids_of_any_size_become_contiguous(dtype):
    high = min(np.iinfo(dtype).max, 2**40)
    mask = np.array([[0, high], [5, high]], dtype)
    ids, renumbered = mask_metrics.contiguous_ids(mask)
    assert ids.tolist() == [5, high]
    assert renumbered.tolist() == [[0, 2], [1, 2]]
    assert renumbered.dtype == np.int32


def test_an_id_below_zero_is_an_error():
    with pytest.raises(ValueError, match="-1"):
        mask_metrics.contiguous_ids(np.array([[-1, 2]]))

"""Promises of hpa_proto.masks; the property tests compare with pycocotools on the whole FOV."""

import base64
import json
import pathlib
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy
from pycocotools import mask as coco_mask

from hpa_proto import masks

_VECTORS = pathlib.Path(__file__).parents[2] / "shared" / "vectors" / "kaggle" / "encoded_masks.json"

_MASKS = st_numpy.arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12)))


def place(mask, **where):
    return masks.place_in_fov(masks.encode_mask(mask), height=mask.shape[0], width=mask.shape[1], **where)


@given(_MASKS)
def test_round_trip_is_exact(mask):
    assert (masks.decode_mask(masks.encode_mask(mask), height=mask.shape[0], width=mask.shape[1]) == mask).all()


@given(_MASKS, st.integers(0, 5), st.integers(0, 5), st.integers(0, 5), st.integers(0, 5))
def test_mask_in_fov_equals_the_drawn_fov(mask, above, left, below, right):
    fov = np.pad(mask, ((above, below), (left, right)))
    counts = place(mask, x_min=left, y_min=above, fov_height=fov.shape[0], fov_width=fov.shape[1])
    assert counts == coco_mask.encode(np.asfortranarray(fov, dtype=np.uint8))["counts"]


def test_runs_over_the_edge_of_a_column_are_joined():
    mask = np.ones((4, 3), dtype=bool)
    counts = place(mask, x_min=1, y_min=0, fov_height=4, fov_width=5)
    assert coco_mask.decode({"size": [4, 5], "counts": counts}).sum() == 12
    assert counts == masks.encode_mask(np.pad(mask, ((0, 0), (1, 1))))


def test_mask_of_another_size_is_an_error():
    with pytest.raises(ValueError, match="not 5 x 4"):
        masks.decode_mask(masks.encode_mask(np.eye(4)), height=5, width=4)


@given(st.binary(max_size=30))
def test_any_bytes_give_a_mask_or_a_value_error(counts):
    try:
        assert masks.decode_mask(counts, height=7, width=5).shape == (7, 5)
    except ValueError:
        pass


def test_masks_of_the_competition_decode_to_their_area():
    if not _VECTORS.exists():
        pytest.skip(f"shared data not there: {_VECTORS.name}")
    vectors = json.loads(_VECTORS.read_text())
    entries = vectors if isinstance(vectors, list) else next(v for v in vectors.values() if isinstance(v, list))
    assert entries
    for entry in entries[:20]:
        counts = zlib.decompress(base64.b64decode(entry["encoded"]))
        mask = masks.decode_mask(counts, height=entry["height"], width=entry["width"])
        assert mask.sum() == entry["area"]
        assert masks.encode_mask(mask) == counts

"""Promises of the search for near-identical FOVs: copies are found however they were re-encoded, other FOVs never."""

import itertools
import pathlib

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_jobs import near_duplicates
from beam_jobs.near_duplicates import DEFAULT_MAX_BITS, find_duplicate_sets, hash_distance, perceptual_hash
from hpa_proto import schema
from hpa_proto.errors import ConfigError

_REAL = pathlib.Path(__file__).resolve().parents[2] / "shared" / "hpa" / "fovs"
_EMPTY = "-" * 16


def draw_field(seed, *, side=512, num_cells=25):
    """Draws cells at random places: uint8[side, side, 4]. Channels show the same cells, each in its own way."""
    rng = np.random.default_rng(seed)
    planes = []
    cells = [(tuple(rng.integers(0, side, 2).tolist()), int(rng.integers(15, 40))) for _ in range(num_cells)]
    for scale in (1.0, 0.8, 0.4, 1.1):
        plane = np.full((side, side), 8, np.float32)
        for centre, radius in cells:
            cv2.circle(plane, centre, max(1, round(scale * radius)), float(rng.uniform(40, 160)), cv2.FILLED)
        planes.append(cv2.GaussianBlur(plane, (0, 0), 2) + rng.normal(0, 4, plane.shape))
    return np.clip(np.dstack(planes), 0, 255).astype(np.uint8)


def as_jpeg(pixels, quality):
    planes = [cv2.imencode(".jpg", plane, [cv2.IMWRITE_JPEG_QUALITY, quality])[1] for plane in cv2.split(pixels)]
    return np.dstack([cv2.imdecode(data, cv2.IMREAD_GRAYSCALE) for data in planes])


def resized(pixels, factor):
    return cv2.resize(pixels, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)


def scaled(pixels, factor, offset=0.0):
    return np.clip(pixels * factor + offset, 0, 255).round().astype(np.uint8)


COPIES = {
    "as it is": lambda pixels: pixels,
    "JPEG 75": lambda pixels: as_jpeg(pixels, 75),
    "JPEG 30": lambda pixels: as_jpeg(pixels, 30),
    "12 bit": lambda pixels: pixels.astype(np.uint16) * 16,
    "16 bit": lambda pixels: pixels.astype(np.uint16) * 257,
    "half the size": lambda pixels: resized(pixels, 0.5),
    "a third more": lambda pixels: resized(pixels, 1.33),
    "another shape": lambda pixels: cv2.resize(pixels, (400, 300), interpolation=cv2.INTER_AREA),
    "dim": lambda pixels: scaled(pixels, 0.2),
    "overexposed": lambda pixels: scaled(pixels, 2.0),
    "brighter background": lambda pixels: scaled(pixels, 1.0, 20),
    "less contrast": lambda pixels: scaled(pixels, 0.5, 60),
    "shifted by a pixel": lambda pixels: np.pad(pixels, ((1, 0), (1, 0), (0, 0)), mode="edge")[:-1, :-1],
    "noise": lambda pixels: scaled(pixels + np.random.default_rng(1).normal(0, 5, pixels.shape), 1.0),
}


def read_real_fovs():
    if not _REAL.is_dir():
        pytest.skip(f"shared data not there: {_REAL}")
    names = sorted({path.name.rsplit("_", 1)[0] for path in _REAL.glob("*.png")})
    return [
        np.dstack([cv2.imread(str(_REAL / f"{name}_{channel}.png"), -1) for channel in schema.CHANNELS])
        for name in names
    ]


@pytest.mark.parametrize("change", COPIES.values(), ids=COPIES.keys())
def test_copies_are_far_below_the_threshold(change):
    for seed in range(3):
        pixels = draw_field(seed)
        assert hash_distance(perceptual_hash(pixels), perceptual_hash(change(pixels))) <= DEFAULT_MAX_BITS / 2


def test_different_fovs_are_far_above_the_threshold():
    hashes = [perceptual_hash(draw_field(seed, side=256, num_cells=4 + seed)) for seed in range(30)]
    distances = [hash_distance(*pair) for pair in itertools.combinations(hashes, 2)]
    assert min(distances) > 1.5 * DEFAULT_MAX_BITS
    assert 110 < np.mean(distances) < 140


def test_real_fovs_differ_and_their_copies_do_not():
    fovs = [cv2.resize(pixels, (640, 640), interpolation=cv2.INTER_AREA) for pixels in read_real_fovs()]
    hashes = [perceptual_hash(pixels) for pixels in fovs]
    assert all("-" not in text for text in hashes)
    assert min(hash_distance(*pair) for pair in itertools.combinations(hashes, 2)) > 2 * DEFAULT_MAX_BITS
    for pixels, text in zip(fovs, hashes, strict=True):
        for change in COPIES.values():
            assert hash_distance(text, perceptual_hash(change(pixels))) <= DEFAULT_MAX_BITS / 2


@pytest.mark.parametrize("plane", range(4))
def test_a_flat_channel_makes_no_fovs_alike_and_hides_no_copy(plane):
    rng = np.random.default_rng(0)
    flat = {"constant": lambda: 7, "noise": lambda: rng.poisson(3, (512, 512))}
    for fill in flat.values():
        first, second = draw_field(0), draw_field(1)
        copy = scaled(first, 0.7)
        for pixels in (first, second, copy):
            pixels[..., plane] = fill()
        hashes = [perceptual_hash(pixels) for pixels in (first, second, copy)]
        assert all(text[16 * plane : 16 * plane + 16] == _EMPTY for text in hashes)
        assert hash_distance(hashes[0], hashes[1]) > 1.5 * DEFAULT_MAX_BITS
        assert hash_distance(hashes[0], hashes[2]) <= DEFAULT_MAX_BITS / 2


def test_empty_fovs_are_nobodys_copies():
    black = np.zeros((300, 300, 4), np.uint8)
    one_channel = black.copy()
    one_channel[..., 1] = draw_field(0, side=300)[..., 1]
    hashes = {"a": perceptual_hash(black), "b": perceptual_hash(black), "c": perceptual_hash(one_channel)}
    assert hashes["a"] == 4 * _EMPTY
    assert hash_distance(hashes["c"], hashes["c"]) is None
    assert find_duplicate_sets(hashes | {"d": hashes["c"]}) == {}


def test_single_cells_in_the_same_corner_are_not_taken_for_copies():
    hashes = {}
    for number in range(6):
        pixels = np.full((768, 768, 4), 3, np.uint8)
        cv2.circle(pixels, (2 * number, 3), 60 + 5 * number, (90, 80, 70, 60 + number), cv2.FILLED)
        hashes[f"fov-{number}"] = perceptual_hash(pixels)
    assert find_duplicate_sets(hashes) == {}


def flip(text, bits):
    """Flips bits, numbered from 0 to 255, of a hash."""
    number = int(text, 16)
    for bit in bits:
        number ^= 1 << bit
    return f"{number:064x}"


def test_every_pair_up_to_the_threshold_is_found_and_none_above():
    rng = np.random.default_rng(0)
    hashes = {f"other-{number:04d}": rng.bytes(32).hex() for number in range(300)}
    text = rng.bytes(32).hex()
    for number in range(20):
        near, far = (rng.choice(256, DEFAULT_MAX_BITS + more, replace=False) for more in (0, 1))
        pair = {"near": flip(text, near.tolist()), "far": flip(text, far.tolist())}
        assert find_duplicate_sets(hashes | {"a": text, "b": pair["near"]}) == {"a": "a", "b": "a"}, number
        assert find_duplicate_sets(hashes | {"a": text, "b": pair["far"]}) == {}, number


def naive_sets(hashes, max_bits):
    """Grows sets pair by pair."""
    set_of = {fov_id: {fov_id} for fov_id in hashes}
    for one, other in itertools.combinations(sorted(hashes), 2):
        common = [
            (int(a, 16), int(b, 16))
            for a, b in zip(*([hashes[key][i : i + 16] for i in range(0, 64, 16)] for key in (one, other)), strict=True)
            if _EMPTY not in (a, b)
        ]
        if len(common) >= 2 and sum((a ^ b).bit_count() for a, b in common) * 4 <= max_bits * len(common):
            merged = set_of[one] | set_of[other]
            set_of |= dict.fromkeys(merged, merged)
    return {fov_id: min(own) for fov_id, own in set_of.items() if len(own) > 1}


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 60), st.integers(2, 40))
def test_sets_are_those_of_comparing_every_pair(seed, max_bits, num_fovs):
    rng = np.random.default_rng(seed)
    hashes, origins = {}, [rng.bytes(32).hex() for _ in range(4)]
    for number in range(num_fovs):
        text = flip(origins[rng.integers(4)], rng.choice(256, rng.integers(0, max_bits + 1), replace=False).tolist())
        for channel in np.flatnonzero(rng.random(4) < 0.15):
            text = text[: 16 * channel] + _EMPTY + text[16 * channel + 16 :]
        hashes[f"fov-{number}"] = text
    found = find_duplicate_sets(hashes, max_bits=max_bits)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("_ROWS_PER_BLOCK", 3), ("_COLUMNS_PER_BLOCK", 5), ("_MAX_LINKS", 4)):
            patch.setattr(near_duplicates, name, value)
        assert find_duplicate_sets(dict(reversed(hashes.items())), max_bits=max_bits) == found
    assert found == naive_sets(hashes, max_bits)


def test_thousands_of_equal_hashes_are_one_set():
    text = perceptual_hash(draw_field(0))
    hashes = {f"fov-{number}": text for number in range(5000)} | {"unread": ""}
    assert find_duplicate_sets(hashes) == dict.fromkeys(hashes.keys() - {"unread"}, "fov-0")


def test_zero_bits_look_for_nothing():
    text = perceptual_hash(draw_field(0))
    assert find_duplicate_sets({"a": text, "b": text}, max_bits=0) == {}


@pytest.mark.parametrize("text", ["abc", "g" * 64, "0" * 63 + "-", None, 5.0])
def test_what_is_no_hash_is_named(text):
    if text is None:
        assert find_duplicate_sets({"a": text}) == {}
        return
    with pytest.raises(ValueError, match=r"FOV a: .* is no perceptual hash"):
        find_duplicate_sets({"a": text, "b": "0" * 64})


def test_a_threshold_at_which_unlike_fovs_are_copies_is_refused():
    with pytest.raises(ConfigError, match="duplicate_bits is 65: give 1 to 64"):
        near_duplicates.check_max_bits(65)

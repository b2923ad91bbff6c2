"""FOVs that show the same picture under two ids: a perceptual hash of a FOV's pixels, and the search for near-equal hashes.

The hash (after pHash: Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions", 2010) holds 64 bits a
channel: the signs of the low frequencies of the channel averaged down to 32 x 32. The very lowest, row and column 0, are
left out: they show how the light falls off, and that is the same in all FOVs of a microscope. A sign does not change with
brightness and contrast, an average hardly with noise, JPEG, bit depth, size or a shift by a pixel. The square root above
the background keeps a few bright spots from deciding all signs. A channel that shows nothing but noise, or a single cell in
an empty field, is left out and takes no part in a comparison.

Bits of 256 that differ, measured on three real FOVs (and their tiles, for the differences) and on simulated ones:
  copies as JPEG of quality 20 to 95, with 12 or 16 bits, a quarter to 1.3 times as large, a tenth to three times as bright,
    with noise, shifted by a pixel: at most 17, on average 0 to 8;
  copies cropped by 1 % on every side, with gamma 0.6 or 1.6, or with the darkest 10 of 256 levels cut off: at most 29;
  different FOVs, 6.3 million pairs of 449 in eight positions each: at least 78, 128 on average, standard deviation 10.
The default threshold of 40 lies 11 bits above the worst copy and 38 below the nearest two different FOVs.

Not found: a mirrored or rotated copy (the same picture comes under another id as it is; looking for eight positions takes
eight times as long), another field that overlaps, a copy shifted by more than about a hundredth of the field.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

import cv2
import numpy as np
from scipy import fft, sparse
from scipy.sparse import csgraph

from beam_jobs import shrinking
from hpa_proto import schema
from hpa_proto.errors import ConfigError

# Column of fovs.parquet and plan.parquet. Another way of hashing needs another format version of the cell store.
HASH_COLUMN = "perceptual_hash"
DEFAULT_MAX_BITS = 40
# Over this, FOVs that have nothing in common would be taken for copies.
_GREATEST_MAX_BITS = 64

_HASH = re.compile(r"([0-9a-f]{16}|-{16}){4}")
_DIGITS_OF_CHANNEL = 16
_NO_STRUCTURE = "-" * _DIGITS_OF_CHANNEL
# One channel alone has too few bits to tell copies from chance.
_MIN_CHANNELS = 2
_FINE_SIDE = 128
_SIDE = 32
_FREQUENCIES = slice(1, 9)
# Of the variance that a channel has at 128 x 128, noise keeps 0.06 at 32 x 32, the weakest stain measured 0.27.
_MIN_STRUCTURE = 0.15
# Of 32 x 32. One cell in an empty field covers fewer, and only where it lies would decide the bits.
_MIN_PLACES = 20
_BACKGROUND_PERCENTILE = 5
# In standard deviations, added under the root: no root is steep on the background's noise.
_LEAST_SIGNAL = 0.02
# About 1 MB at a time: it stays in the processor's cache.
_ROWS_PER_BLOCK, _COLUMNS_PER_BLOCK = 16, 4096
_MAX_LINKS = 1_000_000


def check_max_bits(max_bits: int) -> None:
    """Checks a threshold.

    Raises:
      ConfigError: it would link FOVs that have nothing in common.
    """
    if not 0 <= max_bits <= _GREATEST_MAX_BITS:
        raise ConfigError(
            f"duplicate_bits is {max_bits}: give 1 to {_GREATEST_MAX_BITS} of the 256 bits, or 0 to look for no copies; "
            "unlike FOVs differ in about 128"
        )


def perceptual_hash(pixels: np.ndarray) -> str:
    """Hashes what a FOV shows.

    Args:
      pixels: uint8 or uint16[H, W, 4], channels in `schema.CHANNELS` order.

    Returns:
      64 characters: 16 hexadecimal digits a channel, or 16 dashes for a channel without structure.
    """
    pixels = shrinking.halve(pixels, height=2 * _FINE_SIDE, width=2 * _FINE_SIDE)
    fine = cv2.resize(pixels.astype(np.float32), (_FINE_SIDE, _FINE_SIDE), interpolation=cv2.INTER_AREA)
    small = cv2.resize(fine, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA).astype(np.float64)
    signal = np.maximum(small - np.percentile(small, _BACKGROUND_PERCENTILE, axis=(0, 1)), 0)
    roots = np.sqrt(signal + _LEAST_SIGNAL * small.std(axis=(0, 1)))
    roots -= roots.mean(axis=(0, 1))
    is_signal = small.var(axis=(0, 1)) > _MIN_STRUCTURE * fine.var(axis=(0, 1), dtype=np.float64)
    # The participation ratio: how many places share the variance.
    is_spread = (roots**2).sum(axis=(0, 1)) ** 2 > _MIN_PLACES * (roots**4).sum(axis=(0, 1))
    spectra = fft.dctn(roots, axes=(0, 1))[_FREQUENCIES, _FREQUENCIES]
    parts = [
        np.packbits(spectra[..., plane] > 0).tobytes().hex() if is_signal[plane] and is_spread[plane] else _NO_STRUCTURE
        for plane in range(len(schema.CHANNELS))
    ]
    return "".join(parts)


def hash_distance(first: str, second: str) -> int | None:
    """Counts the bits that differ: 0..256, scaled up where a channel of either FOV has no structure; None: too few have."""
    words, known = _parse_hashes([first, second])
    common = np.flatnonzero(known.all(axis=0))
    if len(common) < _MIN_CHANNELS:
        return None
    differing = int(np.bitwise_count(words[0, common] ^ words[1, common]).sum())
    return round(differing * len(schema.CHANNELS) / len(common))


def describe_distance(distance: int | None) -> str:
    """Says in words what `hash_distance` counted."""
    return "linked by other FOVs" if distance is None else f"{distance} of the 256 bits of their hashes differ"


def find_duplicate_sets(hashes: Mapping[str, str], *, max_bits: int = DEFAULT_MAX_BITS) -> dict[str, str]:
    """Finds the FOVs that are near-identical to another one.

    Every pair is compared, so none within `max_bits` is missed. 100,000 FOVs take about 20 s on one core and 0.1 GB.

    Args:
      hashes: FOV id -> `perceptual_hash`; "" for a FOV that has none.
      max_bits: greatest number of the 256 bits that may differ; 0: nothing is looked for.

    Returns:
      FOV id -> name of its set, which is the first id in it by the alphabet. FOVs are in one set if they are near-identical
      or linked by others that are. FOVs without a near-identical one are left out.

    Raises:
      ValueError: a text is no hash.
    """
    # By the alphabet: the first FOV of a set gives its name, and the order of the input plays no part.
    fov_ids = sorted(fov_id for fov_id, text in hashes.items() if text)
    if strange := [fov_id for fov_id in fov_ids if not _is_hash(hashes[fov_id])]:
        raise ValueError(f"FOV {strange[0]}: {hashes[strange[0]]!r} is no perceptual hash")
    if not fov_ids or not max_bits:
        return {}
    # Copies that are equal to the bit cost no search, however many there are.
    texts, hash_of_fov = np.unique([hashes[fov_id] for fov_id in fov_ids], return_inverse=True)
    words, known = _parse_hashes(texts)
    set_of_hash = _connect(len(texts), _find_pairs(words, known, max_bits=max_bits))
    # Equal hashes are duplicates too, if they say anything.
    set_of_hash[known.sum(axis=1) < _MIN_CHANNELS] = -1
    members: dict[int, list[str]] = {}
    for fov_id, number in zip(fov_ids, set_of_hash[hash_of_fov].tolist(), strict=True):
        members.setdefault(number, []).append(fov_id)
    return {fov_id: own[0] for number, own in members.items() if number >= 0 and len(own) > 1 for fov_id in own}


def _is_hash(text: object) -> bool:
    return isinstance(text, str) and _HASH.fullmatch(text) is not None


def _parse_hashes(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the bits as uint64[n, 4] and which channels have structure as bool[n, 4]."""
    starts = range(0, len(schema.CHANNELS) * _DIGITS_OF_CHANNEL, _DIGITS_OF_CHANNEL)
    parts = [text[start : start + _DIGITS_OF_CHANNEL] for text in texts for start in starts]
    known = np.array([part != _NO_STRUCTURE for part in parts])
    words = np.array([int(part, 16) if part != _NO_STRUCTURE else 0 for part in parts], dtype=np.uint64)
    return words.reshape(len(texts), -1), known.reshape(len(texts), -1)


def _find_pairs(words: np.ndarray, known: np.ndarray, *, max_bits: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields the near-identical pairs, as two arrays of numbers of hashes at a time."""
    patterns, pattern_of_hash = np.unique(known, axis=0, return_inverse=True)
    of_pattern = [np.flatnonzero(pattern_of_hash == number) for number in range(len(patterns))]
    for first, second in itertools.combinations_with_replacement(range(len(patterns)), 2):
        common = np.flatnonzero(patterns[first] & patterns[second])
        if len(common) < _MIN_CHANNELS:
            continue
        allowed = max_bits * len(common) // len(schema.CHANNELS)
        rows, columns = of_pattern[first], of_pattern[second]
        row_words = np.ascontiguousarray(words[rows][:, common].T)
        column_words = np.ascontiguousarray(words[columns][:, common].T)
        for start in range(0, len(rows), _ROWS_PER_BLOCK):
            own = row_words[:, start : start + _ROWS_PER_BLOCK]
            # Among hashes of one pattern each pair once.
            for other in range(start if first == second else 0, len(columns), _COLUMNS_PER_BLOCK):
                block = column_words[:, other : other + _COLUMNS_PER_BLOCK]
                row, column = _compare(own, block, allowed=allowed)
                if len(row):
                    yield rows[row + start], columns[column + other]


def _compare(own: np.ndarray, block: np.ndarray, *, allowed: int) -> tuple[np.ndarray, np.ndarray]:
    """Finds the pairs of columns of uint64[k, n] and uint64[k, m] in which at most `allowed` bits differ."""
    # Hardly a pair passes on two words: the others are counted for those that do.
    distances = np.bitwise_count(own[0][:, None] ^ block[0])
    distances += np.bitwise_count(own[1][:, None] ^ block[1])
    row, column = np.divmod(np.flatnonzero(distances <= allowed), block.shape[1])
    is_near = np.bitwise_count(own[:, row] ^ block[:, column]).sum(axis=0, dtype=np.int64) <= allowed
    return row[is_near], column[is_near]


def _connect(num_nodes: int, links: Iterable[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Numbers the connected components of a graph: int64[num_nodes]. Holds a bounded number of links at a time."""
    component = np.arange(num_nodes)
    waiting: list[tuple[np.ndarray, np.ndarray]] = []
    num_waiting = 0
    for link in itertools.chain(links, [None]):
        if link is not None:
            waiting.append(link)
            num_waiting += len(link[0])
        if waiting and (link is None or num_waiting > _MAX_LINKS):
            first, second = (np.concatenate(ends) for ends in zip(*waiting, strict=True))
            graph = sparse.coo_array(
                (np.ones(len(first), bool), (component[first], component[second])), (num_nodes,) * 2
            )
            component = csgraph.connected_components(graph, directed=False)[1][component]
            waiting, num_waiting = [], 0
    return component

"""The files of Kaggle's "Human Protein Atlas - Single Cell Classification" (2021): submission, sample and truth.

A submission has a row a FOV, `ID,ImageWidth,ImageHeight,PredictionString`; the last is triples `label confidence mask`. A
mask is COCO's compressed run lengths, deflated (zlib, level 9), as base64. Source: the competition's evaluation page.
"""

from __future__ import annotations

import base64
import csv
import dataclasses
import io
import sys
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from hpa_proto import labels as hpa_labels
from hpa_proto import masks, storage
from hpa_proto.errors import DatasetError

HEADER: tuple[str, ...] = ("ID", "ImageWidth", "ImageHeight", "PredictionString")
TRUTH_HEADER: tuple[str, ...] = ("ImageID", "ImageWidth", "ImageHeight", "LabelName", "IsGroupOf", "Mask")
_TOKENS = ("label", "confidence", "mask")
_DEFLATE_LEVEL = 9
# Six digits rank as finely as float32 probabilities can, and a submission repeats them 19 times a cell.
_CONFIDENCE_FORMAT = ".6g"
# pycocotools counts the pixels of a FOV with 32 bits.
MAX_SIDE_PX = 65_535
# COCO's code needs at most a character a pixel, and a few more for the last run; no cell of any FOV needs 16 million.
_SPARE_CHARACTERS = 64
_MAX_CHARACTERS = 1 << 24


class FovSize(NamedTuple):
    """Height and width of a FOV, px."""

    height: int
    width: int


class Detection(NamedTuple):
    """A class that a cell is said to show.

    Attributes:
      label: Kaggle's number.
      confidence: 0..1.
      counts: COCO's compressed counts of the cell's mask in the FOV.
    """

    label: int
    confidence: float
    counts: bytes


class TruthObject(NamedTuple):
    """A class that a cell shows, by the truth: Kaggle's number and COCO's compressed counts of the cell."""

    label: int
    counts: bytes


@dataclasses.dataclass(frozen=True)
class SubmissionRow:
    """The detections of one FOV."""

    fov_id: str
    size: FovSize
    detections: tuple[Detection, ...]


@dataclasses.dataclass(frozen=True)
class TruthFov:
    """The objects of one FOV; a cell with two labels is two objects."""

    size: FovSize
    objects: tuple[TruthObject, ...]


def encode_counts(counts: bytes) -> str:
    """Writes COCO's compressed counts as a submission holds them."""
    return base64.b64encode(zlib.compress(counts, _DEFLATE_LEVEL)).decode("ascii")


def decode_counts(text: str, size: FovSize) -> bytes:
    """Reads a submission's mask into COCO's compressed counts.

    Raises:
      ValueError: not base64, not deflated, or not run lengths of a mask of this size.
    """
    try:
        data = base64.b64decode(text, validate=True)
    except ValueError as error:
        raise ValueError(f"mask is not base64: {error}") from error
    inflater = zlib.decompressobj()
    try:
        # The limit keeps a few bytes of text from filling the memory.
        counts = inflater.decompress(data, min(size.height * size.width + _SPARE_CHARACTERS, _MAX_CHARACTERS))
    except zlib.error as error:
        raise ValueError(f"mask is not deflated by zlib: {error}") from error
    if not inflater.eof or inflater.unused_data:
        raise ValueError("mask is cut short, or longer than the FOV allows")
    masks.check_mask(counts, height=size.height, width=size.width)
    return counts


def placeholder(size: FovSize) -> tuple[Detection, ...]:
    """Returns what the competition wants where no cell was found: label 0 with confidence 1 on an empty mask."""
    return (Detection(0, 1.0, masks.encode_mask(np.zeros(size, dtype=bool))),)


def format_detections(detections: Iterable[Detection]) -> str:
    """Writes a PredictionString; the mask of a cell with many labels is encoded once."""
    texts: dict[bytes, str] = {}
    tokens = []
    for label, confidence, counts in detections:
        if counts not in texts:
            texts[counts] = encode_counts(counts)
        tokens += (str(label), format(confidence, _CONFIDENCE_FORMAT), texts[counts])
    return " ".join(tokens)


def parse_detections(text: str, size: FovSize) -> tuple[Detection, ...]:
    """Reads a PredictionString.

    Raises:
      ValueError: a token that is not what its place asks for; the text names the token, counted from 1.
    """
    tokens = text.split()
    if not tokens or len(tokens) % len(_TOKENS):
        raise ValueError(f"{len(tokens)} tokens; a PredictionString is triples of {', '.join(_TOKENS)}")
    known: dict[str, bytes] = {}
    detections = []
    for index in range(0, len(tokens), len(_TOKENS)):
        label_text, confidence_text, mask_text = tokens[index : index + len(_TOKENS)]
        place = index + 1
        try:
            label = _parse_label(label_text)
            place += 1
            confidence = _parse_confidence(confidence_text)
            place += 1
            if mask_text not in known:
                known[mask_text] = decode_counts(mask_text, size)
        except ValueError as error:
            raise ValueError(f"token {place}: {error}") from error
        detections.append(Detection(label, confidence, known[mask_text]))
    return tuple(detections)


def write_submission(path: str, rows: Iterable[SubmissionRow]) -> int:
    """Writes a submission row by row, whole or not at all; returns the number of rows."""
    num_rows = 0
    with storage.create(path) as file:
        text = io.TextIOWrapper(file, encoding="utf-8", newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(HEADER)
        for row in rows:
            writer.writerow((row.fov_id, row.size.width, row.size.height, format_detections(row.detections)))
            num_rows += 1
        # Closing the text would close the file, which storage flushes to the disk first.
        text.detach()
    return num_rows


def read_submission(path: str) -> Iterator[SubmissionRow]:
    """Reads a submission row by row.

    Raises:
      DatasetError: not a submission; the text names the row, counted from 1 after the header, and the token.
    """
    seen = set()
    for where, fov_id, size, row in _read_rows(path, HEADER):
        _check_new(seen, fov_id, where)
        try:
            detections = parse_detections(row["PredictionString"], size)
        except ValueError as error:
            raise DatasetError(f"{where}, {error}") from error
        yield SubmissionRow(fov_id, size, detections)


def read_sample(path: str) -> dict[str, FovSize]:
    """Reads the FOVs that a submission must have, in order; their PredictionStrings do not matter.

    Raises:
      DatasetError: not a sample submission; the text names the row.
    """
    sizes: dict[str, FovSize] = {}
    for where, fov_id, size, _ in _read_rows(path, HEADER[:3]):
        _check_new(sizes, fov_id, where)
        sizes[fov_id] = size
    return sizes


def read_truth(path: str) -> dict[str, TruthFov]:
    """Reads a truth file: a row an object, `ImageID,ImageWidth,ImageHeight,LabelName,IsGroupOf,Mask`.

    Raises:
      DatasetError: not such a file; the text names the row.
    """
    sizes: dict[str, FovSize] = {}
    objects: dict[str, list[TruthObject]] = {}
    for where, fov_id, size, row in _read_rows(path, TRUTH_HEADER):
        if sizes.setdefault(fov_id, size) != size:
            raise DatasetError(f"{where}: the FOV is {_px(size)} here and {_px(sizes[fov_id])} in an earlier row")
        if row["IsGroupOf"] not in ("0", "False"):
            raise DatasetError(f"{where}: IsGroupOf is {row['IsGroupOf']!r}; the metric knows single cells only")
        try:
            found = TruthObject(_parse_label(row["LabelName"]), decode_counts(row["Mask"], size))
        except ValueError as error:
            raise DatasetError(f"{where}: {error}") from error
        objects.setdefault(fov_id, []).append(found)
    return {fov_id: TruthFov(sizes[fov_id], tuple(found)) for fov_id, found in objects.items()}


def check_rows(fov_ids: Sequence[str], sample: Iterable[str], *, source: str) -> None:
    """Checks that a submission has the rows of its sample, in whatever order.

    Raises:
      DatasetError: a row too many or too few.
    """
    wanted = dict.fromkeys(sample)
    there = set(fov_ids)
    unknown = [fov_id for fov_id in fov_ids if fov_id not in wanted]
    if unknown:
        row = list(fov_ids).index(unknown[0]) + 1
        raise DatasetError(f"{source}, row {row}: ID {unknown[0]} is not in the sample ({len(unknown)} such rows)")
    missing = [fov_id for fov_id in wanted if fov_id not in there]
    if missing:
        raise DatasetError(
            f"{source}: {len(fov_ids)} rows; {len(missing)} IDs of the sample have none, the first is {missing[0]}"
        )


def _read_rows(path: str, columns: Sequence[str]) -> Iterator[tuple[str, str, FovSize, dict[str, str]]]:
    """Yields where a row stands (for errors), its id, its size and its columns by name."""
    # Python's limit is 128 KB; a PredictionString of 50 cells and 19 classes has 1 MB.
    csv.field_size_limit(sys.maxsize)
    with storage.open_read(path) as file, io.TextIOWrapper(file, encoding="utf-8-sig", newline="") as text:
        reader = csv.DictReader(text)
        number = 0
        try:
            missing = [column for column in columns if column not in (reader.fieldnames or ())]
            if missing:
                raise DatasetError(f"{path}: the header has no column {', '.join(missing)}; it is {reader.fieldnames}")
            for number, row in enumerate(reader, start=1):
                where = f"{path}, row {number} (ID {row[columns[0]]})"
                if None in row or None in row.values():
                    raise DatasetError(f"{where}: not as many values as the header has")
                yield where, row[columns[0]], _parse_size(row, where), row
        except (csv.Error, UnicodeDecodeError) as error:
            raise DatasetError(f"{path}, after row {number}: not a CSV file: {error}") from error


def _parse_size(row: dict[str, str], where: str) -> FovSize:
    sides = []
    for column in ("ImageHeight", "ImageWidth"):
        text = row[column]
        # By length first: Python refuses to read a number of thousands of digits.
        is_number = text.isascii() and text.isdigit() and len(text) <= len(str(MAX_SIDE_PX))
        if not (is_number and 0 < int(text) <= MAX_SIDE_PX):
            raise DatasetError(f"{where}: {column} is {text[:40]!r}, not a number of pixels from 1 to {MAX_SIDE_PX}")
        sides.append(int(text))
    return FovSize(*sides)


def _check_new(seen: set[str] | dict[str, FovSize], fov_id: str, where: str) -> None:
    if not fov_id:
        raise DatasetError(f"{where}: no ID")
    if fov_id in seen:
        raise DatasetError(f"{where}: the ID stands twice")
    if isinstance(seen, set):
        seen.add(fov_id)


def _parse_label(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) < hpa_labels.NUM_LABELS):
        raise ValueError(f"{text!r} is no label, a number from 0 to {hpa_labels.NUM_LABELS - 1}")
    return int(text)


def _parse_confidence(text: str) -> float:
    try:
        confidence = float(text)
    except ValueError as error:
        raise ValueError(f"{text!r} is no confidence, a number from 0 to 1") from error
    # NaN is in no range.
    if not 0 <= confidence <= 1:
        raise ValueError(f"confidence {text} is not in 0..1")
    return confidence


def _px(size: FovSize) -> str:
    return f"{size.width} x {size.height} px"

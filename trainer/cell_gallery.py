"""Pictures of the cells that say most about a model, class by class, with what the model looked at."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import cv2
import matplotlib as mpl
import numpy as np

from hpa_proto import pictures, report_page
from hpa_proto.errors import ConfigError
from trainer import shards
from trainer.evaluation import Evaluation
from trainer.predictions import Predictions
from trainer.source import Source

if TYPE_CHECKING:
    import keras

CELLS_OF_KIND = 6
EXPLAINED_OF_KIND = 3
_SIDE_PX = 144
_JPEG_QUALITY = 85
# Where a map is hottest, how much of the overlay is colour instead of the cell.
_OPACITY = 0.6
_COLOURS = "inferno"


@dataclasses.dataclass(frozen=True)
class ClassCells:
    """Cells of one class, as rows of a predictions file; the surest, or least sure, first.

    Attributes:
      right: the class is given and called, and the model is sure.
      wrong: the model is sure, and wrong. Single-label: cells of the class that are called another. Multi-label: the class
        is missed or wrongly called.
      unsure: the model cannot tell; whether it is right does not matter.
    """

    right: np.ndarray
    wrong: np.ndarray
    unsure: np.ndarray


@dataclasses.dataclass(frozen=True)
class GalleryCell:
    """A cell of a page.

    Attributes:
      cell_id: its id.
      caption: what the model says of it.
      src: address of its picture.
      explained_src: address of the Grad-CAM overlay; "" where there is none.
      explained: class that the overlay is for.
    """

    cell_id: str
    caption: str
    src: str
    explained_src: str
    explained: str


@dataclasses.dataclass(frozen=True)
class Gallery:
    """Cells of one class; `ClassCells` says what is in each list."""

    name: str
    right: tuple[GalleryCell, ...]
    wrong: tuple[GalleryCell, ...]
    unsure: tuple[GalleryCell, ...]


@dataclasses.dataclass(frozen=True)
class _Shown:
    row: int
    caption: str
    explained: int | None


def choose_cells(evaluation: Evaluation, predictions: Predictions, *, limit: int) -> list[ClassCells]:
    """Chooses cells of each class, at most `limit` of each kind.

    Single-label: how sure the model is of a cell is its highest probability. Multi-label: how far the probability of the
    class lies from the class's threshold, as a share of the way to 0 or 1.

    Args:
      evaluation: of the predictions.
      predictions: that were judged.
      limit: cells of each kind and class.
    """
    labels, predicted = predictions.labels > 0, evaluation.predicted
    highest = predictions.probabilities.max(axis=1)
    chosen = []
    for k, result in enumerate(evaluation.classes):
        is_own, is_called = labels[:, k], predicted[:, k]
        if evaluation.multi_label:
            candidates, sureness = is_own | is_called, _sureness(predictions.probabilities[:, k], result.threshold)
        else:
            candidates, sureness = is_own, highest
        candidates = candidates & evaluation.judged
        chosen.append(
            ClassCells(
                right=_first(-sureness, candidates & (is_own == is_called), limit=limit),
                wrong=_first(-sureness, candidates & (is_own != is_called), limit=limit),
                unsure=_first(sureness, candidates, limit=limit),
            )
        )
    return chosen


def draw_galleries(
    evaluation: Evaluation, predictions: Predictions, *, data_dir: str, classifier: keras.Model | None
) -> list[Gallery]:
    """Draws the galleries of all classes that have cells to show; arguments and errors as `evaluation_report.write_report`."""
    shown = _choose(evaluation, predictions)
    wanted: dict[str, set[int]] = {}
    for kinds in shown:
        for cell in (cell for cells in kinds.values() for cell in cells):
            explained = wanted.setdefault(predictions.cell_ids[cell.row], set())
            if cell.explained is not None:
                explained.add(cell.explained)
    drawn = _draw_cells(wanted, data_dir=data_dir, split=evaluation.split, classifier=classifier)
    names = evaluation.class_names
    return [
        Gallery(
            name,
            **{
                kind: tuple(
                    GalleryCell(
                        cell_id=(cell_id := predictions.cell_ids[cell.row]),
                        caption=cell.caption,
                        src=drawn[cell_id, None],
                        explained_src=drawn.get((cell_id, cell.explained), "") if cell.explained is not None else "",
                        explained="" if cell.explained is None else names[cell.explained],
                    )
                    for cell in cells
                )
                for kind, cells in kinds.items()
            },
        )
        for name, kinds in zip(names, shown, strict=True)
        if any(kinds.values())
    ]


def draw_heat(picture: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Lays a map over a picture of its cell, which turns grey; the map's own greatest value is the hottest colour.

    Args:
      picture: uint8[H, W, 3], RGB.
      heat: float[h, w], from 0 upwards.

    Returns:
      uint8[H, W, 3], RGB.
    """
    height, width = picture.shape[:2]
    share = np.clip(heat / max(float(heat.max()), np.finfo(np.float32).tiny), 0, 1).astype(np.float32)
    share = cv2.resize(share, (width, height), interpolation=cv2.INTER_LINEAR)[..., np.newaxis]
    opacity = _OPACITY * share
    grey = picture.max(axis=2, keepdims=True).astype(np.float32)
    colour = 255 * mpl.colormaps[_COLOURS](share[..., 0])[..., :3].astype(np.float32)
    return np.clip(np.rint((1 - opacity) * grey + opacity * colour), 0, 255).astype(np.uint8)


def _choose(evaluation: Evaluation, predictions: Predictions) -> list[dict[str, list[_Shown]]]:
    found = []
    for k, cells in enumerate(choose_cells(evaluation, predictions, limit=CELLS_OF_KIND)):
        found.append({})
        for kind in ("right", "wrong", "unsure"):
            rows = getattr(cells, kind)
            called = np.full(len(rows), k) if evaluation.multi_label else predictions.probabilities[rows].argmax(axis=1)
            found[-1][kind] = [
                _Shown(
                    row=int(row),
                    caption=_caption(evaluation, predictions, int(row), k, kind=kind),
                    explained=int(explained) if place < EXPLAINED_OF_KIND else None,
                )
                for place, (row, explained) in enumerate(zip(rows, called, strict=True))
            ]
    return found


def _caption(evaluation: Evaluation, predictions: Predictions, row: int, k: int, *, kind: str) -> str:
    probabilities = predictions.probabilities[row]
    if evaluation.multi_label:
        own, called = predictions.labels[row, k] > 0, evaluation.predicted[row, k]
        verdict = "" if own == called else "missed, " if own else "wrongly called, "
        return f"{verdict}{_percent(probabilities[k])}"
    called = int(probabilities.argmax())
    name = f"{evaluation.class_names[called]} " if kind != "right" else ""
    return f"{name}{_percent(probabilities[called])}"


def _percent(probability: float) -> str:
    # Not a plain space: the sign would stand alone in the next line.
    return f"{100 * probability:.0f}\N{NO-BREAK SPACE}%"


def _draw_cells(
    wanted: dict[str, set[int]], *, data_dir: str, split: str, classifier: keras.Model | None
) -> dict[tuple[str, int | None], str]:
    """Draws cells and overlays: (cell id, None or the column of the explained class) -> address of the picture."""
    # Late: both bring TensorFlow, which a report without cells does not need.
    from trainer import cell_reader
    from trainer.grad_cam import GradCam

    source = Source(data_dir, *shards.read_manifest(data_dir))
    if classifier is not None and classifier.input_shape[1:] != (*source.image_shape[1:], source.image_shape[0]):
        raise ConfigError(
            f"{data_dir}: has pictures of {source.image_shape} (channels, height, width), but the model takes "
            f"{classifier.input_shape[1:]} (height, width, channels); give the data set that was predicted"
        )
    grad_cam = None if classifier is None else GradCam(classifier)
    drawn: dict[tuple[str, int | None], str] = {}
    for cell_id, planes in cell_reader.read_cells(source, split, wanted):
        image = np.moveaxis(planes, 0, 2)
        small = cv2.resize(image, (_SIDE_PX, _SIDE_PX), interpolation=cv2.INTER_AREA).reshape(_SIDE_PX, _SIDE_PX, -1)
        picture = pictures.colour_picture(small, channels=source.manifest.channels)
        drawn[cell_id, None] = _address(picture)
        classes = sorted(wanted[cell_id])
        if grad_cam is not None and classes:
            heats = grad_cam.explain(np.repeat(image[np.newaxis].astype(np.float32), len(classes), axis=0), classes)
            for k, heat in zip(classes, heats, strict=True):
                drawn[cell_id, k] = _address(draw_heat(picture, heat))
    return drawn


def _address(picture: np.ndarray) -> str:
    return report_page.data_uri(pictures.encode_jpeg(picture, quality=_JPEG_QUALITY), "jpeg")


def _sureness(probabilities: np.ndarray, threshold: float) -> np.ndarray:
    above = (probabilities - threshold) / max(1 - threshold, np.finfo(float).tiny)
    below = (threshold - probabilities) / max(threshold, np.finfo(float).tiny)
    return np.maximum(above, below)


def _first(order: np.ndarray, candidates: np.ndarray, *, limit: int) -> np.ndarray:
    rows = np.flatnonzero(candidates)
    return rows[np.argsort(order[rows], kind="stable")[:limit]]

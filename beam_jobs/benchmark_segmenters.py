"""What `benchmark_segment` measures: F1 and time of the watershed, and how predictions are labelled.

F1 is that of cells at IoU 0.6 unless its name says otherwise.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence

import cv2
import numpy as np

from beam_jobs import mask_metrics, mask_source
from beam_jobs.fov_reader import read_fov
from beam_jobs.fov_source import find_fovs
from beam_jobs.segmenters import WatershedSegmenter, label_cell
from beam_jobs.simulation import fov as simulated_fov
from hpa_proto import schema, storage
from hpa_proto.benchmarking import Figure
from hpa_proto.errors import ConfigError, FovError

_IOU = 0.6
_MAX_CPU_SEC, _USUAL_SIDE_PX = 0.25, 2048
_MIN_AGREEMENT_PERCENT, _MIN_FAST_F1 = 99.5, 0.97
# No seed of the tests, nor of what the segmenter was made with.
_HELD_OUT_SEED = 771_000
_SIMULATED_SIDE_PX, _SIMULATED_PIXEL_UM = 1024, 0.16
_CROWDINGS = (0.0, 0.25, 0.5, 0.75, 1.0)
_DIM_SHARE = 0.15


@dataclasses.dataclass(frozen=True)
class MaskedFov:
    """A FOV and the cells that are to be found in it.

    Attributes:
      name: for the table.
      pixels: uint8 or uint16[H, W, 4], channels in `schema.CHANNELS` order.
      cell_mask: int[H, W], 0 background.
      pixel_size_um: side of a pixel.
    """

    name: str
    pixels: np.ndarray
    cell_mask: np.ndarray
    pixel_size_um: float


def read_fovs(images: str, masks: str, *, pixel_size_um: float) -> list[MaskedFov]:
    """Reads the FOVs that have masks.

    Args:
      images: folder, glob or CSV of FOVs.
      masks: folder of masks or cell store.
      pixel_size_um: side of a pixel.

    Raises:
      ConfigError: no FOV has a mask, or one of another size.
    """
    source = mask_source.open_masks(masks, kind=mask_source.CELLS)
    fovs = []
    for fov in find_fovs(images, None).fovs:
        if fov.fov_id in source.fov_ids:
            pixels, cell_mask = read_fov(fov).pixels, source.read(fov.fov_id)
            if pixels.shape[:2] != cell_mask.shape:
                raise ConfigError(f"fov {fov.fov_id}: image and mask differ in size")
            fovs.append(MaskedFov(fov.fov_id[:8], pixels, cell_mask, pixel_size_um))
    if not fovs:
        raise ConfigError(f"no FOV of {images} has a mask in {masks}")
    return fovs


def simulate_fovs(*, num_fovs_each: int) -> list[MaskedFov]:
    """Simulates FOVs from sparse to crowded; the same ones on every run.

    Args:
      num_fovs_each: FOVs of each crowding.
    """
    fovs = []
    for crowding in _CROWDINGS:
        for number in range(num_fovs_each):
            made = simulated_fov.simulate_fov(
                ((4 * number + len(fovs)) % 11,),
                seed=(_HELD_OUT_SEED, number, round(100 * crowding)),
                height_px=_SIMULATED_SIDE_PX,
                width_px=_SIMULATED_SIDE_PX,
                pixel_size_um=_SIMULATED_PIXEL_UM,
                crowding=crowding,
            )
            fovs.append(MaskedFov(f"crowding {crowding:g}", made.image, made.cell_mask, _SIMULATED_PIXEL_UM))
    return fovs


def measure_watershed(fovs: Sequence[MaskedFov], *, suite: str, min_f1: float, repeats: int) -> list[Figure]:
    """F1 by name and in the mean, and CPU seconds a FOV after reading.

    Args:
      fovs: several may have the same name.
      suite: what they are called together.
      min_f1: what the mean is to reach.
      repeats: timed rounds.
    """
    scores: dict[str, list[float]] = {}
    for fov in fovs:
        scores.setdefault(fov.name, []).append(_score(fov))
    figures = [Figure(suite, f"F1, {name}", "F1", tuple(values)) for name, values in scores.items()]
    mean = float(np.mean([value for values in scores.values() for value in values]))
    figures.append(Figure(suite, f"F1, mean of {len(fovs)} FOVs", "F1", (mean,), at_least=min_f1))
    for side_px in sorted({fov.pixels.shape[0] for fov in fovs}):
        group = [fov for fov in fovs if fov.pixels.shape[0] == side_px]
        # The aim is for FOVs of HPA's usual size.
        at_most = _MAX_CPU_SEC if side_px <= _USUAL_SIDE_PX else None
        rounds = _cpu_seconds({"": lambda group=group: [_segment(fov) for fov in group]}, repeats=repeats)[""]
        seconds = tuple(each / len(group) for each in rounds)
        figures.append(Figure(suite, f"CPU, FOV of {side_px} px", "s", seconds, at_most=at_most, less_is_better=True))
    return figures


def measure_robustness(fovs: Sequence[MaskedFov], *, suite: str, min_f1: float) -> list[Figure]:
    """F1 on FOVs that were made smaller, dim in a channel, or brighter in the other cell stain; as `measure_watershed`."""
    figures = []
    for name, change in _VARIANTS.items():
        scores = [_score(change(fov)) for fov in fovs]
        figures.append(Figure(suite, f"F1, {name}, mean", "F1", (float(np.mean(scores)),), at_least=min_f1))
        figures.append(Figure(suite, f"F1, {name}, least", "F1", (min(scores),)))
    return figures


def measure_labelling(folder: str, *, repeats: int) -> list[Figure]:
    """`label_cell` against the tool's labels: count, agreement, CPU time; and its fast mode against the full one.

    Args:
      folder: `<id>_{nuclei,cell}_prediction.png` and the tool's `<id>_{nuclei,cell}_label.png`.
      repeats: timed rounds.

    Raises:
      ConfigError: no predictions there.
    """
    suffix = "_cell_prediction.png"
    ids = [name.removesuffix(suffix) for name in storage.list_files(folder) if name.endswith(suffix)]
    if not ids:
        raise ConfigError(f"{folder}: no <id>{suffix} in it")
    figures = []
    for vector_id in ids:
        predictions = [_read_png(folder, f"{vector_id}_{part}_prediction.png") for part in ("nuclei", "cell")]
        suite = f"label_cell, {vector_id}, {predictions[0].shape[0]} px"
        full, fast = (label_cell.label_cell(*predictions, mode=mode) for mode in ("full", "fast"))
        for part, found in zip(("nuclei", "cell"), full, strict=True):
            reference = _read_png(folder, f"{vector_id}_{part}_label.png").astype(np.int32)
            numbers = [len(mask_metrics.contiguous_ids(mask)[0]) for mask in (reference, found)]
            share = pixel_agreement(reference, found)
            figures += [
                Figure(
                    suite,
                    f"{part}: {numbers[1]} objects, the tool's {numbers[0]}",
                    "off",
                    (abs(numbers[1] - numbers[0]),),
                    at_most=0,
                ),
                Figure(suite, f"{part}: pixels as the tool's", "%", (100 * share,), at_least=_MIN_AGREEMENT_PERCENT),
            ]
        f1 = mask_metrics.f1_at_iou(full[1], fast[1], iou_threshold=0.9)
        figures.append(Figure(suite, "fast against full, F1 at IoU 0.9", "F1", (f1,), at_least=_MIN_FAST_F1))
        works = {
            mode: lambda mode=mode, pair=predictions: label_cell.label_cell(*pair, mode=mode)
            for mode in label_cell.MODES
        }
        for mode, seconds in _cpu_seconds(works, repeats=repeats).items():
            figures.append(Figure(suite, f"CPU, {mode}", "s", seconds, less_is_better=True))
    return figures


def pixel_agreement(reference: np.ndarray, labels: np.ndarray) -> float:
    """Share of pixels with the same label, after labels took the names of the objects that they share most pixels with.

    Args:
      reference: int[H, W], 0 background.
      labels: int[H, W], 0 background; a name is given once.
    """
    matches = mask_metrics.match_masks(reference, labels)
    names = np.full(int(labels.max(initial=0)) + 1, -1, np.int64)
    names[0] = 0
    taken: set[int] = set()
    for pair in np.argsort(-matches.pair_intersections_px, kind="stable"):
        name, label = int(matches.pair_reference_ids[pair]), int(matches.pair_predicted_ids[pair])
        if names[label] < 0 and name not in taken:
            names[label] = name
            taken.add(name)
    return float(np.mean(names[labels] == reference))


def _resize(fov: MaskedFov, *, factor: int) -> MaskedFov:
    size = (fov.pixels.shape[1] // factor, fov.pixels.shape[0] // factor)
    # OpenCV resizes no 32-bit integers; float32 holds the ids of any FOV.
    mask = cv2.resize(fov.cell_mask.astype(np.float32), size, interpolation=cv2.INTER_NEAREST).astype(np.int32)
    pixels = cv2.resize(fov.pixels, size, interpolation=cv2.INTER_AREA)
    return MaskedFov(fov.name, pixels, mask, fov.pixel_size_um * factor)


def _scale_channels(fov: MaskedFov, gains: dict[str, float]) -> MaskedFov:
    full = np.iinfo(fov.pixels.dtype).max
    pixels = fov.pixels.copy()
    for channel, gain in gains.items():
        plane = schema.CHANNELS.index(channel)
        pixels[..., plane] = np.clip(np.round(pixels[..., plane] * gain), 0, full)
    return dataclasses.replace(fov, pixels=pixels)


def _swap_brightness(fov: MaskedFov) -> MaskedFov:
    red, yellow = (fov.pixels[..., schema.CHANNELS.index(name)].mean() for name in ("red", "yellow"))
    return _scale_channels(fov, {"red": yellow / red, "yellow": red / yellow})


_VARIANTS: dict[str, Callable[[MaskedFov], MaskedFov]] = {
    "half size": lambda fov: _resize(fov, factor=2),
    "quarter size": lambda fov: _resize(fov, factor=4),
    "brightness of red and yellow exchanged": _swap_brightness,
    **{
        f"{channel} at {_DIM_SHARE:.0%} brightness": lambda fov, channel=channel: _scale_channels(
            fov, {channel: _DIM_SHARE}
        )
        for channel in ("red", "blue", "yellow")
    },
}


def _score(fov: MaskedFov) -> float:
    return mask_metrics.f1_at_iou(fov.cell_mask, _segment(fov), iou_threshold=_IOU)


def _segment(fov: MaskedFov) -> np.ndarray:
    try:
        return WatershedSegmenter(fov.pixel_size_um).segment(fov.pixels, fov_id=fov.name).cell_mask
    except FovError:
        return np.zeros(fov.pixels.shape[:2], np.int32)


def _cpu_seconds(works: dict[str, Callable[[], object]], *, repeats: int) -> dict[str, tuple[float, ...]]:
    """Times pieces of work in turn, after one round for warming up."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for number in range(repeats + 1):
        for name, work in works.items():
            start = time.process_time()
            work()
            if number:
                seconds[name].append(time.process_time() - start)
    return {name: tuple(values) for name, values in seconds.items()}


def _read_png(folder: str, name: str) -> np.ndarray:
    path = storage.join(folder, name)
    picture = cv2.imdecode(np.frombuffer(storage.read_bytes(path), np.uint8), cv2.IMREAD_UNCHANGED)
    if picture is None:
        raise ConfigError(f"{path}: not a picture")
    return picture

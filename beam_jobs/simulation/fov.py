"""One simulated field of view: image, masks, and what each cell truly shows."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from beam_jobs.segmenters import segmentation
from beam_jobs.simulation import camera, cytoplasmic_patterns, nuclear_patterns
from beam_jobs.simulation import scene as scene_lib
from beam_jobs.simulation import stains as stains_lib
from beam_jobs.simulation.grid import Grid
from beam_jobs.simulation.scene import Scene
from beam_jobs.simulation.stains import Stains
from hpa_proto import labels as labels_lib
from hpa_proto import schema
from hpa_proto.errors import ConfigError

Pattern = Callable[[Scene, Stains, np.random.Generator], np.ndarray]

# In the order of labels.LABEL_NAMES.
PATTERNS: tuple[Pattern, ...] = (
    nuclear_patterns.draw_nucleoplasm,
    nuclear_patterns.draw_nuclear_membrane,
    nuclear_patterns.draw_nucleoli,
    nuclear_patterns.draw_fibrillar_centers,
    nuclear_patterns.draw_speckles,
    nuclear_patterns.draw_nuclear_bodies,
    cytoplasmic_patterns.draw_reticulum,
    cytoplasmic_patterns.draw_golgi,
    cytoplasmic_patterns.draw_intermediate_filaments,
    cytoplasmic_patterns.draw_actin,
    cytoplasmic_patterns.draw_microtubules,
    cytoplasmic_patterns.draw_spindle,
    cytoplasmic_patterns.draw_centrosome,
    cytoplasmic_patterns.draw_plasma_membrane,
    cytoplasmic_patterns.draw_mitochondria,
    cytoplasmic_patterns.draw_aggresome,
    cytoplasmic_patterns.draw_cytosol,
    cytoplasmic_patterns.draw_vesicles,
    cytoplasmic_patterns.draw_negative,
)
MITOTIC_SPINDLE = labels_lib.LABEL_NAMES.index("Mitotic spindle")
# Classes that need the nucleus of a cell that is not dividing.
INTERPHASE_LABELS = frozenset(range(labels_lib.LABEL_NAMES.index("Nuclear bodies") + 1))

# Photons at white, so that the noise is like that of the atlas' channels.
_PHOTONS = {"red": 400.0, "green": 350.0, "blue": 1000.0, "yellow": 250.0}
_MIN_SIDE_UM = 20.0
_MAX_SIDE_UM = 1400.0
_MIN_SIDE_PX = 32
# A cell cut by the border belongs to the masks if this much of its nucleus is visible.
_MIN_NUCLEUS_SHARE = 0.15
_MIN_NUCLEUS_UM2 = 8.0


@dataclasses.dataclass(frozen=True)
class SimulatedFov:
    """A field of view and the truth about it.

    Attributes:
      image: uint8 (8 bit) or uint16 [H, W, 4], channels in `schema.CHANNELS` order.
      cell_mask: uint16[H, W], cells 1..n, 0 background. Pieces of cells whose nucleus lies beyond the border are in
        the image but not in the mask, as in masks that start from nuclei.
      nucleus_mask: uint16[H, W], the nucleus of cell i has the value i.
      cell_labels: what each cell truly shows, ascending; cell i is at i - 1.
    """

    image: np.ndarray
    cell_mask: np.ndarray
    nucleus_mask: np.ndarray
    cell_labels: tuple[tuple[int, ...], ...]


def simulate_fov(
    labels: Sequence[int],
    *,
    seed: int | Sequence[int],
    height_px: int = 2048,
    width_px: int = 2048,
    pixel_size_um: float = 0.08,
    crowding: float = 0.5,
    weak_label_share: float = 0.0,
    bit_depth: int = 8,
) -> SimulatedFov:
    """Draws one field of view.

    The same seed draws the same cells at any pixel size if the field is equally large in micrometres; only the camera's
    noise differs. If the spindle stands beside classes of the undivided nucleus, half of the cells divide and show
    the spindle, the others show the rest.

    Args:
      labels: the field's classes, Kaggle's numbers; Negative stands alone.
      seed: anything that numpy's default_rng takes as entropy.
      height_px: rows.
      width_px: columns.
      pixel_size_um: side of a pixel, micrometres.
      crowding: 0 = few cells on an empty slide, 1 = a closed layer.
      weak_label_share: chance of a cell to lack the field's label; with several labels, to lack some of them.
      bit_depth: 8, 12, 14 or 16.

    Raises:
      ConfigError: an argument outside its range; the text says what to give.
    """
    label_set = check_arguments(
        labels,
        height_px=height_px,
        width_px=width_px,
        pixel_size_um=pixel_size_um,
        crowding=crowding,
        weak_label_share=weak_label_share,
        bit_depth=bit_depth,
    )
    geometry_seed, label_seed, pattern_seed, camera_seed = np.random.SeedSequence(seed).spawn(4)
    grid = Grid(height_px=height_px, width_px=width_px, pixel_size_um=pixel_size_um)
    divides = MITOTIC_SPINDLE in label_set
    dividing_share = 0.5 if divides and INTERPHASE_LABELS & set(label_set) else float(divides)
    # A dividing cell without the label would be a spindle that nobody stained; a weak cell is then in interphase.
    dividing_share *= 1 - weak_label_share
    rng = np.random.default_rng(geometry_seed)
    scene = scene_lib.draw_scene(grid, rng, crowding=crowding, dividing_share=dividing_share)
    stains = stains_lib.draw_stains(scene, rng)
    shown = _draw_cell_labels(scene, label_set, np.random.default_rng(label_seed), weak_label_share)
    green = _draw_protein(scene, stains, shown, np.random.default_rng(pattern_seed))
    image = _take_images(scene, stains, green, np.random.default_rng(camera_seed), bit_depth)
    cell_mask, nucleus_mask, kept = _number_cells(scene)
    return SimulatedFov(image, cell_mask, nucleus_mask, tuple(shown[cell] for cell in kept))


def check_arguments(
    labels: Sequence[int],
    *,
    height_px: int,
    width_px: int,
    pixel_size_um: float,
    crowding: float,
    weak_label_share: float,
    bit_depth: int,
) -> tuple[int, ...]:
    """Checks the arguments of `simulate_fov` and returns the labels as a label set.

    Raises:
      ConfigError: an argument outside its range.
    """
    label_set = tuple(sorted(set(labels)))
    if not label_set or not set(label_set) <= set(range(labels_lib.NUM_LABELS)):
        raise ConfigError(f"labels {list(labels)}: give at least one number from 0 to {labels_lib.NUM_LABELS - 1}")
    if labels_lib.NEGATIVE in label_set and len(label_set) > 1:
        raise ConfigError(f"labels {list(labels)}: Negative ({labels_lib.NEGATIVE}) must stand alone")
    if not 0.02 <= pixel_size_um <= 2:
        raise ConfigError(f"pixel_size_um {pixel_size_um}: give micrometres from 0.02 to 2 (the atlas: 0.08)")
    for name, size_px in (("height_px", height_px), ("width_px", width_px)):
        least = max(_MIN_SIDE_PX, int(np.ceil(_MIN_SIDE_UM / pixel_size_um - 1e-9)))
        most = int(_MAX_SIDE_UM / pixel_size_um)
        if not least <= size_px <= most:
            raise ConfigError(f"{name} {size_px}: at {pixel_size_um} um a pixel give {least} to {most}")
    for name, share in (("crowding", crowding), ("weak_label_share", weak_label_share)):
        if not 0 <= share <= 1:
            raise ConfigError(f"{name} {share}: give a number from 0 to 1")
    if bit_depth not in camera.BIT_DEPTHS:
        raise ConfigError(f"bit_depth {bit_depth}: give one of {', '.join(map(str, camera.BIT_DEPTHS))}")
    return label_set


def _draw_cell_labels(
    scene: Scene, label_set: tuple[int, ...], rng: np.random.Generator, weak_label_share: float
) -> list[tuple[int, ...]]:
    """Decides what each cell shows; entry 0 stands for the background."""
    shown: list[tuple[int, ...]] = [()]
    for dividing in scene.cells.dividing[1:]:
        weak = rng.random() < weak_label_share
        lost = rng.random(len(label_set)) < 0.5
        lost[rng.integers(len(label_set))] = True
        mine = {label for label, gone in zip(label_set, lost, strict=True) if not (weak and gone)}
        if MITOTIC_SPINDLE in label_set:
            mine -= INTERPHASE_LABELS if dividing else {MITOTIC_SPINDLE}
            if dividing:
                mine.add(MITOTIC_SPINDLE)
        shown.append(tuple(sorted(mine)) or (labels_lib.NEGATIVE,))
    return shown


def _draw_protein(scene: Scene, stains: Stains, shown: list[tuple[int, ...]], rng: np.random.Generator) -> np.ndarray:
    """Adds up the patterns of the green channel, each cell with its own brightness."""
    size = len(shown)
    brightness = np.exp(rng.normal(0, 0.25, size)).clip(0.5, 1.6).astype(np.float32)
    plane = cytoplasmic_patterns.draw_autofluorescence(scene, rng)
    plane *= scene.spread(np.exp(rng.normal(0, 0.3, size)))
    # Several patterns share the antibody's light, so that their sum does not outshine the camera.
    brightness /= np.sqrt(np.array([max(len(mine), 1) for mine in shown], np.float32))
    for label in sorted(set().union(*shown)):
        shows = np.array([label in mine for mine in shown])
        gain = np.where(shows, brightness * rng.uniform(0.75, 1.1, size), 0)
        plane += PATTERNS[label](scene, stains, rng) * scene.spread(gain)
    return plane


def _take_images(
    scene: Scene, stains: Stains, green: np.ndarray, rng: np.random.Generator, bit_depth: int
) -> np.ndarray:
    grid = scene.grid
    size = len(scene.cells) + 1
    light = {"red": stains.microtubules, "green": green, "blue": stains.chromatin, "yellow": stains.reticulum}
    spread = {"red": 0.25, "green": 0.0, "blue": 0.15, "yellow": 0.25}
    illumination = camera.draw_illumination(grid, rng)
    exposures = {name: camera.draw_exposure(rng, photons=_PHOTONS[name]) for name in schema.CHANNELS}
    stain = {name: np.exp(rng.normal(0, spread[name], size)) for name in schema.CHANNELS}
    noise_seeds = dict(zip(schema.CHANNELS, rng.spawn(len(schema.CHANNELS)), strict=True))
    planes = [
        camera.take_image(
            grid,
            light[name] * scene.spread(stain[name]),
            noise_seeds[name],
            illumination=illumination,
            exposure=exposures[name],
            bit_depth=bit_depth,
        )
        for name in schema.CHANNELS
    ]
    return np.stack(planes, axis=-1)


def _number_cells(scene: Scene) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """Numbers the cells with a visible nucleus: cell mask, nucleus mask, and the old number of each.

    Numbers follow the cells' first pixels in raster order, as those of the segmenters do: a segmenter that reads these
    masks gives each cell the id under which its true labels are known.
    """
    size = len(scene.cells) + 1
    in_nucleus = scene.membrane_um > 0
    visible_um2 = np.bincount(scene.cell[in_nucleus], minlength=size) * scene.grid.pixel_size_um**2
    whole_um2 = np.pi * scene.cells.nucleus_radii_um.prod(axis=1)
    keep = visible_um2 >= np.maximum(_MIN_NUCLEUS_SHARE * whole_um2, _MIN_NUCLEUS_UM2)
    keep[0] = False
    if not keep.any():
        # A field smaller than a nucleus still has its cell.
        keep[int(visible_um2[1:].argmax()) + 1] = True
    kept = np.flatnonzero(keep)
    number = np.zeros(size, np.uint16)
    number[kept] = np.arange(1, len(kept) + 1)
    cell_mask = number[scene.cell]
    order = segmentation.raster_order(cell_mask, num_ids=len(kept))
    cell_mask = order.astype(np.uint16)[cell_mask]
    return cell_mask, np.where(in_nucleus, cell_mask, 0).astype(np.uint16), kept[np.argsort(order[1:])].tolist()

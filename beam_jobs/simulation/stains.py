"""The three stains that every field has: microtubules (red), chromatin (blue), endoplasmic reticulum (yellow)."""

from __future__ import annotations

import dataclasses

import numpy as np

from beam_jobs.simulation import emitters
from beam_jobs.simulation.emitters import FibreStyle
from beam_jobs.simulation.scene import Scene


@dataclasses.dataclass(frozen=True)
class Stains:
    """Planes of all cells at equal brightness, float32[H, W], about 0..1 before the camera.

    Attributes:
      microtubules: the fibres, in dividing cells the spindle.
      spindle: the spindles of dividing cells alone.
      chromatin: DNA with dark nucleoli, in dividing cells the metaphase plate.
      reticulum: the endoplasmic reticulum with the nuclear envelope.
    """

    microtubules: np.ndarray
    spindle: np.ndarray
    chromatin: np.ndarray
    reticulum: np.ndarray


def draw_stains(scene: Scene, rng: np.random.Generator) -> Stains:
    """Draws the stains of a field."""
    spindle = _draw_spindles(scene, rng)
    return Stains(
        microtubules=_draw_microtubules(scene, rng) + spindle,
        spindle=spindle,
        chromatin=_draw_chromatin(scene, rng),
        reticulum=_draw_reticulum(scene, rng),
    )


def pole_um(scene: Scene, *, side: int) -> np.ndarray:
    """Positions of one pole of each cell's spindle, float[N + 1, 2]; `side` is -1 or 1."""
    cells = scene.cells
    axis = np.stack((np.cos(cells.angle), np.sin(cells.angle)), axis=1)
    return cells.xy_um + side * 0.52 * cells.radius_um[:, None] * axis


def _draw_microtubules(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """Some fibres grow from the centrosome, most start elsewhere in the cytoplasm, as in a dense interphase net."""
    cells = scene.cells
    density = 0.17 * cells.radius_um**2 * np.exp(rng.normal(0, 0.25, len(cells) + 1))
    num_anchored = np.where(cells.dividing, 0, density).astype(int)
    num_anchored[0] = 0
    anchored = np.repeat(np.arange(len(num_anchored)), num_anchored)
    where = (scene.lattice_cell > 0) & (scene.lattice_nucleus_um > 0.3)
    free_um, free = emitters.random_spots(scene, rng, where=where, num_spots=4 * num_anchored)
    cell = np.concatenate((anchored, free))
    start_um = np.concatenate((scene.centrosome_um[anchored] + rng.normal(0, 0.6, (len(anchored), 2)), free_um))
    # The free ones run along the cell more than across it, towards either end.
    along = cells.angle[free] + np.pi * rng.integers(0, 2, len(free)) + rng.normal(0, 0.9, len(free))
    fibres = emitters.trace_fibres(
        scene,
        rng,
        start_um=start_um,
        heading=np.concatenate((rng.uniform(0, 2 * np.pi, len(anchored)), along)),
        cell=cell,
        length_um=rng.gamma(4.0, 3.2, len(cell)),
        style=FibreStyle(wander=0.17, curl=0.04, round_nucleus=0.9, along_border=0.9),
    )
    beads = np.maximum(0.8 + 0.45 * scene.grid.lattice_noise(rng, scale_um=0.5), 0.1)
    # Thin parts of the cell hold fibres in focus, thick ones blurred ones: the net is patchy.
    beads *= np.clip(0.8 + 0.35 * scene.grid.lattice_noise(rng, scale_um=6.0), 0.3, 1.5)
    # Fibres above and below the nucleus are out of focus.
    beads *= np.clip(0.25 + 0.75 * (scene.lattice_nucleus_um + 0.6) / 0.8, 0.08, 1)
    plane = emitters.splat_fibres(scene, fibres, weight=rng.gamma(3.0, 1 / 3, len(cell)) * 0.055, beads=beads)
    haze = 0.02 * scene.thickness * (1 + (scene.nucleus_um > 0))
    return plane + np.where(scene.cell > 0, haze, 0)


def _draw_spindles(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """Bundles that bow out from two poles to the chromosomes' plate, short asters at the poles, and a haze."""
    cells = scene.cells
    dividing = np.flatnonzero(cells.dividing[1:]) + 1
    plane = np.zeros(scene.grid.shape, np.float32)
    if not len(dividing):
        return plane
    cell = np.repeat(dividing, 110)
    share = np.linspace(0, 1, 40)[:, None, None]
    for side in (-1, 1):
        pole = pole_um(scene, side=side)[cell]
        across = np.stack((-np.sin(cells.angle[cell]), np.cos(cells.angle[cell])), axis=1)
        reach = rng.uniform(-0.85, 0.85, len(cell)) * cells.nucleus_radii_um[cell, 1]
        end = cells.xy_um[cell] + reach[:, None] * across
        bow = (pole + end) / 2 + (reach * rng.uniform(0.25, 0.55, len(cell)))[:, None] * across
        curve = (1 - share) ** 2 * pole + 2 * share * (1 - share) * bow + share**2 * end
        plane += _splat_curves(scene, curve, cell, rng.gamma(4.0, 0.25, len(cell)) * 0.03)
        rays = rng.uniform(0, 2 * np.pi, len(cell))
        ray_um = rng.uniform(0.5, 3.0, len(cell))
        tip = pole + ray_um[:, None] * np.stack((np.cos(rays), np.sin(rays)), axis=1)
        plane += _splat_curves(scene, pole + share * (tip - pole), cell, np.full(len(cell), 0.012))
    haze = scene.spread(np.where(cells.dividing, 0.05, 0))
    return plane + haze * scene.thickness


def _splat_curves(scene: Scene, curve: np.ndarray, cell: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Draws curves given as float[S, N, 2]; `weight` is light per micrometre."""
    light = weight * np.linalg.norm(np.diff(curve, axis=0), axis=2)
    middle = (curve[1:] + curve[:-1]) / 2
    owner = np.broadcast_to(cell, light.shape)
    return emitters.splat_points(scene, middle.reshape(-1, 2), light=light.ravel(), cell=owner.ravel())


def _draw_chromatin(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    grid = scene.grid
    inside = (scene.membrane_um > 0).astype(np.float32)
    coarse, middle, fine = (grid.noise(rng, scale_um=scale) for scale in (3.0, 0.75, 0.3))
    # Dark, round gaps where the middle noise is low, as real nuclei show between their chromatin.
    texture = 0.5 + 0.06 * coarse + 0.05 * fine - 0.17 * np.clip(-middle - 0.2, 0, 1.6)
    texture *= 1 - scene.spread(rng.uniform(0.35, 0.6, len(scene.cells) + 1)) * scene.nucleolus
    texture += 0.1 * np.exp(-((scene.membrane_um - np.float32(0.3)) ** 2) * np.float32(1 / 0.08))
    plate = 0.8 + 0.1 * middle
    return inside * np.where(scene.cells.dividing[scene.cell], plate, texture)


def _draw_reticulum(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """A net along the zero lines of two noises, dense round the nucleus, and the nuclear envelope."""
    grid = scene.grid
    net = np.exp(-((grid.noise(rng, scale_um=0.7) * np.float32(1.9)) ** 2))
    net += 0.8 * np.exp(-((grid.noise(rng, scale_um=0.4) * np.float32(1.8)) ** 2))
    net *= np.clip(0.7 + 0.5 * grid.noise(rng, scale_um=0.35), 0.1, 2.2)
    spread = np.clip(0.8 + 0.3 * grid.noise(rng, scale_um=4.0), 0.25, 1.6)
    reach = scene.spread(rng.uniform(4.0, 9.0, len(scene.cells) + 1))
    outside = np.maximum(scene.nucleus_um, 0)
    sheet = (0.15 + 0.42 * np.exp(-outside / reach)) * spread * scene.thickness
    plane = sheet * (0.25 + net) * (scene.nucleus_um >= 0)
    in_nucleus = scene.membrane_um > 0
    plane += in_nucleus * (0.05 + 0.16 * np.exp(-scene.membrane_um / np.float32(0.3)))
    # The reticulum of a dividing cell lies outside the spindle.
    away = np.clip((scene.nucleus_um - 1.5) / 4.0, 0.15, 1)
    plane *= np.where(scene.cells.dividing[scene.cell], away, 1)
    return np.where(scene.cell > 0, plane, 0).astype(np.float32)

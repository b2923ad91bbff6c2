"""The green channel of the nuclear classes, drawn for every cell at equal brightness.

Each function returns float32[H, W], about 0..1 before the camera.
"""

from __future__ import annotations

import numpy as np

from beam_jobs.simulation import emitters
from beam_jobs.simulation.scene import Scene
from beam_jobs.simulation.stains import Stains


def draw_nucleoplasm(scene: Scene, stains: Stains, rng: np.random.Generator) -> np.ndarray:
    """The whole nucleus, finely grained, sparing the nucleoli."""
    grain = 0.38 + 0.06 * scene.grid.noise(rng, scale_um=0.35) + 0.07 * scene.grid.noise(rng, scale_um=1.2)
    sparing = scene.spread(rng.uniform(0.55, 0.9, len(scene.cells) + 1))
    return _in_nucleus(scene, grain * (1 - sparing * scene.nucleolus))


def draw_nuclear_membrane(scene: Scene, stains: Stains, rng: np.random.Generator) -> np.ndarray:
    """A thin ring, uneven along its length, with some folds across the nucleus and a faint inside."""
    uneven = np.clip(
        1 + 0.22 * scene.grid.noise(rng, scale_um=2.0) + 0.15 * scene.grid.noise(rng, scale_um=0.5), 0.3, 2
    )
    ring = 0.8 * np.exp(-(((scene.membrane_um - np.float32(0.25)) / np.float32(0.22)) ** 2)) * uneven
    fold = np.exp(-((scene.grid.noise(rng, scale_um=6.0) * np.float32(11)) ** 2))
    fold *= np.clip(scene.grid.noise(rng, scale_um=3.0), 0, 1.5)
    folded = scene.spread((rng.random(len(scene.cells) + 1) < 0.4) * 0.3)
    return _in_nucleus(scene, ring + 0.09 + folded * fold)


def draw_nucleoli(scene: Scene, stains: Stains, rng: np.random.Generator) -> np.ndarray:
    """The 2 to 5 nucleoli that are dark in the DNA stain, bright here, over a faint nucleoplasm."""
    texture = 0.6 + 0.12 * scene.grid.noise(rng, scale_um=0.5)
    return _in_nucleus(scene, texture * scene.nucleolus + 0.07)


def draw_fibrillar_centers(scene: Scene, stains: Stains, rng: np.random.Generator) -> np.ndarray:
    """Several tiny dots inside each nucleolus, over a faint nucleolus."""
    num_dots = np.clip(scene.nucleoli[:, 3] * rng.uniform(3.0, 6.0, len(scene.nucleoli)), 2, 9).astype(int)
    row = np.repeat(np.arange(len(num_dots)), num_dots)
    turn = rng.uniform(0, 2 * np.pi, len(row))
    out = scene.nucleoli[row, 3] * 0.78 * np.sqrt(rng.random(len(row)))
    centre = scene.nucleoli[row, 1:3] + out[:, None] * np.stack((np.cos(turn), np.sin(turn)), axis=1)
    dots = emitters.draw_spots(
        scene,
        centre,
        sigma_um=rng.uniform(0.14, 0.24, len(row)),
        peak=rng.uniform(0.5, 1.0, len(row)),
        cell=scene.nucleoli[row, 0].astype(int),
    )
    return _in_nucleus(scene, dots + 0.14 * scene.nucleolus + 0.04)


def draw_speckles(scene: Scene, stains: Stains, rng: np.random.Generator) -> np.ndarray:
    """About twenty irregular grains outside the nucleoli, over a dim nucleoplasm."""
    num_grains = rng.normal(21, 4, len(scene.cells) + 1).clip(12, 32).astype(int)
    centre, cell = emitters.random_spots(scene, rng, where=_deep_in_nucleus(scene, 0.8), num_spots=num_grains)
    size = rng.uniform(0.25, 0.55, len(cell))
    # A grain is a clump of four overlapping spots.
    grain = np.repeat(np.arange(len(cell)), 4)
    spots = emitters.draw_spots(
        scene,
        centre[grain] + rng.normal(0, 0.85, (len(grain), 2)) * size[grain][:, None],
        sigma_um=size[grain] * rng.uniform(0.6, 1.0, len(grain)),
        peak=rng.uniform(0.15, 0.42, len(grain)),
        cell=cell[grain],
    )
    return _in_nucleus(scene, (np.minimum(spots, 1.1) + 0.09) * (1 - 0.9 * scene.nucleolus))


def draw_nuclear_bodies(scene: Scene, stains: Stains, rng: np.random.Generator) -> np.ndarray:
    """2 to 10 small, round, crisp dots over a dim nucleoplasm."""
    num_dots = rng.integers(2, 11, len(scene.cells) + 1)
    centre, cell = emitters.random_spots(scene, rng, where=_deep_in_nucleus(scene, 0.9), num_spots=num_dots)
    dots = emitters.draw_spots(
        scene,
        centre,
        sigma_um=rng.uniform(0.2, 0.36, len(cell)),
        peak=rng.uniform(0.6, 1.1, len(cell)),
        cell=cell,
    )
    return _in_nucleus(scene, dots + 0.08 * (1 - 0.6 * scene.nucleolus))


def _in_nucleus(scene: Scene, plane: np.ndarray) -> np.ndarray:
    return np.where(scene.membrane_um > 0, plane, 0).astype(np.float32)


def _deep_in_nucleus(scene: Scene, depth_um: float) -> np.ndarray:
    """bool on the lattice: well inside the nucleus and outside nucleoli."""
    inside = (scene.lattice_nucleus_um < -depth_um) & (scene.lattice_cell > 0)
    rows, columns = np.nonzero(inside)
    xy = scene.grid.from_lattice(np.stack((columns, rows), axis=1))
    for cell, x, y, radius in scene.nucleoli:
        mine = (scene.lattice_cell[rows, columns] == cell) & (np.hypot(xy[:, 0] - x, xy[:, 1] - y) < radius + 0.2)
        inside[rows[mine], columns[mine]] = False
    # A nucleus that is all nucleoli or too thin has no such place: then anywhere inside it.
    bare = np.setdiff1d(scene.lattice_cell[scene.lattice_nucleus_um < 0], scene.lattice_cell[inside])
    return inside | (np.isin(scene.lattice_cell, bare[bare > 0]) & (scene.lattice_nucleus_um < 0))

"""The green channel of the classes outside the nucleus, drawn for every cell at equal brightness.

Each function returns float32[H, W], about 0..1 before the camera.
"""

from __future__ import annotations

import numpy as np

from beam_jobs.simulation import emitters
from beam_jobs.simulation import stains as stains_lib
from beam_jobs.simulation.emitters import FibreStyle
from beam_jobs.simulation.scene import Scene
from beam_jobs.simulation.stains import Stains


def draw_reticulum(scene: Scene, stains: Stains, rng: np.random.Generator) -> np.ndarray:
    """The same net as the yellow channel."""
    return stains.reticulum


def draw_golgi(scene: Scene, stains: Stains, rng: np.random.Generator) -> np.ndarray:
    """A ribbon of winding stacks round the centrosome, hugging one side of the nucleus, with a few loose vesicles."""
    num_stacks = rng.integers(9, 20, len(scene.cells) + 1)
    num_stacks[0] = 0
    cell = np.repeat(np.arange(len(num_stacks)), num_stacks)
    out = scene.centrosome_um - scene.cells.xy_um
    spread = rng.uniform(0.2, 0.6, len(num_stacks))
    turn = np.arctan2(out[:, 1], out[:, 0])[cell] + rng.normal(0, 1, len(cell)) * spread[cell]
    radius = (np.linalg.norm(out, axis=1) + 0.4)[cell] + rng.normal(0, 0.8, len(cell))
    start = scene.cells.xy_um[cell] + radius[:, None] * np.stack((np.cos(turn), np.sin(turn)), axis=1)
    fibres = emitters.trace_fibres(
        scene,
        rng,
        start_um=start,
        heading=turn + np.pi / 2 * rng.choice((-1, 1), len(cell)) + rng.normal(0, 0.6, len(cell)),
        cell=cell,
        length_um=rng.uniform(1.5, 6.0, len(cell)),
        style=FibreStyle(wander=0.5, curl=0.2, round_nucleus=2.0),
    )
    beads = np.maximum(0.9 + 0.5 * scene.grid.lattice_noise(rng, scale_um=0.6), 0.1)
    plane = emitters.splat_fibres(scene, fibres, weight=rng.uniform(0.12, 0.45, len(cell)), beads=beads)
    loose_um = start + rng.normal(0, 1.8, start.shape)
    loose = emitters.draw_spots(
        scene, loose_um, sigma_um=np.full(len(cell), 0.16), peak=rng.uniform(0.05, 0.4, len(cell)), cell=cell
    )
    plane = scene.grid.blur(plane, sigma_um=0.2) + loose
    return _outside_nucleus(scene, np.minimum(plane, 1.3) + 0.025 * scene.thickness)


def draw_intermediate_filaments(scene: Scene, stains: Stains, rng: np.random.Generator) -> np.ndarray:
    """Wavy bundles that wind round the nucleus as a cage and thin out towards the border."""
    num_fibres = (rng.uniform(0.3, 0.6, len(scene.cells) + 1) * scene.cells.radius_um**2).astype(int)
    near = (scene.lattice_cell > 0) & (scene.lattice_nucleus_um > 0.1) & (scene.lattice_nucleus_um < 5.0)
    start, cell = emitters.random_spots(scene, rng, where=near, num_spots=num_fibres)
    out = start - scene.cells.xy_um[cell]
    heading = np.arctan2(out[:, 1], out[:, 0]) + np.pi / 2 * rng.choice((-1, 1), len(cell))
    fibres = emitters.trace_fibres(
        scene,
        rng,
        start_um=start,
        heading=heading + rng.normal(0, 0.5, len(cell)),
        cell=cell,
        length_um=rng.gamma(4.0, 3.5, len(cell)),
        style=FibreStyle(wander=0.42, curl=0.06, round_nucleus=1.6),
    )
    fading = np.exp(-np.maximum(scene.lattice_nucleus_um, 0) / 5.0)
    plane = emitters.splat_fibres(scene, fibres, weight=rng.gamma(1.5, 0.09, len(cell)), beads=fading)
    return np.minimum(scene.grid.blur(plane, sigma_um=0.12), 1.4) + 0.04 * scene.thickness


def draw_actin(scene: Scene, stains: Stains, rng: np.random.Generator) -> np.ndarray:
    """Straight, parallel stress fibres across the whole cell, over the nucleus too, and a cortex."""
    num_fibres = (rng.uniform(0.2, 0.45, len(scene.cells) + 1) * scene.cells.radius_um**2).astype(int)
    start, cell = emitters.random_spots(scene, rng, where=scene.lattice_cell > 0, num_spots=num_fibres)
    bundle = scene.cells.angle + rng.normal(0, 0.25, len(num_fibres))
    heading = bundle[cell] + rng.normal(0, 0.09, len(cell))
    length_um = rng.gamma(3.0, 2.5, len(cell))
    weight = rng.gamma(1.2, 0.075, len(cell))
    beads = np.maximum(0.9 + 0.35 * scene.grid.lattice_noise(rng, scale_um=1.0), 0.1)
    plane = np.zeros(scene.grid.shape, np.float32)
    for turn in (0, np.pi):
        fibres = emitters.trace_fibres(
            scene,
            rng,
            start_um=start,
            heading=heading + turn,
            cell=cell,
            length_um=length_um,
            style=FibreStyle(wander=0.015, curl=0.004, round_nucleus=0, along_border=0.15),
        )
        plane += emitters.splat_fibres(scene, fibres, weight=weight, beads=beads)
    uneven = np.clip(0.8 + 0.4 * scene.grid.noise(rng, scale_um=3.0), 0.1, 2)
    cortex = 0.3 * np.exp(-scene.border_um / np.float32(0.4)) * uneven
    return _in_cell(scene, scene.grid.blur(plane, sigma_um=0.08) + cortex + 0.05 * scene.thickness)


def draw_microtubules(scene: Scene, stains: Stains, rng: np.random.Generator) -> np.ndarray:
    """The same fibres as the red channel."""
    return stains.microtubules


def draw_spindle(scene: Scene, stains: Stains, rng: np.random.Generator) -> np.ndarray:
    """The same spindle as the red channel, in dividing cells only."""
    return stains.spindle


def draw_centrosome(scene: Scene, stains: Stains, rng: np.random.Generator) -> np.ndarray:
    """One or two points beside the nucleus, at both poles of the spindle in dividing cells, over a faint cytosol."""
    cells = scene.cells
    everyone = np.arange(1, len(cells) + 1)
    gap = rng.uniform(0.7, 1.5, len(cells) + 1)
    turn = rng.uniform(0, 2 * np.pi, len(cells) + 1)
    offset = (gap / 2)[:, None] * np.stack((np.cos(turn), np.sin(turn)), axis=1)
    single = (rng.random(len(cells) + 1) < 0.4) & ~cells.dividing
    first = np.where(single[:, None], scene.centrosome_um, scene.centrosome_um + offset)
    second = scene.centrosome_um - offset
    first[cells.dividing] = stains_lib.pole_um(scene, side=1)[cells.dividing]
    second[cells.dividing] = stains_lib.pole_um(scene, side=-1)[cells.dividing]
    cell = np.concatenate((everyone, everyone[~single[1:]]))
    spots = emitters.draw_spots(
        scene,
        np.concatenate((first[1:], second[1:][~single[1:]])),
        sigma_um=rng.uniform(0.22, 0.36, len(cell)),
        peak=rng.uniform(0.75, 1.2, len(cell)),
        cell=cell,
    )
    return _in_cell(scene, spots + 0.045 * scene.thickness)


def draw_plasma_membrane(scene: Scene, stains: Stains, rng: np.random.Generator) -> np.ndarray:
    """The outline, strongest where cells touch, with ruffles, over a faint cytoplasm."""
    noise = scene.grid.noise(rng, scale_um=0.7)
    uneven = np.clip(0.85 + 0.25 * noise + 0.25 * scene.grid.noise(rng, scale_um=3.0), 0.15, 2)
    line = np.exp(-((scene.border_um / np.float32(0.33)) ** 2)) * (0.5 + 0.45 * scene.touch)
    ruffle = 0.12 * np.exp(-scene.border_um / np.float32(1.6)) * np.clip(noise, 0, 2)
    return _in_cell(scene, (line + ruffle) * uneven + 0.05 * scene.thickness)


def draw_mitochondria(scene: Scene, stains: Stains, rng: np.random.Generator) -> np.ndarray:
    """Short, bent threads through the cytoplasm, denser near the nucleus."""
    num_threads = (rng.uniform(0.3, 0.65, len(scene.cells) + 1) * scene.cells.radius_um**2).astype(int)
    chance = np.exp(-np.maximum(scene.lattice_nucleus_um, 0) / 7.0)
    where = _lattice_cytoplasm(scene, 0.5) & (rng.random(chance.shape) < chance)
    start, cell = emitters.random_spots(scene, rng, where=where, num_spots=num_threads)
    out = start - scene.cells.xy_um[cell]
    fibres = emitters.trace_fibres(
        scene,
        rng,
        start_um=start,
        heading=np.arctan2(out[:, 1], out[:, 0]) + rng.normal(0, 1.0, len(cell)),
        cell=cell,
        length_um=rng.gamma(3.0, 0.8, len(cell)) + 0.4,
        style=FibreStyle(wander=0.5, curl=0.2, round_nucleus=2.0),
    )
    plane = scene.grid.blur(
        emitters.splat_fibres(scene, fibres, weight=rng.gamma(4.0, 0.045, len(cell))), sigma_um=0.17
    )
    return _outside_nucleus(scene, np.minimum(plane, 1.2) + 0.03 * scene.thickness)


def draw_aggresome(scene: Scene, stains: Stains, rng: np.random.Generator) -> np.ndarray:
    """One big clump beside the nucleus, over a dim, grained cytoplasm."""
    everyone = np.arange(1, len(scene.cells) + 1)
    out = scene.centrosome_um - scene.cells.xy_um
    size = rng.uniform(0.8, 1.5, len(out))
    centre = scene.centrosome_um + out / np.linalg.norm(out, axis=1, keepdims=True).clip(1e-3) * size[:, None]
    cell = np.repeat(everyone, 24)
    clump = emitters.draw_spots(
        scene,
        centre[cell] + rng.normal(0, 0.55, (len(cell), 2)) * size[cell][:, None],
        sigma_um=size[cell] * rng.uniform(0.3, 0.5, len(cell)),
        peak=rng.uniform(0.08, 0.27, len(cell)),
        cell=cell,
    )
    grain = np.clip(0.045 + 0.02 * scene.grid.noise(rng, scale_um=0.4), 0, 1) * scene.thickness
    return _in_cell(scene, np.minimum(clump, 1.2) * (scene.nucleus_um > 0) + grain)


def draw_cytosol(scene: Scene, stains: Stains, rng: np.random.Generator) -> np.ndarray:
    """Smooth everywhere outside the nucleus, fading with the cell's height; the nucleus is darker."""
    smooth = 0.36 + 0.05 * scene.grid.noise(rng, scale_um=5.0) + 0.03 * scene.grid.noise(rng, scale_um=0.6)
    residue = scene.spread(rng.uniform(0.08, 0.3, len(scene.cells) + 1))
    return _in_cell(scene, scene.thickness * smooth * np.where(scene.nucleus_um < 0, residue, 1))


def draw_vesicles(scene: Scene, stains: Stains, rng: np.random.Generator) -> np.ndarray:
    """Many dots of several sizes in the cytoplasm."""
    num_dots = (rng.uniform(0.2, 0.75, len(scene.cells) + 1) * scene.cells.radius_um**2).astype(int)
    chance = np.exp(-np.maximum(scene.lattice_nucleus_um, 0) / 12.0)
    where = _lattice_cytoplasm(scene, 0.4) & (rng.random(chance.shape) < chance)
    centre, cell = emitters.random_spots(scene, rng, where=where, num_spots=num_dots)
    dots = emitters.draw_spots(
        scene,
        centre,
        sigma_um=np.clip(rng.lognormal(-1.75, 0.35, len(cell)), 0.1, 0.5),
        peak=rng.gamma(2.0, 0.17, len(cell)),
        cell=cell,
    )
    return _outside_nucleus(scene, np.minimum(dots, 1.3) + 0.035 * scene.thickness)


def draw_negative(scene: Scene, stains: Stains, rng: np.random.Generator) -> np.ndarray:
    """Nothing but the autofluorescence that every cell has (see `draw_autofluorescence`)."""
    return np.zeros(scene.grid.shape, np.float32)


def draw_autofluorescence(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """The faint, structureless light of unstained cells and of antibody that sticks anywhere."""
    grain = np.clip(1 + 0.15 * scene.grid.noise(rng, scale_um=0.3) + 0.2 * scene.grid.noise(rng, scale_um=4.0), 0, 3)
    return _in_cell(scene, 0.035 * scene.thickness * grain)


def _in_cell(scene: Scene, plane: np.ndarray) -> np.ndarray:
    return np.where(scene.cell > 0, plane, 0).astype(np.float32)


def _outside_nucleus(scene: Scene, plane: np.ndarray) -> np.ndarray:
    return np.where((scene.cell > 0) & (scene.nucleus_um > -0.2), plane, 0).astype(np.float32)


def _lattice_cytoplasm(scene: Scene, margin_um: float) -> np.ndarray:
    return (scene.lattice_border_um > margin_um) & (scene.lattice_nucleus_um > margin_um)

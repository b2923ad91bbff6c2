"""One field as every stain and pattern sees it: who owns each pixel, how deep it lies, where the organelles' anchors are."""

from __future__ import annotations

import dataclasses
import functools

import cv2
import numpy as np
from scipy import ndimage

from beam_jobs.simulation import cells as cells_lib
from beam_jobs.simulation.cells import Cells
from beam_jobs.simulation.grid import LATTICE_UM, Grid


@dataclasses.dataclass(frozen=True)
class Scene:
    """A field without its stains. Cells are numbered from 1 in drawing order; 0 is background.

    Attributes:
      grid: size and scale.
      cells: positions and shapes.
      cell: uint16[H, W], the cell that owns a pixel.
      border_um: float32[H, W], depth below the own cell's border; 0 in the background.
      nucleus_um: float32[H, W], distance from the own nucleus' surface along the ray, negative inside.
      membrane_um: float32[H, W], depth below the nucleus' surface; 0 outside nuclei.
      touch: float32[H, W], 1 where the surroundings are cells, towards 0 at a free border.
      lattice_cell: uint16, the same as `cell` on the lattice.
      lattice_border_um: float32, the same as `border_um` on the lattice.
      lattice_nucleus_um: float32, the same as `nucleus_um` on the lattice.
      centrosome_um: float[N + 1, 2], the microtubule-organising centre of each cell.
      nucleoli: float[M, 4], a row each: cell, x, y, radius (micrometres).
      nucleolus: float32[H, W], 1 inside nucleoli with soft edges.
    """

    grid: Grid
    cells: Cells
    cell: np.ndarray
    border_um: np.ndarray
    nucleus_um: np.ndarray
    membrane_um: np.ndarray
    touch: np.ndarray
    lattice_cell: np.ndarray
    lattice_border_um: np.ndarray
    lattice_nucleus_um: np.ndarray
    centrosome_um: np.ndarray
    nucleoli: np.ndarray
    nucleolus: np.ndarray

    @functools.cached_property
    def thickness(self) -> np.ndarray:
        """Height of the cell at each pixel, 0..1: low at a free border, full some micrometres inside."""
        edge = np.exp(self.border_um * np.float32(-1 / 2.0))
        return 1 - edge * (np.float32(0.95) - np.float32(0.35) * self.touch)

    def spread(self, values: np.ndarray) -> np.ndarray:
        """Gives every pixel its cell's value: float32[H, W] from one value a cell, entry 0 for the background."""
        return np.take(values.astype(np.float32), self.cell)


def draw_scene(grid: Grid, rng: np.random.Generator, *, crowding: float, dividing_share: float) -> Scene:
    """Draws the cells of a field and measures the distances in it.

    Args:
      grid: the field.
      rng: the field's generator.
      crowding: 0..1.
      dividing_share: share of cells in metaphase.
    """
    cells = cells_lib.draw_cells(grid, rng, crowding=crowding, dividing_share=dividing_share)
    (cell, nucleus_um), (lattice_cell, lattice_nucleus_um) = cells_lib.draw_outlines(grid, cells, rng)
    cell = _keep_main_part(cell, nucleus_um)
    nucleus_um[cell == 0] = 99
    border_um = _depth(cell) * np.float32(grid.pixel_size_um)
    in_nucleus = ((nucleus_um < 0) & (cell > 0)).astype(np.uint8)
    membrane_um = cv2.distanceTransform(in_nucleus, cv2.DIST_L2, 5) * np.float32(grid.pixel_size_um)
    covered = grid.blur((cell > 0).astype(np.float32), sigma_um=0.8)
    nucleoli = _draw_nucleoli(cells, rng)
    return Scene(
        grid=grid,
        cells=cells,
        cell=cell,
        border_um=border_um,
        nucleus_um=nucleus_um,
        membrane_um=membrane_um,
        touch=np.clip(covered * 2 - 1, 0, 1),
        lattice_cell=lattice_cell,
        lattice_border_um=_depth(lattice_cell) * np.float32(LATTICE_UM),
        lattice_nucleus_um=lattice_nucleus_um,
        centrosome_um=_draw_centrosomes(cells, rng),
        nucleoli=nucleoli,
        nucleolus=_fill_nucleoli(grid, nucleoli, membrane_um, rng),
    )


def _keep_main_part(cell: np.ndarray, nucleus_um: np.ndarray) -> np.ndarray:
    """Takes islands away that a neighbour has cut off: every cell is one piece."""
    cell = cell.copy()
    for number, box in enumerate(ndimage.find_objects(cell), start=1):
        if box is None:
            continue
        mine = (cell[box] == number).astype(np.uint8)
        count, parts, stats, _ = cv2.connectedComponentsWithStats(mine, connectivity=4)
        if count > 2:
            sizes = stats[:, cv2.CC_STAT_AREA].astype(float)
            sizes[0] = -1
            # The part with the nucleus wins over a larger one without it.
            sizes[1:] += 1e9 * np.bincount(parts[nucleus_um[box] < 0], minlength=count)[1:]
            cell[box][(mine > 0) & (parts != int(sizes.argmax()))] = 0
    return cell


def _depth(cell: np.ndarray) -> np.ndarray:
    """Distance of each pixel to the nearest one of another cell or of the background; 0 in the background."""
    inside = (cell > 0).astype(np.uint8)
    across = cell[:, 1:] != cell[:, :-1]
    down = cell[1:] != cell[:-1]
    inside[:, 1:][across] = 0
    inside[1:][down] = 0
    return cv2.distanceTransform(inside, cv2.DIST_L2, 5)


def _draw_centrosomes(cells: Cells, rng: np.random.Generator) -> np.ndarray:
    """Puts the centrosome just outside the nucleus, on the side where the cell has more room."""
    centres = cells.xy_um.copy()
    for cell in range(1, len(cells) + 1):
        theta = rng.uniform(0, 2 * np.pi, 4)
        body, nucleus = cells_lib.outline_um(cells, cell, theta)
        best = int(np.argmax(body - nucleus))
        gap = min(rng.uniform(0.7, 2.2), 0.5 * float(body[best] - nucleus[best]))
        turn = theta[best] + cells.angle[cell]
        centres[cell] += (float(nucleus[best]) + gap) * np.array([np.cos(turn), np.sin(turn)])
    return centres


def _draw_nucleoli(cells: Cells, rng: np.random.Generator) -> np.ndarray:
    """Draws 2 to 5 nucleoli a nucleus, apart from each other; dividing cells have none."""
    rows = []
    for cell in range(1, len(cells) + 1):
        wanted = int(rng.integers(2, 6))
        if cells.dividing[cell]:
            continue
        mine: list[tuple[float, float, float]] = []
        size_um = float(cells.nucleus_radii_um[cell].min())
        for _ in range(40):
            turn, out = rng.uniform(0, 2 * np.pi), np.sqrt(rng.uniform(0.0, 0.45))
            radius = size_um * rng.uniform(0.13, 0.26) / np.sqrt(max(1.0, wanted / 3))
            nucleus = cells_lib.outline_um(cells, cell, np.array([turn]))[1][0]
            heading = turn + cells.angle[cell]
            x, y = cells.xy_um[cell] + out * nucleus * np.array([np.cos(heading), np.sin(heading)])
            if all(np.hypot(x - a, y - b) > radius + c + 0.9 for a, b, c in mine):
                mine.append((x, y, radius))
            if len(mine) == wanted:
                break
        rows += [(cell, *spot) for spot in mine]
    return np.array(rows, dtype=float).reshape(-1, 4)


def _fill_nucleoli(grid: Grid, nucleoli: np.ndarray, membrane_um: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draws the nucleoli as irregular discs with soft edges: float32[H, W], 0..1."""
    plane = np.zeros(grid.shape, np.float32)
    pixel = grid.pixel_size_um
    waves = rng.normal(0, 0.08, (len(nucleoli), 2, 2))
    for (_, x, y, radius), wave in zip(nucleoli, waves, strict=True):
        x_min, x_max = (int(np.clip((x + side * 1.6 * radius) / pixel, 0, grid.width_px)) for side in (-1, 1))
        y_min, y_max = (int(np.clip((y + side * 1.6 * radius) / pixel, 0, grid.height_px)) for side in (-1, 1))
        if x_min == x_max or y_min == y_max:
            continue
        down, across = np.mgrid[y_min:y_max, x_min:x_max].astype(np.float32)
        dy, dx = (down + 0.5) * pixel - y, (across + 0.5) * pixel - x
        turn = np.arctan2(dy, dx)
        edge = 1 + sum(a * np.cos(k * turn) + b * np.sin(k * turn) for k, (a, b) in enumerate(wave, start=2))
        part = np.clip((radius * edge - np.hypot(dx, dy)) / 0.45 + 0.5, 0, 1).astype(np.float32)
        where = np.s_[y_min:y_max, x_min:x_max]
        np.maximum(plane[where], part, out=plane[where])
    return plane * np.clip((membrane_um - np.float32(0.4)) / np.float32(0.4), 0, 1)

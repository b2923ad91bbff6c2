"""Fluorescent points: fibres and spots as clouds of points that the camera's blur makes into lines and discs.

Points are placed between pixels and share their light among the four nearest, so a fibre has the same brightness per
micrometre at any angle and any pixel size.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from beam_jobs.simulation.grid import LATTICE_UM
from beam_jobs.simulation.scene import Scene

# One lattice point a step.
_STEP_UM = LATTICE_UM


@dataclasses.dataclass(frozen=True)
class FibreStyle:
    """How fibres run.

    Attributes:
      wander: random change of direction, radians per square root of a micrometre.
      curl: spread of the constant curvature of each fibre, radians per micrometre.
      round_nucleus: how hard a fibre turns away from the nucleus, radians per micrometre; 0 lets it cross.
      along_border: how hard it turns along the cell's border, radians per micrometre.
    """

    wander: float = 0.15
    curl: float = 0.04
    round_nucleus: float = 1.2
    along_border: float = 1.0


@dataclasses.dataclass(frozen=True)
class Fibres:
    """Traced fibres as M short straight pieces.

    Attributes:
      first_um: float32[M, 2], where each piece starts.
      last_um: float32[M, 2], where it ends.
      fibre: int[M], the fibre it belongs to.
      cell: int[M], the cell it lies in.
    """

    first_um: np.ndarray
    last_um: np.ndarray
    fibre: np.ndarray
    cell: np.ndarray


def trace_fibres(
    scene: Scene,
    rng: np.random.Generator,
    *,
    start_um: np.ndarray,
    heading: np.ndarray,
    cell: np.ndarray,
    length_um: np.ndarray,
    style: FibreStyle,
) -> Fibres:
    """Lets fibres grow from their starts, bending along the nucleus and the border of their cell.

    Args:
      scene: the field.
      rng: the field's generator.
      start_um: float[N, 2].
      heading: float[N], radians.
      cell: int[N], the cell that a fibre must not leave.
      length_um: float[N].
      style: how they bend.
    """
    step_um = np.float32(_STEP_UM)
    xy, heading = start_um.astype(np.float32), heading.astype(np.float32)
    curl = rng.normal(0, style.curl, len(cell)).astype(np.float32)
    outward = np.gradient(scene.lattice_nucleus_um, step_um)[::-1]
    inward = np.gradient(scene.lattice_border_um, step_um)[::-1]
    growing = np.arange(len(cell))
    pieces = [(xy[:0], xy[:0], growing[:0])]
    for step in range(int(np.ceil(length_um.max(initial=0) / _STEP_UM))):
        here = scene.grid.lattice_index(xy)
        goes_on = (scene.lattice_cell[here] == cell[growing]) & (step * _STEP_UM < length_um[growing])
        growing, xy, heading = growing[goes_on], xy[goes_on], heading[goes_on]
        here = here[0][goes_on], here[1][goes_on]
        direction = np.stack((np.cos(heading), np.sin(heading)), axis=1)
        wander = rng.standard_normal(len(growing), dtype=np.float32) * np.float32(style.wander / _STEP_UM**0.5)
        turn = curl[growing] + wander
        if style.round_nucleus:
            nearness = np.exp(-np.maximum(scene.lattice_nucleus_um[here], 0))
            turn += _turn_to(direction, outward[0][here], outward[1][here]) * nearness * np.float32(style.round_nucleus)
        nearness = np.exp(scene.lattice_border_um[here] * np.float32(-1 / 1.5))
        turn += _turn_to(direction, inward[0][here], inward[1][here]) * nearness * np.float32(style.along_border)
        heading = heading + turn * step_um
        pieces.append((xy, xy + direction * step_um, growing))
        xy = pieces[-1][1]
    first, last, fibre = (np.concatenate(parts) for parts in zip(*pieces, strict=True))
    return Fibres(first_um=first, last_um=last, fibre=fibre, cell=cell[fibre])


def _turn_to(direction: np.ndarray, to_x: np.ndarray, to_y: np.ndarray) -> np.ndarray:
    """Sense and urgency, -1..1, of the turn that stops a direction from running against (to_x, to_y)."""
    against = np.clip(0.15 - (direction[:, 0] * to_x + direction[:, 1] * to_y), 0, 1)
    return np.sign(direction[:, 0] * to_y - direction[:, 1] * to_x) * against


def splat_fibres(scene: Scene, fibres: Fibres, *, weight: np.ndarray, beads: np.ndarray | None = None) -> np.ndarray:
    """Draws fibres as light per square micrometre: float32[H, W].

    Args:
      scene: the field.
      fibres: what to draw.
      weight: float[N], light of each fibre per micrometre.
      beads: float32 lattice field that modulates the light along the fibres.
    """
    # Points a good pixel apart leave no gaps after the blur; the light of a piece is shared among its points.
    points = int(np.clip(np.ceil(_STEP_UM / (1.4 * scene.grid.pixel_size_um)), 1, 8))
    light = weight.astype(np.float32)[fibres.fibre] * np.float32(_STEP_UM / points)
    if beads is not None:
        light *= beads[scene.grid.lattice_index(fibres.first_um)]
    plane = np.zeros(scene.grid.shape, np.float32)
    for share in (np.arange(points) + 0.5) / points:
        xy_um = fibres.first_um + (fibres.last_um - fibres.first_um) * np.float32(share)
        _add_points(plane, scene, xy_um, light=light, cell=fibres.cell)
    return plane


def splat_points(scene: Scene, xy_um: np.ndarray, *, light: np.ndarray, cell: np.ndarray) -> np.ndarray:
    """Draws points as light per square micrometre: float32[H, W]; points outside their own cell are left out.

    Args:
      scene: the field.
      xy_um: float[N, 2].
      light: float[N], light of each point.
      cell: int[N], its cell.
    """
    plane = np.zeros(scene.grid.shape, np.float32)
    _add_points(plane, scene, xy_um, light=light, cell=cell)
    return plane


def _add_points(plane: np.ndarray, scene: Scene, xy_um: np.ndarray, *, light: np.ndarray, cell: np.ndarray) -> None:
    height, width = scene.grid.shape
    pixel = np.float32(scene.grid.pixel_size_um)
    x, y = (xy_um[:, axis].astype(np.float32) / pixel for axis in (0, 1))
    # Half a pixel in from the edge, so that all four neighbours exist.
    ok = (x > 0.5) & (y > 0.5) & (x < width - 0.5) & (y < height - 0.5)
    ok[ok] = scene.cell[y[ok].astype(np.int64), x[ok].astype(np.int64)] == cell[ok]
    x, y = x[ok] - np.float32(0.5), y[ok] - np.float32(0.5)
    light = light[ok].astype(np.float32) / (pixel * pixel)
    column = np.minimum(x.astype(np.int64), width - 2)
    row = np.minimum(y.astype(np.int64), height - 2)
    right, low = (x - column).astype(np.float32), (y - row).astype(np.float32)
    base = row * width + column
    flat = plane.reshape(-1)
    np.add.at(flat, base, light * (1 - right) * (1 - low))
    np.add.at(flat, base + 1, light * right * (1 - low))
    np.add.at(flat, base + width, light * (1 - right) * low)
    np.add.at(flat, base + width + 1, light * right * low)


def draw_spots(
    scene: Scene, xy_um: np.ndarray, *, sigma_um: np.ndarray, peak: np.ndarray, cell: np.ndarray
) -> np.ndarray:
    """Draws round spots: float32[H, W], each of its own size and brightness.

    Args:
      scene: the field.
      xy_um: float[N, 2].
      sigma_um: float[N], sizes; rounded to four steps between the least and the greatest.
      peak: float[N], brightness in the middle.
      cell: int[N], the cell of each.
    """
    plane = np.zeros(scene.grid.shape, np.float32)
    if not len(xy_um):
        return plane
    edges = np.quantile(sigma_um, [0.25, 0.5, 0.75])
    bins = np.searchsorted(edges, sigma_um)
    for size in range(4):
        mine = bins == size
        if mine.any():
            sigma = float(sigma_um[mine].mean())
            light = peak[mine] * (2 * np.pi * sigma**2)
            plane += scene.grid.blur(splat_points(scene, xy_um[mine], light=light, cell=cell[mine]), sigma_um=sigma)
    return plane


def random_spots(
    scene: Scene, rng: np.random.Generator, *, where: np.ndarray, num_spots: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Draws positions evenly over a region of each cell.

    Args:
      scene: the field.
      rng: the field's generator.
      where: bool on the lattice, the allowed region of all cells.
      num_spots: int[N + 1], how many each cell gets if it has the region.

    Returns:
      float[M, 2] positions in micrometres, int[M] cells.
    """
    rows, columns = np.nonzero(where)
    owner = scene.lattice_cell[rows, columns]
    order = np.argsort(owner, kind="stable")
    counts = np.bincount(owner, minlength=len(scene.cells) + 1)
    starts = np.concatenate(([0], np.cumsum(counts)[:-1]))
    wanted = np.where(counts > 0, num_spots, 0)
    wanted[0] = 0
    cell = np.repeat(np.arange(len(wanted)), wanted)
    picks = order[starts[cell] + (rng.random(len(cell)) * counts[cell]).astype(int)]
    from_lattice = np.stack((columns[picks], rows[picks]), axis=1) + rng.uniform(-0.5, 0.5, (len(cell), 2))
    return scene.grid.from_lattice(from_lattice), cell

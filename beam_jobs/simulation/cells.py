"""Where the cells of a field lie, and the outlines of cells and nuclei.

A cell is a star-shaped region round its nucleus. Where cells meet, the border runs where both are equally far from
their centres measured in their own radii, so crowded cells touch along curved lines and sparse ones keep their shape.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from beam_jobs.simulation.grid import LATTICE_UM, MARGIN_UM, Grid

# Harmonics of the outline; the first one shifts the cell away from its nucleus.
_CELL_ORDERS = np.arange(1, 7)
_NUCLEUS_ORDERS = np.arange(2, 5)


@dataclasses.dataclass(frozen=True)
class Cells:
    """Positions and shapes, one entry a cell; entry 0 is the background and unused.

    Attributes:
      xy_um: float[N + 1, 2], centres of the nuclei.
      angle: float[N + 1], direction of the long axis, radians.
      radius_um: float[N + 1], mean radius of the cell if it had space.
      elongation: float[N + 1], long by short axis of the cell.
      nucleus_radii_um: float[N + 1, 2], half axes of the nucleus.
      waves: float[N + 1, 6, 2], cosine and sine parts of the cell's outline.
      nucleus_waves: float[N + 1, 3, 2], the same of the nucleus.
      corners: float[N + 1, 3, 3], angle, height and sharpness of the cell's pointed ends.
      dividing: bool[N + 1], in metaphase: round, the chromosomes in a plate across `angle`.
    """

    xy_um: np.ndarray
    angle: np.ndarray
    radius_um: np.ndarray
    elongation: np.ndarray
    nucleus_radii_um: np.ndarray
    waves: np.ndarray
    nucleus_waves: np.ndarray
    corners: np.ndarray
    dividing: np.ndarray

    def __len__(self) -> int:
        return len(self.angle) - 1


def draw_cells(grid: Grid, rng: np.random.Generator, *, crowding: float, dividing_share: float) -> Cells:
    """Draws positions and shapes of a field's cells; all cells of a field are of one kind, as in a cell line.

    Args:
      grid: the field.
      rng: the field's generator.
      crowding: 0 = few cells on an empty slide, 1 = a closed layer.
      dividing_share: share of cells in metaphase.
    """
    mean_radius_um = rng.uniform(13.0, 15.5)
    area_um2 = (grid.height_um + MARGIN_UM) * (grid.width_um + MARGIN_UM)
    wanted = max(1, round(area_um2 * (0.12 + 1.05 * crowding) / (np.pi * mean_radius_um**2)))
    nucleus_um = mean_radius_um * rng.uniform(0.48, 0.58) * np.exp(rng.normal(0, 0.13, wanted + 1))
    dividing = rng.random(wanted + 1) < dividing_share
    xy_um = _place(grid, rng, reach_um=np.where(dividing, 7.5, nucleus_um), mean_radius_um=mean_radius_um)
    size = len(xy_um)
    nucleus_um, dividing = nucleus_um[:size], dividing[:size]
    aspect = rng.uniform(1.05, 1.75, size)
    plate = np.stack((rng.uniform(1.5, 2.1, size), rng.uniform(4.8, 6.5, size)), axis=1)
    oval = np.stack((nucleus_um * np.sqrt(aspect), nucleus_um / np.sqrt(aspect)), axis=1)
    calm = np.where(dividing, 0.2, 1.0)[:, None, None]
    corners = np.stack(
        (
            rng.uniform(0, 2 * np.pi, (size, 3)),
            rng.uniform(0.0, rng.uniform(0.3, 0.9), (size, 3)),
            rng.uniform(8, 50, (size, 3)),
        ),
        axis=2,
    )
    # Two of the pointed ends lie along the long axis, as in spread cells.
    corners[:, 0, 0] = rng.normal(0, 0.25, size)
    corners[:, 1, 0] = np.pi + rng.normal(0, 0.25, size)
    corners[dividing, :, 1] = 0
    stretch = 1 + rng.gamma(2.0, rng.uniform(0.1, 0.4), size)
    falling = 0.17 / _CELL_ORDERS[None, :, None] ** 0.8
    return Cells(
        xy_um=xy_um,
        angle=rng.uniform(0, 2 * np.pi, size),
        radius_um=np.where(dividing, rng.uniform(8.5, 11.0, size), mean_radius_um * np.exp(rng.normal(0, 0.16, size))),
        elongation=np.where(dividing, 1.0, np.minimum(stretch, 2.6)),
        nucleus_radii_um=np.where(dividing[:, None], plate, oval),
        waves=rng.normal(0, 1, (size, len(_CELL_ORDERS), 2)) * falling * calm,
        nucleus_waves=rng.normal(0, 0.045, (size, len(_NUCLEUS_ORDERS), 2)),
        corners=corners,
        dividing=dividing,
    )


def _place(grid: Grid, rng: np.random.Generator, *, reach_um: np.ndarray, mean_radius_um: float) -> np.ndarray:
    """Throws nuclei onto the field, none upon another: float[N + 1, 2]. Crowded fields may take fewer than wanted."""
    half = MARGIN_UM / 2
    low, high = np.array([-half, -half]), np.array([grid.width_um + half, grid.height_um + half])
    clustering = rng.uniform(0.0, 0.6)
    placed = np.zeros((1, 2))
    for index in range(1, len(reach_um)):
        for _ in range(60):
            if index == 1:
                # The first one lies well inside, so that no field is without a cell.
                spot = rng.uniform(0.3, 0.7, 2) * (grid.width_um, grid.height_um)
            elif rng.random() < clustering:
                heading = rng.uniform(0, 2 * np.pi)
                gap = mean_radius_um * rng.uniform(1.2, 2.0)
                spot = placed[rng.integers(1, len(placed))] + gap * np.array([np.cos(heading), np.sin(heading)])
            else:
                spot = rng.uniform(low, high)
            gaps = np.hypot(*(placed[1:] - spot).T) - 1.12 * (reach_um[1 : len(placed)] + reach_um[len(placed)])
            if (spot >= low).all() and (spot <= high).all() and (gaps > 1.0).all():
                placed = np.vstack((placed, spot))
                break
    return placed


def outline_um(cells: Cells, cell: int, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Radii of a cell and of its nucleus in the directions `theta` (radians from the long axis): float32 twice."""
    long_um, short_um = cells.nucleus_radii_um[cell]
    nucleus = long_um * short_um / np.hypot(short_um * np.cos(theta), long_um * np.sin(theta))
    wave = np.zeros_like(theta)
    for order, (cosine, sine) in zip(_NUCLEUS_ORDERS, cells.nucleus_waves[cell], strict=True):
        wave += cosine * np.cos(order * theta) + sine * np.sin(order * theta)
    nucleus = nucleus * (1 + wave)
    stretch = np.sqrt(cells.elongation[cell])
    body = cells.radius_um[cell] / np.hypot(np.cos(theta) / stretch, np.sin(theta) * stretch)
    wave = np.zeros_like(theta)
    for order, (cosine, sine) in zip(_CELL_ORDERS, cells.waves[cell], strict=True):
        wave += cosine * np.cos(order * theta) + sine * np.sin(order * theta)
    for angle, height, sharpness in cells.corners[cell]:
        wave += height * np.exp(sharpness * (np.cos(theta - angle) - 1))
    body = np.maximum(body * np.maximum(1 + wave, 0.4), 1.1 * nucleus + 1.2)
    return body.astype(np.float32), nucleus.astype(np.float32)


def draw_outlines(
    grid: Grid, cells: Cells, rng: np.random.Generator
) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Fills the field with the cells.

    Returns:
      Twice (cell, nucleus_um), first for the pixels, then for the lattice: uint16 number of the cell, 0 where there is
      none, and float32 distance from the surface of the own cell's nucleus in micrometres along the ray from its
      centre, negative inside.
    """
    shapes = grid.shape, grid.lattice_shape
    best = [np.ones(shape, np.float32) for shape in shapes]
    number = [np.zeros(shape, np.uint16) for shape in shapes]
    nucleus_um = [np.full(shape, 99.0, np.float32) for shape in shapes]
    rough = [
        2.2 * grid.lattice_noise(rng, scale_um=9.0) + 0.15 * grid.lattice_noise(rng, scale_um=2.5) for _ in range(2)
    ]
    for cell in range(1, len(cells) + 1):
        row, column, ratio, depth = _lattice_box(grid, cells, cell, rough)
        if not ratio.size:
            continue
        box = _pixel_box(grid, row, column, ratio.shape)
        fine_ratio = grid.lattice_to_pixels(ratio, row=row, column=column, box=box)
        fine_depth = grid.lattice_to_pixels(depth, row=row, column=column, box=box)
        parts = (
            (np.s_[box[0] : box[1], box[2] : box[3]], fine_ratio, fine_depth),
            (
                np.s_[row : row + ratio.shape[0], column : column + ratio.shape[1]],
                ratio,
                depth,
            ),
        )
        for raster, (where, part_ratio, part_depth) in enumerate(parts):
            # A nucleus and a rim round it always belong to their own cell.
            score = np.where(part_depth < 0.5, part_depth - 100, part_ratio)
            wins = score < best[raster][where]
            np.copyto(best[raster][where], score, where=wins)
            np.copyto(number[raster][where], np.uint16(cell), where=wins)
            np.copyto(nucleus_um[raster][where], part_depth, where=wins)
    return (number[0], nucleus_um[0]), (number[1], nucleus_um[1])


def _lattice_box(
    grid: Grid, cells: Cells, cell: int, rough: list[np.ndarray]
) -> tuple[int, int, np.ndarray, np.ndarray]:
    theta = np.linspace(0, 2 * np.pi, 721)
    body, nucleus = outline_um(cells, cell, theta)
    # Dividing cells round up: the roughness hardly bends them.
    calm = np.float32(0.25 if cells.dividing[cell] else 1.0)
    x_um, y_um = cells.xy_um[cell]
    down_um, across_um = body * np.sin(theta + cells.angle[cell]), body * np.cos(theta + cells.angle[cell])
    rows, columns = grid.lattice_shape
    row, row_end = _lattice_range(y_um + down_um.min(), y_um + down_um.max(), rows)
    column, column_end = _lattice_range(x_um + across_um.min(), x_um + across_um.max(), columns)
    down, across = np.mgrid[row:row_end, column:column_end].astype(np.float32)
    dy = down * LATTICE_UM - MARGIN_UM - y_um
    dx = across * LATTICE_UM - MARGIN_UM - x_um
    # The roughness bends the outline of the cell, not that of its nucleus.
    nucleus_distance, turn = _polar(dx, dy, cells.angle[cell])
    depth = nucleus_distance - np.interp(turn, theta, nucleus).astype(np.float32)
    distance, turn = _polar(
        dx + calm * rough[0][row:row_end, column:column_end],
        dy + calm * rough[1][row:row_end, column:column_end],
        cells.angle[cell],
    )
    return row, column, distance / np.interp(turn, theta, body).astype(np.float32), depth


def _lattice_range(low_um: float, high_um: float, size: int) -> tuple[int, int]:
    """Lattice rows or columns that cover a range with room for the roughness."""
    room_um = 5.0
    first, last = (
        int(np.clip((edge + MARGIN_UM) / LATTICE_UM, 0, size)) for edge in (low_um - room_um, high_um + room_um)
    )
    return first, last


def _polar(dx: np.ndarray, dy: np.ndarray, angle: float) -> tuple[np.ndarray, np.ndarray]:
    return np.hypot(dx, dy), np.mod(np.arctan2(dy, dx) - np.float32(angle), np.float32(2 * np.pi))


def _pixel_box(grid: Grid, row: int, column: int, shape: tuple[int, int]) -> tuple[int, int, int, int]:
    scale = LATTICE_UM / grid.pixel_size_um
    shift = MARGIN_UM / grid.pixel_size_um
    y_min, y_max = (int(np.clip(k * scale - shift, 0, grid.height_px)) for k in (row, row + shape[0] - 1))
    x_min, x_max = (int(np.clip(k * scale - shift, 0, grid.width_px)) for k in (column, column + shape[1] - 1))
    return y_min, y_max, x_min, x_max

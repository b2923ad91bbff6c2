"""The stains and the 19 protein patterns of simulated FOVs keep their promises, measured cell by cell."""

import dataclasses
import functools

import numpy as np
import pytest
from scipy import ndimage
from skimage import feature, measure

from beam_jobs.simulation import fov as fov_lib
from beam_jobs.simulation.fov import SimulatedFov, simulate_fov
from hpa_proto import schema
from hpa_proto.labels import LABEL_NAMES, NEGATIVE, NUM_LABELS

UM = 0.16
SIDE_PX = 640
PLANE = {name: index for index, name in enumerate(schema.CHANNELS)}


@functools.cache
def class_fov(label: int) -> SimulatedFov:
    return simulate_fov([label], seed=(3, label), height_px=SIDE_PX, width_px=SIDE_PX, pixel_size_um=UM, crowding=0.4)


@functools.cache
def class_cells(label: int) -> list:
    return whole_cells(class_fov(label))


@dataclasses.dataclass(frozen=True)
class CellView:
    """One whole cell: channels as float 0..1 (0 outside the cell), masks, depths in micrometres."""

    red: np.ndarray
    green: np.ndarray
    blue: np.ndarray
    yellow: np.ndarray
    body: np.ndarray
    nucleus: np.ndarray
    body_depth_um: np.ndarray
    nucleus_depth_um: np.ndarray
    nucleus_distance_um: np.ndarray

    @property
    def cytoplasm(self) -> np.ndarray:
        return self.body & ~self.nucleus

    def spots(self, level: float) -> list:
        """Connected regions of the green channel above a share of its own peak, at least 4 px large."""
        smooth = ndimage.gaussian_filter(self.green, 0.7)
        regions = measure.regionprops(measure.label(smooth > level * smooth.max()))
        return [region for region in regions if region.area >= 4]

    def peaks(self, level: float) -> np.ndarray:
        smooth = ndimage.gaussian_filter(self.green, 0.7)
        return feature.peak_local_max(smooth, min_distance=2, threshold_abs=level * smooth.max())

    def correlation(self, plane: np.ndarray, where: np.ndarray) -> float:
        return float(np.corrcoef(self.green[where], plane[where])[0, 1])

    def alignment(self) -> float:
        """How parallel the structures are, 0..1: coherence of the mean structure tensor."""
        dy, dx = np.gradient(ndimage.gaussian_filter(self.green, 0.8))
        inside = self.body_depth_um > 1.5
        xx, yy, xy = (float((a * b)[inside].mean()) for a, b in ((dx, dx), (dy, dy), (dx, dy)))
        return float(np.hypot(xx - yy, 2 * xy) / (xx + yy))


def whole_cells(simulated: SimulatedFov) -> list[CellView]:
    views = []
    white = np.iinfo(simulated.image.dtype).max
    for index, box in enumerate(ndimage.find_objects(simulated.cell_mask), start=1):
        if any(side.start == 0 or side.stop == size for side, size in zip(box, simulated.cell_mask.shape, strict=True)):
            continue
        box = tuple(slice(side.start - 1, side.stop + 1) for side in box)
        body = simulated.cell_mask[box] == index
        nucleus = simulated.nucleus_mask[box] == index
        planes = {name: np.where(body, simulated.image[box][..., PLANE[name]] / white, 0) for name in schema.CHANNELS}
        depths = [ndimage.distance_transform_edt(mask) * UM for mask in (body, nucleus, ~nucleus)]
        views.append(CellView(**planes, body=body, nucleus=nucleus, **dict(zip(_DEPTHS, depths, strict=True))))
    return views


_DEPTHS = ("body_depth_um", "nucleus_depth_um", "nucleus_distance_um")


def _mean(plane: np.ndarray, where: np.ndarray) -> float:
    return float(plane[where].mean())


def fills_nucleus_and_spares_nucleoli(cell: CellView) -> bool:
    inside = cell.nucleus_depth_um > 0.6
    dark = inside & (cell.blue < np.quantile(cell.blue[inside], 0.05))
    everywhere = (cell.green[inside] > 0.3 * np.median(cell.green[inside])).mean() > 0.8
    return (
        _mean(cell.green, inside) > 3 * _mean(cell.green, cell.cytoplasm)
        and _mean(cell.green, dark) < 0.85 * _mean(cell.green, inside)
        and everywhere
    )


def rings_the_nucleus(cell: CellView) -> bool:
    ring = cell.nucleus & (cell.nucleus_depth_um < 0.6)
    centre = cell.nucleus_depth_um > 1.5
    return _mean(cell.green, ring) > 2 * max(_mean(cell.green, centre), _mean(cell.green, cell.cytoplasm))


def fills_two_to_five_nucleoli(cell: CellView) -> bool:
    spots = cell.spots(0.45)
    area_um2 = sum(spot.area for spot in spots) * UM**2
    return 2 <= len(spots) <= 5 and area_um2 > 2 and _bright_part_is_dark_in_blue(cell)


def dots_nucleoli(cell: CellView) -> bool:
    tiny = _brightest(cell, 0.4).sum() < 0.05 * cell.nucleus.sum()
    return len(cell.peaks(0.3)) >= 4 and tiny and _bright_is_in_nucleus(cell) and _bright_part_is_dark_in_blue(cell)


def grains_the_nucleus(cell: CellView) -> bool:
    filled = _brightest(cell, 0.4).sum() / cell.nucleus.sum()
    return 10 <= len(cell.peaks(0.25)) <= 36 and _bright_is_in_nucleus(cell) and 0.04 < filled < 0.5


def dots_the_nucleus(cell: CellView) -> bool:
    spots = cell.spots(0.35)
    round_enough = np.median([spot.axis_minor_length / spot.axis_major_length for spot in spots]) > 0.6
    return (
        len(spots) <= 10
        and 2 <= len(cell.peaks(0.3)) <= 11
        and round_enough
        and _bright_is_in_nucleus(cell)
        and _bright_share(cell) < 0.08
        and not _bright_part_is_dark_in_blue(cell)
    )


def follows_the_reticulum(cell: CellView) -> bool:
    return cell.correlation(cell.yellow, cell.cytoplasm) > 0.8 and _mean(cell.green, cell.cytoplasm) > 0.05


def lies_beside_the_nucleus(cell: CellView) -> bool:
    bright = _brightest(cell, 0.35)
    centre = np.array(ndimage.center_of_mass(bright))
    away_um = np.hypot(*(centre - ndimage.center_of_mass(cell.nucleus))) * UM
    return (
        2 < bright.sum() * UM**2 < 0.15 * cell.body.sum() * UM**2
        and np.quantile(cell.nucleus_distance_um[bright], 0.9) < 9
        and (cell.nucleus_distance_um[bright] > 0).mean() > 0.9
        and away_um > 3.5
    )


def cages_the_nucleus(cell: CellView) -> bool:
    near = cell.cytoplasm & (cell.nucleus_distance_um < 3)
    rough = _high_pass(cell, near).std() / _mean(cell.green, near)
    others = max(cell.correlation(cell.red, cell.cytoplasm), cell.correlation(cell.yellow, cell.cytoplasm))
    bright = np.argwhere(near & (cell.green > 1.5 * _mean(cell.green, cell.cytoplasm)))
    from_centre = bright - ndimage.center_of_mass(cell.nucleus)
    sides = np.bincount(((np.arctan2(*from_centre.T) / np.pi + 1) * 6).astype(int) % 12, minlength=12)
    covered = sides > 0.02 * sides.sum()
    emptier = _mean(cell.green, cell.nucleus_depth_um > 0.6) < 0.5 * _mean(cell.green, near)
    return rough > 0.25 and others < 0.6 and covered.mean() > 0.6 and emptier


def runs_in_parallel(cell: CellView) -> bool:
    return cell.alignment() > 0.45 and _mean(cell.green, cell.nucleus) > 0.4 * _mean(cell.green, cell.cytoplasm)


def follows_the_microtubules(cell: CellView) -> bool:
    return cell.correlation(cell.red, cell.body) > 0.85 and _mean(cell.green, cell.cytoplasm) > 0.05


def shows_a_spindle_on_a_plate(cell: CellView) -> bool:
    plate, body = (measure.regionprops(mask.astype(int))[0] for mask in (cell.nucleus, cell.body))
    spindle = measure.regionprops(_brightest(cell, 0.3).astype(int))[0]
    return (
        plate.axis_major_length > 1.8 * plate.axis_minor_length
        and body.axis_major_length < 1.4 * body.axis_minor_length
        and spindle.axis_major_length * UM > 6
        and cell.correlation(cell.red, cell.body) > 0.85
    )


def has_one_or_two_points_beside_the_nucleus(cell: CellView) -> bool:
    peaks = cell.peaks(0.5)
    return len(peaks) in (1, 2) and _bright_share(cell) < 0.02 and (cell.nucleus_distance_um[tuple(peaks.T)] > 0).all()


def outlines_the_cell(cell: CellView) -> bool:
    band = cell.body & (cell.body_depth_um < 0.6)
    return _mean(cell.green, band) > 3 * _mean(cell.green, cell.body_depth_um > 2.0)


def threads_the_cytoplasm(cell: CellView) -> bool:
    spots = cell.spots(0.3)
    slender = np.mean([spot.axis_major_length / max(spot.axis_minor_length, 0.5) for spot in spots])
    return (
        len(spots) > 10
        and slender > 2
        and _mean(cell.green, cell.cytoplasm) > 2.5 * _mean(cell.green, cell.nucleus_depth_um > 0.6)
    )


def has_one_big_clump(cell: CellView) -> bool:
    spots = cell.spots(0.4)
    areas_um2 = [spot.area * UM**2 for spot in spots]
    # Crumbs beside the clump are as in real cells.
    one = len(spots) <= 3 and max(areas_um2) > 0.8 * sum(areas_um2)
    return one and 2 < max(areas_um2) < 25 and _mean(cell.nucleus, _brightest(cell, 0.4)) < 0.1


def fills_the_cytoplasm_smoothly(cell: CellView) -> bool:
    inside = cell.cytoplasm & (cell.body_depth_um > 2) & (cell.nucleus_distance_um > 0.6)
    if not inside.any():
        return False
    smooth = _high_pass(cell, inside).std() < 0.3 * _mean(cell.green, inside)
    return smooth and _mean(cell.green, inside) > 2 * _mean(cell.green, cell.nucleus_depth_um > 0.6)


def dots_the_cytoplasm(cell: CellView) -> bool:
    spots = cell.spots(0.3)
    slender = np.mean([spot.axis_major_length / max(spot.axis_minor_length, 0.5) for spot in spots])
    outside = np.mean([not cell.nucleus[tuple(np.int64(spot.centroid))] for spot in spots]) > 0.9
    return len(spots) > 10 and slender < 2 and outside and _bright_share(cell) < 0.1


def shows_nothing(cell: CellView) -> bool:
    smooth = ndimage.gaussian_filter(cell.green, 2)[cell.body_depth_um > 1]
    return smooth.max() < 0.12 and smooth.std() < 0.02


def _high_pass(cell: CellView, where: np.ndarray) -> np.ndarray:
    smooth = ndimage.gaussian_filter(cell.green, 0.7)
    return (smooth - ndimage.gaussian_filter(cell.green, 4))[where]


def _brightest(cell: CellView, level: float) -> np.ndarray:
    smooth = ndimage.gaussian_filter(cell.green, 1)
    return smooth > level * smooth.max()


def _bright_share(cell: CellView) -> float:
    return float(_brightest(cell, 0.4).sum() / cell.body.sum())


def _bright_is_in_nucleus(cell: CellView) -> bool:
    return bool(cell.nucleus[_brightest(cell, 0.4)].mean() > 0.9)


def _bright_part_is_dark_in_blue(cell: CellView) -> bool:
    bright = _brightest(cell, 0.4) & cell.nucleus
    return bool(bright.any() and _mean(cell.blue, bright) < 0.85 * _mean(cell.blue, cell.nucleus_depth_um > 0.6))


PROMISES = (
    fills_nucleus_and_spares_nucleoli,
    rings_the_nucleus,
    fills_two_to_five_nucleoli,
    dots_nucleoli,
    grains_the_nucleus,
    dots_the_nucleus,
    follows_the_reticulum,
    lies_beside_the_nucleus,
    cages_the_nucleus,
    runs_in_parallel,
    follows_the_microtubules,
    shows_a_spindle_on_a_plate,
    has_one_or_two_points_beside_the_nucleus,
    outlines_the_cell,
    threads_the_cytoplasm,
    has_one_big_clump,
    fills_the_cytoplasm_smoothly,
    dots_the_cytoplasm,
    shows_nothing,
)


def kept_share(label: int, promise) -> float:
    return float(np.mean([promise(cell) for cell in class_cells(label)]))


@pytest.mark.parametrize("label", range(NUM_LABELS), ids=LABEL_NAMES)
def test_pattern_is_what_its_class_promises(label):
    assert len(class_cells(label)) >= 2
    assert kept_share(label, PROMISES[label]) >= 0.75


@pytest.mark.parametrize("label", range(NUM_LABELS), ids=LABEL_NAMES)
def test_promise_tells_its_class_from_most_others(label):
    """A promise that every picture keeps would prove nothing."""
    others = [other for other in range(NUM_LABELS) if other != label]
    assert sum(kept_share(other, PROMISES[label]) > 0.5 for other in others) <= 2


def test_red_fibres_stay_outside_and_blue_inside_nuclei():
    for cell in class_cells(NEGATIVE):
        assert _mean(cell.red, cell.cytoplasm) > 2 * _mean(cell.red, cell.nucleus_depth_um > 1)
        assert _mean(cell.blue, cell.nucleus) > 10 * _mean(cell.blue, cell.nucleus_distance_um > 1.5)
        near = cell.cytoplasm & (cell.nucleus_distance_um < 3)
        far = cell.cytoplasm & (cell.nucleus_distance_um > 8)
        assert not far.sum() > 100 or _mean(cell.yellow, near) > _mean(cell.yellow, far)


def test_several_labels_add_up():
    both = simulate_fov([1, 13], seed=(3, 1), height_px=SIDE_PX, width_px=SIDE_PX, pixel_size_um=UM)
    cells = whole_cells(both)
    assert cells
    for cell in cells:
        ring = cell.nucleus & (cell.nucleus_depth_um < 0.6)
        band = cell.body & (cell.body_depth_um < 0.6)
        between = cell.cytoplasm & (cell.body_depth_um > 2) & (cell.nucleus_distance_um > 1)
        assert _mean(cell.green, ring) > 2 * _mean(cell.green, between)
        assert _mean(cell.green, band) > 2 * _mean(cell.green, between)


def test_every_class_has_its_pattern():
    assert len(fov_lib.PATTERNS) == len(set(fov_lib.PATTERNS)) == NUM_LABELS

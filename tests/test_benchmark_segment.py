"""Promises of the segmenters' benchmark: what it is given is measured, with aims; what is missing is said."""

import cv2
import numpy as np
import pytest

import small_fovs
from beam_jobs import benchmark_networks, benchmark_segment, benchmark_segmenters
from beam_jobs.benchmark_networks import NetworkSuite
from beam_jobs.benchmark_segment import BenchmarkConfig
from beam_jobs.benchmark_segmenters import MaskedFov
from hpa_proto import benchmark_report, benchmarking
from hpa_proto.benchmarking import NotMeasuredError
from hpa_proto.errors import ConfigError


def write_prediction(folder, name, mask):
    """Writes a prediction of discs, and the labels that are to come of it."""
    planes = np.zeros((*mask.shape, 3), np.uint8)
    planes[..., 2] = 255 * (mask > 0)
    cv2.imwrite(str(folder / f"{name}_prediction.png"), cv2.GaussianBlur(planes, (0, 0), 1.0))
    cv2.imwrite(str(folder / f"{name}_label.png"), mask)


@pytest.fixture
def simulated(monkeypatch):
    """One drawn FOV in place of the simulated ones, which take seconds."""
    image, cells, _ = small_fovs.draw_fov(height=400, width=400)
    fovs = [MaskedFov("drawn", image, cells.astype(np.int32), 0.16)]
    monkeypatch.setattr(benchmark_segmenters, "simulate_fovs", lambda *, num_fovs_each: fovs)


def test_figures_of_fovs_with_masks_and_of_predictions(tmp_path, simulated):
    folder = small_fovs.write_set(tmp_path, height=400, width=400, num_fovs=2)
    (folder / "vectors").mkdir()
    _, cells, nuclei = small_fovs.draw_fov(height=400, width=400)
    for name, mask in (("x_nuclei", nuclei), ("x_cell", cells)):
        write_prediction(folder / "vectors", name, mask)
    result = benchmark_segment.run(
        BenchmarkConfig(
            images=f"{folder}/images",
            masks=f"{folder}/masks",
            predictions=f"{folder}/vectors",
            pixel_size_um=0.16,
            repeats=2,
            networks=False,
        )
    )
    figures = {(figure.suite, figure.name): figure for figure in result.figures}
    mean = figures["watershed", "F1, mean of 2 FOVs"]
    assert mean.values == (1.0,)
    assert mean.at_least == 0.92
    assert figures["watershed, simulated", "F1, half size, mean"].values == (1.0,)
    assert len(figures["watershed", "CPU, FOV of 400 px"].values) == 2
    assert figures["label_cell, x, 400 px", "cell: 4 objects, the tool's 4"].values == (0,)
    assert figures["label_cell, x, 400 px", "cell: pixels as the tool's"].median > 97
    assert figures["label_cell, x, 400 px", "CPU, fast"].less_is_better
    assert "| at least 0.92: yes |" in benchmark_report.format_result(result)


def test_without_input_it_says_what_was_not_measured(simulated):
    result = benchmark_segment.run(BenchmarkConfig(repeats=1, networks=False))
    assert {figure.suite for figure in result.figures} == {"watershed, simulated"}
    assert any("simulated FOVs only" in note for note in result.notes)
    assert any("label_cell was not measured" in note for note in result.notes)


def test_a_fov_in_which_nothing_is_found_scores_nothing():
    fov = MaskedFov("dark", np.zeros((64, 64, 4), np.uint8), np.ones((64, 64), np.int32), 0.32)
    score = benchmark_segmenters.measure_watershed([fov], suite="dark", min_f1=0.9, repeats=1)[0]
    assert score.values == (0.0,)


def test_simulated_fovs_are_the_same_on_every_run_and_reach_from_sparse_to_crowded(monkeypatch):
    monkeypatch.setattr(benchmark_segmenters, "_SIMULATED_SIDE_PX", 256)
    monkeypatch.setattr(benchmark_segmenters, "_SIMULATED_PIXEL_UM", 0.4)
    first, second = (benchmark_segmenters.simulate_fovs(num_fovs_each=1) for _ in range(2))
    assert all((one.pixels == other.pixels).all() for one, other in zip(first, second, strict=True))
    assert first[0].cell_mask.max() < first[-1].cell_mask.max()
    assert [fov.name for fov in first][:2] == ["crowding 0", "crowding 0.25"]


def test_agreement_is_the_share_of_pixels_after_renaming():
    reference = np.array([[1, 1, 2, 2, 0, 3]])
    assert benchmark_segmenters.pixel_agreement(reference, np.array([[9, 9, 4, 4, 0, 1]])) == 1
    # A name is given once: the smaller part of a split object disagrees.
    assert benchmark_segmenters.pixel_agreement(reference, np.array([[1, 1, 4, 5, 0, 0]])) == pytest.approx(4 / 6)
    assert benchmark_segmenters.pixel_agreement(reference, np.zeros((1, 6), int)) == pytest.approx(1 / 6)


def test_input_that_cannot_work_is_an_error(tmp_path):
    folder = small_fovs.write_set(tmp_path)
    with pytest.raises(ConfigError, match="belong together"):
        BenchmarkConfig(images="images")
    with pytest.raises(ConfigError, match=r"no <id>_cell_prediction\.png"):
        benchmark_segmenters.measure_labelling(f"{folder}/masks", repeats=1)
    for path in (folder / "masks").iterdir():
        path.rename(path.with_name(f"x{path.name}"))
    with pytest.raises(ConfigError, match=r"no FOV of .* has a mask"):
        benchmark_segmenters.read_fovs(f"{folder}/images", f"{folder}/masks", pixel_size_um=0.08)


def test_network_without_its_gpu_is_said_not_measured():
    with pytest.raises(NotMeasuredError, match="no such GPU"):
        NetworkSuite("cuda:97").prepare("")


@pytest.mark.slow
def test_network_is_measured_in_both_precisions(tmp_path, monkeypatch):
    # Minutes at full size, where the processor has no bfloat16.
    monkeypatch.setattr(benchmark_networks, "_SIDE_PX", 64)
    figures = benchmarking.run_suite(NetworkSuite("cpu"), folder=str(tmp_path), repeats=1, round_sec=1e-9)
    rates = {figure.name: figure.median for figure in figures}
    assert rates["float32, batch 1"] > 0
    assert rates["bfloat16 against float32, batch 1"] == pytest.approx(
        rates["bfloat16, batch 1"] / rates["float32, batch 1"]
    )

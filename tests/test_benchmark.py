"""One tiny round of beam_jobs.benchmark; the machinery itself: test_benchmarking.py."""

import cv2
import numpy as np
import pytest

import small_fovs
from beam_jobs import benchmark, benchmark_fovs, benchmark_old_way, benchmark_plan
from beam_jobs.benchmark import BenchmarkConfig
from beam_jobs.cell_store import CellStore
from beam_jobs.fov_reader import read_fov
from beam_jobs.fov_source import find_fovs
from beam_jobs.segmenters import neural
from hpa_proto import schema
from hpa_proto.errors import ConfigError, FovError


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = small_fovs.write_set(tmp_path_factory.mktemp("fovs"), num_fovs=2, labels=("0",), num_cells=4)
    return str(folder / "images")


def measure(images, *suites, **options):
    config = BenchmarkConfig(images=images, pixel_size_um=0.5, suites=suites, repeats=1, round_seconds=0.001, **options)
    result = benchmark.run(config)
    return {(figure.suite, figure.name): figure for figure in result.figures}, result


def test_stages_and_shard(images):
    figures, result = measure(images, "stages", "shard")
    stages = [name for suite, name in figures if suite == "stages"]
    assert stages[:7] == ["decoding alone", "read", "watershed", "cut and measure", "store", "shard", "whole job"]
    assert [name for suite, name in figures if suite == "shard"] == list(schema.IMAGE_FORMATS)
    assert figures["stages", "read"].unit == "s/FOV"
    assert figures["shard", "raw"].unit == "cells/s"
    assert any(note.startswith("stages: a piece of work is 2 FOVs: 128 x 96 px with ") for note in result.notes)


def test_whole_job_is_given_in_units_of_decoding(images):
    figures, _ = measure(images, "stages")
    ratio = figures["stages", "whole job: times as long as decoding its PNGs"]
    whole, decoding = figures["stages", "whole job"], figures["stages", "decoding alone"]
    assert ratio.median == pytest.approx(whole.median / decoding.median)
    assert (ratio.at_most, ratio.less_is_better) == (5, True)


def test_old_way_cuts_the_cells_that_the_masks_show(tmp_path):
    green = np.arange(1, 43, dtype=np.uint8).reshape(6, 7)
    cell_mask = np.zeros((6, 7), np.int32)
    cell_mask[1:3, 2:5] = 1
    cell_mask[4:, 6] = 3
    for make_mask in (benchmark_old_way.loop_mask, benchmark_old_way.quick_mask):
        paths = benchmark_old_way.cut_the_old_way(green, cell_mask, str(tmp_path), make_mask=make_mask)
        first, second = (cv2.imread(path, cv2.IMREAD_UNCHANGED) for path in paths)
        np.testing.assert_array_equal(first, green[1:3, 2:5])
        np.testing.assert_array_equal(second, green[4:, 6:])


def test_cutting_against_the_old_way(images):
    figures, _ = measure(images, "old_way")
    assert figures["old_way", "cutting and storing against the old way"].at_least == 10
    assert ("old_way", "old way, masks without a loop") in figures


@pytest.mark.slow
def test_networks_without_weights_get_made_up_ones(images, monkeypatch):
    pytest.importorskip("torch")
    found = []
    segment = neural.HpaCellSegSegmenter.segment

    def watch(self, image, *, fov_id):
        found.append(segment(self, image, fov_id=fov_id).num_cells)
        return found[-1]

    monkeypatch.setattr(neural.HpaCellSegSegmenter, "segment", watch)
    figures, result = measure(images, "segment")
    assert ("segment", "watershed against hpacellseg, fast labelling") in figures
    assert any("hpacellseg with made-up weights" in note for note in result.notes)
    assert min(found) > 0, "the labelling had nothing to do"


def test_networks_are_left_out_without_torch(images, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    figures, result = measure(images, "segment")
    assert list(figures) == [("segment", "watershed")]
    assert "segment: hpacellseg not measured: torch is not installed" in result.notes


def test_networks_are_measured_with_weights(images, monkeypatch):
    class Segmenter(neural.HpaCellSegSegmenter):
        def __post_init__(self):
            assert (self.nuclei_weights, self.cell_weights) == ("a", "b")

        def segment(self, image, *, fov_id):
            assert image.shape == (96, 128, 4)
            raise FovError("segment", "no_cells", "made-up weights see none")

    monkeypatch.setattr("beam_jobs.benchmark_segment_suite.HpaCellSegSegmenter", Segmenter)
    figures, _ = measure(images, "segment", nuclei_weights="a", cell_weights="b")
    assert ("segment", "watershed against hpacellseg, fast labelling") in figures


@pytest.mark.slow
def test_workers_and_memory(images):
    figures, _ = measure(images, "workers", "memory", num_fovs=2, memory_fovs=2)
    ratio = figures["workers", "2 workers against 1, a FOV more"]
    assert ratio.at_least == 1.8
    more = [figures["workers", f"a FOV more, {workers}"].median for workers in ("1 worker", "2 workers")]
    assert ratio.median == pytest.approx(more[0] / more[1])
    whole = [figures["workers", f"1 worker, {count} FOVs"].median * count for count in (1, 2)]
    assert more[0] == pytest.approx(whole[1] - whole[0], abs=0.1)
    assert figures["workers", "peak memory of a process, 2 workers, 2 FOVs"].median > 50
    ratio = figures["memory", "peak memory of a process, 2 FOVs against 1 FOVs"]
    assert ratio.at_most == 1.1
    # Two peaks of whole processes of the same program.
    assert 0.7 < ratio.median < 1.4


def test_memory_of_a_process_is_that_of_the_largest():
    small, large = (benchmark_fovs.run_module("timeit", "-n1", "-r1", f"b'x' * {size}") for size in (1, 10**8))
    assert 95 < large - small < 110


def test_a_job_that_fails_is_no_measurement():
    with pytest.raises(RuntimeError, match=r"python -m timeit failed:\noption --nonsense"):
        benchmark_fovs.run_module("timeit", "--nonsense")


def test_shrunken_fovs_are_the_same_fovs(images, tmp_path):
    benchmark_fovs.shrink_fovs(images, str(tmp_path), factor=4)
    large, small = (find_fovs(folder, None).fovs for folder in (images, str(tmp_path)))
    assert [fov.fov_id for fov in large] == [fov.fov_id for fov in small]
    means = [read_fov(fov).pixels.mean(axis=(0, 1)) for fov in (large[0], small[0])]
    np.testing.assert_allclose(*means, rtol=0.02)


def test_plan_of_a_table(tmp_path):
    table = tmp_path / "fovs.csv"
    table.write_text("ID,Label,width_px,num_cells\na,0,2048,30\nb,5|0,2048,7\nc,5,2048,20\nd,5,2048,0\n")
    figures, result = measure(None, "plan", fov_table=str(table))
    assert "plan: 57 cells of 3 FOVs of the table of --fov_table" in result.notes
    assert figures["plan", "beam_jobs.shard --dry_run"].at_most == 30
    assert figures["plan", "peak memory, beam_jobs.shard --dry_run"].at_most == 1500


def test_made_up_table_has_the_competitions_size():
    fovs = benchmark_plan.make_up_fov_table()
    assert (len(fovs), fovs["num_cells"].sum()) == (21_806, 489_871)
    assert fovs["num_cells"].min() >= 1
    assert 0.4 < (~fovs["Label"].str.contains("|", regex=False)).mean() < 0.7


def test_a_store_of_tables_has_every_cell_under_an_id_of_its_own(tmp_path):
    fovs = benchmark_plan.make_up_fov_table(num_fovs=30, num_cells=200)
    benchmark_plan.write_store(str(tmp_path), fovs)
    cells, written = CellStore.open(str(tmp_path)).read_tables()
    assert cells["cell_id"].is_unique
    assert cells.groupby("fov_id")["cell_index"].max().to_dict() == dict(
        zip(fovs["ID"], fovs["num_cells"], strict=True)
    )
    assert written["num_cells"].sum() == 200


def test_a_fov_table_without_its_columns_is_an_error(tmp_path):
    table = tmp_path / "fovs.csv"
    table.write_text("ID,Label\na,0\n")
    with pytest.raises(ConfigError, match="no column num_cells"):
        benchmark_plan.read_fov_table(str(table))


def test_an_unknown_suite_is_an_error():
    with pytest.raises(ConfigError, match="choose of stages"):
        BenchmarkConfig(suites=("nonsense",))


def test_every_suite_is_known_by_name():
    assert tuple(benchmark._suites(BenchmarkConfig(), "")) == benchmark.SUITES

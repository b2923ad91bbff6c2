"""One tiny round of beam_jobs.benchmark; the machinery itself: test_benchmarking.py."""

import pytest

import small_fovs
from beam_jobs import benchmark
from beam_jobs.benchmark import BenchmarkConfig
from hpa_proto import schema
from hpa_proto.errors import ConfigError


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
    assert stages == ["read", "watershed", "cut and measure", "store"]
    assert [name for suite, name in figures if suite == "shard"] == list(schema.IMAGE_FORMATS)
    assert figures["stages", "read"].unit == "s/FOV"
    assert figures["shard", "raw"].unit == "cells/s"
    assert any(note.startswith("stages: 2 FOVs, ") for note in result.notes)


@pytest.mark.slow
def test_workers_and_memory(images):
    figures, _ = measure(images, "workers", "memory", num_fovs=2)
    assert figures["workers", "2 workers against 1"].at_least == 1.8
    ratio = figures["memory", "peak, 2 FOVs against 1"]
    assert ratio.at_most == 1.1
    # Two peaks of whole processes of the same program.
    assert 0.7 < ratio.median < 1.4


def test_an_unknown_suite_is_an_error():
    with pytest.raises(ConfigError, match="none of stages"):
        BenchmarkConfig(suites=("nonsense",))

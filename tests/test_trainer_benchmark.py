"""One tiny round of every suite of trainer.benchmark; the machinery itself: test_benchmarking.py."""

import importlib.util
import itertools
import json
import multiprocessing

import fsspec.config
import numpy as np
import pytest
import tensorflow as tf

import tiny_backbone
import trainer_data
from hpa_proto import benchmark_report, storage
from hpa_proto.errors import ConfigError
from trainer import (
    benchmark,
    benchmark_data,
    benchmark_device,
    benchmark_input,
    benchmark_peers,
    benchmark_wait,
    dataset,
)
from trainer.benchmark import BenchmarkConfig


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    # 144 cells: a batch of 128 is one of the settings.
    return str(trainer_data.write_dataset(tmp_path_factory.mktemp("data") / "set", examples_per_class=48))


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(benchmark_input.InputSuite, "settle_sec", 0.001)
    monkeypatch.setattr(benchmark_peers, "_SEARCH_SEC", 0.01)
    monkeypatch.setattr(benchmark_peers, "_SEARCH_BATCHES", 1)
    monkeypatch.setattr(benchmark_peers, "_SEARCH_PASSES", 1)


def measure(data_dir, suite, **options):
    config = BenchmarkConfig(
        data_dir=data_dir, suites=(suite,), repeats=1, round_seconds=0.001, num_pictures=8, num_examples=160, **options
    )
    result = benchmark.run(config)
    return {figure.name: figure for figure in result.figures}, result


def test_records(data_dir):
    figures, _ = measure(data_dir, "records")
    assert len(figures) == 3
    assert all(figure.median > 0 for figure in figures.values())


def test_decode_reports_speed_bytes_and_fidelity_of_each_format(data_dir):
    figures, _ = measure(data_dir, "decode")
    sizes = [figures[f"jpeg-planes, quality {quality}: size"].median for quality in benchmark_input.QUALITIES]
    decibels = [
        figures[f"jpeg-planes, quality {quality}: fidelity (PSNR)"].median for quality in benchmark_input.QUALITIES
    ]
    assert sizes == sorted(sizes)
    assert decibels == sorted(decibels)
    # Each picture against itself: another one would be at 10 dB.
    assert decibels[0] > 25
    assert figures["raw: size"].median == pytest.approx(4 * 32 * 32 / 1000)
    assert {"png", "raw", "jpeg-planes, quality 95"} <= set(figures)


def test_pipeline_against_its_limit_and_the_old_folder_pipeline(data_dir):
    figures, result = measure(data_dir, "pipeline")
    aims = {figure.name: figure.at_least for figure in result.figures if figure.at_least}
    assert aims == {"four channels against the bare decoder": 0.85, "one channel against the old folder pipeline": 60}
    ratio = figures["one channel against the old folder pipeline"]
    assert ratio.values[0] == figures["one channel"].values[0] / figures["old folder pipeline, RGB"].values[0]


def test_settings_of_the_pipeline(data_dir):
    figures, _ = measure(data_dir, "settings")
    assert {"batches of 7", "batches of 128", "png", "raw", "evaluation", "balanced sampling"} <= set(figures)


def test_bare_decoder_decodes_every_picture_as_the_pipeline_does(data_dir, monkeypatch):
    source = benchmark_data.Pictures(data_dir, "", num_pictures=1, num_examples=0).source
    decoded = []
    decode = dataset.decode_image

    def watch(source, data):
        image = decode(source, data)
        total = tf.reduce_sum(tf.cast(image, tf.int64))
        with tf.control_dependencies([tf.py_function(lambda value: decoded.append(int(value)), [total], [])]):
            return tf.identity(image)

    monkeypatch.setattr(dataset, "decode_image", watch)
    decoder = benchmark_input.BareDecoder(source, num_threads=2)
    num_decoded = decoder() + decoder()
    decoder.close()
    images = itertools.cycle(benchmark_data.encoded_images(source))
    expected = [int(decode(source, next(images)).numpy().sum()) for _ in range(int(num_decoded))]
    assert sorted(decoded) == sorted(expected)


@pytest.mark.slow
def test_peers_are_compared_or_named_as_absent(data_dir, monkeypatch):
    pytest.importorskip("torch")
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: find_spec(name) if name == "torch" else None)
    monkeypatch.setattr(benchmark_peers.benchmarking, "num_cores", lambda: 1)
    figures, result = measure(data_dir, "peers")
    assert {"this project", "against torch DataLoader", "against torch DataLoader on PNGs"} <= set(figures)
    assert "peers: grain not measured: grain is not installed" in result.notes
    assert "peers: webdataset not measured: webdataset is not installed" in result.notes
    assert any(note.startswith("peers: torch DataLoader with {'num_workers': ") for note in result.notes)
    assert not multiprocessing.active_children(), "workers of the loaders are left"


@pytest.mark.parametrize(
    ("package", "open_loader"),
    [
        ("torch", lambda files, _: benchmark_peers._open_torch(files, num_workers=0)),
        ("grain", lambda files, _: benchmark_peers._open_grain(files, num_threads=2, num_workers=0)),
        ("webdataset", lambda _, tars: benchmark_peers._open_webdataset(tars, (4, 32, 32), num_workers=0)),
    ],
)
def test_a_peer_gives_batches_of_the_same_pictures(data_dir, tmp_path, package, open_loader):
    pytest.importorskip(package)
    source = benchmark_data.Pictures(data_dir, "", num_pictures=1, num_examples=0).source
    images = benchmark_data.encoded_images(source)
    paths = benchmark_peers._write_files(str(tmp_path / "jpeg"), images, suffix="jpg")
    tars = benchmark_peers._write_tars(str(tmp_path / "tar"), images)
    batches = open_loader(benchmark_peers.FileSource(paths, (4, 32, 32)), tars)
    pictures = np.asarray(next(batches)[0])
    assert pictures.shape == (32, 4, 32, 32)
    ours = {dataset.decode_image(source, image).numpy().tobytes() for image in images}
    assert {picture.tobytes() for picture in pictures} <= ours
    assert len({picture.tobytes() for picture in pictures}) > 16


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_peers_decode_the_same_picture(tmp_path, suffix):
    planes = benchmark_data.simulate_cells(1, size_px=64)[0]
    image_format = {"jpg": "jpeg-planes", "png": "png"}[suffix]
    path = tmp_path / f"cell.{suffix}"
    path.write_bytes(benchmark_data.encode_planes(planes, image_format=image_format, quality=98))
    source = benchmark_data.write_dataset(str(tmp_path / suffix), planes[None], image_format=image_format, quality=98)
    ours = dataset.decode_image(source, benchmark_data.encoded_images(source)[0]).numpy()
    theirs = benchmark_peers.decode_file(str(path), shape=planes.shape)
    if suffix == "jpg":
        np.testing.assert_array_equal(theirs, ours)
    else:
        # OpenCV's order of colours, which costs the same.
        np.testing.assert_array_equal(theirs[[2, 1, 0, 3]], ours)


def test_object_store_against_the_disk(data_dir):
    pytest.importorskip("moto.server")
    figures, _ = measure(data_dir, "object_store")
    assert figures["object store against local disk"].median > 0
    assert "s3" not in fsspec.config.conf, "the settings for the server are left"


def test_object_store_is_not_measured_without_a_server(data_dir, monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "moto" else find_spec(name))
    figures, result = measure(data_dir, "object_store")
    assert not figures
    assert any("object_store: not measured: moto not installed" in note for note in result.notes)


def test_object_store_of_ones_own_is_left_empty(data_dir):
    figures, _ = measure(data_dir, "object_store", s3_url="memory://benchmark")
    assert {"local disk", "object store"} <= set(figures)
    assert storage.list_files("memory://benchmark") == []


def test_augmentation_against_the_chain(data_dir):
    figures, _ = measure(data_dir, "augment")
    assert figures["one warp against the chain"].at_least == 4


def test_augmentation_draws_anew_in_every_step(data_dir):
    suite = benchmark_device.AugmentSuite(benchmark_data.Pictures(data_dir, "", num_pictures=8, num_examples=0))
    suite.prepare("")
    model = suite._models["one warp, then gain, gamma, noise"]
    first, again, other = (
        model.predict_on_batch((suite._batch, np.full(len(suite._batch), step, "int32"))) for step in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).all()


def test_step_fed_by_the_pipeline_against_a_batch_on_the_device(data_dir, monkeypatch):
    tiny_backbone.register(monkeypatch)
    figures, _ = measure(data_dir, "step", model="tiny", step_size_px=32, step_batch_size=4)
    assert figures["fed by the pipeline against a batch on the device"].at_least == 0.98
    share = figures["share of a fed step that it waited for its batch"]
    assert 0 <= share.median <= 100


def test_simulated_cells_are_as_large_as_real_ones():
    cells = benchmark_data.simulate_cells(12, size_px=benchmark_data.SIZE_PX)
    mean = np.mean([len(benchmark_data.encode_planes(cell, image_format="jpeg-planes")) for cell in cells])
    # Real ones, four channels, 528 px, quality 95: 149 KB.
    assert 130_000 < mean < 170_000


def test_a_lossless_data_set_is_measured_as_jpeg_planes(tmp_path):
    given = trainer_data.write_dataset(tmp_path / "raw", image_format="raw")
    pictures = benchmark_data.Pictures(str(given), str(tmp_path), num_pictures=5, num_examples=40)
    assert pictures.source.manifest.image_format == "jpeg-planes"
    assert pictures.source.num_examples("train") == 40
    assert len(pictures.planes) == 5


def test_cores_that_a_device_needs():
    text = benchmark_wait.format_wait({"quick": 2.0, "slow": 50.0}, images_per_second=63, num_cores=2, size_px=528)
    assert "| quick | 2.00 ms | 0.13 | no |" in text
    assert "| slow | 50.00 ms | 3.15 | **yes** |" in text
    assert "| RTX 3090, channels last | training | 62.8 | 0.13 | 3.14 |" in text


def test_would_it_wait_measures_every_format(data_dir):
    config = BenchmarkConfig(data_dir=data_dir, repeats=1, round_seconds=0.001, num_pictures=4, would_it_wait=True)
    text = benchmark.would_it_wait(config)
    for name in ("jpeg-planes, quality 95", "jpeg-planes, quality 85", "png", "raw"):
        assert f"| {name} |" in text


def test_main_writes_a_result_and_compares_it(data_dir, tmp_path, capsys):
    out = str(tmp_path / "result.json")
    flags = [f"--data_dir={data_dir}", "--suites=records", "--repeats=1", "--round_seconds=0.001", "--num_pictures=4"]
    assert benchmark.main(["benchmark", *flags, f"--out={out}"]) == 0
    assert benchmark.main(["benchmark", *flags, f"--baseline={out}"]) == 0
    printed = capsys.readouterr().out
    assert "now / before" in printed
    about = benchmark_report.read_result(out).about
    assert about["flags"]["suites"] == ["records"]
    assert json.dumps(about)


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--suites=nonsense", "choose of"),
        ("--repeats=0", "more than 0"),
        ("--step_size_px=0", "more than 0"),
        ("--device_images_per_second=nan", "more than 0"),
        ("--num_examples=16", "at least 128"),
        ("--out=result.txt", "ends in .json"),
    ],
)
def test_a_flag_that_cannot_be_is_one_line(flag, message, capsys):
    assert benchmark.main(["benchmark", flag]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("flags", "has_peers"), [([], True), (["--quick"], False), (["--quick", "--suites=peers"], True)]
)
def test_a_quick_round_leaves_the_peers_out_unless_they_are_named(flags, has_peers):
    config = benchmark.make_config(["benchmark", *flags])
    assert ("peers" in config.suites) == has_peers
    assert (config.num_pictures < BenchmarkConfig.num_pictures) == bool(flags)


def test_flags_count_before_quick():
    config = benchmark.make_config(["benchmark", "--quick", "--repeats=1"])
    assert (config.repeats, config.num_pictures) == (1, 24)


def test_would_it_wait_takes_no_place_for_a_result():
    with pytest.raises(ConfigError, match="leave --out"):
        benchmark.make_config(["benchmark", "--would_it_wait", "--out=wait.json"])


def test_a_data_set_of_one_channel_is_refused(tmp_path):
    given = benchmark_data.write_dataset(str(tmp_path), np.zeros((2, 1, 16, 16), np.uint8))
    with pytest.raises(ConfigError, match="the channels green; give a data set of red, green, blue, yellow"):
        benchmark_data.Pictures(given.data_dir, "", num_pictures=2, num_examples=128)


def test_every_suite_is_known_by_name():
    config = BenchmarkConfig()
    assert set(config.suites) == set(benchmark._suites(config, None))
    with pytest.raises(ConfigError):
        BenchmarkConfig(suites=())

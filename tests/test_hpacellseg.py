"""Promises of CellSegmentator and --segmenter=hpacellseg, with networks that find what is bright."""

import dataclasses
import json
import pickle
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
from skimage import transform
from torch import nn

import network_files
import small_fovs
from beam_jobs import segment
from beam_jobs.cell_store import CellStore
from beam_jobs.segment import SegmentConfig
from beam_jobs.segmenters import dpn_unet, hpacellseg, make_segmenter, network_frame
from beam_jobs.segmenters.hpacellseg import CellSegmentator
from hpa_proto import schema
from hpa_proto.errors import ConfigError, FovError


class Echo(nn.Module):
    """Stands for a network: its probabilities of border and object are two channels of its input, as they were before."""

    def __init__(self, *, border, found):
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))
        self._planes = [border, found]
        self.shapes = []

    def forward(self, x):
        self.shapes.append(tuple(x.shape))
        mean = torch.tensor([124, 117, 104]) / 255
        pixels = x * (1 / (0.0167 * 255)) + mean[:, None, None]
        shares = pixels[:, self._planes].clamp(1e-6, 1) * 0.499
        return torch.cat([1 - shares.sum(1, keepdim=True), shares], 1).log()


def echo(**options):
    network = Echo(border=network_files.YELLOW, found=network_files.BLUE)
    return CellSegmentator(network, network, **{"device": "cpu", **options}), network


def picture(height, width, *, seed=0):
    rng = np.random.default_rng(seed)
    return cv2.resize(rng.integers(0, 256, (6, 5, 3), np.uint8), (width, height), interpolation=cv2.INTER_CUBIC)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("shape", [(96, 64), (97, 131), (50, 33, 3)])
@pytest.mark.parametrize("factor", [0.25, 0.31, 1.0])
def test_scaling_equals_the_tools(dtype, shape, factor):
    image = np.random.default_rng(0).random(shape)
    image = image.astype(dtype) if dtype == np.float32 else (image * np.iinfo(dtype).max).astype(dtype)
    wanted = transform.rescale(image, factor, channel_axis=2 if len(shape) == 3 else None)
    np.testing.assert_allclose(network_frame.scale_image(image, factor), wanted, atol=1e-5)


@pytest.mark.parametrize("padding", [False, True])
@pytest.mark.parametrize("size", [(128, 256), (100, 420), (427, 256)])
def test_prediction_lies_on_the_fov_it_was_made_of(size, padding):
    image = picture(*size)
    segmentator, network = echo(padding=padding)
    (found,) = segmentator.pred_cells([image], precombined=True)
    assert (found.shape, found.dtype) == ((*size, 3), np.uint8)
    assert not found[..., 0].any()
    for plane, channel in ((1, network_files.YELLOW), (2, network_files.BLUE)):
        expected = cv2.blur(image[..., channel], (9, 9)) * 0.499
        assert np.abs(found[..., plane] - expected).mean() < 3
    ((_, _, height, width),) = network.shapes
    assert height % 32 == width % 32 == 0
    smallest, largest = (33, 64) if padding else (0, 31)
    for framed, side in zip((height, width), size, strict=True):
        assert smallest <= framed - round(side / 4) <= largest


def test_padding_is_the_tools():
    image = np.random.default_rng(0).random((60, 64, 3)).astype(np.float32)
    fov = network_frame.frame(image, scale_factor=1, padding=True)
    wanted = cv2.copyMakeBorder(image, 32, 32 - 60 % 32, 32, 32, cv2.BORDER_REFLECT)
    wanted = (wanted - np.array([124, 117, 104]) / 255) / (1 / (0.0167 * 255))
    np.testing.assert_allclose(fov.pixels, np.moveaxis(wanted, 2, 0), atol=1e-5)


def test_fovs_of_different_sizes_go_through_in_batches_and_come_back_in_order():
    sizes = [(128, 128), (64, 192), (128, 128), (64, 192), (128, 128), (256, 128)]
    images = [picture(*size, seed=seed) for seed, size in enumerate(sizes)]
    segmentator, network = echo(batch_size=2)
    found = segmentator.pred_cells(images, precombined=True)
    assert sorted(shape[0] for shape in network.shapes) == [1, 1, 2, 2]
    for image, prediction in zip(images, found, strict=True):
        np.testing.assert_array_equal(prediction, echo()[0].pred_cells([image], precombined=True)[0])


def test_nuclei_see_the_blue_channel_three_times():
    image = picture(128, 192)
    segmentator, _ = echo()
    (of_rgb,), (of_plane,) = segmentator.pred_nuclei([image]), segmentator.pred_nuclei([image[..., 2]])
    np.testing.assert_array_equal(of_rgb, of_plane)
    np.testing.assert_array_equal(of_rgb[..., 1], of_rgb[..., 2])


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_paths_and_arrays_give_the_same(tmp_path, suffix):
    image = (picture(96, 160).astype(np.uint16)) * 257
    planes = [[image[..., channel]] for channel in range(3)]
    paths = [[str(tmp_path / f"{channel}{suffix}")] for channel in range(3)]
    for (plane,), (path,) in zip(planes, paths, strict=True):
        cv2.imwrite(path, plane)
    cv2.imwrite(str(tmp_path / "rgb.png"), image[..., ::-1])
    segmentator, _ = echo()
    (wanted,) = segmentator.pred_cells([image], precombined=True)
    np.testing.assert_array_equal(segmentator.pred_cells(planes)[0], wanted)
    np.testing.assert_array_equal(segmentator.pred_cells(paths)[0], wanted)
    (nuclei,) = segmentator.pred_nuclei([image])
    np.testing.assert_array_equal(segmentator.pred_nuclei(paths[2])[0], nuclei)
    np.testing.assert_array_equal(segmentator.pred_nuclei([tmp_path / "rgb.png"])[0], nuclei)


def test_two_channel_model_sees_an_empty_endoplasmic_reticulum():
    image = picture(96, 160)
    segmentator, _ = echo(multi_channel_model=False)
    (found,) = segmentator.pred_cells([[image[..., 0]], None, [image[..., 2]]])
    image[..., 1] = 0
    np.testing.assert_array_equal(found, segmentator.pred_cells([image], precombined=True)[0])


IMAGE = np.zeros((64, 64), np.uint8)


@pytest.mark.parametrize(
    ("options", "call", "message"),
    [
        ({}, lambda tool: tool.pred_cells([[IMAGE], None, [IMAGE]]), "endoplasmic reticulum is needed"),
        ({"multi_channel_model": False}, lambda tool: tool.pred_cells([[IMAGE]] * 3), "must be None"),
        ({}, lambda tool: tool.pred_cells([[IMAGE], [IMAGE], [IMAGE] * 2]), "lists of 1, 1 and 2 images"),
        ({}, lambda tool: tool.pred_cells([[IMAGE], [IMAGE]]), "2 lists"),
        ({}, lambda tool: tool.pred_cells([[IMAGE], [IMAGE[:32]], [IMAGE]]), "differ in size"),
        ({}, lambda tool: tool.pred_cells([IMAGE], precombined=True), r"precombined images are \[H, W, 3\]"),
        ({}, lambda tool: tool.pred_nuclei("nuclei.png"), "give a list of images, not str"),
        ({}, lambda tool: tool.pred_nuclei(IMAGE), "give a list of images, not ndarray"),
        ({}, lambda tool: tool.pred_nuclei([IMAGE + 2.0]), "floats of 0..1"),
        ({}, lambda tool: tool.pred_nuclei([IMAGE.astype(np.int32)]), "give uint8, uint16"),
    ],
)
def test_wrong_image_is_an_error(options, call, message):
    with pytest.raises(ConfigError, match=message):
        call(echo(**options)[0])


def test_unreadable_picture_is_an_error(tmp_path):
    with pytest.raises(FovError, match=r"none\.png is not there"):
        echo()[0].pred_nuclei([str(tmp_path / "none.png")])


def test_missing_model_is_an_error_only_where_it_is_wanted():
    network = Echo(border=1, found=2)
    nuclei_only = CellSegmentator(network, None, device="cpu")
    assert len(nuclei_only.pred_nuclei([IMAGE])) == 1
    with pytest.raises(ConfigError, match="no cell_model"):
        nuclei_only.pred_cells([[IMAGE]] * 3)
    with pytest.raises(ConfigError, match="no nuclei_model"):
        CellSegmentator(None, network, device="cpu").pred_nuclei([IMAGE])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "tpu"}, "--device=tpu: give cpu, cuda"),
        ({"device": "cuda:77"}, "torch finds no such GPU here; use --device=cpu"),
        ({"precision": "float16"}, "choose one of float32, bfloat16"),
        ({"scale_factor": 0}, "above 0"),
        (
            {"nuclei_model": "./none.safetensors"},
            r"none\.safetensors.*dpn_unet_nuclei_v1\.pth.*4665863.*import_weights",
        ),
    ],
)
def test_wrong_option_is_an_error(options, message):
    with pytest.raises(ConfigError, match=message):
        CellSegmentator(**{"nuclei_model": None, "cell_model": None, "device": "cpu", **options})


def make_config(folder, **changes):
    options = {
        "images": f"{folder}/images",
        "cells_dir": f"{folder}/cells",
        "segmenter": "hpacellseg",
        "nuclei_weights": network_files.brightness_file("nuclei"),
        "cell_weights": network_files.brightness_file("cell_3ch"),
        "pixel_size_um": 0.32,
    }
    return SegmentConfig(**{**options, **changes})


def test_no_weights_is_an_error_that_says_where_they_are():
    with pytest.raises(ConfigError) as caught:
        make_segmenter("hpacellseg", pixel_size_um=0.08)
    for words in ("--nuclei_weights", "dpn_unet_nuclei_v1.pth", "dpn_unet_cell_3ch_v1.pth", "Zenodo record 4665863"):
        assert words in str(caught.value)
    assert "python -m beam_jobs.import_weights --pth=" in str(caught.value)


@pytest.fixture(scope="module")
def jobs(tmp_path_factory):
    """One FOV through the job with the networks and, for comparison, with its true masks."""
    folder = small_fovs.write_set(tmp_path_factory.mktemp("job"), num_fovs=1, height=112, width=144)
    masks = {"segmenter": "masks", "masks_dir": f"{folder}/masks", "nuclei_weights": None, "cell_weights": None}
    return folder, segment.run(make_config(folder)), segment.run(make_config(folder, cells_dir=f"{folder}/m", **masks))


def test_job_finds_the_discs_and_writes_the_same_store(jobs):
    _, found, wanted = jobs
    assert list(found.fovs["error_reason"]) == [""]
    assert len(found.cells) == len(wanted.cells) == 4
    assert list(found.cells.columns) == list(wanted.cells.columns)
    assert list(found.cells.dtypes) == list(wanted.cells.dtypes)
    boxes = ["y_min", "x_min", "y_max", "x_max"]
    assert np.abs(found.cells[boxes].to_numpy() - wanted.cells[boxes].to_numpy()).max() <= 3
    np.testing.assert_allclose(found.cells["area_um2"], wanted.cells["area_um2"], rtol=0.2)
    assert (found.cells["nucleus_area_um2"] > 0).all()
    assert list(found.cells["num_nuclei"]) == [1] * 4


def test_store_is_bound_to_weights_and_precision(jobs):
    folder, found, _ = jobs
    config = json.loads((folder / "cells" / "config.json").read_text())["config"]["segmenter"]
    assert config["name"] == "hpacellseg"
    assert config["precision"] == "float32"
    assert len({config["nuclei_weights_sha256"], config["cell_weights_sha256"]}) == 2
    with pytest.raises(ConfigError, match=found.store.digest):
        segment.run(make_config(folder, precision="bfloat16"))
    assert CellStore.open(f"{folder}/cells").digest == found.store.digest


def test_12_bit_fov_gives_the_cells_of_its_8_bit_copy(jobs):
    segmenter = make_config(jobs[0]).make_segmenter()
    image, _, _ = small_fovs.draw_fov(height=112, width=144)
    image_12_bit = (image.astype(int) * 4095 // 255).astype(np.uint16)
    wanted, found = (segmenter.segment(pixels, fov_id="fov") for pixels in (image, image_12_bit))
    assert (found.cell_mask == wanted.cell_mask).mean() > 0.995
    with pytest.raises(FovError, match="the networks see no cell"):
        dataclasses.replace(segmenter, bit_depth=16).segment(image_12_bit, fov_id="fov")


def test_segmenter_travels_to_workers_without_its_networks(jobs):
    segmenter = make_config(jobs[0]).make_segmenter()
    assert len(pickle.dumps(segmenter)) < 2000


def test_wrong_flags_are_errors(jobs):
    folder = jobs[0]
    for changes, message in (
        ({"nuclei_weights": None}, "needs --nuclei_weights"),
        ({"cell_weights": network_files.brightness_file("nuclei")}, "taken for each other"),
        ({"device": "cuda:77"}, "--device=cuda:77"),
        ({"pixel_size_um": 1.5}, "--pixel_size_um"),
        ({"labelling": "slow"}, "--labelling=slow"),
        ({"segmenter": "watershed", "device": "cpu"}, "--(nuclei_weights|device) is no option of"),
    ):
        with pytest.raises(ConfigError, match=message):
            segment.run(make_config(folder, cells_dir=f"{folder}/never", **changes))
    assert not (folder / "never").exists()


def test_without_torch_jobs_run_and_the_error_says_what_to_install(monkeypatch):
    find_spec = hpacellseg.importlib.util.find_spec
    monkeypatch.setattr(
        hpacellseg.importlib.util, "find_spec", lambda name: None if name == "torch" else find_spec(name)
    )
    with pytest.raises(ConfigError, match=r"pip install 'hpa-single-cell\[segmenter\]'"):
        CellSegmentator(None, None)
    code = "import sys, beam_jobs.segment, beam_jobs.import_weights; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_channels_reach_the_networks_by_name(monkeypatch):
    assert schema.CHANNELS != ("red", "yellow", "blue", "green")
    image = np.zeros((64, 64, 4), np.uint8)
    for value, name in enumerate(("red", "green", "blue", "yellow"), start=1):
        image[..., schema.CHANNELS.index(name)] = value
    seen = {}

    class Networks:
        multi_channel_model = True

        def pred_nuclei(self, images):
            seen["nuclei"] = np.unique(images[0] * 255)
            return [np.zeros((64, 64, 3), np.uint8)]

        def pred_cells(self, images, precombined):
            seen["cells"] = [np.unique(images[0][..., plane] * 255) for plane in range(3)]
            return [np.zeros((64, 64, 3), np.uint8)]

    segmenter = make_segmenter(
        "hpacellseg",
        pixel_size_um=0.08,
        nuclei_weights=network_files.brightness_file("nuclei"),
        cell_weights=network_files.brightness_file("cell_3ch"),
    )
    monkeypatch.setattr("beam_jobs.segmenters.neural._networks", lambda *_, **__: Networks())
    with pytest.raises(FovError, match="no cell"):
        segmenter.segment(image, fov_id="x")
    np.testing.assert_allclose(seen["nuclei"], [3], atol=1e-4)
    np.testing.assert_allclose(np.ravel(seen["cells"]), [1, 4, 3], atol=1e-4)


@pytest.mark.slow
def test_two_channel_weights_are_known_by_their_kind(jobs):
    folder = jobs[0]
    config = make_config(folder, cells_dir=f"{folder}/two", cell_weights=network_files.brightness_file("cell_2ch"))
    assert len(segment.run(config).cells) == 4


@pytest.mark.slow
def test_two_workers_find_the_same_cells(jobs):
    folder, found, _ = jobs
    result = segment.run(make_config(folder, cells_dir=f"{folder}/workers", num_workers=2))
    assert list(result.cells["record_crc32c"]) == list(found.cells["record_crc32c"])


def test_prepared_network_is_ready_whatever_it_was():
    network = dpn_unet.prepare(nn.Conv2d(3, 3, 1), device="cpu", precision="bfloat16")
    assert network.weight.dtype == torch.bfloat16
    assert not network.training
    found = dpn_unet.predict(network, np.zeros((1, 3, 2, 2), np.float32))
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-6)

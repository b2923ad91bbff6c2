"""The command `trainer.overlay`: the right FOV, its outlines, its likeliest classes."""

import dataclasses
import shutil
import struct

import cv2
import numpy as np
import pytest

import kaggle_data
import small_dataset
from hpa_proto import schema
from hpa_proto.errors import ConfigError, DatasetError
from trainer import cell_masks, overlay, shards
from trainer.overlay import OverlayConfig

CLASSES = [(16, "Cytosol"), (17, "Vesicles and punctate cytosolic patterns"), (18, "Negative")]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return small_dataset.make(tmp_path_factory.mktemp("data"), num_fovs=3, num_cells=4, with_labels=False)


@pytest.fixture
def config(dataset, tmp_path):
    path = tmp_path / "predictions.parquet"
    kaggle_data.predict_at_random(path, dataset.data_dir, split="predict", classes=CLASSES)
    return OverlayConfig(
        predictions=str(path),
        data_dir=str(dataset.data_dir),
        images=str(dataset.images_dir),
        fov="fov-1",
        out=str(tmp_path / "fov.png"),
    )


def drawn(config):
    overlay.run(config)
    return cv2.imread(config.out)[..., ::-1]


@pytest.fixture
def captions(monkeypatch):
    """Keeps the text and draws none of it."""
    kept = []
    original = overlay.draw

    def draw(image, cells, captions, **arguments):
        kept.append(dict(zip([cell.cell_id for cell in cells], captions, strict=True)))
        return original(image, cells, [[] for _ in captions], **arguments)

    monkeypatch.setattr(overlay, "draw", draw)
    return kept


def test_outlines_lie_around_the_cells_and_nowhere_else(config, dataset):
    manifest, _ = shards.read_manifest(config.data_dir)
    cells = cell_masks.group_by_fov(config.data_dir, manifest, "predict")["fov-1"]
    image = overlay.read_channels(config.images, "fov-1")
    plain, outlined = (overlay.draw(image, shown, [[]] * len(shown), max_side_px=1600) for shown in ([], cells))
    changed = (plain != outlined).any(axis=2)
    mask = cv2.imread(str(dataset.masks_dir / "fov-1_cell.png"), cv2.IMREAD_UNCHANGED)
    cross, square = (cv2.getStructuringElement(shape, (3, 3)) for shape in (cv2.MORPH_CROSS, cv2.MORPH_RECT))
    inside = sum(cv2.erode((mask == cell).astype(np.uint8), cross) for cell in range(1, 5))
    edge = (mask > 0) & (inside == 0)
    assert changed[edge].mean() > 0.95
    assert not changed[cv2.dilate(edge.astype(np.uint8), square) == 0].any()


def test_each_cell_gets_its_likeliest_classes(config, captions):
    predicted = kaggle_data.predict_at_random(
        config.predictions, config.data_dir, split="predict", classes=CLASSES, seed=5
    )
    overlay.run(dataclasses.replace(config, num_classes=2, min_confidence=0.3))
    assert list(captions[0]) == [f"fov-1_{number}" for number in range(1, 5)]
    short = {"Vesicles and punctate cytosolic patterns": "Vesicles and punctate…"}
    for cell_id, lines in captions[0].items():
        row = list(predicted.cell_ids).index(cell_id)
        pairs = sorted(zip(predicted.probabilities[row], predicted.class_names, strict=True), reverse=True)[:2]
        names = [f"{short.get(name, name)} {p:.2f}" for p, name in pairs if p >= 0.3]
        number = cell_id.rpartition("_")[2]
        assert lines == [f"{number} {names[0]}" if names else f"{number} -", *names[1:]]


def test_text_is_drawn_inside_the_picture(config):
    with_text = drawn(config)
    without = drawn(dataclasses.replace(config, min_confidence=1.0))
    assert (with_text != without).any()


def test_a_large_fov_is_made_smaller(config):
    assert max(drawn(dataclasses.replace(config, max_side_px=64)).shape) == 64


def test_sixteen_bit_channels_look_as_eight_bit_ones(config, dataset, captions, tmp_path):
    folder = tmp_path / "deep"
    folder.mkdir()
    for channel in schema.CHANNELS:
        plane = cv2.imread(str(dataset.images_dir / f"fov-1_{channel}.png"), cv2.IMREAD_UNCHANGED)
        cv2.imwrite(str(folder / f"fov-1_{channel}.tif"), plane.astype(np.uint16) * 257)
    deep = drawn(dataclasses.replace(config, images=str(folder)))
    assert np.abs(deep.astype(int) - drawn(config)).max() <= 2


def test_a_coloured_channel_is_taken_at_its_brightest(dataset, tmp_path):
    for channel in schema.CHANNELS:
        shutil.copy(dataset.images_dir / f"fov-1_{channel}.png", tmp_path)
    grey = cv2.imread(str(tmp_path / "fov-1_yellow.png"), cv2.IMREAD_UNCHANGED)
    cv2.imwrite(str(tmp_path / "fov-1_yellow.png"), np.dstack([np.zeros_like(grey), grey, grey]))
    image = overlay.read_channels(str(tmp_path), "fov-1")
    assert (image[..., schema.CHANNELS.index("yellow")] == grey).all()


def test_a_missing_channel_is_an_error(config, dataset, tmp_path):
    folder = shutil.copytree(dataset.images_dir, tmp_path / "images")
    (folder / "fov-1_green.png").unlink()
    with pytest.raises(ConfigError, match=r"no readable fov-1_green\.png"):
        overlay.run(dataclasses.replace(config, images=str(folder)))


def tiff(width=8, height=6, dtype=np.uint8):
    return bytearray(cv2.imencode(".tif", np.ones((height, width), dtype), [cv2.IMWRITE_TIFF_COMPRESSION, 1])[1])


def change_entry(data, tag, value):
    """Sets a number in the first directory of a TIFF."""
    start = struct.unpack_from("<I", data, 4)[0]
    for place in range(start + 2, start + 2 + 12 * struct.unpack_from("<H", data, start)[0], 12):
        if struct.unpack_from("<H", data, place)[0] == tag:
            struct.pack_into("<HII", data, place + 2, 4, 1, value)
    return data


@pytest.mark.parametrize(
    ("data", "words"),
    [
        # Found by fuzzing: OpenCV answers with an error of its own.
        (change_entry(tiff(), 256, 1 << 24), "it cannot be decoded"),
        (change_entry(change_entry(tiff(), 256, 1 << 16), 257, 1 << 16), "it is 65536 x 65536 px; at most"),
        (change_entry(tiff(), 256, 0), "its header has no size"),
        (tiff(dtype=np.float32), "it holds float32 pixels"),
        (tiff()[:8], "whose first directory is damaged"),
        (b"II*\0" + b"\xff" * 20, "whose first directory is damaged"),
    ],
)
def test_a_tiff_that_is_no_picture_is_an_error(tmp_path, data, words):
    for channel in schema.CHANNELS:
        (tmp_path / f"fov_{channel}.tif").write_bytes(data)
    with pytest.raises(ConfigError, match=f"no readable fov_red.png .*: .*{words}"):
        overlay.read_channels(str(tmp_path), "fov")


def test_a_tiff_is_read(tmp_path):
    for channel in schema.CHANNELS:
        (tmp_path / f"fov_{channel}.tif").write_bytes(tiff())
    assert overlay.read_channels(str(tmp_path), "fov").shape == (6, 8, 4)


def test_images_of_another_size_are_an_error(config, tmp_path):
    for channel in schema.CHANNELS:
        cv2.imwrite(str(tmp_path / f"fov-1_{channel}.png"), np.zeros((10, 12), np.uint8))
    with pytest.raises(ConfigError, match="FOV fov-1 is 12 x 10 px, its cells are of one of 128 x 96 px"):
        overlay.run(dataclasses.replace(config, images=str(tmp_path)))


def test_an_unknown_fov_is_an_error(config):
    with pytest.raises(ConfigError, match=r"--fov=nowhere: .* has no cell of it"):
        overlay.run(dataclasses.replace(config, fov="nowhere"))


def test_predictions_of_another_data_set_are_an_error(config, dataset, tmp_path):
    other = shutil.copytree(dataset.data_dir, tmp_path / "other")
    path = other / schema.MANIFEST_NAME
    manifest = schema.parse_manifest(path.read_text(), source="test")
    manifest.label_scope = "all"
    path.write_text(schema.format_manifest(manifest))
    with pytest.raises(DatasetError, match="not made from"):
        overlay.run(dataclasses.replace(config, data_dir=str(other)))


@pytest.mark.parametrize("wrong", [{"out": "fov.gif"}, {"num_classes": 0}, {"max_side_px": 0}])
def test_a_setting_that_cannot_work_is_an_error(config, wrong):
    with pytest.raises(ConfigError, match=f"--{next(iter(wrong))}="):
        dataclasses.replace(config, **wrong)


def test_the_command_writes_beside_the_user_by_default(config, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    flags = [f"--{name}={getattr(config, name)}" for name in ("predictions", "data_dir", "images", "fov")]
    assert overlay.main(["overlay", *flags]) == 0
    assert capsys.readouterr().out == "fov-1_overlay.png: FOV fov-1, 4 cells\n"
    assert (tmp_path / "fov-1_overlay.png").stat().st_size > 0
    assert overlay.main(["overlay", *flags[:3]]) == 1
    assert "--fov is missing" in capsys.readouterr().err

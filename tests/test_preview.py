"""trainer.preview."""

import cv2
import numpy as np
import pytest

from hpa_proto.errors import ConfigError
from trainer import preview


def test_channels_are_added_as_light_of_their_colours():
    pixels = np.array([[200, 10, 20, 40]], dtype="uint8").reshape(1, 1, 1, 4)
    composite = preview.composite_channels(pixels, ("red", "green", "blue", "yellow"))
    assert composite.dtype == np.uint8
    assert composite.ravel().tolist() == [240, 50, 20]
    assert preview.composite_channels(pixels * 0 + 200, ("red", "green", "blue", "yellow")).max() == 255


def test_channels_go_by_name_not_by_place():
    pixels = np.array([7, 9], dtype="float32").reshape(1, 1, 1, 2)
    assert preview.composite_channels(pixels, ("blue", "green")).ravel().tolist() == [0, 9, 7]
    assert preview.composite_channels(pixels[..., :1], ("blue",)).ravel().tolist() == [7, 7, 7]


@pytest.mark.parametrize("captions", [(), [f"cell {i}" for i in range(6)]])
def test_preview_shows_every_cell_in_a_grid(tmp_path, captions):
    levels = np.arange(40, 280, 40)
    images = np.zeros((6, 16, 16, 3), dtype="float32") + levels[:, None, None, None]
    preview.draw_preview(images, ("red", "green", "blue"), path=str(tmp_path / "cells.png"), captions=captions)
    page = cv2.imread(str(tmp_path / "cells.png"))
    assert page.shape[1] == 4 * 300
    assert page.shape[0] >= 2 * 300
    for level in levels:
        assert (page == level).all(axis=-1).sum() > 200**2


def test_wrong_number_of_names_or_captions_is_an_error(tmp_path):
    images = np.zeros((2, 8, 8, 3))
    with pytest.raises(ConfigError, match="red, green"):
        preview.composite_channels(images, ("red", "green"))
    with pytest.raises(ConfigError, match="1 captions"):
        preview.draw_preview(images, ("red", "green", "blue"), path=str(tmp_path / "cells.png"), captions=["one"])

"""The network against the reference logits of the original, and its quick convolutions against plain ones."""

import json
import pathlib

import numpy as np
import pytest
import torch
from torch import nn

import network_files
from beam_jobs.segmenters import dpn_unet
from beam_jobs.segmenters.winograd import WinogradConv

_VECTORS = pathlib.Path(__file__).parents[2] / "shared" / "vectors" / "hpacellseg"
_INPUTS = {"square": (7, (2, 3, 64, 64)), "wide": (8, (1, 3, 96, 160))}


@pytest.fixture(scope="module")
def vectors():
    if not _VECTORS.exists():
        pytest.skip(f"shared data not there: {_VECTORS}")
    return _VECTORS


def test_names_and_shapes_are_those_of_the_published_weights(vectors):
    published = json.loads((vectors / "dpn_unet_state_dict.json").read_text())
    assert dpn_unet.state_shapes() == {name: tuple(shape) for name, shape in published}
    assert len(published) == 499


def logits(network, name):
    seed, shape = _INPUTS[name]
    images = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    with torch.inference_mode():
        return network(torch.from_numpy(images)).numpy(), images


def test_logits_and_probabilities_equal_the_original(vectors):
    network = dpn_unet.make_network(network_files.made_up_weights(), device="cpu")
    for name in _INPUTS:
        wanted = np.load(vectors / f"dpn_unet_{name}_logits.npy")
        found, images = logits(network, name)
        np.testing.assert_allclose(found, wanted, atol=1e-4, rtol=0)
        np.testing.assert_allclose(
            dpn_unet.predict(network, images), torch.from_numpy(wanted).softmax(1).numpy(), atol=1e-5
        )


def test_network_without_quick_convolutions_equals_the_original(vectors):
    with torch.device("meta"):
        network = dpn_unet.DpnUnet()
    weights = {name: torch.from_numpy(array) for name, array in network_files.made_up_weights().items()}
    network.load_state_dict(weights, assign=True)
    found, _ = logits(dpn_unet.prepare(network, device="cpu"), "wide")
    np.testing.assert_allclose(found, np.load(vectors / "dpn_unet_wide_logits.npy"), atol=1e-4, rtol=0)


@pytest.mark.slow
def test_bfloat16_stays_near_float32():
    images = np.random.default_rng(0).standard_normal((1, 3, 32, 64)).astype(np.float32)
    exact, rounded = (
        dpn_unet.predict(dpn_unet.make_network(network_files.made_up_weights(), device="cpu", precision=name), images)
        for name in ("float32", "bfloat16")
    )
    assert 0 < np.abs(exact - rounded).max() < 0.02


@pytest.mark.parametrize("doubles", [False, True])
@pytest.mark.parametrize("shape", [(1, 2, 2), (2, 4, 10), (1, 16, 6)])
def test_quick_convolution_equals_the_plain_one(doubles, shape):
    torch.manual_seed(0)
    conv = nn.Conv2d(5, 7, 3, padding=1)
    plain = nn.Sequential(nn.Upsample(scale_factor=2), conv) if doubles else conv
    x = torch.randn(shape[0], 5, *shape[1:])
    with torch.inference_mode():
        torch.testing.assert_close(WinogradConv(conv, doubles=doubles)(x), plain(x), atol=1e-5, rtol=1e-5)

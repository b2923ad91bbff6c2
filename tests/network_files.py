"""Weights for the networks of hpacellseg, which are not to be had here: made-up ones, and ones that find bright things.

The made-up weights are those of the reference vectors: each a pure function of its name and shape.
"""

import atexit
import functools
import pathlib
import shutil
import tempfile
import zlib

import numpy as np

from beam_jobs.segmenters import dpn_unet, network_weights
from beam_jobs.segmenters.network_weights import Weights

# Columns of the networks' input.
RED, YELLOW, BLUE = range(3)


def make_up(name, shape):
    z = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)
    if name.endswith("running_var"):
        z = 1 + 0.1 * np.abs(z)
    elif name.endswith("running_mean"):
        z = 0.1 * z
    elif len(shape) == 4:
        z = z * np.sqrt(1 / (shape[1] * shape[2] * shape[3]))
    else:
        z = 1 + 0.1 * z if name.endswith("weight") else 0.02 * z
    return z.astype(np.float32)


@functools.cache
def made_up_weights():
    return {name: make_up(name, shape) for name, shape in dpn_unet.state_shapes().items()}


def brightness_weights(channels):
    """A network that calls what is bright in the channels an object: one path through its shallowest layers, the rest 0."""
    weights = {name: np.zeros(shape, np.float32) for name, shape in dpn_unet.state_shapes().items()}
    for name in weights:
        if name.endswith(("running_var", "bn.weight")):
            weights[name][:] = 1
    weights["encoder_stages.0.1.weight"][:] = 1
    weights["encoder_stages.0.1.running_var"][:] = 1
    for feature, channel in enumerate(channels):
        weights["encoder_stages.0.0.weight"][feature, channel, 3, 3] = 1
        # Behind the 64 features from below come those of the stem. 2.2: black, as the input is normalised.
        weights["encoder_stages.0.1.bias"][feature] = 2.2
        weights["bottlenecks.3.seq.0.weight"][feature, 64 + feature, 1, 1] = 1
        weights["last_upsample.layer.1.weight"][feature, feature, 1, 1] = 1
        weights["final.0.weight"][2, feature, 1, 1] = 20
    weights["final.0.bias"][:] = (0, -20, -20 * (0.2 * len(channels) * 4.3 + 0.4))
    return weights


@functools.cache
def _folder():
    folder = tempfile.mkdtemp(prefix="hpa-networks-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return pathlib.Path(folder)


@functools.cache
def brightness_file(kind):
    """A file of 557 MB, made once: "nuclei" looks at blue, "cell_3ch" at red and yellow, "cell_2ch" at red."""
    channels = {"nuclei": (BLUE,), "cell_3ch": (RED, YELLOW), "cell_2ch": (RED,)}[kind]
    path = str(_folder() / f"{kind}.safetensors")
    network_weights.write_safetensors(path, Weights(brightness_weights(channels), kind), source_sha256="0" * 64)
    return path

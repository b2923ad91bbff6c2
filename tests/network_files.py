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

from beam_jobs import benchmark_networks
from beam_jobs.segmenters import dpn_unet

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


@functools.cache
def _folder():
    folder = tempfile.mkdtemp(prefix="hpa-networks-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return pathlib.Path(folder)


@functools.cache
def brightness_file(kind):
    """A file of weights of `benchmark_networks.brightness_weights`, made once."""
    path = str(_folder() / f"{kind}.safetensors")
    benchmark_networks.write_brightness_weights(path, kind)
    return path

"""The tests of augmentation and models on Keras's other backends, each in a process of its own."""

import importlib.util
import os
import pathlib
import subprocess
import sys

import keras
import pytest

_TESTS = pathlib.Path(__file__).parent


@pytest.mark.parametrize("backend", ["tensorflow", "jax", "torch"])
def test_augmentation_and_models_pass_on_every_backend(backend):
    if backend == keras.backend.backend():
        pytest.skip(f"{backend} is the backend of this process: the tests run here")
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    names = ("test_warp.py", "test_augment.py", "test_models.py")
    # Building one network of each family would take minutes: without a compiled step JAX compiles operation by operation.
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-k",
        "not every_family and not efficientnetb6",
        *(str(_TESTS / name) for name in names),
    ]
    environment = os.environ | {"KERAS_BACKEND": backend, "XLA_FLAGS": "--xla_backend_optimization_level=0"}
    result = subprocess.run(command, env=environment, cwd=_TESTS.parent, capture_output=True, text=True, timeout=400)
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-2000:]

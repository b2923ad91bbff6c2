"""Several devices and hosts compute what one device computes."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import trainer_data
from hpa_proto.errors import ConfigError
from trainer import strategy
from trainer.config import TrainConfig

_SCRIPT = Path(__file__).with_name("strategy_runs.py")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return trainer_data.write_dataset(tmp_path_factory.mktemp("data") / "set")


def start(*arguments):
    command = [sys.executable, str(_SCRIPT), *map(str, arguments)]
    # The script says which backend; logs must not fill a pipe that nobody reads.
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=dict(os.environ))


def finish(*processes):
    try:
        errors = [process.communicate(timeout=240)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert not any(process.returncode for process in processes), "\n".join(error[-2000:] for error in errors)


def losses_of(out, name):
    return np.array(json.loads((out / f"{name}.json").read_text()))


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def test_two_mirrored_devices_give_the_losses_of_one(folder, tmp_path):
    finish(start(folder, tmp_path, "tensorflow"))
    one, two = losses_of(tmp_path, "one"), losses_of(tmp_path, "two")
    assert one.shape == (5, 2)
    assert len(set(one[:, 0])) == 5
    np.testing.assert_allclose(two, one, rtol=1e-4)


def test_two_jax_hosts_of_two_devices_give_the_losses_of_one(folder, tmp_path):
    port = free_port()
    finish(*(start(folder, tmp_path, "jax", index, port) for index in (0, 1)))
    one = losses_of(tmp_path, "one")
    assert len(set(one[:, 0])) == 5
    np.testing.assert_allclose(losses_of(tmp_path, "host0"), one, rtol=1e-4)
    assert losses_of(tmp_path, "host1").tolist() == losses_of(tmp_path, "host0").tolist()
    assert (tmp_path / "host0" / "history.csv").exists()
    assert not (tmp_path / "host1").exists(), "only host 0 writes"


def test_hosts_need_jax():
    config = TrainConfig(data_dir="set", run_dir="run", num_hosts=2, coordinator="127.0.0.1:1")
    with pytest.raises(ConfigError, match="KERAS_BACKEND=jax"):
        strategy.open_devices(config)


def test_precision_that_is_asked_for_is_given():
    assert strategy.choose_precision("mixed_float16") == "mixed_float16"


def test_automatic_precision_on_a_cpu_is_float32():
    assert strategy.choose_precision("auto") == "float32"


def test_one_device_passes_batches_through():
    devices = strategy.Devices()
    batch = {"image": np.arange(4)}
    assert devices.put(batch)["image"] is batch["image"]
    assert devices.fetch(np.arange(3)).tolist() == [0, 1, 2]
    assert devices.host_rows(4) == slice(0, 4)

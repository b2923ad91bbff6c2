"""Made-up weights of the neural segmenter, and the speed of its network by precision and number of FOVs in a batch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from beam_jobs.segmenters import hpacellseg, network_weights
from beam_jobs.segmenters.network_weights import Weights
from hpa_proto.benchmarking import NotMeasuredError, Ratio, Suite, Work
from hpa_proto.errors import ConfigError

# A FOV of 2048 px at a quarter of its resolution.
_SIDE_PX = 512
_CPU_BATCHES, _GPU_BATCHES = (1,), (1, 4, 16, 32)
# Much more is spent on the first call of a GPU's kernels than on any later one.
_GPU_WARM_UPS = 3
_MIN_SPEEDUP = 2.0
# Channels of the networks' input that `write_brightness_weights` looks at, by kind of network: red, yellow, blue.
_BRIGHT_CHANNELS = {"nuclei": (2,), "cell_3ch": (0, 1), "cell_2ch": (0,)}


def brightness_weights(kind: str) -> dict[str, np.ndarray]:
    """Makes a network that calls what is bright a nucleus or a cell: one path through its shallowest layers, the rest 0.

    Args:
      kind: of `network_weights.KINDS`.
    """
    from beam_jobs.segmenters import dpn_unet

    channels = _BRIGHT_CHANNELS[kind]
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


def write_brightness_weights(path: str, kind: str) -> None:
    """Writes the weights of `brightness_weights` as a file of 557 MB for hpacellseg."""
    network_weights.write_safetensors(path, Weights(brightness_weights(kind), kind), source_sha256="0" * 64)


class NetworkSuite(Suite):
    """One pass of the network, of which a FOV takes two; weights are drawn: they play no part in the time.

    float32 is timed as jobs run it, on a processor with quicker convolutions that bfloat16 has no digits for.
    """

    name = "network"
    unit = "FOV"
    reads_as = "rate"

    def __init__(self, device: str):
        """Says where to measure: "cpu", "cuda" or "cuda:<n>"."""
        super().__init__()
        self._device = device
        self._batches = _CPU_BATCHES if device == "cpu" else _GPU_BATCHES
        if device != "cpu":
            self.warm_ups = _GPU_WARM_UPS

    @property
    def title(self) -> str:
        """One line for the reader."""
        return f"one of the two networks of hpacellseg on FOVs of 2048 px ({_SIDE_PX} px inside), {self._device}"

    def prepare(self, folder: str) -> None:
        """Draws weights and FOVs.

        Raises:
          NotMeasuredError: torch or the device is not there.
        """
        try:
            hpacellseg.check_device(self._device)
        except ConfigError as error:
            raise NotMeasuredError(str(error)) from error
        from beam_jobs.segmenters import dpn_unet

        rng = np.random.default_rng(0)
        # A convolution's outputs stay near 1 with weights of 1 / sqrt(inputs): numbers too small for bfloat16 are slow.
        weights = {
            name: rng.standard_normal(shape, dtype=np.float32) / np.float32(np.sqrt(np.prod(shape[1:])))
            for name, shape in dpn_unet.state_shapes().items()
        }
        for name in weights:
            if name.endswith("running_var"):
                weights[name] = np.ones_like(weights[name])
        self._networks = {
            precision: dpn_unet.make_network(dict(weights), device=self._device, precision=precision)
            for precision in hpacellseg.PRECISIONS
        }
        self._predict = dpn_unet.predict
        self._images = rng.standard_normal((max(self._batches), 3, _SIDE_PX, _SIDE_PX), dtype=np.float32)

    def variants(self) -> dict[str, Work]:
        """Returns precisions and batch sizes."""

        def work(precision: str, batch_size: int) -> float:
            self._predict(self._networks[precision], self._images[:batch_size])
            return batch_size

        return {
            _name(precision, batch_size): lambda precision=precision, batch_size=batch_size: work(precision, batch_size)
            for precision in hpacellseg.PRECISIONS
            for batch_size in self._batches
        }

    def ratios(self) -> Sequence[Ratio]:
        """Returns what bfloat16 brings."""
        return [
            Ratio(
                f"bfloat16 against float32, batch {batch_size}",
                _name("bfloat16", batch_size),
                _name("float32", batch_size),
                at_least=_MIN_SPEEDUP,
            )
            for batch_size in self._batches
        ]

    def close(self) -> None:
        """Frees the networks: 1 GB."""
        self._networks = {}


def _name(precision: str, batch_size: int) -> str:
    return f"{precision}, batch {batch_size}"

"""Augmentation on the device, in the training step: one fused warp, then intensities per channel, cutout and mixup.

Everything is a pure function of (seed, step), so a run that is killed and started again draws what it would have drawn.
Nothing of this is in the exported model.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import keras
import numpy as np
from keras import ops
from scipy import special

from hpa_proto.errors import ConfigError
from trainer import warp

Tensor = Any
FULL_SCALE = 255.0
_QUANTILES = 1024


@dataclasses.dataclass(frozen=True)
class AugmentConfig:
    """What is drawn for each picture; 0 or False switches a part off. Draws are uniform unless said otherwise.

    Attributes:
      horizontal_flip: mirror left and right, one time in two.
      vertical_flip: mirror top and bottom, one time in two.
      rotation_degrees: at most, either way.
      shift: at most, as a share of the side, along each axis and either way.
      shear_degrees: at most, either way.
      zoom: scale from 1 - zoom to 1 + zoom, the same along both axes.
      gain: factor from 1 - gain to 1 + gain, per channel.
      gamma: exponent from 1 / (1 + gamma) to 1 + gamma, log-uniform, per channel.
      noise: largest standard deviation of Gaussian noise, as a share of full scale (255); drawn from 0 on, per channel.
        The pictures of a step share one noise field, each with its own strength and sign.
      cutout: side of one square that is set to 0 at a random place, as a share of the side.
      mixup: alpha of the Beta(alpha, alpha) that mixes each picture and its labels with another of the batch
        (Zhang et al. 2018, arXiv:1710.09412).
    """

    horizontal_flip: bool = True
    vertical_flip: bool = True
    rotation_degrees: float = 40.0
    shift: float = 0.2
    # In degrees: Keras' ImageDataGenerator reads shear_range in degrees too, so a value such as 0.2 does nothing.
    shear_degrees: float = 10.0
    zoom: float = 0.3
    gain: float = 0.2
    gamma: float = 0.2
    noise: float = 0.02
    cutout: float = 0.0
    mixup: float = 0.0

    def __post_init__(self) -> None:
        limits = {
            "rotation_degrees": 180.0,
            "shift": 1.0,
            "shear_degrees": 60.0,
            "zoom": 0.9,
            "gain": 1.0,
            "gamma": 10.0,
            "noise": 1.0,
            "cutout": 1.0,
            "mixup": 100.0,
        }
        for name, highest in limits.items():
            value = getattr(self, name)
            if not 0 <= value <= highest:
                raise ConfigError(f"augmentation: {name} is {value}; give a number from 0 (off) to {highest:g}")
        if 0 < self.shear_degrees < 1:
            raise ConfigError(
                f"augmentation: shear_degrees is {self.shear_degrees}: in degrees that does nothing; give 0 or at least 1"
            )

    @property
    def moves_pixels(self) -> bool:
        """Whether a warp is needed."""
        flips = self.horizontal_flip or self.vertical_flip
        return flips or any((self.rotation_degrees, self.shift, self.shear_degrees, self.zoom))


NO_AUGMENTATION = AugmentConfig(
    horizontal_flip=False,
    vertical_flip=False,
    rotation_degrees=0,
    shift=0,
    shear_degrees=0,
    zoom=0,
    gain=0,
    gamma=0,
    noise=0,
)


class _StepSeed(keras.random.SeedGenerator):
    """A seed for one draw. keras.random takes an integer or a SeedGenerator, and a step inside a graph is neither."""

    def __init__(self, base: int, step: Tensor):
        # JAX wants uint32 keys; TensorFlow and torch lack uint32 arithmetic.
        dtype = "uint32" if keras.backend.backend() == "jax" else "int32"
        self._value = ops.stack([ops.cast(base, dtype), ops.cast(step, dtype)])

    def next(self, ordered: bool = True) -> Tensor:
        return self._value


class Augment:
    """Augments a batch: `images, labels = augment(images, labels, step=step)`.

    Has no state: the same seed, step and batch give the same result, eagerly, in a tf.function and in jax.jit.
    """

    def __init__(self, config: AugmentConfig, *, seed: int, warp_method: str = "auto"):
        """Prepares the augmentation.

        Args:
          config: what to draw.
          seed: of the run; any integer from 0.
          warp_method: see `warp.warp_images`; "gather" inside TensorFlow's jit_compile=True.
        """
        self.config = config
        self._warp_method = warp_method
        # Below 2**30: torch adds base and step in int32.
        bases = np.random.SeedSequence([seed, 0x48504131]).generate_state(2) >> 2
        self._table_base, self._noise_base = int(bases[0]), int(bases[1])
        if config.mixup:
            # Drawn by its quantiles: keras.random.beta reseeds torch globally.
            probabilities = np.linspace(0, 1, _QUANTILES + 1)
            shares = special.betaincinv(config.mixup, config.mixup, probabilities)
            self._mixup_quantiles = np.maximum(shares, 1 - shares).astype("float32")

    def __call__(
        self, images: Tensor, labels: Tensor, *, step: Tensor | int, part: Tensor | int = 0, num_parts: int = 1
    ) -> tuple[Tensor, Tensor]:
        """Augments one batch.

        A pixel that is 0 in all channels stays 0: masked background and what the warp brings in from outside carry no
        noise.

        Args:
          images: [B, H, W, C], 0..255, integer or floating.
          labels: float [B, K], one-hot or multi-hot; only mixup alters them, to shares of 0..1 that suit softmax
            (they add up to what they did) and sigmoid.
          step: of the training, from 0; an integer or an integer tensor.
          part: which part of the step's batch this is, where devices or gradient accumulation split it.
          num_parts: number of equal parts. What happens to a picture does not depend on the split, but for its partner
            in mixup, which is of the same part.

        Returns:
          images float [B, H, W, C], 0..255, in the data type of `images` (float32 for integers), and labels.
        """
        config = self.config
        dtype = keras.backend.standardize_dtype(images.dtype)
        num_images = ops.shape(images)[0]
        height_px, width_px, num_channels = images.shape[1:]
        table = self._draw_table(num_images, num_channels, step=step, part=part, num_parts=num_parts)
        if config.moves_pixels:
            transforms = warp.compose_transforms(self._geometry(table), height_px=height_px, width_px=width_px)
            images = warp.warp_images(images, transforms, method=self._warp_method)
        images = ops.cast(images, "float32")
        images = self._jitter(images, table, step=step)
        if config.cutout:
            images = _cut_out(images, table[:, 7:9], share=config.cutout)
        if config.mixup:
            images, labels = self._mix_up(images, labels, table[:, 9])
        return ops.cast(images, dtype if "float" in dtype else "float32"), labels

    def _draw_table(
        self, num_images: Tensor, num_channels: int, *, step: Tensor | int, part: Tensor | int, num_parts: int
    ) -> Tensor:
        """Draws float32[B, 10 + 3 C] of 0..1. All columns are drawn always: one option does not alter another's draws."""
        shape = (num_images * num_parts, 10 + 3 * num_channels)
        table = keras.random.uniform(shape, seed=_StepSeed(self._table_base, step), dtype="float32")
        if num_parts == 1:
            return table
        return ops.slice(table, [num_images * part, 0], [num_images, shape[1]])

    def _geometry(self, table: Tensor) -> warp.Geometry:
        config = self.config
        signed = 2 * table - 1
        return warp.Geometry(
            flip_x=_flip(signed[:, 0], on=config.horizontal_flip),
            flip_y=_flip(signed[:, 1], on=config.vertical_flip),
            rotation_rad=signed[:, 2] * math.radians(config.rotation_degrees),
            shear_rad=signed[:, 3] * math.radians(config.shear_degrees),
            zoom=1 + signed[:, 4] * config.zoom,
            shift_x=signed[:, 5] * config.shift,
            shift_y=signed[:, 6] * config.shift,
        )

    def _jitter(self, images: Tensor, table: Tensor, *, step: Tensor | int) -> Tensor:
        config = self.config
        if not (config.gain or config.gamma or config.noise):
            return images
        num_channels = images.shape[-1]
        gain, gamma, noise = ops.split(ops.reshape(table[:, 10:], (-1, 1, 1, 3 * num_channels)), 3, axis=-1)
        inside = ops.any(images > 0, axis=-1, keepdims=True)
        images = images / FULL_SCALE
        if config.gain:
            images = images * (1 + config.gain * (2 * gain - 1))
        if config.gamma:
            exponent = ops.exp(math.log1p(config.gamma) * (2 * gamma - 1))
            # A third of the time of ops.power on the CPU. Where the pixel is 0: exp(-inf) = 0.
            images = ops.exp(exponent * ops.log(images))
        if config.noise:
            # One field a step, with another strength and sign for each picture and channel: drawing 4 million normal
            # numbers for every batch would cost more than all the rest, and the field would depend on the split.
            field = keras.random.normal((1, *images.shape[1:]), seed=_StepSeed(self._noise_base, step), dtype="float32")
            images = images + field * (config.noise * (2 * noise - 1)) * ops.cast(inside, "float32")
        return ops.clip(images, 0.0, 1.0) * FULL_SCALE

    def _mix_up(self, images: Tensor, labels: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
        position = uniform * _QUANTILES
        below = ops.minimum(ops.floor(position), _QUANTILES - 1)
        quantiles = ops.convert_to_tensor(self._mixup_quantiles)
        lower, upper = (ops.take(quantiles, ops.cast(below, "int32") + i, axis=0) for i in (0, 1))
        share = lower + (upper - lower) * (position - below)
        # The batch is in random order already: its neighbour is as good as a random partner.
        image_share = ops.reshape(share, (-1, 1, 1, 1))
        images = image_share * images + (1 - image_share) * ops.roll(images, 1, axis=0)
        labels = ops.cast(labels, "float32")
        label_share = ops.expand_dims(share, -1)
        return images, label_share * labels + (1 - label_share) * ops.roll(labels, 1, axis=0)


def _flip(signed: Tensor, *, on: bool) -> Tensor:
    return ops.where(signed < 0, -1.0, 1.0) if on else ops.ones_like(signed)


def _cut_out(images: Tensor, center: Tensor, *, share: float) -> Tensor:
    """Sets a square to 0 (DeVries and Taylor 2017, arXiv:1708.04552); near the edge it is cut off by the edge."""
    height_px, width_px = images.shape[1:3]
    y = ops.reshape((ops.arange(height_px, dtype="float32") + 0.5) / height_px, (1, height_px, 1, 1))
    x = ops.reshape((ops.arange(width_px, dtype="float32") + 0.5) / width_px, (1, 1, width_px, 1))
    center_y, center_x = (ops.reshape(center[:, i], (-1, 1, 1, 1)) for i in (0, 1))
    hidden = ops.logical_and(ops.abs(y - center_y) < share / 2, ops.abs(x - center_x) < share / 2)
    return ops.where(hidden, 0.0, images)

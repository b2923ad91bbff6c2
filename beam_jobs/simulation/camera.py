"""From light to grey values: uneven illumination, blur of the objective, glow from out of focus, noise, bit depth."""

from __future__ import annotations

import dataclasses

import numpy as np

from beam_jobs.simulation.grid import Grid

BIT_DEPTHS: tuple[int, ...] = (8, 12, 14, 16)
# Standard deviation of a confocal's point spread function, about 0.2 um wide at half height in green light.
_BLUR_UM = 0.1
_GLOW_UM = 2.2


@dataclasses.dataclass(frozen=True)
class Exposure:
    """How one channel of one field was taken.

    Attributes:
      gain: brightness; light of 1.0 reaches white at 1.0.
      glow: share of the light that comes back as a wide haze.
      photons: photons that make white; fewer mean more shot noise.
      read_noise: standard deviation of the electronics, of white.
      black: dark level that was cut off, of white.
    """

    gain: float
    glow: float
    photons: float
    read_noise: float
    black: float


def draw_illumination(grid: Grid, rng: np.random.Generator) -> np.ndarray:
    """Draws a lamp that is brightest somewhere near the middle: float32[H, W], 1 at the peak."""
    across = (np.arange(grid.width_px, dtype=np.float32) + 0.5) / grid.width_px - np.float32(rng.uniform(0.35, 0.65))
    down = (np.arange(grid.height_px, dtype=np.float32) + 0.5) / grid.height_px - np.float32(rng.uniform(0.35, 0.65))
    fall = rng.uniform(0.15, 0.6)
    return np.exp(-np.float32(fall) * (down[:, None] ** 2 + across[None, :] ** 2)).astype(np.float32)


def draw_exposure(rng: np.random.Generator, *, photons: float) -> Exposure:
    """Draws an exposure like those of the atlas, with about `photons` at white."""
    return Exposure(
        gain=float(rng.uniform(0.75, 1.15)),
        glow=float(rng.uniform(0.04, 0.14)),
        photons=float(photons * np.exp(rng.uniform(-0.9, 0.9))),
        read_noise=float(rng.uniform(0.003, 0.008)),
        black=float(rng.uniform(0.004, 0.012)),
    )


def take_image(
    grid: Grid,
    light: np.ndarray,
    noise_rng: np.random.Generator,
    *,
    illumination: np.ndarray,
    exposure: Exposure,
    bit_depth: int,
) -> np.ndarray:
    """Takes one channel: uint8[H, W] for 8 bits, else uint16[H, W] with values below 2 ** bit_depth.

    Args:
      grid: the field.
      light: float32[H, W].
      noise_rng: a generator of its own, since the amount of noise drawn depends on the number of pixels.
      illumination: float32[H, W], 0..1.
      exposure: how it is taken.
      bit_depth: one of BIT_DEPTHS.
    """
    light = np.maximum(light, 0)
    seen = grid.blur(light, sigma_um=_BLUR_UM)
    seen += np.float32(exposure.glow) * grid.blur(light, sigma_um=_GLOW_UM)
    seen *= illumination * np.float32(exposure.gain)
    # Shot noise: a photon count's variance is its mean. Gaussian is close enough and ten times as fast as Poisson.
    spread = np.sqrt(seen * np.float32(1 / exposure.photons) + np.float32(exposure.read_noise**2))
    seen += spread * noise_rng.standard_normal(grid.shape, dtype=np.float32)
    seen -= np.float32(exposure.black)
    white = 2**bit_depth - 1
    np.clip(seen, 0, 1, out=seen)
    seen *= np.float32(white)
    seen += np.float32(0.5)
    return seen.astype(np.uint8 if bit_depth == 8 else np.uint16)

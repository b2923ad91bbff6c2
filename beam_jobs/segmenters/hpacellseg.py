"""The calls of HPA-Cell-Segmentation (import name hpacellseg), so that its scripts change one import, and its networks' pixels.

    from beam_jobs.segmenters.hpacellseg import CellSegmentator, label_cell, label_nuclei

Where it differs from the tool: FOVs that are not square are not transposed, sides need not be multiples of 32, FOVs of one list
may differ in size, a device that is not there is an error, and nothing is downloaded.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from beam_jobs import fov_reader
from beam_jobs.fov_source import FovRef
from beam_jobs.segmenters import network_frame, network_weights
from beam_jobs.segmenters.label_cell import label_cell, label_nuclei
from beam_jobs.segmenters.network_frame import FramedFov
from hpa_proto.errors import ConfigError

if TYPE_CHECKING:
    import torch

__all__ = ["PRECISIONS", "CellSegmentator", "check_device", "label_cell", "label_nuclei"]

PRECISIONS: tuple[str, ...] = ("float32", "bfloat16")

Image = str | os.PathLike | np.ndarray


class CellSegmentator:
    """Runs the networks for nuclei and for cells on FOVs.

    Attributes:
      device: where the networks are.
      scale_factor: side of the networks' input by side of the FOV; 0.25 suits pixels of 0.08 um.
      padding: whether FOVs get a reflected border of 32 px first, which helps cells at the edge.
      multi_channel_model: whether the cell network sees the endoplasmic reticulum.
    """

    def __init__(
        self,
        nuclei_model: str | torch.nn.Module | None = "./nuclei_model.safetensors",
        cell_model: str | torch.nn.Module | None = "./cell_model.safetensors",
        scale_factor: float = 0.25,
        device: str | None = None,
        padding: bool = False,
        multi_channel_model: bool = True,
        *,
        precision: str = "float32",
        batch_size: int = 4,
    ):
        """Loads the networks. Positions and names of the first six are the tool's.

        Args:
          nuclei_model: file of weights (.safetensors of `beam_jobs.import_weights`, or the published .pth, of which nothing is
            run), or a loaded module that gives logits; None: only cells are wanted.
          cell_model: likewise; None: only nuclei are wanted.
          scale_factor: see above.
          device: "cpu", "cuda" or "cuda:<n>"; None: a GPU where there is one.
          padding: see above.
          multi_channel_model: False for the two-channel model, weights dpn_unet_cell_v2.
          precision: "float32", or "bfloat16" for processors and GPUs that compute with it.
          batch_size: FOVs of equal size that go through a network together.

        Raises:
          ConfigError: no such file, other weights, torch or the device is not there, or a value out of range.
        """
        check_device(device or "cpu")
        if precision not in PRECISIONS:
            raise ConfigError(f"precision {precision!r}: choose one of {', '.join(PRECISIONS)}")
        if not scale_factor > 0 or batch_size < 1:
            raise ConfigError(f"scale_factor {scale_factor}, batch_size {batch_size}: give values above 0")
        self.device = device or ("cuda" if _has_cuda() else "cpu")
        self.scale_factor = scale_factor
        self.padding = padding
        self.multi_channel_model = multi_channel_model
        self._batch_size = batch_size
        cell_kind = "cell_3ch" if multi_channel_model else "cell_2ch"
        self.nuclei_model = _load(nuclei_model, kind="nuclei", device=self.device, precision=precision)
        self.cell_model = _load(cell_model, kind=cell_kind, device=self.device, precision=precision)

    def pred_nuclei(self, images: Sequence[Image]) -> list[np.ndarray]:
        """Predicts nuclei.

        Args:
          images: paths or arrays: [H, W] of the DNA stain, or [H, W, 3] with it in the third plane (RGB). uint8 and uint16
            count as shares of their full range, floats are of 0..1.

        Returns:
          For each FOV uint8[H, W, 3], 0..255: nothing, border between touching nuclei, nucleus.

        Raises:
          FovError: a picture cannot be read.
          ConfigError: no nuclei model, or an image of another shape or type.
        """
        if self.nuclei_model is None:
            raise ConfigError("pred_nuclei: no nuclei_model was given")
        images = _check_list(images, "images")
        return self._predict(self.nuclei_model, (self._frame(_dna_plane(image)) for image in images))

    def pred_cells(
        self, images: Sequence[Sequence[Image] | None] | Sequence[np.ndarray], precombined: bool = False
    ) -> list[np.ndarray]:
        """Predicts cells.

        Args:
          images: [microtubules, endoplasmic reticulum, nuclei], each a list of paths or arrays [H, W], as many as there are
            FOVs; the second is None for the two-channel model.
          precombined: `images` is a list of arrays [H, W, 3] instead: microtubules, endoplasmic reticulum (empty for the
            two-channel model), nuclei.

        Returns:
          For each FOV uint8[H, W, 3], 0..255: nothing, border between touching cells, cell.

        Raises:
          FovError: a picture cannot be read.
          ConfigError: no cell model, lists of different length, or an image of another shape or type.
        """
        if self.cell_model is None:
            raise ConfigError("pred_cells: no cell_model was given")
        combined = _check_list(images, "images") if precombined else self._combine(images)
        return self._predict(self.cell_model, (self._frame(_three_planes(image)) for image in combined))

    def _combine(self, images: Sequence[Sequence[Image] | None]) -> Sequence[Sequence[Image | None]]:
        if len(images) != 3:
            raise ConfigError(f"images has {len(images)} lists; give microtubules, endoplasmic reticulum and nuclei")
        red, yellow, blue = images
        if (yellow is not None) != self.multi_channel_model:
            wanted = "is needed" if self.multi_channel_model else "must be None"
            raise ConfigError(
                f"the list of the endoplasmic reticulum {wanted} with this cell model (multi_channel_model)"
            )
        red, blue = _check_list(red, "microtubules"), _check_list(blue, "nuclei")
        yellow = [None] * len(red) if yellow is None else _check_list(yellow, "endoplasmic reticulum")
        if not len(red) == len(yellow) == len(blue):
            raise ConfigError(
                f"lists of {len(red)}, {len(yellow)} and {len(blue)} images; give as many of each channel"
            )
        return list(zip(red, yellow, blue, strict=True))

    def _frame(self, image: np.ndarray) -> FramedFov:
        return network_frame.frame(image, scale_factor=self.scale_factor, padding=self.padding)

    def _predict(self, network: torch.nn.Module, framed: Sequence[FramedFov]) -> list[np.ndarray]:
        from beam_jobs.segmenters import dpn_unet

        results: dict[int, np.ndarray] = {}
        waiting: dict[tuple[int, ...], list[tuple[int, FramedFov]]] = {}

        def run(batch: list[tuple[int, FramedFov]]) -> None:
            predictions = dpn_unet.predict(network, np.stack([fov.pixels for _, fov in batch]))
            for (index, fov), prediction in zip(batch, predictions, strict=True):
                results[index] = network_frame.unframe(prediction, fov)

        for index, fov in enumerate(framed):
            batch = waiting.setdefault(fov.pixels.shape, [])
            batch.append((index, fov))
            if len(batch) == self._batch_size:
                run(waiting.pop(fov.pixels.shape))
        for batch in waiting.values():
            run(batch)
        return [results[index] for index in sorted(results)]


def check_device(device: str) -> None:
    """Checks that torch is installed and has the device.

    Raises:
      ConfigError: it is not so.
    """
    if importlib.util.find_spec("torch") is None:
        raise ConfigError(
            "the networks of hpacellseg need torch, which is not installed: pip install 'hpa-single-cell[segmenter]', "
            "or choose --segmenter=watershed"
        )
    name, _, number = device.partition(":")
    if name not in ("cpu", "cuda") or (number and (name == "cpu" or not number.isdecimal())):
        raise ConfigError(f"--device={device}: give cpu, cuda or cuda:<number>")
    if name == "cuda" and not _has_cuda(int(number or 0)):
        raise ConfigError(
            f"--device={device}: torch finds no such GPU here; use --device=cpu, or install a build of torch for your GPU"
        )


def _has_cuda(number: int = 0) -> bool:
    import torch

    return torch.cuda.is_available() and number < torch.cuda.device_count()


def _load(model: str | torch.nn.Module | None, *, kind: str, device: str, precision: str) -> torch.nn.Module | None:
    from beam_jobs.segmenters import dpn_unet

    if model is None:
        return None
    if not isinstance(model, str | os.PathLike):
        return dpn_unet.prepare(getattr(model, "module", model), device=device, precision=precision)
    path = os.fspath(model)
    weights = network_weights.read_weights(path)
    network_weights.check_kind(weights.kind, kind, path=path)
    network_weights.check_tensors(weights.tensors, dpn_unet.state_shapes(), path=path)
    return dpn_unet.make_network(weights.tensors, device=device, precision=precision)


def _check_list(images: Sequence, name: str) -> Sequence:
    # A single path or array would be taken apart letter by letter or row by row.
    if not isinstance(images, list | tuple):
        raise ConfigError(f"{name}: give a list of images, not {type(images).__name__}")
    return images


def _read(image: Image) -> np.ndarray:
    if isinstance(image, np.ndarray):
        return image
    path = os.path.expanduser(os.fspath(image))
    fov = FovRef(os.path.basename(path), (), None)
    return _as_rgb(fov_reader.decode_file(fov, path, fov_reader.read_file(fov, path)), path)


def _as_rgb(image: np.ndarray, path: str) -> np.ndarray:
    # OpenCV reads colours as BGR; tifffile, for TIFF, as they are.
    is_bgr = image.ndim == 3 and not path.lower().endswith((".tif", ".tiff"))
    return image[..., 2::-1] if is_bgr else image


def _dna_plane(image: Image) -> np.ndarray:
    pixels = _read(image)
    if pixels.ndim == 3 and pixels.shape[2] >= 3:
        return pixels[..., 2]
    if pixels.ndim != 2:
        raise ConfigError(
            f"an image of shape {list(pixels.shape)}: give [H, W], or [H, W, 3] with nuclei in the third plane"
        )
    return pixels


def _three_planes(image: np.ndarray | Sequence[Image | None]) -> np.ndarray:
    if isinstance(image, np.ndarray):
        if image.ndim != 3 or image.shape[2] != 3:
            raise ConfigError(f"an image of shape {list(image.shape)}: precombined images are [H, W, 3]")
        return image
    planes = [plane if plane is None else _grey_plane(plane) for plane in image]
    planes = [np.zeros_like(planes[0]) if plane is None else plane for plane in planes]
    shapes = {(plane.shape, plane.dtype) for plane in planes}
    if len(shapes) > 1:
        raise ConfigError(f"the channels of a FOV differ in size or type: {sorted(map(str, shapes))}")
    return np.dstack(planes)


def _grey_plane(image: Image) -> np.ndarray:
    pixels = _read(image)
    if pixels.ndim == 3 and pixels.shape[2] in (3, 4):
        # Public HPA pictures show a channel in its colour: the brightest of RGB is the channel.
        pixels = pixels[..., :3].max(axis=2)
    if pixels.ndim != 2:
        raise ConfigError(f"an image of shape {list(pixels.shape)}: give one channel, [H, W]")
    return pixels

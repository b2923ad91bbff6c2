"""Files of the networks' weights: where they come from, whether they fit, safetensors."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import safetensors
import safetensors.numpy

from beam_jobs.segmenters import pth_reader
from hpa_proto import json_text, storage
from hpa_proto.errors import ConfigError

# What each of the three networks finds, by the name of its published file.
KIND_OF_PUBLISHED_FILE: dict[str, str] = {
    "dpn_unet_nuclei_v1.pth": "nuclei",
    "dpn_unet_cell_3ch_v1.pth": "cell_3ch",
    "dpn_unet_cell_v2.pth": "cell_2ch",
}
KINDS: tuple[str, ...] = tuple(KIND_OF_PUBLISHED_FILE.values())
WHERE_TO_GET = (
    "the published weights are dpn_unet_nuclei_v1.pth and dpn_unet_cell_3ch_v1.pth of Zenodo record 4665863; turn each into "
    "a safe file with: python -m beam_jobs.import_weights --pth=FILE.pth --out=FILE.safetensors"
)

_MAX_HEADER_BYTES = 1 << 20


class Weights(NamedTuple):
    """Tensors of one network.

    Attributes:
      tensors: float32[...] by name.
      kind: one of `KINDS`; "" where the file does not say.
    """

    tensors: dict[str, np.ndarray]
    kind: str


def check_tensors(tensors: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]], *, path: str) -> None:
    """Checks that a file holds the tensors of the network, all of them and nothing else.

    Args:
      tensors: what the file holds.
      shapes: what the network has, `dpn_unet.state_shapes()`.
      path: for the error.

    Raises:
      ConfigError: names the first tensors that are missing, not wanted, of another shape, or hold no finite numbers.
    """
    missing = [name for name in shapes if name not in tensors]
    unknown = [name for name in tensors if name not in shapes]
    wrong = [
        f"{name} is {list(tensors[name].shape)}, wanted {list(shape)}"
        for name, shape in shapes.items()
        if name in tensors and tensors[name].shape != tuple(shape)
    ]
    problems = [
        f"{len(names)} {what}, as {names[0]}"
        for what, names in (("missing", missing), ("unknown", unknown), ("of another shape", wrong))
        if names
    ]
    if not problems:
        problems = [
            f"{name} holds values that are no finite numbers" for name in shapes if not _is_finite(tensors[name])
        ]
    if problems:
        raise ConfigError(f"{path}: not the weights of this network: {'; '.join(problems[:3])}; {WHERE_TO_GET}")


def _is_finite(array: np.ndarray) -> bool:
    return np.issubdtype(array.dtype, np.floating) and bool(np.isfinite(array).all())


def write_safetensors(path: str, weights: Weights, *, source_sha256: str) -> None:
    """Writes weights as float32, whole or not at all.

    Args:
      path: file or URL.
      weights: what to write.
      source_sha256: of the file that they come from; kept in the metadata.
    """
    tensors = {name: np.ascontiguousarray(array, np.float32) for name, array in sorted(weights.tensors.items())}
    metadata = {"network": "dpn_unet", "kind": weights.kind, "source_sha256": source_sha256}
    with storage.create(path) as file:
        file.write(safetensors.numpy.save(tensors, metadata))


def read_weights(path: str) -> Weights:
    """Reads a .safetensors file, or a .pth file as `pth_reader.read_pth` does.

    Raises:
      ConfigError: not there, damaged, or no weights.
    """
    kind = read_kind(path)
    if path.endswith(".pth"):
        return Weights(pth_reader.read_pth(path), kind)
    try:
        if storage.is_url(path):
            return Weights(safetensors.numpy.load(storage.read_bytes(path)), kind)
        return Weights(safetensors.numpy.load_file(path), kind)
    except safetensors.SafetensorError as error:
        raise _unreadable(path, error) from error


def read_kind(path: str) -> str:
    """Tells what a file of weights is for, quickly: one of `KINDS`, or "" where it does not say.

    Raises:
      ConfigError: not there, or damaged.
    """
    if not path or not storage.exists(path):
        raise ConfigError(f"weights {path or '(none given)'}: no such file; {WHERE_TO_GET}")
    if path.endswith(".pth"):
        return KIND_OF_PUBLISHED_FILE.get(path.rsplit("/", 1)[-1], "")
    # The format: the header's length in 8 bytes, the header as JSON, the numbers.
    with storage.open_read(path) as file:
        try:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json_text.parse(file.read(min(length, _MAX_HEADER_BYTES)))
            return str(header.get("__metadata__", {}).get("kind", ""))
        except (struct.error, ValueError, AttributeError) as error:
            raise _unreadable(path, error) from error


def check_kind(kind: str, wanted: str, *, path: str) -> None:
    """Checks that weights are for the network that they are given for; a file that does not say passes.

    Raises:
      ConfigError: they are not.
    """
    if kind not in ("", wanted):
        raise ConfigError(
            f"{path}: weights of the network {kind}, given for {wanted}; were two files taken for each other?"
        )


def sha256(path: str) -> str:
    """Returns the hexadecimal SHA-256 of a file."""
    with storage.open_read(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _unreadable(path: str, error: Exception) -> ConfigError:
    return ConfigError(f"{path}: no readable safetensors file ({error}); {WHERE_TO_GET}")

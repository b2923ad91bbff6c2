"""Segmenters: how a FOV becomes a cell mask and a nucleus mask. All of them stand behind one Protocol.

A segmenter is a frozen dataclass whose fields are its options: a job makes one from its flags, writes its `config()` into
the cell store's digest, and sends it to the workers.
"""

from __future__ import annotations

import dataclasses

from beam_jobs.segmenters.masks import MasksSegmenter
from beam_jobs.segmenters.neural import HpaCellSegSegmenter
from beam_jobs.segmenters.segmentation import Segmentation, Segmenter
from beam_jobs.segmenters.watershed import WatershedSegmenter
from hpa_proto.errors import ConfigError

__all__ = [
    "SEGMENTERS",
    "HpaCellSegSegmenter",
    "MasksSegmenter",
    "Segmentation",
    "Segmenter",
    "WatershedSegmenter",
    "make_segmenter",
]

SEGMENTERS: dict[str, type] = {
    "watershed": WatershedSegmenter,
    "masks": MasksSegmenter,
    "hpacellseg": HpaCellSegSegmenter,
}


def make_segmenter(name: str, *, pixel_size_um: float, bit_depth: int = 0, **options: str | None) -> Segmenter:
    """Makes a segmenter from a job's flags, before any pixel is read.

    Args:
      name: a key of `SEGMENTERS`.
      pixel_size_um: side of a pixel, in micrometres; goes to the segmenters that measure sizes.
      bit_depth: bits in use in 16-bit files, 0: found for each FOV; goes to the segmenters that measure brightness.
      **options: options of that segmenter by the name of their flag, as `masks_dir`; None or "" counts as not given.

    Raises:
      ConfigError: no such segmenter, an option it does not take, one that it needs and that is not given, or a bad value.
    """
    if name not in SEGMENTERS:
        raise ConfigError(f"--segmenter={name}: choose one of {', '.join(SEGMENTERS)}")
    segmenter = SEGMENTERS[name]
    fields = {field.name: field for field in dataclasses.fields(segmenter)}
    given = {key: value for key, value in options.items() if value not in (None, "")}
    for key in given:
        if key not in fields:
            raise ConfigError(f"--{key} is no option of --segmenter={name}; leave it out or choose another segmenter")
    for key, value in (("pixel_size_um", pixel_size_um), ("bit_depth", bit_depth)):
        if key in fields:
            given[key] = value
    for key, field in fields.items():
        if key not in given and field.default is dataclasses.MISSING:
            raise ConfigError(f"--segmenter={name} needs --{key}")
    return segmenter(**given)

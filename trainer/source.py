"""A data set that is there and fits its manifest. No TensorFlow, no pixels."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from hpa_proto import cells_pb2, schema
from hpa_proto.errors import ConfigError, DatasetError
from trainer import shards


@dataclasses.dataclass(frozen=True)
class Source:
    """Where a data set lies and what its manifest says.

    Attributes:
      data_dir: folder or fsspec URL.
      manifest: read from it.
      manifest_sha256: of the manifest's file.
    """

    data_dir: str
    manifest: cells_pb2.DatasetManifest
    manifest_sha256: str

    def __post_init__(self) -> None:
        if self.manifest.image_format not in schema.IMAGE_FORMATS:
            raise DatasetError(f"{self.data_dir}: unknown image format {self.manifest.image_format!r}")
        # A set without labels has no classes of its own: what a model predicts on it are the model's.
        has_classes = self.manifest.classes or self.manifest.label_scope == "unlabelled"
        if not (has_classes and self.manifest.channels and self.manifest.image_size_px > 0):
            raise DatasetError(f"{self.data_dir}: the manifest lacks classes, channels or the image size")

    @property
    def num_classes(self) -> int:
        """K, the length of a label vector; 0 where the data have no labels."""
        return len(self.manifest.classes)

    @property
    def class_names(self) -> list[str]:
        """Names of the K classes, in the order of the model's outputs."""
        return [info.name for info in self.manifest.classes]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, S, S) of a picture."""
        return len(self.manifest.channels), self.manifest.image_size_px, self.manifest.image_size_px

    @property
    def multi_label(self) -> bool:
        """Whether a cell may have several labels (weak ones), so that every class is a question of its own."""
        return self.manifest.label_scope != "single"

    def num_examples(self, split: str) -> int:
        """Returns the number of examples of a split."""
        return schema.split_of(self.manifest, split).num_examples


def open_source(data_dir: str, splits: Sequence[str], *, check: str = "auto", num_folds: int | None = None) -> Source:
    """Opens a data set and compares the files of splits with its manifest.

    Args:
      data_dir: folder or fsspec URL.
      splits: that will be read.
      check: see `shards.check_shards`.
      num_folds: folds that the data set must have; None: any, or none.

    Raises:
      ConfigError: the data set has no folds or another number of them.
      DatasetError: no manifest, or files that are not what it says.
    """
    manifest, digest = shards.read_manifest(data_dir)
    source = Source(data_dir, manifest, digest)
    found = schema.count_folds(manifest)
    if num_folds is not None and found != num_folds:
        has = f"{found} folds" if found else f"no folds, but {', '.join(split.name for split in manifest.splits)}"
        raise ConfigError(
            f"{data_dir} has {has}: --num_folds={num_folds} does not fit it; write a data set with "
            f"`python -m beam_jobs.shard --num_folds={num_folds}`{', or give its own number' if found else ''}"
        )
    shards.check_shards(data_dir, manifest, splits, check=check)
    return source


def check_labels(source: Source, split: str) -> None:
    """Checks that a split can teach every class.

    Raises:
      DatasetError: the cells have no labels, or a class has no example.
    """
    if source.manifest.label_scope not in ("single", "all"):
        raise DatasetError(
            f"{source.data_dir}: label scope {source.manifest.label_scope!r}: nothing to learn without labels"
        )
    counts = class_counts(source, split)
    absent = [name for name, count in zip(source.class_names, counts, strict=True) if not count]
    if absent:
        raise DatasetError(
            f"{source.data_dir}: split {split!r} has no example of {', '.join(absent)}; "
            "write the data set again with other --classes or --splits"
        )


def class_counts(source: Source, split: str) -> list[int]:
    """Returns the number of examples of each of the K classes."""
    per_label = schema.split_of(source.manifest, split).num_examples_per_label
    return [per_label.get(info.label, 0) for info in source.manifest.classes]

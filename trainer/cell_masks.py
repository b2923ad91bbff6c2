"""Masks and labels of a split's cells, read from the shards without decoding a picture. No TensorFlow."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from google.protobuf import message

from hpa_proto import cells_pb2, example_pb2, masks, records, schema, storage
from hpa_proto.errors import DatasetError, reason_of
from trainer import shards
from trainer.submission import MAX_SIDE_PX, FovSize, TruthFov, TruthObject

_KEYS = schema.FEATURE_KEYS
_FEATURES = (_KEYS.cell_id, _KEYS.fov_id, _KEYS.mask_rle, _KEYS.fov_height, _KEYS.fov_width)


@dataclasses.dataclass(frozen=True)
class CellMask:
    """Where a cell lies.

    Attributes:
      cell_id: "<fov_id>_<cell_index>".
      fov_id: its FOV.
      fov_size: of the FOV.
      labels: Kaggle's numbers, ascending; empty where not labelled.
      counts: COCO's compressed counts of the cell in the FOV.
    """

    cell_id: str
    fov_id: str
    fov_size: FovSize
    labels: tuple[int, ...]
    counts: bytes


def read_cell_masks(data_dir: str, manifest: cells_pb2.DatasetManifest, split: str) -> Iterator[CellMask]:
    """Reads the masks of a split, in the order of its examples; one record is held at a time.

    Args:
      data_dir: folder or fsspec URL of the data set.
      manifest: of the same folder.
      split: name of the split.

    Raises:
      DatasetError: no such split, a damaged shard, or examples without masks; the text names the file and the byte.
    """
    for shard in shards.shards_of(manifest, split):
        path = storage.join(data_dir, shard.name)
        num_records = 0
        try:
            with storage.open_read(path) as file:
                for offset, record in records.read_records(file, path=path):
                    try:
                        yield _parse_record(record)
                    except (ValueError, IndexError, message.DecodeError) as error:
                        raise DatasetError(f"{path}: not a readable example at byte {offset}: {error}") from error
                    num_records += 1
        except OSError as error:
            raise DatasetError(f"{path}: the manifest's shard cannot be read ({reason_of(error)})") from error
        if num_records != shard.num_examples:
            raise DatasetError(f"{path}: {num_records} examples, the manifest says {shard.num_examples}")


def group_by_fov(data_dir: str, manifest: cells_pb2.DatasetManifest, split: str) -> dict[str, list[CellMask]]:
    """Reads the masks of a split by FOV, in the order in which the FOVs come up first.

    The cells of a FOV are spread over the shards, so all masks are held: half a kilobyte a cell.

    Raises:
      DatasetError: as `read_cell_masks`; or cells of one FOV that differ in its size.
    """
    fovs: dict[str, list[CellMask]] = {}
    for cell in read_cell_masks(data_dir, manifest, split):
        cells = fovs.setdefault(cell.fov_id, [])
        cells.append(cell)
        if cell.fov_size != cells[0].fov_size:
            raise DatasetError(
                f"{data_dir}: cell {cell.cell_id} is of a FOV of {cell.fov_size}, {cells[0].cell_id} of one of "
                f"{cells[0].fov_size}"
            )
    return fovs


def read_truth(data_dir: str, split: str) -> dict[str, TruthFov]:
    """Reads the labels and masks of a split as the truth of its FOVs.

    Raises:
      DatasetError: as `group_by_fov`; or the data set has no labels.
    """
    manifest, _ = shards.read_manifest(data_dir)
    if manifest.label_scope == "unlabelled":
        raise DatasetError(f"{data_dir}: the data set has no labels, so it is no truth")
    return {
        fov_id: TruthFov(
            cells[0].fov_size, tuple(TruthObject(label, cell.counts) for cell in cells for label in cell.labels)
        )
        for fov_id, cells in group_by_fov(data_dir, manifest, split).items()
    }


def _parse_record(record: bytes) -> CellMask:
    feature = example_pb2.Example.FromString(record).features.feature
    missing = [key for key in _FEATURES if key not in feature]
    if missing:
        raise ValueError(f"it has no feature {', '.join(missing)}")
    cell = CellMask(
        cell_id=feature[_KEYS.cell_id].bytes_list.value[0].decode("utf-8"),
        fov_id=feature[_KEYS.fov_id].bytes_list.value[0].decode("utf-8"),
        fov_size=FovSize(feature[_KEYS.fov_height].int64_list.value[0], feature[_KEYS.fov_width].int64_list.value[0]),
        labels=tuple(feature[_KEYS.labels].int64_list.value),
        counts=feature[_KEYS.mask_rle].bytes_list.value[0],
    )
    if not (schema.is_file_name(cell.cell_id) and schema.is_file_name(cell.fov_id)):
        raise ValueError(f"its ids are {cell.cell_id!r} and {cell.fov_id!r}; wanted: letters, digits, '_', '.' and '-'")
    if not 0 < min(cell.fov_size) <= max(cell.fov_size) <= MAX_SIDE_PX:
        raise ValueError(f"its FOV is {cell.fov_size.width} x {cell.fov_size.height} px")
    # pycocotools, which works with it from here on, reads past its memory where runs are unsound.
    masks.check_mask(cell.counts, height=cell.fov_size.height, width=cell.fov_size.width)
    return cell

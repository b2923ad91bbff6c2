"""Pictures of some cells of a data set, found by their ids."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import numpy as np
from google.protobuf import message

from hpa_proto import example_pb2, records, schema, storage
from hpa_proto.errors import DatasetError
from trainer import dataset, shards
from trainer.source import Source

_KEYS = schema.FEATURE_KEYS


def read_cells(source: Source, split: str, cell_ids: Collection[str]) -> Iterator[tuple[str, np.ndarray]]:
    """Reads the pictures of some cells, one after the other; no other picture is decoded or kept.

    Args:
      source: the data set.
      split: that the cells are of.
      cell_ids: of the wanted cells; reading ends when all are found.

    Yields:
      (cell id, uint8[C, S, S]), in the order of the shards.

    Raises:
      DatasetError: a shard is damaged, or the split lacks a cell; the text names it.
    """
    wanted = {cell_id.encode(): cell_id for cell_id in cell_ids}
    for shard in shards.shards_of(source.manifest, split):
        if not wanted:
            return
        path = storage.join(source.data_dir, shard.name)
        with storage.open_read(path) as file:
            for offset, record in records.read_records(file, path=path):
                try:
                    feature = example_pb2.Example.FromString(record).features.feature
                    cell_id, image = (feature[key].bytes_list.value[0] for key in (_KEYS.cell_id, _KEYS.image))
                except (message.DecodeError, IndexError) as error:
                    raise DatasetError(f"{path}: not a readable example at byte {offset}: {error}") from error
                cell_id = wanted.pop(cell_id, None)
                if cell_id is not None:
                    yield cell_id, dataset.decode_image(source, image).numpy()
                if not wanted:
                    break
    if wanted:
        raise DatasetError(
            f"{source.data_dir}: split {split!r} has no cell {min(wanted.values())!r}, and {len(wanted) - 1} more of those "
            "predicted are missing; give the data set of the predictions"
        )

"""Which files make up a split, and whether they are the ones that the manifest describes. No TensorFlow, no pixels."""

from __future__ import annotations

import concurrent.futures
import hashlib
from collections.abc import Sequence

import fsspec

from hpa_proto import cells_pb2, records, schema, storage
from hpa_proto.errors import ConfigError, DatasetError

CHECKS: tuple[str, ...] = ("auto", "size", "sha256")
_CHUNK_BYTES = 1 << 22


def read_manifest(data_dir: str) -> tuple[cells_pb2.DatasetManifest, str]:
    """Reads and checks the manifest of a data set.

    Args:
      data_dir: folder or fsspec URL of the data set.

    Returns:
      (manifest, sha256 of the manifest's file).

    Raises:
      DatasetError: there is no manifest, or it cannot be used.
    """
    path = storage.join(data_dir, schema.MANIFEST_NAME)
    try:
        with fsspec.open(path, "rb") as file:
            data = file.read()
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path}: not a manifest: {error}") from error
    except (OSError, ValueError, ImportError) as error:
        raise DatasetError(
            f"{data_dir}: no {schema.MANIFEST_NAME} to be read ({error}); a data set without one was never finished: "
            "check --data_dir, or write it with `python -m beam_jobs.shard`"
        ) from error
    return schema.parse_manifest(text, source=path), hashlib.sha256(data).hexdigest()


def shards_of(manifest: cells_pb2.DatasetManifest, split: str) -> list[cells_pb2.ShardInfo]:
    """Lists the shards of a split that hold examples, in the manifest's order.

    Raises:
      DatasetError: there is no such split, or it is empty.
    """
    schema.split_of(manifest, split)
    shards = [shard for shard in manifest.shards if shard.split == split and shard.num_examples]
    if not shards:
        raise DatasetError(f"split {split!r} of the data set has no examples")
    return shards


def host_shards(
    manifest: cells_pb2.DatasetManifest, split: str, *, num_hosts: int, host_index: int
) -> list[cells_pb2.ShardInfo]:
    """Lists one host's share of the shards: every `num_hosts`-th.

    Raises:
      ConfigError: there are fewer shards than hosts.
    """
    shards = shards_of(manifest, split)
    if len(shards) < num_hosts:
        raise ConfigError(
            f"split {split!r} has {len(shards)} shards, too few for {num_hosts} hosts; "
            "write it again with more shards or use fewer hosts"
        )
    return shards[host_index::num_hosts]


def check_shards(
    data_dir: str, manifest: cells_pb2.DatasetManifest, splits: Sequence[str], *, check: str = "auto"
) -> None:
    """Compares the files of splits with the manifest before anything is computed from them.

    Args:
      data_dir: folder or fsspec URL of the data set.
      manifest: of the same folder.
      splits: names of the splits that will be read.
      check: "size" compares sizes, "sha256" reads the files through, "auto" does that where the folder is local.

    Raises:
      DatasetError: a file is missing, of another size or altered; the text names it.
    """
    shards = [shard for split in splits for shard in shards_of(manifest, split)]
    with_sha256 = check == "sha256" or (check == "auto" and not storage.is_url(data_dir))
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda shard: _check_shard(storage.join(data_dir, shard.name), shard, with_sha256), shards))


def _check_shard(path: str, shard: cells_pb2.ShardInfo, with_sha256: bool) -> None:
    again = "copy the data set again or write it with `python -m beam_jobs.shard`"
    try:
        filesystem, name = fsspec.core.url_to_fs(path)
        num_bytes = filesystem.size(name)
        if num_bytes != shard.num_bytes:
            raise DatasetError(f"{path}: {num_bytes} bytes, the manifest says {shard.num_bytes}; {again}")
        if with_sha256 and (digest := _sha256(path)) != shard.sha256:
            raise DatasetError(
                f"{path}: altered: sha256 {digest[:16]}..., the manifest says {shard.sha256[:16]}...; {again}"
            )
    except OSError as error:
        raise DatasetError(f"{path}: the manifest's shard cannot be read ({error}); {again}") from error


def _sha256(path: str) -> str:
    digest = hashlib.sha256()
    with fsspec.open(path, "rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def find_fault(data_dir: str, shards: Sequence[cells_pb2.ShardInfo]) -> str | None:
    """Looks for the first broken shard after TensorFlow stopped on one, because its errors often name no file.

    Returns:
      What is wrong, with file and offset; None where every record is whole and all counts are right.
    """
    for shard in shards:
        path = storage.join(data_dir, shard.name)
        try:
            with fsspec.open(path, "rb") as file:
                num_examples = sum(1 for _ in records.read_records(file, path=path))
        except (DatasetError, OSError) as error:
            return str(error)
        if num_examples != shard.num_examples:
            return f"{path}: {num_examples} examples, the manifest says {shard.num_examples}"
    return None

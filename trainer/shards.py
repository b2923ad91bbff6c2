"""Which files make up a split, and whether they are the ones that the manifest describes. No TensorFlow, no pixels."""

from __future__ import annotations

import concurrent.futures
import hashlib
from collections.abc import Iterator, Sequence

from hpa_proto import cells_pb2, records, schema, shard_check, storage
from hpa_proto.errors import ConfigError, DatasetError, reason_of

CHECKS: tuple[str, ...] = ("auto", "size", "sha256")


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
        data = storage.read_bytes(path)
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path}: not a manifest: {error}") from error
    except OSError as error:
        raise DatasetError(
            f"{data_dir}: no {schema.MANIFEST_NAME} to be read ({reason_of(error)}); a data set without one was never "
            "finished: check --data_dir, or write it with `python -m beam_jobs.shard`"
        ) from error
    return schema.parse_manifest(text, source=path), hashlib.sha256(data).hexdigest()


def shards_of(manifest: cells_pb2.DatasetManifest, split: str) -> list[cells_pb2.ShardInfo]:
    """Lists the shards of a split that hold examples, in the manifest's order; of several (`schema.split_names`) all.

    Raises:
      DatasetError: there is no such split, or one is empty.
    """
    schema.split_of(manifest, split)
    names = schema.split_names(split)
    shards = [shard for shard in manifest.shards if shard.split in names and shard.num_examples]
    if empty := set(names) - {shard.split for shard in shards}:
        raise DatasetError(f"split {min(empty)!r} of the data set has no examples")
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

    def check_shard(shard: cells_pb2.ShardInfo) -> None:
        again = "copy the data set again or write it with `python -m beam_jobs.shard`"
        try:
            if with_sha256:
                shard_check.check_content(data_dir, shard, manifest)
            else:
                shard_check.check_size(data_dir, shard)
        except DatasetError as error:
            raise DatasetError(f"{error}; {again}") from error
        except OSError as error:
            raise DatasetError(
                f"{storage.join(data_dir, shard.name)}: cannot be read ({reason_of(error)}); {again}"
            ) from error

    # Of a store's file only the size is asked, which is waiting.
    with concurrent.futures.ThreadPoolExecutor(4 if with_sha256 else 16) as pool:
        list(pool.map(check_shard, shards))


def read_groups(path: str, *, num_bytes: int) -> Iterator[list[bytes]]:
    """Reads the encoded records of a shard in groups of at least `num_bytes`, but for the last.

    Raises:
      DatasetError: truncated or altered; the text names the file and the offset.
      OSError: not there or not readable.
    """
    group: list[bytes] = []
    missing = num_bytes
    with storage.open_read(path) as file:
        for _, record in records.read_records(file, path=path):
            group.append(record)
            missing -= len(record)
            if missing <= 0:
                yield group
                group, missing = [], num_bytes
    if group:
        yield group


def find_fault(data_dir: str, shards: Sequence[cells_pb2.ShardInfo]) -> str | None:
    """Looks for the first broken shard after TensorFlow stopped on one, because its errors often name no file.

    Returns:
      What is wrong, with file and offset; None where every record is whole and all counts are right.
    """
    for shard in shards:
        try:
            for _ in shard_check.read_shard(data_dir, shard):
                pass
        except (DatasetError, OSError) as error:
            return str(error)
    return None

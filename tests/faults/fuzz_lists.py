"""What is fuzzed of lists and flags that people write: labels, ids, choices."""

from __future__ import annotations

import io
import re

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from beam_jobs import cell_labels, command, exclusions, fetch_hpa, fov_source, label_table
from beam_jobs.fetch_notes import NOTES_NAME, FetchNotes
from beam_jobs.plan_config import PlanConfig
from faults.fuzz_target import Target, local_folder, parquet_of, texts, to_text, write, write_local
from hpa_proto import benchmark_report, labels, redaction, schema, storage
from hpa_proto.benchmarking import Figure
from hpa_proto.errors import ConfigError

_NO_ID = set("/\\\0<>\"'&=\n")


def _label_set(data: bytes) -> None:
    found = labels.parse_label_set(to_text(data))
    assert labels.parse_label_set(labels.format_label_set(found)) == found
    assert all(0 <= label < labels.NUM_LABELS for label in found)


def _label_file(data: bytes) -> None:
    path = write("labels.csv", data)
    fov_source.label_columns(path)
    written = fov_source.read_written_labels(path)
    if written:
        assert label_table.count_labels(written).num_fovs == len(label_table.make_table(written)) == len(written)
    assert not any(set(fov_id) & _NO_ID or ".." in fov_id for fov_id in written)


def _image_list(data: bytes) -> None:
    for fov in fov_source.find_fovs(write("images.csv", data), None).fovs:
        assert fov.labels == ()
        assert not set(fov.fov_id) & _NO_ID


def _exclusions(data: bytes) -> None:
    found = exclusions.read_exclusions(write("exclude.csv", data))
    assert len(set(found)) == len(found)
    assert all(found)


def _cell_labels(data: bytes) -> None:
    own = cell_labels.read_cell_labels(write("cell_labels", data))
    for text in own.texts.unique():
        assert labels.format_label_set(labels.parse_label_set(text)) == text
    cells = pd.DataFrame({"cell_id": [*own.texts.index, "another"], "labels": "0"})
    assert cell_labels.replace_labels(cells, own)[cell_labels.RELABELLED_COLUMN].sum() == len(own.texts)


def _cell_labels_about(data: bytes) -> None:
    """The JSON in a sound file's metadata."""
    buffer = io.BytesIO()
    table = pa.table({"cell_id": ["fov_1"], "labels": ["0"]})
    pq.write_table(table.replace_schema_metadata({schema.CELL_LABELS_KEY: data}), buffer)
    _cell_labels(buffer.getvalue())


def _cell_labels_seeds() -> list[bytes]:
    cells = ["fov_1", "fov_2"]
    return [
        parquet_of(pd.DataFrame({"cell_id": cells, "labels": ["8|5", ""]})),
        parquet_of(pd.DataFrame({"ID": cells, "Label": [[0, 5], []]})),
    ]


def _image_ids(data: bytes) -> None:
    for text in fetch_hpa.read_ids(write_local("ids.txt", data)):
        fov_id, place = fetch_hpa.parse_id(text)
        assert re.fullmatch(r"\w+", fov_id)
        assert place.count("/") == 1


def _fetched_notes(data: bytes) -> None:
    path = write_local(NOTES_NAME, data)
    for _ in range(2):
        assert not FetchNotes(local_folder()).has("b_red.jpg")
        assert storage.read_bytes(path) == data[: data.rfind(b"\n") + 1]


def _pairs(data: bytes) -> None:
    pairs = command.parse_pairs("splits", to_text(data).split(","))
    try:
        PlanConfig(splits=pairs, shards=command.to_counts("shards", pairs))
    finally:
        PlanConfig(splits=pairs)


def _classes(data: bytes) -> None:
    chosen = tuple(to_text(data).split(","))
    config = PlanConfig(classes=chosen)
    assert PlanConfig(classes=config.classes).classes == config.classes
    PlanConfig(drop_classes=chosen)


def _channels(data: bytes) -> None:
    channels = schema.parse_channels(to_text(data))
    assert schema.parse_channels(schema.channel_initials(channels)) == channels


def _redact(data: bytes) -> None:
    """Every error's text goes through it."""
    redaction.redact(to_text(data))
    redaction.redact_arguments(to_text(data).split(" "))


def _benchmark(data: bytes) -> None:
    """What --baseline takes."""
    result = benchmark_report.read_result(write("benchmark.json", data))
    benchmark_report.format_result(result)
    benchmark_report.compare(result, result)


def _benchmark_seeds() -> list[bytes]:
    figure = Figure("shard", "cells", "cells/s", values=(1.0, 2.0), cpu=(1.0, 1.0), at_least=1.5)
    about = {
        "command": "python -m trainer.benchmark",
        "date": "2026-01-01T00:00:00+00:00",
        "commit": "0" * 40,
        "machine": {"processor": "x", "cores": 2, "memory_gb": 8.0, "system": "Linux", "accelerators": []},
        "load_average": 0.1,
        "versions": {"python": "3.11"},
        "flags": {"quick": True},
    }
    path = storage.join(local_folder(), "seed.json")
    benchmark_report.write_result(path, benchmark_report.Result(about, (figure,), ("a note",)))
    return [storage.read_bytes(path)]


TARGETS: dict[str, Target] = {
    "label_set": Target(_label_set, (ValueError,), texts("8|5|0", "Nucleoplasm|cytosol", ""), num_runs=50_000),
    "label_file": Target(
        _label_file,
        (ConfigError,),
        texts('ID,Label,plate\nfov-1,8|5|0,a\nfov-2,"Cytosol",b\n', "ID,Label\na,13|13\n"),
    ),
    "image_list": Target(
        _image_list, (ConfigError,), texts("ID,path\nfov-1,a.tif\n", "ID,red,green,blue,yellow\na,1,2,3,4\n")
    ),
    "exclusions": Target(
        _exclusions, (ConfigError,), texts("cell_id\nfov_1\n", "fov_1\n\nfov_2\n", "a,cell_id\n1,x\n")
    ),
    "cell_labels_csv": Target(
        _cell_labels, (ConfigError,), texts("cell_id,labels\nfov_1,8|5\nfov_2,\n", 'ID,Label,x\na,"Cytosol",1\n')
    ),
    "cell_labels_parquet": Target(_cell_labels, (ConfigError,), _cell_labels_seeds, num_runs=2_000),
    "cell_labels_about": Target(
        _cell_labels_about, (ConfigError,), texts("{}", '{"command_line": ["x"], "n": 1.5}'), num_runs=1_000
    ),
    "image_ids": Target(_image_ids, (ConfigError,), texts("10005_921_B9_1\nhttps://x.org/10005/921_B9_1\n")),
    "fetched_notes": Target(
        _fetched_notes, (ConfigError,), texts('{"name": "a_red.jpg", "url": "https://x", "num_bytes": 5}\n{"na')
    ),
    "pairs": Target(_pairs, (ConfigError,), texts("train=12,validation=3,test=1", "train=2"), num_runs=20_000),
    "classes": Target(_classes, (ConfigError,), texts("0,5,16", "Nucleoplasm,cytosol")),
    "channels": Target(_channels, (ConfigError,), texts("rgby", "g"), num_runs=20_000),
    "redact": Target(_redact, (), texts("--base_url=https://user:word@x.org/a?token=abc s3://k:s@b/c", "Bearer abc")),
    "benchmark": Target(_benchmark, (ConfigError,), _benchmark_seeds),
}

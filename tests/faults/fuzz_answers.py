"""What is fuzzed of answers: predictions, submissions, what they are judged against."""

from __future__ import annotations

import base64
import functools
import io
import zlib

import numpy as np
import pyarrow.parquet as pq

from faults.fuzz_target import FOLDER, SIZE, SQUARE, Target, to_text, write
from hpa_proto import masks, storage
from hpa_proto.errors import DatasetError
from trainer import predictions, scoring, submission
from trainer.predictions import ClassInfo, PredictionsInfo
from trainer.submission import Detection, SubmissionRow


def _submission(data: bytes) -> None:
    path = write("submission.csv", data)
    rows = list(submission.read_submission(path))
    scorer = scoring.Scorer()
    for row in rows:
        scorer.add_fov(row.size, row.detections, ())
    scorer.result()
    submission.write_submission(storage.join(FOLDER, "again.csv"), rows)
    assert [row.fov_id for row in submission.read_submission(storage.join(FOLDER, "again.csv"))] == [
        row.fov_id for row in rows
    ]


def _sample(data: bytes) -> None:
    for size in submission.read_sample(write("sample.csv", data)).values():
        assert 0 < size.height < 1 << 16
        assert 0 < size.width < 1 << 16


def _truth(data: bytes) -> None:
    scorer = scoring.Scorer()
    for fov in submission.read_truth(write("truth.csv", data)).values():
        scorer.add_fov(fov.size, [Detection(each.label, 0.5, each.counts) for each in fov.objects], fov.objects)
    scorer.result()


def _detections(data: bytes) -> None:
    found = submission.parse_detections(to_text(data), SIZE)
    again = submission.parse_detections(submission.format_detections(found), SIZE)
    assert [(each.label, each.counts) for each in again] == [(each.label, each.counts) for each in found]


def _inflated_counts(data: bytes) -> None:
    """The bytes behind base64 and zlib."""
    text = base64.b64encode(zlib.compress(data)).decode()
    counts = submission.decode_counts(text, SIZE)
    assert counts == data


def _predictions(data: bytes) -> None:
    path = write("predictions.parquet", data)
    predictions.read_info(path)
    found = predictions.read_predictions(path)
    assert found.num_cells == len(found.labels) == sum(1 for _ in predictions.iter_predictions(path, batch_rows=1))


def _predictions_header(data: bytes) -> None:
    """The JSON in a sound file's metadata."""
    table = pq.read_table(io.BytesIO(_predictions_seed()))
    buffer = io.BytesIO()
    pq.write_table(table.replace_schema_metadata({predictions.METADATA_KEY: data}), buffer)
    _predictions(buffer.getvalue())


def _submission_seeds() -> list[bytes]:
    counts = masks.encode_mask(SQUARE)
    rows = [
        SubmissionRow("fov-1", SIZE, (Detection(3, 0.5, counts), Detection(18, 0.25, counts))),
        SubmissionRow("fov-2", SIZE, submission.placeholder(SIZE)),
    ]
    submission.write_submission(storage.join(FOLDER, "seed.csv"), rows)
    return [storage.read_bytes(storage.join(FOLDER, "seed.csv"))]


def _truth_seeds() -> list[bytes]:
    text = submission.encode_counts(masks.encode_mask(SQUARE))
    header = ",".join(submission.TRUTH_HEADER)
    return [f"{header}\nfov-1,8,6,3,0,{text}\nfov-1,8,6,18,False,{text}\n".encode()]


@functools.cache
def _predictions_seed() -> bytes:
    info = PredictionsInfo(
        classes=(ClassInfo(0, "Nucleoplasm"), ClassInfo(5, "Nuclear bodies")),
        label_scope="single",
        multi_label=False,
        split="test",
        manifest_sha256="0" * 64,
        runs=({"name": "first", "run_dir": "first", "checkpoint": "best", "epoch": 4, "model": "tiny"},),
        tta=False,
    )
    batch = {
        "cell_id": ["fov_1", "fov_2"],
        "labels": np.eye(2),
        "logits": np.eye(2),
        "probabilities": np.eye(2),
    }
    path = storage.join(FOLDER, "seed.parquet")
    predictions.write_predictions(path, info, [batch])
    return storage.read_bytes(path)


def _predictions_header_seeds() -> list[bytes]:
    return [pq.read_schema(io.BytesIO(_predictions_seed())).metadata[predictions.METADATA_KEY]]


TARGETS: dict[str, Target] = {
    "submission": Target(_submission, (DatasetError,), _submission_seeds),
    "sample": Target(_sample, (DatasetError,), _submission_seeds),
    "truth": Target(_truth, (DatasetError,), _truth_seeds),
    "detections": Target(
        _detections,
        (ValueError,),
        lambda: [submission.format_detections([Detection(3, 0.5, masks.encode_mask(SQUARE))]).encode()],
        num_runs=50_000,
    ),
    "inflated_counts": Target(_inflated_counts, (ValueError,), lambda: [masks.encode_mask(SQUARE)], num_runs=20_000),
    "predictions": Target(_predictions, (DatasetError,), lambda: [_predictions_seed()], num_runs=2_000),
    "predictions_header": Target(_predictions_header, (DatasetError,), _predictions_header_seeds, num_runs=500),
}

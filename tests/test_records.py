"""Promises of hpa_proto.records."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpa_proto import records
from hpa_proto.errors import DatasetError


def _read(data):
    return list(records.read_records(io.BytesIO(data), path="a.tfrecord"))


@given(st.lists(st.binary(max_size=40), max_size=5))
def test_records_come_back_with_their_offsets(contents):
    frames = [records.frame_record(content) for content in contents]
    offsets = [sum(map(len, frames[:index])) for index in range(len(frames))]
    assert _read(b"".join(frames)) == list(zip(offsets, contents, strict=True))


def test_tensorflow_reads_the_same_records(tmp_path):
    tf = pytest.importorskip("tensorflow")
    path = tmp_path / "a.tfrecord"
    path.write_bytes(records.frame_record(b"one") + records.frame_record(b""))
    assert [item.numpy() for item in tf.data.TFRecordDataset(str(path))] == [b"one", b""]


@given(st.integers(0, 8 * (3 * (5 + records.FRAME_BYTES)) - 1))
def test_any_flipped_bit_is_an_error_at_its_record(position):
    data = bytearray(b"".join(records.frame_record(content) for content in (b"aaaaa", b"bbbbb", b"ccccc")))
    data[position // 8] ^= 1 << position % 8
    start = position // 8 // (5 + records.FRAME_BYTES) * (5 + records.FRAME_BYTES)
    with pytest.raises(DatasetError, match=f"a.tfrecord: .* at byte {start}( |$)"):
        _read(bytes(data))


@given(st.integers(1, 2 * (5 + records.FRAME_BYTES) - 1))
def test_a_cut_tail_is_an_error_or_a_whole_record(length):
    data = records.frame_record(b"aaaaa") + records.frame_record(b"bbbbb")
    if length == 5 + records.FRAME_BYTES:
        assert _read(data[:length]) == [(0, b"aaaaa")]
    else:
        with pytest.raises(DatasetError, match="truncated"):
            _read(data[:length])

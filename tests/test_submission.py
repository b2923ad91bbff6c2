"""Promises of the submission's format: byte for byte Kaggle's, and errors that name row and token."""

import base64
import json
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import kaggle_data
from hpa_proto import masks
from hpa_proto.errors import DatasetError
from trainer import submission
from trainer.submission import Detection, FovSize, SubmissionRow

SIZE = FovSize(6, 8)


def square(*, left=1, top=1, side=3, size=SIZE):
    mask = np.zeros(size, bool)
    mask[top : top + side, left : left + side] = True
    return masks.encode_mask(mask)


MASK = submission.encode_counts(square())


def write(path, *rows, header="ID,ImageWidth,ImageHeight,PredictionString"):
    path.write_text("\n".join([header, *rows]) + "\n")
    return str(path)


def read_all(path):
    return list(submission.read_submission(path))


needs_vectors = pytest.mark.skipif(
    not kaggle_data.VECTORS.is_dir(), reason=f"shared data not there: {kaggle_data.VECTORS}"
)


@needs_vectors
def test_masks_of_the_competition_are_encoded_byte_for_byte():
    vectors = json.loads((kaggle_data.VECTORS / "encoded_masks.json").read_text())
    assert len(vectors) > 20
    for vector in vectors:
        size = FovSize(vector["height"], vector["width"])
        counts = submission.decode_counts(vector["encoded"], size)
        assert vector["rle_counts"] in (None, counts.decode())
        mask = masks.decode_mask(counts, height=size.height, width=size.width)
        assert mask.sum() == vector["area"]
        # From the pixels, as a segmentation would give them.
        assert submission.encode_counts(masks.encode_mask(mask)) == vector["encoded"]


@needs_vectors
def test_a_submission_is_read_and_written_again_line_by_line(tmp_path):
    rows = submission.read_submission(str(kaggle_data.VECTORS / "submission.csv"))
    assert submission.write_submission(str(tmp_path / "out.csv"), rows) == 60
    written = (tmp_path / "out.csv").read_bytes().splitlines()
    assert written == (kaggle_data.VECTORS / "submission.csv").read_bytes().splitlines()


@needs_vectors
def test_the_placeholder_is_the_competitions():
    rows = {row.fov_id: row for row in submission.read_submission(str(kaggle_data.VECTORS / "submission.csv"))}
    row = rows["1127_D11_2"]
    assert row.detections == submission.placeholder(row.size)


@given(
    st.lists(
        st.tuples(
            st.text(alphabet="abc-_,\"' 019é", min_size=1).filter(lambda text: text.strip() == text),
            st.lists(
                st.tuples(st.integers(0, 18), st.floats(0, 1, width=32), st.integers(0, 4), st.integers(0, 3)),
                min_size=1,
                max_size=5,
            ),
        ),
        unique_by=lambda row: row[0],
        max_size=4,
    )
)
def test_what_is_written_is_read_again(tmp_path_factory, content):
    rows = [
        SubmissionRow(
            fov_id,
            SIZE,
            tuple(Detection(label, p, square(left=left, side=side)) for label, p, left, side in found),
        )
        for fov_id, found in content
    ]
    path = str(tmp_path_factory.mktemp("csv") / "submission.csv")
    submission.write_submission(path, rows)
    back = read_all(path)
    assert [(row.fov_id, row.size) for row in back] == [(row.fov_id, row.size) for row in rows]
    for row, other in zip(back, rows, strict=True):
        for found, written in zip(row.detections, other.detections, strict=True):
            assert (found.label, found.counts) == (written.label, written.counts)
            assert found.confidence == pytest.approx(written.confidence, rel=1e-5, abs=1e-30)


def test_confidences_are_short_and_stay_in_range():
    texts = [
        submission.format_detections([Detection(0, confidence, square())]).split()[1]
        for confidence in (0.0, 1.0, 1 - 1e-9, 1 / 3, 1e-9)
    ]
    assert texts == ["0", "1", "1", "0.333333", "1e-09"]


def test_a_row_longer_than_pythons_csv_limit_is_read(tmp_path):
    detections = tuple(Detection(label % 19, 0.5, square()) for label in range(20_000))
    path = str(tmp_path / "long.csv")
    submission.write_submission(path, [SubmissionRow("a", SIZE, detections)])
    assert len(read_all(path)[0].detections) == 20_000


def test_a_failing_row_leaves_no_file(tmp_path):
    def rows():
        yield SubmissionRow("a", SIZE, submission.placeholder(SIZE))
        raise DatasetError("no more")

    with pytest.raises(DatasetError, match="no more"):
        submission.write_submission(str(tmp_path / "out.csv"), rows())
    assert list(tmp_path.iterdir()) == []


def deflated(data, *, level=9):
    return base64.b64encode(zlib.compress(data, level)).decode()


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (f"19 0.5 {MASK}", "token 1: '19' is no label"),
        (f"-1 0.5 {MASK}", "token 1: '-1' is no label"),
        (f"² 0.5 {MASK}", "token 1: '²' is no label"),
        (f"0 0.5 {MASK} 1 high {MASK}", "token 5: 'high' is no confidence"),
        (f"0 0.5 {MASK} 1 nan {MASK}", "token 5: confidence nan is not in 0..1"),
        (f"0 1.01 {MASK}", "token 2: confidence 1.01 is not in 0..1"),
        (f"0 -0.1 {MASK}", "token 2: confidence -0.1 is not in 0..1"),
        (f"0 inf {MASK}", "token 2: confidence inf is not in 0..1"),
        ("0 0.5 !!!!", "token 3: mask is not base64"),
        (f"0 0.5 {MASK[:-1]}", "token 3: mask is not base64"),
        (f"0 0.5 {MASK[:-4]}", "token 3: mask is cut short"),
        ("0 0.5 AAAA", "token 3: mask is not deflated"),
        (f"0 0.5 {deflated(b'1234')[:-4]}AAAAAAAA", "token 3: mask is"),
        (f"0 0.5 {deflated(bytes(1 << 22))}", "token 3: mask is cut short, or longer than the FOV allows"),
        (f"0 0.5 {deflated(b' ' * 8)}", "token 3: mask text has a character outside"),
        (f"0 0.5 {deflated(b'P')}", "token 3: mask text ends within a number"),
        (
            f"0 0.5 {submission.encode_counts(square(size=FovSize(8, 8)))}",
            "token 3: mask runs cover 64 px, not 6 x 8",
        ),
        (f"0 0.5 {MASK} 1", "4 tokens; a PredictionString is triples"),
        ("", "0 tokens"),
    ],
)
def test_a_malformed_token_is_an_error_with_row_and_token(tmp_path, tokens, message):
    path = write(tmp_path / "s.csv", f"good,8,6,0 1 {MASK}", f"bad,8,6,{tokens}")
    with pytest.raises(DatasetError) as caught:
        read_all(path)
    assert f"{path}, row 2 (ID bad), {message}" in str(caught.value)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (f"good,8,6,0 1 {MASK}", "row 2 (ID good): the ID stands twice"),
        (f",8,6,0 1 {MASK}", "row 2 (ID ): no ID"),
        ("a,8,6", "row 2 (ID a): not as many values as the header has"),
        (f"a,8,6,0 1 {MASK},more", "row 2 (ID a): not as many values as the header has"),
        (f"a,8.5,6,0 1 {MASK}", "row 2 (ID a): ImageWidth is '8.5', not a number of pixels"),
        (f"a,8,0,0 1 {MASK}", "row 2 (ID a): ImageHeight is '0', not a number of pixels"),
    ],
)
def test_a_malformed_row_is_an_error_with_its_number(tmp_path, row, message):
    path = write(tmp_path / "s.csv", f"good,8,6,0 1 {MASK}", row)
    with pytest.raises(DatasetError) as caught:
        read_all(path)
    assert f"{path}, {message}" in str(caught.value)


def test_another_header_is_an_error(tmp_path):
    with pytest.raises(DatasetError, match="no column PredictionString"):
        read_all(write(tmp_path / "s.csv", "a,8,6,x", header="ID,ImageWidth,ImageHeight,Prediction"))


def test_what_is_no_text_is_an_error(tmp_path):
    (tmp_path / "s.csv").write_bytes(b"ID,ImageWidth,ImageHeight,PredictionString\n\xff\xfe,1,1,x\n")
    with pytest.raises(DatasetError, match="not a CSV file"):
        read_all(str(tmp_path / "s.csv"))


def test_a_sample_gives_ids_and_sizes_in_order(tmp_path):
    path = write(tmp_path / "sample.csv", "b,8,6,0 1 eNoLCAgIMAEABJkBdQ==", "a,30,20,0 1 eNoLCAgIMAEABJkBdQ==")
    assert list(submission.read_sample(path).items()) == [("b", (6, 8)), ("a", (20, 30))]


def test_an_id_that_stands_twice_in_the_sample_is_an_error(tmp_path):
    with pytest.raises(DatasetError, match=r"row 2 \(ID b\): the ID stands twice"):
        submission.read_sample(write(tmp_path / "sample.csv", "b,8,6,x", "b,8,6,x"))


@pytest.mark.parametrize(
    ("fov_ids", "message"),
    [
        (["a", "x", "b"], "row 2: ID x is not in the sample (1 such rows)"),
        (["a"], "1 rows; 1 IDs of the sample have none, the first is b"),
    ],
)
def test_more_or_fewer_rows_than_the_sample_are_an_error(fov_ids, message):
    with pytest.raises(DatasetError) as caught:
        submission.check_rows(fov_ids, ["a", "b"], source="s.csv")
    assert message in str(caught.value)
    submission.check_rows(["b", "a"], ["a", "b"], source="s.csv")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (f"a,8,6,99,0,{MASK}", "row 2 (ID a): '99' is no label"),
        ("a,8,6,0,0,AAAA", "row 2 (ID a): mask is not deflated"),
        (f"a,8,6,0,1,{MASK}", "row 2 (ID a): IsGroupOf is '1'"),
        (f"a,9,6,0,0,{MASK}", "row 2 (ID a): the FOV is 9 x 6 px here and 8 x 6 px in an earlier row"),
    ],
)
def test_a_malformed_truth_is_an_error_with_its_row(tmp_path, row, message):
    header = ",".join(submission.TRUTH_HEADER)
    path = write(tmp_path / "t.csv", f"a,8,6,0,0,{MASK}", row, header=header)
    with pytest.raises(DatasetError) as caught:
        submission.read_truth(path)
    assert message in str(caught.value)

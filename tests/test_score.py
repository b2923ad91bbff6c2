"""The command `trainer.score`: the truth from a file or from a data set, and what makes a submission unfit to be scored."""

import dataclasses
import json

import pytest

import kaggle_data
import small_dataset
from hpa_proto import schema
from hpa_proto.errors import ConfigError, DatasetError
from trainer import cell_masks, score, scoring, submission, submit
from trainer.score import ScoreConfig
from trainer.submission import Detection, SubmissionRow
from trainer.submit import SubmitConfig

SPLIT = "train"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return small_dataset.make(tmp_path_factory.mktemp("data"), num_fovs=6, num_cells=3)


@pytest.fixture(scope="module")
def predicted(dataset, tmp_path_factory):
    path = tmp_path_factory.mktemp("predicted") / "predictions.parquet"
    return str(path), kaggle_data.predict_at_random(path, dataset.data_dir, split=SPLIT)


@pytest.fixture
def config(dataset, predicted, tmp_path):
    out = str(tmp_path / "submission.csv")
    submit.run(SubmitConfig(predictions=predicted[0], data_dir=str(dataset.data_dir), out=out))
    return ScoreConfig(submission=out, data_dir=str(dataset.data_dir), split=SPLIT)


def write_truth(path, truth, *, leave_out=()):
    lines = [",".join(submission.TRUTH_HEADER)]
    lines += [
        f"{fov_id},{fov.size.width},{fov.size.height},{each.label},0,{submission.encode_counts(each.counts)}"
        for fov_id, fov in truth.items()
        if fov_id not in leave_out
        for each in fov.objects
    ]
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def rewrite(config, change):
    """Writes the submission again with changed rows."""
    rows = list(submission.read_submission(config.submission))
    submission.write_submission(config.submission, change(rows))


def test_the_reference_score_is_printed(capsys, tmp_path):
    if not kaggle_data.VECTORS.is_dir():
        pytest.skip(f"shared data not there: {kaggle_data.VECTORS}")
    out = tmp_path / "score.json"
    files = [f"--submission={kaggle_data.VECTORS}/submission.csv", f"--truth={kaggle_data.VECTORS}/ground_truth.csv"]
    assert (
        score.main(["score", *files, f"--out={out}", f"--sample_submission={kaggle_data.VECTORS}/submission.csv"]) == 0
    )
    printed = capsys.readouterr().out
    assert "mAP 0.640702 (all_classes_verified), 0.758569 (only_gt_classes_verified)" in printed
    content = json.loads(out.read_text())
    assert content["readings"]["all_classes_verified"]["mean_average_precision"] == pytest.approx(0.640702, abs=1e-6)
    assert content["readings"]["all_classes_verified"]["classes"][9]["average_precision"] is None


def test_a_data_sets_split_is_a_truth(config, predicted, dataset):
    """The masks' way and the way without masks agree, up to the digits that a submission keeps."""
    found = score.run(config)
    for reading in scoring.READINGS:
        expected = scoring.score_cells(predicted[1], reading=reading)
        assert 0 < expected.mean <= 1
        assert found.results[reading].mean == pytest.approx(expected.mean, abs=1e-12)
        for label, entry in expected.per_class.items():
            assert found.results[reading].per_class[label] == pytest.approx(entry, abs=1e-12, nan_ok=True)
    assert found.results[scoring.READINGS[0]].mean < 1


def test_a_truth_file_says_the_same_as_the_data_set(config, dataset, tmp_path):
    truth = cell_masks.read_truth(str(dataset.data_dir), SPLIT)
    path = write_truth(tmp_path / "truth.csv", truth)
    from_file = score.run(dataclasses.replace(config, truth=path, data_dir=""))
    # As JSON: NaN is not equal to itself.
    assert score.to_json(from_file) == score.to_json(score.run(config))


def test_the_truth_as_submission_scores_one(config, dataset):
    truth = cell_masks.read_truth(str(dataset.data_dir), SPLIT)

    def answer(rows):
        for row in rows:
            found = [Detection(each.label, 0.5, each.counts) for each in truth[row.fov_id].objects]
            yield SubmissionRow(row.fov_id, row.size, tuple(found))

    rewrite(config, answer)
    assert [result.mean for result in score.run(config).results.values()] == [1, 1]


def test_fovs_that_the_truth_lacks_have_no_objects(config, dataset, tmp_path):
    truth = cell_masks.read_truth(str(dataset.data_dir), SPLIT)
    left_out = next(iter(truth))
    path = write_truth(tmp_path / "truth.csv", truth, leave_out={left_out})
    found = score.run(dataclasses.replace(config, truth=path, data_dir=""))
    assert (found.num_fovs, found.num_fovs_without_objects) == (len(truth), 1)
    objects = sum(entry.num_objects for entry in found.results[scoring.READINGS[0]].per_class.values())
    assert objects == sum(len(fov.objects) for fov_id, fov in truth.items() if fov_id != left_out)
    detections = [
        sum(entry.num_detections for entry in found.results[reading].per_class.values()) for reading in scoring.READINGS
    ]
    assert detections[0] > detections[1]


def test_a_missing_row_is_an_error(config):
    rewrite(config, lambda rows: rows[1:])
    with pytest.raises(DatasetError, match="no row for 1 of 6 FOVs of the truth"):
        score.run(config)


def test_a_fov_of_another_size_is_an_error_with_its_row(config):
    def widen(rows):
        first, *rest = rows
        size = submission.FovSize(first.size.height, first.size.width + 1)
        return [*rest, SubmissionRow(first.fov_id, size, submission.placeholder(size))]

    rewrite(config, widen)
    with pytest.raises(DatasetError, match=r"row 6 \(ID fov-\d\): the FOV is 129 x 96 px, in the truth 128 x 96 px"):
        score.run(config)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: [*rows, SubmissionRow("more", rows[0].size, rows[0].detections)], "row 7: ID more is not in the"),
        (lambda rows: rows[:-1], "5 rows; 1 IDs of the sample have none"),
    ],
)
def test_more_or_fewer_rows_than_the_sample_are_an_error(config, tmp_path, change, message):
    sample = tmp_path / "sample.csv"
    rows = list(submission.read_submission(config.submission))
    submission.write_submission(str(sample), [dataclasses.replace(row, detections=()) for row in rows])
    score.run(dataclasses.replace(config, sample_submission=str(sample)))
    rewrite(config, change)
    with pytest.raises(DatasetError) as caught:
        score.run(dataclasses.replace(config, sample_submission=str(sample)))
    assert message in str(caught.value)


def test_a_data_set_without_labels_is_no_truth(config, dataset, tmp_path):
    manifest = schema.parse_manifest((dataset.data_dir / schema.MANIFEST_NAME).read_text(), source="test")
    manifest.label_scope = "unlabelled"
    (tmp_path / schema.MANIFEST_NAME).write_text(schema.format_manifest(manifest))
    with pytest.raises(DatasetError, match="has no labels"):
        score.run(dataclasses.replace(config, data_dir=str(tmp_path)))


@pytest.mark.parametrize("wrong", [{}, {"truth": "t.csv", "data_dir": "d"}])
def test_one_truth_must_be_given(wrong):
    with pytest.raises(ConfigError, match="give the truth"):
        ScoreConfig(submission="s.csv", **wrong)


def test_a_missing_file_is_one_line_on_stderr(tmp_path, capsys):
    assert score.main(["score", f"--submission={tmp_path}/no.csv", f"--truth={tmp_path}/no.csv"]) == 1
    captured = capsys.readouterr().err
    assert captured.startswith("error: ")
    assert len(captured.splitlines()) == 1

"""The way to Kaggle as a user goes it: FOVs without labels, cells, predictions, a submission, its score, a picture of it."""

import csv
import pathlib
import subprocess
import sys

import cv2
import pytest

import kaggle_data
import tiny_train
import trainer_data
from beam_jobs import synthesize
from beam_jobs.synthesize import SynthesizeConfig
from hpa_proto import labels, masks
from trainer import loop, overlay, predict, predictions, score, scoring, submission, submit
from trainer.config import TrainConfig
from trainer.optimizers import OptimizerConfig

tiny_train.register()
SIZE_PX = 32


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    """A run that saw two steps of all 19 classes: its answers are numbers, which is all that is asked of them here."""
    folder = tmp_path_factory.mktemp("training")
    every = range(labels.NUM_LABELS)
    data_dir = trainer_data.write_dataset(folder / "set", classes=every, examples_per_class=4, size_px=SIZE_PX)
    config = TrainConfig(
        data_dir=str(data_dir),
        run_dir=str(folder / "run"),
        model="tiny",
        batch_size=8,
        epochs=1,
        steps_per_epoch=2,
        augment=None,
        tensorboard=False,
        optimizer=OptimizerConfig(warmup_epochs=0),
    )
    with pytest.MonkeyPatch.context() as patch:
        tiny_train.draw_no_pictures(patch)
        loop.run(config)
    return folder / "run"


def convert(folder, images, *flags):
    """The first command of the chain."""
    command = [sys.executable, "-m", "beam_jobs.convert", f"--images={images}", f"--out_dir={folder}"]
    done = subprocess.run(
        [*command, f"--image_size_px={SIZE_PX}", *flags], capture_output=True, text=True, timeout=400, check=False
    )
    assert done.returncode == 0, done.stderr


def write_sample(path, sizes):
    """Writes the list of wanted FOVs as Kaggle does."""
    lines = ["ID,ImageWidth,ImageHeight,PredictionString"]
    lines += [f"{fov_id},{width},{height},0 1 eNoLCAgIMAEABJkBdQ==" for fov_id, (height, width) in sizes.items()]
    path.write_text("\n".join(lines) + "\n")


def write_truth(path, label_maps, labels_of):
    """Writes what the competition keeps to itself: each cell of the label maps with its labels; returns their number."""
    lines = [",".join(submission.TRUTH_HEADER)]
    for fov_id, label_map in label_maps.items():
        height, width = label_map.shape
        for cell_index in range(1, int(label_map.max()) + 1):
            text = submission.encode_counts(masks.encode_mask(label_map == cell_index))
            for label in labels_of(fov_id, cell_index):
                lines.append(f"{fov_id},{width},{height},{label},0,{text}")
    path.write_text("\n".join(lines) + "\n")
    return len(lines) - 1


def read_maps(folder):
    paths = sorted(pathlib.Path(folder).glob("*_cell.png"))
    return {path.name.removesuffix("_cell.png"): cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for path in paths}


def read_labels(path):
    with open(path, newline="") as file:
        return {row["ID"]: labels.parse_label_set(row["Label"]) for row in csv.DictReader(file)}


def go(folder, *, images, run_dir, sizes, capsys):
    """The chain after the cells are there: predict, submit, score, overlay; returns the submission by FOV."""
    data = f"--data_dir={folder}/dataset"
    predicted, answer = f"--predictions={folder}/predictions.parquet", f"{folder}/submission.csv"
    sample = f"--sample_submission={folder}/sample_submission.csv"
    write_sample(folder / "sample_submission.csv", sizes)
    assert predict.main(["", f"--run_dir={run_dir}", data, "--split=predict", f"--out={predicted[14:]}"]) == 0
    assert submit.main(["", predicted, data, f"--out={answer}", sample]) == 0
    assert score.main(["", f"--submission={answer}", f"--truth={folder}/truth.csv", sample]) == 0
    assert "mAP 0." in capsys.readouterr().out
    picture = folder / "fov.png"
    fov_id = next(fov_id for fov_id in sizes if not fov_id.startswith("empty"))
    assert overlay.main(["", predicted, data, f"--images={images}", f"--fov={fov_id}", f"--out={picture}"]) == 0
    assert cv2.imread(str(picture)) is not None
    rows = {row.fov_id: row for row in submission.read_submission(answer)}
    assert list(rows) == list(sizes)
    assert {fov_id: row.size for fov_id, row in rows.items()} == sizes
    return rows


def test_simulated_fovs_go_all_the_way(tmp_path, run_dir, capsys):
    synthesize.run(
        SynthesizeConfig(
            out_dir=f"{tmp_path}/fovs",
            num_fovs=2,
            labels=(0, 16),
            height_px=384,
            width_px=512,
            pixel_size_um=0.2,
            crowding=(0.3, 0.4),
        )
    )
    images = f"{tmp_path}/fovs/images"
    convert(tmp_path, images, "--pixel_size_um=0.2")
    maps = read_maps(tmp_path / "fovs" / "masks")
    labels_of_cell = read_labels(tmp_path / "fovs" / "cell_labels.csv")
    num_objects = write_truth(
        tmp_path / "truth.csv", maps, lambda fov_id, cell_index: labels_of_cell[f"{fov_id}_{cell_index}"]
    )
    sizes = {
        "sim-00001": maps["sim-00001"].shape,
        "empty-1": (300, 200),
        "sim-00000": maps["sim-00000"].shape,
    }
    rows = go(tmp_path, images=images, run_dir=run_dir, sizes=sizes, capsys=capsys)
    assert rows["empty-1"].detections == submission.placeholder((300, 200))
    predicted = predictions.read_predictions(f"{tmp_path}/predictions.parquet")
    assert predicted.num_cells > num_objects / 2
    assert sum(len(row.detections) for row in rows.values()) == predicted.num_cells * labels.NUM_LABELS + 1
    # The chain moves no cell: with the truth's label on each of its masks, most of the objects are found.
    objects = submission.read_truth(f"{tmp_path}/truth.csv")
    scorer = scoring.Scorer()
    for fov_id, fov in objects.items():
        own = {each.label for each in fov.objects}
        counts = {each.counts for each in rows[fov_id].detections}
        scorer.add_fov(
            fov.size, [submission.Detection(label, 1, each) for label in own for each in counts], fov.objects
        )
    assert scorer.result().mean > 0.5


@pytest.mark.slow
def test_real_fovs_go_all_the_way(tmp_path, run_dir, capsys):
    folder = kaggle_data.SHARED / "hpa"
    if not folder.is_dir():
        pytest.skip(f"shared data not there: {folder}")
    convert(tmp_path, folder / "fovs")
    maps = read_maps(folder / "masks")
    labels_of_fov = read_labels(folder / "train.csv")
    num_objects = write_truth(tmp_path / "truth.csv", maps, lambda fov_id, _: labels_of_fov[fov_id])
    sizes = {fov_id: label_map.shape for fov_id, label_map in maps.items()}
    rows = go(tmp_path, images=folder / "fovs", run_dir=run_dir, sizes=sizes, capsys=capsys)
    # 19 cells of four labels, 10 and 46 of one; our segmenter finds 76 where the other tool found 75.
    assert num_objects == 19 * 4 + 10 + 46
    assert sum(len(row.detections) for row in rows.values()) == pytest.approx(75 * labels.NUM_LABELS, rel=0.1)

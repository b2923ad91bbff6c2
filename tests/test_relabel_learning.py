"""Cell labels made of out-of-fold predictions are nearer to the truth than the FOVs', and a model learns more of them."""

import csv
import dataclasses
import pathlib

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from beam_jobs import dataset_job, segment, synthesize
from beam_jobs.dataset_job import ShardConfig
from beam_jobs.examples import ExampleConfig
from beam_jobs.plan_config import PlanConfig
from beam_jobs.segment import SegmentConfig
from beam_jobs.synthesize import SynthesizeConfig
from hpa_proto import labels as hpa_labels
from trainer import judged, loop, metrics, predict, relabel
from trainer.config import TrainConfig
from trainer.optimizers import OptimizerConfig
from trainer.predict import PredictConfig
from trainer.predictions import read_predictions
from trainer.relabel import RelabelConfig

NUM_FOLDS = 3
# Nucleoplasm, nucleoli, plasma membrane, mitochondria, cytosol, negative.
CLASSES = (0, 2, 13, 14, 16, 18)
WEAK_SHARE = 0.3
PIXEL_SIZE_UM = 0.32
FOLDS = PlanConfig(
    label_scope="all", splits=tuple((f"fold{fold}", 1) for fold in range(NUM_FOLDS)), cells_per_shard=256
)


def make_cells(folder, *, num_fovs, seed):
    """Simulates FOVs of which some cells do not show the label, with the true masks; returns the cell store."""
    synthesize.run(
        SynthesizeConfig(
            str(folder),
            num_fovs=num_fovs,
            labels=CLASSES,
            labels_per_fov_max=2,
            weak_label_share=WEAK_SHARE,
            height_px=320,
            width_px=320,
            pixel_size_um=PIXEL_SIZE_UM,
            crowding=(0.8, 0.8),
            seed=seed,
        )
    )
    segment.run(
        SegmentConfig(
            images=f"{folder}/images",
            labels=f"{folder}/labels.csv",
            cells_dir=f"{folder}/cells",
            segmenter="masks",
            masks_dir=f"{folder}/masks",
            pixel_size_um=PIXEL_SIZE_UM,
        )
    )
    return f"{folder}/cells"


def write_dataset(cells_dir, data_dir, plan, **options):
    example = ExampleConfig(image_size_px=64)
    dataset_job.run(ShardConfig(str(cells_dir), str(data_dir), plan, example, **options))
    return str(data_dir)


def train(data_dir, run_dir, *, fold):
    loop.run(
        TrainConfig(
            data_dir=data_dir,
            run_dir=str(run_dir),
            model="resnet10w16",
            fold=fold,
            num_folds=NUM_FOLDS,
            batch_size=16,
            epochs=8,
            # The same number for all runs, whatever the number of cells that kept a label.
            steps_per_epoch=80,
            optimizer=OptimizerConfig(
                optimizer="adamw", learning_rate=2e-3, weight_decay=0.02, schedule="cosine", warmup_epochs=1
            ),
            tensorboard=False,
            strategy="none",
        )
    )
    return str(run_dir)


def read_truth(folder):
    with (pathlib.Path(folder) / synthesize.CELL_LABELS_NAME).open(newline="") as file:
        return {row["ID"]: hpa_labels.parse_label_set(row["Label"]) for row in csv.DictReader(file)}


def judge_run(run_dir, *, truth_dir):
    """Judges a run on true labels, at the threshold of 0.5: thresholds chosen on weak labels would mend what is compared."""
    config = PredictConfig((run_dir,), truth_dir, "test", batch_size=64)
    predict.run_if_missing(config)
    own = judged.judge(read_predictions(config.path))
    figures = metrics.figures(own.sums.sum(axis=0), multi_label=True)
    precision = average_precision_score(own.labels, own.probabilities, average="macro")
    return {name: float(value) for name, value in figures.items()} | {"mean_average_precision": float(precision)}


def mean_f1(truth, said):
    """Macro F1 of label sets, cell by cell."""
    hits, count = np.zeros(hpa_labels.NUM_LABELS), np.zeros(hpa_labels.NUM_LABELS)
    for cell_id, labels in said.items():
        hits[list(set(labels) & set(truth[cell_id]))] += 2
        for own in (labels, truth[cell_id]):
            count[list(own)] += 1
    return float((hits[list(CLASSES)] / count[list(CLASSES)]).mean())


@pytest.mark.slow
@pytest.mark.learning
def test_one_round_of_relabelling_comes_nearer_to_the_truth(tmp_path):
    cells_dir = make_cells(tmp_path / "fovs", num_fovs=100, seed=3)
    weak = write_dataset(cells_dir, tmp_path / "weak", FOLDS)
    runs = tuple(train(weak, tmp_path / f"weak{fold}", fold=fold) for fold in range(NUM_FOLDS))
    made = relabel.run(RelabelConfig(runs, str(tmp_path / "relabelled"), data_dir=weak, batch_size=64))

    truth = read_truth(tmp_path / "fovs")
    table = dataset_job.storage.read_table(made.path)
    has_label = table["labels"].map(len) > 0
    fov_labels, cell_labels = (
        dict(zip(table.loc[has_label, "cell_id"], table.loc[has_label, column], strict=True))
        for column in ("fov_labels", "labels")
    )
    labels_before, labels_after = mean_f1(truth, fov_labels), mean_f1(truth, cell_labels)

    strong = write_dataset(cells_dir, tmp_path / "strong", FOLDS, splits_of=weak, cell_labels=made.path)
    after = train(strong, tmp_path / "strong0", fold=0)
    test_cells = make_cells(tmp_path / "test_fovs", num_fovs=30, seed=11)
    plan = dataclasses.replace(FOLDS, splits=(("test", 1),))
    true_labels = str(tmp_path / "test_fovs" / synthesize.CELL_LABELS_NAME)
    truth_dir = write_dataset(test_cells, tmp_path / "truth", plan, cell_labels=true_labels)
    figures_before = judge_run(runs[0], truth_dir=truth_dir)
    figures_after = judge_run(after, truth_dir=truth_dir)

    print(made.relabelled.per_class.to_string())
    print(f"labels of {has_label.sum()} of {len(table)} cells: macro F1 {labels_before:.3f} -> {labels_after:.3f}")
    for name in ("macro_f1", "mean_average_precision", "subset_accuracy", "macro_precision", "macro_recall"):
        print(f"model on true cell labels: {name} {figures_before[name]:.3f} -> {figures_after[name]:.3f}")
    assert labels_after > labels_before
    assert figures_after["macro_f1"] > figures_before["macro_f1"]
    assert figures_after["mean_average_precision"] > figures_before["mean_average_precision"]

import pytest

import cell_tables
from beam_jobs.plan import make_plan
from beam_jobs.plan_config import PlanConfig
from beam_jobs.plan_summary import count_fates, describe_plan, list_duplicate_fovs


def summarize(cells, config):
    return describe_plan(make_plan(cells, config), config)


def test_summary_counts_cells_by_class_split_and_reason():
    cells = cell_tables.make_cell_table(["0", "0|5", "18", ""] * 16, num_cells=3)
    config = PlanConfig(label_scope="all", drop_classes=("Negative",), cells_per_shard=40)
    summary = summarize(cells, config)
    assert (summary.num_cells, summary.num_kept) == (192, 96)
    assert summary.dropped == {"unlabelled": 48, "class_out_of_scope": 48}
    assert summary.classes == (0, 5)
    assert summary.per_class.to_dict("index") == {
        0: {"name": "Nucleoplasm", "num_cells": 96, "num_kept": 96, "train": 72, "validation": 18, "test": 6},
        5: {"name": "Nuclear bodies", "num_cells": 48, "num_kept": 48, "train": 36, "validation": 9, "test": 3},
        18: {"name": "Negative", "num_cells": 48, "num_kept": 0, "train": 0, "validation": 0, "test": 0},
    }
    assert summary.per_split.loc["train"].to_dict() == pytest.approx(
        {"target_share": 0.75, "share": 0.75, "num_cells": 72, "num_fovs": 24, "num_groups": 24, "num_shards": 2}
    )
    assert summary.notes == ()


def test_three_fovs_of_different_classes_all_train_and_the_summary_says_so():
    cells = cell_tables.make_cell_table(["0|1|2|7", "17", "15"], num_cells=[19, 10, 46])
    summary = summarize(cells, PlanConfig(label_scope="all"))
    assert summary.per_split["num_cells"].to_dict() == {"train": 75, "validation": 0, "test": 0}
    assert [note.split(":")[0] for note in summary.notes] == [
        "Split validation has no cells",
        "Split test has no cells",
    ]


def test_summary_names_classes_that_a_split_lacks_and_classes_that_are_gone():
    cells = cell_tables.make_cell_table(["0"] * 16 + ["11"])
    summary = summarize(cells, PlanConfig(classes=(0, 11, 12)))
    assert "Split test has no cell of Mitotic spindle (11): too few groups have them." in summary.notes
    assert "No cell is left of Centrosome (12), which classes asks for." in summary.notes


@pytest.mark.parametrize(("drop", "fate"), [(False, "each set is in one split"), (True, "one FOV of each is kept")])
def test_near_identical_fovs_are_told_and_their_different_labels(drop, fate):
    cells = cell_tables.make_cell_table(["0", "0", "5", "0", "0"] * 4, num_cells=3)
    config = PlanConfig(drop_duplicate_fovs=drop, splits=(("all", 1),))
    # fov9's original is in another data set.
    sets = {"fov0": "fov0", "fov1": "fov0", "fov2": "fov2", "fov3": "fov2", "fov9": "elsewhere"}
    plan = make_plan(cells, config, duplicate_sets=sets)
    first, second = describe_plan(plan, config).notes
    assert first.startswith(f"4 FOVs are near-identical to others, in 2 sets: {fate}")
    assert second.startswith("Near-identical FOVs have different labels in 1 set, as fov2 and fov3: ")
    fovs = list_duplicate_fovs(plan)
    assert fovs["fov_id"].tolist() == ["fov0", "fov1", "fov2", "fov3"]
    assert fovs["num_cells"].tolist() == [3] * 4
    assert fovs["num_kept"].tolist() == ([3, 0, 3, 0] if drop else [3] * 4)
    assert fovs["split"].tolist() == (["all", "", "all", ""] if drop else ["all"] * 4)


def test_labels_of_single_cells_are_not_taken_for_different_labels_of_fovs():
    cells = cell_tables.make_cell_table(["0", "0", "5"], num_cells=2)
    cells = cells.assign(fov_labels=cells["labels"], labels=["0", "5", "0", "0", "5", "5"])
    config = PlanConfig(splits=(("all", 1),))
    plan = make_plan(cells, config, duplicate_sets={"fov0": "fov0", "fov1": "fov0"})
    assert len(describe_plan(plan, config).notes) == 1


def test_summary_of_unlabelled_cells_has_no_classes():
    summary = summarize(
        cell_tables.make_cell_table(["", ""]), PlanConfig(label_scope="unlabelled", splits=(("all", 1),))
    )
    assert summary.classes == ()
    assert summary.per_class.empty
    assert summary.per_split.loc["all", "num_cells"] == 8
    assert summary.notes == ()


def test_fates_of_each_class_add_up():
    cells = cell_tables.make_cell_table(["0", "0|5", "18", "5|18", ""] * 16, num_cells=3)
    cells.loc[::4, "touches_border"] = True
    config = PlanConfig(
        label_scope="all",
        drop_classes=("Negative",),
        drop_border_cells=True,
        max_cells_per_class=40,
        exclude=(cells["cell_id"].iloc[1],),
    )
    plan = make_plan(cells, config)
    fates = count_fates(plan, describe_plan(plan, config))
    assert list(fates.columns) == [
        *(
            "name",
            "num_cells",
            "excluded",
            "unlabelled",
            "border",
            "class_out_of_scope",
            "class_capped",
            "label_removed",
        ),
        *("num_kept", "train", "validation", "test"),
    ]
    dropped = fates.loc[:, "excluded":"class_capped"].sum(axis=1)
    assert (fates["num_cells"] == dropped + fates["label_removed"] + fates["num_kept"]).all()
    assert (fates["num_kept"] == fates[["train", "validation", "test"]].sum(axis=1)).all()
    # Cells of 5|18 stay as cells of 5.
    assert fates["label_removed"].to_dict()[18] == (plan.loc[plan["labels"] == "5|18", "dropped"] == "").sum() > 0
    assert fates["label_removed"].to_dict()[0] == 0
    assert fates.at[0, "excluded"] == 1


def test_no_label_removed_no_column_of_it():
    cells = cell_tables.make_cell_table(["0", "5"] * 8)
    config = PlanConfig(max_cells_per_class=20)
    plan = make_plan(cells, config)
    assert list(count_fates(plan, describe_plan(plan, config)).columns[:4]) == [
        "name",
        "num_cells",
        "class_capped",
        "num_kept",
    ]

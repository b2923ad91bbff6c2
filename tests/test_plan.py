import numpy as np
import pandas as pd
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

import cell_tables
from beam_jobs import plan as plan_lib
from beam_jobs.plan import make_plan, plan_digest
from beam_jobs.plan_config import QUALITY_RULES, PlanConfig
from hpa_proto.errors import ConfigError

LABEL_TEXTS = ("", "0", "5", "18", "0|5", "0|18", "0|5|18")


def reasons(plan):
    return plan["dropped"].value_counts().to_dict()


@st.composite
def cell_tables_and_configs(draw):
    fovs = draw(st.lists(st.tuples(st.sampled_from(LABEL_TEXTS), st.integers(1, 9)), min_size=1, max_size=25))
    cells = cell_tables.make_cell_table([text for text, _ in fovs], num_cells=[count for _, count in fovs])
    cells["focus"] = (np.arange(len(cells)) % 7) / 7
    cells["touches_border"] = np.arange(len(cells)) % 5 == 0
    cells["plate"] = cells["fov_id"].str.len() + cells["fov_id"].str[-1:].astype(int) % 4
    scope = draw(st.sampled_from(["single", "all", "unlabelled"]))
    class_rules = {}
    if scope != "unlabelled":
        class_rules = {
            "drop_classes": draw(st.sampled_from([(), (18,)])),
            "min_cells_per_class": draw(st.sampled_from([0, 10])),
            "max_cells_per_class": draw(st.sampled_from([None, 12])),
        }
    return cells, PlanConfig(
        label_scope=scope,
        min_focus=draw(st.sampled_from([None, 0.3])),
        drop_border_cells=draw(st.booleans()),
        splits=draw(st.sampled_from([(("train", 12), ("validation", 3), ("test", 1)), (("all", 1),)])),
        group_column=draw(st.sampled_from(["fov_id", "plate"])),
        cells_per_shard=draw(st.integers(1, 30)),
        seed=draw(st.integers(0, 3)),
        **class_rules,
    )


@settings(max_examples=50, deadline=None)
@given(cell_tables_and_configs(), st.randoms(use_true_random=False))
def test_every_plan_keeps_its_promises(cells_and_config, random):
    cells, config = cells_and_config
    try:
        plan = make_plan(cells, config)
    except ConfigError:
        # The rules of this draw leave nothing.
        reject()
    pd.testing.assert_frame_equal(plan[cells.columns], cells)
    kept = plan[plan["dropped"] == ""]
    dropped = plan[plan["dropped"] != ""]
    assert len(kept) + len(dropped) == len(cells)
    assert set(dropped["dropped"]) <= set(plan_lib.REASONS)
    assert (dropped[["shard", "index"]] == -1).all(axis=None)
    assert (dropped[["split", "example_labels"]] == "").all(axis=None)
    assert (kept["example_labels"] == "").all() == (config.label_scope == "unlabelled")

    assert (kept.groupby(config.group_column)["split"].nunique() == 1).all()
    for _, shard in kept.groupby(["split", "shard"]):
        assert sorted(shard["index"]) == list(range(len(shard)))
    for _, split in kept.groupby("split"):
        assert sorted(split["shard"].unique()) == list(range(-(-len(split) // config.cells_per_shard)))
        assert np.ptp(split.groupby("shard").size()) <= 1
        counts = split.groupby(["example_labels", "shard"]).size().unstack(fill_value=0)
        assert np.ptp(counts.to_numpy(), axis=1).max() <= 1

    shuffled = list(range(len(cells)))
    random.shuffle(shuffled)
    again = make_plan(cells.iloc[shuffled], config)
    pd.testing.assert_frame_equal(again, plan.iloc[shuffled])
    assert plan_digest(config, again) == plan_digest(config, plan)
    pd.testing.assert_frame_equal(make_plan(plan, config), plan)


@pytest.mark.parametrize(
    ("scope", "expected", "example_labels"),
    [
        ("single", {"": 2, "unlabelled": 1, "multi_label_fov": 1}, ["", "0", "5", ""]),
        ("all", {"": 3, "unlabelled": 1}, ["", "0", "5", "0|5"]),
        ("unlabelled", {"": 4}, ["", "", "", ""]),
    ],
)
def test_label_scope(scope, expected, example_labels):
    cells = cell_tables.make_cell_table(["", "0", "5", "0|5"], num_cells=1)
    plan = make_plan(cells, PlanConfig(label_scope=scope))
    assert reasons(plan) == expected
    assert plan["example_labels"].tolist() == example_labels


FAILURES = (
    ("png_too_small", {"green_png_bytes": 4095}),
    ("png_too_large", {"green_png_bytes": 1048577}),
    ("border", {"touches_border": True}),
    ("no_nucleus", {"nucleus_area_um2": 0.0}),
    ("several_nuclei", {"num_nuclei": 2}),
    ("out_of_focus", {"focus": 0.09}),
    ("saturated", {"saturated_fraction": 0.21}),
    ("too_small", {"area_um2": 49.0}),
    ("too_large", {"area_um2": 5001.0}),
    ("empty", {"green_snr": 1.9}),
)
ALL_RULES = {
    "min_green_png_bytes": 4096,
    "max_green_png_bytes": 1048576,
    "drop_border_cells": True,
    "drop_without_nucleus": True,
    "max_nuclei": 1,
    "min_focus": 0.1,
    "max_saturated_fraction": 0.2,
    "min_area_um2": 50.0,
    "max_area_um2": 5000.0,
    "min_green_snr": 2.0,
}


def make_cells_that_fail(num_failures=1):
    """Each row i < 10 fails the rules i, i+1, ... as many as asked; the last row fails none."""
    cells = cell_tables.make_cell_table(["0"], num_cells=11)
    for row in range(10):
        for _, values in FAILURES[row : row + num_failures]:
            for column, value in values.items():
                # One column cannot be below its minimum and above its maximum at once.
                if cells.at[row, column] == cells.at[10, column]:
                    cells.loc[row, column] = value
    return cells


def test_failures_cover_every_rule_in_order():
    assert [reason for reason, _ in FAILURES] == [rule.reason for rule in QUALITY_RULES]


@pytest.mark.parametrize("num_failures", [1, 2, 10])
def test_the_first_failing_rule_is_the_reason(num_failures):
    plan = make_plan(make_cells_that_fail(num_failures), PlanConfig(**ALL_RULES))
    assert plan["dropped"].tolist() == [*(reason for reason, _ in FAILURES), ""]


@pytest.mark.parametrize("rule", QUALITY_RULES, ids=lambda rule: rule.reason)
def test_each_rule_alone_drops_only_its_cell(rule):
    plan = make_plan(make_cells_that_fail(), PlanConfig(**{rule.field: ALL_RULES[rule.field]}))
    assert plan.loc[plan["dropped"] != "", "dropped"].tolist() == [rule.reason]


def test_values_at_the_threshold_stay():
    cells = cell_tables.make_cell_table(["0"], num_cells=2)
    cells = cells.assign(green_png_bytes=[4096, 1048576], focus=0.1, saturated_fraction=0.2, area_um2=[50.0, 5000.0])
    assert reasons(make_plan(cells, PlanConfig(**ALL_RULES))) == {"": 2}


def test_a_missing_measurement_fails_its_rule():
    cells = cell_tables.make_cell_table(["0"], num_cells=2)
    cells.loc[0, "focus"] = np.nan
    assert make_plan(cells, PlanConfig(min_focus=0.0))["dropped"].tolist() == ["out_of_focus", ""]


def test_no_rule_reads_no_measurement():
    cells = cell_tables.make_cell_table()[["cell_id", "fov_id", "labels"]]
    assert reasons(make_plan(cells, PlanConfig(label_scope="all"))) == {"": 20}


def test_excluded_is_the_first_reason():
    cells = cell_tables.make_cell_table(["0", "0|5"], num_cells=2)
    plan = make_plan(cells, PlanConfig(exclude=("fov0_2", "fov1_1")))
    assert plan["dropped"].tolist() == ["", "excluded", "excluded", "multi_label_fov"]


def test_out_of_scope_labels_leave_the_example():
    cells = cell_tables.make_cell_table(["0", "18", "0|18", "5|18", "0|5"], num_cells=1)
    plan = make_plan(cells, PlanConfig(label_scope="all", classes=(0, 5), drop_classes=("Negative",)))
    assert plan["example_labels"].tolist() == ["0", "", "0", "5", "0|5"]
    assert plan["dropped"].tolist() == ["", "class_out_of_scope", "", "", ""]


def test_small_classes_are_counted_after_the_quality_rules():
    cells = cell_tables.make_cell_table(["0", "5"], num_cells=5)
    cells.loc[0, "touches_border"] = True
    config = PlanConfig(min_cells_per_class=5, drop_border_cells=True)
    assert reasons(make_plan(cells, config)) == {"": 5, "border": 1, "class_too_small": 4}


def test_a_cell_keeps_its_other_labels_when_one_class_is_too_small():
    cells = cell_tables.make_cell_table(["0", "0|5", "5"], num_cells=[9, 2, 1])
    plan = make_plan(cells, PlanConfig(label_scope="all", min_cells_per_class=5))
    assert plan.loc[plan["fov_id"] == "fov1", "example_labels"].tolist() == ["0", "0"]
    assert plan["dropped"].tolist() == [""] * 11 + ["class_too_small"]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=12), st.integers(1, 120), st.integers(0, 5))
def test_cap_takes_evenly_from_fovs(sizes, cap, seed):
    cells = cell_tables.make_cell_table(["3"] * len(sizes), num_cells=sizes)
    plan = make_plan(cells, PlanConfig(max_cells_per_class=cap, seed=seed))
    kept = plan[plan["dropped"] == ""].groupby("fov_id").size().reindex(cells["fov_id"].unique(), fill_value=0)
    assert kept.sum() == min(cap, sum(sizes))
    cut = kept.to_numpy()[kept.to_numpy() < np.array(sizes)]
    if len(cut):
        assert kept.max() <= cut.min() + 1


def test_cap_of_several_labels_serves_the_rarest_class_first():
    cells = cell_tables.make_cell_table(["0", "0|11", "0|5"], num_cells=[30, 4, 20])
    plan = make_plan(cells, PlanConfig(label_scope="all", max_cells_per_class=10))
    kept = plan[plan["dropped"] == ""].groupby("example_labels").size().to_dict()
    # 11 has 4 cells, all stay; 5 gives 10; class 0 has 14 by then and gets no cell of its own.
    assert kept == {"0|11": 4, "0|5": 10}
    assert reasons(plan) == {"": 14, "class_capped": 40}


def test_capped_classes_are_not_first_in_their_shard():
    cells = cell_tables.make_cell_table(["0", "5"], num_cells=[400, 40])
    plan = make_plan(cells, PlanConfig(max_cells_per_class=40, splits=(("all", 1),)))
    ranks = plan[plan["dropped"] == ""].groupby("example_labels")["index"].mean()
    assert abs(ranks["0"] - ranks["5"]) < 15


def test_neighbours_in_a_group_stay_together():
    cells = cell_tables.make_cell_table(["0", "5"] * 30)
    cells["antibody"] = cells["fov_id"].str[3:].astype(int) // 6
    plan = make_plan(cells, PlanConfig(group_column="antibody"))
    assert (plan.groupby("antibody")["split"].nunique() == 1).all()
    assert set(plan["split"]) == {"train", "validation", "test"}


def test_number_of_shards_is_as_asked_but_no_shard_is_empty():
    cells = cell_tables.make_cell_table(["0"] * 40, num_cells=5)
    plan = make_plan(cells, PlanConfig(shards=(("train", 4), ("test", 1000)), cells_per_shard=10))
    shards = plan.groupby("split")["shard"].nunique()
    sizes = plan.groupby("split").size()
    assert shards["train"] == 4
    assert shards["test"] == sizes["test"]
    assert shards["validation"] == -(-sizes["validation"] // 10)


def test_another_seed_gives_another_plan():
    cells = cell_tables.make_cell_table(["0"] * 16)
    digests = {plan_digest(config, make_plan(cells, config)) for config in (PlanConfig(seed=seed) for seed in range(3))}
    assert len(digests) == 3


def test_plan_never_changes_between_versions():
    cells = cell_tables.make_cell_table(["0", "5", "0|5", "18"] * 8, num_cells=list(range(1, 33)))
    config = PlanConfig(label_scope="all", max_cells_per_class=60, cells_per_shard=16)
    assert (
        plan_digest(config, make_plan(cells, config))
        == "10fedd855b68ab2baa9d740e2907b31b891f9882f4fc244ac27607abf55bdea7"
    )


def test_digest_knows_what_decides_the_bytes_and_nothing_else():
    cells = cell_tables.make_cell_table()
    config = PlanConfig(label_scope="all")
    plan = make_plan(cells, config)
    digest = plan_digest(config, plan)
    assert plan_digest(config, plan.assign(focus=0.0, file="elsewhere")) == digest
    harmless = PlanConfig(label_scope="all", min_focus=0.0)
    assert plan_digest(harmless, make_plan(cells, harmless)) == digest
    for column, value in (("cell_id", "x"), ("example_labels", "7"), ("split", "x"), ("shard", 9), ("index", 9)):
        altered = plan.copy()
        altered.loc[0, column] = value
        assert plan_digest(config, altered) != digest


def test_repeated_row_labels_of_the_table_do_no_harm():
    cells = cell_tables.make_cell_table(["0"] * 4)
    cells.index = [0] * len(cells)
    plan = make_plan(cells, PlanConfig())
    assert plan["dropped"].tolist() == [""] * 16


@pytest.mark.parametrize(
    ("change", "config", "text"),
    [
        (lambda cells: cells.iloc[:0], PlanConfig(), "no rows"),
        (
            lambda cells: cells.drop(columns="focus"),
            PlanConfig(min_focus=1.0),
            "no column 'focus', which min_focus needs",
        ),
        (lambda cells: cells, PlanConfig(group_column="plate"), "no column 'plate', which group_column needs"),
        (lambda cells: cells, PlanConfig(group_column="cell_id"), "several values within FOV fov0"),
        (lambda cells: cells.assign(plate=None), PlanConfig(group_column="plate"), "no value in 20 of 20"),
        (lambda cells: pd.concat([cells, cells.iloc[:1]]), PlanConfig(), "'fov0_1' stands twice"),
        (lambda cells: cells.assign(labels="0|77"), PlanConfig(), "column 'labels' .* label 77"),
        (
            lambda cells: cells,
            PlanConfig(exclude=("b_1", "a_1", "fov0_1")),
            "2 ids are not in the cell table, first a_1, b_1",
        ),
        (
            lambda cells: cells,
            PlanConfig(classes=(7,)),
            "no cell is left of 20: multi_label_fov 4, class_out_of_scope 16",
        ),
        (lambda cells: cells, PlanConfig(min_cells_per_class=9), "multi_label_fov 4, class_too_small 16"),
    ],
)
def test_a_table_that_cannot_work_is_refused(change, config, text):
    with pytest.raises(ConfigError, match=text):
        make_plan(change(cell_tables.make_cell_table()), config)


def test_near_identical_fovs_share_a_split_with_all_of_their_groups():
    cells = cell_tables.make_cell_table(["0", "5"] * 12, num_cells=3)
    cells["plate"] = cells["fov_id"].str[3:].astype(int) // 2
    sets = {"fov0": "fov0", "fov7": "fov0", "fov13": "fov0", "fov12": "fov12", "fov23": "fov12"}
    for seed in range(4):
        plan = make_plan(cells, PlanConfig(group_column="plate", seed=seed), duplicate_sets=sets)
        assert reasons(plan) == {"": 72}
        assert (plan.groupby("plate")["split"].nunique() == 1).all()
        # fov13 and fov12 are of one plate: their sets are linked.
        assert plan.loc[plan["fov_id"].isin(sets), "split"].nunique() == 1
        assert plan["duplicate_set"].tolist() == [sets.get(fov_id, "") for fov_id in cells["fov_id"]]
        assert set(plan["split"]) == {"train", "validation", "test"}


def test_of_near_identical_fovs_the_one_with_most_usable_cells_is_kept():
    cells = cell_tables.make_cell_table(["0", "0", "0|5", "0", "5", "18"], num_cells=[3, 4, 9, 4, 2, 8])
    sets = dict.fromkeys(["fov0", "fov1", "fov2", "fov3"], "fov0") | dict.fromkeys(["fov4", "fov5"], "fov4")
    config = PlanConfig(drop_duplicate_fovs=True, drop_classes=(18,))
    plan = make_plan(cells, config, duplicate_sets=sets)
    fates = plan.groupby("fov_id")["dropped"].agg(lambda texts: "|".join(texts.unique())).to_dict()
    # fov2 has several labels and fov5 is out of scope: neither stands in the way of a copy that can be used.
    assert fates == {
        "fov0": "duplicate_fov",
        "fov1": "",
        "fov2": "multi_label_fov",
        "fov3": "duplicate_fov",
        "fov4": "",
        "fov5": "class_out_of_scope",
    }
    shuffled = make_plan(cells.sample(frac=1, random_state=1), config, duplicate_sets=sets)
    pd.testing.assert_frame_equal(shuffled.sort_index(), plan)


def test_copies_do_not_count_for_the_size_of_a_class():
    cells = cell_tables.make_cell_table(["0", "5", "5"], num_cells=5)
    config = PlanConfig(drop_duplicate_fovs=True, min_cells_per_class=6)
    with pytest.raises(ConfigError, match="duplicate_fov 5, class_too_small 10"):
        make_plan(cells, config, duplicate_sets={"fov1": "fov1", "fov2": "fov1"})


def test_a_copy_of_a_fov_of_another_data_set_gets_its_split():
    cells = cell_tables.make_cell_table(["0"] * 20, num_cells=2)
    for split in ("train", "test"):
        sets = {"elsewhere": "elsewhere", "fov3": "elsewhere"}
        plan = make_plan(cells, PlanConfig(), split_of_fov={"elsewhere": split}, duplicate_sets=sets)
        assert set(plan.loc[plan["fov_id"] == "fov3", "split"]) == {split}


def test_near_identical_fovs_in_two_given_splits_are_an_error_unless_one_is_dropped():
    cells = cell_tables.make_cell_table(["0"] * 6, num_cells=[2, 3, 2, 2, 2, 2])
    given, sets = {"fov0": "train", "fov1": "test"}, {"fov0": "fov0", "fov1": "fov0"}
    with pytest.raises(ConfigError, match="near-identical but in two splits there"):
        make_plan(cells, PlanConfig(), split_of_fov=given, duplicate_sets=sets)
    plan = make_plan(cells, PlanConfig(drop_duplicate_fovs=True), split_of_fov=given, duplicate_sets=sets)
    assert set(plan.loc[plan["fov_id"] == "fov1", "split"]) == {"test"}
    assert set(plan.loc[plan["fov_id"] == "fov0", "dropped"]) == {"duplicate_fov"}


def test_fovs_keep_the_split_they_are_given_and_the_others_are_spread():
    cells = cell_tables.make_cell_table(["0"] * 12 + ["5"] * 12, num_cells=3)
    before = make_plan(cells, PlanConfig(seed=1))
    given_splits = dict(zip(before["fov_id"], before["split"], strict=True))
    fewer = PlanConfig(classes=(5,), seed=2)
    plan = make_plan(cells, fewer, split_of_fov=given_splits)
    kept = plan[plan["dropped"] == ""]
    assert (kept["split"] == kept["fov_id"].map(given_splits)).all()
    some = dict(list(given_splits.items())[-3:])
    plan = make_plan(cells, fewer, split_of_fov=some)
    kept = plan[plan["dropped"] == ""]
    assert kept["split"].ne("").all()
    assert kept.groupby("fov_id")["split"].nunique().eq(1).all()
    assert all(set(kept.loc[kept["fov_id"] == fov_id, "split"]) <= {split} for fov_id, split in some.items())


def test_given_splits_that_cannot_be_kept_are_an_error():
    cells = cell_tables.make_cell_table(["0"] * 4, num_cells=2).assign(plate="a")
    first, second = cells["fov_id"].unique()[:2]
    with pytest.raises(ConfigError, match="'fold' is none of train, validation, test"):
        make_plan(cells, PlanConfig(), split_of_fov={first: "fold"})
    with pytest.raises(ConfigError, match="same --group_column"):
        make_plan(cells, PlanConfig(group_column="plate"), split_of_fov={first: "train", second: "test"})

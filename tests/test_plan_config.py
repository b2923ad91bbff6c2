import dataclasses

import pytest

from beam_jobs.plan_config import QUALITY_RULES, PlanConfig
from hpa_proto.errors import ConfigError


def test_every_quality_rule_is_off_by_default():
    assert PlanConfig().active_rules == ()


def test_quality_rules_name_fields_of_the_config():
    assert {rule.field for rule in QUALITY_RULES} <= {field.name for field in dataclasses.fields(PlanConfig)}


def test_a_threshold_of_zero_is_on():
    assert [rule.reason for rule in PlanConfig(max_saturated_fraction=0).active_rules] == ["saturated"]


def test_classes_may_be_numbers_or_names():
    config = PlanConfig(classes=("5", "Nucleoplasm", 17), drop_classes=("nucleoplasm",))
    assert config.classes == (0, 5, 17)
    assert config.class_scope == (5, 17)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"label_scope": "multi"}, "single, all, unlabelled"),
        ({"classes": ("19",)}, "classes: label 19"),
        ({"drop_classes": ("Nukleoplasm",)}, "drop_classes: .*Nukleoplasm"),
        ({"classes": ()}, "none is left"),
        ({"classes": (3,), "drop_classes": (3,)}, "none is left"),
        ({"min_focus": -1.0}, "min_focus is -1.0"),
        ({"min_focus": float("nan")}, "min_focus is nan"),
        ({"seed": -1}, "seed is -1"),
        ({"min_cells_per_class": -5}, "min_cells_per_class is -5"),
        ({"max_cells_per_class": 0}, "keeps nothing"),
        ({"cells_per_shard": 0}, "keeps nothing"),
        ({"max_nuclei": 0}, "keeps nothing"),
        ({"max_saturated_fraction": 1.5}, "from 0 to 1"),
        ({"min_area_um2": 9.0, "max_area_um2": 8.0}, "min_area_um2 is over max_area_um2"),
        ({"min_green_png_bytes": 9, "max_green_png_bytes": 8}, "min_green_png_bytes is over"),
        ({"duplicate_bits": 65}, "duplicate_bits is 65: give 1 to 64"),
        ({"duplicate_bits": 0, "drop_duplicate_fovs": True}, "no near-identical FOVs are looked for"),
        ({"splits": ()}, "at least one"),
        ({"splits": (("train", 0.0),)}, "weight 0.0"),
        ({"splits": (("train", -3.0),)}, "weight -3.0"),
        ({"splits": (("train", float("inf")),)}, "weight inf"),
        ({"splits": (("", 1),)}, "split name ''"),
        ({"splits": (("../x", 1),)}, "split name '../x'"),
        ({"splits": (("a b", 1),)}, "split name 'a b'"),
        ({"splits": (("train", 1), ("train", 2))}, "stands twice"),
        ({"shards": (("dev", 2),)}, "no split 'dev'"),
        ({"shards": (("train", 0),)}, "asks for 0"),
        ({"shards": (("train", 1), ("train", 2))}, "stands twice"),
        ({"label_scope": "unlabelled", "max_cells_per_class": 10}, "max_cells_per_class: label scope unlabelled"),
    ],
)
def test_a_value_that_cannot_work_is_refused(fields, text):
    with pytest.raises(ConfigError, match=text):
        PlanConfig(**fields)

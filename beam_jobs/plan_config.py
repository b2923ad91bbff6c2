"""What a plan is made from: which cells stay, how they are split, how they are dealt to shards."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Iterable

import numpy as np

from beam_jobs import near_duplicates
from hpa_proto import labels, schema
from hpa_proto.errors import ConfigError

_SPLIT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_]*")

_TRAINING_SPLITS = (("train", 12.0), ("validation", 3.0), ("test", 1.0))
# By label scope: 75 / 18.75 / 6.25 % are the old project's.
DEFAULT_SPLITS: dict[str, tuple[tuple[str, float], ...]] = {
    "single": _TRAINING_SPLITS,
    "all": _TRAINING_SPLITS,
    "unlabelled": (("predict", 1.0),),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class QualityRule:
    """One reason to drop a cell for what was measured on it.

    Attributes:
      reason: what plan.parquet says of a cell that fails.
      field: the field of PlanConfig that sets the rule; None or False: off.
      column: the column of the cell table that it reads.
      passes: (values of the column, value of the field) -> which cells stay. A missing measurement (NaN) must not pass.
    """

    reason: str
    field: str
    column: str
    passes: Callable[[np.ndarray, float], np.ndarray]


# In the order they are tried: the first rule that a cell fails is the reason it was dropped.
QUALITY_RULES: tuple[QualityRule, ...] = tuple(
    QualityRule(reason=reason, field=field, column=column, passes=passes)
    for reason, field, column, passes in (
        ("png_too_small", "min_green_png_bytes", "green_png_bytes", np.greater_equal),
        ("png_too_large", "max_green_png_bytes", "green_png_bytes", np.less_equal),
        ("border", "drop_border_cells", "touches_border", lambda touches, _: np.equal(touches, 0)),
        ("no_nucleus", "drop_without_nucleus", "nucleus_area_um2", lambda area, _: np.greater(area, 0)),
        ("several_nuclei", "max_nuclei", "num_nuclei", np.less_equal),
        ("out_of_focus", "min_focus", "focus", np.greater_equal),
        ("saturated", "max_saturated_fraction", "saturated_fraction", np.less_equal),
        ("too_small", "min_area_um2", "area_um2", np.greater_equal),
        ("too_large", "max_area_um2", "area_um2", np.less_equal),
        ("empty", "min_green_snr", "green_snr", np.greater_equal),
    )
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlanConfig:
    """Every choice that a plan depends on.

    Classes are given as Kaggle's numbers or as names, and held as ascending numbers.

    Attributes:
      label_scope: "single": cells with exactly one label, of their own where a file gives them some (`cell_labels`), else of
        their FOV; "all": cells with at least one; "unlabelled": every cell, without labels, as for a prediction set.
      exclude: ids of cells that are known to be wrong.
      min_green_png_bytes: least size of the green crop as PNG (the old project: 4096).
      max_green_png_bytes: greatest size of the green crop as PNG (the old project: 1048576).
      drop_border_cells: drops cells that the border of the FOV cuts.
      drop_without_nucleus: drops cells in which no nucleus was found.
      max_nuclei: greatest number of nuclei in a cell.
      min_focus: least focus measure.
      max_saturated_fraction: greatest share of saturated pixels in the worst channel, 0..1.
      min_area_um2: least area of a cell.
      max_area_um2: greatest area of a cell.
      min_green_snr: least signal over background of the green channel.
      classes: the classes in scope; None: all.
      drop_classes: classes out of scope.
      min_cells_per_class: a class with fewer cells, counted after the rules above, is out (the old project: 1000).
      max_cells_per_class: greatest number of cells of a class, spread evenly over its FOVs (the old project: 4500).
      duplicate_bits: FOVs are near-identical if at most so many of the 256 bits of their perceptual hashes differ
        (`near_duplicates`); they come into one split. 0: they are not looked for.
      drop_duplicate_fovs: keeps the cells of one of the near-identical FOVs, and not of the others.
      splits: (name, weight) of each split.
      group_column: cells with the same value here never come into two splits.
      cells_per_shard: greatest number of cells in a shard of a split that `shards` does not name.
      shards: (name of a split, number of shards); never more than the split has cells.
      seed: a non-negative number; another seed gives another choice, another split and another order.

    Raises:
      ConfigError: a value that cannot work.
    """

    label_scope: str = "single"
    exclude: tuple[str, ...] = ()
    min_green_png_bytes: int | None = None
    max_green_png_bytes: int | None = None
    drop_border_cells: bool = False
    drop_without_nucleus: bool = False
    max_nuclei: int | None = None
    min_focus: float | None = None
    max_saturated_fraction: float | None = None
    min_area_um2: float | None = None
    max_area_um2: float | None = None
    min_green_snr: float | None = None
    classes: tuple[int | str, ...] | None = None
    drop_classes: tuple[int | str, ...] = ()
    min_cells_per_class: int = 0
    max_cells_per_class: int | None = None
    duplicate_bits: int = near_duplicates.DEFAULT_MAX_BITS
    drop_duplicate_fovs: bool = False
    splits: tuple[tuple[str, float], ...] = _TRAINING_SPLITS
    group_column: str = "fov_id"
    cells_per_shard: int = 1024
    shards: tuple[tuple[str, int], ...] = ()
    seed: int = 0

    def __post_init__(self):
        if self.label_scope not in schema.LABEL_SCOPES:
            raise ConfigError(f"label scope {self.label_scope!r}: give one of {', '.join(schema.LABEL_SCOPES)}")
        self._check_numbers()
        self._check_splits()
        # The one way to hold a parsed value in a frozen dataclass.
        if self.classes is not None:
            object.__setattr__(self, "classes", _parse_classes(self.classes, "classes"))
        object.__setattr__(self, "drop_classes", _parse_classes(self.drop_classes, "drop_classes"))
        if self.classes is not None and not set(self.classes) - set(self.drop_classes):
            raise ConfigError("classes: none is left; name at least one class that drop_classes does not name")
        class_rules = ("classes", "drop_classes", "min_cells_per_class", "max_cells_per_class")
        used = [name for name in class_rules if getattr(self, name) not in (None, (), 0)]
        if self.label_scope == "unlabelled" and used:
            raise ConfigError(f"{', '.join(used)}: label scope unlabelled knows no classes; leave the flag out")

    @property
    def active_rules(self) -> tuple[QualityRule, ...]:
        """The quality rules that are on, in the order they are tried."""
        values = ((rule, getattr(self, rule.field)) for rule in QUALITY_RULES)
        # Not `in (None, False)`: 0 is a threshold, and equal to False.
        return tuple(rule for rule, value in values if value is not None and value is not False)

    @property
    def class_scope(self) -> tuple[int, ...]:
        """The classes that may stay, ascending."""
        named = range(labels.NUM_LABELS) if self.classes is None else self.classes
        return tuple(label for label in named if label not in self.drop_classes)

    def _check_numbers(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            # Not `value < 0`: NaN must fail too.
            if isinstance(value, int | float) and not 0 <= value < math.inf:
                raise ConfigError(f"{field.name} is {value}: give a number of at least 0")
        for name in ("cells_per_shard", "max_cells_per_class", "max_nuclei"):
            if getattr(self, name) == 0:
                raise ConfigError(f"{name} is 0, which keeps nothing: give at least 1")
        for low, high in (("min_green_png_bytes", "max_green_png_bytes"), ("min_area_um2", "max_area_um2")):
            if None not in (getattr(self, low), getattr(self, high)) and getattr(self, low) > getattr(self, high):
                raise ConfigError(
                    f"{low} is over {high}, which keeps nothing: {getattr(self, low)} > {getattr(self, high)}"
                )
        near_duplicates.check_max_bits(self.duplicate_bits)
        if self.drop_duplicate_fovs and not self.duplicate_bits:
            raise ConfigError("drop_duplicate_fovs: with duplicate_bits=0 no near-identical FOVs are looked for")
        if self.max_saturated_fraction is not None and self.max_saturated_fraction > 1:
            raise ConfigError(f"max_saturated_fraction is {self.max_saturated_fraction}: give a share from 0 to 1")

    def _check_splits(self) -> None:
        names = [name for name, _ in self.splits]
        if not names:
            raise ConfigError("splits: give at least one, as in train=12,validation=3,test=1")
        for name, weight in self.splits:
            if not _SPLIT_NAME.fullmatch(name):
                raise ConfigError(f"split name {name!r}: use letters, digits and _; it becomes part of file names")
            if not 0 < weight < math.inf:
                raise ConfigError(f"split {name} has weight {weight}: give a number over 0")
        if len(set(names)) != len(names):
            raise ConfigError(f"splits {', '.join(names)}: a name stands twice")
        for name, num_shards in self.shards:
            if name not in names:
                raise ConfigError(f"shards: there is no split {name!r}; there is {', '.join(names)}")
            if num_shards < 1:
                raise ConfigError(f"shards: split {name} asks for {num_shards}: give at least 1")
        if len(dict(self.shards)) != len(self.shards):
            raise ConfigError("shards: a split stands twice")


def _parse_classes(classes: Iterable[int | str], field: str) -> tuple[int, ...]:
    try:
        return tuple(sorted({labels.parse_label(str(name)) for name in classes}))
    except ValueError as error:
        raise ConfigError(f"{field}: {error}") from error

"""Explores a label file: how often each class comes, which come together, which follow from others. Needs no image.

    python -m beam_jobs.explore --labels=train.csv --out_dir=labels

Writes labels.csv (a column per label of a FOV), class_counts.csv, num_labels.csv, cooccurrence.csv and rules.csv, the
pictures classes.png, cooccurrence.png and rules.png, and all of it in one page, report.html. Association rules need
mlxtend: pip install 'hpa-single-cell[explore]'.
"""

from __future__ import annotations

import dataclasses
import os

import pandas as pd
from absl import flags

from beam_jobs import association_rules, command, fov_source, label_charts, label_report, label_table
from beam_jobs.association_rules import RuleConfig
from beam_jobs.label_table import LabelStatistics
from hpa_proto import labels as hpa_labels
from hpa_proto import storage
from hpa_proto.errors import ConfigError

LABELS_NAME = "labels.csv"
CLASSES_NAME = "class_counts.csv"
NUM_LABELS_NAME = "num_labels.csv"
COOCCURRENCE_NAME = "cooccurrence.csv"
RULES_NAME = "rules.csv"
REPORT_NAME = "report.html"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExploreConfig:
    """What is explored.

    Attributes:
      labels: CSV with the columns ID and Label.
      out_dir: where tables, pictures and page go.
      rules: which association rules count.
    """

    labels: str
    out_dir: str
    rules: RuleConfig = dataclasses.field(default_factory=RuleConfig)

    def __post_init__(self) -> None:
        if os.path.abspath(self.labels) == os.path.abspath(storage.join(self.out_dir, LABELS_NAME)):
            raise ConfigError(
                f"--out_dir={self.out_dir}: {LABELS_NAME} there would replace the label file; give another"
            )


@dataclasses.dataclass(frozen=True)
class ExploreResult:
    """What was found.

    Attributes:
      statistics: counts of the label file.
      rules: of `association_rules.find_rules`.
    """

    statistics: LabelStatistics
    rules: pd.DataFrame


def run(config: ExploreConfig) -> ExploreResult:
    """Explores a label file and writes tables, pictures and page.

    Raises:
      ConfigError: a fault of the label file (the text names file, line and value), or mlxtend is not installed.
    """
    written = fov_source.read_written_labels(config.labels)
    if not written:
        raise ConfigError(f"{config.labels}: no FOV in it, only a header")
    statistics = label_table.count_labels(written)
    rules = association_rules.find_rules(label_table.find_membership(written), config.rules)
    charts = {
        "classes": label_charts.draw_classes(statistics.per_class),
        "cooccurrence": label_charts.draw_cooccurrence(statistics.cooccurrence),
    }
    if len(rules):
        charts["rules"] = label_charts.draw_rules(rules)
    else:
        # The picture of an earlier run would tell of rules that are none.
        storage.remove(storage.join(config.out_dir, "rules.png"))
    for name, table in _tables(written, statistics, rules).items():
        storage.write_text(storage.join(config.out_dir, name), table.to_csv(index=False))
    for name, chart in charts.items():
        storage.write_bytes(storage.join(config.out_dir, f"{name}.png"), chart.png)
    page = label_report.render_report(
        statistics, rules, rule_config=config.rules, charts=charts, source=os.path.basename(config.labels)
    )
    storage.write_text(storage.join(config.out_dir, REPORT_NAME), page)
    return ExploreResult(statistics, rules)


def describe(result: ExploreResult, config: ExploreConfig) -> str:
    """Writes the counts and the rules for a terminal."""
    statistics = result.statistics
    per_class = statistics.per_class.drop(columns="share").rename(
        columns={"name": "class", "num_fovs": "FOVs", "num_single_label": "no other label"}
    )
    per_number = statistics.per_num_labels.reset_index().rename(
        columns={"num_labels": "labels", "num_written": "FOVs as written", "num_distinct": "repeats once"}
    )
    rules = association_rules.name_labels(result.rules, joined_by="|")
    lines = [
        f"FOVs      {statistics.num_fovs:,} in {config.labels}",
        *("", per_class.to_string(index_names=False), "", per_number.to_string(index=False), ""),
        f"rules     {len(rules):,} with support of at least {config.rules.min_support}, confidence of at least "
        f"{config.rules.min_confidence}, lift of at least {config.rules.min_lift}",
    ]
    lines += [
        f"          {row.antecedent} -> {row.consequent} ({row.support:.6f}, {row.confidence:.6f}, {row.lift:.6f})"
        for row in rules.head(label_charts.MAX_RULES).itertuples()
    ]
    if (num_more := len(rules) - label_charts.MAX_RULES) > 0:
        lines.append(f"          and {num_more:,} more: see {RULES_NAME}")
    lines += [f"note      {note}" for note in label_table.write_notes(statistics)]
    lines.append(f"report    {storage.join(config.out_dir, REPORT_NAME)}")
    return "\n".join(lines)


def _tables(
    written: dict[str, tuple[int, ...]], statistics: LabelStatistics, rules: pd.DataFrame
) -> dict[str, pd.DataFrame]:
    cooccurrence = pd.DataFrame(statistics.cooccurrence, columns=list(hpa_labels.LABEL_NAMES))
    cooccurrence.insert(0, "class", hpa_labels.LABEL_NAMES)
    return {
        LABELS_NAME: label_table.make_table(written),
        CLASSES_NAME: statistics.per_class.reset_index(),
        NUM_LABELS_NAME: statistics.per_num_labels.reset_index(),
        COOCCURRENCE_NAME: cooccurrence,
        RULES_NAME: association_rules.name_labels(rules, joined_by="|"),
    }


def define_flags() -> None:
    """Defines the flags; their values go into one ExploreConfig."""
    flags.DEFINE_string("labels", None, "CSV with the columns ID and Label; labels are numbers or names, joined by |.")
    flags.DEFINE_string("out_dir", None, "Folder for tables, pictures and page.")
    flags.DEFINE_float("min_support", RuleConfig.min_support, "Rules: least share of FOVs with all labels of a rule.")
    flags.DEFINE_float(
        "min_confidence",
        RuleConfig.min_confidence,
        "Rules: least share of FOVs with the first labels that have the other one too, 0 to 1.",
    )
    flags.DEFINE_float(
        "min_lift",
        RuleConfig.min_lift,
        "Rules: least factor by which that share is above the other label's share of all FOVs.",
    )


def main(unknown_flags: list[str]) -> None:
    """Explores the label file that the flags name.

    Raises:
      ConfigError: as `run`, or an unknown flag.
    """
    if unknown_flags:
        raise ConfigError(f"unknown flag {unknown_flags[0]}; see --help")
    values = flags.FLAGS
    config = ExploreConfig(
        labels=command.required("labels", values.labels),
        out_dir=command.required("out_dir", values.out_dir),
        rules=RuleConfig(
            min_support=values.min_support, min_confidence=values.min_confidence, min_lift=values.min_lift
        ),
    )
    print(describe(run(config), config))


if __name__ == "__main__":
    define_flags()
    command.run_main(main)

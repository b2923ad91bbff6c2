"""The page about a label file: one HTML file that holds everything in itself."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from beam_jobs import association_rules, label_table
from beam_jobs.association_rules import RuleConfig
from beam_jobs.label_charts import MAX_RULES, Chart
from beam_jobs.label_table import LabelStatistics
from hpa_proto import report_page

_TEMPLATE = Path(__file__).parent / "templates" / "labels.html.j2"


def render_report(
    statistics: LabelStatistics, rules: pd.DataFrame, *, rule_config: RuleConfig, charts: dict[str, Chart], source: str
) -> str:
    """Makes the text of report.html.

    Args:
      statistics: of `label_table.count_labels`.
      rules: of `association_rules.find_rules`.
      rule_config: what they were found with.
      charts: "classes", "cooccurrence" and, where there is a rule, "rules".
      source: name of the label file.
    """
    counts, distinct = statistics.per_class["num_fovs"], statistics.per_num_labels["num_distinct"]
    return report_page.render_page(
        _TEMPLATE,
        source=source,
        headline=[
            (f"{statistics.num_fovs:,}", "FOVs"),
            (f"{int((counts > 0).sum())}", f"of {len(counts)} classes"),
            (f"{distinct.iloc[0]:,}", "FOVs with a single label"),
            (f"{statistics.num_fovs - distinct.iloc[0]:,}", "FOVs with several"),
            (f"{counts.sum() / statistics.num_fovs:.2f}", "labels a FOV"),
            (f"{len(rules):,}", "rules"),
        ],
        notes=label_table.write_notes(statistics),
        num_labels=list(statistics.per_num_labels.itertuples()),
        classes=list(statistics.per_class.itertuples()),
        rules=list(association_rules.name_labels(rules, joined_by=", ").itertuples()),
        max_rules=MAX_RULES,
        rule_config=rule_config,
        charts={name: report_page.data_uri(chart.svg, "svg+xml") for name, chart in charts.items()},
    )

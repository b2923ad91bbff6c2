"""Association rules between classes: FOVs with these labels often have those too.

Agrawal, Imielinski and Swami, "Mining association rules between sets of items in large databases" (1993), as mlxtend has it:
support = share of FOVs with antecedent and consequent, confidence = support / share of FOVs with the antecedent, lift =
confidence / share of FOVs with the consequent.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd

from hpa_proto import labels as hpa_labels
from hpa_proto.errors import ConfigError

RULE_COLUMNS = ("antecedent", "consequent", "num_fovs", "support", "confidence", "lift")


@dataclasses.dataclass(frozen=True, kw_only=True)
class RuleConfig:
    """Which rules count.

    Attributes:
      min_support: least share of FOVs, over 0 to 1.
      min_confidence: 0 to 1.
      min_lift: at least 0; 1 means that antecedent and consequent have nothing to do with each other.

    Raises:
      ConfigError: a value out of its range.
    """

    min_support: float = 0.00045
    min_confidence: float = 0.2
    min_lift: float = 2.0

    def __post_init__(self) -> None:
        if not 0 < self.min_support <= 1:
            raise ConfigError(f"--min_support={self.min_support}: give a share of the FOVs over 0 and up to 1")
        if not 0 <= self.min_confidence <= 1:
            raise ConfigError(f"--min_confidence={self.min_confidence}: give a share from 0 to 1")
        if not 0 <= self.min_lift < np.inf:
            raise ConfigError(f"--min_lift={self.min_lift}: give a number of at least 0")


def find_rules(has_label: np.ndarray, config: RuleConfig) -> pd.DataFrame:
    """Finds the association rules between classes.

    Args:
      has_label: bool[number of FOVs, NUM_LABELS].
      config: which rules count.

    Returns:
      A row per rule, by falling lift, then support: `antecedent` and `consequent` (ascending tuples of labels), `num_fovs`
      with both, `support`, `confidence`, `lift`.
    """
    # Late: it brings scikit-learn, and a wrong flag should not cost seconds of imports.
    from mlxtend import frequent_patterns

    frequent = frequent_patterns.apriori(pd.DataFrame(has_label), min_support=config.min_support)
    if not (frequent["itemsets"].map(len) > 1).any():
        return pd.DataFrame(columns=list(RULE_COLUMNS))
    found = frequent_patterns.association_rules(frequent, metric="confidence", min_threshold=config.min_confidence)
    found = found[found["lift"] >= config.min_lift]
    rules = pd.DataFrame(
        {
            "antecedent": [tuple(sorted(labels)) for labels in found["antecedents"]],
            "consequent": [tuple(sorted(labels)) for labels in found["consequents"]],
            "num_fovs": (found["support"] * len(has_label)).round().astype(np.int64).to_numpy(),
            **{name: found[name].to_numpy(dtype=float) for name in ("support", "confidence", "lift")},
        }
    )
    return rules.sort_values(
        ["lift", "support", "antecedent", "consequent"], ascending=[False, False, True, True], ignore_index=True
    )


def name_labels(rules: pd.DataFrame, *, joined_by: str) -> pd.DataFrame:
    """Returns the rules with names of classes, joined, in place of numbers."""
    named = rules.copy()
    for column in ("antecedent", "consequent"):
        named[column] = [joined_by.join(hpa_labels.LABEL_NAMES[label] for label in labels) for labels in rules[column]]
    return named

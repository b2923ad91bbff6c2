"""Promises of beam_jobs.association_rules: all rules that reach the values, with the figures of their definition."""

import itertools

import numpy as np
import pytest

from beam_jobs.association_rules import RuleConfig, find_rules, name_labels
from hpa_proto import labels
from hpa_proto.errors import ConfigError


def make_membership(*label_sets):
    has_label = np.zeros((len(label_sets), labels.NUM_LABELS), dtype=bool)
    for row, own in enumerate(label_sets):
        has_label[row, list(own)] = True
    return has_label


def brute_force(has_label, config):
    """Tries every pair of disjoint label sets of up to three labels in all."""
    rules = {}
    share = lambda own: has_label[:, list(own)].all(axis=1).mean()  # noqa: E731
    for size in (2, 3):
        for own in itertools.combinations(range(labels.NUM_LABELS), size):
            if share(own) < config.min_support:
                continue
            for num in range(1, size):
                for antecedent in itertools.combinations(own, num):
                    consequent = tuple(label for label in own if label not in antecedent)
                    confidence = share(own) / share(antecedent)
                    lift = confidence / share(consequent)
                    if confidence >= config.min_confidence and lift >= config.min_lift:
                        rules[antecedent, consequent] = (share(own), confidence, lift)
    return rules


def test_rules_are_those_of_the_definition():
    rng = np.random.default_rng(3)
    has_label = make_membership(*[rng.choice(6, size=rng.integers(1, 4), replace=False) for _ in range(200)])
    # No value sits upon a bound, where two ways to compute it may differ.
    config = RuleConfig(min_support=0.0171, min_confidence=0.2011, min_lift=0.9011)
    wanted = brute_force(has_label, config)
    rules = find_rules(has_label, config)
    assert len(rules) == len(wanted) > 5
    for row in rules.itertuples():
        assert (row.support, row.confidence, row.lift) == pytest.approx(wanted[row.antecedent, row.consequent])
        assert row.num_fovs == has_label[:, list(row.antecedent + row.consequent)].all(axis=1).sum()
    assert rules["lift"].is_monotonic_decreasing


@pytest.mark.parametrize("label_sets", [[(0,), (5,)], [(0, 5), (0,), (5,), (7,)]])
def test_no_rule_is_an_empty_table(label_sets):
    rules = find_rules(make_membership(*label_sets), RuleConfig(min_support=0.1, min_lift=100))
    assert len(rules) == 0
    assert list(name_labels(rules, joined_by="|")) == list(rules)


@pytest.mark.parametrize(
    "options",
    [{"min_support": 0}, {"min_support": 1.1}, {"min_confidence": -0.1}, {"min_lift": -1}, {"min_lift": float("nan")}],
)
def test_value_out_of_range_is_an_error(options):
    with pytest.raises(ConfigError, match=f"--{next(iter(options))}="):
        RuleConfig(**options)

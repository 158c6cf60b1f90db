"""Whether variance adaptation helps: the effective smoothness ratio ρ of update rules at one state of one model (SPEC S7)."""

from deva_theory.smoothness.ratios.comparison import compare_rules
from deva_theory.smoothness.ratios.comparison_result import GammaStatistics, RuleComparison, RuleRow
from deva_theory.smoothness.ratios.directions import default_rules, gradients_of
from deva_theory.smoothness.ratios.ratio import RealisedStep, WorstCaseRatio, adapted_smoothness, realised_ratio, worst_case_ratio

__all__ = [
    "GammaStatistics",
    "RealisedStep",
    "RuleComparison",
    "RuleRow",
    "WorstCaseRatio",
    "adapted_smoothness",
    "compare_rules",
    "default_rules",
    "gradients_of",
    "realised_ratio",
    "worst_case_ratio",
]

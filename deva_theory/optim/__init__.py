"""Optimizers for training: :class:`DeVA`, and :class:`RuleOptimizer` for any other rule."""

from deva_theory.optim.deva import GEOMETRIES, DeVA
from deva_theory.optim.shell import RuleOptimizer

__all__ = ["GEOMETRIES", "DeVA", "RuleOptimizer"]

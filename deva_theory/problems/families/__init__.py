"""Problem families with known constants, and stochastic gradients of known variance: what a convergence bound needs (SPEC R1-R6).

Points have the shape ``(*samples, *batch, *event)``: seeds and step sizes in front of the instances, all in one tensor
program.  An assumption that fails is an :class:`AssumptionError` that names it.
"""

from deva_theory.problems.families.base import AssumptionError, Constants, FiniteSum, Problem
from deva_theory.problems.families.factorisation import MatrixFactorisation
from deva_theory.problems.families.logistic import LogisticRegression
from deva_theory.problems.families.majorants import box_smoothness, coordinate_majorant
from deva_theory.problems.families.oracles import Gaussian, Oracle, RowSampling, SparseSpikes, StudentT
from deva_theory.problems.families.quadratics import DiagonalQuadratic, RotatedQuadratic, random_orthogonal
from deva_theory.problems.families.separable import WELLS, NonConvexWells
from deva_theory.problems.families.trace import TraceProblem

__all__ = [
    "WELLS", "AssumptionError", "Constants", "DiagonalQuadratic", "FiniteSum", "Gaussian", "LogisticRegression", "MatrixFactorisation",
    "NonConvexWells", "Oracle", "Problem", "RotatedQuadratic", "RowSampling", "SparseSpikes", "StudentT", "TraceProblem", "box_smoothness",
    "coordinate_majorant", "random_orthogonal",
]  # fmt: skip

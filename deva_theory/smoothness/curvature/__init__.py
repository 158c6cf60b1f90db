"""Products of a model's Hessian with vectors: the objective, its blocks, the operator and the checks of it."""

from deva_theory.smoothness.curvature.blocks import Block, Piece, make_blocks
from deva_theory.smoothness.curvature.checks import Checks, check_operator
from deva_theory.smoothness.curvature.objective import Objective, ProbeError
from deva_theory.smoothness.curvature.products import CurvatureOperator

__all__ = ["Block", "Checks", "CurvatureOperator", "Objective", "Piece", "ProbeError", "check_operator", "make_blocks"]

"""Objective families with known constants, batched over instances."""

from deva_theory.problems.quadratic import SPECTRA, TraceQuadratic, block_hessian

__all__ = ["SPECTRA", "TraceQuadratic", "block_hessian"]

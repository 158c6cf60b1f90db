"""Norms, their duals and their steepest directions, on vectors, matrices and products of blocks, batched."""

from deva_theory.geometry.corners import largest_at_corners, sign_vectors
from deva_theory.geometry.norms import L1, L2, Geometry, LInf, Schatten, Spectral
from deva_theory.geometry.products import OUTER_NORMS, Product

__all__ = ["L1", "L2", "OUTER_NORMS", "Geometry", "LInf", "Product", "Schatten", "Spectral", "largest_at_corners", "sign_vectors"]

"""Polar factors ``msign(G) = U Vᵀ`` by SVD, Newton-Schulz and Polar Express, batched.

The SVD is the reference of every identity; the odd-polynomial iterations need matrix
products only and are what training uses.  All of them work on a scaled copy, so the result
does not depend on the scale of `G`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from deva_theory.linalg.coefficients import (
    POLAR_EXPRESS_CUSHION,
    REFERENCE_QUINTIC,
    polar_express_coefficients,
)
from deva_theory.linalg.floating import unit_scale, working_dtype

POLAR_METHODS = ("svd", "newton_schulz", "polar_express")


def polar_factor(
    G: Tensor,
    *,
    method: str = "svd",
    rtol: float | None = None,
    steps: int | None = None,
    coefficients: Sequence[Sequence[float]] | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    r"""Return the polar factor of each matrix of a batch.

    ``msign(G) = U Vᵀ`` for the thin SVD ``G = U Σ Vᵀ`` restricted to σ > 0, so the zero matrix
    has polar factor zero.

    Parameters
    ----------
    G : Tensor, shape ``(..., m, n)``
        Real floating-point matrices.
    method : {"svd", "newton_schulz", "polar_express"}
        ``svd`` is exact to rounding.  ``newton_schulz`` iterates one odd polynomial,
        by default the reference's quintic (it does not converge: singular values end in an
        interval around 1, SPEC M12).  ``polar_express`` composes minimax-optimal quintics
        (Amsel et al. 2025), near exact after 8 steps at condition number 1e2.
    rtol : float, optional
        SVD only: singular values up to ``rtol·σ_max`` count as zero.
        Default ``eps·max(m, n)``.
    steps : int, optional
        Iterations: 5 for ``newton_schulz``, 8 for ``polar_express``.
    coefficients : sequence of sequences, optional
        Odd-polynomial coefficients ``(a₁, a₃, a₅, …)`` of each step, meaning
        ``a₁X + a₃(XXᵀ)X + a₅(XXᵀ)²X + …``; the last set is repeated when `steps` exceeds their number.
    dtype : torch.dtype, optional
        Arithmetic of the iterations (bfloat16 or float32 on GPUs); the result returns to the dtype of `G`.

    Returns
    -------
    Tensor, shape ``(..., m, n)``, in the dtype of `G`.

    Raises
    ------
    ValueError
        For fewer than two dimensions, an unknown method, or options of another method.
    TypeError
        For integer or complex input.

    Notes
    -----
    SPEC M1, M12, A6; the reference contract of SPEC section 3, point 2: `newton_schulz` scales to Frobenius
    norm 1 and re-normalises the first step by ``‖Y⁴‖_F^{1/4}``, ``Y⁴ = (YYᵀ)²``, an upper bound of ``σ_max(Y)``.
    """
    if G.ndim < 2:
        raise ValueError(f"polar_factor: G has shape {tuple(G.shape)}; it needs at least two dimensions (m, n)")
    if not G.dtype.is_floating_point:
        raise TypeError(f"polar_factor: G has dtype {G.dtype}; convert it to a real floating-point dtype")
    if method not in POLAR_METHODS:
        raise ValueError(f"polar_factor: unknown method {method!r}; use one of {', '.join(POLAR_METHODS)}")
    if method == "svd":
        if steps is not None or coefficients is not None or dtype is not None:
            raise ValueError("polar_factor: steps, coefficients and dtype belong to the iterative methods, not to 'svd'")
        return _polar_svd(G, rtol)
    if rtol is not None:
        raise ValueError(f"polar_factor: rtol belongs to method 'svd', not to {method!r}")
    if steps is not None and (isinstance(steps, bool) or not isinstance(steps, int) or steps < 1):
        raise ValueError(f"polar_factor: steps is {steps!r}; use an integer >= 1")
    if coefficients is not None and not all(isinstance(s, Sequence) for s in coefficients):
        raise ValueError(f"polar_factor: coefficients is {coefficients!r}; give one sequence (a1, a3, ...) per step, as in [(1.5, -0.5)]")
    if method == "newton_schulz":
        sets = [REFERENCE_QUINTIC] if coefficients is None else list(coefficients)
        count = 5 if steps is None and coefficients is None else steps or len(sets)
        return _iterate(G, _repeat(sets, count), schatten8=True, cushion=1.0, dtype=dtype)
    sets = list(polar_express_coefficients(steps or 8)) if coefficients is None else list(coefficients)
    sets = _repeat(sets, steps or len(sets))
    # Every polynomial but the last sees σ/1.01, so that rounding cannot carry σ beyond the interval
    # on which the next one is bounded (in bfloat16 the iteration otherwise diverges).
    c = POLAR_EXPRESS_CUSHION
    safe = [[a / c ** (2 * k + 1) for k, a in enumerate(s)] for s in sets[:-1]] + [sets[-1]]
    return _iterate(G, safe, schatten8=False, cushion=c, dtype=dtype)


def gram_powers(X: Tensor, count: int) -> list[Tensor]:
    """Return ``(XXᵀ)^k`` for k = 1 … count."""
    powers = [X @ X.mT] if count else []
    for _ in range(count - 1):
        powers.append(powers[-1] @ powers[0])
    return powers


def matrix_polynomial(X: Tensor, coefficients: Sequence[float], powers: Sequence[Tensor] | None = None) -> Tensor:
    """Return ``a₁X + a₃(XXᵀ)X + a₅(XXᵀ)²X + …``: the odd polynomial on the singular values of X.

    Parameters
    ----------
    X : Tensor, shape ``(..., m, n)``
    coefficients : sequence of float
        (a₁, a₃, a₅, …).
    powers : sequence of Tensor, optional
        :func:`gram_powers` of X, when they are at hand.
    """
    if powers is None:
        powers = gram_powers(X, len(coefficients) - 1)
    if len(coefficients) == 1:
        return X * coefficients[0]
    mixed = powers[0] * coefficients[1]
    for p, coefficient in zip(powers[1:], coefficients[2:], strict=True):
        mixed = mixed + p * coefficient
    return X * coefficients[0] + mixed @ X


def _repeat(sets: list, count: int) -> list:
    if not sets or any(len(s) == 0 for s in sets):
        raise ValueError("polar_factor: coefficients is empty; give at least one set (a1, a3, ...)")
    return [sets[min(i, len(sets) - 1)] for i in range(count)]


def _polar_svd(G: Tensor, rtol: float | None) -> Tensor:
    if G.numel() == 0:
        return torch.zeros_like(G)
    X, _ = unit_scale(G.to(working_dtype(G.dtype)), 2)
    try:
        U, S, Vh = torch.linalg.svd(X, full_matrices=False)
    except torch.linalg.LinAlgError as error:
        raise ValueError("polar_factor: the SVD failed; G probably has NaN or infinite entries") from error
    if rtol is None:
        rtol = torch.finfo(X.dtype).eps * max(G.shape[-2:])
    kept = (S > rtol * S[..., :1]).to(X.dtype)
    return ((U * kept.unsqueeze(-2)) @ Vh).to(G.dtype)


def _iterate(G: Tensor, sets: list, *, schatten8: bool, cushion: float, dtype: torch.dtype | None) -> Tensor:
    if G.numel() == 0:
        return torch.zeros_like(G)
    X, _ = unit_scale(G.to(working_dtype(G.dtype)), 2)
    norm = torch.linalg.vector_norm(X, dim=(-2, -1), keepdim=True) * cushion
    X = (X / torch.where(norm > 0, norm, 1.0)).to(dtype or X.dtype)
    tall = X.shape[-2] > X.shape[-1]
    if tall:  # iterate on the smaller Gram matrix
        X = X.mT
    for index, polynomial in enumerate(sets):
        powers = gram_powers(X, len(polynomial) - 1)
        if schatten8 and index == 0:
            # ‖(XXᵀ)²‖_F^{1/4} is the Schatten-8 norm: at least σ_max, far tighter than Frobenius.
            square = powers[1] if len(powers) > 1 else gram_powers(X, 2)[1]
            bound = torch.linalg.vector_norm(square, dim=(-2, -1), keepdim=True).pow(0.25)
            bound = torch.where(bound > 0, bound, 1.0)
            X = X / bound
            powers = [p / bound ** (2 * (k + 1)) for k, p in enumerate(powers)]
        X = matrix_polynomial(X, polynomial, powers)
    if tall:
        X = X.mT
    return X.to(G.dtype)

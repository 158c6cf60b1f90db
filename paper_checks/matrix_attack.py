"""Searches against what `matrix` and `matrix_basis` prove: `deva-theory falsify M2`, M3-brackets-shampoo, M6."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from deva_theory.certify import SearchProblem
from deva_theory.decomposition import decompose
from deva_theory.linalg import gram_power
from paper_checks.arrays import tensor
from paper_checks.matrix_search import Rows, plain_means


def _domination(G: Tensor) -> Tensor:
    """Return minus the least eigenvalue of ``r P - vec G vec Gᵀ`` over ``‖G‖_F²``."""
    s = torch.linalg.svdvals(G)
    rank = (s > 1e-9 * s[..., :1]).sum(-1)
    P = torch.stack([torch.kron(gram_power(X.mT, 0.5), gram_power(X, 0.5)) for X in G])
    g = G.mT.flatten(1)
    size = g.square().sum(1)
    gap = rank[:, None, None] * P - g.unsqueeze(-1) * g.unsqueeze(-2)
    return -torch.linalg.eigvalsh(gap)[:, 0] / torch.where(size > 0, size, 1.0)


def domination_violation(*, x: Rows) -> float:
    """Return the violation of M2 at one matrix."""
    return float(_domination(tensor(x).unsqueeze(0)))


def domination_attack() -> SearchProblem:
    """Return the search against M2 on 2×3 matrices."""
    return SearchProblem(
        (2, 3), _domination, differentiable=False, replay="paper_checks.matrix_attack:domination_violation", name="M2-attack",
        statement="vec G vec Gᵀ ≼ r P", margin=1e-6,
    )


def _shampoo_brackets(x: Tensor) -> Tensor:
    left, right = decompose(x.movedim(1, 0), kind="shampoo").variance_adaptation
    return torch.maximum(torch.linalg.matrix_norm(left, 2), torch.linalg.matrix_norm(right, 2)).amax(0) - 1.0


def bracket_violation(*, x: Sequence[Rows]) -> float:
    """Return by how much the largest Shampoo bracket of a history exceeds 1."""
    return float(_shampoo_brackets(tensor(x).unsqueeze(0)))


def bracket_attack() -> SearchProblem:
    """Return the search against M3 on histories of three 2×3 gradients."""
    return SearchProblem(
        (3, 2, 3), _shampoo_brackets, differentiable=False, replay="paper_checks.matrix_attack:bracket_violation", name="M3-attack",
        statement="every Shampoo bracket has 2-norm at most 1", margin=1e-4, variable_length=True,
    )


def marginals_violation(*, x: Rows) -> float:
    """Return by how much Γ_12 from root-mean-square marginals exceeds that from the covariance."""
    return float(plain_means(tensor(x).unsqueeze(0).abs(), "root_mean_square"))


def marginals_attack() -> SearchProblem:
    """Return the search against M6 on histories of four pairs."""
    return SearchProblem(
        (4, 2), lambda x: plain_means(x.abs(), "root_mean_square"), differentiable=False, variable_length=True, margin=1e-6,
        replay="paper_checks.matrix_attack:marginals_violation", name="M6-attack",
        statement="Γ from root-mean-square marginals is never the larger",
    )

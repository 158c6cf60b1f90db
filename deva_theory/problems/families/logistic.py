"""ℓ2-regularised logistic regression on real data: constants in closed form, the minimum with a certificate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import mpmath
import numpy as np
import torch
from scipy.special import expit
from torch import Tensor

from deva_theory.problems.families.base import AssumptionError, Constants, FiniteSum, keep_copies, standard_normal
from deva_theory.problems.families.exact import integers
from deva_theory.problems.families.majorants import box_smoothness, coordinate_majorant

_DIGITS = 40


@dataclass(frozen=True, eq=False)
class LogisticRegression(FiniteSum):
    r"""``f(x) = (1/n) Σ_i log(1 + exp(-b_i <a_i, x>)) + ½ μ ‖x‖²``, ``b_i = ±1``; component i has the whole regulariser.

    Attributes
    ----------
    features : Tensor, shape ``(n, d)``
        a_i, shared by all instances.
    labels : Tensor, shape ``(n,)``
        ±1.
    regularisation : Tensor, shape ``(*batch)``
        μ > 0, one for each instance.

    Raises
    ------
    AssumptionError
        "strong convexity": μ ≤ 0, where f* need not be attained (separable data) and nothing certifies it. "smoothness": features or
        μ not finite.
    ValueError
        Shapes that do not fit, or labels other than ±1.

    Notes
    -----
    With ``p_i`` the logistic function of the margin, ``∇²f(x) = AᵀDA/n + μI``, ``D = diag(p_i(1-p_i)) ≼ ¼I``, with equality at x = 0.
    So ``M = AᵀA/(4n) + μI`` dominates every Hessian and is one of them: ``λ_max(M)`` is exact, a coordinate majorant of M holds
    everywhere and is as small at x = 0 as for M alone, ``L_∞ = L_∞(M)`` (enumerated up to 16 features, else at most π/2 times too large),
    and all Hessians are positive semidefinite, so that ``‖∇²f‖_{∞→1} = L_∞(∇²f) ≤ L_∞(M)``.

    f*: Newton's method gives x̂; by μ-strong convexity ``f* ≥ f(x̂) - ‖∇f(x̂)‖²/(2μ)``, evaluated with 40 digits and rounded down, and
    ``f* ≥ 0``.

    Sampling: ``∂_j f_i = -s_i b_i a_ij + μ x_j`` with ``0 < s_i < 1``.  Its variance is at most the mean of a_ij², and at most a quarter of
    the squared range of ``{0, -b_i a_ij}`` (Popoviciu), at every x: no bounded domain is needed.
    """

    features: Tensor
    labels: Tensor
    regularisation: Tensor

    def __post_init__(self) -> None:
        keep_copies(self, "features", "labels", "regularisation")
        if self.features.ndim != 2 or 0 in self.features.shape or not self.features.dtype.is_floating_point:
            raise ValueError(f"{self.name}: features must be a floating-point matrix, not of shape {tuple(self.features.shape)}")
        if self.labels.shape != self.features.shape[:1] or not bool((self.labels.abs() == 1).all()):
            raise ValueError(f"{self.name}: labels must be +1 or -1, one for each of the {len(self.features)} rows")
        if not bool(self.features.isfinite().all()):
            raise AssumptionError("smoothness", f"{self.name}: features must be finite")
        mu = self.regularisation
        if not isinstance(mu, Tensor) or mu.dtype != self.features.dtype or mu.numel() == 0:
            raise TypeError(f"{self.name}: regularisation must be a tensor of {self.features.dtype}, the dtype of the features")
        if not bool((mu > 0).all()):
            raise AssumptionError("strong convexity", f"{self.name}: regularisation must be > 0")
        if not bool(mu.isfinite().all()):
            raise AssumptionError("smoothness", f"{self.name}: regularisation must be finite")

    @classmethod
    def breast_cancer(cls, regularisation: float | Sequence[float] = 1e-2) -> LogisticRegression:
        """Return the problem on scikit-learn's breast cancer data: 569 rows, 30 standardised features, float64.

        Raises
        ------
        ImportError
            Without scikit-learn, which bundles the data.
        """
        from deva_theory.problems.zoo.data import table

        data = table("breast_cancer")
        return cls(data.inputs, 2.0 * data.targets.to(torch.float64) - 1, torch.tensor(regularisation, dtype=torch.float64, device="cpu"))

    @property
    def name(self) -> str:
        """Return "logistic regression"."""
        return "logistic regression"

    @property
    def batch_shape(self) -> torch.Size:
        """Shape of `regularisation`."""
        return self.regularisation.shape

    @property
    def event_shape(self) -> torch.Size:
        """``(d,)``."""
        return self.features.shape[1:]

    @property
    def like(self) -> Tensor:
        """The features."""
        return self.features

    @cached_property
    def _signed(self) -> Tensor:
        """``-b_i a_i``: the gradient of sample i is ``s_i`` times it."""
        return -self.labels.to(self.features).unsqueeze(-1) * self.features

    def start(self, generator: torch.Generator | int, shape: Sequence[int] = ()) -> Tensor:
        """Return points with independent N(0, 1/d) entries, shape ``(*shape, *batch, d)``: margins of the order of the features."""
        return standard_normal((*shape, *self.batch_shape, *self.event_shape), generator, self.like) / self.event_shape[0] ** 0.5

    def _value(self, x: Tensor) -> Tensor:
        # log(1 + e^t) as logaddexp: softplus switches to a linear branch at t = 20, a relative error of 1e-10.
        t = x @ self._signed.mT
        return torch.logaddexp(t, torch.zeros((), dtype=t.dtype, device=t.device)).mean(-1) + 0.5 * self.regularisation * (x**2).sum(-1)

    def _gradient(self, x: Tensor) -> Tensor:
        return torch.sigmoid(x @ self._signed.mT) @ self._signed / self.components + self.regularisation.unsqueeze(-1) * x

    @cached_property
    def constants(self) -> Constants:
        """The known constants; the first access minimises f for each regularisation."""
        A = self.features.to(torch.float64)
        mu = self.regularisation.to(torch.float64)
        eye = torch.eye(A.shape[1], dtype=A.dtype, device=A.device)
        M = A.mT @ A / (4 * len(A)) + mu[..., None, None] * eye
        coordinate = coordinate_majorant(M)
        box, exact = box_smoothness(M, coordinate)
        distinct, inverse = torch.unique(mu, return_inverse=True)
        C = self._signed.to(torch.float64).cpu().numpy()
        rows, exponent = integers(C)
        certified = [strong_convexity_bound(rows, exponent, value, newton(C, value)) for value in distinct.tolist()]
        optimum = torch.tensor([lower for lower, _ in certified], dtype=torch.float64, device=A.device)[inverse]
        return Constants(
            optimum=optimum, optimum_exact=all(gap <= 1e-14 * lower for lower, gap in certified), coordinate=coordinate, box=box,
            box_exact=exact, euclidean=torch.linalg.eigvalsh(M)[..., -1], gradient_lipschitz_linf=box, convex=True,
        )  # fmt: skip

    @property
    def components(self) -> int:
        """Number n of rows."""
        return len(self.features)

    def weighted_gradient(self, x: Tensor, weights: Tensor) -> Tensor:
        """Return ``-Σ_i w_i s_i b_i a_i + μx``, shape ``(..., d)``."""
        self.check(x)
        return (weights * torch.sigmoid(x @ self._signed.mT)) @ self._signed + self.regularisation.unsqueeze(-1) * x

    def component_variance(self, x: Tensor) -> Tensor:
        """Return ``(1/n) Σ_i s_i² a_ij² - ((1/n) Σ_i s_i b_i a_ij)²``, shape ``(..., d)``."""
        self.check(x)
        s = torch.sigmoid(x @ self._signed.mT)
        mean = s @ self._signed / self.components
        return (s**2 @ self._signed**2 / self.components - mean**2).clamp_min(0)

    def component_deviation(self, radius: float | None) -> Tensor:
        """Return ``min{√((1/n) Σ_i a_ij²), ½ range}``, shape ``(*batch, d)``: valid everywhere, whatever the radius."""
        C = self._signed.to(torch.float64)
        spread = C.amax(dim=0).clamp_min(0) - C.amin(dim=0).clamp_max(0)
        return torch.minimum((C**2).mean(dim=0).sqrt(), spread / 2).expand(*self.batch_shape, -1)


def certified_minimum(C: np.ndarray, mu: float) -> tuple[float, float]:
    r"""Return a lower bound on ``min_x (1/n) Σ_i log(1 + exp<c_i, x>) + ½ μ‖x‖²``, and how far above it a value of the function lies.

    Parameters
    ----------
    C : ndarray, shape ``(n, d)``
    mu : float
        μ > 0.

    Notes
    -----
    Newton's method, then the strong-convexity bound of :class:`LogisticRegression` at the point that it finds.
    """
    return strong_convexity_bound(*integers(C), mu, newton(C, mu))


def newton(C: np.ndarray, mu: float) -> np.ndarray:
    """Return the minimum as float64 finds it, shape ``(d,)``; see :func:`certified_minimum`.

    Steps are halved where f would not fall (it is strictly convex, so they converge from everywhere), until rounding keeps the decrease
    that they predict from falling.
    """
    n, d = C.shape
    x = np.zeros(d)

    def value(x: np.ndarray) -> float:
        return float(np.logaddexp(0, C @ x).mean() + 0.5 * mu * x @ x)

    last, current = np.inf, value(x)
    for _ in range(200):
        s, rest = expit(C @ x), expit(-(C @ x))  # 1 - s has no digits where s is near 1
        gradient = s @ C / n + mu * x
        step = np.linalg.solve((C * (s * rest)[:, None]).T @ C / n + mu * np.eye(d), gradient)
        decrement = float(gradient @ step)
        if not decrement > 0 or (decrement < 1e-12 * current and decrement > 0.25 * last):
            break
        last, size = decrement, 1.0
        # Near the minimum f no longer resolves the decrease, and the full step is right.
        while decrement > 1e-10 * current and value(x - size * step) > current - 0.25 * size * decrement:
            size /= 2
        x = x - size * step
        current = value(x)
    return x


def strong_convexity_bound(rows: np.ndarray, exponent: int, mu: float, x: np.ndarray) -> tuple[float, float]:
    """Return ``max{0, f(x) - ‖∇f(x)‖²/(2μ)}``, rounded down, and ``‖∇f(x)‖²/(2μ)``, with 40 digits.

    Parameters
    ----------
    rows : ndarray of int, shape ``(n, d)``
        C in units of ``2^exponent``.
    exponent : int
    mu : float
    x : ndarray, shape ``(d,)``

    Notes
    -----
    Margins are exact.  The gradient adds up exact products with the logistic weights, rounded to multiples of 2^-bits: that moves it by
    less than 2^-200 times what counts.  ``Σ log(1 + e^t) = log Π(1 + e^t)`` takes one logarithm.
    """
    n = len(rows)
    point, p = integers(x)
    margins = rows @ point
    bits = 200 + max(0, exponent + max(int(a).bit_length() for a in (rows.max(), rows.min()))) + max(0, -math.frexp(mu)[1])
    with mpmath.workdps(_DIGITS):
        product, weights = mpmath.mpf(0), []  # the product less 1: all its digits count where it is small
        for margin in margins.tolist():
            grown = mpmath.exp(mpmath.mpf((margin, exponent + p)))
            product += grown * (1 + product)
            weights.append(int(mpmath.ldexp(grown / (1 + grown), bits)))
        pull = np.array(weights, dtype=object) @ rows
        slope = [
            mpmath.mpf((a, exponent - bits)) / n + mu * mpmath.mpf((b, p)) for a, b in zip(pull.tolist(), point.tolist(), strict=True)
        ]
        gap = mpmath.fdot(slope, slope) / (2 * mu)
        lower = mpmath.log1p(product) / n + mu * mpmath.mpf((int((point**2).sum()), 2 * p)) / 2 - gap
        return max(0.0, float(np.nextafter(float(lower), -np.inf))), float(gap)

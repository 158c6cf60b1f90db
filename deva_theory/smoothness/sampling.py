r"""The error that comes from probing on a sample of the data: an interval of its own.

A certified interval is about the Hessian of the loss *on the data given*.  At a fixed direction the form ``<x, H_b y>``
of each batch b is a draw from the population of batches; their weighted mean has the linearised standard error

    s² = n/(n-1) · Σ_b w_b² (<x, H_b y> - mean)² / (Σ_b w_b)² ,

and the interval is ``mean ± t_{n-1} s``.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from scipy import stats
from torch import Tensor

from deva_theory.smoothness.curvature.blocks import Block
from deva_theory.smoothness.curvature.products import CurvatureOperator
from deva_theory.smoothness.estimators.estimate import Bounds


@dataclass(frozen=True)
class SamplingInterval:
    """Central-limit interval of ``<x, H y>`` over batches at the witness (x, y) of a lower end.

    Attributes
    ----------
    value : float
        Weighted mean over the batches.
    lower, upper : float
        Of the mean over the population that the batches were drawn from.
    confidence : float
    batches : int
        n; the interval needs at least 2 and is crude below about 10.
    held_out : bool
        True: the batches were not the ones on which the witness was found, and `lower` is a (central-limit) lower bound
        of the population's smoothness.  False: they were, which biases `value` upward.
    """

    value: float
    lower: float
    upper: float
    confidence: float
    batches: int
    held_out: bool

    def to_dict(self) -> dict[str, Any]:
        """Return the fields."""
        return asdict(self)


def sampling_intervals(
    operator: CurvatureOperator, block: Block, bounds: dict[str, Bounds], *, held_out: bool, confidence: float = 0.95
) -> dict[str, SamplingInterval]:
    """Return the sampling interval of each lower end, at its stored witness, in one pass over the operator's batches.

    Bounds without a witness are left out, and everything if there are fewer than two batches.
    """
    pairs: dict[str, tuple[Tensor, Tensor]] = {}
    for name, bound in bounds.items():
        if bound.witness is not None:
            pairs[name] = bound.witness if isinstance(bound.witness, tuple) else (bound.witness, bound.witness)
    if not pairs:
        return {}
    X, Y = torch.stack([x for x, _ in pairs.values()]), torch.stack([y for _, y in pairs.values()])
    count, mean, variance = operator.batch_moments(block, X, Y)
    if count < 2:
        return {}
    reach = float(stats.t.ppf(0.5 + confidence / 2, count - 1))
    found = {}
    for name, m, v in zip(pairs, mean.tolist(), variance.tolist(), strict=True):
        half = reach * math.sqrt(max(v, 0.0))
        # A pair is signed by its estimator so that the form is positive; an eigenvector of λ < 0 is not.
        value = abs(m)
        found[name] = SamplingInterval(value, value - half, value + half, confidence, count, held_out)
    return found

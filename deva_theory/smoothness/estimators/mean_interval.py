"""Mean of the draws of the column estimator and its interval; the derivation is at the head of the entrywise module."""

from __future__ import annotations

import math

import torch
from scipy import stats
from torch import Tensor


def mean_weights(count: int) -> Tensor:
    """Return ``w_k ∝ √k``, k = 1, ..., count, of sum 1."""
    w = torch.arange(1, count + 1, dtype=torch.float64, device="cpu").sqrt()
    return w / w.sum()


def weighted_summary(values: Tensor, confidence: float) -> tuple[float, float, tuple[float, float]]:
    """Return the weighted mean of martingale differences about a constant, its standard error, the interval of that constant."""
    w = mean_weights(len(values))
    mean = float((w * values).sum())
    deviations = values - mean
    alpha = w**2 / (1 - 2 * w)
    error = math.sqrt(float((alpha * deviations**2).sum() / (1 + alpha.sum())))
    cube, square = float(((w * deviations) ** 3).sum()), float(((w * deviations) ** 2).sum())
    skewness = cube / square**1.5 if square > 0 else 0.0
    # Satterthwaite's degrees of freedom, E[e⁴] = 3σ⁴: the t_k have different variances, the first batch's the largest.
    shares = alpha * deviations**2
    spread = 3 * float(shares.sum()) ** 2 / float((shares**2).sum()) - 2 if square > 0 else 1.0
    t = float(stats.t.ppf((1 + confidence) / 2, max(1.0, min(spread, 1 / float((w**2).sum()) - 1))))
    # While the forecasts improve the late t_k are close together, and equal weights see the larger, early errors better.
    margin = max(error, float(deviations.std()) / math.sqrt(len(values)))
    edge = (2 * t * t + 1) / 6
    return mean, error, (mean - margin * (t + edge * max(0.0, -skewness)), mean + margin * (t + edge * max(0.0, skewness)))

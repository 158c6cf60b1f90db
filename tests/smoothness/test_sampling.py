"""Sampling intervals against computations by hand: a Hessian of one number per batch."""

import math

import pytest
import torch
from torch import nn

from deva_theory.smoothness.curvature.products import CurvatureOperator
from deva_theory.smoothness.estimators.estimate import Bounds
from deva_theory.smoothness.probing import probe
from deva_theory.smoothness.sampling import sampling_intervals

# Student's t, two-sided 95%, by degrees of freedom: from tables.
QUANTILES = {1: 12.706204736, 2: 4.302652730, 4: 2.776445105}


def line(curvatures, sizes=None):
    """Return the loss ½ c w² in the mean over batches of curvatures c: batch b has H_b = c_b."""
    model = nn.Linear(1, 1, bias=False).double()
    sizes = sizes or [1] * len(curvatures)
    batches = [
        (torch.full((n, 1), math.sqrt(c / 2), dtype=torch.float64), torch.zeros(n, 1, dtype=torch.float64))
        for c, n in zip(curvatures, sizes, strict=True)
    ]
    return model, nn.MSELoss(), batches


def by_hand(curvatures, weights):
    n, total = len(curvatures), sum(weights)
    mean = sum(w * c for w, c in zip(weights, curvatures, strict=True)) / total
    squares = sum(w**2 * (c - mean) ** 2 for w, c in zip(weights, curvatures, strict=True))
    half = QUANTILES[n - 1] * math.sqrt(n / (n - 1) * squares) / total
    return mean, mean - half, mean + half


CASES = {
    "two": ([1.0, 3.0], None),
    "three": ([1.0, 2.0, 6.0], None),
    "five": ([1.0, 2.0, 4.0, 8.0, 16.0], None),
    "sizes": ([1.0, 2.0, 6.0], [4, 1, 2]),
}


@pytest.mark.parametrize(("curvatures", "sizes"), CASES.values(), ids=CASES)
def test_intervals_are_those_by_hand(curvatures, sizes):
    model, loss, batches = line(curvatures, sizes)
    interval = probe(model, loss, batches, sampling=True, check=False)["weight"].sampling["l2"]
    expected = by_hand(curvatures, sizes or [1] * len(curvatures))
    assert (interval.value, interval.lower, interval.upper) == pytest.approx(expected, rel=1e-8)
    assert (interval.batches, interval.held_out, interval.confidence) == (len(curvatures), False, 0.95)


def test_two_equal_batches_spread_nothing():
    """(1, 3): s² = 2/1 · 2/4 = 1, by hand in full."""
    assert by_hand([1.0, 3.0], [1, 1]) == pytest.approx((2.0, 2.0 - QUANTILES[1], 2.0 + QUANTILES[1]))
    interval = probe(*line([5.0, 5.0]), sampling=True, check=False)["weight"].sampling["l2"]
    assert (interval.lower, interval.upper) == pytest.approx((5.0, 5.0), rel=1e-6)


def test_held_out_batches_are_weighted_by_the_function():
    model, loss, own = line([1.0, 1.0])
    _, _, other = line([1.0, 2.0, 6.0], [4, 1, 2])
    seen = []

    def weight(batch):
        seen.append(len(batch[1]))
        return 1.0 / len(batch[1])

    interval = probe(model, loss, own, sampling=other, weights=weight, check=False)["weight"].sampling["l2"]
    assert (interval.value, interval.lower, interval.upper) == pytest.approx(by_hand([1.0, 2.0, 6.0], [0.25, 1.0, 0.5]), rel=1e-8)
    assert {1, 2, 4} <= set(seen)
    assert interval.held_out
    # Numbers belong to the batches of the probe; held-out ones then count by their sizes.
    interval = probe(model, loss, own, sampling=other, weights=[3.0, 1.0], check=False)["weight"].sampling["l2"]
    assert (interval.value, interval.lower, interval.upper) == pytest.approx(by_hand([1.0, 2.0, 6.0], [4, 1, 2]), rel=1e-8)


def test_bounds_without_a_witness_have_no_interval():
    model, loss, batches = line([1.0, 2.0])
    operator = CurvatureOperator(model, loss, batches)
    x = torch.ones(1, dtype=torch.float64)
    witnesses = {"l2": x, "pair": (x, -x), "l11": None}
    bounds = {name: Bounds(0.0, 1.0, "a", "b", witness=witness) for name, witness in witnesses.items()}
    found = sampling_intervals(operator, operator.blocks[0], bounds, held_out=True)
    assert list(found) == ["l2", "pair"]
    # A form of negative sign stands for its modulus.
    assert found["pair"].value == pytest.approx(1.5)
    assert found["pair"].lower == pytest.approx(found["l2"].lower)

"""Entrywise norm by the Cauchy sketch and by adaptive columns: closed forms, brute force, bias, coverage (SPEC S6)."""

import math
from functools import cache

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from deva_theory.smoothness.estimators.entrywise import CauchySketch, cauchy_sketch, entrywise_norm, median_correction, weighted_entrywise
from deva_theory.smoothness.estimators.programs import run

CORRECTIONS = ("median", "geometric", "likelihood")


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def symmetric(d, seed=0):
    A = normal(d, d, seed=seed)
    return A + A.T


def low_rank(d):
    """Parameters of sizes over two decades, as in a network, and a diagonal."""
    U = normal(d, 5) * torch.logspace(0, -2, d, dtype=torch.float64).unsqueeze(1)
    return U @ U.T + torch.diag(0.01 * normal(d, seed=1).abs())


def nearly_diagonal(d, size):
    return torch.diag(normal(d).exp()) + size * symmetric(d, 1) / math.sqrt(d)


def arrow(d):
    H = torch.diag(normal(d))
    H[0] = H[:, 0] = normal(d, seed=1)
    return H


FAMILIES = {
    "dense": symmetric(48),
    "low rank": low_rank(60),
    "nearly diagonal": nearly_diagonal(48, 1e-3),
    "weakly diagonal": nearly_diagonal(48, 0.1),
    "blocks": torch.block_diag(*(symmetric(6, s) for s in range(8))),
    "arrow": arrow(48),
}


def apply(H):
    return lambda V: V @ H


def ours(H, **options):
    return run(entrywise_norm(len(H), **options), apply(H))


COVERED = ("low rank", "weakly diagonal")


@cache
def many(name, vectors=24):
    """The sum and 400 estimates, 1000 where the coverage is asserted."""
    H, seeds = FAMILIES[name], 1000 if name in COVERED else 400
    return float(H.abs().sum()), [ours(H, vectors=vectors, seed=s) for s in range(seeds)]


def sketches(H, correction, vectors, seeds):
    return [run(cauchy_sketch(len(H), vectors=vectors, correction=correction, seed=s), apply(H)) for s in range(seeds)]


def relative(values, truth):
    return math.sqrt(np.mean((np.array(values) / truth - 1) ** 2))


# ---- the sketch --------------------------------------------------------------------------------------------


def test_median_correction_is_the_order_statistic_integral():
    for K in (3, 5, 11, 51):
        m = K // 2
        constant = math.factorial(K) / math.factorial(m) ** 2
        direct = integrate.quad(lambda u, m=m, c=constant: c * math.tan(math.pi * u / 2) * (u * (1 - u)) ** m, 0, 1, epsrel=1e-11)[0]
        assert median_correction(K) == pytest.approx(direct, rel=1e-8)
        assert K < 11 or median_correction(K) == pytest.approx(1 + math.pi**2 / (8 * K), abs=3 / K**2)
    draws = np.abs(np.random.default_rng(0).standard_cauchy((400_000, 7)))
    medians = np.median(draws, axis=1)
    assert abs(medians.mean() - median_correction(7)) < 4 * medians.std() / math.sqrt(len(medians))


@pytest.mark.parametrize("correction", CORRECTIONS)
def test_sketch_is_unbiased_and_its_limit_holds(correction):
    H = FAMILIES["blocks"]
    truth = float(H.abs().sum())
    found = sketches(H, correction, 11, 500)
    values = np.array([s.value for s in found])
    error = values.std() / math.sqrt(len(values))
    # The likelihood estimate keeps a bias of order 1/K².
    assert abs(values.mean() - truth) < 4 * error + (truth / 11**2 if correction == "likelihood" else 0)
    assert np.mean([s.upper < truth for s in found]) <= 0.05
    # A correction that is left out would be seen.
    factor = {"median": median_correction(11), "geometric": math.cos(math.pi / 22) ** -11, "likelihood": 1.1}[correction]
    assert abs(factor * values.mean() - truth) > 4 * error


def test_row_limits_fail_at_the_stated_rate():
    H = torch.ones(1, 1, dtype=torch.float64)
    upper = np.array([s.upper for s in sketches(H, "geometric", 9, 2000)])
    failures = int((upper < 1).sum())
    assert stats.binomtest(failures, 2000, 0.05).pvalue > 1e-3


def test_likelihood_solves_its_equation():
    H = symmetric(5)
    sketch = run(cauchy_sketch(5, vectors=12, correction="likelihood", seed=3), apply(H))
    generator = torch.Generator().manual_seed(3)
    V = torch.cat([torch.tan(math.pi * (torch.rand(k, 5, generator=generator, dtype=torch.float64) - 0.5)) for k in (8, 4)])
    Y, c = V @ H, sketch.rows / (1 - 1 / 12)
    torch.testing.assert_close((c**2 / (Y**2 + c**2)).sum(0), torch.full((5,), 6.0, dtype=torch.float64))


def test_sketch_takes_an_odd_number_for_the_median():
    sketch = run(cauchy_sketch(3, vectors=10, correction="median"), apply(symmetric(3)))
    assert isinstance(sketch, CauchySketch) and sketch.products == 9 and sketch.rows.shape == (3,)


# ---- the column estimator ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FAMILIES)
def test_unbiased(name):
    truth, found = many(name)
    values = np.array([f.value for f in found])
    assert abs(values.mean() - truth) < 4 * values.std() / math.sqrt(len(values)) + 1e-12 * truth


@pytest.mark.parametrize("name", COVERED)
def test_interval_covers(name):
    truth, found = many(name)
    assert np.mean([f.estimate.bilinear.contains(truth) for f in found]) >= 0.93
    # The variance is estimated without bias, so its mean is the variance up to sampling.
    variance = np.array([f.standard_error**2 for f in found])
    values = np.array([f.value for f in found])
    sampling = variance.std() + ((values - truth) ** 2).std()
    assert abs(variance.mean() - np.mean((values - truth) ** 2)) < 4 * sampling / math.sqrt(len(found))


@pytest.mark.parametrize("name", FAMILIES)
def test_bounds_that_are_no_estimates(name):
    truth, found = many(name)
    assert all(f.deterministic_lower <= truth for f in found)
    assert all(f.estimate.bilinear.lower >= f.deterministic_lower for f in found)
    assert np.mean([f.certified_upper < truth * (1 - 1e-12) for f in found]) <= 0.05
    assert {f.estimate.products for f in found} == {24}


@pytest.mark.parametrize(
    ("H", "most"),
    [(symmetric(200), 1 / 3), (low_rank(200), 1 / 3), (nearly_diagonal(200, 1e-3), 1 / 3), (nearly_diagonal(200, 0.1), 1 / 2),
     (arrow(200), 1e-3), (torch.outer(normal(200).exp(), normal(200).exp()), 1 / 10)],
    ids=["dense", "low rank", "nearly diagonal", "weakly diagonal", "arrow", "rank one"],
)
def test_deviation_against_the_sketch_at_equal_products(H, most):
    truth = float(H.abs().sum())
    mine = relative([ours(H, seed=s).value for s in range(30)], truth)
    plain = min(relative([s.value for s in sketches(H, c, 51, 30)], truth) for c in CORRECTIONS)
    assert mine <= most * plain


def test_diagonal_matrix_is_found_to_rounding():
    H = torch.diag(normal(100))
    truth = float(H.abs().sum())
    found = ours(H, vectors=20)
    assert found.value == pytest.approx(truth, rel=1e-10)
    assert found.deterministic_lower == pytest.approx(truth, rel=1e-10)
    assert found.estimate.bilinear.ratio < 1 + 1e-9 and found.estimate.met


@pytest.mark.parametrize("H", [torch.zeros(1, 1), torch.full((1, 1), -3.0), symmetric(7), torch.zeros(9, 9), -torch.eye(50)], ids=str)
def test_all_columns_are_exact(H):
    H = H.double()
    found = ours(H)
    bounds = found.estimate.bilinear
    assert bounds.lower == bounds.upper == found.value == found.certified_upper == found.deterministic_lower
    assert found.value == pytest.approx(float(H.abs().sum()), rel=1e-13)
    assert (bounds.failure, bounds.approximate, found.standard_error, found.estimate.products) == (0.0, False, 0.0, len(H))


def test_zero_rows_cost_nothing():
    H = torch.zeros(500, 500, dtype=torch.float64)
    H[100:120, 100:120] = symmetric(20)
    found = ours(H)
    assert found.value == pytest.approx(float(H.abs().sum()), rel=1e-13)
    assert found.estimate.products == 11 + 20 and not found.estimate.bilinear.approximate
    zero = ours(torch.zeros(100, 100, dtype=torch.float64))
    assert zero.value == 0.0 and zero.estimate.bilinear.upper == 0.0 and zero.estimate.bilinear.ratio == 1.0


@pytest.mark.parametrize("size", [12, 40])
def test_weights(size):
    H, a, b = symmetric(size), normal(size, seed=1).exp(), normal(size, seed=2).exp()
    a[:3], b[2:6] = 0.0, 0.0
    truth = float((a.unsqueeze(1) * H.abs() * b).sum())
    found = [run(weighted_entrywise(a, b, vectors=16, seed=s), apply(H)) for s in range(400)]
    values = np.array([f.value for f in found])
    assert abs(values.mean() - truth) < 4 * values.std() / math.sqrt(len(values)) + 1e-12 * truth
    assert all(f.deterministic_lower <= truth * (1 + 1e-12) for f in found)
    assert np.mean([f.certified_upper < truth * (1 - 1e-12) for f in found]) <= 0.05
    assert np.mean([f.estimate.bilinear.contains(truth, rtol=1e-12) for f in found]) >= 0.92


def test_equal_weights_scale_and_one_thing_is_one_program():
    H = symmetric(40)
    plain = ours(H, vectors=20, seed=5)
    two = torch.full((40,), 2.0, dtype=torch.float64)
    scaled = run(weighted_entrywise(two, two / 4, vectors=20, seed=5), apply(H))
    assert scaled.value == pytest.approx(plain.value, rel=1e-9)
    assert ours(H, vectors=20, seed=5) == plain and ours(H, vectors=20, seed=6) != plain


def test_single_precision_and_batches():
    H = low_rank(80).float()
    sizes = []

    def products(V):
        sizes.append(len(V))
        assert V.dtype == torch.float32
        return V @ H

    found = run(entrywise_norm(80, vectors=30, batch=4, dtype=torch.float32), products)
    assert max(sizes) == 4 and sum(sizes) == 30
    assert found.value == pytest.approx(float(H.abs().sum()), rel=0.3)


BAD = {
    "size": lambda: entrywise_norm(0),
    "batch": lambda: entrywise_norm(9, batch=0),
    "confidence": lambda: entrywise_norm(9, confidence=1.0),
    "vectors": lambda: entrywise_norm(100, vectors=6),
    "pilot_fraction": lambda: entrywise_norm(100, pilot_fraction=0.9),
    "tolerance": lambda: entrywise_norm(100, tolerance=0.0),
    "correction": lambda: cauchy_sketch(9, correction="mean"),
    "3": lambda: cauchy_sketch(9, vectors=2, correction="median"),
    "2": lambda: cauchy_sketch(9, vectors=1, correction="geometric"),
    "not negative": lambda: weighted_entrywise(-torch.ones(9), torch.ones(9)),
    "finite": lambda: weighted_entrywise(torch.full((9,), math.nan), torch.ones(9)),
    "one length": lambda: weighted_entrywise(torch.ones(9), torch.ones(8)),
}


@pytest.mark.parametrize("word", BAD)
def test_bad_inputs(word):
    with pytest.raises(ValueError, match=word) as caught:
        run(BAD[word](), lambda V: V)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("K", [1, 4])
def test_median_correction_needs_odd_numbers(K):
    with pytest.raises(ValueError, match="odd"):
        median_correction(K)

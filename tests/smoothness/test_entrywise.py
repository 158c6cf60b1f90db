"""Entrywise norm by the Cauchy sketch and by adaptive columns: closed forms, brute force, bias, coverage (SPEC S6)."""

import math
from functools import cache

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from deva_theory.smoothness.estimators.entrywise import CauchySketch, cauchy_sketch, entrywise_norm, median_correction, weighted_entrywise
from deva_theory.smoothness.estimators.mean_interval import weighted_summary
from deva_theory.smoothness.estimators.programs import run
from deva_theory.smoothness.estimators.randomness import generator

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
    draws = generator(3, "cauchy sketch")
    V = torch.cat([torch.tan(math.pi * (torch.rand(k, 5, generator=draws, dtype=torch.float64) - 0.5)) for k in (8, 4)])
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
    assert bounds.lower == found.deterministic_lower <= found.value <= found.certified_upper == bounds.upper
    assert bounds.ratio <= 1 + 1e-11 and (found.value == 0.0 or bounds.lower < found.value < bounds.upper)
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


# ---- accuracy of the products, range, randomness -----------------------------------------------------------


@pytest.mark.parametrize("noise", [1e-2, 2e-6])
@pytest.mark.parametrize("H", [symmetric(20), torch.eye(20, dtype=torch.float64), low_rank(20)], ids=["dense", "identity", "low rank"])
def test_both_ends_allow_for_the_accuracy_of_the_products(H, noise):
    truth = float(H.abs().sum())
    for sign in (1, -1):
        found = ours(H * (1 + sign * 0.99 * noise), noise=noise)
        assert found.estimate.bilinear.contains(truth) and found.deterministic_lower <= truth <= found.certified_upper
    # A column with errors in every entry, ‖e_j‖_2 = noise ‖He_j‖_2.
    E = noise * torch.linalg.vector_norm(H, dim=0) * torch.ones(20, 1, dtype=torch.float64) / math.sqrt(20)
    found = run(entrywise_norm(20, noise=noise), lambda V: V @ (H + E * torch.where(H < 0, -1.0, 1.0)).T)
    assert found.estimate.bilinear.contains(truth) and found.deterministic_lower <= truth


@pytest.mark.parametrize("size", [3, 60])
def test_single_precision_has_no_intervals_of_width_zero(size):
    H = torch.eye(size)
    found = run(entrywise_norm(size, vectors=20, dtype=torch.float32), lambda V: V @ H)
    bounds = found.estimate.bilinear
    assert bounds.lower < size < bounds.upper and found.deterministic_lower < size < found.certified_upper


def test_accuracy_widens_a_sample_as_well():
    exact, noisy = ours(symmetric(60), vectors=20), ours(symmetric(60), vectors=20, noise=1e-3)
    assert noisy.value == exact.value and noisy.deterministic_lower < exact.deterministic_lower * (1 - 0.9e-3)
    for a, b in ((exact.estimate.bilinear, noisy.estimate.bilinear),):
        assert b.lower <= a.lower - 0.9e-3 * exact.value and b.upper >= a.upper + 0.9e-3 * exact.value


@pytest.mark.parametrize("exponent", [-1000, -665, 600, 980])
@pytest.mark.parametrize("size", [9, 60])
def test_powers_of_two_scale_everything(exponent, size):
    H, scale = low_rank(size), 2.0**exponent
    plain, moved = ours(H, vectors=20), ours(H * scale, vectors=20)
    for name in ("value", "standard_error", "deterministic_lower", "certified_upper"):
        assert getattr(moved, name) == getattr(plain, name) * scale
    a, b = plain.estimate.bilinear, moved.estimate.bilinear
    assert (b.lower, b.upper, moved.estimate.met) == (a.lower * scale, a.upper * scale, plain.estimate.met)
    weights = torch.linspace(0.5, 1, size, dtype=torch.float64)
    one = run(weighted_entrywise(weights, weights, vectors=20), apply(H))
    other = run(weighted_entrywise(weights * 2.0**-500, weights * 2.0**490, vectors=20), apply(H))
    assert other.value == one.value * 2.0**-10


def test_sums_beyond_the_largest_number():
    found = ours(1e307 * torch.ones(9, 9, dtype=torch.float64))
    assert math.isfinite(found.estimate.bilinear.lower) and found.estimate.bilinear.upper == math.inf


def test_the_interval_is_longer_on_the_side_of_the_longer_tail():
    """First-order Edgeworth: margins t and t + γ(2t²+1)/6 of the standard error, mirrored with the sample."""
    values = torch.tensor([0.0, 0.1, -0.1, 0.2, 0.0, -0.2, 0.1, 3.0, 0.0, 0.1], dtype=torch.float64)
    mean, _, (low, high) = weighted_summary(values, 0.95)
    mirrored_mean, _, (mirrored_low, mirrored_high) = weighted_summary(-values, 0.95)
    assert high - mean > 1.3 * (mean - low)
    assert (mirrored_mean, mirrored_low, mirrored_high) == pytest.approx((-mean, -high, -low))
    w = np.sqrt(np.arange(1, 11))
    w /= w.sum()
    e = w * (values.numpy() - w @ values.numpy())
    skewness = (e**3).sum() / (e**2).sum() ** 1.5
    shares = w**2 / (1 - 2 * w) * (values.numpy() - mean) ** 2
    freedom = max(1.0, min(3 * shares.sum() ** 2 / (shares**2).sum() - 2, 1 / (w**2).sum() - 1))
    t = stats.t.ppf(0.975, freedom)
    assert (high - mean) / (mean - low) == pytest.approx(1 + skewness * (2 * t**2 + 1) / 6 / t, rel=1e-9)


def test_random_numbers_are_streams_of_their_own(monkeypatch):
    from deva_theory.smoothness.estimators import cauchy, entrywise

    streams = []
    for module in (cauchy, entrywise):
        monkeypatch.setattr(module, "generator", lambda seed, stream: streams.append((seed, stream)) or generator(seed, stream))
    H = symmetric(40)
    run(cauchy_sketch(40, vectors=11, seed=7), apply(H))
    ours(H, vectors=20, seed=7)
    assert len(set(streams)) == len(streams) == 2
    own = torch.rand(20, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    for seed, stream in streams:
        assert not torch.equal(torch.rand(20, generator=generator(seed, stream), dtype=torch.float64), own)


def test_seeds_and_default_devices():
    H = symmetric(40)
    for seed in (2**70, np.int64(5)):
        plain = ours(H, vectors=20, seed=seed)
        with torch.device("meta"):
            assert ours(H, vectors=20, seed=seed) == plain
            run(cauchy_sketch(40, vectors=11, seed=seed), apply(H))
    for program in (entrywise_norm(40, vectors=20, seed=-1), cauchy_sketch(40, seed=-1)):
        with pytest.raises(ValueError, match="seed is -1"):
            run(program, apply(H))

"""Polar factors by SVD, Newton-Schulz and Polar Express (SPEC M1, M12, A6)."""

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given
from hypothesis import strategies as st

from deva_theory.linalg import (
    CUBIC,
    POLAR_METHODS,
    QUINTIC,
    REFERENCE_QUINTIC,
    odd_polynomial,
    polar_express_coefficients,
    polar_factor,
)
from tests.strategies import matrices, matrix_batches, orthogonal, powers_of_two, refuted

DTYPES = [torch.float64, torch.float32]
both = pytest.mark.parametrize("dtype", DTYPES, ids=str)
methods = pytest.mark.parametrize("method", POLAR_METHODS)
ITERATIVE = POLAR_METHODS[1:]
SEPTIC = (35 / 16, -35 / 16, 21 / 16, -5 / 16)

SHAPES = [(4, 4), (3, 5), (5, 3), (1, 4), (4, 1), (1, 1)]
shapes = pytest.mark.parametrize("shape", SHAPES, ids=str)


def with_singular_values(sigma, shape, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    m, n = shape
    k = min(m, n)
    U = torch.linalg.qr(torch.randn(m, k, generator=generator, dtype=torch.float64)).Q
    V = torch.linalg.qr(torch.randn(n, k, generator=generator, dtype=torch.float64)).Q
    sigma = torch.as_tensor(sigma, dtype=torch.float64)
    return ((U * sigma) @ V.mT).to(dtype), U, V


def brute_force(G):
    """U Vᵀ over the singular values above rounding, by NumPy."""
    if G.size == 0:
        return np.zeros_like(G)
    U, S, Vt = np.linalg.svd(G.astype(np.float64), full_matrices=False)
    kept = S > np.finfo(G.dtype).eps * max(G.shape) * S[0]
    return U[:, kept] @ Vt[kept]


# --- SVD ------------------------------------------------------------------------------------------


@both
def test_svd_against_numpy(dtype):
    tolerance = {torch.float64: 1e-11, torch.float32: 1e-2}[dtype]

    # Graded spectra end above the rank tolerance or exactly at 0; near it the answer is arbitrary.
    @given(matrices(dtype=dtype).filter(lambda G: not _ambiguous(G)))
    def check(G):
        np.testing.assert_allclose(polar_factor(G).double().numpy(), brute_force(G.numpy()), atol=tolerance)

    check()


def _ambiguous(G):
    if G.numel() == 0:
        return False
    S = torch.linalg.svdvals(G.double())
    relative = S / S[0].clamp_min(1e-300)
    threshold = {torch.float64: 1e-5, torch.float32: 1e-2}[G.dtype]
    return bool(((relative > 1e-17) & (relative < threshold)).any())


@shapes
def test_svd_against_scipy(shape):
    G = torch.randn(*shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    U, _ = scipy.linalg.polar(G.numpy())
    if min(shape) == 1 or shape[0] >= shape[1]:
        np.testing.assert_allclose(polar_factor(G).numpy(), U, atol=1e-13)
    U, _ = scipy.linalg.polar(G.numpy(), side="left")
    if shape[0] <= shape[1]:
        np.testing.assert_allclose(polar_factor(G).numpy(), U, atol=1e-13)


def is_polar_factor(G, *, wrong=lambda O: O):
    """``O Oᵀ O = O``, ``OᵀG ≽ 0`` symmetric, ``O OᵀG = G``: these determine O."""
    O = wrong(polar_factor(G))
    H = O.mT @ G
    size = max(1.0, float(G.abs().max())) if G.numel() else 1.0
    tolerance = 2e-11 * size
    if G.numel() == 0:
        return O.shape == G.shape
    return (
        float((O @ O.mT @ O - O).abs().max()) < tolerance
        and float((H - H.mT).abs().max()) < tolerance
        and float(torch.linalg.eigvalsh(H).min()) > -tolerance
        and float((O @ H - G).abs().max()) < tolerance
    )


@given(matrices())
def test_svd_defining_properties(G):
    assert is_polar_factor(G)


@pytest.mark.parametrize(
    "wrong", [lambda O: -O, lambda O: 1.001 * O, lambda O: O + 1e-3, torch.zeros_like], ids=range(4)
)
def test_svd_twins(wrong):
    assert refuted(matrices(), lambda G: is_polar_factor(G, wrong=wrong))


def test_closed_forms():
    assert polar_factor(torch.zeros(2, 3)).tolist() == [[0.0] * 3] * 2
    g = torch.tensor([[3.0, 4.0]], dtype=torch.float64)
    torch.testing.assert_close(polar_factor(g), g / 5)
    torch.testing.assert_close(polar_factor(g.mT), g.mT / 5)
    D = torch.diag(torch.tensor([5.0, 0.0, -2.0], dtype=torch.float64))
    torch.testing.assert_close(polar_factor(D), D.sign())
    u, v = (
        torch.tensor([[1.0], [2.0]], dtype=torch.float64),
        torch.tensor([[2.0, 0.0, 1.0]], dtype=torch.float64),
    )
    torch.testing.assert_close(polar_factor(u @ v), u @ v / 5)
    R = torch.tensor([[0.6, -0.8], [0.8, 0.6]], dtype=torch.float64)
    torch.testing.assert_close(polar_factor(7 * R), R)


def test_rtol_decides_the_rank():
    G = torch.diag(torch.tensor([1.0, 1e-8], dtype=torch.float64))
    assert torch.linalg.matrix_rank(polar_factor(G)) == 2
    assert torch.linalg.matrix_rank(polar_factor(G, rtol=1e-6)) == 1


@methods
def test_batched_is_unbatched(method):
    @given(matrix_batches())
    def check(G):
        flat = G.reshape(-1, *G.shape[-2:])
        together = polar_factor(G, method=method).reshape(flat.shape)
        alone = torch.stack([polar_factor(g, method=method) for g in flat])
        # The iterations magnify small singular values, and their rounding errors, a thousandfold and more.
        torch.testing.assert_close(together, alone, rtol=0, atol=1e-10)

    check()


@methods
@given(data=st.data())
def test_powers_of_two_change_no_bit(method, data):
    G = data.draw(matrices())
    factor = data.draw(powers_of_two(margin=60))
    assert torch.equal(polar_factor(G * factor, method=method), polar_factor(G, method=method))


@methods
@pytest.mark.parametrize("scale", [1e-300, 1e-200, 1e-3, 1e200, 1e300])
def test_scale_does_not_matter(method, scale):
    G = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = polar_factor(G, method=method)
    torch.testing.assert_close(polar_factor(G * scale, method=method), expected, rtol=0, atol=1e-12)


@methods
def test_scale_of_one_batch_element_does_not_touch_the_others(method):
    G = torch.randn(3, 2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    scaled = G * torch.tensor([1e-300, 1.0, 1e300], dtype=torch.float64).reshape(3, 1, 1)
    torch.testing.assert_close(
        polar_factor(scaled, method=method), polar_factor(G, method=method), rtol=0, atol=1e-12
    )


@methods
def test_float32_extremes(method):
    G = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    expected = polar_factor(G, method=method)
    for scale in (1e-36, 1e37):
        torch.testing.assert_close(polar_factor(G * scale, method=method), expected, rtol=0, atol=1e-5)


@methods
@given(data=st.data())
def test_transpose_and_orthogonal_factors(method, data):
    G = data.draw(matrices("generic", shape=(3, 4)).filter(lambda G: np.linalg.cond(G.numpy()) < 100))
    P, Q = data.draw(orthogonal(3)), data.draw(orthogonal(4))
    O = polar_factor(G, method=method)
    torch.testing.assert_close(polar_factor(G.mT, method=method), O.mT, rtol=0, atol=1e-10)
    torch.testing.assert_close(polar_factor(P @ G @ Q.mT, method=method), P @ O @ Q.mT, rtol=0, atol=1e-10)
    torch.testing.assert_close(polar_factor(-G, method=method), -O, rtol=0, atol=1e-10)


@methods
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shape", [(2, 3), (3, 2), (0, 3), (3, 0), (0, 2, 2), (2, 0, 4)], ids=str)
def test_dtype_and_shape_are_kept_and_the_input_is_not_changed(method, dtype, shape):
    G = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    before = G.clone()
    O = polar_factor(G, method=method)
    assert O.dtype == dtype and O.shape == G.shape and torch.equal(G, before)
    assert torch.isfinite(O).all()


@methods
def test_zero_matrices_stay_zero_beside_others(method):
    G = torch.randn(3, 2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    G[1] = 0
    O = polar_factor(G, method=method)
    assert O[1].abs().max() == 0 and O[0].abs().max() > 0.1


# --- iterations: what they do to singular values --------------------------------------------------


def image_of_spectrum(sigma, sets, *, schatten8, cushion=1.0):
    """Apply the scalar polynomials to the normalised singular values, as the matrix iteration should."""
    x = np.asarray(sigma, dtype=float)
    x = x / (np.sqrt((x**2).sum()) * cushion)
    if schatten8:
        x = x / (x**8).sum() ** 0.125
    for set_ in sets:
        x = odd_polynomial(set_, x)
    return x


COEFFICIENT_SETS = {
    "linear": [(1.5,)],
    "cubic": [CUBIC],
    "cubic, twelve steps": [CUBIC] * 12,
    "quintic": [QUINTIC] * 3,
    "reference": [REFERENCE_QUINTIC] * 5,
    "septic": [SEPTIC] * 3,
    "ninth degree": [(315 / 128, -420 / 128, 378 / 128, -180 / 128, 35 / 128)] * 2,
    "mixed degrees": [REFERENCE_QUINTIC, CUBIC, SEPTIC, (1.0,)],
}


@shapes
@pytest.mark.parametrize("name", COEFFICIENT_SETS)
def test_newton_schulz_is_the_polynomial_on_singular_values(name, shape):
    sets = COEFFICIENT_SETS[name]
    sigma = np.array([3.0, 1.0, 0.5, 0.05])[: min(shape)]
    G, U, V = with_singular_values(sigma, shape)
    expected = (U * torch.from_numpy(image_of_spectrum(sigma, sets, schatten8=True))) @ V.mT
    computed = polar_factor(G, method="newton_schulz", coefficients=sets)
    torch.testing.assert_close(computed, expected, rtol=0, atol=1e-12)


def test_newton_schulz_default_is_the_reference():
    G = torch.randn(4, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    default = polar_factor(G, method="newton_schulz")
    for options in (
        {"coefficients": [REFERENCE_QUINTIC], "steps": 5},
        {"coefficients": [REFERENCE_QUINTIC] * 5},
    ):
        assert torch.equal(default, polar_factor(G, method="newton_schulz", **options))
    one = polar_factor(G, method="newton_schulz", steps=1)
    assert torch.equal(one, polar_factor(G, method="newton_schulz", coefficients=[REFERENCE_QUINTIC]))


def test_the_last_set_is_repeated_and_surplus_sets_are_dropped():
    G = torch.randn(4, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    sets = [SEPTIC, CUBIC]
    longer = polar_factor(G, method="newton_schulz", coefficients=sets, steps=4)
    assert torch.equal(
        longer, polar_factor(G, method="newton_schulz", coefficients=[SEPTIC, CUBIC, CUBIC, CUBIC])
    )
    shorter = polar_factor(G, method="newton_schulz", coefficients=sets, steps=1)
    assert torch.equal(shorter, polar_factor(G, method="newton_schulz", coefficients=[SEPTIC]))


@shapes
def test_polar_express_is_the_polynomial_on_singular_values(shape):
    sigma = np.array([3.0, 1.0, 0.5, 0.05])[: min(shape)]
    G, U, V = with_singular_values(sigma, shape)
    c = 1.01
    sets = polar_express_coefficients(8)
    safe = [tuple(a / c ** (2 * k + 1) for k, a in enumerate(s)) for s in sets[:-1]] + [sets[-1]]
    expected = (U * torch.from_numpy(image_of_spectrum(sigma, safe, schatten8=False, cushion=c))) @ V.mT
    torch.testing.assert_close(polar_factor(G, method="polar_express"), expected, rtol=0, atol=1e-12)


@shapes
@pytest.mark.parametrize(
    ("coefficients", "steps"), [(CUBIC, 14), (QUINTIC, 9), (SEPTIC, 7)], ids=["cubic", "quintic", "septic"]
)
def test_convergent_sets_reach_the_polar_factor(coefficients, steps, shape):
    sigma = np.array([1.0, 0.5, 0.3, 0.1])[: min(shape)]
    G, U, V = with_singular_values(sigma, shape)
    computed = polar_factor(G, method="newton_schulz", coefficients=[coefficients], steps=steps)
    torch.testing.assert_close(computed, U @ V.mT, rtol=0, atol=1e-12)


def reference_interval(sigma, *, low=0.6818, high=1.1344):
    x = np.asarray(sigma, dtype=float)
    for _ in range(5):
        x = odd_polynomial(REFERENCE_QUINTIC, x)
    return bool((x >= low - 5e-5).all() and (x <= high + 5e-5).all())


def test_m12_the_reference_quintic_does_not_converge():
    """It maps [.05, 1] into [.6818, 1.1344], and [.002, 1] up to 1.2024 (on a grid)."""
    grid = np.linspace(0.05, 1.0, 200_001)
    assert reference_interval(grid)
    assert not reference_interval(grid, low=0.69) and not reference_interval(grid, high=1.13)
    wide = np.geomspace(0.002, 1.0, 200_001)
    assert not reference_interval(wide, low=0.0)
    assert reference_interval(wide, low=0.0, high=1.2024) and not reference_interval(
        wide, low=0.0, high=1.2020
    )
    # The matrix iteration: singular values of a normalised matrix land in the same interval.
    sigma = np.linspace(0.3, 1.0, 6)
    S = torch.linalg.svdvals(polar_factor(with_singular_values(sigma, (6, 9))[0], method="newton_schulz"))
    assert 0.6818 - 1e-4 < S.min() and S.max() < 1.1344 + 1e-4 and (S - 1).abs().max() > 0.05


# --- A6: which error dominates --------------------------------------------------------------------


def relative_error(O, exact):
    return float(torch.linalg.matrix_norm(O - exact) / torch.linalg.matrix_norm(exact))


def test_a6_the_polynomial_dominates_the_error_of_newton_schulz():
    """About .19 relative, in float64 and bfloat16 alike: bfloat16 adds little."""
    G = torch.randn(20, 64, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    exact = polar_factor(G)
    polynomial = relative_error(polar_factor(G, method="newton_schulz")[0], exact[0])
    errors = {
        dtype: np.mean(
            [
                relative_error(a, b)
                for a, b in zip(polar_factor(G, method="newton_schulz", dtype=dtype), exact, strict=True)
            ]
        )
        for dtype in (None, torch.float32, torch.bfloat16)
    }
    assert 0.15 < polynomial < 0.25
    assert errors[None] == pytest.approx(0.19, abs=0.03)
    assert errors[torch.float32] == pytest.approx(errors[None], rel=1e-3)
    assert errors[torch.bfloat16] == pytest.approx(errors[None], rel=0.1)
    # What bfloat16 alone does, against the same polynomial in float64, is an order of magnitude less.
    rounding = relative_error(
        polar_factor(G[0], method="newton_schulz", dtype=torch.bfloat16),
        polar_factor(G[0], method="newton_schulz"),
    )
    assert rounding < 0.25 * polynomial


@pytest.mark.parametrize(("condition", "low", "high"), [(1e2, 0.0, 1e-9), (1e4, 1e-2, 1.0)])
def test_a6_polar_express_is_near_exact_at_condition_1e2_and_poor_at_1e4(condition, low, high):
    sigma = np.geomspace(1.0, 1.0 / condition, 16)
    G, U, V = with_singular_values(sigma, (16, 24))
    assert low <= relative_error(polar_factor(G, method="polar_express"), U @ V.mT) <= high


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("method", ITERATIVE)
def test_half_precision_arithmetic_stays_bounded(method, dtype):
    G = torch.randn(8, 32, 48, generator=torch.Generator().manual_seed(0))
    O = polar_factor(G, method=method, dtype=dtype)
    assert O.dtype == torch.float32
    assert torch.linalg.svdvals(O).max() < 1.25


# --- bad input ------------------------------------------------------------------------------------

G = torch.ones(2, 2)
ERRORS = [
    (torch.ones(3), {}, ValueError, "at least two dimensions"),
    (torch.ones(2, 2, dtype=torch.int32), {}, TypeError, "torch.int32"),
    (torch.ones(2, 2, dtype=torch.complex64), {}, TypeError, "complex64"),
    (torch.ones(2, 2, dtype=torch.bool), {}, TypeError, "torch.bool"),
    (G, {"method": "qr"}, ValueError, "unknown method 'qr'; use one of svd, newton_schulz, polar_express"),
    (G, {"steps": 3}, ValueError, "belong to the iterative methods"),
    (G, {"coefficients": [CUBIC]}, ValueError, "belong to the iterative methods"),
    (G, {"dtype": torch.float32}, ValueError, "belong to the iterative methods"),
    (G, {"method": "newton_schulz", "rtol": 1e-3}, ValueError, "rtol belongs to method 'svd'"),
    (G, {"method": "newton_schulz", "steps": 0}, ValueError, "steps is 0; use an integer"),
    (G, {"method": "polar_express", "steps": -2}, ValueError, "steps is -2; use an integer"),
    (G, {"method": "newton_schulz", "coefficients": []}, ValueError, "coefficients is empty"),
    (G, {"method": "newton_schulz", "coefficients": [CUBIC, ()]}, ValueError, "coefficients is empty"),
]


@pytest.mark.parametrize(("matrix", "options", "error", "match"), ERRORS)
def test_bad_input(matrix, options, error, match):
    with pytest.raises(error, match=match):
        polar_factor(matrix, **options)

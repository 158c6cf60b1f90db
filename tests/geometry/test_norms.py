"""Norm, dual norm, steepest direction, oracle and radius of every geometry (SPEC M8).

One table of geometries, one body of properties.  A property is a function ``(geometry, example) -> bool``
with a keyword that makes it false; its twin checks that the false variant is refuted by the same examples.
"""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deva_theory.geometry import L1, L2, LInf, Schatten, Spectral
from deva_theory.linalg import polar_factor
from tests.strategies import matrices, matrix_batches, powers_of_two, refuted, tensors

GEOMETRIES = {
    "l1": L1(),
    "l2": L2(),
    "linf": LInf(),
    "l1 of matrices": L1(event_ndim=2),
    "frobenius": L2(event_ndim=2),
    "max entry": LInf(event_ndim=2),
    "nuclear": Schatten(1),
    "schatten 1.3": Schatten(1.3),
    "schatten 2": Schatten(2),
    "schatten 3": Schatten(3),
    "spectral": Spectral(),
}
DTYPES = [torch.float64, torch.float32]

every_geometry = pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES)
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
twin = pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=[f"{name} (twin)" for name in GEOMETRIES])


def events(geometry, dtype=torch.float64):
    """Draw one event, degenerate ones included."""
    if geometry.event_ndim == 2:
        return matrices(dtype=dtype)
    return st.integers(0, 5).flatmap(lambda d: tensors((d,), dtype))


def pairs(geometry, dtype=torch.float64):
    return events(geometry, dtype).flatmap(
        lambda x: st.tuples(st.just(x), tensors(tuple(x.shape), dtype))
    )


def slack(x):
    """Rounding to allow on sums over the entries of x, relative."""
    return 30 * torch.finfo(x.dtype).eps * max(4, x.numel())


def close(a, b, x):
    """Tell whether two numbers computed from x agree to rounding."""
    scale = max(abs(float(a)), abs(float(b)))
    return abs(float(a) - float(b)) <= slack(x) * scale


def inner(x, g):
    return float((x.double() * g.double()).sum())


# Properties


def dual_inequality(geometry, pair, *, factor=1.0):
    x, g = pair
    bound = float(geometry.norm(x).double() * geometry.dual_norm(g).double())
    return abs(inner(x, g)) <= factor * bound * (1 + slack(x))


def steepest_attains(geometry, g, *, steepest=None):
    d = (steepest or geometry.steepest)(g)
    if not g.any():
        return not d.any() and float(geometry.dual_norm(g)) == 0.0
    attained = close(inner(d, g), geometry.dual_norm(g), g)
    return d.dtype == g.dtype and attained and close(geometry.norm(d), 1.0, g)


def bidual(geometry, x, *, predual=None):
    predual = predual or geometry.dual
    d = predual.steepest(x)
    return close(predual.dual_norm(x), geometry.norm(x), x) and close(inner(d, x), geometry.norm(x), x)


def within_radius(geometry, x, *, factor=1.0):
    euclidean = float(torch.linalg.vector_norm(x.double()))
    return euclidean <= factor * geometry.radius(x.shape) * float(geometry.norm(x)) * (1 + slack(x))


def triangle(geometry, pair, *, power=1.0):
    x, y = pair
    left = float(geometry.norm(x + y)) ** power
    return left <= (float(geometry.norm(x)) ** power + float(geometry.norm(y)) ** power) * (1 + slack(x))


def homogeneous(geometry, scaled, *, norm=None):
    """‖cx‖ = c‖x‖ exactly, for c a power of two anywhere in the float range."""
    x, c = scaled
    norm = norm or geometry.norm
    return bool(torch.isfinite(norm(c * x)).all()) and torch.equal(norm(c * x), c * norm(x))


def steepest_scale_invariant(geometry, scaled, *, steepest=None):
    x, c = scaled
    steepest = steepest or geometry.steepest
    return torch.equal(steepest(c * x), steepest(x)) and close_tensors(steepest(-x), -steepest(x))


def close_tensors(a, b):
    return a.shape == b.shape and torch.allclose(a, b, rtol=0, atol=1e4 * torch.finfo(a.dtype).eps)


def batch_equals_one_by_one(geometry, X, *, reorder=lambda Y: Y):
    events = X.reshape(-1, *X.shape[X.ndim - geometry.event_ndim :])
    batch = X.shape[: X.ndim - geometry.event_ndim]
    for method in (geometry.norm, geometry.dual_norm, geometry.steepest):
        whole = method(reorder(X))
        one_by_one = torch.stack([method(x) for x in events]).reshape(whole.shape)
        if tuple(whole.shape[: len(batch)]) != tuple(batch) or not close_tensors(whole, one_by_one):
            return False
    return True


@every_dtype
@every_geometry
def test_dual_inequality(geometry, dtype):
    @given(pairs(geometry, dtype))
    def check(pair):
        assert dual_inequality(geometry, pair)

    check()


@twin
def test_dual_inequality_with_a_smaller_bound_is_refuted(geometry):
    assert refuted(pairs(geometry), lambda pair: dual_inequality(geometry, pair, factor=0.9))


@every_dtype
@every_geometry
def test_steepest_attains_the_dual_norm(geometry, dtype):
    @given(events(geometry, dtype))
    def check(g):
        assert steepest_attains(geometry, g)
        assert torch.equal(geometry.lmo(g), -geometry.steepest(g))

    check()


def of_another_norm(geometry):
    """A geometry on the same events whose steepest direction differs."""
    if geometry.event_ndim == 1:
        return LInf() if geometry != LInf() else L2()
    return Spectral() if geometry != Spectral() else L2(2)


@twin
def test_the_steepest_direction_of_another_norm_does_not_attain(geometry):
    wrong = of_another_norm(geometry).steepest
    assert refuted(events(geometry), lambda g: steepest_attains(geometry, g, steepest=wrong))


@every_dtype
@every_geometry
def test_the_bidual_norm_is_the_norm(geometry, dtype):
    @given(events(geometry, dtype))
    def check(x):
        assert bidual(geometry, x)

    check()


@twin
def test_another_predual_is_refuted(geometry):
    wrong = of_another_norm(geometry.dual)
    assert refuted(events(geometry), lambda x: bidual(geometry, x, predual=wrong))


@every_dtype
@every_geometry
def test_the_unit_ball_lies_within_the_radius(geometry, dtype):
    @given(events(geometry, dtype))
    def check(x):
        assert within_radius(geometry, x)

    check()


@twin
def test_a_smaller_radius_is_refuted(geometry):
    assert refuted(events(geometry), lambda x: within_radius(geometry, x, factor=0.99))


@pytest.mark.parametrize("shape", [(1, 1), (1, 4), (4, 1), (3, 5), (5, 3), (4, 4), (0, 3), (3, 0)], ids=str)
@every_geometry
def test_the_radius_is_attained(geometry, shape):
    shape = shape[-geometry.event_ndim :]
    corner = torch.zeros(shape, dtype=torch.float64)
    corner[tuple(slice(0, 1) for _ in shape)] = 1.0
    witnesses = [torch.ones_like(corner), corner]
    if geometry.event_ndim == 2:
        witnesses.append(torch.eye(*shape, dtype=torch.float64))
    largest = max(
        torch.linalg.vector_norm(w).item() / max(geometry.norm(w).item(), 1e-300) for w in witnesses
    )
    assert largest == pytest.approx(geometry.radius(shape), rel=1e-14)
    assert geometry.radius((7, *shape)) == geometry.radius(shape)


@every_dtype
@every_geometry
def test_triangle_inequality(geometry, dtype):
    @given(pairs(geometry, dtype))
    def check(pair):
        assert triangle(geometry, pair)

    check()


@twin
def test_the_square_of_a_norm_violates_the_triangle_inequality(geometry):
    assert refuted(pairs(geometry), lambda pair: triangle(geometry, pair, power=2.0))


def scaled_events(geometry, dtype=torch.float64):
    # Entries are made of few bits, so that multiplying by c is exact even where c·x is small.
    def coarse(x):
        return (x * 64).round() / 64

    return st.tuples(events(geometry, dtype).map(coarse), powers_of_two(dtype, margin=20))


@every_dtype
@every_geometry
def test_norm_and_dual_norm_are_homogeneous_over_the_float_range(geometry, dtype):
    @given(scaled_events(geometry, dtype))
    def check(scaled):
        assert homogeneous(geometry, scaled)
        assert homogeneous(geometry, scaled, norm=geometry.dual_norm)

    check()


def test_the_norm_from_naive_squares_is_not():
    def naive(x):
        return x.square().sum().sqrt()

    assert refuted(scaled_events(L2()), lambda scaled: homogeneous(L2(), scaled, norm=naive))


def test_the_schatten_norm_from_naive_powers_is_not():
    def naive(x):
        return torch.linalg.svdvals(x).pow(3).sum().pow(1 / 3)

    assert refuted(scaled_events(Schatten(3)), lambda scaled: homogeneous(Schatten(3), scaled, norm=naive))


@twin
def test_a_norm_of_another_degree_is_not_homogeneous(geometry):
    def wrong(x):
        return geometry.norm(x).sqrt()

    assert refuted(scaled_events(geometry), lambda scaled: homogeneous(geometry, scaled, norm=wrong))


@every_dtype
@every_geometry
def test_steepest_is_scale_invariant_and_odd(geometry, dtype):
    @given(scaled_events(geometry, dtype))
    def check(scaled):
        assert steepest_scale_invariant(geometry, scaled)

    check()


@twin
def test_the_gradient_itself_is_not_scale_invariant(geometry):
    def wrong(g):
        return g

    assert refuted(scaled_events(geometry), lambda s: steepest_scale_invariant(geometry, s, steepest=wrong))


@every_dtype
@every_geometry
def test_batched_is_one_by_one(geometry, dtype):
    @given(matrix_batches(dtype=dtype, max_side=4))
    def check(X):
        assert batch_equals_one_by_one(geometry, X)

    check()


@twin
def test_a_batch_in_another_order_is_noticed(geometry):
    batches = matrix_batches(max_side=4)
    assert refuted(batches, lambda X: batch_equals_one_by_one(geometry, X, reorder=lambda Y: Y.flip(0)))


# Closed forms and brute force


@pytest.mark.parametrize(("geometry", "norm", "dual"), [
    (L1(), 19.0, 12.0), (LInf(), 12.0, 19.0), (L2(), 13.0, 13.0),
])
def test_closed_forms_of_vectors(geometry, norm, dual):
    x = torch.tensor([3.0, -4.0, 0.0, 12.0], dtype=torch.float64)
    assert geometry.norm(x).item() == pytest.approx(norm, rel=1e-15)
    assert geometry.dual_norm(x).item() == pytest.approx(dual, rel=1e-15)


@pytest.mark.parametrize(("geometry", "expected"), [
    (LInf(), [1.0, -1.0, 0.0, 1.0]), (L1(), [0.0, 0.0, 0.0, 1.0]), (L2(), [3 / 13, -4 / 13, 0.0, 12 / 13]),
])
def test_closed_forms_of_steepest(geometry, expected):
    g = torch.tensor([3.0, -4.0, 0.0, 12.0], dtype=torch.float64)
    assert geometry.steepest(g).tolist() == pytest.approx(expected, rel=1e-15)


@pytest.mark.parametrize("p", [1, 1.5, 2, 3, math.inf])
def test_schatten_on_diagonal_matrices_is_lp(p):
    sigma = torch.tensor([3.0, 0.0, -4.0], dtype=torch.float64)
    X = torch.diag(sigma)
    expected = torch.linalg.vector_norm(sigma, ord=p).item()
    assert Schatten(p).norm(X).item() == pytest.approx(expected, rel=1e-14)
    if p > 1:
        q = p / (p - 1) if p < math.inf else 1.0
        ratio = sigma.abs() / torch.linalg.vector_norm(sigma, ord=q)
        d = torch.sign(sigma) * ratio ** (q - 1)
        torch.testing.assert_close(Schatten(p).steepest(X), torch.diag(d), rtol=1e-13, atol=1e-14)


@given(matrices())
def test_schatten_agrees_with_the_library(X):
    if X.numel() == 0:
        return
    assert close(Schatten(1).norm(X), torch.linalg.matrix_norm(X, "nuc"), X)
    assert close(Spectral().norm(X), torch.linalg.matrix_norm(X, 2), X)
    assert close(Schatten(2).norm(X), L2(2).norm(X), X)
    assert close_tensors(Schatten(2).steepest(X), L2(2).steepest(X))
    assert torch.equal(Spectral().steepest(X), polar_factor(X, method="svd"))


@given(st.integers(1, 6).flatmap(lambda d: tensors((d,))))
def test_linf_dual_norm_is_the_maximum_over_the_vertices_of_the_box(g):
    vertices = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=len(g))), dtype=torch.float64)
    assert close((vertices @ g).max(), LInf().dual_norm(g), g)


@given(st.integers(1, 6).flatmap(lambda d: tensors((d,))))
def test_l1_dual_norm_is_the_maximum_over_the_vertices_of_the_cross_polytope(g):
    vertices = torch.cat([torch.eye(len(g), dtype=torch.float64), -torch.eye(len(g), dtype=torch.float64)])
    assert close((vertices @ g).max(), L1().dual_norm(g), g)


def unit_ball_2x2(p, *, angles=48, radii=49):
    """Return a grid of 2×2 matrices ``R(a) diag(s) R(b)ᵀ`` on the Schatten-p unit sphere."""
    a = torch.arange(angles, dtype=torch.float64) * (2 * math.pi / angles)
    rotations = torch.stack([torch.cos(a), -torch.sin(a), torch.sin(a), torch.cos(a)], -1).reshape(-1, 2, 2)
    t = torch.linspace(0, 1, radii, dtype=torch.float64)
    edge = torch.stack([torch.ones_like(t), 2 * t - 1], -1)
    edge = edge / torch.linalg.vector_norm(edge, ord=p, dim=-1, keepdim=True)
    D = torch.diag_embed(edge)
    return torch.einsum("aij,sjk,blk->absil", rotations, D, rotations).reshape(-1, 2, 2)


@pytest.mark.parametrize("p", [1, 1.5, 2, 4, math.inf])
def test_schatten_dual_norm_is_the_maximum_over_a_grid_of_the_unit_sphere(p):
    ball = unit_ball_2x2(p)
    geometry = Schatten(p)
    assert (geometry.norm(ball) - 1).abs().max() < 1e-12
    generator = torch.Generator().manual_seed(0)
    G = torch.randn(20, 2, 2, dtype=torch.float64, generator=generator)
    G[0] = torch.eye(2)
    G[1] = torch.ones(2, 2)
    best = torch.einsum("kij,nij->nk", ball, G).amax(-1)
    dual = geometry.dual_norm(G)
    assert bool((best <= dual * (1 + 1e-12)).all())
    assert bool((best >= dual * 0.99).all())
    # The twin: one percent more than the dual norm is not reached; the dual norm of another p is not either.
    assert not bool((best >= dual * 1.01).any())
    if p < math.inf:  # nothing lies above the nuclear norm
        assert not bool((best >= Schatten(p * 1.3).dual_norm(G)).all())


def test_l2_dual_norm_is_the_maximum_over_the_circle():
    a = torch.arange(3600, dtype=torch.float64) * (2 * math.pi / 3600)
    circle = torch.stack([torch.cos(a), torch.sin(a)], -1)
    g = torch.tensor([1.25, -0.7], dtype=torch.float64)
    assert L2().dual_norm(g).item() == pytest.approx((circle @ g).max().item(), rel=1e-6)


# Degenerate and extreme events


@every_geometry
@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0), (2, 0, 3), (0, 2, 3)], ids=str)
def test_empty_events_and_batches(geometry, shape):
    x = torch.zeros(shape, dtype=torch.float64)
    batch = shape[: len(shape) - geometry.event_ndim]
    assert torch.equal(geometry.norm(x), torch.zeros(batch, dtype=torch.float64))
    assert torch.equal(geometry.dual_norm(x), torch.zeros(batch, dtype=torch.float64))
    assert tuple(geometry.steepest(x).shape) == shape


@every_dtype
@every_geometry
def test_the_ends_of_the_float_range(geometry, dtype):
    info = torch.finfo(dtype)
    x = torch.tensor([[3.0, 0.0], [0.0, -4.0]], dtype=dtype)
    if geometry.event_ndim == 1:
        x = x[1]
    d = geometry.steepest(x)
    subnormal = info.tiny * info.eps
    for c in (info.max / 8, info.tiny, 64 * subnormal, subnormal):
        y = x * c
        assert bool(torch.isfinite(geometry.norm(y)).all() and (geometry.norm(y) > 0).all())
        assert torch.allclose(geometry.steepest(y), d, rtol=0, atol=4 * info.eps)
        # The norm of subnormal entries is right to half a subnormal ulp.
        expected = geometry.norm(x).double() * c
        assert bool((geometry.norm(y).double() - expected).abs() <= 4 * info.eps * expected + subnormal)


@pytest.mark.parametrize("geometry", [L1(), L2(), L1(2), L2(2), Schatten(1), Schatten(2)], ids=str)
def test_a_norm_beyond_the_range_is_infinite_and_steepest_still_right(geometry):
    x = torch.full((2, 2), torch.finfo(torch.float64).max, dtype=torch.float64)
    x[0, 1] = -x[0, 1]
    assert bool(torch.isinf(geometry.norm(x)).all())
    assert torch.equal(geometry.steepest(x), geometry.steepest(x / 2.0**1000))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@every_geometry
def test_half_precision_is_rounded_once(geometry, dtype):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 4, generator=generator).to(dtype)
    for method in (geometry.norm, geometry.dual_norm, geometry.steepest):
        assert method(x).dtype == dtype
        assert torch.equal(method(x), method(x.float()).to(dtype))


@pytest.mark.parametrize("p", [1 + 2.0**-52, 1 + 1e-9, 1e9, 1e300])
def test_extreme_exponents(p):
    X = torch.diag(torch.tensor([2.0, 2.0, 1.0], dtype=torch.float64))
    nearest = Schatten(1 if p < 2 else math.inf)
    assert Schatten(p).norm(X).item() == pytest.approx(nearest.norm(X).item(), rel=1e-7)
    assert Schatten(p).dual_norm(X).item() == pytest.approx(nearest.dual_norm(X).item(), rel=1e-7)
    d = Schatten(p).steepest(X)
    assert Schatten(p).norm(d).item() == pytest.approx(1.0, rel=1e-7)
    assert inner(d, X) == pytest.approx(Schatten(p).dual_norm(X).item(), rel=1e-7)


def test_singular_values_at_rounding_level_do_not_enter_the_direction():
    u = torch.tensor([1.0, 2.0, -1.0], dtype=torch.float64)
    v = torch.tensor([0.3, 0.1], dtype=torch.float64)
    G = torch.outer(u, v)
    expected = G / torch.linalg.vector_norm(G)
    for p in (1.0, 1.5, 2.0, 20.0, math.inf):
        torch.testing.assert_close(Schatten(p).steepest(G), expected, rtol=0, atol=1e-15 * 4)


@every_geometry
def test_autograd_of_the_norm_is_the_steepest_direction_of_the_dual(geometry):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(3, 4, dtype=torch.float64, generator=generator).requires_grad_()
    geometry.norm(x).sum().backward()
    torch.testing.assert_close(x.grad, geometry.dual.steepest(x.detach()), rtol=1e-10, atol=1e-12)


# Duals and errors


@pytest.mark.parametrize(("geometry", "dual"), [
    (L1(), LInf()), (LInf(2), L1(2)), (L2(), L2()), (Schatten(1), Spectral()), (Spectral(), Schatten(1)),
    (Schatten(3), Schatten(1.5)), (Schatten(2), Schatten(2)), (Schatten(math.inf), Schatten(1.0)),
])
def test_duals(geometry, dual):
    assert geometry.dual == dual and hash(geometry.dual) == hash(dual)


VECTOR = torch.ones(3)
ERRORS = [
    (lambda: L2(3), ValueError, "event_ndim is 3"),
    (lambda: LInf(True), ValueError, "event_ndim is True"),
    (lambda: Schatten(0.5), ValueError, "p is 0.5"),
    (lambda: Schatten(math.nan), ValueError, "p is nan"),
    (lambda: Schatten("2"), ValueError, "p is '2'"),
    (lambda: L2().norm([1.0]), TypeError, "L2: x is a list; pass a torch.Tensor"),
    (lambda: L2().norm(torch.ones(3, dtype=torch.int64)), TypeError, r"L2: x has dtype torch.int64"),
    (lambda: L1().dual_norm(VECTOR.bool()), TypeError, "L1: g has dtype torch.bool"),
    (lambda: LInf().steepest(VECTOR.to(torch.complex64)), TypeError, "LInf: g has dtype torch.complex64"),
    (lambda: LInf().lmo(VECTOR * math.nan), ValueError, "LInf: g has 3 NaN or infinite entries of 3"),
    (lambda: Spectral().norm(torch.tensor([[1.0, math.inf]])), ValueError, "Schatten: x has 1 NaN or"),
    (lambda: Spectral().dual_norm(VECTOR), ValueError, r"Schatten: g has shape \(3,\); it needs at least 2"),
    (lambda: L2().norm(torch.tensor(1.0)), ValueError, r"L2: x has shape \(\); it needs at least 1"),
    (lambda: Spectral().radius((3,)), ValueError, r"shape is \(3,\); give 2 or more sizes"),
    (lambda: L2().radius((-1,)), ValueError, r"shape is \(-1,\)"),
]


@pytest.mark.parametrize(("call", "error", "message"), ERRORS, ids=[message for _, _, message in ERRORS])
def test_errors_name_the_argument(call, error, message):
    with pytest.raises(error, match=message):
        call()


@every_geometry
def test_the_input_is_left_alone(geometry):
    x = torch.tensor([[1e300, -2.0], [0.0, 3.0]], dtype=torch.float64)
    before = x.clone()
    geometry.norm(x), geometry.dual_norm(x), geometry.steepest(x), geometry.lmo(x)
    assert torch.equal(x, before)

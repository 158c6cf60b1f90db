"""Balls and their quadratic majorants: gauges and duals by brute force, the trace bound, lifted iteration, floors."""

import itertools
import math

import pytest
import torch

from deva_theory.smoothness.estimators import balls
from deva_theory.smoothness.estimators.balls import Box, ProductBall, SpectralBall

BALLS = {
    "box": Box(7),
    "one": Box(1),
    "square": SpectralBall(3, 3),
    "wide": SpectralBall(2, 5),
    "tall": SpectralBall(6, 2),
    "row": SpectralBall(1, 4),
    "column": SpectralBall(4, 1),
    "product": ProductBall([Box(3), SpectralBall(2, 3), Box(1)]),
    "nested": ProductBall([ProductBall([Box(2), SpectralBall(2, 2)]), Box(3)]),
}
each = pytest.mark.parametrize("ball", BALLS.values(), ids=BALLS.keys())


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def symmetric(d, seed=0, *, rank=None):
    A = normal(d, d, seed=seed)
    if rank is not None:
        return A[:, :rank] @ torch.diag(normal(rank, seed=seed + 1)) @ A[:, :rank].mT
    return A + A.mT


def pieces(ball, D):
    """(kind, matrix) of each elementary piece of one row, straight from the definitions."""
    if isinstance(ball, ProductBall):
        for part, piece in zip(ball.parts, D.split(ball.sizes), strict=True):
            yield from pieces(part, piece)
    elif isinstance(ball, Box):
        yield "box", D
    else:
        yield "spectral", D.reshape(ball.rows, ball.columns)


def gauge_oracle(ball, D):
    return max(float(X.abs().max() if kind == "box" else torch.linalg.matrix_norm(X, 2)) for kind, X in pieces(ball, D))


def dual_oracle(ball, G):
    return sum(float(X.abs().sum() if kind == "box" else torch.linalg.svdvals(X).sum()) for kind, X in pieces(ball, G))


@each
def test_gauge_dual_and_steepest(ball):
    G = normal(20, ball.size)
    D = ball.steepest(G)
    assert [float(g) for g in ball.gauge(G)] == pytest.approx([gauge_oracle(ball, g) for g in G], rel=1e-12)
    assert [float(g) for g in ball.dual_norm(G)] == pytest.approx([dual_oracle(ball, g) for g in G], rel=1e-12)
    torch.testing.assert_close((D * G).sum(-1), ball.dual_norm(G))
    assert float(ball.gauge(D).max()) <= 1 + 1e-9
    # No feasible direction does better.
    other = normal(20, ball.size, seed=1)
    other = other / ball.gauge(other).unsqueeze(-1)
    assert bool(((other * G).sum(-1) <= ball.dual_norm(G) * (1 + 1e-12)).all())


@each
def test_projection_is_nearest(ball):
    X = 2 * normal(10, ball.size)
    P = ball.project(X)
    assert float(ball.gauge(P).max()) <= 1 + 1e-9
    torch.testing.assert_close(ball.project(P), P)
    # Variational inequality: <X - P, Y - P> ≤ 0 for Y in the ball; its worst Y is the steepest direction of X - P.
    assert bool((((X - P) * (ball.steepest(X - P) - P)).sum(-1) <= 1e-10).all())


def test_zero_gradient():
    for ball in BALLS.values():
        zero = torch.zeros(2, ball.size, dtype=torch.float64)
        assert float(ball.dual_norm(zero).max()) == 0 and float(ball.gauge(ball.steepest(zero)).max()) <= 1
    assert Box(3).steepest(torch.zeros(1, 3)).tolist() == [[1.0, 1.0, 1.0]]


def majorant_matrix(majorant, d, exponent):
    return majorant.power(torch.eye(d, dtype=torch.float64), exponent)


@each
@pytest.mark.parametrize("rank", [None, 1, 2])
def test_trace_bounds_the_form_on_the_ball_and_powers_agree(ball, rank):
    d = ball.size
    H = symmetric(d, seed=3, rank=None if rank is None or rank > d else rank)
    majorant, V = None, normal(8, d)
    for _ in range(5):
        majorant = ball.lift(V @ H, majorant)
        V = 2 * majorant.power(V @ H, -1.0)
    for share in (0.01, 0.1):
        bound = majorant.floored(share)
        inverse, root = majorant_matrix(bound, d, -1.0), majorant_matrix(bound, d, -0.5)
        torch.testing.assert_close(root @ root, inverse)
        M = torch.linalg.inv(inverse)
        assert float(torch.linalg.eigvalsh(0.5 * (M + M.mT))[0]) > 0
        D = torch.cat((ball.steepest(normal(300, d, seed=4)), ball.steepest(normal(50, d, seed=5) @ M)))
        assert float(((D @ M) * D).sum(-1).max()) <= bound.trace * (1 + 1e-9)
        assert bound.trace > majorant.trace
        # Cauchy-Schwarz, on random pairs: |<X, H Y>| ≤ trace ‖M^{-1/2} H M^{-1/2}‖.
        X, Y = D[:100], D[100:200]
        reach = bound.trace * float(torch.linalg.matrix_norm(root @ H @ root, 2))
        assert float(((X @ H) * Y).sum(-1).abs().max()) <= reach * (1 + 1e-9)


def test_a_halved_trace_would_not_bound():
    """Twin: with M = DA + BD the trace is tr A + tr B and not its larger half."""
    ball = SpectralBall(3, 3)
    majorant = ball.lift(normal(8, 9) @ symmetric(9), None)
    M = torch.linalg.inv(majorant_matrix(majorant.floored(0.01), 9, -1.0))
    D = ball.steepest(normal(300, 9, seed=4))
    assert float(((D @ M) * D).sum(-1).max()) > 0.5 * majorant.trace


@each
def test_lift_at_one_vector_is_the_steepest_direction(ball):
    G = normal(1, ball.size)
    V = 2 * ball.lift(G, None).power(G, -1.0)
    torch.testing.assert_close(V, ball.steepest(G), rtol=1e-6, atol=1e-6)


def test_lifted_box_iterate_is_feasible_and_optimal():
    G = normal(8, 7)
    V = 2 * Box(7).lift(G, None).power(G, -1.0)
    torch.testing.assert_close(V.square().sum(0), torch.ones(7, dtype=torch.float64))
    assert float((V * G).sum()) == pytest.approx(float(G.norm(dim=0).sum()))


def test_lifted_spectral_iteration_reaches_complementarity():
    """For a fixed G: ΣVᵀV = I, ΣVVᵀ = I on the ranges of A and B; then <V, G> is half the trace (M counts twice): no gap."""
    ball = SpectralBall(3, 4)
    G = normal(8, 12, seed=2)
    majorant = None
    for _ in range(300):
        majorant = ball.lift(G, majorant)
    V = (2 * majorant.power(G, -1.0)).reshape(8, 3, 4)
    right, left = (V.mT @ V).sum(0), (V @ V.mT).sum(0)
    assert float(torch.linalg.eigvalsh(right)[-1]) <= 1 + 1e-3 and float(torch.linalg.eigvalsh(left)[-1]) <= 1 + 1e-3
    value = float((V.reshape(8, 12) * G).sum())
    assert value == pytest.approx(0.5 * majorant.trace, rel=1e-3)


def test_long_sides_get_a_majorant_on_the_short_side_only(monkeypatch):
    monkeypatch.setattr(balls, "MAX_SIDE", 4)
    for shape in ((3, 6), (6, 3)):
        ball = SpectralBall(*shape)
        G = normal(8, 18)
        majorant = ball.lift(G, None)
        V = (2 * majorant.power(G, -1.0)).reshape(8, *shape)
        gram = (V.mT @ V if shape[1] == 3 else V @ V.mT).sum(0)
        torch.testing.assert_close(gram, torch.eye(3, dtype=torch.float64))
        bound = majorant.floored(0.01)
        M = torch.linalg.inv(majorant_matrix(bound, 18, -1.0))
        D = ball.steepest(normal(200, 18, seed=1))
        assert float(((D @ M) * D).sum(-1).max()) <= bound.trace * (1 + 1e-9)
        assert bound.length == 3
    with pytest.raises(ValueError, match="6x5 matrix is too large"):
        SpectralBall(6, 5).lift(normal(2, 30), None)


def test_floor_of_a_piece_without_curvature_costs_nothing():
    ball = ProductBall([Box(3), Box(100_000), SpectralBall(4, 5)])
    G = torch.zeros(4, ball.size, dtype=torch.float64)
    G[:, :3] = normal(4, 3)
    majorant = ball.lift(G, None)
    bound = majorant.floored(0.01)
    assert majorant.trace < bound.trace < 1.02 * majorant.trace
    assert math.isfinite(float(bound.power(torch.ones_like(G), -0.5).max()))
    nothing = ball.lift(torch.zeros_like(G), None).floored(0.01)
    assert math.isfinite(float(nothing.power(torch.ones_like(G), -0.5).max()))


def test_polar_express_on_long_sides_stays_inside(monkeypatch):
    monkeypatch.setattr(balls, "_SVD_SIDE", 2)
    ball = SpectralBall(6, 8)
    G = normal(5, 48)
    D = ball.steepest(G)
    assert float(ball.gauge(D).max()) <= 1 + 1e-9
    assert bool(((D * G).sum(-1) >= 0.99 * ball.dual_norm(G)).all())


def test_product_of_boxes_is_a_box():
    split, whole = ProductBall([Box(2), Box(3)]), Box(5)
    G = normal(6, 5)
    for method in ("steepest", "dual_norm", "gauge", "project"):
        torch.testing.assert_close(getattr(split, method)(G), getattr(whole, method)(G))
    majorants = [ball.lift(G, None) for ball in (split, whole)]
    torch.testing.assert_close(majorants[0].power(G, -0.5), majorants[1].power(G, -0.5))
    with pytest.raises(ValueError, match="at least one"):
        ProductBall([])


def test_vertices_of_the_box():
    signs = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=4)), dtype=torch.float64)
    G = normal(9, 4)
    assert Box(4).dual_norm(G).tolist() == pytest.approx((G @ signs.mT).amax(-1).tolist())

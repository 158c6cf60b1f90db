"""Box and spectral norms, two-sided, against enumeration: sign vectors, faces of the box, orthogonal matrices, closed forms."""

import itertools
import math

import numpy as np
import pytest
import torch

from deva_theory.smoothness import box_smoothness, spectral_smoothness, weighted_box_smoothness, weighted_spectral_smoothness
from deva_theory.smoothness.estimators import operator_norms
from deva_theory.smoothness.estimators.balls import Box, ProductBall, SpectralBall
from deva_theory.smoothness.estimators.krylov import Spectrum
from deva_theory.smoothness.estimators.operator_norms import Effort
from deva_theory.smoothness.estimators.programs import congruence, run

MATRIX_FREE = Effort(dense=0, lifts=10, ascents=8)
FAMILIES = ("indefinite", "psd", "negative", "rank one", "low rank", "diagonal", "graded", "repeated")


def matrix(family, d, rng):
    A = rng.standard_normal((d, d))
    Q = np.linalg.qr(A)[0]
    values = {
        "indefinite": lambda: (A + A.T) / 2,
        "psd": lambda: A @ A.T,
        "negative": lambda: -A @ A.T,
        "rank one": lambda: rng.choice([-1, 1]) * np.outer(A[0], A[0]),
        "low rank": lambda: np.outer(A[0], A[0]) - np.outer(A[-1], A[-1]),
        "diagonal": lambda: np.diag(rng.standard_normal(d)),
        "graded": lambda: (Q * np.logspace(0, -6, d) * rng.choice([-1, 1], d)) @ Q.T,
        "repeated": lambda: (Q * rng.choice([2.0, -1.0], d)) @ Q.T,
    }[family]()
    return torch.from_numpy(values)


def estimate(ball, H, *, effort=MATRIX_FREE, norm="linf", **options):
    return run(operator_norms.operator_norm(ball, norm=norm, effort=effort, **options), lambda V: V @ H)


# ---- oracles -----------------------------------------------------------------------------------------------------


def signs(d):
    return np.array(list(itertools.product([-1.0, 1.0], repeat=d)))


def box_bilinear(H):
    return np.abs(signs(len(H)) @ H.numpy()).sum(1).max()


def box_quadratic(H):
    """Largest uᵀHu over the box: every coordinate at -1, +1 or free and stationary (some maximiser has a regular free block)."""
    H, d, best = H.numpy(), len(H), 0.0
    for free in itertools.product([False, True], repeat=d):
        F = np.array(free)
        corners = signs(int((~F).sum())) if not F.all() else np.zeros((1, 0))
        U = np.zeros((len(corners), d))
        U[:, ~F] = corners
        if F.any():
            block = H[np.ix_(F, F)]
            if np.linalg.cond(block) > 1e12:
                continue
            U[:, F] = -np.linalg.solve(block, H[np.ix_(F, ~F)] @ corners.T).T
        U = U[(np.abs(U) <= 1 + 1e-12).all(1)]
        if len(U):
            best = max(best, np.einsum("ki,ij,kj->k", U, H, U).max())
    return best


def two_by_two(angles):
    """Rotations and reflections, flattened by rows; they and their negatives are the extreme points of the 2x2 spectral ball."""
    c, s = np.cos(angles), np.sin(angles)
    return np.concatenate((np.stack((c, -s, s, c), -1), np.stack((c, s, s, -c), -1)))


def nuclear(X):
    return np.linalg.svd(X, compute_uv=False).sum(-1)


def orthogonal_bilinear(H, *, count=1500):
    """Largest ‖H[Y]‖_* over a grid of orthogonal Y; within (π/count)²/2 of the maximum from below."""
    Y = two_by_two(np.linspace(0, np.pi, count, endpoint=False))
    return nuclear((Y @ H.numpy()).reshape(-1, 2, 2)).max()


def orthogonal_quadratic(H, *, count=1500):
    """The same for <Y, H Y>, H ≽ 0."""
    Y = two_by_two(np.linspace(0, np.pi, count, endpoint=False))
    return np.einsum("ki,ij,kj->k", Y, H.numpy(), Y).max()


def misses(bounds, truth, *, scale, below=0.0):
    """Whether the interval misses the truth, which the oracle knows up to the relative amount `below` from below."""
    return not bounds.lower <= truth * (1 + below) + 1e-12 * scale or not truth <= bounds.upper + 1e-12 * scale


def check_witnesses(ball, H, e):
    scale = float(H.abs().sum())
    if e.bilinear.witness is None:
        assert e.bilinear.lower == 0.0
    else:
        x, y = e.bilinear.witness
        assert float(ball.gauge(torch.stack((x, y))).max()) <= 1 + 1e-9
        assert float(x @ H @ y) == pytest.approx(e.bilinear.lower, abs=1e-12 * scale)
    u = e.quadratic.witness
    if u is None:
        assert e.quadratic.lower == 0.0
    else:
        assert float(ball.gauge(u.unsqueeze(0))) <= 1 + 1e-9
        assert float(u @ H @ u) == pytest.approx(e.quadratic.lower, abs=1e-12 * scale)


# ---- coverage ----------------------------------------------------------------------------------------------------


def box_blocks(count, *, largest=5):
    rng = np.random.default_rng(0)
    for index in range(count):
        d = int(rng.integers(1, largest + 1))
        yield index, matrix(FAMILIES[index % len(FAMILIES)], d, rng)


def row_blocks(count):
    """½tr(XᵀHX) (SPEC S5): H on the rows, with its closed forms."""
    rng = np.random.default_rng(1)
    for index in range(count):
        m, n = int(rng.integers(1, 6)), int(rng.integers(1, 6))
        H = matrix(FAMILIES[index % len(FAMILIES)], m, rng)
        values, r = np.linalg.eigvalsh(H.numpy()), min(m, n)
        yield index, SpectralBall(m, n), torch.kron(H, torch.eye(n, dtype=H.dtype)), (
            np.sort(np.abs(values))[-r:].sum(), values[-r:].clip(0).sum(),
        )


def kronecker_blocks(count):
    """D ↦ A D B: Σ σ_i(A) σ_i(B), both sorted (Horn); the quadratic value only for A, B ≽ 0."""
    rng = np.random.default_rng(2)
    for index in range(count):
        m, n = int(rng.integers(1, 6)), int(rng.integers(1, 6))
        family = FAMILIES[index % len(FAMILIES)]
        A, B = matrix(family, m, rng), matrix("psd" if family == "psd" else "indefinite", n, rng)
        r = min(m, n)
        truth = (np.linalg.svd(A, compute_uv=False)[:r] * np.linalg.svd(B, compute_uv=False)[:r]).sum()
        yield index, SpectralBall(m, n), torch.kron(A, B), (truth, truth if family == "psd" else None)


def square_blocks(count):
    """Any operator on 2x2 matrices."""
    rng = np.random.default_rng(3)
    for index in range(count):
        family = FAMILIES[index % len(FAMILIES)]
        H = matrix(family, 4, rng)
        yield index, SpectralBall(2, 2), H, (orthogonal_bilinear(H), orthogonal_quadratic(H) if family == "psd" else None)


def outcomes():
    """(family, misses bilinear, misses quadratic, estimate) of a thousand blocks, products with vectors only."""
    for index, H in box_blocks(400):
        e, scale = estimate(Box(len(H)), H, seed=index), float(H.abs().sum())
        check_witnesses(Box(len(H)), H, e)
        yield "box", misses(e.bilinear, box_bilinear(H), scale=scale), misses(e.quadratic, box_quadratic(H), scale=scale), e
    matrices = (("rows", row_blocks(250), 0.0), ("kronecker", kronecker_blocks(150), 0.0), ("2x2", square_blocks(200), 3e-6))
    for name, blocks, below in matrices:
        for index, ball, H, (bilinear, quadratic) in blocks:
            e, scale = estimate(ball, H, seed=index, norm="spectral"), float(H.abs().sum())
            check_witnesses(ball, H, e)
            wrong = quadratic is not None and misses(e.quadratic, quadratic, scale=scale, below=below)
            yield name, misses(e.bilinear, bilinear, scale=scale, below=below), wrong, e


@pytest.fixture(scope="module")
def thousand():
    return list(outcomes())


def test_intervals_contain_the_truth(thousand):
    assert len(thousand) == 1000
    # 1 is expected at most; 6 or more have probability 6e-4.
    assert sum(bilinear or quadratic for _, bilinear, quadratic, _ in thousand) <= 5


@pytest.mark.parametrize("name, median, largest", [("box", 1.05, 1.45), ("rows", 1.1, 1.6), ("kronecker", 1.1, 1.6), ("2x2", 1.1, 1.6)])
def test_intervals_are_informative(thousand, name, median, largest):
    ratios = np.array([e.bilinear.ratio for family, _, _, e in thousand if family == name])
    assert np.median(ratios) <= median and np.quantile(ratios, 0.99) <= largest
    # Definite the other way round, both quadratic ends are (next to) zero; elsewhere the ratio says something.
    quadratic = [e.quadratic for family, _, _, e in thousand if family == name]
    ratios = [q.ratio for q in quadratic if q.lower > 0]
    assert np.median(ratios) <= median + 0.1


def rates(monkeypatch, factor):
    """Share of misses with weak witnesses (the upper end is never reported below a witness), the certificate scaled."""
    whitened = operator_norms.extreme_eigenvalues

    def changed(*arguments, **options):
        s = yield from whitened(*arguments, **options)
        return Spectrum(s.lowest, s.highest, factor * s.floor, factor * s.ceiling, s.vectors, s.products, s.failure, s.met)

    monkeypatch.setattr(operator_norms, "extreme_eigenvalues", changed)
    weak = Effort(dense=0, columns=2, lifts=2, restarts=1, ascents=1)
    rng = np.random.default_rng(4)
    wrong = 0
    for index in range(150):
        H = matrix("indefinite", 10, rng)
        wrong += misses(estimate(Box(10), H, seed=index, effort=weak).bilinear, box_bilinear(H), scale=float(H.abs().sum()))
    return wrong / 150


def test_too_small_a_certificate_is_noticed(monkeypatch):
    with monkeypatch.context() as patch:
        assert rates(patch, 1.0) == 0
    with monkeypatch.context() as patch:
        assert rates(patch, 0.6) > 0.1


def test_seeds_and_budgets():
    H = matrix("indefinite", 20, np.random.default_rng(5))
    torch.manual_seed(0)
    one = estimate(Box(20), H, seed=3)
    torch.manual_seed(1)
    assert estimate(Box(20), H, seed=3).to_dict() == one.to_dict() != estimate(Box(20), H, seed=4).to_dict()
    count = 0

    def counting(V):
        nonlocal count
        count += len(V)
        return V @ H

    e = run(operator_norms.operator_norm(Box(20), norm="linf", effort=MATRIX_FREE, seed=3), counting)
    assert e.products == count
    short = estimate(Box(20), H, effort=Effort(dense=0, columns=1, lifts=1, restarts=1, ascents=1, certificate_products=1))
    assert short.bilinear.lower <= box_bilinear_by_ascent(H) <= short.bilinear.upper and not short.met
    assert "ratio" in short.notes[0] and short.products <= 1 + 1 + 1 + 2 + 12 * 8


def box_bilinear_by_ascent(H):
    """A lower bound from many starts, for sizes that cannot be enumerated."""
    S = np.sign(np.random.default_rng(0).standard_normal((2000, len(H))))
    for _ in range(30):
        S = np.where(S @ H.numpy() < 0, -1.0, 1.0)
    return np.abs(S @ H.numpy()).sum(1).max()


# ---- exact and closed cases --------------------------------------------------------------------------------------


@pytest.mark.parametrize("effort", [MATRIX_FREE, Effort()], ids=["matrix-free", "dense"])
@pytest.mark.parametrize("ball, bilinear", [(Box(30), 30), (Box(8), 8), (SpectralBall(4, 6), 4), (SpectralBall(5, 2), 2), (Box(1), 1)])
def test_minus_identity(ball, bilinear, effort):
    e = estimate(ball, -torch.eye(ball.size, dtype=torch.float64), effort=effort)
    assert not misses(e.bilinear, bilinear, scale=bilinear) and e.met
    assert e.bilinear.lower >= bilinear * (1 - 1e-9) and (isinstance(ball, SpectralBall) or e.bilinear.ratio < 1.02)
    assert e.quadratic.lower == 0.0 and e.quadratic.upper <= 1e-9 and e.quadratic.witness is None


def test_small_boxes_are_enumerated():
    rng = np.random.default_rng(6)
    for index in range(60):
        d = int(rng.integers(1, 11))
        H = matrix(FAMILIES[index % len(FAMILIES)], d, rng)
        e = estimate(Box(d), H, effort=Effort())
        scale = float(H.abs().sum())
        assert e.bilinear.failure == 0.0 and e.met and e.products == d
        assert e.bilinear.contains(box_bilinear(H), rtol=1e-15) and e.bilinear.ratio <= 1 + 1e-12
        check_witnesses(Box(d), H, e)
        if d <= 6:
            assert not misses(e.quadratic, box_quadratic(H), scale=scale)
        if bool((H.diagonal() >= 0).all()):
            assert e.quadratic.upper - e.quadratic.lower <= 1e-12 * scale
            assert e.quadratic.upper == pytest.approx(float(((signs(d) @ H.numpy()) * signs(d)).sum(1).max()), rel=1e-12)


def test_written_out_matrices_are_certain():
    for index, ball, H, (bilinear, quadratic) in row_blocks(40):
        e = estimate(ball, H, effort=Effort(), norm="spectral", seed=index)
        scale = float(H.abs().sum())
        assert e.bilinear.failure == 0.0 and e.products == ball.size
        assert not misses(e.bilinear, bilinear, scale=scale) and not misses(e.quadratic, quadratic, scale=scale)
        check_witnesses(ball, H, e)


def test_signs_do_not_attain_the_quadratic_value_of_a_negative_diagonal():
    """diag(1, -1): sign vectors give 0, the box 1 (SPEC S4)."""
    e = estimate(Box(2), torch.diag(torch.tensor([1.0, -1.0], dtype=torch.float64)), effort=Effort())
    assert e.quadratic.lower == pytest.approx(1, abs=1e-6) and e.quadratic.upper >= 1


@pytest.mark.parametrize("d", [2, 4, 5])
def test_chain_of_both_quantities(d):
    """max|uᵀHu| ≤ bilinear ≤ q(H) + q(-H) ≤ 2 max|uᵀHu| (ESTIMATORS), and the intervals respect it."""
    rng = np.random.default_rng(d)
    for index in range(25):
        H = matrix(FAMILIES[index % len(FAMILIES)], d, rng)
        bilinear, q, opposite = box_bilinear(H), box_quadratic(H), box_quadratic(-H)
        largest, slack = max(q, opposite), 1e-12 * bilinear
        assert largest <= bilinear + slack and bilinear <= q + opposite + slack and q + opposite <= 2 * largest + slack
        plus, minus = estimate(Box(d), H), estimate(Box(d), -H)
        assert plus.bilinear.lower <= plus.quadratic.upper + minus.quadratic.upper + slack
        assert max(plus.quadratic.lower, minus.quadratic.lower) <= plus.bilinear.upper + slack
        assert plus.quadratic.lower <= plus.bilinear.lower and plus.quadratic.upper <= plus.bilinear.upper


def square_quadratic(K):
    """Largest sᵀKs over |s_1|, |s_2| ≤ 1 for each 2x2 K: the corners, the stationary points of the edges, zero."""
    a, b, c = K[:, 0, 0], K[:, 0, 1], K[:, 1, 1]
    best = np.maximum(a + c + 2 * np.abs(b), 0.0)
    for fixed, other in ((a, c), (c, a)):
        inside = (other < 0) & (np.abs(b) <= -other)
        best = np.maximum(best, np.where(inside, fixed - b**2 / np.where(inside, other, -1.0), 0.0))
    return best.max()


def test_general_quadratic_on_two_by_two():
    """Indefinite: D = s₁u₁v₁ᵀ + s₂u₂v₂ᵀ over a grid of bases, the best s by faces of the square."""
    angles = np.linspace(0, np.pi, 90, endpoint=False)
    bases = np.stack((np.stack((np.cos(angles), np.sin(angles)), -1), np.stack((-np.sin(angles), np.cos(angles)), -1)), 1)
    atoms = np.einsum("aik,bil->abikl", bases, bases).reshape(len(angles) ** 2, 2, 4)
    rng = np.random.default_rng(7)
    shares = []
    for index in range(40):
        H = matrix("indefinite", 4, rng)
        truth = square_quadratic(atoms @ H.numpy() @ atoms.transpose(0, 2, 1))
        e = estimate(SpectralBall(2, 2), H, seed=index)
        # The grid is (π/90)² of the operator's size below the maximum at most.
        assert not misses(e.quadratic, truth, scale=float(H.abs().sum()), below=0.02)
        if truth > 0:
            shares.append(e.quadratic.lower / truth)
    # Local maxima: an ascent from few starts does not always find the best.
    assert len(shares) > 30
    assert np.quantile(shares, 0.5) > 0.99 and np.quantile(shares, 0.1) > 0.7


# ---- weights -----------------------------------------------------------------------------------------------------


def test_weighted_box_against_enumeration():
    """L_Γ = sup over |u_i| ≤ γ_i (SPEC S2), by the congruence with diag(γ)."""
    rng = np.random.default_rng(8)
    for index in range(40):
        d = int(rng.integers(1, 6))
        H = matrix(FAMILIES[index % len(FAMILIES)], d, rng)
        gamma = torch.from_numpy(rng.random(d) * 2 * (rng.random(d) > 0.2))
        weighted = gamma.unsqueeze(-1) * H * gamma
        scale = float(weighted.abs().sum())
        for effort in (MATRIX_FREE, Effort()):
            program = operator_norms.operator_norm(Box(d), norm="linf", effort=effort, seed=index)
            e = run(congruence(program, lambda V, g=gamma: V * g, lambda W, g=gamma: W * g), lambda V, H=H: V @ H)
            assert not misses(e.bilinear, box_bilinear(weighted), scale=scale)
            assert not misses(e.quadratic, box_quadratic(weighted), scale=scale)


@pytest.mark.parametrize("m, n", [(2, 3), (3, 2), (3, 3)])
def test_agrees_with_the_closed_forms_of_trace_quadratics(m, n):
    """½tr(XᵀHX), H ≽ 0: :mod:`deva_theory.smoothness.estimators.weighted` is exact where the estimator is not told the structure."""
    rng = np.random.default_rng(9)
    for index in range(6):
        H = matrix("psd", m, rng)
        full = torch.kron(H, torch.eye(n, dtype=torch.float64))
        gamma = torch.from_numpy(rng.random((m, n)))
        Q_L, Q_R = (torch.from_numpy(np.linalg.qr(rng.standard_normal((k, k)))[0]) for k in (m, n))
        scale = float(full.abs().sum())
        box = estimate(Box(m * n), full, seed=index)
        assert not misses(box.quadratic, n * float(box_smoothness(H)), scale=scale)
        spectral = estimate(SpectralBall(m, n), full, norm="spectral", seed=index)
        assert not misses(spectral.quadratic, float(spectral_smoothness(H, n)), scale=scale)
        g = gamma.reshape(-1)
        program = operator_norms.operator_norm(Box(m * n), norm="linf", effort=MATRIX_FREE)
        e = run(congruence(program, lambda V, g=g: V * g, lambda W, g=g: W * g), lambda V, full=full: V @ full)
        assert not misses(e.quadratic, float(weighted_box_smoothness(H, gamma)), scale=scale)

        def transform(V, gamma=gamma, Q_L=Q_L, Q_R=Q_R):
            return (Q_L @ (gamma * V.reshape(-1, m, n)) @ Q_R.mT).reshape(V.shape)

        def adjoint(W, gamma=gamma, Q_L=Q_L, Q_R=Q_R):
            return (gamma * (Q_L.mT @ W.reshape(-1, m, n) @ Q_R)).reshape(W.shape)

        program = operator_norms.operator_norm(SpectralBall(m, n), norm="spectral", effort=MATRIX_FREE)
        e = run(congruence(program, transform, adjoint), lambda V, full=full: V @ full)
        interval = weighted_spectral_smoothness(H, gamma, Q_L)
        assert e.quadratic.lower <= float(interval.upper) * (1 + 1e-12) and float(interval.lower) <= e.quadratic.upper * (1 + 1e-12)
        assert e.quadratic.lower >= 0.97 * float(interval.lower)


# ---- products of balls -------------------------------------------------------------------------------------------


def test_product_of_boxes_is_a_box():
    rng = np.random.default_rng(10)
    for index in range(20):
        H = matrix(FAMILIES[index % len(FAMILIES)], 5, rng)
        for effort in (MATRIX_FREE, Effort()):
            e = estimate(ProductBall([Box(2), Box(3)]), H, effort=effort, seed=index)
            scale = float(H.abs().sum())
            assert not misses(e.bilinear, box_bilinear(H), scale=scale) and not misses(e.quadratic, box_quadratic(H), scale=scale)


def test_box_and_spectral_piece_coupled():
    """Sign vectors times orthogonal matrices, on any symmetric coupling."""
    rng = np.random.default_rng(11)
    ball = ProductBall([Box(2), SpectralBall(2, 2)])
    Y = two_by_two(np.linspace(0, 2 * np.pi, 1500, endpoint=False))
    points = np.concatenate([np.concatenate((np.tile(s, (len(Y), 1)), Y), 1) for s in signs(2)])
    for index in range(20):
        H = matrix(FAMILIES[index % len(FAMILIES)], 6, rng)
        G = points @ H.numpy()
        truth = (np.abs(G[:, :2]).sum(1) + nuclear(G[:, 2:].reshape(-1, 2, 2))).max()
        for effort in (MATRIX_FREE, Effort()):
            e = estimate(ball, H, effort=effort, seed=index)
            assert not misses(e.bilinear, truth, scale=float(H.abs().sum()), below=2e-5)
            assert e.bilinear.ratio < 1.6
            check_witnesses(ball, H, e)


def test_a_large_piece_without_curvature_changes_nothing():
    H = matrix("indefinite", 6, np.random.default_rng(12))
    ball = ProductBall([Box(6), Box(3000)])

    def apply(V):
        return torch.cat((V[:, :6] @ H, torch.zeros_like(V[:, 6:])), dim=1)

    e = run(operator_norms.operator_norm(ball, norm="linf"), apply)
    assert not misses(e.bilinear, box_bilinear(H), scale=1.0) and e.bilinear.ratio < 1.3


# ---- degenerate input --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("effort", [MATRIX_FREE, Effort()], ids=["matrix-free", "dense"])
def test_zero_operator(effort):
    for ball in (Box(1), Box(5), SpectralBall(2, 3), ProductBall([Box(2), SpectralBall(2, 2)])):
        e = estimate(ball, torch.zeros(ball.size, ball.size, dtype=torch.float64), effort=effort)
        assert e.bilinear.lower == e.bilinear.upper == e.quadratic.upper == 0.0 and e.met and "no curvature" in e.notes[0]


@pytest.mark.parametrize("dense", [0, 256])
def test_operators_that_vanish_on_many_vertices_are_not_taken_for_zero(dense):
    """(e₁-e₂)(e₁-e₂)ᵀ on half of all sign vectors; its like on rotations.  Eight starts of that kind would all vanish once in 256."""
    h = torch.tensor([1.0, 0.0, 0.0, -1.0], dtype=torch.float64)
    few = Effort(dense=dense, columns=1, lifts=2, restarts=1, ascents=2, certificate_products=4)
    for seed in range(40):
        box = estimate(Box(2), torch.tensor([[1.0, -1.0], [-1.0, 1.0]], dtype=torch.float64), effort=few, seed=seed)
        spectral = estimate(SpectralBall(2, 2), torch.outer(h, h), effort=few, seed=seed)
        assert box.bilinear.contains(4.0, rtol=1e-12) and spectral.bilinear.contains(4.0, rtol=1e-12)


@pytest.mark.parametrize("exponent", [-1000, -400, 400, 900])
@pytest.mark.parametrize("ball", [Box(6), SpectralBall(2, 3), ProductBall([Box(2), SpectralBall(2, 2)])], ids=str)
def test_powers_of_two_scale_both_ends(ball, exponent):
    H = matrix("indefinite", 6, np.random.default_rng(13))
    scale = 2.0**exponent
    for effort in (MATRIX_FREE, Effort()):
        plain, moved = estimate(ball, H, effort=effort), estimate(ball, H * scale, effort=effort)
        for quantity in ("bilinear", "quadratic"):
            a, b = getattr(plain, quantity), getattr(moved, quantity)
            assert (b.lower, b.upper) == (a.lower * scale, a.upper * scale)


@pytest.mark.parametrize("scale", [1e-25, 1.0, 1e25])
def test_single_precision(scale):
    rng = np.random.default_rng(14)
    for index in range(30):
        H = (matrix(FAMILIES[index % len(FAMILIES)], 6, rng) * scale).float()
        exact = H.double() / scale
        for effort in (MATRIX_FREE, Effort()):
            program = operator_norms.operator_norm(Box(6), norm="linf", effort=effort, noise=1e-6, dtype=torch.float32, seed=index)
            e = run(program, lambda V, H=H: V @ H)
            truth, slack = box_bilinear(exact), 1e-5 * float(exact.abs().sum())
            assert e.bilinear.lower / scale <= truth + slack and truth <= e.bilinear.upper / scale + slack
            assert e.bilinear.witness is None or e.bilinear.witness[0].dtype == torch.float32


def test_very_unequal_sides():
    rng = np.random.default_rng(15)
    for m, n in ((2, 60), (60, 2), (1, 40), (40, 1)):
        H = matrix("indefinite", m, rng) if m < n else matrix("indefinite", n, rng)
        full = torch.kron(H, torch.eye(n, dtype=H.dtype)) if m < n else torch.kron(torch.eye(m, dtype=H.dtype), H)
        values = np.linalg.eigvalsh(H.numpy())
        e = estimate(SpectralBall(m, n), full, norm="spectral")
        assert not misses(e.bilinear, np.abs(values).sum(), scale=float(full.abs().sum()))
        assert not misses(e.quadratic, values.clip(0).sum(), scale=float(full.abs().sum()))
        assert math.isfinite(e.bilinear.ratio) and e.bilinear.ratio < 1.3


# ---- accuracy of the products, randomness ------------------------------------------------------------------------


@pytest.mark.parametrize("noise", [1e-2, 1e-5])
@pytest.mark.parametrize("effort", [MATRIX_FREE, Effort()], ids=["matrix-free", "dense"])
def test_both_ends_allow_for_the_accuracy_of_the_products(effort, noise):
    """Every entry of H off by 0.7 noise in the worst direction for each end: interval of H + E, truth of H."""
    rng = np.random.default_rng(16)
    for index in range(40):
        H = matrix(FAMILIES[index % len(FAMILIES)], 6, rng)
        truth, quadratic = box_bilinear(H), box_quadratic(H)
        for sign in (1, -1):
            e = estimate(Box(6), H * (1 + sign * 0.7 * noise), effort=effort, noise=noise, seed=index)
            scale = float(H.abs().sum())
            assert not misses(e.bilinear, truth, scale=scale) and not misses(e.quadratic, quadratic, scale=scale)
            assert e.bilinear.lower < e.bilinear.upper


def test_a_witness_below_the_accuracy_of_the_products_is_none():
    """Negative definite, products with errors: a value of uᵀHu above zero is an error."""
    H = -torch.eye(20, dtype=torch.float64)
    H[0, 0] = 1e-4
    for effort in (MATRIX_FREE, Effort()):
        e = estimate(Box(20), H, effort=effort, noise=1e-2)
        assert e.quadratic.lower == 0.0 and e.quadratic.witness is None and e.quadratic.upper >= 1e-4
        assert estimate(Box(20), H, effort=effort).quadratic.lower > 0


@pytest.mark.parametrize("dense", [0, 256])
@pytest.mark.parametrize("ball", [Box(1), Box(6), SpectralBall(2, 3)], ids=str)
def test_single_precision_has_no_intervals_of_width_zero(ball, dense):
    H = torch.eye(ball.size)
    for scale in (1.0, -3.0):
        program = operator_norms.operator_norm(ball, norm="linf", effort=Effort(dense=dense), dtype=torch.float32)
        e = run(program, lambda V, scale=scale: V @ H * scale)
        assert e.bilinear.lower < e.bilinear.upper and e.met


def test_double_precision_is_as_narrow_as_it_was():
    H = matrix("psd", 12, np.random.default_rng(17))
    e = estimate(Box(12), H, effort=Effort(), noise=1e-13)
    assert e.bilinear.ratio <= 1 + 1e-11 and e.quadratic.ratio <= 1 + 1e-11 and e.met


@pytest.mark.parametrize("effort", [MATRIX_FREE, Effort()], ids=["matrix-free", "dense"])
def test_a_width_that_the_accuracy_forbids_is_not_met(effort):
    e = estimate(Box(10), torch.eye(10, dtype=torch.float64), effort=effort, noise=0.2, tolerance=0.1)
    assert not e.met and type(e.met) is bool and e.bilinear.contains(10.0)


def calls(monkeypatch, **options):
    """What the certificates of a run that needs both are asked for, and every random stream in use."""
    asked, streams = [], []
    whitened, draws = operator_norms.extreme_eigenvalues, operator_norms.generator

    def spied(*arguments, **keywords):
        asked.append(keywords)
        return whitened(*arguments, **keywords)

    def drawn(seed, stream):
        streams.append((seed, stream))
        return draws(seed, stream)

    monkeypatch.setattr(operator_norms, "extreme_eigenvalues", spied)
    monkeypatch.setattr(operator_norms, "generator", drawn)
    estimate(Box(30), matrix("indefinite", 30, np.random.default_rng(18)), tolerance=1e-9, **options)
    return asked, streams


def test_certificates_share_the_failure_probability_and_know_the_accuracy(monkeypatch):
    asked, _ = calls(monkeypatch, failure=1e-2, noise=3e-5)
    assert len(asked) == 2 and sum(a["failure"] for a in asked) == pytest.approx(1e-2)
    assert [a["noise"] for a in asked] == [3e-5, 3e-5]


def test_lift_rounding_and_certificates_draw_from_streams_of_their_own(monkeypatch):
    asked, streams = calls(monkeypatch, seed=3)
    used = [*streams, *((a["seed"], a["stream"]) for a in asked)]
    assert len(used) == len(set(used)) == 4 and {seed for seed, _ in used} == {3}


def test_the_certificate_starts_from_no_vector_of_the_lift():
    """The vectors asked for: the first rows are the lift's, the first single row is the whitened start."""
    vectors = []
    H = torch.eye(40, dtype=torch.float64)

    def products(V):
        vectors.append(V)
        return V @ H

    # For H = I and equal floors M is a multiple of a diagonal close to I: starts and their images are nearly parallel.
    run(operator_norms.operator_norm(Box(40), norm="linf", effort=Effort(dense=0, columns=64, lifts=1), seed=1), products)
    start = next(V for V in vectors if len(V) == 1)
    lifted = vectors[0]
    cosines = (lifted @ start.T).abs().squeeze(1) / lifted.norm(dim=1) / start.norm()
    assert float(cosines.max()) < 0.7


@pytest.mark.parametrize("seed", [2**70, np.int64(3)])
def test_large_seeds_and_other_default_devices(seed):
    H = matrix("indefinite", 6, np.random.default_rng(19))
    for effort in (MATRIX_FREE, Effort()):
        plain = estimate(Box(6), H, effort=effort, seed=seed)
        with torch.device("meta"):
            assert estimate(Box(6), H, effort=effort, seed=seed).to_dict() == plain.to_dict()
    with pytest.raises(ValueError, match="seed is -1"):
        estimate(Box(6), H, seed=-1)


def test_lower_ends_stay_numbers_where_the_norm_is_none():
    e = estimate(Box(30), 1e307 * torch.eye(30, dtype=torch.float64))
    assert math.isfinite(e.bilinear.lower) and e.bilinear.upper == math.inf

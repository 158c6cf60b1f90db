"""The split entrywise in a rotated basis: M4, M5 and M6 of the specification.

As in `test_matrix`: an identity is a function that returns its worst violation in units of the tolerance, and
its twin, a perturbed identity, must fail on the same examples.
"""

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deva_theory.decomposition import decompose
from deva_theory.rules import Adaptation, deva_spectral
from paper_checks.matrix_search import FIRST, SECOND
from paper_checks.matrix_search import moving_bases_gap as gap_of
from tests.oracles.kronecker import kronecker, msign, split, vec
from tests.strategies import matrices, orthogonal, refuted, tensors


def worst(values):
    return max([0.0, *map(float, values)])


def eps(x):
    return torch.finfo(x.dtype).eps


@st.composite
def fixed_bases(draw, dtype):
    """(U, σ, V) of histories U diag(σ_s) Vᵀ, σ_s ≥ 0 in any order; the first fixes the basis."""
    m, n = draw(st.integers(2, 4)), draw(st.integers(2, 4))
    k, steps = min(m, n), draw(st.integers(2, 5))
    U, V = draw(orthogonal(m, dtype)), draw(orthogonal(n, dtype))
    first = draw(st.permutations(range(1, k + 1)))
    values = st.lists(st.integers(0, 5), min_size=k, max_size=k)
    later = draw(st.lists(values, min_size=steps - 1, max_size=steps - 1))
    return U[:, :k], torch.tensor([list(first), *later], dtype=dtype), V[:, :k]


def histories(dtype):
    """One to four matrices of one shape, degenerate ones included, on a time axis."""
    def stacked(shape):
        kinds = st.sampled_from(("generic", "zero", "rank_one", "repeated", "orthogonal", "diagonal"))
        return st.lists(
            kinds.flatmap(lambda kind: matrices(kind, shape=shape, dtype=dtype)), min_size=1, max_size=4
        ).map(torch.stack)

    side = st.integers(1, 3)
    return st.one_of(st.tuples(side, side).flatmap(stacked), st.just(torch.zeros(2, 0, 3, dtype=dtype)))


def nonnegative(dtype):
    shape = st.tuples(st.integers(1, 5), st.integers(1, 4))
    return shape.flatmap(lambda s: tensors(s, dtype)).map(torch.abs)


# ---- M4: a fixed eigenbasis --------------------------------------------------------------------------------


def m4_expectation(example, twin=False):
    """E[P] = (V⊗U) diag(E[σ_j σ_i]) (V⊗U)ᵀ; twin: diag(E[σ_j] E[σ_i])."""
    U, sigma, V = example
    U, s, V = U.double().numpy(), sigma.double().numpy(), V.double().numpy()
    mean = np.mean([kronecker((U * row) @ V.T) for row in s], axis=0)
    second = np.outer(s.mean(0), s.mean(0)) if twin else np.mean([np.outer(row, row) for row in s], axis=0)
    W = np.kron(V, U)
    return float(np.abs(mean - (W * vec(second)) @ W.T).max()) / (300 * eps(sigma) * float((s**2).max()))


def m4_run(example, preset):
    """The S∞ rule without momentum along the history: last direction without shape factor, details."""
    U, sigma, V = example
    every = 1 if preset == "corrected" else 100
    rule = deva_spectral(preset=preset, betas=(0.0, 0.9), eps=0.0, refresh_every=every)
    history = (U * sigma.unsqueeze(-2)) @ V.mT
    state = rule.init(history[0])
    for G in history:
        direction, state, details = rule.update(G, state, diagnostics=True)
    weights = 0.9 ** np.arange(len(sigma) - 1, -1, -1)
    weights = weights * (0.1 if preset == "paper" else 1 / weights.sum())
    weights = torch.from_numpy(weights).to(sigma.dtype)
    return direction / (0.2 * max(history.shape[-2:]) ** 0.5), details, weights


def m4_update(preset, example, twin=False):
    """The rule's update is U diag(σ_i/√E[σ_i²]) Vᵀ; twin: plain mean in place of the root mean square."""
    U, sigma, V = example
    direction, _, w = m4_run(example, preset)
    square = (w @ sigma) ** 2 if twin else w @ sigma**2
    expected = (U * (sigma[-1] / square.sqrt())) @ V.mT
    return float((direction - expected).abs().max()) / (1e4 * eps(sigma))


def m4_adaptation(example, twin=False):
    """Γ_ij = √(σ_i σ_j / E[σ_i σ_j]) in the basis, off the diagonal too; twin: root-mean-square marginals."""
    _, sigma, _ = example
    _, details, w = m4_run(example, "paper")
    s = sigma[:, torch.argsort(sigma[0], descending=True)]
    covariance = torch.einsum("t,ti,tj->ij", w, s, s)
    if twin:
        rms = (w @ s**2).sqrt()
        covariance = torch.outer(rms, rms)
    now = torch.outer(s[-1], s[-1])
    expected = (now / covariance).sqrt()
    k = s.shape[1]
    # A zero σ comes out of the rotation as rounding: leave its rows and columns out.
    kept = now > 0
    gap = (details.variance_adaptation[:k, :k] - expected)[kept]
    return worst([gap.abs().max() / (1e4 * eps(sigma))] if gap.numel() else [])


def m4_diagonal(example, twin=False):
    """Only Γ_ii acts: any other Γ_ij gives the same update; twin: change the diagonal instead."""
    _, sigma, _ = example
    _, details, _ = m4_run(example, "paper")
    gamma = details.variance_adaptation
    noise = torch.linspace(0.5, 2.0, gamma.numel(), dtype=gamma.dtype).reshape(gamma.shape)
    diagonal = torch.eye(*gamma.shape, dtype=gamma.dtype) > 0
    changed = torch.where(diagonal != twin, gamma, noise)
    replaced = type(details)(changed, details.scale_invariant, details.basis, details.scale)
    gap = replaced.adapt(details.scale_invariant) - details.adapt(details.scale_invariant)
    return float(gap.abs().max()) / (1e4 * eps(sigma))


def m4_hypothesis(example, twin=False):
    """Twin: a last gradient in a basis turned by 0.3 rad breaks the split exact under the hypothesis."""
    U, sigma, V = example
    history = ((U * sigma.unsqueeze(-2)) @ V.mT).double()
    if twin:
        turn = torch.eye(len(U), dtype=torch.float64)
        turn[:2, :2] = torch.tensor([[np.cos(0.3), -np.sin(0.3)], [np.sin(0.3), np.cos(0.3)]])
        history[-1] = turn @ history[-1]
    found = decompose(history, kind="kronecker").update[-1]
    s = sigma.double()
    expected = (U.double() * (s[-1] / (s**2).sum(0).sqrt())) @ V.double().mT
    cond = float((s**2).sum() / (s[0] ** 2).min())
    return float((found - expected).abs().max()) / (1e5 * eps(sigma) * cond)


# ---- M6: covariance against marginals ----------------------------------------------------------------------


def gammas(X, kind):
    """Γ of the last of the amplitudes √(r_i c_j) of X, ``(T, m, n)``, over the whole history."""
    part = Adaptation(None, numerator="gradient", tracked="gradient", amplitude="marginals", factored=kind)
    state = part.init(X[0])
    for G in X:
        sources = {"gradient": G, "momentum": G, "scale_invariant": G}
        gamma = part.update(sources, dict.fromkeys(sources, 1.0), state, step=1, event_ndim=2, donate=False)
    return gamma


def m6_order(history, twin=False):
    """Γ(covariance) ≥ Γ(root-mean-square marginals) entrywise; twin: ≤."""
    gap = gammas(history, "root_mean_square") - gammas(history, "no")
    return worst([((-gap if twin else gap) / (100 * eps(history))).max()] if gap.numel() else [])


def m6_equality(history, twin=False):
    """Equal where r_i(s) = c_j(s) throughout: the diagonal of symmetric matrices; twin: off the diagonal."""
    n = min(history.shape[-2:])
    X = history[:, :n, :n] + history[:, :n, :n].mT
    gap = (gammas(X, "root_mean_square") - gammas(X, "no")).abs()
    chosen = gap - torch.diag(gap.diagonal()) if twin else gap.diagonal()
    return worst([chosen.max() / (100 * eps(history))] if n else [])


def plain_means(sigma):
    """Γ(plain means) - Γ(covariance) of the last σ."""
    s = sigma.double()
    now, mean = torch.outer(s[-1], s[-1]), s.mean(0)
    covariance = torch.einsum("ti,tj->ij", s, s) / len(s)
    kept = now > 0
    return ((now / torch.outer(mean, mean)).sqrt() - (now / covariance).sqrt())[kept]


IDENTITIES = {
    "M4 expectation": (m4_expectation, fixed_bases),
    "M4 update, corrected": (partial(m4_update, "corrected"), fixed_bases),
    "M4 update, paper": (partial(m4_update, "paper"), fixed_bases),
    "M4 adaptation": (m4_adaptation, fixed_bases),
    "M4 only the diagonal acts": (m4_diagonal, fixed_bases),
    "M4 hypothesis": (m4_hypothesis, fixed_bases),
    "M6 order": (m6_order, histories),
    "M6 equality": (m6_equality, histories),
}
every_dtype = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])


@every_dtype
@pytest.mark.parametrize("name", IDENTITIES)
def test_identity_holds(name, dtype):
    violation, examples = IDENTITIES[name]

    @given(examples(dtype))
    def check(example):
        assert violation(example) <= 1

    check()


@every_dtype
@pytest.mark.parametrize("name", IDENTITIES)
def test_perturbed_identity_fails(name, dtype):
    violation, examples = IDENTITIES[name]
    assert refuted(examples(dtype), lambda example: violation(example, twin=True) <= 1, max_examples=200)


# ---- M5: bases that move -----------------------------------------------------------------------------------


def moving_bases_gap(angle):
    return gap_of(first=FIRST, second=SECOND, angle=angle)


def numpy_gap(angle):
    """The measure of `moving_bases_gap`, written again with NumPy."""
    c, s = np.cos(angle), np.sin(angle)
    history = np.stack([np.diag([30.0, 1.0]), np.array([[c, -s], [s, c]]) @ np.diag([10.0, 1.0])])
    exact = split("kronecker", history, 1)[0]
    Q_L = np.linalg.eigh(sum(A @ A.T for A in history))[1]
    Q_R = np.linalg.eigh(sum(A.T @ A for A in history))[1]
    turned = Q_L.T @ history @ Q_R
    amplitudes = [np.outer(np.linalg.norm(A, axis=1), np.linalg.norm(A, axis=0)) for A in turned]
    gamma = np.sqrt(amplitudes[1] / sum(amplitudes))
    entrywise = Q_L @ (gamma * (Q_L.T @ msign(history[1]) @ Q_R)) @ Q_R.T
    return np.linalg.norm(entrywise - exact, 2) / np.linalg.norm(exact, 2)


@pytest.mark.parametrize("angle, gap", [(0.0, 0.0), (0.1, 0.152), (0.3, 0.408), (0.8, 0.521)])
def test_entrywise_split_departs_from_the_exact_one_as_the_bases_move(angle, gap):
    """M5 on diag(30, 1), Rot(angle) diag(10, 1): relative 2-norm distance of the updates at step 2."""
    assert moving_bases_gap(angle) == pytest.approx(gap, abs=1e-3)
    assert numpy_gap(angle) == pytest.approx(moving_bases_gap(angle), abs=1e-10)


def test_gap_grows_in_proportion_to_small_angles_and_closes_when_the_bases_agree_again():
    """Largest near 0.6 rad; at a right angle the bases are the same up to order and sign."""
    gaps = [moving_bases_gap(angle) for angle in (0.0, 1e-3, 2e-3, 0.05, 0.1, 0.2, 0.3, 0.5)]
    assert gaps == sorted(gaps)
    assert gaps[2] / gaps[1] == pytest.approx(2.0, rel=0.01)
    assert moving_bases_gap(np.pi / 2) < 1e-10


# ---- M6: plain means ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("sign", [1, -1])
def test_plain_means_have_no_order(sign):
    """Γ(plain means) is above Γ(covariance) for some histories and below for others."""
    def ordered(sigma):
        gap = plain_means(sigma)
        return bool((sign * gap <= 1e-9).all())

    assert refuted(nonnegative(torch.float64), ordered, max_examples=200)


def test_plain_means_are_above_on_the_diagonal():
    """E[σ_i]² ≤ E[σ_i²]: there is an order where i = j, which is all that acts under M4's hypothesis."""
    sigma = torch.rand(5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert (plain_means(sigma).reshape(4, 4).diagonal() >= 0).all()

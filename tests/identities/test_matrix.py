"""The matrix decomposition as identities: M1, M2, M3 and M8 of the specification.

Every identity is one function of an example that returns its worst violation in units of the tolerance,
and takes ``twin=True`` to perturb the statement.  The true one must hold on every example, the false one must
fail on some.  The oracle is NumPy: SVDs one matrix at a time, ``numpy.kron`` on column-stacked vectors.
"""

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from deva_theory.decomposition import Decomposition, decompose
from deva_theory.linalg import gram_power, polar_factor, symmetric_power
from tests.oracles.kronecker import condition, kronecker, msign, spectrum, split, split_condition, vec
from tests.strategies import matrices, matrix_batches, powers_of_two, refuted, tensors

KINDS = ("kronecker", "shampoo", "full_matrix")
WELL_CONDITIONED = (
    "generic", "zero", "rank_one", "repeated", "orthogonal", "diagonal", "wide", "tall", "row", "column",
    "empty",
)


def elements(G):
    """The matrices of a batch, as float64 arrays."""
    return G.double().reshape(-1, *G.shape[-2:]).numpy() if G.ndim > 2 else G.double().numpy()[None]


def norm2(A):
    return float(np.linalg.norm(A, 2)) if A.size else 0.0


def worst(values):
    return max([0.0, *map(float, values)])


def eps(x):
    return torch.finfo(x.dtype).eps


# ---- examples ----------------------------------------------------------------------------------------------


def any_matrices(dtype):
    return st.one_of(matrices(dtype=dtype, max_side=4), matrix_batches(dtype=dtype, max_side=4, max_batch=2))


def plain_matrices(dtype):
    return st.sampled_from(WELL_CONDITIONED).flatmap(lambda kind: matrices(kind, dtype=dtype, max_side=4))


def scaled(dtype):
    return st.tuples(any_matrices(dtype), powers_of_two(dtype, margin=10))


def vectors(dtype):
    return st.integers(0, 5).flatmap(lambda d: tensors((d,), dtype))


def histories(dtype):
    """One to four matrices of one shape, degenerate ones included, on a time axis."""
    def stacked(shape):
        kinds = st.sampled_from(("generic", "zero", "rank_one", "repeated", "orthogonal", "diagonal"))
        return st.lists(
            kinds.flatmap(lambda kind: matrices(kind, shape=shape, dtype=dtype)), min_size=1, max_size=4
        ).map(torch.stack)

    side = st.integers(1, 3)
    return st.one_of(st.tuples(side, side).flatmap(stacked), st.just(torch.zeros(2, 0, 3, dtype=dtype)))


# ---- M1, M2, M8: one matrix --------------------------------------------------------------------------------


def m1_kronecker(G, twin=False):
    """P^{†1/2} vec G = vec msign(G); twin: the factors of ⊗ swapped, as for row-stacked vec."""
    found = []
    polar = elements(polar_factor(G))
    for A, O in zip(elements(G), polar, strict=True):
        cond = condition(A)
        assume(eps(G) * cond**2 < 1e-3)
        P = kronecker(A.T if twin else A)
        root = symmetric_power(torch.from_numpy(P).to(G.dtype), -0.5).double().numpy()
        tolerance = 100 * eps(G) * cond**2
        found.append(np.abs(root @ vec(A) - vec(O)).max(initial=0) / tolerance)
    return worst(found)


def m1_shampoo(G, twin=False):
    """(GGᵀ)^{†1/4} G (GᵀG)^{†1/4} = msign(G); twin: exponent 1/2 on one side."""
    left = gram_power(G, -0.5 if twin else -0.25)
    found = elements(left @ G @ gram_power(G.mT, -0.25))
    gaps = []
    for A, product, O in zip(elements(G), found, elements(polar_factor(G)), strict=True):
        # σ near the rank tolerance may count in one dtype only.
        assume(eps(G) * condition(A) < 1e-3)
        tolerance = 100 * eps(G) * condition(A)
        gaps += [np.abs(gap).max(initial=0) / tolerance for gap in (product - O, O - msign(A))]
    return worst(gaps)


def m2_domination(G, twin=False):
    """vec G vec Gᵀ ≼ r P; twin: 0.99 r."""
    found = []
    for A in elements(G):
        r = spectrum(A)[1].size
        g = vec(A)
        least = np.linalg.eigvalsh((0.99 if twin else 1.0) * r * kronecker(A) - np.outer(g, g)).min(initial=0)
        found.append(-least / (1e-13 * max(float(g @ g), 1e-300)))
    return worst(found)


def m2_equality(G, twin=False):
    """vec Gᵀ P† vec G = r with the library's P†: no smaller constant can do; twin: min(m, n)."""
    found = []
    for A in elements(G):
        cond = condition(A)
        assume(eps(G) * cond**2 < 1e-3)
        pinv = symmetric_power(torch.from_numpy(kronecker(A)).to(G.dtype), -1.0).double().numpy()
        r = min(A.shape) if twin else spectrum(A)[1].size
        found.append(abs(float(vec(A) @ pinv @ vec(A)) - r) / (200 * eps(G) * cond**2))
    return worst(found)


def m8_dual(G, twin=False):
    """<G, msign G> = ‖G‖_* and no O of the unit ball gives more; twin: the Frobenius norm."""
    found = []
    rng = np.random.default_rng(0)
    for A, O in zip(elements(G), elements(polar_factor(G)), strict=True):
        s = spectrum(A)[1]
        nuclear = float(np.linalg.norm(s) if twin else s.sum())
        tolerance = 100 * eps(G) * max(nuclear, 1e-300)
        found.append(abs(float((A * O).sum()) - nuclear) / tolerance)
        found.append((norm2(O) - 1) / (100 * eps(G)))
        for _ in range(3):
            feasible = msign(rng.standard_normal(A.shape)) * rng.uniform(0, 1)
            found.append((float((A * feasible).sum()) - float((A * O).sum())) / tolerance)
    return worst(found)


def m8_idempotent(G, twin=False):
    """msign(msign G) = msign G; twin: five quintic Newton-Schulz steps."""
    method = "newton_schulz" if twin else "svd"
    O = polar_factor(G, method=method)
    return worst([(polar_factor(O, method=method) - O).abs().amax() / (100 * eps(G))] if G.numel() else [])


def m8_odd(G, twin=False):
    """msign(-G) = -msign(G), and of the transpose the transpose; twin: even."""
    O = polar_factor(G)
    gaps = (polar_factor(-G) - (O if twin else -O), polar_factor(G.mT).mT - O)
    cond = worst(condition(A) for A in elements(G))
    return worst([g.abs().amax() / (100 * eps(G) * cond) for g in gaps] if G.numel() else [])


def m8_homogeneous(example, twin=False):
    """msign(cG) = msign(G) for c > 0: exactly for powers of two; twin: c < 0."""
    G, power = example
    O = polar_factor(G)
    exact = polar_factor(power * (-G if twin else G)) - O
    rounded = polar_factor(3.7 * G) - O
    cond = worst(condition(A) for A in elements(G))
    if G.numel() == 0:
        return 0.0
    return worst([exact.abs().amax() / eps(G), rounded.abs().amax() / (100 * eps(G) * cond)])


def m8_vectors(x, twin=False):
    """sign: <x, sign x> = ‖x‖_1, idempotent, odd, invariant under scaling; twin: the 2-norm."""
    s = x.sign()
    norm = float(torch.linalg.vector_norm(x) if twin else x.abs().sum())
    gaps = [abs(float((x * s).sum()) - norm) / (10 * eps(x) * max(norm, 1e-300))]
    exact = ((s.sign() - s), (-x).sign() + s, (3.7 * x).sign() - s)
    return worst(gaps + [float(g.abs().sum()) / eps(x) for g in exact])


# ---- M3: the exact split -----------------------------------------------------------------------------------


def library_split(kind, history):
    return decompose(history.flatten(1) if kind == "full_matrix" else history, kind=kind)


def tolerance_of_split(kind, history):
    cond = split_condition(kind, history.double().numpy())
    # Rank must be beyond doubt: singular values stand clear of the rounding of rank-deficient examples.
    assume(eps(history) * cond < 1e-4)
    return 1e3 * eps(history) * cond


def m3_split(kind, history, twin=False):
    """Update = bracket · scale-invariant term; twin: the normalised gradient, or its sign, instead."""
    tolerance, result = tolerance_of_split(kind, history), library_split(kind, history)
    term = result.scale_invariant
    if twin and kind == "full_matrix":
        term = term.sign()
    elif twin:
        norm = torch.linalg.vector_norm(history, dim=(-2, -1), keepdim=True)
        term = history / torch.where(norm > 0, norm, 1.0)
    rebuilt = Decomposition(kind, result.variance_adaptation, term, result.update).recompose()
    rebuilt = rebuilt.double().reshape(history.shape).numpy()
    update = result.update.double().reshape(history.shape).numpy()
    brackets = result.variance_adaptation
    brackets = brackets if isinstance(brackets, tuple) else (brackets,)
    found = [np.abs(rebuilt - update).max(initial=0)]
    for t in range(len(history)):
        expected, factors = split(kind, history.double().numpy(), t)
        found.append(np.abs(expected - rebuilt[t]).max(initial=0))
        for F, B in zip(factors, brackets, strict=True):
            found.append(np.abs(F - B[t].double().numpy()).max(initial=0))
    return worst(found) / tolerance


def m3_brackets(kind, history, twin=False):
    """‖bracket‖_2 ≤ 1, the library's and the oracle's; twin: the present sample left out of the sums."""
    tolerance, arrays = tolerance_of_split(kind, history), history.double().numpy()
    brackets = [B for t in range(len(arrays)) for B in split(kind, arrays, t, include=not twin)[1]]
    if not twin:
        factors = library_split(kind, history).variance_adaptation
        for F in factors if isinstance(factors, tuple) else (factors,):
            brackets += list(F.double().numpy())
    return worst((norm2(B) - 1) / tolerance for B in brackets)


# ---- one body of tests -------------------------------------------------------------------------------------


IDENTITIES = {
    "M1 kronecker": (m1_kronecker, plain_matrices),
    "M1 shampoo": (m1_shampoo, any_matrices),
    "M2 domination": (m2_domination, plain_matrices),
    "M2 equality": (m2_equality, plain_matrices),
    "M8 dual norm": (m8_dual, any_matrices),
    "M8 idempotent": (m8_idempotent, any_matrices),
    "M8 odd": (m8_odd, plain_matrices),
    "M8 homogeneous": (m8_homogeneous, scaled),
    "M8 sign": (m8_vectors, vectors),
    **{f"M3 split, {kind}": (partial(m3_split, kind), histories) for kind in KINDS},
    **{f"M3 brackets, {kind}": (partial(m3_brackets, kind), histories) for kind in KINDS},
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


@pytest.mark.parametrize("kind", KINDS)
def test_split_of_a_batch_is_that_of_its_elements(kind):
    history = torch.randn(3, 2, 2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    flat = history.flatten(2) if kind == "full_matrix" else history
    together = decompose(flat, kind=kind)
    for b in range(2):
        alone = decompose(flat[:, b], kind=kind)
        torch.testing.assert_close(together.update[:, b], alone.update, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", ["shampoo", "full_matrix"])
def test_split_does_not_square_condition_numbers(kind):
    """At condition number 1e9 a sum of squares has lost the small singular values; the factors have not."""
    g = torch.Generator().manual_seed(0)
    U, V = (torch.linalg.qr(torch.randn(3, 3, generator=g, dtype=torch.float64)).Q for _ in range(2))
    G = (U * torch.tensor([1.0, 1e-4, 1e-9], dtype=torch.float64)) @ V.mT
    history = torch.stack([G, 2 * G]) if kind == "shampoo" else torch.stack([U[0], U[0] + 1e-9 * U[1]])
    result = decompose(history, kind=kind)
    torch.testing.assert_close(result.recompose(), result.update, rtol=0, atol=1e-5)
    if kind == "shampoo":
        expected = torch.stack([polar_factor(G), 2 / 5**0.5 * polar_factor(G)])
        torch.testing.assert_close(result.update, expected, rtol=0, atol=1e-5)


def test_weighted_shampoo_brackets_are_bounded_by_their_weight():
    """With EMAs the present sample has weight 1-β: ‖bracket‖_2 ≤ (1-β)^{-1/4}, attained at t = 1."""
    history = torch.randn(6, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    left, right = decompose(history, kind="shampoo", beta=0.9).variance_adaptation
    bound = 0.1**-0.25
    norms = torch.cat([torch.linalg.matrix_norm(left, 2), torch.linalg.matrix_norm(right, 2)])
    assert norms.max() <= bound * (1 + 1e-12)
    assert norms[0] == pytest.approx(bound, rel=1e-12) and norms[6] == pytest.approx(bound, rel=1e-12)
    assert norms.max() > 1


def test_steepest_direction_is_not_unique_at_rank_deficiency():
    """M8: anything of norm ≤ 1 may be added on the null spaces without changing <G, ·>; msign adds 0."""
    G = torch.tensor([[2.0, 0.0], [0.0, 0.0]], dtype=torch.float64)
    O = polar_factor(G)
    other = O + torch.tensor([[0.0, 0.0], [0.0, -1.0]], dtype=torch.float64)
    assert (G * other).sum() == (G * O).sum() == 2.0
    assert torch.linalg.matrix_norm(other, 2) == 1.0 and O[1, 1] == 0.0

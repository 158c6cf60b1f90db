"""Matrix quadratics: gradients against autograd, the bias of the unsquared loss (SPEC E1, A5)."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deva_theory.problems.quadratic import SPECTRA, TraceQuadratic, block_hessian
from tests.strategies import spd, tensors


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def autograd(function, X):
    X = X.clone().requires_grad_()
    return torch.autograd.grad(function(X), X)[0]


@pytest.mark.parametrize("linear", [False, True])
@given(spd(3), tensors((3, 2)), tensors((3, 2)))
def test_gradient_is_that_of_the_value(linear, H, X, B):
    problem = TraceQuadratic(H, B if linear else None)
    torch.testing.assert_close(problem.gradient(X), autograd(problem.value, X), rtol=1e-12, atol=1e-12)


def test_hessian_is_a_kronecker_product():
    H, X = torch.tensor([[2.0, 1.0], [1.0, 3.0]], dtype=torch.float64), normal(2, 3)
    problem = TraceQuadratic(H)
    full = torch.autograd.functional.hessian(lambda x: problem.value(x.reshape(3, 2).mT), X.mT.reshape(-1))
    torch.testing.assert_close(full, torch.kron(torch.eye(3, dtype=torch.float64), H))


def test_value_and_gradient_are_batched():
    H, X, B = normal(4, 3, 3), normal(4, 3, 2, seed=1), normal(4, 3, 2, seed=2)
    H = H @ H.mT
    together = TraceQuadratic(H, B)
    for i in range(4):
        alone = TraceQuadratic(H[i], B[i])
        torch.testing.assert_close(together.value(X)[i], alone.value(X[i]))
        torch.testing.assert_close(together.gradient(X)[i], alone.gradient(X[i]))


def test_root_squares_to_the_hessian():
    for name in SPECTRA:
        H = torch.from_numpy(block_hessian(SPECTRA[name], np.random.default_rng(0)))
        A = TraceQuadratic(H).root()
        torch.testing.assert_close(A @ A, H, rtol=1e-12, atol=1e-9)
        torch.testing.assert_close(A, A.mT, rtol=0, atol=1e-12)
        assert torch.linalg.eigvalsh(A)[0] > 0


@pytest.mark.parametrize("name", SPECTRA)
def test_block_hessian_has_the_stated_spectrum(name):
    H = block_hessian(SPECTRA[name], np.random.default_rng(0))
    assert H.shape == (9, 9) and np.array_equal(H != 0, np.kron(np.eye(3), np.ones((3, 3))) > 0)
    np.testing.assert_allclose(H, H.T, atol=1e-12)
    for i, block in enumerate(SPECTRA[name]):
        part = H[3 * i : 3 * i + 3, 3 * i : 3 * i + 3]
        np.testing.assert_allclose(np.linalg.eigvalsh(part), sorted(block), rtol=1e-10)


def test_both_spectra_hold_the_same_numbers():
    numbers = [sorted(itertools.chain(*blocks)) for blocks in SPECTRA.values()]
    assert numbers[0] == numbers[1] and len(numbers[0]) == 9


def test_block_hessian_of_unequal_blocks_and_its_generator():
    H = block_hessian([[2.0], [1.0, 5.0]], np.random.default_rng(1))
    assert H[0, 0] == pytest.approx(2.0) and H[0, 1] == H[0, 2] == 0.0
    np.testing.assert_array_equal(H, block_hessian([[2.0], [1.0, 5.0]], np.random.default_rng(1)))
    assert not np.array_equal(H, block_hessian([[2.0], [1.0, 5.0]], np.random.default_rng(2)))


# ---- stochastic gradients ----------------------------------------------------------------------------------


def loss(A, rows, squared):
    m, b = A.shape[0], len(rows)

    def value(X):
        norm = torch.linalg.vector_norm(A[rows] @ X)
        return 0.5 * (m / b) * (norm**2 if squared else norm)

    return value


@pytest.mark.parametrize("squared", [True, False])
@given(tensors((4, 4)), tensors((4, 2)), st.lists(st.integers(0, 3), min_size=1, max_size=5))
def test_row_gradient_is_that_of_its_loss(squared, A, X, rows):
    rows = torch.tensor(rows)
    expected = autograd(loss(A, rows, squared), X)
    found = TraceQuadratic.row_gradient(A, X, rows, squared=squared)
    if float((A[rows] @ X).norm()) == 0.0:
        assert torch.equal(found, torch.zeros_like(found))  # 0/0 := 0, a subgradient
    else:
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_row_gradient_is_batched():
    A, X = normal(2, 3, 4, 4), normal(2, 3, 4, 2, seed=1)
    rows = torch.randint(0, 4, (2, 3, 5), generator=torch.Generator().manual_seed(0))
    for squared in (True, False):
        together = TraceQuadratic.row_gradient(A, X, rows, squared=squared)
        for i, j in itertools.product(range(2), range(3)):
            alone = TraceQuadratic.row_gradient(A[i, j], X[i, j], rows[i, j], squared=squared)
            torch.testing.assert_close(together[i, j], alone)


def problem(name="heterogeneous", seed=0):
    quadratic = TraceQuadratic(torch.from_numpy(block_hessian(SPECTRA[name], np.random.default_rng(seed))))
    return quadratic, quadratic.root()


def expectation(A, X, size, *, squared):
    """Average over every sample of `size` rows drawn with replacement."""
    rows = torch.tensor(list(itertools.product(range(9), repeat=size)))
    count = len(rows)
    A, X = A.expand(count, 9, 9), X.expand(count, 9, 9)
    return TraceQuadratic.row_gradient(A, X, rows, squared=squared).mean(0)


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("name", SPECTRA)
def test_squared_loss_is_unbiased(name, size):
    quadratic, A = problem(name)
    X = normal(9, 9)
    torch.testing.assert_close(
        expectation(A, X, size, squared=True), quadratic.gradient(X), rtol=1e-10, atol=1e-8
    )
    # Twin: the published loss on the same samples.
    gap = expectation(A, X, size, squared=False) - quadratic.gradient(X)
    assert gap.norm() > 0.9 * quadratic.gradient(X).norm()


@given(st.sampled_from([2.0**-40, 2.0**-3, 2.0**20]), st.integers(0, 50))
def test_unsquared_gradient_is_homogeneous_of_degree_zero(scale, seed):
    _, A = problem()
    X, rows = normal(9, 9, seed=seed), torch.tensor([0, 4, 8])
    found = TraceQuadratic.row_gradient(A, scale * X, rows, squared=False)
    unscaled = TraceQuadratic.row_gradient(A, X, rows, squared=False)
    torch.testing.assert_close(found, unscaled, rtol=1e-12, atol=0)
    linear = TraceQuadratic.row_gradient(A, scale * X, rows, squared=True)
    torch.testing.assert_close(linear, scale * TraceQuadratic.row_gradient(A, X, rows, squared=True))


def test_expected_unsquared_gradient_stays_near_fifty_as_the_true_one_vanishes():
    """A5: ‖E ĝ‖_F on X = s X_0, exactly, for s from 1 down to 1e-6."""
    quadratic, A = problem()
    for seed in range(5):
        X = normal(9, 9, seed=seed)
        for scale in (1.0, 1e-3, 1e-6):
            expected = expectation(A, scale * X, 3, squared=False)
            assert 45 < expected.norm() < 60
        # The true gradient has fallen below 0.1 by now.
        assert quadratic.gradient(1e-6 * X).norm() < 0.1 < 1e3 < quadratic.gradient(X).norm()
        # It points the right way at X_0, with the wrong length.
        gradient = quadratic.gradient(X)
        cosine = (expected * gradient).sum() / (expected.norm() * gradient.norm())
        assert 0.9 < cosine < 0.9999


def test_unsquared_gradient_vanishes_at_the_minimum():
    _, A = problem()
    X = torch.zeros(9, 9, dtype=torch.float64)
    found = TraceQuadratic.row_gradient(A, X, torch.tensor([1, 2]), squared=False)
    assert torch.equal(found, torch.zeros_like(found))

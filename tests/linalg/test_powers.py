"""Powers of symmetric matrices with the pseudo-inverse convention."""

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given
from hypothesis import strategies as st

from deva_theory.linalg import gram_power, symmetric_power
from tests.strategies import matrices, matrix_batches, refuted, spd

DTYPES = [torch.float64, torch.float32]
both = pytest.mark.parametrize("dtype", DTYPES, ids=str)
POWERS = [1.0, 0.5, 0.25, -0.25, -0.5, -1.0, 2.0, 1 / 3]


def close(a, b, tolerance):
    return (
        float((a - b).abs().max()) <= tolerance * max(1.0, float(b.abs().max()))
        if a.numel()
        else a.shape == b.shape
    )


@pytest.mark.parametrize("p", POWERS)
def test_definite_matrices_against_scipy(p):
    @given(spd(4, max_condition=1e3))
    def check(A):
        expected = torch.from_numpy(scipy.linalg.fractional_matrix_power(A.numpy(), p))
        assert close(symmetric_power(A, p), expected, 1e-11)

    check()


@both
@pytest.mark.parametrize("p", [0.5, -0.5, -0.25])
def test_gram_power_is_the_power_of_the_gram_matrix(dtype, p):
    # The Gram matrix has the squared condition number.
    tolerance, condition = {torch.float64: (1e-9, 1e3), torch.float32: (2e-2, 1e2)}[dtype]

    @given(matrices(shape=(3, 5), dtype=dtype).filter(lambda A: np.linalg.cond(A.double()) < condition))
    def check(A):
        assert close(gram_power(A, p), symmetric_power(A @ A.mT, p), tolerance)

    check()


def is_pseudo_inverse(A, *, p=-1.0):
    """The four Penrose conditions, for A Aᵀ."""
    S = A @ A.mT
    X = symmetric_power(S, p, rtol=1e-10)
    scale = max(1.0, float(X.abs().max())) if X.numel() else 1.0
    return all(close(a, b, 1e-9 * scale) for a, b in [(S @ X @ S, S), (X @ S @ X, X), (S @ X, (S @ X).mT)])


degenerate = st.sampled_from(
    ["zero", "rank_one", "repeated", "orthogonal", "diagonal", "row", "column", "empty"]
).flatmap(matrices)


@given(degenerate)
def test_pseudo_inverse_of_degenerate_matrices(A):
    assert is_pseudo_inverse(A)


def test_pseudo_inverse_twin():
    assert refuted(degenerate, lambda A: is_pseudo_inverse(A, p=-0.5))


@given(degenerate, st.sampled_from([0.5, 0.25]))
def test_powers_multiply(A, p):
    S = A @ A.mT
    root = symmetric_power(S, p, rtol=1e-12)
    assert close(torch.linalg.matrix_power(root, round(1 / p)), S, 1e-10)
    inverse = symmetric_power(S, -p, rtol=1e-12)
    projector = symmetric_power(S, 0.0, rtol=1e-12)
    assert close(root @ inverse, projector, 1e-7)
    assert close(projector @ projector, projector, 1e-12) and close(projector @ S, S, 1e-11)


def test_closed_forms():
    A = torch.diag(torch.tensor([4.0, 0.0, 9.0], dtype=torch.float64))
    for p, expected in [
        (0.5, [2, 0, 3]),
        (-0.5, [1 / 2, 0, 1 / 3]),
        (0.0, [1, 0, 1]),
        (-1.0, [1 / 4, 0, 1 / 9]),
    ]:
        assert close(symmetric_power(A, p), torch.diag(torch.tensor(expected, dtype=torch.float64)), 1e-15)
    g = torch.tensor([[3.0], [4.0]], dtype=torch.float64)
    # (g gᵀ)^p = ‖g‖^{2p} u uᵀ.
    assert close(gram_power(g, -0.25), (g / 5) @ (g / 5).mT / 5**0.5, 1e-15)
    assert symmetric_power(torch.zeros(2, 2), -0.5).abs().sum() == 0
    assert symmetric_power(torch.tensor([[2.0]]), -1.0).item() == 0.5


@both
def test_only_the_lower_triangle_is_read(dtype):
    A = torch.tensor([[2.0, 99.0], [1.0, 2.0]], dtype=dtype)
    assert close(symmetric_power(A, 1.0), torch.tensor([[2.0, 1.0], [1.0, 2.0]], dtype=dtype), 1e-6)


@both
def test_batched_is_unbatched(dtype):
    # Batched products may add in another order.
    tolerance = 20 * torch.finfo(dtype).eps

    @given(matrix_batches(dtype=dtype, max_side=4))
    def check(G):
        A = G @ G.mT
        flat, g = A.reshape(-1, *A.shape[-2:]), G.reshape(-1, *G.shape[-2:])
        for p in (0.5, -0.25):
            together = symmetric_power(A, p).reshape(flat.shape)
            assert close(together, torch.stack([symmetric_power(a, p) for a in flat]), tolerance)
            together = gram_power(G, p).reshape(flat.shape)
            assert close(together, torch.stack([gram_power(x, p) for x in g]), tolerance)

    check()


@pytest.mark.parametrize("scale", [1e-300, 1e-160, 1e-30, 1.0, 1e30, 1e160, 1e300])
@pytest.mark.parametrize("p", [0.5, -0.5, 0.25, -1.0, 0.0])
def test_scales_like_a_power(scale, p):
    A = torch.tensor([[2.0, 1.0], [1.0, 3.0]], dtype=torch.float64)
    computed = symmetric_power(A * scale, p)
    assert torch.isfinite(computed).all()
    expected = symmetric_power(A, p) * scale**p
    torch.testing.assert_close(computed, expected, rtol=1e-13, atol=1e-15 * float(expected.abs().max()))


def test_subnormal_matrices_have_roots():
    A = torch.full((1, 1), 5e-324, dtype=torch.float64)
    assert symmetric_power(A, 0.5).item() == pytest.approx(5e-324**0.5, rel=1e-14)
    assert symmetric_power(A, 1.0).item() == 5e-324


def test_gram_power_does_not_square_the_condition_number():
    sigma = torch.tensor([1.0, 1e-10], dtype=torch.float64)
    Q = torch.linalg.qr(torch.tensor([[1.0, 2.0], [3.0, 1.0]], dtype=torch.float64)).Q
    A = Q * sigma
    expected = (Q / sigma) @ Q.mT
    assert close(gram_power(A, -0.5), expected, 1e-5)
    # The twin: from the Gram matrix the small one, 1e-20 relative, is gone.
    assert not close(symmetric_power(A @ A.mT, -0.5), expected, 0.5)


@pytest.mark.parametrize("shape", [(0, 0), (3, 0, 0), (0, 2, 2)])
def test_empty(shape):
    assert symmetric_power(torch.zeros(shape), -0.5).shape == shape


def test_empty_gram():
    assert gram_power(torch.zeros(2, 3, 0), -0.5).tolist() == torch.zeros(2, 3, 3).tolist()
    assert gram_power(torch.zeros(0, 3), 0.5).shape == (0, 0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64], ids=str)
def test_dtype_is_kept(dtype):
    A = torch.tensor([[4.0, 0.0], [0.0, 16.0]], dtype=dtype)
    result = symmetric_power(A, -0.5)
    assert result.dtype == dtype
    torch.testing.assert_close(result, torch.tensor([[0.5, 0.0], [0.0, 0.25]], dtype=dtype))


@pytest.mark.parametrize(
    ("A", "error", "match"),
    [
        (torch.zeros(2), ValueError, "must be equal"),
        (torch.zeros(2, 3), ValueError, r"shape \(2, 3\)"),
        (torch.zeros(2, 2, dtype=torch.int64), TypeError, "torch.int64"),
        (torch.zeros(2, 2, dtype=torch.complex128), TypeError, "complex128"),
    ],
)
def test_bad_input(A, error, match):
    with pytest.raises(error, match=match):
        symmetric_power(A, 0.5)

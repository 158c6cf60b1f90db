"""Rational matrices on both backends, and singular value decompositions whose powers are exact."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from deva_theory.certify import RationalMatrix, RationalSVD, backend, cayley, random_orthogonal, rational_svd

BACKENDS = ("fractions", "flint")


@pytest.fixture(params=BACKENDS)
def arithmetic(request: pytest.FixtureRequest):
    if request.param == "flint":
        pytest.importorskip("flint")
    with backend(request.param):
        yield request.param


def _random(rng: np.random.Generator, m: int, n: int) -> RationalMatrix:
    return RationalMatrix([[Fraction(int(rng.integers(-9, 10)), int(rng.integers(1, 8))) for _ in range(n)] for _ in range(m)])


def test_entries_survive(arithmetic: str) -> None:
    A = RationalMatrix([[Fraction(1, 3), 2], ["-3/4", "0.5"], [np.int64(7), 10**40]])
    assert A.backend == arithmetic
    assert A.shape == (3, 2)
    assert A.tolist() == [[Fraction(1, 3), Fraction(2)], [Fraction(-3, 4), Fraction(1, 2)], [Fraction(7), Fraction(10**40)]]
    assert A.strings() == [["1/3", "2"], ["-3/4", "1/2"], ["7", str(10**40)]]
    assert all(type(x) is Fraction for row in A.tolist() for x in row)
    assert A[1, 0] == A[-2, -2] == Fraction(-3, 4)
    assert A.height() == 10**40
    assert RationalMatrix(A.strings()) == A
    assert repr(RationalMatrix([["1/2"]])) == "RationalMatrix([['1/2']])"
    with pytest.raises(IndexError):
        A[3, 0]


def test_lists_are_copies(arithmetic: str) -> None:
    A = RationalMatrix([[1, 2]])
    A.tolist()[0][0] = Fraction(5)
    assert A[0, 0] == 1


def test_arithmetic_against_loops(arithmetic: str) -> None:
    rng = np.random.default_rng(0)
    A, B, C = _random(rng, 3, 4), _random(rng, 3, 4), _random(rng, 4, 2)
    a, b, c = A.tolist(), B.tolist(), C.tolist()
    assert (A + B).tolist() == [[a[i][j] + b[i][j] for j in range(4)] for i in range(3)]
    assert (A - B).tolist() == [[a[i][j] - b[i][j] for j in range(4)] for i in range(3)]
    assert (-A).tolist() == [[-x for x in row] for row in a]
    assert (Fraction(2, 3) * A).tolist() == [[x * 2 / 3 for x in row] for row in a]
    assert Fraction(2, 3) * A == A * Fraction(2, 3) == A / Fraction(3, 2) != A / 2
    assert (A @ C).tolist() == [[sum(a[i][k] * c[k][j] for k in range(4)) for j in range(2)] for i in range(3)]
    assert A.T.tolist() == [[a[i][j] for i in range(3)] for j in range(4)]
    assert A.hadamard(B).tolist() == [[a[i][j] * b[i][j] for j in range(4)] for i in range(3)]
    assert A.inner(B) == (A.T @ B).trace() == sum(a[i][j] * b[i][j] for i in range(3) for j in range(4))
    assert A.vec().tolist() == [[a[i][j]] for j in range(4) for i in range(3)]
    assert A.vec().unvec(3, 4) == A
    assert RationalMatrix.diagonal([2, 3], (3, 2)).tolist() == [[2, 0], [0, 3], [0, 0]]
    assert RationalMatrix.zeros(2, 3).tolist() == [[0] * 3] * 2
    # One altered entry is another matrix.
    altered = [row.copy() for row in a]
    altered[2][3] += Fraction(1, 10**30)
    assert RationalMatrix(altered) != A
    assert RationalMatrix([[0, 0]]) != RationalMatrix([[0], [0]])
    assert A != a


def test_kronecker_product_and_vec(arithmetic: str) -> None:
    rng = np.random.default_rng(1)
    A, X, B = _random(rng, 2, 3), _random(rng, 3, 4), _random(rng, 5, 4)
    assert B.kron(A) @ X.vec() == (A @ X @ B.T).vec()
    assert A.kron(B) @ X.vec() != (A @ X @ B.T).vec()  # the other order
    np.testing.assert_allclose(B.kron(A).numpy(), np.kron(B.numpy(), A.numpy()), rtol=1e-15)


def test_inverse(arithmetic: str) -> None:
    A = RationalMatrix([[0, 2, 1], [1, "1/2", 0], [3, 0, 5]])
    assert A @ A.inverse() == A.inverse() @ A == RationalMatrix.identity(3)
    assert A.inverse() != A.T
    with pytest.raises(ZeroDivisionError):
        RationalMatrix([[1, 2], [2, 4]]).inverse()
    with pytest.raises(ValueError, match="not square"):
        RationalMatrix([[1, 2]]).inverse()


def test_floats_round_to_nearest(arithmetic: str) -> None:
    values = [Fraction(1, 3), Fraction(2**53 + 1), Fraction(10**400, 10**400 + 1), Fraction(-1, 10**320)]
    A = RationalMatrix([values])
    expected = np.array([[float(x) for x in values]])
    assert A.numpy().dtype == np.float64
    np.testing.assert_array_equal(A.numpy(), expected)
    tensor = A.tensor()
    assert tensor.shape == (1, 4) and str(tensor.dtype) == "torch.float64"
    np.testing.assert_array_equal(tensor.numpy(), expected)


ERRORS = {
    "float": (lambda: RationalMatrix([[0.5]]), TypeError, "rational_matrix"),
    "bool": (lambda: RationalMatrix([[True]]), TypeError, "not a rational"),
    "ragged": (lambda: RationalMatrix([[1, 2], [3]]), ValueError, "one length"),
    "empty": (lambda: RationalMatrix([]), ValueError, "at least one"),
    "empty row": (lambda: RationalMatrix([[]]), ValueError, "at least one"),
    "shapes of a sum": (lambda: RationalMatrix([[1, 2]]) + RationalMatrix([[1], [2]]), ValueError, "differ"),
    "shapes of a product": (lambda: RationalMatrix([[1, 2]]) @ RationalMatrix([[1, 2]]), ValueError, "do not fit"),
    "star": (lambda: RationalMatrix([[1]]) * RationalMatrix([[1]]), TypeError, "A @ B"),
    "float scalar": (lambda: 0.5 * RationalMatrix([[1]]), TypeError, "not a rational"),
    "sum with a number": (lambda: RationalMatrix([[1]]) + 1, TypeError, "unsupported"),
    "backend": (lambda: RationalMatrix([[1]], backend="numpy"), ValueError, "choose"),
    "context": (lambda: backend("numpy").__enter__(), ValueError, "choose"),
    "diagonal": (lambda: RationalMatrix.diagonal([1, 2], (1, 2)), ValueError, "do not fit"),
    "unvec": (lambda: RationalMatrix([[1, 2]]).unvec(1, 2), ValueError, "unvec"),
    "hash": (lambda: hash(RationalMatrix([[1]])), TypeError, "unhashable"),
    "not skew": (lambda: cayley(RationalMatrix([[0, 1], [1, 0]])), ValueError, "skew"),
    "not square": (lambda: cayley(RationalMatrix([[0, 1]])), ValueError, "skew"),
    "no size": (lambda: random_orthogonal(np.random.default_rng(0), 0), ValueError, "at least 1"),
    "rank": (lambda: rational_svd(np.random.default_rng(0), 2, 3, 3), ValueError, "rank = 3"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors(name: str) -> None:
    call, error, message = ERRORS[name]
    with pytest.raises(error, match=message):
        call()


def test_backends_agree_and_mix() -> None:
    pytest.importorskip("flint")
    results = {}
    for name in BACKENDS:
        with backend(name):
            svd = rational_svd(np.random.default_rng(3), 4, 3, 2)
            powers = (svd.power_left(-0.25), svd.power_right(Fraction(3, 4)))
            results[name] = (svd.matrix(), *powers, svd.U.kron(svd.V), (svd.U + 2 * svd.U.T).inverse())
            assert {A.backend for A in results[name]} == {name}
    assert results["flint"] == results["fractions"]
    assert [A.tolist() for A in results["flint"]] == [A.tolist() for A in results["fractions"]]
    exact, flint = results["fractions"][0], results["flint"][0]
    assert (exact.T @ flint).backend == "fractions" and (flint.T @ exact).backend == "flint"
    assert exact.T @ flint == flint.T @ exact
    assert exact - flint == RationalMatrix.zeros(4, 3)
    assert RationalMatrix([[1]], backend="fractions").backend == "fractions"
    assert cayley(RationalMatrix([[0]], backend="fractions")).backend == "fractions"


def test_without_flint_fractions_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deva_theory.certify.matrices.find_spec", lambda name: None)
    assert RationalMatrix([[1]]).backend == "fractions"
    with pytest.raises(ModuleNotFoundError, match="exact"), backend("flint"):
        pass


def test_cayley(arithmetic: str) -> None:
    K = RationalMatrix([[0, "1/2"], ["-1/2", 0]])
    Q = cayley(K)
    assert Q.strings() == [["3/5", "-4/5"], ["4/5", "3/5"]]
    eye = RationalMatrix.identity(2)
    assert Q == (eye - K) @ (eye + K).inverse() != (eye + K) @ (eye - K).inverse()


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 6, 7, 9])
def test_random_orthogonal(n: int, arithmetic: str) -> None:
    rng = np.random.default_rng(n)
    draws = [random_orthogonal(rng, n) for _ in range(8)]
    for Q in draws:
        assert Q.T @ Q == Q @ Q.T == RationalMatrix.identity(n)
        assert Q.height() < 10**8
        # Not a signed permutation, on which too much is true.
        assert n == 1 or sum(x != 0 for row in Q.tolist() for x in row) > n
    determinants = {round(np.linalg.det(Q.numpy())) for Q in draws}
    assert determinants == {-1, 1}
    assert n == 1 or len({str(Q) for Q in draws}) > 4
    # A shift by one unit in one entry is not orthogonal.
    rows = draws[0].tolist()
    rows[0][0] += Fraction(1, 10**12)
    tampered = RationalMatrix(rows)
    assert tampered @ tampered.T != RationalMatrix.identity(n)


SHAPES = [(4, 3, 3), (3, 4, 3), (4, 3, 2), (3, 3, 1), (2, 5, 1), (3, 2, 0), (1, 1, 1), (1, 4, 1)]


@pytest.mark.parametrize(("m", "n", "rank"), SHAPES)
def test_svd_powers_are_exact(m: int, n: int, rank: int, arithmetic: str) -> None:
    rng = np.random.default_rng([m, n, rank])
    svd = rational_svd(rng, m, n, rank)
    G = svd.matrix()
    assert G.shape == svd.shape == (m, n) and svd.rank == rank
    assert len(svd.sigma) == len(svd.roots) == min(m, n)
    singular_values = [float(x) for x in svd.sigma]
    np.testing.assert_allclose(np.linalg.svd(G.numpy(), compute_uv=False), singular_values, atol=1e-12 * max(singular_values))
    # Each power through equations that determine it, not through its own formula.
    for power, gram, unit in ((svd.power_left, G @ G.T, m), (svd.power_right, G.T @ G, n)):
        root, fourth, inverse = power(0.5), power(0.25), power(-1)
        assert root @ root == gram == power(1)
        assert fourth @ fourth == root
        assert gram @ inverse @ gram == gram and inverse @ gram @ inverse == inverse
        assert power(-0.5) @ power(-0.5) == inverse and power(-0.25) @ power(-0.25) == power(-0.5)
        projector = power(0)
        assert projector @ projector == projector == projector.T == gram @ inverse and projector.trace() == rank
        assert (projector == RationalMatrix.identity(unit)) == (rank == unit)
    S = svd.msign()
    assert S @ svd.power_right(0.5) == svd.power_left(0.5) @ S == G
    assert S @ S.T == svd.power_left(0) and S.T @ S == svd.power_right(0)
    # One-sample Shampoo is the polar factor; with another exponent it is not.
    assert svd.power_left(-0.25) @ G @ svd.power_right(-0.25) == S
    assert rank == 0 or set(svd.sigma) <= {0, 1} or svd.power_left(-0.5) @ G @ svd.power_right(-0.25) != S
    assert svd.power_right(-0.25).kron(svd.power_left(-0.25)) @ G.vec() == S.vec()


def test_singular_values_are_distinct_unless_asked() -> None:
    for seed in range(10):
        sigma = rational_svd(np.random.default_rng(seed), 6, 5).sigma
        assert len(set(sigma)) == 5 and list(sigma) == sorted(sigma, reverse=True)
    assert len(set(rational_svd(np.random.default_rng(0), 12, 12).sigma)) == 12
    assert any(len(set(rational_svd(np.random.default_rng(seed), 6, 5, distinct=False).sigma)) < 5 for seed in range(10))


def test_without_fourth_roots() -> None:
    svd = rational_svd(np.random.default_rng(0), 3, 2, fourth_roots=False)
    assert svd.roots is None
    assert svd.power_left(0.5) @ svd.power_left(0.5) == svd.matrix() @ svd.matrix().T
    with pytest.raises(ValueError, match=r"power 0.25 .* multiples of 1/2"):
        svd.power_left(0.25)
    with pytest.raises(ValueError, match=r"multiples of 1/4"):
        rational_svd(np.random.default_rng(0), 3, 2).power_right(Fraction(1, 8))


def test_tampered_decompositions_are_refused() -> None:
    svd = rational_svd(np.random.default_rng(1), 3, 2)
    rows = svd.U.tolist()
    rows[0][0] += Fraction(1, 1000)
    two = (Fraction(4), Fraction(1))
    for U, sigma, V, roots, message in [
        (RationalMatrix(rows), svd.sigma, svd.V, svd.roots, "U is not orthogonal"),
        (svd.U, svd.sigma, 2 * svd.V, svd.roots, "V is not orthogonal"),
        (svd.U, svd.sigma, RationalMatrix([[1, 0]]), svd.roots, "V is not orthogonal"),
        (svd.U, two[:1], svd.V, None, "give 2 singular values"),
        (svd.U, (Fraction(1), Fraction(-1)), svd.V, None, "none negative"),
        (svd.U, two, svd.V, (Fraction(2), Fraction(2)), "roots"),
        (svd.U, two, svd.V, (Fraction(-2), Fraction(1)), "roots"),
        (svd.U, two, svd.V, (Fraction(2),), "roots"),
    ]:
        with pytest.raises(ValueError, match=message):
            RationalSVD(U, sigma, V, roots)
    # The same bases with other values, in any order, make a stream with a fixed eigenbasis.
    other = RationalSVD(svd.U, (1, 4), svd.V, ("1", 2))
    assert other.matrix() @ svd.matrix().T == svd.matrix() @ other.matrix().T
    assert other.power_left(0.25) @ other.power_left(0.25) == other.power_left(0.5)


def test_same_seed_same_instance() -> None:
    one, two, other = (rational_svd(np.random.default_rng(seed), 4, 3).matrix() for seed in (5, 5, 6))
    assert one == two != other

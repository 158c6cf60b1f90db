"""Scalar-loop matrix arithmetic on lists of rows, and the library calls of the oracles (eigh, qr, svd)."""

import math

import numpy as np


class Replay:
    """Give back recorded factorisations, one per call, whatever the argument.

    Lets an oracle use the very eigh or qr outputs of the code under test. The oracles factor the left matrix
    first, then the right one, at every refresh.

    Parameters
    ----------
    outputs : iterable
        What the factorisation returned, in the order of the calls.
    """

    def __init__(self, outputs):
        self._outputs = iter(outputs)
        self.calls = 0

    def __call__(self, matrix):
        self.calls += 1
        return next(self._outputs)


def rows_of(matrix):
    """List of rows, Python floats."""
    array = np.asarray(matrix, dtype=np.float64)
    if array.ndim != 2:
        raise ValueError(f"an oracle takes one matrix, not an array of shape {array.shape}")
    return [[float(array[i, j]) for j in range(array.shape[1])] for i in range(array.shape[0])]


def array_of(rows, shape=None):
    """NumPy array (float64) of a list of rows; `shape` is needed when a dimension is 0."""
    array = np.array(rows, dtype=np.float64)
    return array if shape is None else array.reshape(shape)


def zeros(m, n):
    """Matrix of zeros, m rows and n columns."""
    return [[0.0] * n for _ in range(m)]


def transpose(A):
    """Transpose."""
    return [[A[i][j] for i in range(len(A))] for j in range(len(A[0]))]


def matmul(A, B):
    """Product A B by three loops, in the arithmetic of the entries."""
    product = []
    for i in range(len(A)):
        row = []
        for j in range(len(B[0])):
            total = A[i][0] * B[0][j]
            for k in range(1, len(B)):
                total = total + A[i][k] * B[k][j]
            row.append(total)
        product.append(row)
    return product


def rotate(A, M, B):
    """Aᵀ M B: coordinates of M in the bases A (rows) and B (columns)."""
    return matmul(matmul(transpose(A), M), B)


def rotate_back(A, M, B):
    """A M Bᵀ: inverse of `rotate` for orthogonal A, B."""
    return matmul(matmul(A, M), transpose(B))


def average(old, new, beta):
    """One step of the exponential moving average: β old + (1-β) new, entrywise."""
    return [
        [beta * old[i][j] + (1.0 - beta) * new[i][j] for j in range(len(old[0]))] for i in range(len(old))
    ]


def average_list(old, new, beta):
    """One step of the exponential moving average of a vector."""
    return [beta * a + (1.0 - beta) * b for a, b in zip(old, new, strict=True)]


def scaled(A, factor):
    """Entrywise multiple."""
    return [[factor * a for a in row] for row in A]


def entrywise_product(A, B):
    """A ⊙ B."""
    return [[A[i][j] * B[i][j] for j in range(len(A[0]))] for i in range(len(A))]


def sign(A):
    """Entrywise sign, 0 at 0."""
    return [[(a > 0.0) - (a < 0.0) + 0.0 for a in row] for row in A]


def row_norms(A):
    """Euclidean norm of each row."""
    return [math.hypot(*row) for row in A]


def column_norms(A):
    """Euclidean norm of each column."""
    return row_norms(transpose(A))


def outer(a, b):
    """A bᵀ for two lists."""
    return [[x * y for y in b] for x in a]


def gram_rows(G):
    """G Gᵀ."""
    return matmul(G, transpose(G))


def gram_columns(G):
    """Gᵀ G."""
    return matmul(transpose(G), G)


def descending_eigenbasis(A, eigh):
    """Eigenvectors of a symmetric matrix as columns, largest eigenvalue first.

    `eigh(A)` returns (eigenvalues ascending, eigenvectors), as `numpy.linalg.eigh` does.
    """
    _, vectors = eigh(array_of(A))
    Q = rows_of(vectors)
    return [row[::-1] for row in Q]


def power_iteration_basis(A, Q, qr):
    """Refreshed basis and the order of the old columns: SPEC §3, reference contract (7).

    Columns of Q sorted by Rayleigh quotient qᵀAq (descending; ties keep their order), multiplied by A; QR.
    `qr(B)` returns (Q, R), as `numpy.linalg.qr` does.
    """
    product = matmul(A, Q)
    quotients = [sum(Q[i][j] * product[i][j] for i in range(len(Q))) for j in range(len(Q))]
    order = sorted(range(len(Q)), key=lambda j: -quotients[j])
    selected = [[row[j] for j in order] for row in product]
    new, _ = qr(array_of(selected))
    return rows_of(new), order


def exact_polar(M, rtol=None):
    """Polar factor U Vᵀ over the singular values above `rtol · σ_max` (SPEC, conventions: σ > 0).

    `rtol` defaults to max(m, n) · 2⁻⁵², what float64 can tell from zero.
    """
    m, n = len(M), len(M[0])
    U, s, Vt = np.linalg.svd(array_of(M), full_matrices=False)
    if rtol is None:
        rtol = max(m, n) * 2.0**-52
    polar = zeros(m, n)
    for k in range(len(s)):
        if s[k] > 0.0 and s[k] > rtol * s[0]:
            for i in range(m):
                for j in range(n):
                    polar[i][j] += float(U[i, k]) * float(Vt[k, j])
    return polar


def newton_schulz_polar(
    M, steps=5, dtype=np.float32, renormalise=True, coefficients=(3.4445, -4.7750, 2.0315)
):
    """Quintic Newton-Schulz iteration of the reference: SPEC §3, contract (2), and M12.

    Y₀ = M/‖M‖_F, transposed if tall. Each step: A = YYᵀ, Y ← aY + (bA + cA²)Y. In the first step Y is
    divided by ν = ‖A²‖_F^{1/4} (so A by ν², A² by ν⁴). A zero matrix stays zero.

    Parameters
    ----------
    M : list of rows
    steps : int
    dtype : numpy floating type
        Arithmetic of the iteration (the Frobenius norm of M is taken in float64).
    renormalise : bool
        False leaves out the division of the first step (Muon's usual iteration).
    coefficients : tuple of 3 floats

    Returns
    -------
    list of rows of floats
    """
    a, b, c = (dtype(x) for x in coefficients)
    norm = math.hypot(*(x for row in M for x in row))
    if norm == 0.0:
        return [list(row) for row in M]
    tall = len(M) > len(M[0])
    Y = [[dtype(x / norm) for x in row] for row in M]
    if tall:
        Y = transpose(Y)
    for step in range(steps):
        A = gram_rows(Y)
        A2 = matmul(A, A)
        if step == 0 and renormalise:
            total = dtype(0)
            for row in A2:
                for x in row:
                    total = total + x * x
            nu = np.sqrt(np.sqrt(np.sqrt(total)))
            nu2 = nu * nu
            nu4 = nu2 * nu2
            Y = [[x / nu for x in row] for row in Y]
            A = [[x / nu2 for x in row] for row in A]
            A2 = [[x / nu4 for x in row] for row in A2]
        B = [[b * A[i][j] + c * A2[i][j] for j in range(len(A))] for i in range(len(A))]
        BY = matmul(B, Y)
        Y = [[a * Y[i][j] + BY[i][j] for j in range(len(Y[0]))] for i in range(len(Y))]
    if tall:
        Y = transpose(Y)
    return [[float(x) for x in row] for row in Y]


def shape_factor(m, n):
    """0.2 √max(m, n): SPEC §3, S∞ rule."""
    return 0.2 * math.sqrt(max(m, n))

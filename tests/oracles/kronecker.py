"""The Kronecker preconditioner and its split, by NumPy, one float64 matrix at a time (SPEC M1 to M3)."""

import numpy as np


def spectrum(G):
    """U, σ, V of the part with σ > 0."""
    G = np.asarray(G, dtype=np.float64)
    if G.size == 0:
        return np.zeros((G.shape[0], 0)), np.zeros(0), np.zeros((G.shape[1], 0))
    U, s, Vt = np.linalg.svd(G, full_matrices=False)
    kept = s > 1e-13 * max(s[0], 1e-300)
    return U[:, kept], s[kept], Vt[kept].T


def condition(G):
    """Largest over smallest positive singular value; 1 where there is none."""
    s = spectrum(G)[1]
    return float(s[0] / s[-1]) if s.size else 1.0


def msign(G):
    """U Vᵀ."""
    U, _, V = spectrum(G)
    return U @ V.T


def left_root(G, p):
    """(GGᵀ)^p, on the range for p < 0."""
    U, s, _ = spectrum(G)
    return (U * s ** (2 * p)) @ U.T


def kronecker(G, p=1.0):
    """P^p with P = (GᵀG)^{1/2} ⊗ (GGᵀ)^{1/2}."""
    return np.kron(left_root(np.transpose(G), p / 2), left_root(G, p / 2))


def vec(G):
    """The columns, stacked."""
    return np.asarray(G, dtype=np.float64).reshape(-1, order="F")


def unvec(x, shape):
    """The matrix whose columns are stacked in x."""
    return x.reshape(shape, order="F")


def factors(kind, past):
    """Matrices F whose FFᵀ are the sums that `kind` inverts; squaring nothing."""
    if kind == "kronecker":
        return [np.concatenate([kronecker(A, 0.5) for A in past], axis=1)]
    if kind == "shampoo":
        return [np.concatenate(list(past), axis=1), np.concatenate([A.T for A in past], axis=1)]
    return [np.stack([A.ravel() for A in past], axis=1)]


def split(kind, history, t, *, include=True):
    """Update at step t and its brackets; `include` False leaves the present sample out of the sums."""
    G = history[t]
    sums = factors(kind, [*history[:t], G if include else np.zeros_like(G)])
    if kind == "kronecker":
        root = left_root(sums[0], -0.5)
        return unvec(root @ vec(G), G.shape), [root @ kronecker(G, 0.5)]
    if kind == "shampoo":
        L, R = left_root(sums[0], -0.25), left_root(sums[1], -0.25)
        return L @ G @ R, [L @ left_root(G, 0.25), left_root(G.T, 0.25) @ R]
    root, g = left_root(sums[0], -0.5), G.reshape(-1, 1)
    return (root @ g).reshape(G.shape), [root @ left_root(g, 0.5)]


def split_condition(kind, history):
    """Largest condition number of the sums' factors, of the sums themselves for "kronecker"."""
    conditions = [condition(F) for t in range(len(history)) for F in factors(kind, history[: t + 1])]
    return max(conditions) ** (2 if kind == "kronecker" else 1)

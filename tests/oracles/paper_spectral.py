"""The paper's Algorithm 2 (second version), in scalar loops: SPEC §3, preset `paper`."""

import math

import numpy as np

from tests.oracles import scalar_matrix as sm
from tests.oracles.reference_spectral import VARIANTS


class NaivePaperSpectral:
    """S∞ rule as printed (SPEC §3, M7).

    Step t = 1, 2, …:

    1. L ← EMA_{β3}(GGᵀ), R ← EMA_{β3}(GᵀG), the current gradient included.
    2. When (t-1) mod k = 0: Q_L, Q_R = eigenvectors of L, R (eigh, descending). M' and V stay as they are.
    3. G' = Q_Lᵀ G Q_R; M' ← EMA_{β1}(G'); r, c: row and column norms of M'; V ← EMA_{β2}(r cᵀ).
    4. Γ = (V/(r cᵀ + ε))^{-1/2}, 0 where V = 0; D = 0.2 √max(m,n) Q_L (Γ ⊙ msign(M')) Q_Rᵀ, msign exact.

    Variants: `memory`: V_ij = EMA_{β2}(r)_i EMA_{β2}(c)_j; `instantaneous`: r, c from G';
    `sign`: msign(sign(M')); `none`: Γ = 1; `snr`: V from G', numerator from M'.

    Parameters
    ----------
    beta1, beta2 : float
    beta3 : float or None
        None means beta2.
    refresh_every : int
    eps : float
        Added to the numerator r cᵀ.
    variant : str
    eigh : callable
        Called on L, then on R.
    polar : callable
        msign.
    nesterov : bool
        msign takes (1-β1) G' + β1 M'; not in the paper.
    """

    def __init__(
        self,
        beta1=0.95,
        beta2=0.95,
        beta3=None,
        refresh_every=10,
        eps=1e-8,
        variant="full",
        eigh=np.linalg.eigh,
        polar=sm.exact_polar,
        nesterov=False,
    ):
        if variant not in VARIANTS:
            raise ValueError(f"variant must be one of {VARIANTS}, not {variant!r}")
        self.beta1, self.beta2, self.beta3 = beta1, beta2, beta2 if beta3 is None else beta3
        self.refresh_every, self.eps, self.variant, self.nesterov = refresh_every, eps, variant, nesterov
        self._eigh, self._polar = eigh, polar
        self.t = 0
        self.L = self.R = self.QL = self.QR = self.M = self.V = self.gamma = self.scale_invariant = None

    def direction(self, G):
        """Direction D of one step, without lr and weight decay."""
        G = sm.rows_of(G)
        m, n = len(G), len(G[0])
        if self.t == 0:
            self.L, self.R, self.M = sm.zeros(m, m), sm.zeros(n, n), sm.zeros(m, n)
            self.V = ([0.0] * m, [0.0] * n) if self.variant == "memory" else sm.zeros(m, n)
        self.t += 1
        self.L = sm.average(self.L, sm.gram_rows(G), self.beta3)
        self.R = sm.average(self.R, sm.gram_columns(G), self.beta3)
        if (self.t - 1) % self.refresh_every == 0:
            self.QL = sm.descending_eigenbasis(self.L, self._eigh)
            self.QR = sm.descending_eigenbasis(self.R, self._eigh)
        rotated = sm.rotate(self.QL, G, self.QR)
        self.M = sm.average(self.M, rotated, self.beta1)
        self.gamma = self._adaptation(rotated, m, n)
        inside = sm.average(rotated, self.M, 1.0 - self.beta1) if self.nesterov else self.M
        self.scale_invariant = self._polar(sm.sign(inside) if self.variant == "sign" else inside)
        step = sm.rotate_back(self.QL, sm.entrywise_product(self.gamma, self.scale_invariant), self.QR)
        return sm.array_of(sm.scaled(step, sm.shape_factor(m, n)))

    def step(self, X, G, lr, weight_decay=0.0):
        """X ← (1-ηλ) X - ηD: the decay stands before the update."""
        D = self.direction(G)
        X = np.array(X, dtype=np.float64)
        for i in range(X.shape[0]):
            for j in range(X.shape[1]):
                X[i, j] = X[i, j] - lr * weight_decay * X[i, j]
                X[i, j] = X[i, j] - lr * D[i, j]
        return X

    def _adaptation(self, rotated, m, n):
        source = rotated if self.variant == "instantaneous" else self.M
        r, c = sm.row_norms(source), sm.column_norms(source)
        if self.variant == "memory":
            rows, columns = self.V
            self.V = sm.average_list(rows, r, self.beta2), sm.average_list(columns, c, self.beta2)
            V = sm.outer(*self.V)
        else:
            if self.variant == "snr":
                product = sm.outer(sm.row_norms(rotated), sm.column_norms(rotated))
            else:
                product = sm.outer(r, c)
            V = self.V = sm.average(self.V, product, self.beta2)
        gamma = sm.zeros(m, n)
        for i in range(m):
            for j in range(n):
                if self.variant == "none":
                    gamma[i][j] = 1.0
                elif V[i][j] > 0.0:
                    gamma[i][j] = math.sqrt((r[i] * c[j] + self.eps) / V[i][j])
        return gamma

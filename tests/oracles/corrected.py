"""The `corrected` preset of both rules, in scalar loops: SPEC §3, A1, A3, M7, M9."""

import math

import numpy as np

from tests.oracles import scalar_matrix as sm
from tests.oracles.reference_spectral import VARIANTS


class NaiveCorrectedLinf:
    """ℓ∞ rule, preset `corrected` (SPEC §3).

    m ← EMA_{β1}(g), m̂ = m/(1-β1^t); v ← EMA_{β2}(m̂²), v̂ = v/(1-β2^t);
    γ = |m̂|/√max(v̂, ε max v̂), 0 where v̂ = 0; D = γ sign(m), or γ sign((1-β1) g + β1 m) with Nesterov.

    Parameters
    ----------
    beta1, beta2 : float
    eps : float
        Relative floor: a fraction of the largest entry of v̂ over the whole tensor.
    nesterov : bool
    """

    def __init__(self, beta1=0.9, beta2=0.999, eps=0.0, nesterov=False):
        self.beta1, self.beta2, self.eps, self.nesterov = beta1, beta2, eps, nesterov
        self.t = 0
        self.m = self.v = self.gamma = None

    def direction(self, g):
        """Direction D of one step, in the shape of g, float64."""
        g = np.asarray(g, dtype=np.float64)
        flat = [float(x) for x in g.reshape(-1)]
        if self.t == 0:
            self.m, self.v = [0.0] * len(flat), [0.0] * len(flat)
        self.t += 1
        hat1, hat2 = 1.0 - self.beta1**self.t, 1.0 - self.beta2**self.t
        self.m = sm.average_list(self.m, flat, self.beta1)
        m_hat = [x / hat1 for x in self.m]
        self.v = sm.average_list(self.v, [x * x for x in m_hat], self.beta2)
        v_hat = [x / hat2 for x in self.v]
        floor = self.eps * max(v_hat, default=0.0)
        gamma, D = [], []
        for i, x in enumerate(flat):
            ahead = (1.0 - self.beta1) * x + self.beta1 * self.m[i] if self.nesterov else self.m[i]
            factor = abs(m_hat[i]) / math.sqrt(max(v_hat[i], floor)) if v_hat[i] > 0.0 else 0.0
            gamma.append(factor)
            D.append(factor * ((ahead > 0.0) - (ahead < 0.0)))
        self.gamma = np.array(gamma).reshape(g.shape)
        return np.array(D, dtype=np.float64).reshape(g.shape)

    def step(self, x, g, lr, weight_decay=0.0):
        """x ← (1-ηλ) x - ηD."""
        D = self.direction(g)
        x = np.array(x, dtype=np.float64)
        flat, d = x.reshape(-1), D.reshape(-1)
        for i in range(flat.size):
            flat[i] = (1.0 - lr * weight_decay) * flat[i] - lr * d[i]
        return x


class NaiveCorrectedSpectral:
    """S∞ rule, preset `corrected` (SPEC §3).

    Step t = 1, 2, …:

    1. L ← EMA_{β3}(GGᵀ), R ← EMA_{β3}(GᵀG), the current gradient included.
    2. t = 1: bases by eigh (descending). Later, when (t-1) mod k = 0: old columns sorted by Rayleigh
       quotient (descending), multiplied by L (R), QR; then M' ← Q_newᵀ (Q_old M' Q_oldᵀ) Q_new and
       V ← (A V^p Bᵀ)^{1/p}, powers of V entrywise, A = (Q_L,newᵀ Q_L,old)^{⊙2}, B = (Q_R,newᵀ Q_R,old)^{⊙2}.
    3. G' = Q_Lᵀ G Q_R; M' ← EMA_{β1}(G'); r, c: row and column norms of M'/(1-β1^t);
       V ← EMA_{β2}(r cᵀ); V̂ = V/(1-β2^t).
    4. Γ = √(r cᵀ / max(V̂, ε max V̂)), 0 where V̂ = 0.
    5. D = 0.2 √max(m,n) Q_L (Γ ⊙ msign(M')) Q_Rᵀ, msign exact; with Nesterov msign takes (1-β1) G' + β1 M'.

    Variants: `instantaneous`: r, c from G' (which has no bias) in both places; `sign`: msign(sign(M'));
    `none`: Γ = 1; `snr`: V from the norms of G', numerator from M'/(1-β1^t);
    `memory`: V̂_ij = √(EMA(r_i²) EMA(c_j²))/(1-β2^t), the means of squares carried as V is (power p/2).

    Parameters
    ----------
    beta1, beta2 : float
    beta3 : float or None
        None means beta2.
    refresh_every : int
    eps : float
        Relative floor: a fraction of the largest entry of V̂.
    nesterov : bool
    variant : str
    eigh, qr : callable
        Factorisations, called on the left matrix and then on the right one.
    polar : callable
        msign.
    carry_exponent : float
        p of step 2.
    refresh : {"qr", "eigh"}
        How the bases are refreshed after t = 1.
    memory_norms : {"momentum", "gradient"}
        Whose norms `memory` averages; the numerator is always the momentum's.
    carry : {"overlap", "permute"}
        How V follows the basis (permute: with the columns it belongs to; needs refresh="qr").
    memory_sign : bool
        Whether `memory` applies sign before msign, as the reference does.
    """

    def __init__(
        self,
        beta1=0.95,
        beta2=0.95,
        beta3=None,
        refresh_every=10,
        eps=0.0,
        nesterov=False,
        variant="full",
        eigh=np.linalg.eigh,
        qr=np.linalg.qr,
        polar=sm.exact_polar,
        carry_exponent=2.0,
        refresh="qr",
        carry="overlap",
        memory_norms="momentum",
        memory_sign=False,
    ):
        if variant not in VARIANTS:
            raise ValueError(f"variant must be one of {VARIANTS}, not {variant!r}")
        self.beta1, self.beta2, self.beta3 = beta1, beta2, beta2 if beta3 is None else beta3
        self.refresh_every, self.eps, self.nesterov, self.variant = refresh_every, eps, nesterov, variant
        self.carry_exponent, self.refresh, self.carry = carry_exponent, refresh, carry
        self.memory_norms, self.memory_sign = memory_norms, memory_sign
        self._eigh, self._qr, self._polar = eigh, qr, polar
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
        if self.t == 1:
            self.QL = sm.descending_eigenbasis(self.L, self._eigh)
            self.QR = sm.descending_eigenbasis(self.R, self._eigh)
        elif (self.t - 1) % self.refresh_every == 0:
            self._refresh()

        rotated = sm.rotate(self.QL, G, self.QR)
        self.M = sm.average(self.M, rotated, self.beta1)
        self.gamma = self._adaptation(rotated, m, n)
        inside = sm.average(rotated, self.M, 1.0 - self.beta1) if self.nesterov else self.M
        if self.variant == "sign" or (self.variant == "memory" and self.memory_sign):
            inside = sm.sign(inside)
        self.scale_invariant = self._polar(inside)
        step = sm.rotate_back(self.QL, sm.entrywise_product(self.gamma, self.scale_invariant), self.QR)
        return sm.array_of(sm.scaled(step, sm.shape_factor(m, n)))

    def step(self, X, G, lr, weight_decay=0.0):
        """X ← (1-ηλ) X - ηD."""
        D = self.direction(G)
        X = np.array(X, dtype=np.float64)
        for i in range(X.shape[0]):
            for j in range(X.shape[1]):
                X[i, j] = (1.0 - lr * weight_decay) * X[i, j] - lr * D[i, j]
        return X

    def _adaptation(self, rotated, m, n):
        hat1, hat2 = 1.0 - self.beta1**self.t, 1.0 - self.beta2**self.t
        unbiased = rotated if self.variant == "instantaneous" else sm.scaled(self.M, 1.0 / hat1)
        r, c = sm.row_norms(unbiased), sm.column_norms(unbiased)
        if self.variant == "memory":
            source = rotated if self.memory_norms == "gradient" else unbiased
            rows, columns = self.V
            rows = sm.average_list(rows, [x * x for x in sm.row_norms(source)], self.beta2)
            columns = sm.average_list(columns, [x * x for x in sm.column_norms(source)], self.beta2)
            self.V = rows, columns
            V_hat = sm.outer([math.sqrt(x / hat2) for x in rows], [math.sqrt(x / hat2) for x in columns])
        else:
            source = rotated if self.variant == "snr" else unbiased
            product = sm.outer(sm.row_norms(source), sm.column_norms(source))
            self.V = sm.average(self.V, product, self.beta2)
            V_hat = sm.scaled(self.V, 1.0 / hat2)
        floor = self.eps * max(max(row) for row in V_hat)
        gamma = sm.zeros(m, n)
        for i in range(m):
            for j in range(n):
                if self.variant == "none":
                    gamma[i][j] = 1.0
                elif V_hat[i][j] > 0.0:
                    gamma[i][j] = math.sqrt(r[i] * c[j] / max(V_hat[i][j], floor))
        return gamma

    def _refresh(self):
        if self.refresh == "eigh":
            QL = sm.descending_eigenbasis(self.L, self._eigh)
            QR = sm.descending_eigenbasis(self.R, self._eigh)
        else:
            QL, left = sm.power_iteration_basis(self.L, self.QL, self._qr)
            QR, right = sm.power_iteration_basis(self.R, self.QR, self._qr)
        if self.carry == "permute":
            if self.variant == "memory":
                rows, columns = self.V
                self.V = [rows[i] for i in left], [columns[j] for j in right]
            else:
                self.V = [[self.V[i][j] for j in right] for i in left]
            self.M = sm.rotate(QL, sm.rotate_back(self.QL, self.M, self.QR), QR)
            self.QL, self.QR = QL, QR
            return
        A = [[x * x for x in row] for row in sm.matmul(sm.transpose(QL), self.QL)]
        B = [[x * x for x in row] for row in sm.matmul(sm.transpose(QR), self.QR)]
        p = self.carry_exponent
        if self.variant == "memory":
            rows, columns = self.V
            mixed_rows = sm.matmul(A, [[x ** (p / 2.0)] for x in rows])
            mixed_columns = sm.matmul(B, [[x ** (p / 2.0)] for x in columns])
            self.V = [x[0] ** (2.0 / p) for x in mixed_rows], [x[0] ** (2.0 / p) for x in mixed_columns]
        else:
            powers = [[x**p for x in row] for row in self.V]
            mixed = sm.matmul(sm.matmul(A, powers), sm.transpose(B))
            self.V = [[x ** (1.0 / p) for x in row] for row in mixed]
        self.M = sm.rotate(QL, sm.rotate_back(self.QL, self.M, self.QR), QR)
        self.QL, self.QR = QL, QR

"""The S∞ rule of the reference implementation, in scalar loops: SPEC §3, preset `reference`."""

import math

import numpy as np

from tests.oracles import scalar_matrix as sm

VARIANTS = ("full", "memory", "instantaneous", "sign", "none", "snr")


class NaiveReferenceSpectral:
    """S∞ rule, preset `reference` (SPEC §3).

    One call with gradient G, after the first, in this order:

    1. t ← t + 1; G' = Q_Lᵀ G Q_R; M' ← β1 M' + (1-β1) G'.
    2. r, c: row and column norms of M' (of G' for `instantaneous`).
    3. V ← EMA_{β2} of r cᵀ (`snr`: of the norms of G'; `memory`: V_ij = √(EMA(r_i²) EMA(c_j²)), norms of G').
    4. Γ_ij = √r_i √c_j / √(V_ij + ε), 0/0 = 0 (`none`: 1).
    5. N = (1-β1) G' + β1 M' with Nesterov, else M'; `sign` and `memory` replace N by sign(N).
    6. D = √(1-β2^t)/(1-β1^t) · 0.2 √max(m,n) · Q_L (Γ ⊙ msign(N)) Q_Rᵀ.
    7. L ← EMA_{β3}(GGᵀ), R ← EMA_{β3}(GᵀG).
    8. When t mod k = 0: refresh the bases by one power step and QR; V permuted as the old columns are sorted;
       M' rotated back with the old bases and projected on the new ones.

    The first call builds L = (1-β3) GGᵀ, R = (1-β3) GᵀG and their eigenbases, returns zeros and leaves t = 0.

    Parameters
    ----------
    beta1, beta2 : float
    beta3 : float or None
        None means beta2 (point 8).
    refresh_every : int
        k of point 7.
    eps : float
        Added to V inside the root (point 4).
    nesterov : bool
    variant : str
        One of `VARIANTS`.
    eigh, qr : callable
        Factorisations, called on the left matrix and then on the right one.
    polar_steps : int
        Newton-Schulz steps.
    dtype : numpy floating type
        Arithmetic of msign; the rest is float64.
    polar : callable or None
        Replaces msign (list of rows to list of rows).

    Attributes
    ----------
    t : int
    L, R, QL, QR, M : list of rows, or None before the first call
    V : list of rows, or (list, list) of mean squares for `memory`
    gamma, scale_invariant : list of rows
        Γ and msign of the last call, in the rotated basis.
    """

    def __init__(
        self,
        beta1=0.95,
        beta2=0.95,
        beta3=None,
        refresh_every=10,
        eps=1e-8,
        nesterov=True,
        variant="full",
        eigh=np.linalg.eigh,
        qr=np.linalg.qr,
        polar_steps=5,
        dtype=np.float32,
        polar=None,
    ):
        if variant not in VARIANTS:
            raise ValueError(f"variant must be one of {VARIANTS}, not {variant!r}")
        self.beta1, self.beta2, self.beta3 = beta1, beta2, beta2 if beta3 is None else beta3
        self.refresh_every, self.eps, self.nesterov, self.variant = refresh_every, eps, nesterov, variant
        self._eigh, self._qr = eigh, qr
        self._polar = polar or (lambda N: sm.newton_schulz_polar(N, polar_steps, dtype))
        self.t = 0
        self.L = self.R = self.QL = self.QR = self.M = self.V = self.gamma = self.scale_invariant = None

    def direction(self, G):
        """Direction D of one optimizer call, without lr and weight decay; zeros at the first call."""
        G = sm.rows_of(G)
        m, n = len(G), len(G[0])
        if self.QL is None:
            self._first_call(G, m, n)
            return np.zeros((m, n))

        self.t += 1
        rotated = sm.rotate(self.QL, G, self.QR)
        self.M = sm.average(self.M, rotated, self.beta1)
        self.gamma = self._adaptation(rotated, m, n)
        lookahead = sm.average(rotated, self.M, 1.0 - self.beta1) if self.nesterov else self.M
        if self.variant in ("sign", "memory"):
            lookahead = sm.sign(lookahead)
        self.scale_invariant = self._polar(lookahead)
        step = sm.rotate_back(self.QL, sm.entrywise_product(self.gamma, self.scale_invariant), self.QR)
        bias = math.sqrt(1.0 - self.beta2**self.t) / (1.0 - self.beta1**self.t)
        step = sm.scaled(step, bias * sm.shape_factor(m, n))

        self.L = sm.average(self.L, sm.gram_rows(G), self.beta3)
        self.R = sm.average(self.R, sm.gram_columns(G), self.beta3)
        if self.t % self.refresh_every == 0:
            self._refresh()
        return sm.array_of(step)

    def step(self, X, G, lr, weight_decay=0.0):
        """Parameters after one call: X ← X - ηD, then X ← X - ηλX (point 6); unchanged at the first call."""
        first = self.QL is None
        D = self.direction(G)
        X = np.array(X, dtype=np.float64)
        if first:
            return X
        for i in range(X.shape[0]):
            for j in range(X.shape[1]):
                X[i, j] = X[i, j] - lr * D[i, j]
                X[i, j] = X[i, j] - lr * weight_decay * X[i, j]
        return X

    def _first_call(self, G, m, n):
        self.L = sm.average(sm.zeros(m, m), sm.gram_rows(G), self.beta3)
        self.R = sm.average(sm.zeros(n, n), sm.gram_columns(G), self.beta3)
        self.QL = sm.descending_eigenbasis(self.L, self._eigh)
        self.QR = sm.descending_eigenbasis(self.R, self._eigh)
        self.M = sm.zeros(m, n)
        self.V = ([0.0] * m, [0.0] * n) if self.variant == "memory" else sm.zeros(m, n)

    def _adaptation(self, rotated, m, n):
        source = rotated if self.variant == "instantaneous" else self.M
        r, c = sm.row_norms(source), sm.column_norms(source)
        if self.variant == "memory":
            rows, columns = self.V
            rows = sm.average_list(rows, [x * x for x in sm.row_norms(rotated)], self.beta2)
            columns = sm.average_list(columns, [x * x for x in sm.column_norms(rotated)], self.beta2)
            self.V = rows, columns
            V = sm.outer([math.sqrt(x) for x in rows], [math.sqrt(x) for x in columns])
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
                elif V[i][j] + self.eps > 0.0:
                    gamma[i][j] = math.sqrt(r[i]) * math.sqrt(c[j]) / math.sqrt(V[i][j] + self.eps)
        return gamma

    def _refresh(self):
        QL, left = sm.power_iteration_basis(self.L, self.QL, self._qr)
        QR, right = sm.power_iteration_basis(self.R, self.QR, self._qr)
        if self.variant == "memory":
            rows, columns = self.V
            self.V = [rows[i] for i in left], [columns[j] for j in right]
        else:
            self.V = [[self.V[i][j] for j in right] for i in left]
        self.M = sm.rotate(QL, sm.rotate_back(self.QL, self.M, self.QR), QR)
        self.QL, self.QR = QL, QR

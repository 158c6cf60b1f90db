"""Baseline update rules from the literature, float64, one matrix or vector at a time, and library runs.

Directions are what an optimizer subtracts at lr = 1 without weight decay. Averages start at 0
(SPEC, conventions).
"""

import contextlib
import math
from unittest import mock

import numpy as np
import torch

from tests.oracles import scalar_matrix as sm


def _map(function, *arrays):
    """Entrywise function of arrays of one shape, entry by entry."""
    result = np.zeros(arrays[0].shape)
    for index in np.ndindex(arrays[0].shape):
        result[index] = function(*(float(a[index]) for a in arrays))
    return result


class NaiveSignSGD:
    """SignSGD (Bernstein et al. 2018): D = sign(g), or sign(EMA_β(g)) with momentum (Signum); sign(0) = 0."""

    def __init__(self, beta=0.0):
        self.beta, self.m = beta, None

    def direction(self, g):
        g = np.asarray(g, dtype=np.float64)
        self.m = np.zeros(g.shape) if self.m is None else self.m
        self.m = _map(lambda m, x: self.beta * m + (1.0 - self.beta) * x, self.m, g)
        return _map(lambda m: float((m > 0) - (m < 0)), self.m)


class NaiveAdaGrad:
    """Diagonal AdaGrad (Duchi et al. 2011; SPEC D1): S += g², D = g/(√S + ε), 0/0 = 0. torch: ε = 1e-10."""

    def __init__(self, eps=0.0):
        self.eps, self.S = eps, None

    def direction(self, g):
        g = np.asarray(g, dtype=np.float64)
        self.S = np.zeros(g.shape) if self.S is None else self.S
        self.S = _map(lambda s, x: s + x * x, self.S, g)
        return _map(lambda s, x: x / (math.sqrt(s) + self.eps) if x != 0.0 else 0.0, self.S, g)


class NaiveFullAdaGrad:
    """Full-matrix AdaGrad (Duchi et al. 2011): A += g gᵀ, D = A^{†1/2} g (matrices: vec by columns).

    Eigenvalues up to `rtol` · the largest count as 0; default d · 2⁻⁵².
    """

    def __init__(self, rtol=None):
        self.rtol, self.A = rtol, None

    def direction(self, g):
        g = np.asarray(g, dtype=np.float64)
        flat = g.flatten(order="F")
        self.A = np.zeros((flat.size, flat.size)) if self.A is None else self.A
        for i in range(flat.size):
            for j in range(flat.size):
                self.A[i, j] += flat[i] * flat[j]
        root = pseudo_power(self.A, -0.5, self.rtol)
        return array_of_vector(sm.matmul(root, [[x] for x in flat])).reshape(g.shape, order="F")


class NaiveRMSprop:
    """RMSprop (Hinton 2012): v = EMA_β(g²), D = g/(√v + ε); with `eps_inside`, g/√(v + ε) (SPEC D5)."""

    def __init__(self, beta=0.99, eps=1e-8, eps_inside=False):
        self.beta, self.eps, self.eps_inside, self.v = beta, eps, eps_inside, None

    def direction(self, g):
        g = np.asarray(g, dtype=np.float64)
        self.v = np.zeros(g.shape) if self.v is None else self.v
        self.v = _map(lambda v, x: self.beta * v + (1.0 - self.beta) * x * x, self.v, g)
        if self.eps_inside:
            return _map(lambda v, x: x / math.sqrt(v + self.eps) if x != 0.0 else 0.0, self.v, g)
        return _map(lambda v, x: x / (math.sqrt(v) + self.eps) if x != 0.0 else 0.0, self.v, g)


class NaiveAdam:
    """Adam (Kingma & Ba 2015; SPEC D4).

    m = EMA_{β1}(g), v = EMA_{β2}(g²), m̂ = m/(1-β1^t), v̂ = v/(1-β2^t), D = m̂/(√v̂ + ε), 0/0 = 0.
    """

    def __init__(self, beta1=0.9, beta2=0.999, eps=1e-8):
        self.beta1, self.beta2, self.eps, self.t, self.m, self.v = beta1, beta2, eps, 0, None, None

    def direction(self, g):
        g = np.asarray(g, dtype=np.float64)
        if self.t == 0:
            self.m, self.v = np.zeros(g.shape), np.zeros(g.shape)
        self.t += 1
        self.m = _map(lambda m, x: self.beta1 * m + (1.0 - self.beta1) * x, self.m, g)
        self.v = _map(lambda v, x: self.beta2 * v + (1.0 - self.beta2) * x * x, self.v, g)
        hat1, hat2 = 1.0 - self.beta1**self.t, 1.0 - self.beta2**self.t

        def quotient(m, v):
            below = math.sqrt(v / hat2) + self.eps
            return m / hat1 / below if below > 0.0 else 0.0

        return _map(quotient, self.m, self.v)


class NaiveShampoo:
    """Shampoo (Gupta et al. 2018): L and R sums (or EMAs) of GGᵀ, GᵀG; D = L^{†1/4} G R^{†1/4} (SPEC M1, M3).

    Parameters
    ----------
    beta : float or None
        None: sums; else EMA_β from zero, without bias correction.
    eps : float
        ε I added to both factors before the root (the original starts its sums at ε I).
    rtol : float or None
        Eigenvalues up to rtol · the largest count as 0; default max(m, n) · 2⁻⁵².
    """

    def __init__(self, beta=None, eps=0.0, rtol=None):
        self.beta, self.eps, self.rtol, self.L, self.R = beta, eps, rtol, None, None

    def direction(self, G):
        G = sm.rows_of(G)
        m, n = len(G), len(G[0])
        if self.L is None:
            self.L, self.R = sm.zeros(m, m), sm.zeros(n, n)
        LL, RR = sm.gram_rows(G), sm.gram_columns(G)
        if self.beta is None:
            self.L = [[self.L[i][j] + LL[i][j] for j in range(m)] for i in range(m)]
            self.R = [[self.R[i][j] + RR[i][j] for j in range(n)] for i in range(n)]
        else:
            self.L, self.R = sm.average(self.L, LL, self.beta), sm.average(self.R, RR, self.beta)
        rtol = max(m, n) * 2.0**-52 if self.rtol is None else self.rtol
        left = pseudo_power(np.array(self.L) + self.eps * np.eye(m), -0.25, rtol)
        right = pseudo_power(np.array(self.R) + self.eps * np.eye(n), -0.25, rtol)
        return sm.array_of(sm.matmul(sm.matmul(left, G), right))


class NaiveMuon:
    """Muon (Jordan et al. 2024) with exact polar factor, scaled by √max(m, n) as in SPEC E1.

    B ← β B + (1-β) G; N = (1-β) G + β B with Nesterov, else B; D = scale · msign(N).

    Parameters
    ----------
    beta : float
    nesterov : bool
    polar : callable
        List of rows to list of rows.
    scale : callable or None
        (m, n) to the factor; None is √max(m, n). torch.optim.Muon: √max(1, m/n) ("original") or
        0.2 √max(m, n) ("match_rms_adamw").
    """

    def __init__(self, beta=0.95, nesterov=True, polar=sm.exact_polar, scale=None):
        self.beta, self.nesterov, self.B, self._polar = beta, nesterov, None, polar
        self._scale = scale or (lambda m, n: math.sqrt(max(m, n)))

    def direction(self, G):
        G = sm.rows_of(G)
        m, n = len(G), len(G[0])
        self.B = sm.zeros(m, n) if self.B is None else self.B
        self.B = sm.average(self.B, G, self.beta)
        inside = sm.average(G, self.B, 1.0 - self.beta) if self.nesterov else self.B
        return sm.array_of(sm.scaled(self._polar(inside), self._scale(m, n)))


class NaiveAdaMuon:
    """AdaMuon (Si et al. 2025) as SPEC E1 describes it.

    S ← β1 S + G (a sum, which sign cannot tell from an average); N = G + β1 S with Nesterov, else S;
    O = msign(sign(N)); v ← EMA_{β2}(O²); Ô = O/(√v + ε), 0/0 = 0; D = 0.2 √(mn) Ô/(‖Ô‖_F + ε): RMS 0.2.
    A bias correction of v multiplies Ô by one number, which the alignment takes out again (at ε = 0).

    Parameters
    ----------
    beta1, beta2, eps : float
    nesterov : bool
    use_sign : bool
        False: O = msign(N), as in the method's first version and in pytorch_optimizer.
    bias_correction : bool
        v/(1-β2^t) in place of v.
    polar : callable
    """

    def __init__(
        self,
        beta1=0.95,
        beta2=0.95,
        eps=1e-8,
        nesterov=False,
        use_sign=True,
        bias_correction=False,
        polar=sm.exact_polar,
    ):
        self.beta1, self.beta2, self.eps, self.nesterov = beta1, beta2, eps, nesterov
        self.use_sign, self.bias_correction, self._polar = use_sign, bias_correction, polar
        self.t, self.S, self.v = 0, None, None

    def direction(self, G):
        G = sm.rows_of(G)
        m, n = len(G), len(G[0])
        if self.t == 0:
            self.S, self.v = sm.zeros(m, n), sm.zeros(m, n)
        self.t += 1
        self.S = [[self.beta1 * self.S[i][j] + G[i][j] for j in range(n)] for i in range(m)]
        inside = self.S
        if self.nesterov:
            inside = [[G[i][j] + self.beta1 * self.S[i][j] for j in range(n)] for i in range(m)]
        O = self._polar(sm.sign(inside) if self.use_sign else inside)
        self.v = sm.average(self.v, sm.entrywise_product(O, O), self.beta2)
        hat = 1.0 - self.beta2**self.t if self.bias_correction else 1.0
        adapted = sm.zeros(m, n)
        for i in range(m):
            for j in range(n):
                below = math.sqrt(self.v[i][j] / hat) + self.eps
                adapted[i][j] = O[i][j] / below if below > 0.0 else 0.0
        norm = math.hypot(*(x for row in adapted for x in row)) + self.eps
        return sm.array_of(sm.scaled(adapted, 0.2 * math.sqrt(m * n) / norm if norm > 0.0 else 0.0))


class NaiveSOAP:
    """SOAP (Vyas et al. 2024) as pytorch_optimizer 4.1 runs it on one matrix.

    First call: L = (1-β_s) GGᵀ, R = (1-β_s) GᵀG, Q_L, Q_R by eigh (of L + 1e-30 I), descending; no step,
    t = 0.
    Later calls, t ← t + 1:

    1. G' = Q_Lᵀ G Q_R with the bases of the last refresh.
    2. m ← EMA_{β1}(G), in the original coordinates, so never re-rotated; v ← EMA_{β2}(G'²).
    3. N = Q_L [ (Q_Lᵀ m Q_R) / (√v + ε) ] Q_Rᵀ: ε outside the root, v not corrected.
    4. With `normalize_gradient`, N ← N/(RMS(N) + ε).
    5. D = N √(1-β2^t)/(1-β1^t), or N without `correct_bias`.
    6. L ← EMA_{β_s}(GGᵀ), R ← EMA_{β_s}(GᵀG) with the raw current gradient.
    7. When t mod f = 0: refresh by Rayleigh sort, product and QR; the axes of v permuted, not re-rotated.

    There is no shape factor. Weight decay, in the library, is x ← (1-ηλ)x after the update.
    """

    def __init__(
        self,
        beta1=0.95,
        beta2=0.95,
        shampoo_beta=None,
        eps=1e-8,
        precondition_frequency=10,
        correct_bias=True,
        normalize_gradient=False,
        eigh=np.linalg.eigh,
        qr=np.linalg.qr,
    ):
        self.beta1, self.beta2, self.eps = beta1, beta2, eps
        self.shampoo_beta = beta2 if shampoo_beta is None else shampoo_beta
        self.precondition_frequency = precondition_frequency
        self.correct_bias, self.normalize_gradient = correct_bias, normalize_gradient
        self._eigh, self._qr, self.t = eigh, qr, 0
        self.L = self.R = self.QL = self.QR = self.m = self.v = None

    def direction(self, G):
        G = sm.rows_of(G)
        m, n = len(G), len(G[0])
        if self.QL is None:
            self.L = sm.average(sm.zeros(m, m), sm.gram_rows(G), self.shampoo_beta)
            self.R = sm.average(sm.zeros(n, n), sm.gram_columns(G), self.shampoo_beta)
            self.QL = sm.descending_eigenbasis(self.L, self._eigh)
            self.QR = sm.descending_eigenbasis(self.R, self._eigh)
            self.m, self.v = sm.zeros(m, n), sm.zeros(m, n)
            return np.zeros((m, n))
        self.t += 1
        rotated = sm.rotate(self.QL, G, self.QR)
        self.m = sm.average(self.m, G, self.beta1)
        self.v = sm.average(self.v, sm.entrywise_product(rotated, rotated), self.beta2)
        projected = sm.rotate(self.QL, self.m, self.QR)
        quotient = [
            [projected[i][j] / (math.sqrt(self.v[i][j]) + self.eps) for j in range(n)] for i in range(m)
        ]
        step = sm.rotate_back(self.QL, quotient, self.QR)
        if self.normalize_gradient:
            rms = math.hypot(*(x for row in step for x in row)) / math.sqrt(m * n)
            step = sm.scaled(step, 1.0 / (rms + self.eps))
        if self.correct_bias:
            step = sm.scaled(step, math.sqrt(1.0 - self.beta2**self.t) / (1.0 - self.beta1**self.t))
        self.L = sm.average(self.L, sm.gram_rows(G), self.shampoo_beta)
        self.R = sm.average(self.R, sm.gram_columns(G), self.shampoo_beta)
        if self.t % self.precondition_frequency == 0:
            self.QL, left = sm.power_iteration_basis(self.L, self.QL, self._qr)
            self.QR, right = sm.power_iteration_basis(self.R, self.QR, self._qr)
            self.v = [[self.v[i][j] for j in right] for i in left]
        return sm.array_of(step)


def pseudo_power(A, exponent, rtol=None):
    """(A^†)^{-exponent} of a symmetric positive semidefinite matrix, for exponent < 0, as a list of rows."""
    A = np.asarray(A, dtype=np.float64)
    d = A.shape[0]
    values, vectors = np.linalg.eigh(A)
    floor = (d * 2.0**-52 if rtol is None else rtol) * max(float(values[-1]), 0.0)
    power = sm.zeros(d, d)
    for k in range(d):
        if values[k] > floor:
            factor = float(values[k]) ** exponent
            for i in range(d):
                for j in range(d):
                    power[i][j] += factor * float(vectors[i, k]) * float(vectors[j, k])
    return power


def array_of_vector(column):
    """One-dimensional array of an n×1 list of rows."""
    return np.array([row[0] for row in column], dtype=np.float64)


_EXACT_SEAMS = {
    "muon": "torch.optim._muon._zeropower_via_newtonschulz",
    "adamuon": "pytorch_optimizer.optimizer.muon.adamuon.zero_power_via_newton_schulz_5",
}


def torch_optim_trajectory(
    name, grads, *, dtype=torch.float64, exact_polar=False, return_optimizer=False, **options
):
    """Directions of a library optimizer along a sequence of gradients.

    A direction is minus the displacement at lr = 1 without decay. The parameter is set back to 0 before
    each step, so the displacement is free of cancellation.

    How the libraries differ from a first reading of their names:

    * torch Muon: B ← B + (1-μ)(G - B); Nesterov (default) N = G + μ(B - G) = (1-μ)G + μB, else B; five
      quintic steps in bfloat16 on N/max(‖N‖_F, 1e-7), tall matrices transposed; factor √max(1, m/n), m the
      number of rows (`adjust_lr_fn="match_rms_adamw"`: 0.2 √max(m, n)); matrices only; the decay 1-ηλ stands
      before the step and uses the unadjusted lr.
    * pytorch_optimizer SOAP: see `NaiveSOAP`. Its QR runs in float32 whatever the dtype, so that after a
      refresh the bases are orthogonal to 1e-7 only.
    * pytorch_optimizer AdaMuon is the method's first version: no sign before msign, no Nesterov, EMA of G
      with 1-β1, msign by five quintic steps in bfloat16, v̂ = v/(1-β2^t), Ô = O/(√v̂ + ε),
      D = 0.2 √max(m,n) · √min(m,n) Ô/(‖Ô‖_F + ε), ε = 1e-10. Ô stays in bfloat16.

    Parameters
    ----------
    name : {"adam", "rmsprop", "adagrad", "muon", "soap", "adamuon"}
    grads : sequence of arrays of one shape
    dtype : torch.dtype
        Of the parameter and its state.
    exact_polar : bool
        Muon and AdaMuon: the polar factor (SVD, in `dtype`) replaces the bfloat16 iteration of the library.
    return_optimizer : bool
        Return (directions, optimizer) so that the state can be read.
    **options
        Hyper-parameters under the library's own names.

    Returns
    -------
    np.ndarray
        (steps, *shape), float64.
    """
    grads = [torch.as_tensor(np.asarray(g)).to(dtype) for g in grads]
    parameter = torch.nn.Parameter(torch.zeros_like(grads[0]))
    optimizer = _library_optimizer(name, parameter, options)
    directions = []
    with mock.patch(_EXACT_SEAMS[name], _svd_polar) if exact_polar else contextlib.nullcontext():
        for g in grads:
            with torch.no_grad():
                parameter.zero_()
            parameter.grad = g.clone()
            optimizer.step()
            directions.append(-parameter.detach().to(torch.float64).numpy().copy())
    result = np.stack(directions)
    return (result, optimizer) if return_optimizer else result


def _svd_polar(matrix, *args, **kwargs):
    U, s, Vt = torch.linalg.svd(matrix, full_matrices=False)
    kept = (s > max(matrix.shape) * torch.finfo(matrix.dtype).eps * s[0]).to(matrix.dtype)
    return (U * kept) @ Vt


def _library_optimizer(name, parameter, options):
    if name == "adam":
        return torch.optim.Adam([parameter], lr=1.0, weight_decay=0.0, **options)
    if name == "rmsprop":
        return torch.optim.RMSprop([parameter], lr=1.0, weight_decay=0.0, **options)
    if name == "adagrad":
        return torch.optim.Adagrad([parameter], lr=1.0, weight_decay=0.0, **options)
    if name == "muon":
        return torch.optim.Muon([parameter], lr=1.0, weight_decay=0.0, **options)
    import pytorch_optimizer

    if name == "soap":
        return pytorch_optimizer.SOAP([parameter], lr=1.0, weight_decay=0.0, **options)
    if name == "adamuon":
        return pytorch_optimizer.AdaMuon([{"params": [parameter], "use_muon": True}], lr=1.0, **options)
    raise ValueError(f"no library optimizer named {name!r}")

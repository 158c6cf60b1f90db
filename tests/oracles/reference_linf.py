"""The ℓ∞ rule as the paper prints it and as the reference runs it: SPEC §3, D5."""

import math

import numpy as np


class NaiveReferenceLinf:
    """ℓ∞ rule without bias correction (SPEC §3; presets `reference` and `paper`).

    Coordinate by coordinate: m ← β1 m + (1-β1) g; v ← β2 v + (1-β2) m²; γ = √(m²/(v+ε)), 0/0 = 0;
    D = γ sign(m).
    With Nesterov the sign is that of (1-β1) g + β1 m, while γ and v keep m.

    Parameters
    ----------
    beta1, beta2, eps : float
        ε stands inside the root.
    nesterov : bool
    lookahead_in_gamma : bool
        The other reading of Nesterov: the look-ahead value takes the place of m in v and in γ too.
    """

    def __init__(self, beta1=0.9, beta2=0.999, eps=1e-5, nesterov=False, lookahead_in_gamma=False):
        self.beta1, self.beta2, self.eps = beta1, beta2, eps
        self.nesterov, self.lookahead_in_gamma = nesterov, lookahead_in_gamma
        self.t = 0
        self.m = self.v = self.gamma = None

    def direction(self, g):
        """Direction D of one step, in the shape of g, float64."""
        g = np.asarray(g, dtype=np.float64)
        flat = [float(x) for x in g.reshape(-1)]
        if self.m is None:
            self.m, self.v = [0.0] * len(flat), [0.0] * len(flat)
        self.t += 1
        gamma, D = [], []
        for i, x in enumerate(flat):
            self.m[i] = self.beta1 * self.m[i] + (1.0 - self.beta1) * x
            ahead = (1.0 - self.beta1) * x + self.beta1 * self.m[i] if self.nesterov else self.m[i]
            size = ahead if self.lookahead_in_gamma else self.m[i]
            self.v[i] = self.beta2 * self.v[i] + (1.0 - self.beta2) * size * size
            below = self.v[i] + self.eps
            factor = math.sqrt(size * size / below) if below > 0.0 else 0.0
            gamma.append(factor)
            D.append(factor * ((ahead > 0.0) - (ahead < 0.0)))
        self.gamma = np.array(gamma).reshape(g.shape)
        return np.array(D, dtype=np.float64).reshape(g.shape)

    def step(self, x, g, lr, weight_decay=0.0):
        """x ← (1-ηλ) x - ηD: the decay stands before the update."""
        D = self.direction(g)
        x = np.array(x, dtype=np.float64)
        flat, d = x.reshape(-1), D.reshape(-1)
        for i in range(flat.size):
            flat[i] = flat[i] - lr * weight_decay * flat[i]
            flat[i] = flat[i] - lr * d[i]
        return x


class NaivePaperLinf(NaiveReferenceLinf):
    """ℓ∞ rule as printed: the same formulas; without a stated ε, it must be given."""

    def __init__(self, beta1=0.9, beta2=0.999, *, eps, nesterov=False):
        super().__init__(beta1, beta2, eps, nesterov)

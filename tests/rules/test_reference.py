"""The `reference` preset against a naive scalar-loop implementation of the contract (SPEC section 3)."""

import math

import numpy as np
import pytest
import torch

from deva_theory.rules import VARIANTS, deva_linf, deva_spectral
from tests.oracles import scalar_matrix as sm
from tests.oracles.reference_linf import NaiveReferenceLinf
from tests.oracles.reference_spectral import NaiveReferenceSpectral
from tests.rules.streams import gapped, noisy, run_oracle, run_rule, shared, worst

SHAPES = [(5, 3), (3, 5), (4, 4), (6, 2), (1, 4), (4, 1)]


def reference(**options):
    return deva_spectral(**({"preset": "reference", "polar_dtype": torch.float32} | options))


# ---- S∞, the same factorisations -----------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("shape", SHAPES)
def test_agrees_step_by_step(recorded, shape, variant):
    """30 steps, two refreshes, k = 10."""
    grads = noisy(shape)
    ours = run_rule(reference(variant=variant), grads)
    assert len(recorded["eigh"]) == 2 and len(recorded["qr"]) == 4
    assert not ours[0].any()
    oracle = NaiveReferenceSpectral(variant=variant, **shared(recorded))
    assert worst(ours, run_oracle(oracle, grads)) < 1e-5


@pytest.mark.parametrize(
    "options",
    [
        {"betas": (0.9, 0.99)},
        {"betas": (0.5, 0.8), "beta3": 0.3},
        {"betas": (0.0, 0.9)},
        {"refresh_every": 1},
        {"refresh_every": 3, "nesterov": False},
        {"eps": 1e-3},
        {"eps": 0.0},
    ],
    ids=str,
)
@pytest.mark.parametrize("shape", [(5, 3), (3, 5)])
def test_agrees_for_other_hyper_parameters(recorded, shape, options):
    grads = noisy(shape, seed=1)
    ours = run_rule(reference(**options), grads)
    theirs = {k: v for k, v in options.items() if k != "betas"}
    if "betas" in options:
        theirs |= dict(zip(("beta1", "beta2"), options["betas"], strict=True))
    oracle = NaiveReferenceSpectral(**theirs, **shared(recorded))
    assert worst(ours, run_oracle(oracle, grads)) < 1e-5


def test_a_state_in_float32_agrees_to_float32(recorded):
    grads = noisy((5, 3))
    ours = run_rule(reference(), grads, dtype=torch.float32)
    assert worst(ours, run_oracle(NaiveReferenceSpectral(**shared(recorded)), grads)) < 1e-4


def test_bfloat16_is_the_default_and_near(recorded):
    grads = noisy((5, 3))
    ours = run_rule(deva_spectral(preset="reference"), grads)
    gap = worst(ours, run_oracle(NaiveReferenceSpectral(**shared(recorded)), grads))
    assert 1e-4 < gap < 0.1


# ---- S∞, independent factorisations --------------------------------------------------------------


@pytest.mark.parametrize("variant", ["full", "memory", "instantaneous", "none", "snr"])
@pytest.mark.parametrize("turn", [None, 12], ids=["steady", "order of the basis changes"])
@pytest.mark.parametrize("seed", range(3))
def test_independent_bases_agree_on_square_gapped_gradients(variant, turn, seed):
    grads = gapped((4, 4), seed=seed, turn=turn)
    ours = run_rule(reference(variant=variant), grads)
    assert worst(ours, run_oracle(NaiveReferenceSpectral(variant=variant), grads)) < 1e-5


class EpsOutside(NaiveReferenceSpectral):
    def _adaptation(self, rotated, m, n):
        super()._adaptation(rotated, m, n)
        r, c = sm.row_norms(self.M), sm.column_norms(self.M)
        return [
            [math.sqrt(r[i] * c[j]) / (math.sqrt(self.V[i][j]) + self.eps) for j in range(n)]
            for i in range(m)
        ]


class EpsAbove(NaiveReferenceSpectral):
    def _adaptation(self, rotated, m, n):
        super()._adaptation(rotated, m, n)
        r, c = sm.row_norms(self.M), sm.column_norms(self.M)
        return [[math.sqrt((r[i] * c[j] + self.eps) / self.V[i][j]) for j in range(n)] for i in range(m)]


class VLeftBehind(NaiveReferenceSpectral):
    def _refresh(self):
        V = self.V
        super()._refresh()
        self.V = V


class MomentumLeftBehind(NaiveReferenceSpectral):
    def _refresh(self):
        M = self.M
        super()._refresh()
        self.M = M


class UnsortedRefresh(NaiveReferenceSpectral):
    def _refresh(self):
        self.M = sm.rotate_back(self.QL, self.M, self.QR)
        self.QL, self.QR = (
            sm.rows_of(np.linalg.qr(np.array(sm.matmul(A, Q)))[0])
            for A, Q in ((self.L, self.QL), (self.R, self.QR))
        )
        self.M = sm.rotate(self.QL, self.M, self.QR)


class NoBiasFactor(NaiveReferenceSpectral):
    def direction(self, G):
        D = super().direction(G)
        return D if self.t == 0 else D * (1.0 - self.beta1**self.t) / math.sqrt(1.0 - self.beta2**self.t)


class FirstCallCounts(NaiveReferenceSpectral):
    def direction(self, G):
        if self.QL is None:
            super().direction(G)
        return super().direction(G)


class BasesBeforeTheUpdate(NaiveReferenceSpectral):
    def direction(self, G):
        if self.QL is not None and (self.t + 1) % self.refresh_every == 0:
            self._refresh()
        every, self.refresh_every = self.refresh_every, 10**9
        D = super().direction(G)
        self.refresh_every = every
        return D


def quintic(**options):
    return {"polar": lambda N: sm.newton_schulz_polar(N, **options)}


WRONG = {
    "eps outside the root": (EpsOutside, {}),
    "eps in the numerator": (EpsAbove, {}),
    "V is not permuted": (VLeftBehind, {}),
    "M' is not rotated": (MomentumLeftBehind, {}),
    "columns are not sorted": (UnsortedRefresh, {}),
    "no bias factor": (NoBiasFactor, {}),
    "the first call steps": (FirstCallCounts, {}),
    "refresh before the update": (BasesBeforeTheUpdate, {}),
    "no Nesterov": (NaiveReferenceSpectral, {"nesterov": False}),
    "another beta1": (NaiveReferenceSpectral, {"beta1": 0.94}),
    "another beta2": (NaiveReferenceSpectral, {"beta2": 0.94, "beta3": 0.95}),
    "another beta3": (NaiveReferenceSpectral, {"beta3": 0.9}),
    "another k": (NaiveReferenceSpectral, {"refresh_every": 9}),
    "another eps": (NaiveReferenceSpectral, {"eps": 2e-8}),
    "Γ from the gradient": (NaiveReferenceSpectral, {"variant": "instantaneous"}),
    "V from the gradient": (NaiveReferenceSpectral, {"variant": "snr"}),
    "no adaptation": (NaiveReferenceSpectral, {"variant": "none"}),
    "four polar steps": (NaiveReferenceSpectral, {"polar_steps": 4}),
    "no Schatten-8 normalisation": (NaiveReferenceSpectral, quintic(renormalise=False)),
    "a rounded coefficient": (NaiveReferenceSpectral, quintic(coefficients=(3.4445, -4.775, 2.03))),
    "exact polar factor": (NaiveReferenceSpectral, {"polar": sm.exact_polar}),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_twin_a_wrong_contract_is_told_apart(wrong):
    """Gradients of scale 1e-4, so that ε = 1e-8 matters, and a basis whose order changes."""
    grads = gapped((4, 4), turn=12, scale=1e-4)
    ours = run_rule(reference(), grads)
    assert worst(ours, run_oracle(NaiveReferenceSpectral(), grads)) < 1e-5
    oracle, options = WRONG[wrong]
    assert worst(ours, run_oracle(oracle(**options), grads)) > 1e-3


# ---- parameters: weight decay and the call that only builds --------------------------------------


def trajectory(X, grads, step):
    out = []
    for G in grads:
        X = step(X, G)
        out.append(X)
    return out


@pytest.mark.parametrize("weight_decay", [0.0, 0.5])
def test_parameters_follow_the_contract(weight_decay):
    grads = gapped((4, 4), turn=12)
    rule, oracle = reference(), NaiveReferenceSpectral()
    state = {"now": rule.init(torch.zeros(4, 4, dtype=torch.float64))}

    def step(X, G):
        X, state["now"] = rule.step(
            torch.from_numpy(X), torch.from_numpy(G), state["now"], lr=0.1, weight_decay=weight_decay
        )
        return X.numpy()

    start = np.full((4, 4), 2.0)
    ours = trajectory(start, grads, step)
    theirs = trajectory(start, grads, lambda X, G: oracle.step(X, G, 0.1, weight_decay))
    assert np.array_equal(ours[0], start) and state["now"]["step"] == len(grads) - 1
    assert worst(ours, theirs) < 1e-5
    before = NaiveReferenceSpectral()
    wrong = trajectory(start, grads, lambda X, G: (1 - 0.1 * weight_decay) * X - 0.1 * before.direction(G))
    assert (worst(ours, wrong) > 1e-3) == (weight_decay > 0)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_first_call_only_builds(variant):
    rule = reference(variant=variant)
    X, G = torch.ones(3, 3, dtype=torch.float64), torch.from_numpy(noisy((3, 3))[0])
    state = rule.init(X)
    assert rule.only_builds(state)
    D, after, details = rule.update(G, state, diagnostics=True)
    assert not D.any() and details.skipped and after["step"] == 0 and not rule.only_builds(after)
    assert not after["momentum"].any() and not any(v.any() for k, v in after.items() if k.startswith("rms"))
    values = torch.linalg.eigvalsh(G @ G.mT).flip(0)
    quotients = torch.diagonal(after["Q_L"].mT @ G @ G.mT @ after["Q_L"])
    torch.testing.assert_close(quotients, values)
    assert torch.equal(rule.step(X, G, state, lr=0.1, weight_decay=0.5)[0], X)


# ---- ℓ∞ ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.0, 0.9), (0.95, 0.5)])
@pytest.mark.parametrize("scale", [1.0, 1e-3])
def test_linf(betas, nesterov, scale):
    grads = noisy((3, 4), scale=scale)
    rule = deva_linf(preset="reference", betas=betas, nesterov=nesterov)
    oracle = NaiveReferenceLinf(*betas, nesterov=nesterov)
    assert worst(run_rule(rule, grads), run_oracle(oracle, grads)) < 1e-12


class LinfEpsOutside(NaiveReferenceLinf):
    def direction(self, g):
        D = super().direction(g)
        v = np.reshape(self.v, g.shape)
        return D * np.sqrt(v + self.eps) / (np.sqrt(v) + self.eps)


@pytest.mark.parametrize(
    "wrong",
    [
        LinfEpsOutside(),
        NaiveReferenceLinf(eps=1e-6),
        NaiveReferenceLinf(beta2=0.99),
        NaiveReferenceLinf(nesterov=True),
        NaiveReferenceLinf(beta1=0.8),
    ],
)
def test_linf_twins(wrong):
    grads = noisy((3, 4), scale=1e-2)
    assert worst(run_rule(deva_linf(preset="reference"), grads), run_oracle(wrong, grads)) > 1e-3


def test_linf_decay_precedes_the_update():
    grads = noisy((6,), steps=10)
    rule, oracle, x = deva_linf(preset="reference"), NaiveReferenceLinf(), np.full(6, 2.0)
    state = {"now": rule.init(torch.zeros(6, dtype=torch.float64))}

    def step(y, g):
        y, state["now"] = rule.step(
            torch.from_numpy(y), torch.from_numpy(g), state["now"], lr=0.1, weight_decay=0.5
        )
        return y.numpy()

    ours = trajectory(x, grads, step)
    assert worst(ours, trajectory(x, grads, lambda y, g: oracle.step(y, g, 0.1, 0.5))) < 1e-12
    after = NaiveReferenceLinf()
    assert worst(ours, trajectory(x, grads, lambda y, g: 0.95 * (y - 0.1 * after.direction(g)))) > 1e-3

"""Baselines against independent implementations: torch.optim, pytorch_optimizer, and naive NumPy.

Where a library follows another convention, the test says which, and compares what is shared.
"""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from deva_theory.linalg import polar_factor
from deva_theory.rules import (
    FullMatrixAdaGrad,
    Moment,
    Polar,
    Shampoo,
    adagrad,
    adam,
    adamuon,
    gradient_descent,
    muon,
    rmsprop,
    sign_sgd,
    soap,
)
from tests.oracles import baselines as naive
from tests.oracles import scalar_matrix as sm
from tests.rules.streams import gapped, noisy, run_oracle, run_rule, shared, worst

SHAPES = [(5, 3), (3, 5), (4, 4)]
library = naive.torch_optim_trajectory


# ---- coordinates: torch.optim --------------------------------------------------------------------

ENTRYWISE = [
    ("adam", adam(), {}),
    ("adam", adam(betas=(0.9, 0.95), eps=1e-3), {"betas": (0.9, 0.95), "eps": 1e-3}),
    ("adam", adam(betas=(0.0, 0.5), eps=1e-12), {"betas": (0.0, 0.5), "eps": 1e-12}),
    ("rmsprop", rmsprop(), {}),
    ("rmsprop", rmsprop(beta2=0.9, eps=1e-2), {"alpha": 0.9, "eps": 1e-2}),
    ("adagrad", adagrad(), {}),
    ("adagrad", adagrad(eps=1e-2), {"eps": 1e-2}),
]


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-12), (torch.float32, 2e-6)])
@pytest.mark.parametrize("scale", [1.0, 1e-6])
@pytest.mark.parametrize("name, rule, options", ENTRYWISE)
def test_torch_optim(name, rule, options, dtype, tolerance, scale):
    grads = noisy((4, 3), steps=40, scale=scale)
    assert worst(run_rule(rule, grads, dtype), library(name, grads, dtype=dtype, **options)) < tolerance


def test_twin_wrong_hyper_parameters_are_told_apart():
    grads = noisy((4, 3))
    assert worst(run_rule(adam(betas=(0.9, 0.95)), grads), library("adam", grads, betas=(0.95, 0.9))) > 1e-2
    assert worst(run_rule(adam(bias_correction=False), grads), library("adam", grads)) > 1e-2
    assert (
        worst(run_rule(rmsprop(eps_mode="inside", eps=1e-2), grads), library("rmsprop", grads, eps=1e-2))
        > 1e-3
    )
    assert worst(run_rule(adagrad(), grads), library("adagrad", grads, initial_accumulator_value=0.1)) > 1e-3


@pytest.mark.parametrize(
    "name, rule, make",
    [
        ("adamw", adam(), lambda p: torch.optim.AdamW([p], lr=0.1, weight_decay=0.3)),
        ("sgd", gradient_descent(), lambda p: torch.optim.SGD([p], lr=0.1)),
        (
            "momentum",
            gradient_descent(beta1=0.9),
            lambda p: torch.optim.SGD([p], lr=0.1, momentum=0.9, dampening=0.9),
        ),
    ],
)
def test_parameters_of_torch_optim(name, rule, make):
    """Decoupled decay before the update. SGD's first momentum is the gradient itself, ours (1-β) of it."""
    grads = [torch.from_numpy(g) for g in noisy((4, 3))]
    if name == "momentum":
        grads[0] = torch.zeros_like(grads[0])
    x = torch.full((4, 3), 2.0, dtype=torch.float64)
    p, state = torch.nn.Parameter(x.clone()), rule.init(x)
    optimizer = make(p)
    for G in grads:
        p.grad = G.clone()
        optimizer.step()
        x, state = rule.step(x, G, state, lr=0.1, weight_decay=0.3 if name == "adamw" else 0.0)
        torch.testing.assert_close(p.detach(), x, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("beta", [0.0, 0.9])
def test_sign_sgd(beta):
    grads = noisy((3, 4))
    grads[4][0, 0] = 0.0
    assert worst(run_rule(sign_sgd(beta1=beta), grads), run_oracle(naive.NaiveSignSGD(beta), grads)) == 0.0
    wrong = run_oracle(naive.NaiveSignSGD(0.5), grads)
    assert worst(run_rule(sign_sgd(beta1=beta), grads), wrong) > 0.1


# ---- Muon ----------------------------------------------------------------------------------------

TORCH_SHAPES = {"original": ("sqrt_ratio", 1.0), "match_rms_adamw": ("sqrt_max", 0.2)}


@pytest.mark.parametrize("adjust", TORCH_SHAPES)
@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_torch_muon_with_the_exact_polar_factor(shape, nesterov, adjust):
    grads = noisy(shape)
    factor, coefficient = TORCH_SHAPES[adjust]
    rule = muon(beta1=0.9, nesterov=nesterov, polar="svd", shape=factor, coefficient=coefficient)
    theirs = library("muon", grads, exact_polar=True, momentum=0.9, nesterov=nesterov, adjust_lr_fn=adjust)
    assert worst(run_rule(rule, grads), theirs) < 1e-9
    wrong = replace(rule, moment=Moment(0.9, nesterov=not nesterov))
    assert worst(run_rule(wrong, grads), theirs) > 1e-2


@pytest.mark.parametrize("shape", SHAPES)
def test_torch_muon_with_its_own_iteration(shape):
    """torch iterates in bfloat16 from Frobenius norm 1; ours divides by the Schatten-8 norm first."""
    grads = noisy(shape)
    theirs = library("muon", grads, momentum=0.9)
    coefficients = [(3.4445, -4.7750, 2.0315)] * 5

    class TorchPolar(Polar):
        def __call__(self, x):
            x = x / torch.linalg.matrix_norm(x, keepdim=True)
            for a, b, c in coefficients:
                gram = x @ x.mT
                x = a * x + (b * gram + c * gram @ gram) @ x
            return x

    rule = muon(beta1=0.9, shape="sqrt_ratio")
    plain = worst(run_rule(replace(rule, scale_invariant=TorchPolar()), grads), theirs)
    ours = worst(run_rule(rule, grads), theirs)
    assert plain < 0.08  # bfloat16 alone
    assert plain < ours < 0.8  # and the normalisation


@pytest.mark.parametrize("shape", SHAPES)
def test_muon_of_the_experiment(shape):
    """SPEC E1: scaled by √max(m, n)."""
    grads = noisy(shape)
    assert worst(run_rule(muon(polar="svd"), grads), run_oracle(naive.NaiveMuon(), grads)) < 1e-9


def test_torch_muon_decays_before_the_step():
    grads = [torch.from_numpy(g) for g in noisy((4, 4), steps=6)]
    rule = muon(polar_dtype=torch.bfloat16, shape="sqrt_ratio")
    p = torch.nn.Parameter(torch.full((4, 4), 2.0, dtype=torch.float64))
    optimizer = torch.optim.Muon([p], lr=0.1, weight_decay=3.0)
    for G in grads:
        before = p.detach().clone()
        p.grad = G
        optimizer.step()
        # What is left beside 1-ηλ = 0.7 is the step, of spectral norm about η.
        step = torch.linalg.matrix_norm(p.detach() - 0.7 * before, ord=2)
        assert 0.06 < float(step) < 0.13
    assert rule.decay == "before"


# ---- SOAP ----------------------------------------------------------------------------------------


class SOAPCorrectedRoot(naive.NaiveSOAP):
    """ε beside the corrected root, √v̂ + ε, as Adam has it: what `soap` does."""

    def direction(self, G):
        eps, self.eps = self.eps, self.eps * math.sqrt(1.0 - self.beta2 ** (self.t + 1))
        D = super().direction(G)
        self.eps = eps
        return D


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"beta1": 0.9, "beta2": 0.99, "shampoo_beta": 0.8, "precondition_frequency": 3},
        {"correct_bias": False},
    ],
    ids=str,
)
@pytest.mark.parametrize("shape", SHAPES)
def test_soap_with_the_same_factorisations(recorded, shape, options):
    grads = noisy(shape)
    rule = soap(
        betas=(options.get("beta1", 0.95), options.get("beta2", 0.95)),
        beta3=options.get("shampoo_beta"),
        eps=1e-2,
        refresh_every=options.get("precondition_frequency", 10),
        bias_correction=options.get("correct_bias", True),
    )
    ours = run_rule(rule, grads)
    corrected = options.get("correct_bias", True)
    oracle = (SOAPCorrectedRoot if corrected else naive.NaiveSOAP)(eps=1e-2, **options, **shared(recorded))
    assert worst(ours, run_oracle(oracle, grads)) < 1e-9
    if corrected:
        # The library's ε stands beside the raw root: early steps then differ, by about ε/√v · √(1-β2).
        raw = naive.NaiveSOAP(eps=1e-2, **options, **shared(recorded))
        assert worst(ours, run_oracle(raw, grads)) > 1e-3


@pytest.mark.parametrize("turn", [None, 12])
def test_soap_of_the_library(turn):
    """ε → 0, so that its place does not matter; the library's QR runs in float32: 1e-5 after a refresh."""
    grads = gapped((4, 4), turn=turn)
    ours = run_rule(soap(betas=(0.9, 0.95), eps=1e-14), grads)
    options = {"betas": (0.9, 0.95), "shampoo_beta": 0.95, "eps": 1e-14, "precondition_frequency": 10}
    theirs = library("soap", grads, **options)
    assert not ours[0].any() and not theirs[0].any()  # both only build the bases first
    assert worst(ours[:11], theirs[:11]) < 1e-9  # before the first refresh
    assert worst(ours, theirs) < 1e-4
    assert worst(ours, library("soap", grads, **(options | {"precondition_frequency": 9}))) > 1e-3
    assert worst(ours, library("soap", grads, **(options | {"betas": (0.9, 0.9)}))) > 1e-3


# ---- AdaMuon -------------------------------------------------------------------------------------


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_adamuon_as_the_experiment_describes_it(shape, nesterov):
    grads = noisy(shape)
    ours = run_rule(adamuon(betas=(0.9, 0.95), polar="svd", nesterov=nesterov), grads)
    assert worst(ours, run_oracle(naive.NaiveAdaMuon(0.9, 0.95, nesterov=nesterov), grads)) < 1e-6
    np.testing.assert_allclose([np.sqrt((D**2).mean()) for D in ours], 0.2, rtol=1e-9)
    wrong = naive.NaiveAdaMuon(0.9, 0.95, nesterov=not nesterov)
    assert worst(ours, run_oracle(wrong, grads)) > 1e-2


@pytest.mark.parametrize("shape", SHAPES)
def test_adamuon_of_the_library_is_the_first_version(shape):
    """pytorch_optimizer: msign of the momentum, not of its sign; v/(1-β2^t), which the alignment undoes."""
    grads = noisy(shape)
    theirs = library("adamuon", grads, exact_polar=True, betas=(0.9, 0.95))
    rule = adamuon(betas=(0.9, 0.95), polar="svd", eps=1e-12)
    assert worst(run_rule(replace(rule, scale_invariant=Polar("svd")), grads), theirs) < 1e-6
    assert worst(run_rule(rule, grads), theirs) > 0.1


# ---- matrices as adaptation ----------------------------------------------------------------------


@pytest.mark.parametrize("beta", [None, 0.9])
@pytest.mark.parametrize("shape", SHAPES)
def test_shampoo(shape, beta):
    grads = noisy(shape, steps=15)
    ours = run_rule(Shampoo(beta), grads)
    assert worst(ours, run_oracle(naive.NaiveShampoo(beta), grads)) < 1e-6
    assert worst(ours, run_oracle(naive.NaiveShampoo(0.8), grads)) > 1e-2
    if beta is None:  # M1
        assert worst(ours[:1], [polar_factor(torch.from_numpy(grads[0])).numpy()]) < 1e-6


@pytest.mark.parametrize("shape", SHAPES)
def test_shampoo_with_momentum_and_regularisation(shape):
    grads, (m, n) = noisy(shape, steps=15), shape
    ours = run_rule(Shampoo(0.9, Moment(0.8, nesterov=True), eps=1e-2), grads)
    L, R, M = np.zeros((m, m)), np.zeros((n, n)), np.zeros(shape)
    for G, D in zip(grads, ours, strict=True):
        L, R, M = 0.9 * L + 0.1 * G @ G.T, 0.9 * R + 0.1 * G.T @ G, 0.8 * M + 0.2 * G
        roots = [
            np.array(naive.pseudo_power(A + 1e-2 * np.trace(A) / len(A) * np.eye(len(A)), -0.25))
            for A in (L, R)
        ]
        np.testing.assert_allclose(D, roots[0] @ (0.2 * G + 0.8 * M) @ roots[1], rtol=1e-9, atol=1e-9)


def test_full_matrix_adagrad():
    """Up to as many samples as dimensions S is singular: there its rank tolerance decides."""
    grads = noisy((6,), steps=20)
    ours = run_rule(FullMatrixAdaGrad(), grads)
    assert worst(ours, run_oracle(naive.NaiveFullAdaGrad(), grads)) < 1e-5
    assert worst(ours, run_oracle(naive.NaiveAdaGrad(), grads)) > 0.1
    np.testing.assert_allclose(ours[0], grads[0] / np.linalg.norm(grads[0]), rtol=1e-7)


def test_full_matrix_adagrad_with_averages_and_regularisation():
    grads, S = noisy((5,), steps=12), np.zeros((5, 5))
    ours = run_rule(FullMatrixAdaGrad(0.9, eps=1e-2), grads)
    for g, D in zip(grads, ours, strict=True):
        S = 0.9 * S + 0.1 * np.outer(g, g)
        root = np.array(naive.pseudo_power(S + 1e-2 * np.trace(S) / 5 * np.eye(5), -0.5))
        np.testing.assert_allclose(D, root @ g, rtol=1e-9, atol=1e-9)


def test_naive_sign_is_the_librarys():
    A = [[1.0, -2.0], [0.0, 3.0]]
    assert sm.sign(A) == torch.sign(torch.tensor(A)).tolist()

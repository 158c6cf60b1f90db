"""The presets against naive scalar-loop implementations written from the specification alone."""

import numpy as np
import pytest
import torch

from deva_theory.rules import VARIANTS, deva_linf, deva_spectral
from tests.oracles.corrected import NaiveCorrectedLinf, NaiveCorrectedSpectral
from tests.oracles.paper_spectral import NaivePaperSpectral
from tests.oracles.reference_linf import NaivePaperLinf, NaiveReferenceLinf
from tests.oracles.reference_spectral import NaiveReferenceSpectral
from tests.oracles.scalar_matrix import Replay

STEPS = 30


def gradients(shape, seed=0, steps=STEPS, gapped=False):
    rng = np.random.default_rng(seed)
    m, n = shape
    signal = rng.standard_normal(shape)
    if gapped:
        U, V = np.linalg.qr(rng.standard_normal((m, m)))[0], np.linalg.qr(rng.standard_normal((n, n)))[0]
        signal = U[:, : min(shape)] * (4.0 ** -np.arange(min(shape))) @ V[:, : min(shape)].T * 8
        return [signal + 0.02 * rng.standard_normal(shape) for _ in range(steps)]
    return [signal + rng.standard_normal(shape) for _ in range(steps)]


@pytest.fixture
def recorded(monkeypatch):
    """Record what the library's factorisations return, in order, for the oracle to replay."""
    log = {"eigh": [], "qr": []}
    eigh, qr = torch.linalg.eigh, torch.linalg.qr

    def spy_eigh(A, *args, **kwargs):
        out = eigh(A, *args, **kwargs)
        log["eigh"].append((out[0].double().numpy(), out[1].double().numpy()))
        return out

    def spy_qr(A, *args, **kwargs):
        out = qr(A, *args, **kwargs)
        log["qr"].append((out[0].double().numpy(), out[1].double().numpy()))
        return out

    monkeypatch.setattr(torch.linalg, "eigh", spy_eigh)
    monkeypatch.setattr(torch.linalg, "qr", spy_qr)
    return log


def run_rule(rule, grads, dtype=torch.float64):
    state = rule.init(torch.zeros(*grads[0].shape, dtype=dtype))
    out = []
    for G in grads:
        D, state, _ = rule.update(torch.from_numpy(G).to(dtype), state)
        out.append(D.double().numpy())
    return out


def worst(ours, theirs):
    return max(
        np.linalg.norm(a - b) / max(np.linalg.norm(b), 1e-300) if np.linalg.norm(b) > 0 else np.linalg.norm(a)
        for a, b in zip(ours, theirs, strict=True)
    )


def shared(log):
    return {"eigh": Replay(log["eigh"]), "qr": Replay(log["qr"])}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("shape", [(5, 3), (3, 5), (4, 4)])
def test_reference_spectral_agrees_step_by_step(recorded, shape, variant):
    grads = gradients(shape)
    ours = run_rule(deva_spectral(preset="reference", variant=variant, polar_dtype=torch.float32), grads)
    assert len(recorded["qr"]) == 4  # two refreshes of two bases
    oracle = NaiveReferenceSpectral(variant=variant, **shared(recorded))
    assert worst(ours, [oracle.direction(G) for G in grads]) < 1e-5


@pytest.mark.parametrize(
    "wrong",
    [{"eps": 1e-2}, {"nesterov": False}, {"beta3": 0.5}, {"refresh_every": 7}, {"variant": "snr"}, {"polar_steps": 4}],
    ids=lambda w: next(iter(w)),
)
def test_twin_a_wrong_contract_is_told_apart(wrong):
    grads = gradients((4, 4), gapped=True)
    ours = run_rule(deva_spectral(preset="reference", polar_dtype=torch.float32), grads)
    oracle = NaiveReferenceSpectral(**wrong)
    assert worst(ours, [oracle.direction(G) for G in grads]) > 1e-3


@pytest.mark.parametrize("variant", ["full", "memory", "instantaneous", "snr"])
def test_reference_spectral_with_independent_bases(variant):
    grads = gradients((4, 4), seed=3, gapped=True)
    ours = run_rule(deva_spectral(preset="reference", variant=variant, polar_dtype=torch.float32), grads)
    oracle = NaiveReferenceSpectral(variant=variant)
    # Columns may differ in sign between eigensolvers: harmless except where sign() is taken entrywise.
    assert worst(ours, [oracle.direction(G) for G in grads]) < 1e-5


@pytest.mark.parametrize("variant", ["full", "instantaneous", "none", "snr"])
@pytest.mark.parametrize("shape", [(5, 3), (3, 5), (4, 4)])
def test_paper_spectral(recorded, shape, variant):
    grads = gradients(shape)
    ours = run_rule(deva_spectral(preset="paper", variant=variant), grads)
    oracle = NaivePaperSpectral(variant=variant, eigh=Replay(recorded["eigh"]))
    assert worst(ours, [oracle.direction(G) for G in grads]) < 1e-6


@pytest.mark.parametrize("variant", ["full", "memory", "instantaneous", "none", "snr"])
@pytest.mark.parametrize("shape", [(5, 3), (3, 5), (4, 4)])
def test_corrected_spectral(recorded, shape, variant):
    grads = gradients(shape)
    ours = run_rule(deva_spectral(variant=variant, eps=0.0), grads)
    # The first basis is eigh's with a canonical null space: the oracle takes the finished one.
    rule = deva_spectral(variant=variant, eps=0.0)
    _, state, _ = rule.update(torch.from_numpy(grads[0]), rule.init(torch.from_numpy(grads[0])))
    first = [(None, state[f"Q_{side}"].flip(-1).numpy()) for side in "LR"]
    oracle = NaiveCorrectedSpectral(variant=variant, carry="permute", eigh=Replay(first), qr=Replay(recorded["qr"][2:]))
    assert worst(ours, [oracle.direction(G) for G in grads]) < 1e-7


@pytest.mark.parametrize("nesterov", [False, True])
def test_linf_presets(nesterov):
    grads = gradients((3, 4))
    pairs = [
        (deva_linf(preset="reference", nesterov=nesterov, event_ndim=2), NaiveReferenceLinf(nesterov=nesterov)),
        (deva_linf(preset="paper", eps=1e-8, nesterov=nesterov, event_ndim=2), NaivePaperLinf(eps=1e-8, nesterov=nesterov)),
        (deva_linf(eps=1e-6, nesterov=nesterov, event_ndim=2), NaiveCorrectedLinf(eps=1e-6, nesterov=nesterov)),
    ]
    for rule, oracle in pairs:
        assert worst(run_rule(rule, grads), [np.asarray(oracle.direction(G)) for G in grads]) < 1e-12, rule.name


def test_weight_decay_order_and_the_call_that_only_builds():
    grads = gradients((4, 4), gapped=True)
    rule, oracle = deva_spectral(preset="reference", polar_dtype=torch.float32), NaiveReferenceSpectral()
    X = torch.ones(4, 4, dtype=torch.float64)
    Y, state = X.numpy(), rule.init(X)
    for k, G in enumerate(grads[:5]):
        X, state = rule.step(X, torch.from_numpy(G), state, lr=0.1, weight_decay=0.5)
        Y = oracle.step(Y, G, 0.1, 0.5)
        if k == 0:
            assert torch.equal(X, torch.ones(4, 4, dtype=torch.float64)) and state["step"] == 0
        np.testing.assert_allclose(X.numpy(), Y, rtol=1e-5, atol=1e-6)

"""Rules reject what they cannot take before any state changes, and say which argument it is."""

import pytest
import torch

from deva_theory.rules import adam, deva_linf, deva_spectral, muon, rmsprop

OPTIONS = [
    (lambda: deva_linf(preset="papr"), "did you mean 'paper'"),
    (lambda: deva_linf(betas=(-0.1, 0.9)), "beta1"),
    (lambda: deva_linf(betas=(0.9, float("nan"))), "beta2"),
    (lambda: deva_linf(eps=-1.0), "eps"),
    (lambda: deva_spectral(variant="mem"), "variant"),
    (lambda: deva_spectral(beta3=2.0), "beta3"),
    (lambda: deva_spectral(refresh_every=1.5), "refresh_every"),
    (lambda: deva_spectral(refresh="qrr"), "did you mean 'qr'"),
    (lambda: deva_spectral(polar="svd", polar_dtype=torch.float32), "polar_dtype"),
    (lambda: adam(betas=(0.9, 1.0)), "beta2"),
    (lambda: rmsprop(eps_mode="in"), "eps_mode"),
    (lambda: muon(shape="max"), "shape"),
]


@pytest.mark.parametrize("make, words", OPTIONS)
def test_options(make, words):
    with pytest.raises(ValueError, match=words):
        make()


GRADIENTS = [
    (torch.full((3, 2), float("nan")), ValueError, "NaN"),
    (torch.full((3, 2), float("inf")), ValueError, "infinite"),
    (torch.ones(3, 2, dtype=torch.int64), TypeError, "int64"),
    (torch.ones(3, 2, dtype=torch.complex64), TypeError, "complex"),
    (torch.ones(2, 3), ValueError, "shape"),
    (torch.ones(3), ValueError, "shape"),
    ([[1.0]], TypeError, "list"),
]


RULES = [deva_linf(event_ndim=2), deva_spectral(), deva_spectral(preset="reference"), adam()]


@pytest.mark.parametrize("rule", RULES, ids=lambda r: r.name)
@pytest.mark.parametrize("grad, error, words", GRADIENTS)
def test_gradients(rule, grad, error, words):
    state = rule.init(torch.zeros(3, 2))
    _, state, _ = rule.update(torch.ones(3, 2), state)
    before = {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in state.items()}
    with pytest.raises(error, match=words):
        rule.update(grad, state)
    assert all(torch.equal(v, before[k]) if isinstance(v, torch.Tensor) else v == before[k] for k, v in state.items())

"""One table of rules, one body of tests: purity, batches, dtypes, diagnostics, degenerate gradients."""

import copy
import pickle

import pytest
import torch

from deva_theory.rules import (
    PRESETS,
    VARIANTS,
    FullMatrixAdaGrad,
    Moment,
    Rule,
    Shampoo,
    adagrad,
    adam,
    adamuon,
    deva_linf,
    deva_spectral,
    gradient_descent,
    muon,
    rmsprop,
    sign_sgd,
    soap,
    without_rotation_back,
)
from tests.rules.streams import stationary, worst

RULES = {
    "gradient descent": gradient_descent(),
    "gradient descent, momentum": gradient_descent(beta1=0.9),
    "sign": sign_sgd(),
    "sign, momentum": sign_sgd(beta1=0.9, nesterov=True),
    "adagrad": adagrad(),
    "rmsprop": rmsprop(),
    "rmsprop, inside": rmsprop(eps_mode="inside", bias_correction=True),
    "adam": adam(),
    "muon": muon(),
    "muon, svd": muon(polar="svd", nesterov=False, shape="sqrt_ratio"),
    "soap": soap(refresh_every=3),
    "adamuon": adamuon(),
    "shampoo": Shampoo(),
    "shampoo, averages": Shampoo(0.9, Moment(0.8, nesterov=True), eps=1e-3),
    "full-matrix adagrad": FullMatrixAdaGrad(),
    "full-matrix adagrad, averages": FullMatrixAdaGrad(0.9, eps=1e-3),
    "without rotation back": without_rotation_back(deva_spectral(refresh_every=3)),
}
RULES |= {f"linf, {p}, {v}": deva_linf(preset=p, variant=v, event_ndim=2) for p in PRESETS for v in VARIANTS}
RULES |= {
    f"spectral, {p}, {v}": deva_spectral(preset=p, variant=v, refresh_every=3)
    for p in PRESETS
    for v in VARIANTS
}
RULES |= {
    f"spectral, {refresh}, {polar}": deva_spectral(refresh=refresh, polar=polar, refresh_every=2)
    for refresh in ("eigh", "rotation")
    for polar in ("newton_schulz", "polar_express")
}
# Iterations in bfloat16 lose all digits but two.
COARSE = {
    k
    for k, r in RULES.items()
    if getattr(getattr(r, "scale_invariant", None), "dtype", None) == torch.bfloat16
}
EVERY = pytest.mark.parametrize("name", RULES)
COMPOSED = pytest.mark.parametrize("name", [k for k, r in RULES.items() if isinstance(r, Rule)])


def same(a, b):
    return a.dtype == b.dtype and torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def unchanged(state, before):
    return state.keys() == before.keys() and all(same(state[k], before[k]) for k in state)


@EVERY
def test_nothing_of_the_callers_changes(name):
    rule = RULES[name]
    grads = stationary(8, (3, 3), seeds=2)
    params = torch.ones_like(grads[0])
    state = rule.init(params)
    assert torch.equal(params, torch.ones_like(params))
    for G in grads:
        kept, before = G.clone(), copy.deepcopy(state)
        D, new, none = rule.update(G, state)
        assert torch.equal(G, kept) and unchanged(state, before) and none is None
        again, once_more, _ = rule.update(G, state)
        assert torch.equal(again, D) and unchanged(once_more, new)
        # What comes out shares no memory with what went in.
        D.fill_(7.0)
        assert torch.equal(G, kept) and unchanged(state, before) and unchanged(new, once_more)
        state = new


@EVERY
def test_donated_memory_gives_the_same_numbers(name):
    rule = RULES[name]
    grads = stationary(8, (4, 4), seeds=2)
    state, donated = rule.init(grads[0]), rule.init(grads[0])
    for G in grads:
        kept = G.clone()
        D, state, _ = rule.update(G, state)
        E, donated, _ = rule.update(G, donated, donate=True)
        torch.testing.assert_close(E, D, rtol=1e-12, atol=1e-12)
        assert torch.equal(G, kept)


@EVERY
def test_a_failing_update_leaves_the_state(name, monkeypatch):
    """With donated memory, too: optimizers keep their state when a factorisation fails."""
    rule = RULES[name]
    grads = stationary(4, (3, 3))[:, 0]
    state = rule.init(grads[0])
    for G in grads[:3]:
        _, state, _ = rule.update(G, state)
    before = copy.deepcopy(state)
    bad = grads[3].clone()
    bad[0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"NaN"):
        rule.update(bad, state, donate=True)
    assert unchanged(state, before)


@EVERY
@pytest.mark.parametrize("shape", [(4, 4), (5, 3), (3, 5)])
def test_batched_is_unbatched(name, shape):
    rule = RULES[name]
    preset = name.split(", ")[1] if name.startswith("spectral") else ""
    if shape[0] != shape[1] and (preset in ("paper", "reference") or name == "soap"):
        pytest.skip("the basis of the null space is left to the rounding of eigh")
    # Diagonal-dominant signals keep the spectra apart, so that rounding does not choose among bases.
    grads = stationary(7, shape, seeds=6, noise=0.3).reshape(7, 2, 3, *shape)
    state = rule.init(grads[0])
    single = {(i, j): rule.init(grads[0, i, j]) for i in range(2) for j in range(3)}
    for G in grads:
        D, state, _ = rule.update(G, state)
        assert D.shape == G.shape
        for (i, j), own in single.items():
            one, single[i, j], _ = rule.update(G[i, j], own)
            if name in COARSE:
                assert worst([one], [D[i, j]]) < 0.1
            else:
                assert worst([one], [D[i, j]]) < 1e-7


@EVERY
@pytest.mark.parametrize("shape", [(3, 3), (2, 2, 4, 3)])
def test_a_batch_of_none_is_a_batch(name, shape):
    rule = RULES[name]
    empty = torch.zeros(0, *shape, dtype=torch.float64)
    state = rule.init(empty)
    for _ in range(4):
        D, state, _ = rule.update(empty, state)
        assert D.shape == empty.shape


DTYPES = {
    torch.float64: torch.float64,
    torch.float32: torch.float32,
    torch.bfloat16: torch.float32,
    torch.float16: torch.float32,
}


@EVERY
@pytest.mark.parametrize("dtype", DTYPES)
def test_dtypes(name, dtype):
    rule, wanted = RULES[name], DTYPES[dtype]
    grads = stationary(5, (4, 4), dtype=dtype)[:, 0]
    state = rule.init(grads[0])
    for G in grads:
        D, state, _ = rule.update(G, state)
        assert D.dtype == wanted and bool(torch.isfinite(D).all())
        floating = [v for v in state.values() if isinstance(v, torch.Tensor) and v.is_floating_point()]
        assert all(v.dtype == wanted for v in floating)


@EVERY
def test_float32_is_near_float64(name):
    rule = RULES[name]
    if name in COARSE or ("sign" in name and "spectral" in name) or "paper, memory" in name:
        pytest.skip("bfloat16, or Γ and sign of entries that are rounding noise")
    grads = stationary(8, (4, 4), noise=0.1)[:, 0]
    runs = {}
    for dtype in (torch.float32, torch.float64):
        state, out = rule.init(grads[0].to(dtype)), []
        for G in grads:
            D, state, _ = rule.update(G.to(dtype), state)
            out.append(D.double())
        runs[dtype] = torch.stack(out)
    # Full-matrix AdaGrad inverts S: its condition number multiplies the rounding.
    assert worst(runs[torch.float32], runs[torch.float64]) < (2e-2 if "full-matrix" in name else 2e-3)


@COMPOSED
@pytest.mark.parametrize("shape", [(4, 4), (4, 3), (2, 5), (1, 3)])
def test_diagnostics_recompose_the_direction(name, shape):
    rule = RULES[name]
    grads = stationary(7, shape, seeds=2)
    state = rule.init(grads[0])
    for G in grads:
        plain, _, _ = rule.update(G, state)
        D, state, details = rule.update(G, state, diagnostics=True)
        assert torch.equal(D, plain)
        if details.skipped:
            assert not D.any()
            continue
        if name == "without rotation back":  # its direction stays in the rotated basis
            continue
        assert bool((details.variance_adaptation >= 0).all())
        again = details.scale * details.adapt(details.scale_invariant)
        assert worst(again, D) < 1e-9 or (name in COARSE and worst(again, D) < 1e-6)
        if details.basis is not None:
            Q_L, Q_R = details.basis
            original = Q_L @ details.variance_adaptation @ Q_R.mT
            torch.testing.assert_close(details.variance_adaptation_original, original)
            for Q in details.basis:
                eye = torch.eye(Q.shape[-1], dtype=Q.dtype).expand_as(Q)
                torch.testing.assert_close(Q.mT @ Q, eye, rtol=0, atol=1e-10)


@EVERY
@pytest.mark.parametrize("shape", [(1, 4), (4, 1), (1, 1), (0, 3), (3, 0), (0, 0), (3, 3), (2, 3, 4)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_degenerate_gradients_give_finite_steps(name, shape, dtype):
    """Zero, rank one, repeated singular values, zero again, tiny, huge."""
    rule = RULES[name]
    zero, ones = torch.zeros(shape, dtype=dtype), torch.ones(shape, dtype=dtype)
    eye = torch.eye(*shape[-2:], dtype=dtype).expand(shape)
    state = rule.init(zero)
    for step, G in enumerate([zero, ones, eye, zero, zero, ones * 1e-8, eye * 1e6, zero]):
        D, state, _ = rule.update(G, state)
        assert D.shape == shape and bool(torch.isfinite(D).all())
        if step == 0:
            assert not D.any()
        tensors = [v for v in state.values() if isinstance(v, torch.Tensor)]
        assert all(bool(torch.isfinite(v).all()) for v in tensors)


@EVERY
def test_zero_gradients_move_nothing(name):
    rule = RULES[name]
    zero = torch.zeros(3, 4, dtype=torch.float64)
    state = rule.init(zero)
    for _ in range(12):
        D, state, _ = rule.update(zero, state)
        assert not D.any()


@EVERY
def test_a_zero_matrix_in_a_batch_does_not_disturb_the_others(name):
    rule = RULES[name]
    grads = stationary(6, (3, 3), seeds=2, noise=0.3)
    with_zero = grads.clone()
    with_zero[:, 0] = 0.0
    state, other = rule.init(grads[0]), rule.init(grads[0])
    for G, H in zip(grads, with_zero, strict=True):
        D, state, _ = rule.update(G, state)
        E, other, _ = rule.update(H, other)
        assert not E[0].any()
        assert worst(E[1:], D[1:]) < (0.1 if name in COARSE else 1e-7)


@EVERY
def test_rules_are_values(name):
    rule = RULES[name]
    assert pickle.loads(pickle.dumps(rule)) == rule == copy.deepcopy(rule)
    assert hash(rule) == hash(copy.deepcopy(rule))


@EVERY
def test_gradients_that_need_gradients_and_views_are_taken(name):
    rule = RULES[name]
    G = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).mT
    state = rule.init(G.requires_grad_())
    assert not any(v.requires_grad for v in state.values() if isinstance(v, torch.Tensor))
    for _ in range(3):
        D, state, _ = rule.update(G, state)
        assert not D.requires_grad
        assert not any(v.requires_grad for v in state.values() if isinstance(v, torch.Tensor))

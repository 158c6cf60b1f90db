"""The optimizer shells: the same numbers as the rule, nothing lost, clear errors before anything changes."""

import copy
import io

import pytest
import torch

from deva_theory.optim import DeVA, RuleOptimizer
from deva_theory.rules import PRESETS, apply_direction, deva_linf, deva_spectral, muon, sign_sgd


def parameters(dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(4, 3), (4, 3), (3, 5), (6,), (), (2, 3, 2, 2), (1, 4)]
    return [torch.nn.Parameter(torch.randn(s, generator=generator, dtype=torch.float64).to(dtype)) for s in shapes]


def give_gradients(params, step):
    generator = torch.Generator().manual_seed(1000 + step)
    for p in params:
        p.grad = torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p.dtype)


@pytest.mark.parametrize("preset", PRESETS)
def test_equals_the_rule_stepped_by_hand(preset):
    params = parameters()
    if preset != "corrected":
        # Their null spaces are left to the eigensolver's rounding, which a batch may change: square gradients only.
        params = [p for p in params if p.ndim != 2] + [torch.nn.Parameter(torch.randn(3, 3, dtype=torch.float64)) for _ in range(2)]
    optimizer = DeVA(params, lr=0.1, preset=preset, weight_decay=0.2, polar="svd", refresh_every=3)
    mine = [p.detach().clone() for p in params]
    rules = [
        deva_spectral(preset=preset, polar="svd", refresh_every=3) if p.ndim == 2 and min(p.shape) > 1 else deva_linf(preset=preset)
        for p in params
    ]
    states = [r.init(x if r.event_ndim == 2 else x.reshape(-1)) for r, x in zip(rules, mine, strict=True)]
    for step in range(8):
        give_gradients(params, step)
        for k, (rule, p) in enumerate(zip(rules, params, strict=True)):
            g = p.grad if rule.event_ndim == 2 else p.grad.reshape(-1)
            skipped = rule.only_builds(states[k])
            D, states[k], _ = rule.update(g, states[k])
            if not skipped:
                mine[k] = apply_direction(mine[k], D.reshape(p.shape), lr=0.1, weight_decay=0.2, decay=rule.decay)
        optimizer.step()
        for x, p in zip(mine, params, strict=True):
            torch.testing.assert_close(p.detach(), x, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("preset", PRESETS)
def test_state_dict_round_trip(preset, dtype):
    params = parameters(dtype)
    optimizer = DeVA(params, lr=0.1, preset=preset, refresh_every=2)
    for step in range(5):
        give_gradients(params, step)
        optimizer.step()
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    others = copy.deepcopy(params)
    again = DeVA(others, lr=0.5)
    again.load_state_dict(torch.load(file, weights_only=True))
    cloned = copy.deepcopy(optimizer)
    assert all(v.dtype == (dtype if dtype == torch.float64 else torch.float32)
               for s in again.state.values() for v in s.values() if isinstance(v, torch.Tensor) and v.is_floating_point())
    for step in range(5, 9):
        give_gradients(params, step)
        give_gradients(others, step)
        give_gradients(cloned.param_groups[0]["params"], step)
        for o in (optimizer, again, cloned):
            o.step()
    for p, q, r in zip(params, others, cloned.param_groups[0]["params"], strict=True):
        assert torch.equal(p, q) and torch.equal(p, r)


def test_parameters_without_gradient_wait_and_options_may_change():
    params, separate = parameters(), parameters()
    optimizer = DeVA(params, lr=0.1, polar="svd")
    alone = [DeVA([p], lr=0.1, polar="svd") for p in separate]
    for step in range(9):
        give_gradients(params, step)
        give_gradients(separate, step)
        if step in (2, 3):
            params[0].grad = separate[0].grad = None
        if step == 5:
            for o in (optimizer, *alone):
                o.param_groups[0].update(lr=0.01, refresh_every=2, betas=(0.8, 0.9))
        for o in (optimizer, *alone):
            o.step()
    for p, q in zip(params, separate, strict=True):
        torch.testing.assert_close(p.detach(), q.detach(), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("scale", [1e-6, 1e3])
def test_steps_do_not_see_the_scale_of_the_gradients(scale):
    params, scaled = parameters(torch.float32), parameters(torch.float32)
    a, b = DeVA(params, lr=0.1), DeVA(scaled, lr=0.1)
    for step in range(25):
        give_gradients(params, step)
        give_gradients(scaled, step)
        for p in scaled:
            p.grad.mul_(scale)
        a.step()
        b.step()
    start = parameters(torch.float32)
    for p, q, x in zip(params, scaled, start, strict=True):
        with torch.no_grad():
            assert float((p - q).norm() / (p - x).norm()) < 1e-4


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_trains_with_a_closure(dtype):
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(6, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1)).to(dtype)
    X = torch.randn(64, 6, dtype=dtype)
    y = X.sum(1, keepdim=True).sin()
    optimizer = DeVA(net.named_parameters(), lr=1e-2)

    def closure():
        optimizer.zero_grad()
        loss = (net(X) - y).square().mean()
        loss.backward()
        return loss.detach()

    first = float(optimizer.step(closure))
    for _ in range(60):
        last = float(optimizer.step(closure))
    assert last < 0.8 * first


BAD_OPTIONS = [
    ({"lr": -1.0}, ValueError, "lr"),
    ({"lr": float("nan")}, ValueError, "lr"),
    ({"weight_decay": -0.1}, ValueError, "weight_decay"),
    ({"betas": (1.0, 0.9)}, ValueError, "beta1"),
    ({"betas": 0.9}, ValueError, "betas"),
    ({"beta3": float("nan")}, ValueError, "beta3"),
    ({"eps": float("inf")}, ValueError, "eps"),
    ({"refresh_every": 0}, ValueError, "refresh_every"),
    ({"refresh_every": True}, ValueError, "refresh_every"),
    ({"preset": "refernce"}, ValueError, "did you mean 'reference'"),
    ({"variant": "ful"}, ValueError, "did you mean 'full'"),
    ({"geometry": "spectrl"}, ValueError, "did you mean 'spectral'"),
    ({"polar": "newton"}, ValueError, "polar"),
    ({"geometry": "spectral"}, ValueError, "2-D"),
]


@pytest.mark.parametrize("options, error, words", BAD_OPTIONS, ids=lambda x: str(x)[:30])
def test_bad_options_name_the_argument(options, error, words):
    with pytest.raises(error, match=words):
        DeVA(parameters(), **({"lr": 0.1} | options))


def _nan(p):
    p.grad[..., 0] = float("nan")


def _infinite(p):
    p.grad[..., 0] = float("inf")


def _sparse(p):
    p.grad = p.grad.to_sparse()


@pytest.mark.parametrize("spoil, error", [(_nan, ValueError), (_infinite, ValueError), (_sparse, TypeError)])
@pytest.mark.parametrize("index", [0, 3])
def test_a_bad_gradient_changes_nothing(spoil, error, index):
    params = parameters()
    optimizer = DeVA([("w" + str(i), p) for i, p in enumerate(params)], lr=0.1)
    for step in range(3):
        give_gradients(params, step)
        optimizer.step()
    before = copy.deepcopy([[p.detach() for p in params], optimizer.state_dict()["state"]])
    give_gradients(params, 3)
    spoil(params[index])
    with pytest.raises(error, match=f"w{index}"):
        optimizer.step()
    for p, x in zip(params, before[0], strict=True):
        assert torch.equal(p.detach(), x)
    for key, state in optimizer.state_dict()["state"].items():
        assert all(torch.equal(v, before[1][key][k]) for k, v in state.items() if isinstance(v, torch.Tensor))
    give_gradients(params, 3)
    optimizer.step()


def test_integer_and_complex_parameters_are_refused():
    with pytest.raises(TypeError, match="complex"):
        DeVA([torch.nn.Parameter(torch.ones(2, dtype=torch.complex64))], lr=0.1)


def test_rule_optimizer_takes_any_rule():
    p = torch.nn.Parameter(torch.ones(3, 2))
    for rule in (muon(), sign_sgd()):
        optimizer = RuleOptimizer([p], rule, 0.1)
        p.grad = torch.ones(3, 2)
        optimizer.step()
    with pytest.raises(ValueError, match="2-D"):
        RuleOptimizer([torch.nn.Parameter(torch.ones(3))], muon(), 0.1)

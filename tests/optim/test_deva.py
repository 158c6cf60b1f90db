"""DeVA as an optimizer: each parameter moves as its rule says, whatever is stacked, saved or changed."""

import copy
import io
import pickle

import pytest
import torch

from deva_theory.optim import DeVA, RuleOptimizer
from deva_theory.rules import (
    PRESETS,
    VARIANTS,
    FullMatrixAdaGrad,
    Shampoo,
    adam,
    adamuon,
    apply_direction,
    deva_linf,
    deva_spectral,
    muon,
    sign_sgd,
    soap,
)

SHAPES = [(4, 3), (4, 3), (3, 5), (3, 3), (3, 3), (6,), (6,), (), (2, 3, 2, 2), (1, 4), (0,), (2, 0)]
# Without a canonical null space rounding chooses its basis, and stacking changes rounding: square matrices.
SQUARE = [s for s in SHAPES if len(s) != 2 or s[0] == s[1]]


def parameters(dtype=torch.float64, seed=0, shapes=SHAPES):
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.nn.Parameter(torch.randn(s, generator=generator, dtype=torch.float64).to(dtype)) for s in shapes
    ]


def give_gradients(params, step, scale=1.0):
    generator = torch.Generator().manual_seed(1000 + step)
    for p in params:
        p.grad = scale * torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p)


def shapes_for(preset):
    return SHAPES if preset == "corrected" else SQUARE


class ByHand:
    """Each parameter with its own rule and state: no batches."""

    def __init__(self, params, rule_for):
        self.params = params
        self.x = [p.detach().clone() for p in params]
        self.rules = [rule_for(p) for p in params]
        self.states = [r.init(self.event(r, x)) for r, x in zip(self.rules, self.x, strict=True)]

    @staticmethod
    def event(rule, x):
        return x if rule.event_ndim == 2 else x.reshape(-1)

    def step(self, *, lr, weight_decay=0.0):
        for k, (rule, p) in enumerate(zip(self.rules, self.params, strict=True)):
            if p.grad is None:
                continue
            skipped = rule.only_builds(self.states[k])
            D, self.states[k], _ = rule.update(self.event(rule, p.grad), self.states[k])
            if not skipped:
                self.x[k] = apply_direction(
                    self.x[k], D.reshape(p.shape), lr=lr, weight_decay=weight_decay, decay=rule.decay
                )

    def check(self, tolerance=1e-10):
        for x, p in zip(self.x, self.params, strict=True):
            torch.testing.assert_close(p.detach(), x, rtol=tolerance, atol=tolerance)


def rules_by_shape(**options):
    vectors = {k: v for k, v in options.items() if k in ("preset", "variant", "betas", "eps", "nesterov")}

    def rule_for(p):
        if p.ndim == 2 and min(p.shape) >= 2:
            return deva_spectral(**options)
        return deva_linf(**vectors)

    return rule_for


# ---- the rule, for each parameter ----------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("preset", PRESETS)
def test_equals_the_rule_stepped_by_hand(preset, variant):
    params = parameters(shapes=shapes_for(preset))
    options = {"preset": preset, "variant": variant, "polar": "svd", "refresh_every": 3}
    optimizer = DeVA(params, lr=0.1, weight_decay=0.2, **options)
    hand = ByHand(params, rules_by_shape(**options))
    for step in range(8):
        give_gradients(params, step)
        hand.step(lr=0.1, weight_decay=0.2)
        optimizer.step()
        hand.check()


def test_twin_another_weight_decay_is_told_apart():
    params = parameters()
    optimizer = DeVA(params, lr=0.1, weight_decay=0.2, polar="svd")
    hand = ByHand(params, rules_by_shape(polar="svd"))
    give_gradients(params, 0)
    hand.step(lr=0.1, weight_decay=0.25)
    optimizer.step()
    with pytest.raises(AssertionError):
        hand.check()


@pytest.mark.parametrize("preset", PRESETS)
def test_order_of_weight_decay(preset):
    p = torch.nn.Parameter(torch.full((3, 3), 2.0, dtype=torch.float64))
    optimizer, hand = DeVA([p], lr=0.1, weight_decay=3.0, preset=preset, polar="svd"), None
    G = torch.diag(torch.tensor([3.0, 2.0, 1.0], dtype=torch.float64))
    rule = deva_spectral(preset=preset, polar="svd")
    state = rule.init(p.detach())
    for step in range(2):
        p.grad, before = G.clone(), p.detach().clone()
        D, state, _ = rule.update(G, state)
        optimizer.step()
        if preset == "reference":  # its first call only builds; later the decay follows the update
            hand = before if step == 0 else 0.7 * (before - 0.1 * D)
        else:
            hand = 0.7 * before - 0.1 * D
        torch.testing.assert_close(p.detach(), hand, rtol=1e-12, atol=1e-12)


def test_groups_schedulers_and_changed_options_are_honoured():
    params = parameters()
    first, second = params[:6], params[6:]
    optimizer = DeVA(
        [{"params": first}, {"params": second, "lr": 0.03, "weight_decay": 0.4, "betas": (0.8, 0.7)}],
        lr=0.1,
        polar="svd",
    )
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    one, two = (
        ByHand(first, rules_by_shape(polar="svd")),
        ByHand(second, rules_by_shape(polar="svd", betas=(0.8, 0.7))),
    )
    for step in range(14):
        give_gradients(params, step)
        if step == 5:
            new = {"refresh_every": 2, "betas": (0.6, 0.9), "beta3": 0.5}
            optimizer.param_groups[0].update(new)
            one.rules = [rules_by_shape(polar="svd", **new)(p) for p in first]
        if step == 9:
            optimizer.param_groups[0].update(variant="snr", eps=1e-3)
            one.rules = [rules_by_shape(polar="svd", variant="snr", eps=1e-3, **new)(p) for p in first]
        decay = 0.5**step
        one.step(lr=0.1 * decay)
        two.step(lr=0.03 * decay, weight_decay=0.4)
        optimizer.step()
        scheduler.step()
        one.check()
        two.check()


@pytest.mark.parametrize(
    "make",
    [
        lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda t: 1.0 / (t + 1)),
        lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 10),
        lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 0.1, total_steps=10, cycle_momentum=False),
    ],
)
def test_schedulers_run(make):
    params = parameters()
    optimizer = DeVA(params, lr=0.1, polar="svd")
    scheduler = make(optimizer)
    hand = ByHand(params, rules_by_shape(polar="svd"))
    for step in range(6):
        give_gradients(params, step)
        hand.step(lr=optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
        hand.check()


def test_learning_rate_as_a_tensor():
    params, others = parameters(), parameters()
    a, b = DeVA(params, lr=torch.tensor(0.1, dtype=torch.float64)), DeVA(others, lr=0.1)
    for step in range(3):
        for x, o in ((params, a), (others, b)):
            give_gradients(x, step)
            o.step()
    for p, q in zip(params, others, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-14, atol=0)


RULES = [
    muon(polar="svd"),
    soap(refresh_every=2),
    adamuon(polar="svd"),
    Shampoo(),
    FullMatrixAdaGrad(),
    adam(),
    sign_sgd(beta1=0.9),
]


@pytest.mark.parametrize("rule", RULES, ids=lambda r: r.name)
def test_any_rule_makes_an_optimizer(rule):
    params = parameters(shapes=[(3, 3), (3, 3), (2, 2)])
    optimizer = RuleOptimizer(params, rule, 0.1, weight_decay=0.3)
    hand = ByHand(params, lambda p: rule)
    for step in range(6):
        give_gradients(params, step)
        hand.step(lr=0.1, weight_decay=0.3)
        optimizer.step()
        hand.check(1e-8)
    for clone in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        copies = clone.param_groups[0]["params"]
        give_gradients(copies, 6)
        give_gradients(params, 6)
        clone.step()
    optimizer.step()
    for p, q in zip(params, copies, strict=True):
        assert torch.equal(p, q)


# ---- routing -------------------------------------------------------------------------------------

ROUTES = [
    ((4, 3), {}, "spectral"),
    ((2, 2), {}, "spectral"),
    ((1, 4), {}, "linf"),
    ((4, 1), {}, "linf"),
    ((5,), {}, "linf"),
    ((), {}, "linf"),
    ((4, 3, 2, 2), {}, "linf"),
    ((2, 3, 4), {}, "linf"),
    ((0, 3), {}, "linf"),
    ((4, 9), {"max_basis_dim": 8}, "linf"),
    ((4, 8), {"max_basis_dim": 8}, "spectral"),
    ((4, 3), {"geometry": "linf"}, "linf"),
    ((1, 4), {"geometry": "spectral"}, "spectral"),
]


@pytest.mark.parametrize("shape, options, kind", ROUTES)
def test_routing(shape, options, kind):
    p = torch.nn.Parameter(torch.ones(shape))
    optimizer = DeVA([p], lr=0.1, **options)
    assert optimizer.rule_for(p, optimizer.param_groups[0]).name == f"deva_{kind}[corrected, full]"
    p.grad = torch.ones(shape)
    optimizer.step()
    assert ("Q_L" in optimizer.state[p]) == (kind == "spectral")
    assert p.shape == shape and bool(torch.isfinite(p).all())


def test_geometry_may_differ_between_groups():
    params = parameters(shapes=[(3, 3), (3, 3)])
    optimizer = DeVA([{"params": params[:1], "geometry": "linf"}, {"params": params[1:]}], lr=0.1)
    give_gradients(params, 0)
    optimizer.step()
    assert "Q_L" not in optimizer.state[params[0]] and "Q_L" in optimizer.state[params[1]]


# ---- stacking ------------------------------------------------------------------------------------


def test_stacked_parameters_move_as_separate_ones_whichever_have_gradients():
    params, separate = parameters(), parameters()
    optimizer = DeVA(params, lr=0.1, polar="svd", refresh_every=2)
    alone = [DeVA([p], lr=0.1, polar="svd", refresh_every=2) for p in separate]
    waits = {1: {0}, 2: {0, 3}, 4: {1, 5}, 5: {0, 1, 2, 3, 4}, 6: set(range(len(params))), 8: {4}}
    for step in range(12):
        give_gradients(params, step)
        give_gradients(separate, step)
        for k in waits.get(step, ()):
            params[k].grad = separate[k].grad = None
        for o in (optimizer, *alone):
            o.step()
        for p, q in zip(params, separate, strict=True):
            torch.testing.assert_close(p.detach(), q.detach(), rtol=1e-10, atol=1e-10)
    counts = [sum(k not in waits.get(step, ()) for step in range(12)) for k in range(len(params))]
    assert [optimizer.state[p]["step"] for p in params] == counts


def test_a_parameter_that_never_had_a_gradient_has_no_state():
    params = parameters()
    optimizer = DeVA(params, lr=0.1, weight_decay=0.5)
    before = [p.detach().clone() for p in params]
    assert optimizer.step() is None and len(optimizer.state) == 0
    params[0].grad = torch.ones_like(params[0])
    optimizer.step()
    assert list(optimizer.state) == [params[0]]
    assert all(torch.equal(p, x) for p, x in zip(params[1:], before[1:], strict=True))


def test_the_order_of_the_parameters_does_not_matter():
    params, others = parameters(), parameters()
    a, b = DeVA(params, lr=0.1, polar="svd"), DeVA(others[::-1], lr=0.1, polar="svd")
    for step in range(5):
        for x, o in ((params, a), (others, b)):
            give_gradients(x, step)
            o.step()
    for p, q in zip(params, others, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-10, atol=1e-10)


def test_parameters_of_several_dtypes():
    params = [*parameters(torch.float32), *parameters(torch.float64), *parameters(torch.bfloat16)]
    optimizer = DeVA(params, lr=0.1)
    for step in range(3):
        give_gradients(params, step)
        optimizer.step()
    for p in params:
        wanted = torch.float64 if p.dtype == torch.float64 else torch.float32
        state = [
            v for v in optimizer.state[p].values() if isinstance(v, torch.Tensor) and v.is_floating_point()
        ]
        assert state and all(v.dtype == wanted for v in state) and bool(torch.isfinite(p).all())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("preset", PRESETS)
def test_half_precision_parameters_are_rounded_once_a_step(preset, dtype):
    """Decay and step in float32 from the rounded parameter; one rounding at the end."""
    params = parameters(dtype, shapes=SQUARE)
    optimizer = DeVA(params, lr=0.01, weight_decay=0.3, preset=preset, polar="svd")
    rules = [rules_by_shape(preset=preset, polar="svd")(p) for p in params]
    states = [r.init(ByHand.event(r, p)) for r, p in zip(rules, params, strict=True)]
    for step in range(4):
        give_gradients(params, step)
        wanted = []
        for k, (rule, p) in enumerate(zip(rules, params, strict=True)):
            skipped = rule.only_builds(states[k])
            D, states[k], _ = rule.update(ByHand.event(rule, p.grad), states[k])
            x = p.detach().double()
            y = apply_direction(x, D.double().view(p.shape), lr=0.01, weight_decay=0.3, decay=rule.decay)
            wanted.append(x if skipped else y)
        optimizer.step()
        for p, y in zip(params, wanted, strict=True):
            # Half an ulp, and a little for float32.
            ulp = torch.finfo(dtype).eps * y.abs().clamp_min(torch.finfo(dtype).tiny).log2().floor().exp2()
            assert bool(((p.detach().double() - y).abs() <= 0.505 * ulp).all())


def test_a_group_added_later_starts_from_its_own_first_step():
    params, late = parameters(), parameters(seed=1)
    optimizer = DeVA(params, lr=0.1, polar="svd", refresh_every=3)
    hand, hand_late = ByHand(params, rules_by_shape(polar="svd", refresh_every=3)), None
    for step in range(8):
        if step == 3:
            optimizer.add_param_group({"params": late, "lr": 0.01, "variant": "none"})
            hand_late = ByHand(late, rules_by_shape(polar="svd", refresh_every=3, variant="none"))
        give_gradients(params + late, step)
        hand.step(lr=0.1)
        if hand_late is not None:
            hand_late.step(lr=0.01)
        optimizer.step()
    hand.check()
    hand_late.check()


# ---- memory layout -------------------------------------------------------------------------------


def test_parameters_and_gradients_of_any_layout():
    plain, odd = parameters(), []
    for p in plain:
        x = p.detach().clone()
        if x.ndim == 2:
            x = x.t().contiguous().t()
        elif x.ndim == 4:
            x = x.to(memory_format=torch.channels_last)
        elif x.ndim == 1:
            x = torch.stack([x, x], dim=1)[:, 0]
        odd.append(x.requires_grad_())
    assert sum(not x.is_contiguous() for x in odd) >= 7
    a, b = (
        DeVA(plain, lr=0.1, polar="svd", weight_decay=0.1),
        DeVA(odd, lr=0.1, polar="svd", weight_decay=0.1),
    )
    strides = [x.stride() for x in odd]
    for step in range(4):
        give_gradients(plain, step)
        for p, x in zip(plain, odd, strict=True):
            x.grad = p.grad.movedim(-1, 0).contiguous().movedim(0, -1) if p.ndim else p.grad.clone()
        a.step()
        b.step()
    for p, x in zip(plain, odd, strict=True):
        torch.testing.assert_close(x.detach(), p.detach(), rtol=1e-12, atol=1e-12)
    assert [x.stride() for x in odd] == strides


def test_an_expanded_gradient():
    p, q = parameters(shapes=[(3, 3), (3,)])
    optimizer = DeVA([p, q], lr=0.1)
    p.grad, q.grad = torch.ones((), dtype=p.dtype).expand(3, 3), torch.ones((), dtype=p.dtype).expand(3)
    assert p.grad.stride() == (0, 0)
    optimizer.step()
    assert bool(torch.isfinite(p).all()) and optimizer.state[p]["step"] == 1


def test_parameters_stay_in_place_and_gradients_are_left_alone():
    params = parameters()
    optimizer = DeVA(params, lr=0.1, weight_decay=0.1)
    where = [p.data_ptr() for p in params]
    for step in range(3):
        give_gradients(params, step)
        grads = [p.grad for p in params]
        before = [g.clone() for g in grads]
        optimizer.step()
        assert all(p.grad is g and torch.equal(g, x) for p, g, x in zip(params, grads, before, strict=True))
    assert [p.data_ptr() for p in params] == where
    assert all(p.requires_grad and p.is_leaf for p in params)


# ---- saving and copying --------------------------------------------------------------------------


def run(optimizer, params, steps):
    for step in steps:
        give_gradients(params, step)
        optimizer.step()


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("preset", PRESETS)
def test_state_dict_round_trip(preset, dtype, named):
    params = parameters(dtype)
    with_names = [(f"w{k}", p) for k, p in enumerate(params)]
    optimizer = DeVA(with_names if named else params, lr=0.01, preset=preset, refresh_every=2)
    run(optimizer, params, range(5))
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    others = copy.deepcopy(params)
    again = DeVA([(f"w{k}", p) for k, p in enumerate(others)] if named else others, lr=0.5)
    saved = torch.load(file, weights_only=True)
    again.load_state_dict(saved)
    assert again.param_groups[0]["preset"] == preset and again.param_groups[0]["lr"] == 0.01
    for p, q in zip(params, others, strict=True):
        for key, value in optimizer.state[p].items():
            loaded = again.state[q][key]
            assert torch.equal(loaded, value) if isinstance(value, torch.Tensor) else loaded == value
            if isinstance(value, torch.Tensor):
                assert loaded.dtype == value.dtype
                assert (
                    not value.is_floating_point()
                    or value.dtype != dtype
                    or dtype in (torch.float32, torch.float64)
                )
    saved_tensors = [v for s in saved["state"].values() for v in s.values() if isinstance(v, torch.Tensor)]
    for v in saved_tensors:  # the loaded state is a copy
        v.zero_()
    run(optimizer, params, range(5, 9))
    run(again, others, range(5, 9))
    for p, q in zip(params, others, strict=True):
        assert torch.equal(p, q)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize(
    "clone", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))], ids=["deepcopy", "pickle"]
)
def test_copies_go_their_own_way(clone, dtype):
    params = parameters(dtype)
    optimizer = DeVA(params, lr=0.01, refresh_every=2)
    run(optimizer, params, range(5))
    other = clone(optimizer)
    copies = other.param_groups[0]["params"]
    frozen = copy.deepcopy(optimizer.state_dict()["state"])
    run(other, copies, range(5, 8))
    for number, state in optimizer.state_dict()["state"].items():
        for key, value in state.items():
            same = frozen[number][key]
            assert torch.equal(value, same) if isinstance(value, torch.Tensor) else value == same
    run(optimizer, params, range(5, 8))
    for p, q in zip(params, copies, strict=True):
        assert torch.equal(p, q)


def test_a_state_dict_is_a_snapshot():
    params = parameters()
    optimizer = DeVA(params, lr=0.1, refresh_every=2)
    run(optimizer, params, range(3))
    taken = optimizer.state_dict()["state"]
    before = copy.deepcopy(taken)
    run(optimizer, params, range(3, 6))
    for number, state in taken.items():
        for key, value in state.items():
            assert torch.equal(value, before[number][key]) if isinstance(value, torch.Tensor) else True


def test_loading_in_the_middle_of_a_run_forgets_the_batches():
    params = parameters()
    optimizer = DeVA(params, lr=0.1)
    run(optimizer, params, range(3))
    saved, x = copy.deepcopy(optimizer.state_dict()), [p.detach().clone() for p in params]
    run(optimizer, params, range(3, 6))
    ends = [p.detach().clone() for p in params]
    optimizer.load_state_dict(saved)
    with torch.no_grad():
        for p, start in zip(params, x, strict=True):
            p.copy_(start)
    run(optimizer, params, range(3, 6))
    for p, end in zip(params, ends, strict=True):
        assert torch.equal(p, end)


# ---- training ------------------------------------------------------------------------------------


def test_closure():
    params = parameters(shapes=[(3, 3), (3,)])
    optimizer, calls = DeVA(params, lr=0.1), []

    def closure():
        calls.append(torch.is_grad_enabled())
        optimizer.zero_grad()
        loss = sum(p.square().sum() for p in params)
        loss.backward()
        return loss

    loss = optimizer.step(closure)
    again = optimizer.step(closure)
    assert calls == [True, True] and float(loss.detach()) > float(again.detach())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("geometry", ["auto", "linf"])
@pytest.mark.parametrize("preset", PRESETS)
def test_training_reduces_the_loss(preset, geometry, dtype):
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(6, 16), torch.nn.Tanh(), torch.nn.Linear(16, 2)).to(dtype)
    X = torch.randn(64, 6).to(dtype)
    y = torch.stack([X.sum(1).sin(), X[:, 0] * X[:, 1]], dim=1)
    optimizer = DeVA(net.named_parameters(), lr=1e-2, geometry=geometry, preset=preset, weight_decay=1e-3)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: 1.0 - t / 121)
    losses = []
    for _ in range(120):
        optimizer.zero_grad()
        loss = (net(X) - y).square().mean()
        loss.backward()
        optimizer.step()
        scheduler.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * losses[0]
    assert {p.dtype for p in net.parameters()} == {dtype}


def test_tied_parameters_are_one():
    emb = torch.nn.Embedding(5, 3)
    head = torch.nn.Linear(3, 5, bias=False)
    head.weight = emb.weight
    net = torch.nn.ModuleList([emb, head])
    optimizer = DeVA(net.parameters(), lr=0.1)
    assert len(optimizer.param_groups[0]["params"]) == 1
    head(emb(torch.tensor([1, 2]))).square().sum().backward()
    optimizer.step()
    assert optimizer.state[emb.weight]["step"] == 1


@pytest.mark.parametrize("scale", [1e-6, 1e-3, 1e3, 1e-20, 1e15])
@pytest.mark.parametrize("geometry", ["auto", "linf"])
def test_steps_do_not_see_the_scale_of_the_gradients(geometry, scale):
    """SPEC A3, `corrected`, in float32 and with the default (Polar Express) polar factor."""
    params, scaled = parameters(torch.float32), parameters(torch.float32)
    a, b = DeVA(params, lr=0.1, geometry=geometry), DeVA(scaled, lr=0.1, geometry=geometry)
    for step in range(25):
        with torch.no_grad():
            for p in (*params, *scaled):
                p.zero_()
        give_gradients(params, step)
        for p, q in zip(params, scaled, strict=True):
            q.grad = p.grad * scale
        a.step()
        b.step()
        for p, q in zip(params, scaled, strict=True):
            assert float((p - q).detach().norm()) <= 1e-4 * float(p.detach().norm())


def test_the_error_cases_of_torchs_own_optimizers():
    """torch.testing's table of what every optimizer must refuse."""
    common = pytest.importorskip("torch.testing._internal.common_optimizers")
    checked = 0
    for case in common.get_error_inputs_for_all_optims("cpu", torch.float32):
        inputs = case.optimizer_error_input
        params = [torch.nn.Parameter(torch.randn(2, 3))] if inputs.params is None else inputs.params
        catch = pytest.warns if issubclass(case.error_type, Warning) else pytest.raises
        with catch(case.error_type, match=case.error_regex):
            DeVA(params, **({"lr": 0.1} | inputs.kwargs))
        checked += 1
    assert checked >= 6


def test_edits_of_the_state_count():
    p = torch.nn.Parameter(torch.ones(3))
    optimizer = DeVA([p], lr=0.1)
    p.grad = torch.ones(3)
    optimizer.step()
    optimizer.state.clear()
    optimizer.step()
    assert optimizer.state[p]["step"] == 1
    optimizer.state[p]["momentum"] = torch.full((3,), 5.0)
    optimizer.step()
    assert float(optimizer.state[p]["momentum"][0]) == pytest.approx(0.9 * 5 + 0.1)


def test_an_overflowing_step_changes_nothing():
    p = torch.nn.Parameter(torch.zeros(64, 64))
    optimizer = DeVA([p], lr=1e-2)
    p.grad = torch.full((64, 64), 1e37)
    with pytest.raises(ValueError, match="overflow"):
        optimizer.step()
    assert not p.isnan().any() and not optimizer.state

"""DeVA refuses what it cannot take, names it, and leaves parameters, gradients and state as they were."""

import copy

import pytest
import torch

from deva_theory.optim import DeVA, RuleOptimizer
from deva_theory.rules import Shampoo, adam, muon, soap

NAN, INF = float("nan"), float("inf")
SHAPES = {"weight": (4, 3), "twin": (4, 3), "wide": (2, 5), "bias": (3,), "scale": (), "conv": (2, 3, 2, 2)}


def named(dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype))
        for name, shape in SHAPES.items()
    }


def give_gradients(params, step):
    generator = torch.Generator().manual_seed(100 + step)
    for p in params.values():
        p.grad = torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p.dtype)


def bits(x):
    """Return what tells two tensors apart bit by bit, NaN included."""
    x = x.detach()
    if x.is_sparse:
        return bits(x.to_dense())
    return x.dtype, tuple(x.shape), x.contiguous().reshape(-1).view(torch.uint8).tolist()


def snapshot(optimizer, params):
    """Return parameters, gradients and state as plain values."""
    state = {
        name: {
            k: bits(v) if isinstance(v, torch.Tensor) else v for k, v in optimizer.state.get(p, {}).items()
        }
        for name, p in params.items()
    }
    grads = {name: None if p.grad is None else bits(p.grad) for name, p in params.items()}
    return {name: bits(p) for name, p in params.items()}, grads, state


# ---- options, when the optimizer is made ---------------------------------------------------------

OPTIONS = [
    ({"lr": -1e-3}, ValueError, "lr is -0.001"),
    ({"lr": NAN}, ValueError, "lr is nan"),
    ({"lr": INF}, ValueError, "lr is inf"),
    ({"lr": True}, ValueError, "lr is True"),
    ({"lr": "0.1"}, ValueError, "lr is '0.1'"),
    ({"lr": None}, ValueError, "lr is None"),
    ({"lr": torch.tensor(-1.0)}, ValueError, "lr is -1.0"),
    ({"weight_decay": -0.1}, ValueError, "weight_decay is -0.1"),
    ({"weight_decay": INF}, ValueError, "weight_decay is inf"),
    ({"weight_decay": False}, ValueError, "weight_decay is False"),
    ({"betas": (1.0, 0.9)}, ValueError, "beta1 is 1.0"),
    ({"betas": (0.9, -0.1)}, ValueError, "beta2 is -0.1"),
    ({"betas": (NAN, 0.9)}, ValueError, "beta1 is nan"),
    ({"betas": (True, 0.9)}, ValueError, "beta1 is True"),
    ({"betas": ("0.9", 0.9)}, ValueError, "beta1 is '0.9'"),
    ({"betas": 0.9}, (TypeError, ValueError), "."),
    ({"betas": (0.9,)}, ValueError, "betas is"),
    ({"betas": (0.9, 0.9, 0.9)}, ValueError, "betas is"),
    ({"beta3": 1.0}, ValueError, "beta3 is 1.0"),
    ({"beta3": True}, ValueError, "beta3 is True"),
    ({"eps": -1e-8}, ValueError, "eps is -1e-08"),
    ({"eps": NAN}, ValueError, "eps is nan"),
    ({"eps": True}, ValueError, "eps is True"),
    ({"refresh_every": 0}, ValueError, "refresh_every is 0"),
    ({"refresh_every": -3}, ValueError, "refresh_every is -3"),
    ({"refresh_every": 2.0}, ValueError, r"refresh_every is 2\.0"),
    ({"refresh_every": True}, ValueError, "refresh_every is True"),
    ({"max_basis_dim": 0}, ValueError, "max_basis_dim is 0"),
    ({"preset": "refrence"}, ValueError, "did you mean 'reference'"),
    ({"preset": "adam"}, ValueError, "preset is 'adam'; use one of 'corrected', 'paper', 'reference'"),
    ({"preset": None}, ValueError, "preset is None"),
    ({"variant": "instant"}, ValueError, "did you mean 'instantaneous'"),
    ({"geometry": "spectrl"}, ValueError, "did you mean 'spectral'"),
    ({"polar": "polar-express"}, ValueError, "did you mean 'polar_express'"),
    ({"polar": "svd", "polar_dtype": torch.bfloat16}, ValueError, "polar_dtype"),
    ({"geometry": "spectral"}, ValueError, "'bias'.*geometry='linf'"),
    ({"momentum": 0.9}, TypeError, "momentum"),
]


@pytest.mark.parametrize("options, error, words", OPTIONS, ids=lambda x: str(x)[:40])
def test_options(options, error, words):
    with pytest.raises(error, match=words):
        DeVA(named().items(), **({"lr": 0.1} | options))


@pytest.mark.parametrize("options, error, words", OPTIONS, ids=lambda x: str(x)[:40])
def test_options_of_a_group_that_is_added_later(options, error, words):
    params = named()
    optimizer = DeVA([("first", torch.nn.Parameter(torch.ones(2)))], lr=0.1)
    if "momentum" in options:
        pytest.skip("torch keeps unknown keys of a group")
    with pytest.raises(error, match=words):
        optimizer.add_param_group({"params": list(params.items()), **options})
    assert len(optimizer.param_groups) == 1
    optimizer.add_param_group({"params": list(params.items())})
    give_gradients(params, 0)
    optimizer.step()


def test_an_option_that_was_valid_as_another_type_is_still_refused():
    """True == 1: neither caches nor comparisons may let the one pass for the other."""
    for option, accepted in (("refresh_every", 1), ("eps", 1.0), ("beta3", 0.0)):
        DeVA(named().values(), lr=0.1, **{option: accepted})
        with pytest.raises(ValueError, match=f"{option} is"):
            DeVA(named().values(), lr=0.1, **{option: bool(accepted)})


# ---- parameters ----------------------------------------------------------------------------------


def whole_numbers():
    return torch.ones(3, dtype=torch.int64)


PARAMETERS = [
    (lambda: [], {}, ValueError, "empty parameter list"),
    (lambda: torch.ones(2, requires_grad=True), {}, TypeError, "iterable"),
    (lambda: [torch.nn.Parameter(torch.ones(2, dtype=torch.complex64))], {}, TypeError, "complex64"),
    (lambda: [whole_numbers()], {}, TypeError, "int64"),
    (lambda: [("count", whole_numbers())], {}, TypeError, "'count'.*int64"),
    (lambda: [torch.nn.Parameter(torch.ones(2)) * 2], {}, ValueError, "non-leaf"),
    (lambda: [1.0], {}, TypeError, "Tensors"),
    (
        lambda: [("kernel", torch.nn.Parameter(torch.ones(4, 3, 2, 2)))],
        {"geometry": "spectral"},
        ValueError,
        r"'kernel' has shape \(4, 3, 2, 2\).*2-D.*geometry='linf'",
    ),
    (lambda: [torch.nn.Parameter(torch.ones(3))], {"geometry": "spectral"}, ValueError, r"shape \(3,\)"),
    (lambda: [torch.nn.Parameter(torch.ones(()))], {"geometry": "spectral"}, ValueError, r"shape \(\)"),
]


@pytest.mark.parametrize("params, options, error, words", PARAMETERS)
def test_parameters(params, options, error, words):
    with pytest.raises(error, match=words):
        DeVA(params(), lr=0.1, **options)


def test_a_parameter_in_two_groups_is_refused():
    p = torch.nn.Parameter(torch.ones(2, 2))
    with pytest.raises(ValueError, match="more than one parameter group"):
        DeVA([{"params": [p]}, {"params": [p]}], lr=0.1)
    with pytest.warns(UserWarning, match="duplicate"):
        DeVA([p, p], lr=0.1)


@pytest.mark.parametrize("rule", [muon(), soap(), Shampoo()], ids=lambda r: r.name)
def test_matrix_rules_refuse_other_parameters(rule):
    with pytest.raises(ValueError, match=f"'bias'.*{rule.name}.*2-D"):
        RuleOptimizer([("bias", torch.nn.Parameter(torch.ones(3)))], rule, 0.1)


# ---- gradients -----------------------------------------------------------------------------------


def _entry(value):
    def spoil(p):
        p.grad.reshape(-1)[-1] = value

    return spoil


def _sparse(p):
    p.grad = p.grad.to_sparse()


GRADIENTS = {
    "nan": (_entry(NAN), ValueError, "NaN or infinite.*nothing was changed"),
    "inf": (_entry(INF), ValueError, "NaN or infinite.*nothing was changed"),
    "-inf": (_entry(-INF), ValueError, "NaN or infinite"),
    "sparse": (_sparse, TypeError, "sparse"),
}
OPTIMIZERS = {
    "deva": lambda params: DeVA(params.items(), lr=0.1, weight_decay=0.1, refresh_every=2),
    "deva reference": lambda params: DeVA(params.items(), lr=0.1, preset="reference", refresh_every=2),
    "deva paper": lambda params: DeVA(params.items(), lr=0.1, preset="paper", polar="svd", refresh_every=2),
    "adam": lambda params: RuleOptimizer(params.items(), adam(), 0.1),
}


@pytest.mark.parametrize("steps", [0, 1, 3])
@pytest.mark.parametrize("culprit", ["weight", "bias", "conv"])
@pytest.mark.parametrize("bad", GRADIENTS)
@pytest.mark.parametrize("make", OPTIMIZERS)
def test_a_bad_gradient_changes_nothing_and_the_next_good_one_is_taken(make, bad, culprit, steps):
    spoil, error, words = GRADIENTS[bad]
    params, others = named(), named()
    optimizer, undisturbed = OPTIMIZERS[make](params), OPTIMIZERS[make](others)
    for step in range(steps):
        for x, o in ((params, optimizer), (others, undisturbed)):
            give_gradients(x, step)
            o.step()
    give_gradients(params, steps)
    spoil(params[culprit])
    before = snapshot(optimizer, params)
    with pytest.raises(error, match=f"'{culprit}'.*{words}|{words}.*'{culprit}'|first '{culprit}'"):
        optimizer.step()
    assert snapshot(optimizer, params) == before
    for step in (steps, steps + 1):
        for x, o in ((params, optimizer), (others, undisturbed)):
            give_gradients(x, step)
            o.step()
    for name, p in params.items():
        assert torch.equal(p, others[name]), name


def test_a_factorisation_that_fails_changes_nothing(monkeypatch):
    """Parameters that were already handled in the same step are not committed either."""
    params = named()
    optimizer = DeVA(params.items(), lr=0.1, refresh_every=1)
    for step in range(2):
        give_gradients(params, step)
        optimizer.step()
    give_gradients(params, 2)
    before = snapshot(optimizer, params)

    def fail(*args, **kwargs):
        raise torch.linalg.LinAlgError("did not converge")

    with monkeypatch.context() as patch:
        for name in ("qr", "eigh"):
            patch.setattr(torch.linalg, name, fail)
        with pytest.raises(torch.linalg.LinAlgError):
            optimizer.step()
    assert snapshot(optimizer, params) == before
    optimizer.step()
    assert snapshot(optimizer, params)[0] != before[0]


def test_check_finite_can_be_left_to_the_caller():
    p = torch.nn.Parameter(torch.ones(3))
    optimizer = DeVA([p], lr=0.1, check_finite=False)
    p.grad = torch.tensor([1.0, NAN, 1.0])
    optimizer.step()
    # A NaN that is let in shows: it must not turn into steps of length zero.
    assert bool(p.isnan().any())


# ---- options, between steps ----------------------------------------------------------------------

CHANGES = [
    ("lr", NAN),
    ("lr", -1.0),
    ("lr", True),
    ("weight_decay", INF),
    ("betas", (0.9, 1.5)),
    ("refresh_every", 0),
    ("beta3", -1.0),
    ("eps", -1.0),
    ("preset", "papr"),
    ("variant", "fulll"),
    ("geometry", "spectra"),
    ("polar", "qr"),
]


@pytest.mark.parametrize("key, value", CHANGES)
def test_an_option_spoilt_between_steps_changes_nothing(key, value):
    params = named()
    optimizer = DeVA(params.items(), lr=0.1)
    for step in range(2):
        give_gradients(params, step)
        optimizer.step()
    before, good = snapshot(optimizer, params), optimizer.param_groups[0].get(key)
    optimizer.param_groups[0][key] = value
    with pytest.raises(ValueError, match=r"lr|decay|beta|refresh|eps|preset|variant|geometry|polar"):
        optimizer.step()
    assert snapshot(optimizer, params) == before
    optimizer.param_groups[0][key] = good
    optimizer.step()


def test_a_state_of_other_parameters_is_refused():
    params = named()
    optimizer = DeVA(params.items(), lr=0.1)
    give_gradients(params, 0)
    optimizer.step()
    saved = copy.deepcopy(optimizer.state_dict())
    fewer = DeVA([params["weight"]], lr=0.1)
    with pytest.raises(ValueError, match="group"):
        fewer.load_state_dict(saved)


@pytest.mark.parametrize("change", [{"variant": "none"}, {"betas": (0.0, 0.9)}, {"variant": "memory"}])
def test_options_that_change_what_is_stored_are_refused_by_name(change):
    p = torch.nn.Parameter(torch.ones(3, 3))
    optimizer = DeVA([p], lr=0.1)
    p.grad = torch.eye(3)
    optimizer.step()
    before = p.detach().clone()
    optimizer.param_groups[0].update(change)
    with pytest.raises(ValueError, match="cannot change between steps"):
        optimizer.step()
    assert torch.equal(p, before)


def test_one_cycle_schedules_say_what_they_need():
    def parameter():
        return torch.nn.Parameter(torch.ones(3, 3))

    with pytest.raises(ValueError, match="momentum or beta1"):
        torch.optim.lr_scheduler.OneCycleLR(DeVA([parameter()], lr=0.1), max_lr=0.1, total_steps=10)
    torch.optim.lr_scheduler.OneCycleLR(DeVA([parameter()], lr=0.1, betas=(0.9, 0.95)), max_lr=0.1, total_steps=10)


@pytest.mark.parametrize("options", [{"polar_dtype": torch.int32}, {"polar_dtype": "float32"}, {"nesterov": "yes"}, {"check_finite": 1}])
def test_wrong_kinds_of_options(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        DeVA([torch.nn.Parameter(torch.ones(3, 3))], lr=0.1, **({"polar": "newton_schulz"} | options))

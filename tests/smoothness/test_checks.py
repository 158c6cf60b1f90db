"""Self-checks: what is sound passes, what is not is found and named, and the model stays as it is."""

import dataclasses
import math

import pytest
import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from deva_theory.problems.zoo import ALL_NAMES, load
from deva_theory.smoothness.curvature.checks import check_operator
from deva_theory.smoothness.curvature.objective import ProbeError
from deva_theory.smoothness.curvature.products import CurvatureOperator

CE = nn.CrossEntropyLoss()


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


X, Y = normal(16, 4), torch.arange(16) % 3


def network(middle, dtype=torch.float64, width=5):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, width), middle, nn.Linear(width, 3)).to(dtype)


def operator(model, loss=CE, x=X, **options):
    dtype = next(p.dtype for p in model.parameters())
    return CurvatureOperator(model, loss, [(x.to(dtype), Y), (x[:3].to(dtype), Y[:3])], **options)


# ---- modules that are wrong in some way ---------------------------------------------------------------------


class Forgetful(torch.autograd.Function):
    """tanh, whose backward pass forgets that it depends on the input."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.tanh()

    @staticmethod
    def backward(ctx, g):
        return g * (1 - ctx.saved_tensors[0].detach().tanh() ** 2)


class Cosine(torch.autograd.Function):
    """cos, with a derivative that is a tenth too small."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.cos()

    @staticmethod
    def backward(ctx, g):
        return -0.9 * ctx.saved_tensors[0].sin() * g


class Sine(torch.autograd.Function):
    """sin, whose derivative is right and second derivative a tenth too small."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    def backward(ctx, g):
        return Cosine.apply(ctx.saved_tensors[0]) * g


class Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.tanh()

    @staticmethod
    @once_differentiable
    def backward(ctx, g):
        return g * (1 - ctx.saved_tensors[0].tanh() ** 2)


class Calling(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


class Around(nn.Module):
    """A module that calls its fault itself, after an innocent child."""

    def __init__(self, function):
        super().__init__()
        self.inner, self.function = nn.Linear(5, 5), function

    def forward(self, x):
        return self.function(self.inner(x))


class Swapped(nn.Module):
    """Softmax by hand; replaces its input's memory, as in-place activations do."""

    def forward(self, x):
        return x.mul_(2).softmax(-1)


class Bag(nn.Module):
    """A layer whose second derivative PyTorch does not have."""

    def __init__(self):
        super().__init__()
        self.table = nn.Parameter(normal(5, 5))

    def forward(self, x):
        index = torch.arange(5).expand(len(x), 5)
        return F.embedding_bag(index, self.table, per_sample_weights=x, mode="sum").square()


def straight_through(x):
    return x + (x.round() - x).detach()


# ---- sound models pass --------------------------------------------------------------------------------------


@pytest.mark.parametrize("curvature", ["hessian", "gauss_newton"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", ALL_NAMES)
def test_the_zoo_passes(name, dtype, curvature):
    problem = load(name, size="tiny", dtype=dtype)
    checks = check_operator(CurvatureOperator(problem.model, problem.criterion, list(problem.batches), curvature=curvature))
    double = dtype == torch.float64
    assert checks.determinism == 0
    assert checks.symmetry <= (1e-15 if double else 1e-6)
    if curvature == "hessian":
        assert checks.central_difference <= (1e-5 if double else 1e-2)
    else:
        assert checks.central_difference is None


SOUND = {
    "tanh": nn.Tanh,
    "kinks": nn.ReLU,
    "kinks in place": lambda: nn.ReLU(inplace=True),
    "pooling": lambda: nn.Sequential(nn.Unflatten(1, (1, 5)), nn.MaxPool1d(2, padding=1, stride=1), nn.Flatten(), nn.Linear(6, 5)),
    "in place": Swapped,
    "linear": nn.Identity,
    "dropout": lambda: nn.Dropout(0.5),
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", SOUND)
def test_sound_modules_pass(kind, dtype):
    checks = check_operator(operator(network(SOUND[kind](), dtype)))
    assert checks.determinism == 0
    assert checks.central_difference <= {torch.float64: 1e-6, torch.float32: 1e-2, torch.bfloat16: 0.1}[dtype]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_point_on_kinks_and_one_next_to_thousands_pass(dtype):
    """Zero biases behind zero inputs, where no step is small enough; wide layers, where a step crosses many kinks."""
    model = network(nn.ReLU(), dtype)
    nn.init.zeros_(model[0].bias)
    check_operator(operator(model, x=torch.zeros(16, 4)))
    wide = network(nn.ReLU(), dtype, width=4096)
    check_operator(operator(wide, x=normal(16, 4)))


@pytest.mark.parametrize("curvature", ["hessian", "gauss_newton"])
def test_unused_parameters_pass(curvature):
    model = network(nn.Identity())
    model.register_parameter("spare", nn.Parameter(normal(2, 2)))
    check_operator(operator(model, curvature=curvature))


def test_a_linear_loss_passes():
    checks = check_operator(operator(nn.Linear(4, 3).double(), lambda m, b: m(b[0]).mean()))
    assert checks.determinism == checks.symmetry == 0 and checks.central_difference <= 1e-4


def test_batch_norm_in_training_mode_passes_and_keeps_its_statistics():
    model = network(nn.BatchNorm1d(5))
    before = [b.clone() for b in model.buffers()]
    check_operator(operator(model, eval_mode=False))
    assert all(map(torch.equal, before, model.buffers()))


def test_a_loss_that_is_finite_only_nearby_passes():
    model = nn.Linear(4, 1, bias=False).double()
    nn.init.constant_(model.weight, 1.0)
    x = torch.eye(4, dtype=torch.float64)[:1] * 1e-6  # an argument of log that a step of 1e-4 can make negative

    def loss(model, batch):
        return -(model(batch) - (1 - 3e-5) * 1e-6).log().mean()

    checks = check_operator(CurvatureOperator(model, loss, x))
    assert checks.central_difference <= 1e-4


def test_results_are_plain_numbers():
    checks = check_operator(operator(network(nn.Tanh())))
    assert checks.to_dict() == {
        "determinism": checks.determinism, "symmetry": checks.symmetry, "central_difference": checks.central_difference,
    }
    assert all(type(value) is float for value in checks.to_dict().values())
    with pytest.raises(dataclasses.FrozenInstanceError):
        checks.symmetry = 0.0


def test_seeds_choose_the_directions():
    model = network(nn.Tanh())
    first, again, other = (check_operator(operator(model), seed=seed) for seed in (0, 0, 1))
    assert first == again != other


# ---- unsound ones are found and named -----------------------------------------------------------------------

DISAGREE = r"^second derivatives disagree with differences of the gradient.*: "


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("build", "title"), [
    (lambda: Calling(Forgetful.apply), r"module '1' \(Calling\)"),
    (lambda: Calling(Sine.apply), r"module '1' \(Calling\)"),
    (lambda: Around(Forgetful.apply), r"module '1' \(Around\)"),
    (lambda: nn.Sequential(nn.Tanh(), Calling(Forgetful.apply)), r"module '1\.1' \(Calling\)"),
    (lambda: Calling(straight_through), r"module '1' \(Calling\)"),
], ids=["forgetful", "a tenth", "around a child", "nested", "straight through"])
def test_a_wrong_second_derivative_is_found_and_its_module_named(build, title, dtype):
    message = DISAGREE + "the second derivative of " + title + r" disagrees with differences of its first by \d\.\de[+-]\d\d$"
    with pytest.raises(ProbeError, match=message):
        check_operator(operator(network(build(), dtype)))


def test_a_fault_outside_modules_is_not_put_on_one():
    def loss(model, batch):
        return F.cross_entropy(Forgetful.apply(model(batch[0])), batch[1])

    with pytest.raises(ProbeError, match=DISAGREE + "no module fails on its own, so look at what is called outside"):
        check_operator(operator(network(nn.Tanh()), loss))


def test_asymmetric_products_are_found(monkeypatch):
    backward = CurvatureOperator._backward

    def skewed(self, graph, block, V):
        return backward(self, graph, block, V) + 1e-6 * V.roll(1, dims=-1)

    monkeypatch.setattr(CurvatureOperator, "_backward", skewed)
    for curvature, matrix in (("hessian", "Hessian"), ("gauss_newton", "Gauss-Newton matrix")):
        with pytest.raises(ProbeError, match=rf"^the {matrix} H is not symmetric, uᵀHv and vᵀHu differ by .*: no module fails on its own"):
            check_operator(operator(network(nn.Tanh()), curvature=curvature))


def test_a_wrong_factor_in_one_small_tensor_is_found(monkeypatch):
    """One entry of a hundred, by a thousandth: compared tensor by tensor, it does not drown."""
    backward = CurvatureOperator._backward

    def scaled(self, graph, block, V):
        result = backward(self, graph, block, V)
        result[..., -1] *= 1.001  # in the last bias
        return result

    monkeypatch.setattr(CurvatureOperator, "_backward", scaled)
    with pytest.raises(ProbeError, match=r"most for '2\.bias'|not symmetric"):
        check_operator(operator(network(nn.Tanh(), width=40)))


@pytest.mark.parametrize(("build", "message"), [
    (lambda: Calling(Once.apply), r"^module '1' \(Calling\): an autograd function of the model is differentiable once only; give it a "),
    (Bag, r"^module '1' \(Bag\): the operation \S*embedding_bag\S* has no second derivative; replace it by a twice differentiable "),
], ids=["once differentiable", "operation"])
@pytest.mark.parametrize("curvature", ["hessian", "gauss_newton"])
def test_a_module_without_second_derivative_is_named(build, message, curvature):
    with pytest.raises(ProbeError, match=message):
        check_operator(operator(network(build()), curvature=curvature))


@pytest.mark.parametrize(("middle", "title"), [
    (lambda: nn.Dropout(0.5), r"the output of module '1' \(Dropout\) changes from call to call"),
    (lambda: nn.Sequential(nn.Tanh(), nn.Dropout(0.5), nn.Tanh()), r"the output of module '1\.1' \(Dropout\)"),
    (lambda: Around(lambda z: z + torch.randn_like(z)), r"the output of module '1' \(Around\)"),
], ids=["dropout", "nested", "noise between modules"])
def test_a_module_that_is_not_deterministic_is_named(middle, title):
    with pytest.raises(ProbeError, match=r"^two evaluations on the same batch differ by .*: " + title):
        check_operator(operator(network(middle()), eval_mode=False))


def test_layers_dropped_at_random_are_put_on_their_owner():
    class Skipping(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.calls = nn.Linear(5, 5), 0

        def forward(self, x):
            self.calls += 1
            return self.inner(x) if self.calls % 2 else x

    with pytest.raises(ProbeError, match=r"the output of module '1' \(Skipping\)"):
        check_operator(operator(network(Skipping())))


def test_noise_in_the_loss_is_not_put_on_a_module():
    with pytest.raises(ProbeError, match=r"no module's output changes by itself, so look at the loss and at kernels of the backward pass"):
        check_operator(operator(network(nn.Tanh()), lambda m, b: F.cross_entropy(m(b[0]), b[1]) * (1 + torch.rand(()))))


def test_a_concave_criterion_has_no_gauss_newton_matrix():
    def concave(outputs, targets):
        return -F.cross_entropy(outputs, targets)

    with pytest.raises(ProbeError, match=r"^the Gauss-Newton matrix G is not positive semidefinite, vᵀGv is -.*use curvature='hessian'$"):
        check_operator(operator(network(nn.Tanh()), concave, curvature="gauss_newton"))
    check_operator(operator(network(nn.Tanh()), concave))


@pytest.mark.parametrize("tolerance", [0, -1e-3, math.nan])
def test_the_tolerance_must_be_positive(tolerance):
    with pytest.raises(ProbeError, match=r"the tolerance of the checks is .*; it must be positive"):
        check_operator(operator(network(nn.Tanh())), tolerance=tolerance)


def test_the_tolerance_decides():
    with pytest.raises(ProbeError, match="disagree"):
        check_operator(operator(network(Calling(Sine.apply))), tolerance=1e-2)
    assert check_operator(operator(network(Calling(Sine.apply))), tolerance=0.5).central_difference > 1e-2


def test_a_loss_that_is_not_finite_is_the_operators_own_error():
    with pytest.raises(ProbeError, match=r"^the loss is nan on batch 0; nothing can be probed at these parameters$"):
        check_operator(operator(network(nn.Tanh()), lambda m, b: m(b[0]).mean() * torch.nan))


def test_a_loss_that_raises_is_the_operators_own_error():
    with pytest.raises(ProbeError, match=r"^the loss or its second derivative failed: mat1 and mat2 shapes cannot be multiplied"):
        check_operator(operator(network(nn.Tanh()), x=normal(16, 3)))


def test_every_message_is_one_line():
    for middle in (Calling(Forgetful.apply), Calling(Once.apply), Bag(), Around(torch.rand_like)):
        with pytest.raises(ProbeError) as caught:
            check_operator(operator(network(middle)))
        assert "\n" not in str(caught.value)


# ---- nothing is changed -------------------------------------------------------------------------------------


def state(model):
    return {
        "modes": [m.training for m in model.modules()],
        "hooks": [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()],
        "grads": [p.grad for p in model.parameters()],
        "values": [(t.tolist(), t.data_ptr(), t.stride(), t._version) for t in (*model.parameters(), *model.buffers())],
    }


@pytest.mark.parametrize("middle", [
    nn.Tanh, lambda: nn.BatchNorm1d(5), nn.ReLU, lambda: Calling(Forgetful.apply), lambda: Calling(Once.apply),
    lambda: Around(torch.rand_like),
])
def test_the_model_and_its_memory_are_left_alone(middle):
    model = network(middle())
    nn.init.zeros_(model[0].bias)
    model[1].eval()
    before = state(model)
    try:
        check_operator(operator(model, x=torch.zeros(16, 4)))
        check_operator(operator(model))
    except ProbeError:
        pass
    assert state(model) == before


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
def test_parameters_return_when_an_exception_strikes_in_the_middle(error):
    model = network(nn.Tanh())
    before = state(model)
    places = {p.data_ptr() for p in model.parameters()}
    struck = []

    def loss(model, batch):
        if model[0].weight.data_ptr() not in places:  # displaced
            struck.append(True)
            raise error
        return F.cross_entropy(model(batch[0]), batch[1])

    with pytest.raises(error):
        check_operator(operator(model, loss))
    assert struck and state(model) == before


def test_a_view_of_a_parameter_sees_no_change():
    model = network(nn.Tanh())
    view, seen = model[0].weight.data.view(-1), []
    start = view.clone()

    def loss(model, batch):
        seen.append(torch.equal(view, start))
        return F.cross_entropy(model(batch[0]), batch[1])

    check_operator(operator(model, loss))
    assert all(seen) and len(seen) > 3


@pytest.mark.parametrize("keep_graph", [True, False])
def test_the_operators_graphs_and_counters_are_left_alone(keep_graph):
    model = network(nn.Tanh())
    made = operator(model, blocks="model", keep_graph=keep_graph)
    fresh = operator(network(nn.Tanh()), blocks="model")
    V = normal(2, made.blocks[0].size)
    first = made.product("model", V)
    counts = made.gradients, made.products
    check_operator(made)
    assert (made.gradients, made.products) == counts
    assert torch.equal(made.product("model", V), first)
    torch.testing.assert_close(first, fresh.product("model", V), rtol=1e-13, atol=1e-15)
    assert made.gradients == counts[0] + (0 if keep_graph else 2)


def test_only_the_first_batch_is_read():
    seen = []

    def loss(model, batch):
        seen.append(len(batch[0]))
        return F.cross_entropy(model(batch[0]), batch[1])

    check_operator(operator(network(nn.Tanh()), loss))
    assert set(seen) == {16}


def test_only_the_probed_parameters_are_displaced():
    model = network(nn.Tanh())
    place, moved = model[0].weight.data_ptr(), []

    def loss(model, batch):
        moved.append(model[0].weight.data_ptr() != place)
        return F.cross_entropy(model(batch[0]), batch[1])

    check_operator(operator(model, loss, blocks=r"^2\."))
    assert not any(moved)


def test_a_loss_in_less_than_the_parameters_precision_is_judged_by_its_own():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    batch = (torch.randn(8, 4, dtype=torch.float64), torch.randint(0, 3, (8,)))

    def loss(model, batch):
        return nn.functional.cross_entropy(model(batch[0]).float(), batch[1])

    operator = CurvatureOperator(model, loss, batch)
    checks = check_operator(operator)
    assert operator.precision == torch.float64  # not known before a gradient
    operator.gradient()
    assert operator.precision == torch.float32
    assert 1e-12 < checks.central_difference < 1e-2


def test_inside_inference_mode_and_with_another_default_device():
    model = network(nn.Tanh())
    before = state(model)
    expected = check_operator(operator(model))
    with torch.inference_mode():
        assert check_operator(operator(model)) == expected
    torch.set_default_device("meta")
    try:
        assert check_operator(operator(model)) == expected
    finally:
        torch.set_default_device(None)
    assert state(model) == before


def test_a_checkpointed_model_in_training_mode_passes():
    class Checkpointed(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.norm, self.outer = nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 3)

        def forward(self, x):
            def part(z):
                return F.dropout(torch.tanh(self.norm(self.inner(z))), 0.5, self.training)

            return self.outer(checkpoint(part, x, use_reentrant=False))

    torch.manual_seed(0)
    model = Checkpointed().double().train()
    before = state(model)
    check_operator(operator(model))
    assert state(model) == before


def test_parameters_of_two_precisions():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3).double(), nn.Linear(3, 2))
    batch = (torch.randn(8, 4, dtype=torch.float64), torch.randint(0, 2, (8,)))

    def loss(model, batch):
        return nn.functional.cross_entropy(model[1](model[0](batch[0]).float()), batch[1])

    operator = CurvatureOperator(model, loss, batch, blocks="model")
    assert operator.precision == torch.float32
    check_operator(operator)
    (block,) = operator.blocks
    H = operator.product(block, torch.eye(block.size, dtype=torch.float64))
    assert H.dtype == torch.float64
    assert (H - H.T).norm() <= 1e-6 * H.norm()

"""Products of blocks against dense second derivatives, and what happens to the model, to memory and in several processes."""

import gc
import os
import subprocess
import sys
import weakref
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from deva_theory.problems.zoo import ALL_NAMES
from deva_theory.smoothness.curvature import kernels
from deva_theory.smoothness.curvature.blocks import Block, Piece
from deva_theory.smoothness.curvature.objective import ProbeError
from deva_theory.smoothness.curvature.products import CurvatureOperator
from tests.oracles import dense

ALL = slice(None)
ROOT = Path(__file__).parents[2]


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def operator(case, **options):
    return CurvatureOperator(case.model, case.criterion, case.batches, **options)


def close(actual, expected, scale):
    assert torch.linalg.norm(actual - expected).item() <= 1e-12 * scale.norm().item()


def small(seed=0):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    return model, [(normal(n, 3, seed=n), torch.arange(n) % 2) for n in (5, 2, 3)]


def small_dense(model, batches):
    x, y = (torch.cat(part) for part in zip(*batches, strict=True))
    return dense.hessian(nn.functional.cross_entropy(model(x), y), list(dense.trainable(model).values()))[0]


# ---- the products are those of the dense matrix -------------------------------------------------------------


@pytest.mark.parametrize("name", ALL_NAMES)
def test_products_loss_and_gradient_are_the_dense_ones(name):
    case = dense.case(name)
    H, gradient, loss = case.dense
    made = operator(case, blocks="model")
    (block,) = made.blocks
    V = torch.cat([normal(4, case.size), torch.eye(case.size, dtype=torch.float64)[:: case.size // 5]])
    V /= V.norm(dim=1, keepdim=True)
    close(made.product(block, V), V @ H, H)
    close(made.block_gradient(block), gradient, gradient)
    assert made.loss_value == pytest.approx(loss, rel=1e-13)
    assert made.products == len(V)


@pytest.mark.parametrize("name", ["gpt", "cnn", "lstm"])
def test_every_block_is_the_dense_submatrix(name):
    case = dense.case(name)
    H = case.dense[0]
    made = operator(case, blocks="tensor")
    identities = {block.name: (block, torch.eye(block.size, dtype=torch.float64)) for block in made.blocks}
    for parameter, product in made.sweep(identities).items():
        where = case.positions[parameter].reshape(-1)
        close(product, H[where[:, None], where], H)


@pytest.mark.parametrize("name", ["mlp", "cnn", "vit", "lstm"])
def test_gauss_newton_products_are_the_dense_ones(name):
    case = dense.case(name)
    G = case.gauss_newton
    V = normal(3, case.size)
    V /= V.norm(dim=1, keepdim=True)
    made = operator(case, blocks="model", curvature="gauss_newton")
    close(made.product("model", V), V @ G, G)
    close(made.block_gradient(made.blocks[0]), case.dense[1], case.dense[1])
    assert (G - case.dense[0]).norm() > 1e-2 * G.norm()  # another matrix than the Hessian
    block = next(block for block in operator(case, curvature="gauss_newton").blocks if block.size > 8)
    where = case.positions[block.name].reshape(-1)
    close(made.product(block, torch.eye(block.size, dtype=torch.float64)), G[where[:, None], where], G)


def test_tied_parameters_count_once():
    case = dense.case("gpt-tied")
    names = [block.name for block in operator(case).blocks]
    assert "tokens.weight" in names and "head.weight" not in names
    assert case.size == sum(p.numel() for p in case.model.parameters())


# ---- weights ------------------------------------------------------------------------------------------------


def test_batches_are_weighted_by_size_and_a_plain_average_is_another_matrix():
    case = dense.case("logistic")
    H = case.dense[0]
    V = normal(2, case.size)
    exact = V @ H
    for weights in (None, len_of, [3, 1, 2], [1.5, 0.5, 1.0]):
        close(operator(case, blocks="model", weights=weights).product("model", V), exact, exact)
    average = operator(case, blocks="model", weights=[1, 1, 1]).product("model", V)
    close(average, V @ (sum(case.per_batch) / 3), exact)
    assert (average - exact).norm() > 1e-2 * exact.norm()


def len_of(batch):
    return len(batch[1])


def test_a_batch_of_weight_zero_does_not_count():
    case = dense.case("logistic")
    V = normal(2, case.size)
    close(operator(case, blocks="model", weights=[0, 1, 0]).product("model", V), V @ case.per_batch[1], V)


def test_batch_moments_are_those_of_the_batches_forms():
    case = dense.case("logistic")
    made = operator(case, blocks="model")
    X, Y = normal(3, case.size), normal(3, case.size, seed=1)
    count, mean, variance = made.batch_moments(made.blocks[0], X, Y)
    w = torch.tensor([3, 1, 2], dtype=torch.float64) / 6
    forms = torch.stack([(X @ H * Y).sum(1) for H in case.per_batch])
    assert count == 3
    torch.testing.assert_close(mean, w @ forms, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(variance, 1.5 * w**2 @ (forms - w @ forms) ** 2, rtol=1e-10, atol=1e-13)
    single = CurvatureOperator(case.model, case.criterion, case.batches[0], blocks="model")
    assert single.batch_moments(single.blocks[0], X, Y)[2].isnan().all()


# ---- special blocks -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("curvature", ["hessian", "gauss_newton"])
def test_an_unused_parameter_has_a_zero_block_and_zero_columns(curvature):
    model, batches = small()
    model.register_parameter("spare", nn.Parameter(torch.ones(3, dtype=torch.float64)))
    made = CurvatureOperator(model, nn.CrossEntropyLoss(), batches, curvature=curvature)
    assert torch.equal(made.product("spare", normal(2, 3)), torch.zeros(2, 3, dtype=torch.float64))
    whole = CurvatureOperator(model, nn.CrossEntropyLoss(), batches, blocks="model", curvature=curvature)
    V = normal(2, whole.blocks[0].size)
    assert whole.product("model", V)[:, :3].abs().max() == 0  # "spare" comes first: it is the root's own
    assert not made.gradient()["spare"].any()


def test_a_linear_loss_has_a_zero_hessian():
    model = nn.Linear(3, 2).double()
    made = CurvatureOperator(model, lambda model, batch: model(batch).mean(), normal(4, 3), blocks="model")
    assert torch.equal(made.product("model", normal(5, 8)), torch.zeros(5, 8, dtype=torch.float64))


def test_a_loss_linear_in_one_block_only():
    model = nn.Bilinear(2, 2, 1, bias=False).double()
    other = nn.Linear(2, 1).double()
    both = nn.ModuleDict({"a": model, "b": other})
    x = normal(4, 2)
    made = CurvatureOperator(both, lambda m, x: (m["a"](x, x) * m["b"](x)).mean(), x, blocks="layer")
    for block in made.blocks:
        assert not made.product(block, torch.eye(block.size, dtype=torch.float64)).any()


def test_frozen_parameters_are_constants():
    model, batches = small()
    H = small_dense(model, batches)
    model[0].weight.requires_grad_(False)
    made = CurvatureOperator(model, nn.CrossEntropyLoss(), batches, blocks="model")
    assert "0.weight" not in made.blocks[0].parameters
    V = normal(2, made.blocks[0].size)
    close(made.product("model", V), V @ H[12:, 12:], H)


def test_vectors_keep_their_dtype_and_requests_their_keys():
    model, batches = small()
    made = CurvatureOperator(model, nn.CrossEntropyLoss(), batches)
    first, last = made.blocks[0], made.blocks[-1]
    V = normal(3, first.size)
    answers = made.sweep({"a": (first, V[:1]), 7: (last, normal(2, 2).float()), ("b", 1): (first, V[1:])})
    assert answers[7].dtype == torch.float32 and answers[7].shape == (2, 2)
    together = made.product(first, V)
    close(torch.cat([answers["a"], answers["b", 1]]), together, together)
    assert made.sweep({}) == {}
    assert made.product(first, V[:0]).shape == (0, first.size)


# ---- passes, graphs and memory ------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
@pytest.mark.parametrize("curvature", ["hessian", "gauss_newton"])
def test_any_number_of_vectors_per_pass_gives_the_same(size, curvature):
    case = dense.case("vit")
    V = normal(7, 64)
    made = operator(case, blocks=r"blocks\.0\.attention\.proj\.weight", curvature=curvature, vector_batch=size)
    matrix = case.dense[0] if curvature == "hessian" else case.gauss_newton
    where = case.positions["blocks.0.attention.proj.weight"].reshape(-1)
    close(made.product(made.blocks[0], V), V @ matrix[where[:, None], where], V)


class Looped(torch.autograd.Function):
    """x³ whose double backward reads a number out of a tensor, which no vectorised pass can do."""

    generate_vmap_rule = False

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, g):
        return Slope.apply(ctx.saved_tensors[0], g)


class Slope(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, g):
        ctx.save_for_backward(x, g)
        return 3 * x**2 * g

    @staticmethod
    def backward(ctx, h):
        x, g = ctx.saved_tensors
        h.sum().item()
        return 6 * x * g * h, 3 * x**2 * h


def test_an_operation_that_cannot_be_vectorised_is_looped_over():
    model = nn.Linear(3, 2, bias=False).double()
    x = normal(4, 3)

    def loss(model, x, cube=Looped.apply):
        return cube(model(x)).square().mean()

    made = CurvatureOperator(model, loss, x)
    H, _ = dense.hessian(loss(model, x, cube=lambda z: z**3), [model.weight])
    close(made.product("weight", torch.eye(6, dtype=torch.float64)), H, H)


def test_kept_graphs_change_the_cost_and_nothing_else():
    model, batches = small()
    H = small_dense(model, batches)
    V = {0: normal(2, 12), 2: normal(2, 8, seed=1)}
    for keep, expected in ((True, 3), (False, 9), (None, 3)):
        made = CurvatureOperator(model, nn.CrossEntropyLoss(), batches, keep_graph=keep)
        made.gradient()
        assert made.keeps_graph is (keep is not False)
        for k, where in ((0, slice(0, 12)), (2, slice(16, 24))):
            close(made.product(made.blocks[k], V[k]), V[k] @ H[where, where], H)
        assert made.gradients == expected
        assert made.products == 4
        made.release()
        made.gradient()
        assert made.gradients == expected + 3


def test_graphs_are_kept_only_if_all_fit_in_half_the_memory():
    model, batches = small()
    probe = CurvatureOperator(model, nn.CrossEntropyLoss(), batches)
    probe.gradient()
    for memory, keeps in ((6 * probe.graph_bytes, True), (6 * probe.graph_bytes - 1, False)):
        made = CurvatureOperator(model, nn.CrossEntropyLoss(), batches, memory=memory)
        made.gradient()
        assert made.keeps_graph is keeps


def test_kept_graphs_of_other_parameters_are_not_used():
    model, batches = small()
    made = CurvatureOperator(model, nn.CrossEntropyLoss(), batches, blocks="model", keep_graph=True)
    V = normal(1, 26)
    made.product("model", V)
    with torch.no_grad():
        model[2].weight += 1
    close(made.product("model", V), V @ small_dense(model, batches), V)
    assert made.gradients == 6


class Tag:
    """Lives as long as the graph that passes through :class:`Tagged`."""


class Tagged(torch.autograd.Function):
    alive: ClassVar = weakref.WeakSet()

    @staticmethod
    def forward(ctx, x):
        ctx.tag = Tag()
        Tagged.alive.add(ctx.tag)
        return x.clone()

    @staticmethod
    def backward(ctx, g):
        return g.clone()


@pytest.mark.parametrize("keep", [True, False])
def test_graphs_are_freed(keep):
    model, batches = small()

    def loss(model, batch):
        # tanh and exp save their own outputs.
        return Tagged.apply(model(batch[0])).tanh().exp().square().mean()

    made = CurvatureOperator(model, loss, batches, blocks="model", keep_graph=keep)
    gc.disable()  # by reference counts alone: what waits for the collector holds memory
    try:
        made.product("model", normal(1, 26))
        assert len(Tagged.alive) == (3 if keep else 0)
        made.release()
        assert not Tagged.alive
    finally:
        gc.enable()


def limited(monkeypatch, allowed):
    """Let passes fail for want of memory unless `allowed(operator, number of vectors)`; return the numbers tried."""
    tried = []
    backward = CurvatureOperator._backward

    def failing(self, graph, block, V):
        tried.append(len(V))
        if not allowed(self, len(V)):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nSecond line.")
        return backward(self, graph, block, V)

    monkeypatch.setattr(CurvatureOperator, "_backward", failing)
    return tried


def test_vectors_per_pass_are_halved_when_memory_runs_out(monkeypatch):
    model, batches = small()
    V = normal(16, 26)
    tried = limited(monkeypatch, lambda made, count: count <= 5)
    made = CurvatureOperator(model, nn.CrossEntropyLoss(), batches, blocks="model", vector_batch=16)
    close(made.product("model", V), V @ small_dense(model, batches), V)
    assert tried[:3] == [16, 8, 4] and max(tried[3:]) == 4


def test_kept_graphs_are_dropped_before_giving_up(monkeypatch):
    model, batches = small()
    V = normal(4, 26)
    tried = limited(monkeypatch, lambda made, count: len(made._kept) <= 1)
    made = CurvatureOperator(model, nn.CrossEntropyLoss(), batches, blocks="model", keep_graph=True)
    made.gradient()
    assert len(made._kept) == 3
    close(made.product("model", V), V @ small_dense(model, batches), V)
    assert not made._kept and 1 in tried
    assert made.gradients == 5  # the second and the third batch once more


def test_one_vector_that_does_not_fit_is_an_error(monkeypatch):
    model, batches = small()
    limited(monkeypatch, lambda made, count: False)
    made = CurvatureOperator(model, nn.CrossEntropyLoss(), batches, blocks="model")
    with pytest.raises(ProbeError, match=r"^out of memory with one vector at a time: use smaller batches .*$"):
        made.product("model", normal(4, 26))


@pytest.mark.parametrize("curvature", ["hessian", "gauss_newton"])
@pytest.mark.parametrize("keep", [True, False])
def test_memory_that_suffices_for_one_graph_suffices(keep, curvature):
    model, batches = small()

    def criterion(outputs, targets):
        if len(Tagged.alive) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return nn.functional.cross_entropy(Tagged.apply(outputs), targets)

    made = CurvatureOperator(model, criterion, batches, blocks="model", keep_graph=keep, curvature=curvature)
    whole = CurvatureOperator(model, nn.CrossEntropyLoss(), batches, blocks="model", curvature=curvature)
    gc.disable()
    try:
        made.gradient()
        assert not made.keeps_graph
        V = normal(2, 26)
        close(made.product("model", V), whole.product("model", V), V)
        made.batch_moments(made.blocks[0], V, V)
    finally:
        gc.enable()


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("a\nb"), MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
def test_a_gradient_that_does_not_fit_names_the_batch(error):
    model, batches = small()

    def loss(model, batch):
        if len(batch[0]) == 2:
            raise error
        return model(batch[0]).square().mean()

    with pytest.raises(ProbeError, match=r"^out of memory in the gradient of batch 1: use smaller batches, or fewer blocks$"):
        CurvatureOperator(model, loss, batches).gradient()


# ---- the model is left as it is -----------------------------------------------------------------------------


def state(model):
    """All of a model that a probe might change."""
    return {
        "modes": [module.training for module in model.modules()],
        "requires": [p.requires_grad for p in model.parameters()],
        "grads": [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        "values": [t.clone() for t in (*model.parameters(), *model.buffers())],
        "versions": [p._version for p in model.parameters()],
        "places": [t.data_ptr() for t in (*model.parameters(), *model.buffers())],
        "hooks": [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()],
    }


def same(a, b):
    return all(x.equal(y) if isinstance(x, torch.Tensor) else x == y for k in a for x, y in zip(a[k], b[k], strict=True))


def marked_model():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.0), nn.Linear(4, 2)).double()
    model[1].eval()
    model[2].train()
    model[0].bias.requires_grad_(False)
    model[3].weight.grad = torch.ones_like(model[3].weight)
    return model


@pytest.mark.parametrize("curvature", ["hessian", "gauss_newton"])
@pytest.mark.parametrize("eval_mode", [True, False])
@pytest.mark.parametrize("fails", [False, True])
def test_the_model_is_left_as_it_is(curvature, eval_mode, fails):
    model = marked_model()
    if not eval_mode:
        model[1].train()  # its running statistics move in every forward pass
    before = state(model)
    flags = torch.backends.cuda.flash_sdp_enabled(), torch.backends.cudnn.enabled, torch.is_grad_enabled()
    calls = []

    class Criterion(nn.CrossEntropyLoss):
        def forward(self, outputs, targets):
            calls.append(model.training)
            if fails and len(calls) > 1:
                raise RuntimeError("interrupted")
            return super().forward(outputs, targets)

    made = CurvatureOperator(model, Criterion(), small()[1], eval_mode=eval_mode, curvature=curvature)
    if fails:
        with pytest.raises(ProbeError, match="interrupted"):
            made.gradient()
    else:
        with torch.no_grad():
            made.product(made.blocks[0], normal(2, made.blocks[0].size))
    assert same(state(model), before)
    assert (torch.backends.cuda.flash_sdp_enabled(), torch.backends.cudnn.enabled, torch.is_grad_enabled()) == flags
    assert calls[0] is not eval_mode


def test_buffers_that_a_model_replaces_are_put_back():
    class Counting(nn.Linear):
        def forward(self, x):
            self.calls = self.calls + 1
            self.mean.mul_(0.5)
            return super().forward(x)

    model = Counting(3, 1).double()
    model.register_buffer("calls", torch.zeros(()))
    model.register_buffer("mean", torch.ones(3))
    before, buffer = state(model), model.calls
    CurvatureOperator(model, nn.MSELoss(), (normal(4, 3), normal(4, 1))).gradient()
    assert same(state(model), before) and model.calls is buffer


class Stateful(nn.Module):
    """Writes a buffer in place in every forward pass; the buffer is shared, not saved with the model, and multiplies the outputs."""

    def __init__(self):
        super().__init__()
        self.inner, self.outer = nn.Linear(3, 4), nn.Linear(4, 2)
        self.register_buffer("mask", torch.tensor([0.0, 1, 0, 1]))
        self.register_buffer("scale", torch.ones(4), persistent=False)
        self.register_buffer("same", self.scale, persistent=False)
        self.register_buffer("table", torch.ones(4))

    def forward(self, x):
        with torch.no_grad():
            self.scale.mul_(1 - self.mask).add_(self.mask * 5 * len(x))
        return self.outer(torch.tanh(self.inner(x)) * self.same * self.table)


def stateful():
    torch.manual_seed(0)
    model = Stateful().double()
    model.same = model.scale
    return model, small()[1]


@pytest.mark.parametrize("curvature", ["hessian", "gauss_newton"])
def test_graphs_keep_the_state_that_a_forward_pass_wrote(curvature):
    model, batches = stateful()
    before, buffer = state(model), model.scale
    made = CurvatureOperator(model, nn.CrossEntropyLoss(), batches, blocks="model", keep_graph=True, curvature=curvature)
    V = normal(3, made.blocks[0].size)
    expected = 0
    for batch in batches:
        weight = len(batch[0]) / 10
        if curvature == "gauss_newton":  # on a graph that is used at once
            single = CurvatureOperator(model, nn.CrossEntropyLoss(), batch, blocks="model", keep_graph=False, curvature=curvature)
            expected = expected + weight * single.product("model", V)
        else:
            fresh, _ = stateful()
            H, _ = dense.hessian(nn.functional.cross_entropy(fresh(batch[0]), batch[1]), list(fresh.parameters()))
            expected = expected + weight * V @ H
    made.gradient()
    for _ in range(2):
        close(made.product("model", V), expected, expected)
    assert made.gradients == 3
    assert same(state(model), before) and model.scale is buffer is model.same


def test_buffers_that_are_only_read_are_copied_once():
    model, batches = stateful()
    seen = []

    def loss(model, batch):
        seen.append((model.table.data_ptr(), model.scale.data_ptr()))
        return model(batch[0]).square().mean()

    made = CurvatureOperator(model, loss, batches, keep_graph=True)
    made.gradient()
    assert len({table for table, _ in seen}) == 1 and len({scale for _, scale in seen}) == 3


def test_a_buffer_that_a_later_batch_writes_to_does_not_spoil_kept_graphs():
    """Also where the version counter does not see it."""
    class Later(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.outer = nn.Linear(3, 4), nn.Linear(4, 2)
            self.register_buffer("scale", torch.ones(4))

        def forward(self, x):
            if len(x) == 2:
                self.scale.data.mul_(3)
            return self.outer(torch.tanh(self.inner(x)) * self.scale)

    torch.manual_seed(0)
    model, batches = Later().double(), small()[1]
    made = CurvatureOperator(model, nn.CrossEntropyLoss(), batches, blocks="model", keep_graph=True)
    other = CurvatureOperator(model, nn.CrossEntropyLoss(), batches, blocks="model", keep_graph=False)
    V = normal(2, made.blocks[0].size)
    expected = other.product("model", V)
    made.gradient()
    for _ in range(2):
        close(made.product("model", V), expected, expected)
    assert torch.equal(model.scale, torch.ones(4, dtype=torch.float64))


def test_state_that_is_overwritten_within_one_graph_is_an_error():
    model, batches = stateful()
    with pytest.raises(ProbeError, match="a tensor that the second derivative needs was modified in place after it was saved"):
        CurvatureOperator(model, lambda m, b: (m(b[0]) + m(b[0][:1])).square().mean(), batches).gradient()


def test_a_parameter_that_the_forward_pass_changes_is_an_error():
    def loss(model, batch):
        with torch.no_grad():
            model[0].weight.mul_(1.1)
        return model(batch[0]).square().mean()

    model, batches = small()
    with pytest.raises(ProbeError, match=r"^the forward pass changes the parameter '0.weight' in place"):
        CurvatureOperator(model, loss, batches).gradient()


# ---- activation checkpointing -------------------------------------------------------------------------------


class Checkpointed(nn.Module):
    def __init__(self, middle, use_reentrant=False):
        super().__init__()
        self.inner, self.middle, self.outer, self.use_reentrant = nn.Linear(3, 4), middle, nn.Linear(4, 2), use_reentrant

    def forward(self, x):
        hidden = self.inner(x)
        if self.use_reentrant is not None:
            hidden = checkpoint(lambda z: torch.tanh(self.middle(z)), hidden, use_reentrant=self.use_reentrant)
        else:
            hidden = torch.tanh(self.middle(hidden))
        return self.outer(hidden)


@pytest.mark.parametrize("eval_mode", [True, False])
@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("middle", [lambda: nn.Dropout(0.5), lambda: nn.BatchNorm1d(4), lambda: nn.TransformerEncoderLayer(4, 2, 8)])
def test_checkpointed_parts_run_again_in_the_probes_mode(middle, keep, eval_mode):
    torch.manual_seed(0)
    model = Checkpointed(middle()).double()
    batches = small()[1]
    before = state(model)
    made = CurvatureOperator(model, nn.CrossEntropyLoss(), batches, blocks="model", keep_graph=keep, eval_mode=eval_mode)
    V = normal(2, made.blocks[0].size)
    torch.manual_seed(1)
    found = made.product("model", V)
    model.use_reentrant = None
    plain = CurvatureOperator(model, nn.CrossEntropyLoss(), batches, blocks="model", keep_graph=keep, eval_mode=eval_mode)
    torch.manual_seed(1)
    close(found, plain.product("model", V), V)
    count, mean, variance = made.batch_moments(made.blocks[0], V, V)
    assert count == 3 and mean.isfinite().all() and variance.isfinite().all()
    assert same(state(model), before)


@pytest.mark.parametrize("curvature", ["hessian", "gauss_newton"])
def test_reentrant_checkpointing_is_named(curvature):
    model = Checkpointed(nn.Linear(4, 4), use_reentrant=True).double()
    with pytest.raises(ProbeError, match=r"^activation checkpointing with use_reentrant=True has no second derivative"):
        CurvatureOperator(model, nn.CrossEntropyLoss(), small()[1], curvature=curvature).gradient()


# ---- settings of torch --------------------------------------------------------------------------------------


def precisions():
    backends, found = torch.backends, []
    for get in (
        lambda: backends.cuda.matmul.fp32_precision, lambda: backends.cudnn.conv.fp32_precision, lambda: backends.cudnn.rnn.fp32_precision,
        lambda: backends.mkldnn.matmul.fp32_precision, lambda: backends.cudnn.allow_tf32, torch.get_float32_matmul_precision,
        lambda: backends.cuda.matmul.allow_tf32,
    ):
        try:
            found.append(get())
        except RuntimeError:
            found.append("the interfaces disagree")
    return found


SETTINGS = """
import sys, torch
from deva_theory.smoothness.curvature.kernels import without_tf32
from tests.smoothness.test_products import precisions
exec(sys.argv[1])
before = precisions()
try:
    with without_tf32():
        inside = precisions()
        with torch.backends.cudnn.flags(enabled=False):
            pass
        raise KeyError
except KeyError:
    pass
assert inside[:3] == ["ieee"] * 3 and inside[4:] == [False, "highest", False], inside
assert precisions() == before, (before, precisions())
"""


@pytest.mark.parametrize("setting", [
    "", "torch.backends.cuda.matmul.allow_tf32 = True", "torch.backends.cudnn.allow_tf32 = False",
    "torch.set_float32_matmul_precision('medium')", "torch.backends.cuda.matmul.fp32_precision = 'tf32'",
    "torch.backends.cudnn.conv.fp32_precision = 'tf32'; torch.backends.cudnn.rnn.fp32_precision = 'ieee'",
])
def test_tf32_is_off_meanwhile_and_either_interface_finds_its_settings_again(setting):
    """In a process of its own: torch's settings cannot all be undone."""
    subprocess.run([sys.executable, "-W", "error::UserWarning", "-c", SETTINGS, setting], cwd=ROOT, check=True)


def test_tf32_is_left_alone_without_a_gpu(monkeypatch):
    monkeypatch.setattr(kernels, "without_tf32", lambda: pytest.fail("not on a CPU"))
    model, batches = small()
    CurvatureOperator(model, nn.CrossEntropyLoss(), batches).gradient()


def test_inside_inference_mode():
    model, batches = small()
    H = small_dense(model, batches)
    with torch.inference_mode():
        made = CurvatureOperator(model, nn.CrossEntropyLoss(), [tuple(t.clone() for t in batch) for batch in batches], blocks="model")
        V = normal(2, 26)
        close(made.product("model", V), V @ H, H)
        assert made.batch_moments(made.blocks[0], V, V)[0] == 3


def test_a_compiled_model_is_the_one_it_was_made_of():
    model, batches = small()
    made = CurvatureOperator(torch.compile(model, backend="eager"), nn.CrossEntropyLoss(), batches, blocks="model")
    assert made.model is model and "0.weight" in made.blocks[0].parameters
    V = normal(2, 26)
    close(made.product("model", V), V @ small_dense(model, batches), V)


# ---- several processes --------------------------------------------------------------------------------------

WORKER = """
import sys
import torch
from deva_theory.smoothness.curvature.products import CurvatureOperator
from tests.oracles import dense

rank, folder = int(sys.argv[1]), sys.argv[2]
torch.set_num_threads(1)
torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
case = dense.Case("mlp")
result = []
for batches in (case.batches, case.batches[:1]):   # the second leaves a rank without data
    made = CurvatureOperator(case.model, case.criterion, batches, blocks="model")
    V = torch.randn(3, case.size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    block = made.blocks[0]
    result.append([made.block_gradient(block), made.product(block, V), *made.batch_moments(block, V, V), made.loss_value, made.keeps_graph])
    result[-1].append(len(made.batches))
torch.save(result, f"{folder}/{rank}.pt")
torch.distributed.barrier()   # so that neither leaves while the other talks to it
torch.distributed.destroy_process_group()
"""


@pytest.mark.distributed
def test_two_processes_give_what_one_gives(tmp_path):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "GLOO_SOCKET_IFNAME": "lo"}
    workers = [
        subprocess.Popen([sys.executable, "-c", WORKER, str(rank), str(tmp_path)], env=environment, stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    try:
        for worker in workers:
            _, errors = worker.communicate(timeout=120)
            assert worker.returncode == 0, errors
    finally:
        for worker in workers:
            worker.kill()
    case = dense.case("mlp")
    results = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for k, batches in enumerate((case.batches, case.batches[:1])):
        alone = CurvatureOperator(case.model, case.criterion, batches, blocks="model")
        (block,) = alone.blocks
        V = normal(3, case.size)
        expected = [alone.block_gradient(block), alone.product(block, V), *alone.batch_moments(block, V, V)]
        for rank in range(2):
            gradient, product, count, mean, variance, loss, keeps, own = results[rank][k]
            close(gradient, expected[0], expected[0])
            close(product, expected[1], expected[1])
            assert count == expected[2] == len(batches)
            torch.testing.assert_close(mean, expected[3], rtol=1e-12, atol=1e-13)
            torch.testing.assert_close(variance, expected[4], rtol=1e-9, atol=1e-13, equal_nan=True)
            assert loss == pytest.approx(alone.loss_value, rel=1e-13) and keeps
            assert own == len(batches[rank::2])
        for first, second in zip(results[0][k][:2], results[1][k][:2], strict=True):
            assert torch.equal(first, second)


# ---- errors -------------------------------------------------------------------------------------------------


class Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**2

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g):
        return 2 * ctx.saved_tensors[0] * g


def bag(model, batch):
    """A sum of rows whose per-sample weights have no second derivative."""
    index = torch.tensor([[0, 1], [1, 0]])
    weights = model[2].weight[:, :2].exp()
    return nn.functional.embedding_bag(index, model[0].weight.T, per_sample_weights=weights, mode="sum").square().mean()


ERRORS = {
    "no scalar": (lambda m, b: m(b[0]), {}, "the loss has shape (5, 2); return a scalar, for instance its mean over the batch"),
    "no tensor": (lambda m, b: 1.0, {}, "the loss is a float; return a scalar tensor that depends on the parameters"),
    "integer": (lambda m, b: m(b[0]).argmax(), {}, "the loss has dtype torch.int64; return a real floating-point scalar"),
    "detached": (
        lambda m, b: m(b[0]).mean().detach(), {},
        "the loss does not depend on the probed parameters (is it computed under no_grad, or detached?)",
    ),
    "nan": (lambda m, b: m(b[0]).mean() * torch.nan, {}, "the loss is nan on batch 0; nothing can be probed at these parameters"),
    "infinite": (lambda m, b: m(b[0]).mean() / 0, {}, "the loss is "),
    "infinite gradient": (
        lambda m, b: (m[2].bias * 0).sqrt().sum() + m(b[0]).mean() * 0, {}, "the gradient of '2.bias' has NaN or infinite entries",
    ),
    "once": (lambda m, b: Once.apply(m(b[0])).mean() * m(b[0]).mean(), {}, "an autograd function of the model is differentiable once only"),
    "operation": (bag, {}, "the operation _embedding_bag"),
    "raises": (lambda m, b: m(b[0][:, :2]).mean(), {}, "the loss or its second derivative failed: mat1 and mat2 shapes cannot "),
    "curvature": (nn.CrossEntropyLoss(), {"curvature": "fisher"}, "curvature is 'fisher'; use one of hessian, gauss_newton"),
    "no criterion": (lambda m, b: m(b[0]).mean(), {"curvature": "gauss_newton"}, "the Gauss-Newton operator needs outputs and "),
    "vectors": (nn.CrossEntropyLoss(), {"vector_batch": 0}, "vector_batch is 0; it must be at least 1"),
    "weights": (nn.CrossEntropyLoss(), {"weights": [1, 2]}, "2 weights for 3 batches"),
    "foreign block": (
        nn.CrossEntropyLoss(), {"blocks": [Block("a", (Piece("head.weight", (2, 2)),))]},
        "block parameter 'head.weight' is not a trainable floating-point parameter of the model",
    ),
    "twice": (
        nn.CrossEntropyLoss(),
        {"blocks": [Block("a", (Piece("0.weight", (2, 3), (slice(0, 2),)), Piece("0.weight", (4, 1), (ALL, slice(2, 3)))))]},
        "block 'a' lists entries of '0.weight' twice",
    ),
    "whole twice": (
        nn.CrossEntropyLoss(), {"blocks": [Block("a", (Piece("0.bias", (4,)),) * 2)]}, "block 'a' lists entries of '0.bias' twice",
    ),
    "shape": (
        nn.CrossEntropyLoss(), {"blocks": [Block("a", (Piece("0.weight", (3, 4)),))]},
        "the piece of '0.weight' in block 'a' has shape (3, 4); the parameter there has (4, 3)",
    ),
    "shape of a slice": (
        nn.CrossEntropyLoss(), {"blocks": [Block("a", (Piece("0.weight", (2, 3), (slice(3, 5),)),))]},
        "the piece of '0.weight' in block 'a' has shape (2, 3); the parameter there has (1, 3)",
    ),
    "index": (
        nn.CrossEntropyLoss(), {"blocks": [Block("a", (Piece("0.bias", (2, 2), (slice(0, 2), slice(0, 2))),))]},
        "the piece of '0.bias' in block 'a' has index ",
    ),
    "no pieces": (nn.CrossEntropyLoss(), {"blocks": [Block("a", ())]}, "block 'a' has no pieces"),
    "same name": (
        nn.CrossEntropyLoss(), {"blocks": [Block("a", (Piece("0.bias", (4,)),)), Block("a", (Piece("2.bias", (2,)),))]},
        "two blocks have the same name; give each its own",
    ),
}


@pytest.mark.parametrize("kind", ERRORS)
def test_errors_say_in_one_line_what_is_wrong(kind):
    loss, options, message = ERRORS[kind]
    model, batches = small()
    with pytest.raises(ProbeError) as caught:
        made = CurvatureOperator(model, loss, batches, **options)
        made.gradient()
        made.product(made.blocks[0], normal(2, made.blocks[0].size))
        made.product(made.blocks[2], normal(2, made.blocks[2].size))
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", [nn.Embedding, nn.EmbeddingBag])
def test_an_embedding_that_rescales_its_rows_is_refused(kind):
    model = nn.Sequential(kind(5, 4, max_norm=0.5), nn.Flatten(), nn.Linear(4, 2))
    before = model[0].weight.clone()
    with pytest.raises(ProbeError, match=rf"^module '0' \({kind.__name__}\) rescales its rows .*set its max_norm to None"):
        CurvatureOperator(model, nn.CrossEntropyLoss(), (torch.arange(5)[:, None], torch.arange(5) % 2)).gradient()
    assert torch.equal(model[0].weight, before)


def test_sparse_gradients_are_named():
    model = nn.Sequential(nn.Embedding(5, 4, sparse=True), nn.Flatten(), nn.Linear(4, 2))
    with pytest.raises(ProbeError, match=r"^the gradient of '0.weight' is sparse, .*: set sparse=False$"):
        CurvatureOperator(model, nn.CrossEntropyLoss(), (torch.arange(5)[:, None], torch.arange(5) % 2)).gradient()


def test_errors_of_the_loss_that_are_no_runtime_errors_pass_through():
    model, batches = small()
    with pytest.raises(KeyError):
        CurvatureOperator(model, lambda m, b: {}["labels"], batches).gradient()


@pytest.mark.parametrize("shape", [(12,), (2, 11), (1, 2, 12)])
def test_vectors_of_the_wrong_shape(shape):
    model, batches = small()
    made = CurvatureOperator(model, nn.CrossEntropyLoss(), batches)
    with pytest.raises(ValueError, match=r"^block '0.weight' has 12 parameters; its vectors have shape .*, not \(k, 12\)$"):
        made.product("0.weight", normal(*shape))


def test_backend_flags_that_torch_has_frozen_are_no_obstacle():
    # torch.testing's harness freezes them for the rest of the process.
    code = (
        "import torch\n"
        "torch.backends.disable_global_flags()\n"
        "from deva_theory import probe\n"
        "model = torch.nn.LSTM(2, 2).double()\n"
        "result = probe(model, lambda model, batch: model(batch)[0].square().mean(), torch.ones(3, 1, 2, dtype=torch.float64))\n"
        "assert len(result) == 4 and torch.backends.cudnn.enabled\n"
    )
    finished = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr

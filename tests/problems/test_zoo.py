"""The zoo: seeding, training, shapes, errors, and second derivatives against central differences of the gradient."""

import math
import sys

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from deva_theory.problems import zoo
from deva_theory.problems.zoo import data
from deva_theory.problems.zoo.transformer import SelfAttention

pytest.importorskip("sklearn")

LANGUAGE = ("gpt", "gpt-tied", "lstm")
each = pytest.mark.parametrize("name", zoo.ALL_NAMES)


def tiny(name, **options):
    return zoo.load(name, **{"size": "tiny", "dtype": torch.float64, **options})


def size_of(model):
    return sum(parameter.numel() for parameter in model.parameters())


def same_problem(a, b):
    states = a.model.state_dict(), b.model.state_dict()
    return (
        states[0].keys() == states[1].keys()
        and all(torch.equal(states[0][key], states[1][key]) for key in states[0])
        and all(torch.equal(s, t) for one, two in zip(a.batches, b.batches, strict=True) for s, t in zip(one, two, strict=True))
    )


@each
def test_seed_decides_model_and_batches_and_nothing_else_does(name):
    state = torch.get_rng_state()
    first = tiny(name, seed=3)
    first.train(2)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(5)
    first, second, other = tiny(name, seed=3), tiny(name, seed=3), tiny(name, seed=4)
    assert same_problem(first, second)
    # Parameters and probe data both change with the seed.
    assert not torch.equal(next(first.model.parameters()), next(other.model.parameters()))
    assert not torch.equal(first.batches[0][0], other.batches[0][0])


@each
def test_defaults_of_the_caller_change_nothing(name):
    expected = tiny(name)
    torch.set_default_dtype(torch.float64)
    torch.set_default_device("meta")
    try:
        found = tiny(name)
        found.train(1)
        found = tiny(name)
    finally:
        torch.set_default_device(None)
        torch.set_default_dtype(torch.float32)
    assert same_problem(expected, found)


@each
def test_float32_rounds_the_float64_model(name):
    wide, narrow = tiny(name), tiny(name, dtype=torch.float32)
    for w, n in zip(wide.model.parameters(), narrow.model.parameters(), strict=True):
        assert n.dtype == torch.float32 and torch.equal(w.float(), n)
    inputs, targets = narrow.batches[0]
    assert inputs.dtype == (torch.int64 if name in LANGUAGE else torch.float32) and targets.dtype == torch.int64


@each
@pytest.mark.parametrize("size", zoo.SIZES)
def test_criterion_applies_to_outputs_and_targets(name, size):
    problem = zoo.load(name, size=size, dtype=torch.float64)
    assert problem.model.training and problem.name == name
    problem.model.eval()
    with torch.no_grad():
        for batch in problem.batches:
            outputs = problem.model(batch[0])
            assert outputs.dtype == torch.float64
            assert outputs.shape[:1] + outputs.shape[2:] == batch[1].shape
            log_p = outputs.log_softmax(dim=1).gather(1, batch[1].unsqueeze(1))
            torch.testing.assert_close(problem.loss(problem.model, batch), -log_p.mean())
            # Untrained: no better than guessing by more than chance, no worse than guessing by much.
            assert 0.5 * math.log(outputs.shape[1]) < problem.loss(problem.model, batch) < 1.6 * math.log(outputs.shape[1])


@each
def test_tiny_is_tiny_and_evaluation_is_deterministic(name):
    problem = tiny(name)
    assert size_of(problem.model) <= 1500
    problem.model.eval()
    assert torch.equal(problem.loss(problem.model, problem.batches[0]), problem.loss(problem.model, problem.batches[0]))


def test_batches_are_disjoint_and_the_last_may_be_smaller():
    problem = tiny("logistic", batches=3, batch_size=70)
    assert [len(targets) for _, targets in problem.batches] == [70, 70, 38]
    rows = torch.cat([inputs for inputs, _ in problem.batches])
    assert len(torch.unique(rows, dim=0)) == len(torch.unique(data.table("wine").inputs, dim=0))
    assert [len(targets) for _, targets in tiny("gpt", batches=2, batch_size=5).batches] == [5, 5]
    with pytest.raises(ValueError, match="4 mini-batches of 60 need more than the 178 examples of 'logistic'"):
        tiny("logistic", batches=4, batch_size=60)


@pytest.mark.parametrize(
    ("name", "size", "steps", "factor"),
    [
        *((name, "tiny", 80, 0.75) for name in ("mlp", "cnn", "vit", "logistic")),
        *((name, "tiny", 120, 0.9) for name in LANGUAGE),
        *((name, "small", 100, 0.75) for name in zoo.ALL_NAMES),
    ],
)
def test_training_reduces_the_loss(name, size, steps, factor):
    problem = zoo.load(name, size=size)

    def probe():
        problem.model.eval()
        with torch.no_grad():
            return sum(problem.loss(problem.model, batch).item() for batch in problem.batches)

    before = probe()
    losses = problem.train(steps)
    assert len(losses) == steps and all(map(math.isfinite, losses))
    assert sum(losses[-5:]) < factor * sum(losses[:5])
    # In evaluation mode too, where batch normalisation uses its running statistics.
    assert probe() < factor * before * 1.1


@each
def test_training_repeats_bit_for_bit(name):
    first, second, other = tiny(name), tiny(name), tiny(name)
    assert first.train(3, seed=1) == second.train(3, seed=1) != other.train(3, seed=2)
    assert same_problem(first, second)
    assert first.model.training


def test_training_takes_an_optimizer_and_a_callback_and_restores_the_modes():
    problem, seen = tiny("cnn"), []
    problem.model.eval()
    problem.model[0].train()
    modes = [module.training for module in problem.model.modules()]
    start = [parameter.detach().clone() for parameter in problem.model.parameters()]

    def callback(step, model):
        seen.append(step)
        assert model is problem.model and all(module.training for module in model.modules())
        moved = [before - after for before, after in zip(start, model.parameters(), strict=True)]
        if step == 1:
            for move, parameter in zip(moved, model.parameters(), strict=True):
                torch.testing.assert_close(move, 0.5 * parameter.grad)

    with torch.no_grad():
        losses = problem.train(3, optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.5), callback=callback)
    assert seen == [1, 2, 3] and len(losses) == 3
    assert [module.training for module in problem.model.modules()] == modes
    assert all(parameter.grad is None for parameter in problem.model.parameters())
    assert problem.train(0) == []

    def interrupt(step, model):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        problem.train(2, callback=interrupt)
    assert [module.training for module in problem.model.modules()] == modes


def test_a_callback_may_leave_the_model_in_evaluation_mode():
    problem, plain = tiny("cnn"), tiny("cnn")
    assert problem.train(3, callback=lambda step, model: model.eval()) == plain.train(3)


def test_gpt_has_the_parameters_of_its_architecture():
    model = zoo.load("gpt").model
    assert len(list(model.parameters())) == 53
    assert [len(list(block.parameters())) for block in model.blocks] == [12] * 4
    for attention in (module for module in model.modules() if isinstance(module, SelfAttention)):
        width = attention.proj.in_features
        assert attention.qkv.weight.shape == (3 * width, width) and width % attention.num_heads == 0


@pytest.mark.parametrize("size", zoo.SIZES)
def test_tied_gpt_shares_the_embedding(size):
    tied, untied = (zoo.load(name, size=size, dtype=torch.float64) for name in ("gpt-tied", "gpt"))
    tied.train(2)
    assert tied.model.head.weight is tied.model.tokens.weight
    assert len(list(tied.model.parameters())) == len(list(untied.model.parameters())) - 1
    assert size_of(untied.model) - size_of(tied.model) == untied.model.head.weight.numel()


def test_heads_own_the_rows_the_attention_says():
    """Zeroing one head's value rows and biases removes exactly that head's columns of the projection."""
    attention = SelfAttention(6, 3, causal=True).double()
    x = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    head = slice(2, 4)
    with torch.no_grad():
        cut = attention.proj.weight.clone()
        cut[:, head] = 0
        expected = torch.func.functional_call(attention, {"proj.weight": cut}, x)
        attention.qkv.weight[12:][head] = 0
        attention.qkv.bias[12:][head] = 0
        torch.testing.assert_close(attention(x), expected)


@pytest.mark.parametrize("name", LANGUAGE)
def test_language_models_do_not_see_the_future(name):
    problem = tiny(name)
    tokens = problem.batches[0][0]
    changed = tokens.clone()
    changed[:, 5] = (changed[:, 5] + 1) % 16
    outputs, others = problem.model(tokens), problem.model(changed)
    torch.testing.assert_close(outputs[..., :5], others[..., :5])
    assert not torch.allclose(outputs[..., 5], others[..., 5])


def test_text_is_the_source_of_the_standard_library():
    tokens, coarse = data.text(), data.text(coarse=True)
    source = bytes(tokens.to(torch.uint8).numpy())
    assert len(tokens) == len(coarse) > 500_000
    assert b"class ArgumentParser" in source and b"class WeakKeyDictionary" in source and b"\r\n" not in source
    assert coarse.unique().tolist() == list(range(16))
    assert not any(set(a) & set(b) for i, a in enumerate(data.COARSE_ALPHABET) for b in data.COARSE_ALPHABET[:i])
    inputs, targets = data.Windows(tokens, 7).take(torch.tensor([0, len(tokens) - 8]))
    assert torch.equal(inputs[:, 1:], targets[:, :-1]) and targets[1, -1] == tokens[-1]


def test_tables_and_digits():
    digits, wine = data.digits(), data.table("wine")
    assert digits.inputs.shape == (1797, 1, 8, 8) and digits.inputs.min() == 0 and digits.inputs.max() == 1
    zero, one = torch.zeros(13, dtype=torch.float64), torch.ones(13, dtype=torch.float64)
    torch.testing.assert_close(wine.inputs.mean(dim=0), zero)
    torch.testing.assert_close(wine.inputs.square().mean(dim=0), one)


def products(problem, directions, batched):
    """Hessian-vector products by differentiating the gradient, flattened; ``directions`` one row each."""
    parameters = list(problem.model.parameters())
    loss = problem.loss(problem.model, problem.batches[0])
    gradient = torch.autograd.grad(loss, parameters, create_graph=True)
    pieces = [
        piece.reshape(-1, *parameter.shape)
        for piece, parameter in zip(directions.split([p.numel() for p in parameters], dim=1), parameters, strict=True)
    ]
    if batched:
        rows = torch.autograd.grad(gradient, parameters, pieces, is_grads_batched=True)
        return torch.cat([row.flatten(1) for row in rows], dim=1)
    return torch.stack([
        torch.cat([h.flatten() for h in torch.autograd.grad(gradient, parameters, [p[i] for p in pieces], retain_graph=True)])
        for i in range(len(directions))
    ])


def central_difference(problem, direction, step):
    parameters = list(problem.model.parameters())
    point = nn.utils.parameters_to_vector(parameters).detach()

    def gradient(at):
        nn.utils.vector_to_parameters(at, parameters)
        loss = problem.loss(problem.model, problem.batches[0])
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)])

    difference = (gradient(point + step * direction) - gradient(point - step * direction)) / (2 * step)
    nn.utils.vector_to_parameters(point, parameters)
    return difference


@each
def test_hessian_vector_products_match_central_differences(name):
    problem = tiny(name)
    problem.train(20)
    problem.model.eval()
    directions = torch.randn(3, size_of(problem.model), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    directions /= directions.norm(dim=1, keepdim=True)
    with sdpa_kernel(SDPBackend.MATH):
        found = products(problem, directions, batched=False)
        together = products(problem, directions, batched=True)
        # Truncation of order step², rounding of order 1e-16 / step.
        expected = torch.stack([central_difference(problem, direction, 1e-4) for direction in directions])
    assert found.norm() > 1e-3
    torch.testing.assert_close(together, found, rtol=1e-10, atol=1e-12)
    assert (found - expected).norm() < 1e-6 * found.norm()


@each
def test_float32_products_round_the_float64_ones(name):
    results = []
    for dtype in (torch.float64, torch.float32):
        problem = tiny(name, dtype=dtype)
        problem.model.eval()
        direction = torch.randn(1, size_of(problem.model), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        with sdpa_kernel(SDPBackend.MATH):
            results.append(products(problem, direction.to(dtype), batched=False).double())
    assert (results[1] - results[0]).norm() < 1e-5 * results[0].norm()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "resnet"}, "unknown problem 'resnet': the zoo has mlp, cnn, vit, gpt, lstm, logistic, gpt-tied"),
        ({"size": "huge"}, "unknown size 'huge': the zoo has tiny, small"),
        ({"dtype": torch.int64}, "dtype must be a floating-point torch.dtype, not torch.int64"),
        ({"seed": -1}, "seed must be at least 0, not -1"),
        ({"seed": 0.5}, "seed must be an integer, not 0.5"),
        ({"batches": 0}, "batches must be at least 1, not 0"),
        ({"batch_size": 0}, "batch_size must be at least 1, not 0"),
    ],
)
def test_load_refuses(options, message):
    with pytest.raises(ValueError) as caught:
        zoo.load(**{"name": "logistic", **options})
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": -1}, "steps must be at least 0"),
        ({"steps": 1.0}, "steps must be an integer"),
        ({"seed": -2}, "seed must be at least 0"),
        ({"lr": 0.0}, "lr must be positive and finite, not 0.0"),
        ({"lr": math.nan}, "lr must be positive and finite, not nan"),
        ({"lr": 0.1, "optimizer": torch.optim.SGD}, "an optimizer of your own sets its own learning rate"),
    ],
)
def test_train_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        tiny("logistic").train(**{"steps": 1, **options})


def test_training_needs_training_data():
    problem = tiny("logistic")
    bare = zoo.ZooProblem("bare", problem.model, problem.criterion, problem.batches)
    assert torch.equal(bare.loss(bare.model, bare.batches[0]), problem.loss(problem.model, problem.batches[0]))
    with pytest.raises(ValueError, match="'bare' has no training data"):
        bare.train(1)


def test_missing_scikit_learn_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    for name in ("mlp", "logistic"):
        with pytest.raises(ImportError) as caught:
            tiny(name)
        assert "deva-theory[zoo]" in str(caught.value) and "\n" not in str(caught.value)
    tiny("gpt")


def test_missing_source_text_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setattr(data.sysconfig, "get_path", lambda name: str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"argparse\.py is not to be read .* use a Python installed with") as caught:
        tiny("lstm")
    assert "\n" not in str(caught.value)

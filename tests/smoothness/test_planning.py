"""A plan bounds the products of the probe for sure, and gets its time and memory about right."""

import json
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from deva_theory.problems import zoo
from deva_theory.smoothness.curvature.blocks import Block, Piece
from deva_theory.smoothness.curvature.objective import ProbeError
from deva_theory.smoothness.planning import _time, plan
from deva_theory.smoothness.probing import probe
from deva_theory.smoothness.request import Request

NORMS = ("l2", "linf", "spectral", "l11")


def arguments(name, size="tiny", batches=2):
    problem = zoo.load(name, size=size, dtype=torch.float64, batches=batches)
    return problem.model, problem.criterion, list(problem.batches)


@pytest.mark.parametrize("name", zoo.ALL_NAMES)
def test_no_estimate_uses_more_products_than_planned(name):
    # A tolerance that is never met: every program spends what it may.
    options = {"norm": NORMS, "tolerance": 1e-9, "max_products": 60, "check": False, "select": "weight"}
    planned = plan(*arguments(name, batches=1), **options)
    result = probe(*arguments(name, batches=1), **options)
    for entry in planned.entries:
        used = result[entry.block].estimates[entry.norm].products
        assert 0 < used <= entry.products[1], (entry, used)
        assert entry.products[0] <= entry.products[1]
    assert result.cost["products"] <= planned.products[1]
    assert len(planned.entries) == sum(len(block.estimates) for block in result)


@pytest.mark.parametrize("memory", [3_000_000, 300_000])
def test_the_bound_holds_when_memory_limits_the_programs(memory):
    options = {"norm": NORMS, "tolerance": 1e-9, "check": False, "memory": memory, "select": "1.weight"}
    planned = plan(*arguments("mlp"), **options)
    result = probe(*arguments("mlp"), **options)
    for entry in planned.entries:
        assert result[entry.block].estimates[entry.norm].products <= entry.products[1]
    assert planned.memory == memory


@given(
    st.integers(1, 10**7), st.integers(1, 500), st.integers(10**6, 10**12), st.sampled_from([*NORMS, "gamma-linf", "gamma-l2"]),
    st.sampled_from(["low", "normal", "high"]),
)
def test_counts_are_ordered_and_fit_the_block(size, max_products, memory, norm, effort):
    block = Block("b", (Piece("b", (size,)),))
    operator = SimpleNamespace(memory=memory, blocks=(block,), model=nn.Module())
    request = Request.checked(
        operator, norm=norm, tolerance=None, failure=1e-3, stop="certificate", max_products=max_products, effort=effort, seed=0, gamma={},
    )
    typical, most = request.products(norm, block)
    assert 1 <= typical <= most
    assert 1 <= request.rows_per_pass(norm, block)
    if norm.endswith(("l2", "l11")):
        assert most <= min(size, max(7, max_products))


@pytest.mark.parametrize("options", [{"norm": "l2"}, {"norm": ("linf", "l11")}, {"norm": "l2", "keep_graph": False}])
def test_typical_products_are_near_the_actual_ones(options):
    planned = plan(*arguments("mlp"), **options)
    result = probe(*arguments("mlp"), **options)
    assert planned.products[0] / 3 <= result.cost["products"] <= 3 * planned.products[0]
    assert planned.keeps_graph == (options.get("keep_graph") is None)


@pytest.mark.slow
@pytest.mark.parametrize("norm", NORMS)
def test_time_is_predicted_within_a_factor_of_four(norm):
    """No deadline: a ratio of two times of one process; the wide factor is for neighbours on the machine."""
    planned = plan(*arguments("gpt"), norm=norm)
    result = probe(*arguments("gpt"), norm=norm)
    assert planned.seconds[0] / 4 <= result.cost["seconds"] <= 4 * planned.seconds[0]


def test_planning_leaves_the_model_alone():
    model, loss, data = arguments("cnn")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    plan(model, loss, data, norm=("l2", "spectral"), dtype=torch.float32)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert model.training
    assert all(p.grad is None for p in model.parameters())


def test_forms():
    planned = plan(*arguments("mlp"), norm=("l2", "linf"), blocks="layer")
    text = planned.summary()
    assert text.startswith("3 blocks of 1066 parameters, 2 batches; nothing was probed")
    for words in ("l2", "linf", "at most", "kept for all batches", "memory"):
        assert words in text
    data = json.loads(json.dumps(planned.to_dict(), allow_nan=False))
    assert data["products"] == list(planned.products)
    assert data["entries"][0]["norm"] == "l2"
    again = plan(*arguments("mlp"), keep_graph=False).summary()
    assert "built again for every product" in again


def test_options_are_those_of_a_probe():
    with pytest.raises(TypeError, match="tolerence"):
        plan(*arguments("mlp"), tolerence=1.0)
    with pytest.raises(ProbeError, match="'l3' is unknown"):
        plan(*arguments("mlp"), norm="l3")
    with pytest.raises(ProbeError, match="max_batches is 0"):
        plan(*arguments("mlp"), max_batches=0)
    with pytest.raises(ProbeError, match="dtype is 'int8'"):
        plan(*arguments("mlp"), dtype="int8")
    assert plan(*arguments("mlp"), dtype="float32").products == plan(*arguments("mlp"), dtype=torch.float32).products


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0123, "12.3 ms"), (5.0, "5 s"), (119.0, "119 s"), (600.0, "10 min"), (10800.0, "3.0 h")]
)
def test_times_are_readable(seconds, text):
    assert _time(seconds) == text

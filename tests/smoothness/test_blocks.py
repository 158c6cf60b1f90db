"""Blocks: which parameters they hold, and that their products are those of the dense submatrix."""

import math

import pytest
import torch
from torch import nn

from deva_theory.problems.zoo import load
from deva_theory.smoothness.curvature.blocks import Block, Piece, make_blocks, trainable
from deva_theory.smoothness.curvature.objective import ProbeError
from deva_theory.smoothness.curvature.products import CurvatureOperator
from tests.oracles import dense

ALL = slice(None)
LAYERS = [f"blocks.{k}.{part}" for k in range(2) for part in ("ln1", "attention.qkv", "attention.proj", "ln2", "up", "down")]
EDGES = ["norm", "head"]


def names(prefix, *suffixes):
    return [(f"{prefix}.{suffix}", ALL) for suffix in suffixes or ("weight", "bias")]


def head_rows(layer, head):
    """Query, key and value rows of one of two heads of width four, as the zoo's attention orders them."""
    rows = [slice(8 * part + 4 * head, 8 * part + 4 * head + 4) for part in range(3)]
    return [(f"blocks.{layer}.attention.qkv.{kind}", r) for kind in ("weight", "bias") for r in rows]


def in_layer(layer, *parts):
    return [entry for name in LAYERS if name.startswith(f"blocks.{layer}.") and name.endswith(parts or ("",)) for entry in names(name)]


# What is asked for, and for each block the parameters (and rows) that it must hold, in order.
KINDS = {
    "layer": (
        "layer",
        {"tokens": names("tokens", "weight"), "positions": names("positions", "weight")}
        | {name: names(name) for name in LAYERS} | {"norm": names("norm"), "head": names("head", "weight")},
    ),
    "head": ("head", {f"blocks.{k}.attention[head {h}]": head_rows(k, h) for k in range(2) for h in range(2)}),
    "regex": (r"qkv\.weight$|^norm", {n: [(n, ALL)] for n in ("blocks.0.attention.qkv.weight", "blocks.1.attention.qkv.weight")}
              | {n: [(n, ALL)] for n in ("norm.weight", "norm.bias")}),
    "group": (r"(blocks\.\d)\.", {f"blocks.{k}": in_layer(k) for k in range(2)}),
    "optional group": (r"(ln\d)?\.bias$", {
        "blocks.0.attention.qkv.bias": [("blocks.0.attention.qkv.bias", ALL)], "ln1": [(f"blocks.{k}.ln1.bias", ALL) for k in range(2)],
    }),
    "mapping": (
        {"norms": r"ln\d|norm", "second": r"blocks\.1\.(up|down)"},
        {"norms": [*in_layer(0, "ln1", "ln2"), *in_layer(1, "ln1", "ln2"), *names("norm")], "second": in_layer(1, "up", "down")},
    ),
    "model": ("model", {"model": [(name, ALL) for name in dense.case("gpt").positions]}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_products_of_each_kind_of_block_are_the_dense_submatrix(kind):
    asked, expected = KINDS[kind]
    case = dense.case("gpt")
    H = case.dense[0]
    made = CurvatureOperator(case.model, case.criterion, case.batches, blocks=asked)
    found = {block.name: block for block in made.blocks}
    if kind != "optional group":
        assert list(found) == list(expected)
    assert [block.depth for block in made.blocks] == list(range(len(found)))
    requests = {}
    for name, members in expected.items():
        block = found[name]
        where = torch.cat([case.positions[parameter][rows].reshape(-1) for parameter, rows in members])
        assert block.size == len(where) == len(where.unique())
        columns = torch.eye(block.size, dtype=torch.float64)[:: max(1, block.size // 100)]
        requests[name] = (block, columns, columns @ H[where[:, None], where])
    for name, product in made.sweep({name: request[:2] for name, request in requests.items()}).items():
        assert (product - requests[name][2]).norm() <= 1e-12 * H.norm()


def test_tensor_blocks_are_the_parameters():
    case = dense.case("gpt-tied")
    made = make_blocks(case.model, "tensor")
    assert [(b.name, b.size) for b in made] == [(name, p.numel()) for name, p in case.model.named_parameters()]
    assert [b.pieces[0].shape for b in made] == [tuple(p.shape) for p in case.model.parameters()]


def test_root_parameters_form_a_layer_of_their_own():
    model = nn.Linear(2, 3)
    (block,) = make_blocks(model, "layer")
    assert block.name == "(root)" and block.parameters == ("weight", "bias")


def test_select_keeps_blocks_by_name_or_parameter():
    model = dense.case("gpt").model
    assert [b.name for b in make_blocks(model, "head", select=r"blocks\.1.*head 0")] == ["blocks.1.attention[head 0]"]
    assert [b.name for b in make_blocks(model, "layer", select=r"ln1\.bias")] == ["blocks.0.ln1", "blocks.1.ln1"]
    kept = make_blocks(model, "tensor", select="norm")
    assert [(b.name, b.depth) for b in kept] == [("norm.weight", 0), ("norm.bias", 1)]


def test_blocks_given_as_such_are_used_as_they_are():
    case = dense.case("gpt")
    block = Block("corner", (Piece("head.weight", (2, 3), (slice(0, 2), slice(1, 4))), Piece("norm.bias", (8,))))
    made = CurvatureOperator(case.model, case.criterion, case.batches, blocks=[block])
    where = torch.cat([case.positions["head.weight"][:2, 1:4].reshape(-1), case.positions["norm.bias"]])
    H = case.dense[0]
    product = made.product("corner", torch.eye(14, dtype=torch.float64))
    assert (product - H[where[:, None], where]).norm() <= 1e-12 * H.norm()


# ---- vectors ------------------------------------------------------------------------------------------------


def test_gather_and_scatter_undo_each_other():
    shapes = {"a": torch.Size((4, 3)), "b": torch.Size((2,))}
    block = Block("some", (Piece("a", (2, 3), (slice(1, 3),)), Piece("a", (1, 3), (slice(3, 4),)), Piece("b", (2,))))
    V = torch.arange(22.0, dtype=torch.float64).view(2, 11)
    parts = block.scatter(V, shapes)
    assert {name: tuple(t.shape) for name, t in parts.items()} == {"a": (2, 4, 3), "b": (2, 2)}
    assert not parts["a"][:, 0].any()
    assert torch.equal(block.gather(parts, batched=True), V)
    assert torch.equal(block.gather({name: t[1] for name, t in parts.items()}), V[1])
    partial = block.gather({"a": None, "b": parts["b"]}, batched=True, like=V)
    assert torch.equal(partial, torch.cat([torch.zeros(2, 9), V[:, 9:]], dim=1))


@pytest.mark.parametrize(("shape", "kind", "size"), [
    ((5,), "Box", 5), ((), "Box", 1), ((1, 4), "Box", 4), ((4, 1), "Box", 4), ((3, 4), "SpectralBall", 12),
    ((3, 2, 2, 2), "SpectralBall", 24),
])
def test_balls_of_pieces(shape, kind, size):
    piece = Piece("w", shape)
    assert type(piece.ball).__name__ == kind and piece.size == size == math.prod(shape)
    block = Block("w", (piece,))
    assert type(block.ball("spectral")).__name__ == kind
    assert type(block.ball("linf")).__name__ == "Box"


def test_the_ball_of_several_pieces_is_their_product():
    block = Block("layer", (Piece("w", (3, 4)), Piece("b", (3,))))
    assert type(block.ball("spectral")).__name__ == "ProductBall"


# ---- attention heads ----------------------------------------------------------------------------------------


class Separate(nn.Module):
    """Projections apart, keys and values perhaps with fewer heads."""

    def __init__(self, heads, grouped=None, triple=("q_proj", "k_proj", "v_proj")):
        super().__init__()
        self.num_heads = heads
        if grouped:
            self.num_key_value_heads = grouped
        for name in triple:
            out = 8 if name.startswith("q") or not grouped else 8 * grouped // heads
            self.add_module(name, nn.Linear(8, out, bias=name.startswith("q")))


class Conv1D(nn.Module):
    """Stores (in, out), as transformers' layer of this name does."""

    def __init__(self):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.zeros(8, 24)), nn.Parameter(torch.zeros(24))


class Fused(nn.Module):
    def __init__(self):
        super().__init__()
        self.config = type("Config", (), {"n_head": 4})()
        self.c_attn = Conv1D()


def picked(model, block):
    """The entries that a block holds, by parameter."""
    found = {name: torch.zeros(p.shape, dtype=torch.bool) for name, p in model.named_parameters()}
    for piece in block.pieces:
        assert not found[piece.parameter][piece.index].any()
        assert found[piece.parameter][piece.index].shape == piece.shape
        found[piece.parameter][piece.index] = True
    return {name: mask for name, mask in found.items() if mask.any()}


def rows(shape, *spans, axis=0):
    mask = torch.zeros(shape, dtype=torch.bool)
    for start, stop in spans:
        mask.narrow(axis, start, stop - start)[:] = True
    return mask


class Rows(nn.Module):
    """One fused projection of four inputs per head."""

    def __init__(self, out, heads=4, name="qkv_proj", **attributes):
        super().__init__()
        self.num_heads = heads
        for key, value in attributes.items():
            setattr(self, key, value)
        self.add_module(name, nn.Linear(4 * heads, out))


class Undeclared(Separate):
    """Keys and values with fewer heads, which no attribute says."""

    def __init__(self):
        super().__init__(4, grouped=2)
        del self.num_key_value_heads


def fused(spans, out, inputs=16, name="qkv_proj"):
    return {f"{name}.weight": rows((out, inputs), *spans), f"{name}.bias": rows((out,), *spans)}


HEADS = {
    "grouped and fused": (lambda: Rows(32, num_key_value_heads=2), fused([(4, 8)], 32)),
    "multi-query": (lambda: Rows(24, name="c_attn", kv_heads=1), fused([(4, 8)], 24, name="c_attn")),
    "interleaved": (
        lambda: Rows(48, name="query_key_value"), fused([(12, 16), (16, 20), (20, 24)], 48, name="query_key_value"),
    ),
    "interleaved and grouped": (
        lambda: Rows(32, name="query_key_value", num_kv_heads=2), fused([(4, 8)], 32, name="query_key_value"),
    ),
    "undeclared": (Undeclared, {"q_proj.weight": rows((8, 8), (2, 4)), "q_proj.bias": rows((8,), (2, 4))}),
    "other keys": (lambda: nn.MultiheadAttention(8, 4, kdim=6, vdim=5), {
        "q_proj_weight": rows((8, 8), (2, 4)), "k_proj_weight": rows((8, 6), (2, 4)), "v_proj_weight": rows((8, 5), (2, 4)),
        "in_proj_bias": rows((24,), (2, 4), (10, 12), (18, 20)),
    }),
    "torch": (lambda: nn.MultiheadAttention(8, 4), {
        "in_proj_weight": rows((24, 8), (2, 4), (10, 12), (18, 20)), "in_proj_bias": rows((24,), (2, 4), (10, 12), (18, 20)),
    }),
    "separate": (lambda: Separate(4), {
        f"{n}_proj.weight": rows((8, 8), (2, 4)) for n in "qkv"} | {"q_proj.bias": rows((8,), (2, 4))}),
    "words": (lambda: Separate(4, triple=("query", "key", "value")), {
        f"{n}.weight": rows((8, 8), (2, 4)) for n in ("query", "key", "value")} | {"query.bias": rows((8,), (2, 4))}),
    "grouped": (lambda: Separate(4, grouped=2), {"q_proj.weight": rows((8, 8), (2, 4)), "q_proj.bias": rows((8,), (2, 4))}),
    "columns": (Fused, {
        "c_attn.weight": rows((8, 24), (2, 4), (10, 12), (18, 20), axis=1), "c_attn.bias": rows((24,), (2, 4), (10, 12), (18, 20)),
    }),
}


@pytest.mark.parametrize("kind", HEADS)
def test_heads_are_found_in_other_attention_layers(kind):
    build, expected = HEADS[kind]
    model = build()
    made = make_blocks(model, "head")
    assert len(made) == 4 and made[1].name == "attention[head 1]"
    found = picked(model, made[1])
    assert found.keys() == expected.keys()
    for name, mask in expected.items():
        assert torch.equal(found[name], mask), name


@pytest.mark.parametrize("build", [
    lambda: Rows(40, heads=8, num_key_value_heads=2), lambda: Rows(24, heads=4), lambda: Rows(24, heads=4, head_dim=4),
    lambda: Rows(47, heads=4), lambda: Rows(48, heads=4, num_key_value_heads=3),
], ids=["indivisible", "fewer key heads than said", "another width than said", "odd", "key heads that do not divide"])
def test_fused_projections_that_do_not_divide_are_left_alone(build):
    with pytest.raises(ProbeError, match="no attention heads found"):
        make_blocks(build(), "head")


def test_the_second_block_of_several_key_heads_starts_behind_the_firsts_keys():
    made = make_blocks(Rows(32, name="query_key_value", num_kv_heads=2), "head")
    assert [block.pieces[0].index[0].start for block in made] == [0, 4, 16, 20]
    made = make_blocks(Rows(48, heads=8, num_key_value_heads=2, head_dim=4), "head")
    assert [(block.pieces[0].index[0].start, len(block.pieces)) for block in made] == [(4 * k, 2) for k in range(8)]


# ---- what is probed, and errors -----------------------------------------------------------------------------


def test_only_trainable_floating_point_parameters_are_probed():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[0].weight.requires_grad_(False)
    model.register_parameter("codes", nn.Parameter(torch.zeros(3, dtype=torch.int8), requires_grad=False))
    model.register_parameter("empty", nn.Parameter(torch.zeros(0)))
    model.tied = model[1]
    assert list(trainable(model)) == ["0.bias", "1.weight", "1.bias"]


def frozen():
    return nn.Linear(2, 2).requires_grad_(False)


def quantised():
    model = nn.Module()
    model.register_parameter("packed", nn.Parameter(torch.zeros(4, dtype=torch.int8), requires_grad=False))
    return model


def half_frozen():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[0].requires_grad_(False)
    return model


def mlp():
    return load("mlp", size="tiny").model


def lazy():
    return nn.Sequential(nn.LazyLinear(3))


def lazy_buffers():
    return nn.Sequential(nn.Linear(2, 2), nn.LazyBatchNorm1d(affine=False))


def inferred():
    with torch.inference_mode():
        return nn.Linear(2, 2)


ERRORS = {
    "lazy": (lazy, "tensor", {}, "'0.weight' is not initialised yet (a lazy module): run the model once on a batch first"),
    "lazy buffers": (lazy_buffers, "tensor", {}, "'1.running_mean' is not initialised yet (a lazy module): run the model once "),
    "inference": (inferred, "tensor", {}, "the parameter 'weight' was made in torch.inference_mode, which bars gradients: "),
    "frozen selection": (
        half_frozen, "tensor", {"select": r"^0\."},
        "'^0\\\\.' matches only parameters that are frozen or integer, such as '0.weight'; unfreeze ",
    ),
    "none": (mlp, None, {}, "blocks is None; use one of tensor, layer, head, model, a regular expression, a mapping or Block objects"),
    "no parameters": (nn.ReLU, "tensor", {}, "the model has no parameters"),
    "frozen": (
        frozen, "tensor", {},
        "none of the model's 2 parameters can be probed: all are frozen (requires_grad=False); unfreeze or dequantise those to probe",
    ),
    "quantised": (
        quantised, "model", {},
        "none of the model's 1 parameters can be probed: 1 are integers (quantised), such as 'packed'; unfreeze or ",
    ),
    "only frozen match": (
        half_frozen, r"^0\.", {}, "'^0\\\\.' matches only parameters that are frozen or integer, such as '0.weight'; unfreeze ",
    ),
    "no match": (mlp, r"^1\.wieght$", {}, "'^1\\\\.wieght$' matches none of 6 names; near ones: 1.weight, "),
    "no match in a mapping": (mlp, {"a": "weight", "b": "wight"}, {}, "'wight' matches none of 6 names; near ones: "),
    "nothing selected": (mlp, "layer", {"select": "10"}, "'10' matches none of 3 names; near ones: "),
    "invalid": (mlp, "(weight", {}, "'(weight' is no valid regular expression: missing ), unterminated subpattern at position 0"),
    "invalid selection": (mlp, "tensor", {"select": "*"}, "'*' is no valid regular expression: nothing to repeat at position 0"),
    "overlap": (
        mlp, {"weights": "weight", "first": r"^1\."}, {}, "blocks 'weights' and 'first' both match '1.weight'; narrow one expression",
    ),
    "no heads": (mlp, "head", {}, "no attention heads found: they are recognised in nn.MultiheadAttention, "),
    "empty mapping": (mlp, {}, {}, "blocks is an empty mapping; give {name: expression}"),
    "no blocks": (mlp, [], {}, "blocks is a sequence; it must hold at least one Block and nothing else"),
    "other things": (mlp, ["1.weight"], {}, "blocks is a sequence; it must hold at least one Block and nothing else"),
}


@pytest.mark.parametrize("kind", ERRORS)
def test_errors_say_in_one_line_what_is_wrong(kind):
    build, blocks, options, message = ERRORS[kind]
    with pytest.raises(ProbeError) as caught:
        make_blocks(build(), blocks, **options)
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)

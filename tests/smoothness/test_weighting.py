"""Γ on blocks, slices and tied parameters, and what is no Γ."""

import pytest
import torch

from deva_theory.problems import zoo
from deva_theory.rules import Diagnostics
from deva_theory.smoothness.curvature.blocks import Block, Piece, make_blocks
from deva_theory.smoothness.curvature.objective import ProbeError
from deva_theory.smoothness.probing import probe
from deva_theory.smoothness.weighting import Adaptation, checked_weights, weight_tensors
from tests.smoothness.test_probe import dense, toy


def random(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 0.1


def test_a_slice_has_its_own_part_of_gamma():
    model, loss, batches = toy(widths=(3, 4, 2))
    gamma = {"0.weight": random(4, 3), "0.bias": random(4, seed=1)}
    block = Block("rows", (Piece("0.weight", (2, 3), (slice(2, 4),)), Piece("0.bias", (2,), (slice(1, 3),))))
    own = torch.cat((gamma["0.weight"][2:4].reshape(-1), gamma["0.bias"][1:3]))
    torch.testing.assert_close(Adaptation(block, gamma).apply(torch.ones(1, 8, dtype=torch.float64))[0], own)
    rows = Block("rows", block.pieces[:1])
    found = probe(model, loss, batches, blocks=[rows], norm=("gamma-l2", "gamma-l11", "gamma-linf"), gamma=gamma, check=False)["rows"]
    H = dense(model, loss, batches, "0.weight")[6:, 6:]
    H = own[:6, None] * H * own[:6]
    assert found.estimates["gamma-l2"].bilinear.contains(torch.linalg.eigvalsh(H).abs().max().item(), rtol=1e-12)
    assert found.estimates["gamma-l11"].bilinear.contains(H.abs().sum().item(), rtol=1e-12)
    # The witness is in the original space: its form with H itself is the value.
    x, y = found.estimates["gamma-linf"].bilinear.witness
    value = (x @ dense(model, loss, batches, "0.weight")[6:, 6:] @ y).item()
    assert value == pytest.approx(found.estimates["gamma-linf"].bilinear.lower, rel=1e-9)


def test_columns_of_a_fused_projection_have_their_own_part():
    """Heads of a transformer: no Γ of two heads is alike, and each is that of the plain tensors' slices."""
    problem = zoo.load("gpt", size="tiny", dtype=torch.float64, batches=1)
    named = dict(problem.model.named_parameters())
    gamma = {name: random(*p.shape, seed=k) for k, (name, p) in enumerate(named.items())}
    for block in make_blocks(problem.model, "head"):
        expected = torch.cat([gamma[p.parameter][p.index].reshape(-1) for p in block.pieces])
        made = Adaptation(block, gamma)
        torch.testing.assert_close(made.apply(torch.ones(2, block.size, dtype=torch.float64)), expected.expand(2, -1))
        torch.testing.assert_close(made.adjoint(torch.ones(2, block.size, dtype=torch.float64)), expected.expand(2, -1))


def tied():
    model, loss, batches = toy()
    model[2].weight = model[0].weight
    return model, loss, batches


@pytest.mark.parametrize("name", ["0.weight", "2.weight"])
def test_a_tied_parameter_is_known_by_all_its_names(name):
    options = {"norm": "gamma-l2", "select": "0.weight", "check": False}
    expected = probe(*tied(), gamma={"0.weight": random(2, 2)}, **options)
    found = probe(*tied(), gamma={name: random(2, 2)}, **options)
    assert found.rows() == expected.rows()
    assert found["0.weight"].estimates["gamma-l2"].bilinear.upper < probe(*tied(), check=False)["0.weight"].estimates["l2"].bilinear.lower


def test_the_tensors_of_gamma_are_in_order():
    block = Block("b", (Piece("a", (2,)), Piece("m", (2, 2)), Piece("c", (1,))))
    Q = torch.eye(2)
    gamma = {"m": Diagnostics(random(2, 2), Q, (Q, 2 * Q), 1.0), "c": random(1)}
    found = list(weight_tensors(block, gamma))
    assert [tuple(t.shape) for t in found] == [(0,), (2, 2), (2, 2), (2, 2), (1,)]
    assert torch.equal(found[3], 2 * Q)


ONES = torch.ones(2, 2, dtype=torch.float64)
BAD = {
    "a typo": ({"0.wieght": ONES}, "no such parameter; near names: 0.weight"),
    "a module": ({"0": ONES}, "no such parameter"),
    "not a name": ({0: ONES}, "no such parameter"),
    "a tensor": (ONES, "gamma is a Tensor; pass a mapping"),
    "a float": ({"0.weight": 0.5}, "is a float; pass a tensor"),
    "the shape": ({"0.weight": ONES[0]}, "has shape"),
    "one number": ({"0.weight": torch.tensor(1.0)}, "has shape"),
    "negative": ({"0.weight": -ONES}, "negative"),
    "one negative": ({"0.weight": torch.tensor([[1.0, 1.0], [1.0, -1e-9]])}, "negative"),
    "nan": ({"0.weight": ONES * float("nan")}, "NaN"),
    "infinite": ({"0.weight": ONES * float("inf")}, "infinite"),
    "complex": ({"0.weight": ONES * 1j}, "complex"),
    "diagnostics": ({"0.weight": Diagnostics(-ONES, ONES, None, 1.0)}, "negative"),
    "a basis of nan": ({"0.weight": Diagnostics(ONES, ONES, (ONES, ONES * float("nan")), 1.0)}, "the basis of"),
}


@pytest.mark.parametrize("norm", ["l2", "gamma-l2"])
@pytest.mark.parametrize(("gamma", "words"), BAD.values(), ids=BAD)
def test_what_is_no_gamma_is_one_line(gamma, words, norm):
    with pytest.raises(ProbeError, match=words) as caught:
        probe(*toy(), norm=norm, gamma=gamma, check=False)
    assert "\n" not in str(caught.value)


def test_a_tied_parameter_has_one_gamma():
    with pytest.raises(ProbeError, match="one tied parameter"):
        checked_weights({"0.weight": ONES, "2.weight": ONES}, tied()[0])


def test_a_rotated_gamma_of_a_slice_is_refused_before_anything_runs():
    model, loss, batches = toy()
    blocks = [Block("bias", (Piece("0.bias", (2,)),)), Block("row", (Piece("0.weight", (1, 2), (slice(0, 1),)),))]
    gamma = {"0.weight": Diagnostics(ONES, ONES, (ONES, ONES), 1.0)}
    calls = []

    def counted(model, batch):
        calls.append(1)
        return loss(model(batch[0]), batch[1])

    with pytest.raises(ProbeError, match="rotated basis of the whole matrix"):
        probe(model, counted, batches, blocks=blocks, norm="gamma-l2", gamma=gamma, check=False)
    assert not calls


def test_zeros_freeze_and_missing_parameters_are_plain():
    model, loss, batches = toy()
    gamma = {"0.weight": 0 * ONES}
    found = probe(model, loss, batches, norm=("l2", "gamma-l2"), gamma=gamma, check=False)
    bounds = found["0.weight"].estimates["gamma-l2"].bilinear
    assert (bounds.lower, bounds.upper) == (0.0, 0.0)
    plain = found["2.weight"].estimates
    assert plain["gamma-l2"].bilinear.lower == plain["l2"].bilinear.lower


def test_gamma_of_a_frozen_parameter_is_no_typo():
    model, loss, batches = toy()
    model[0].weight.requires_grad_(False)
    probe(model, loss, batches, norm="gamma-l2", gamma={"0.weight": ONES}, check=False)

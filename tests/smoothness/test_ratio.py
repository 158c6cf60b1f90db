"""The effective smoothness ratio: closed forms on quadratics, brute force, degenerate cases, the comparison of rules (SPEC S7)."""

import itertools
import json
import math

import pytest
import torch
from torch import nn

from deva_theory.geometry import Spectral
from deva_theory.linalg import polar_factor
from deva_theory.problems.zoo import load
from deva_theory.rules import Diagnostics, adam, deva_linf, deva_spectral, gradient_descent, muon, sign_sgd, soap
from deva_theory.smoothness import weighted_box_smoothness, weighted_spectral_smoothness
from deva_theory.smoothness.curvature.blocks import Block, Piece
from deva_theory.smoothness.curvature.objective import ProbeError
from deva_theory.smoothness.curvature.products import CurvatureOperator
from deva_theory.smoothness.estimators.estimate import Bounds, Estimate
from deva_theory.smoothness.estimators.programs import run
from deva_theory.smoothness.ratios.comparison import compare_rules
from deva_theory.smoothness.ratios.directions import default_rules, gradients_of
from deva_theory.smoothness.ratios.ratio import (
    RealisedStep,
    adapted_program,
    adapted_smoothness,
    gamma_sums,
    realised_ratio,
    smoothness_limits,
    worst_case_ratio,
)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def symmetric(d, seed=0):
    A = normal(d, d, seed=seed)
    return A + A.mT


def psd(d, seed=0):
    A = normal(d, d, seed=seed)
    return A @ A.mT / d


def block_of(*shape):
    return Block("x", (Piece("x", tuple(shape)),))


def against(H):
    return lambda V: V @ H


def estimate(H, gamma, norm="linf", shape=None):
    shape = shape or (len(H),)
    return run(adapted_program(block_of(*shape), {"x": gamma}, norm=norm), against(H))


def rho(H, g, gamma):
    """Worst-case ratio of D = γ ⊙ sign g."""
    ones = torch.ones_like(g)
    return worst_case_ratio(
        estimate(H, gamma), estimate(H, ones), progress=(g.abs() * gamma).sum().item(), reference_progress=g.abs().sum().item(),
        limits=smoothness_limits(gamma, norm="linf"),
    )


def exact(value):
    return Estimate("linf", 3, Bounds(value, value, "", ""), Bounds(value, value, "", ""), 0, 0.1, True)


# ---- worst case, box --------------------------------------------------------------------------------------------


def test_no_adaptation_has_ratio_one():
    H, g = psd(6), normal(6, seed=1)
    result = rho(H, g, torch.ones(6, dtype=torch.float64))
    assert result.lower == pytest.approx(1.0, rel=1e-12) and result.upper == pytest.approx(1.0, rel=1e-12)


@pytest.mark.parametrize("definite", [True, False])
def test_interval_contains_brute_force(definite):
    H, g = (psd if definite else symmetric)(6, 3), normal(6, seed=4)
    gamma = normal(6, seed=5).abs()
    corners = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=6)), dtype=torch.float64)
    if not definite:  # the maximum may lie on a lower face of the box: a grid finds a lower bound of it
        corners = torch.tensor(list(itertools.product([-1.0, -0.5, 0.0, 0.5, 1.0], repeat=6)), dtype=torch.float64)

    def brute(weights):
        u = corners * weights
        return ((u @ H) * u).sum(-1).max().item()

    adapted, plain = estimate(H, gamma), estimate(H, torch.ones_like(gamma))
    for weights, found in ((gamma, adapted), (torch.ones_like(gamma), plain)):
        assert found.quadratic.upper >= brute(weights) * (1 - 1e-9)
        if definite:
            assert found.quadratic.contains(brute(weights), rtol=1e-9)
            assert found.quadratic.lower == pytest.approx(weighted_box_smoothness(H, weights.unsqueeze(-1)).item(), rel=1e-9)
    if definite:
        truth = brute(gamma) / brute(1.0) * (g.abs().sum() / (g.abs() * gamma).sum()).item() ** 2
        result = rho(H, g, gamma)
        assert result.lower * (1 - 1e-9) <= truth <= result.upper * (1 + 1e-9)


def test_scaling_gamma_changes_nothing():
    H, g, gamma = psd(5), normal(5, seed=1), normal(5, seed=2).abs()
    base = rho(H, g, gamma)
    for c in (1e-6, 7.0, 1e5):
        scaled = rho(H, g, c * gamma)
        assert (scaled.lower, scaled.upper) == pytest.approx((base.lower, base.upper), rel=1e-9)


def test_best_gamma_of_a_diagonal_hessian():
    """γ ∝ |g_i|/L_i is best: ρ = ΣL / (Σg²/L) · ... in closed form, and no other γ is lower."""
    L, g = torch.tensor([1.0, 10.0, 100.0, 1000.0], dtype=torch.float64), normal(4, seed=3)
    H, best = torch.diag(L), g.abs() / L
    at_best = rho(H, g, best)
    # L_Γ = Σ g²/L = <g, Γ sign g>, so ρ = ‖g‖_1² / (ΣL · Σ g²/L).
    closed = (g.abs().sum() ** 2 / (L.sum() * (g**2 / L).sum())).item()
    assert at_best.lower == pytest.approx(closed, rel=1e-9) and at_best.upper == pytest.approx(closed, rel=1e-9)
    assert at_best.upper < 1
    for seed in range(20):
        assert rho(H, g, best * (1 + 0.5 * normal(4, seed=seed)).abs()).upper >= closed * (1 - 1e-9)


def test_a_smaller_constant_alone_proves_nothing():
    """Γ = 1 on the steep coordinate only: L_Γ < L but less progress; ρ > 1."""
    H, g = torch.diag(torch.tensor([4.0, 1.0], dtype=torch.float64)), torch.tensor([1.0, 1.0], dtype=torch.float64)
    gamma = torch.tensor([1.0, 0.0], dtype=torch.float64)
    result = rho(H, g, gamma)
    assert result.smoothness[1] < 1 and result.lower == pytest.approx(4 / (5 / 4), rel=1e-9)


def test_limits_tighten_the_interval():
    loose = Estimate("linf", 3, Bounds(1.0, 2.0, "", ""), Bounds(1.0, 2.0, "", "", 1e-3), 0, 0.1, False)
    gamma = torch.tensor([0.9, 1.0, 1.1], dtype=torch.float64)
    wide = worst_case_ratio(loose, loose, progress=1.0, reference_progress=1.0)
    narrow = worst_case_ratio(loose, loose, progress=1.0, reference_progress=1.0, limits=smoothness_limits(gamma, norm="linf"))
    assert (wide.lower, wide.upper) == (0.5, 2.0)
    assert (narrow.lower, narrow.upper) == pytest.approx((0.81, 1.21), rel=1e-12)
    assert narrow.failure == pytest.approx(2e-3)


@pytest.mark.parametrize(("progress", "reference", "lower", "word"), [
    (-1.0, 2.0, math.inf, "descent"), (0.0, 2.0, math.inf, "descent"), (0.0, 0.0, math.nan, "vanishes"),
])
def test_worst_case_without_progress(progress, reference, lower, word):
    result = worst_case_ratio(exact(1.0), exact(2.0), progress=progress, reference_progress=reference)
    assert str(result.lower) == str(lower) == str(result.upper) and word in result.note
    json.dumps(result.to_dict(), allow_nan=False)


def test_worst_case_without_curvature():
    flat = worst_case_ratio(exact(0.0), exact(0.0), progress=1.0, reference_progress=1.0)
    assert math.isnan(flat.lower) and "curvature" in flat.note
    one = worst_case_ratio(exact(1.0), exact(0.0), progress=1.0, reference_progress=1.0)
    assert one.upper == math.inf


def test_worst_case_rejects_estimates_without_a_quadratic_part():
    sums = Estimate("l11", 3, Bounds(1.0, 1.0, "", ""), None, 0, 0.1, True)
    with pytest.raises(ValueError, match="entrywise"):
        worst_case_ratio(sums, exact(1.0), progress=1.0, reference_progress=1.0)


# ---- worst case, spectral ---------------------------------------------------------------------------------------


def rotated(gamma, seed=0):
    m, n = gamma.shape
    bases = polar_factor(normal(m, m, seed=seed)), polar_factor(normal(n, n, seed=seed + 1))
    return Diagnostics(gamma, torch.zeros_like(gamma), bases, 1.0)


@pytest.mark.parametrize(("m", "n"), [(3, 3), (3, 4), (4, 2)])
def test_spectral_interval_meets_the_row_hessian(m, n):
    """On ½tr(XᵀHX) the Hessian is H ⊗ I in row-major order; weighted_spectral_smoothness encloses the same number."""
    H = psd(m, seed=m + n)
    gamma = normal(m, n, seed=7).abs()
    details = rotated(gamma)
    full = torch.kron(H, torch.eye(n, dtype=torch.float64))
    found = run(adapted_program(block_of(m, n), {"x": details}, norm="spectral"), against(full)).quadratic
    other = weighted_spectral_smoothness(H, gamma, details.basis[0])
    assert found.lower <= other.upper.item() * (1 + 1e-9) and other.lower.item() <= found.upper * (1 + 1e-9)
    assert found.lower == pytest.approx(other.lower.item(), rel=1e-3)


def test_left_weights_in_closed_form():
    """Γ = a1ᵀ, m ≤ n: Σ a_i² (Q_LᵀHQ_L)_ii against tr H (SPEC S2)."""
    m, n = 3, 4
    H, a = psd(m, 2), normal(m, seed=3).abs()
    details = rotated(a.unsqueeze(-1).expand(m, n).clone())
    full = torch.kron(H, torch.eye(n, dtype=torch.float64))
    adapted = run(adapted_program(block_of(m, n), {"x": details}, norm="spectral"), against(full))
    plain = run(adapted_program(block_of(m, n), {}, norm="spectral"), against(full))
    closed = (a**2 * (details.basis[0].mT @ H @ details.basis[0]).diagonal()).sum().item()
    assert adapted.quadratic.contains(closed, rtol=1e-9) and plain.quadratic.contains(H.trace().item(), rtol=1e-9)
    G = normal(m, n, seed=9)
    D = details.adapt(Spectral().steepest(G))
    result = worst_case_ratio(
        adapted, plain, progress=(G * D).sum().item(), reference_progress=Spectral().dual_norm(G).item(),
        limits=smoothness_limits(details.variance_adaptation, norm="spectral"),
    )
    truth = closed / H.trace().item() * (result.reference_progress / result.progress) ** 2
    assert result.lower * (1 - 1e-9) <= truth <= result.upper * (1 + 1e-9)


def test_gamma_below_one_can_raise_the_spectral_constant():
    """SPEC S2: Γ = [[1,1],[0,1]] and f = ½(uᵀXv)² give L_Γ/L = 4/3; the limits allow it."""
    gamma = torch.tensor([[1.0, 1.0], [0.0, 1.0]], dtype=torch.float64)
    largest = 0.0
    for angle, other in itertools.product(torch.linspace(0, 3.1416, 25).double(), repeat=2):
        u, v = torch.stack((angle.cos(), angle.sin())), torch.stack((other.cos(), other.sin()))
        # <D, H D> = (uᵀDv)², D = Γ ⊙ O: the nuclear norm of Γ ⊙ uvᵀ, squared.
        largest = max(largest, Spectral().dual_norm(gamma * torch.outer(u, v)).item() ** 2)
    assert 1.3 < largest < 4 / 3 + 1e-9
    low, high = smoothness_limits(gamma, norm="spectral")
    assert low == 0.0 and largest <= high == pytest.approx(2.0)
    assert smoothness_limits(torch.full((2, 3), 0.5, dtype=torch.float64), norm="spectral") == pytest.approx((0.25, 0.25))


def test_adapted_program_rejects_an_unknown_norm():
    with pytest.raises(ValueError, match="'nuclear'"):
        run(adapted_program(block_of(3), {}, norm="nuclear"), against(psd(3)))


def test_euclidean_weights():
    H, gamma = psd(5), normal(5, seed=1).abs()
    truth = torch.linalg.eigvalsh(gamma[:, None] * H * gamma)[-1].item()
    assert estimate(H, gamma, norm="l2").quadratic.contains(truth, rtol=1e-9)


# ---- realised ---------------------------------------------------------------------------------------------------


def realised(H, g, directions, reference=None):
    return run(realised_ratio(g, directions, g.sign() if reference is None else reference), against(H))


def test_realised_ratio_is_the_quotient_of_decreases():
    H, g = psd(6), normal(6, seed=1)
    directions = {"newton": torch.linalg.solve(H, g), "gradient": g, "sign": g.sign(), "long sign": 50 * g.sign()}
    steps = realised(H, g, directions)
    for name, d in directions.items():
        p, c = (g @ d).item(), (d @ H @ d).item()
        assert steps[name].decrease == pytest.approx(p**2 / (2 * c), rel=1e-12)
        assert steps[name].best_step == pytest.approx(p / c, rel=1e-12)
        assert steps[name].ratio == pytest.approx(steps["sign"].decrease / steps[name].decrease, rel=1e-12)
        # The model's decrease is what the quadratic really loses.
        x = -steps[name].best_step * d
        assert -(0.5 * x @ H @ x + g @ x).item() == pytest.approx(steps[name].decrease, rel=1e-9)
    assert steps["sign"].ratio == pytest.approx(1.0) == steps["long sign"].ratio
    assert min(s.ratio for s in steps.values()) == steps["newton"].ratio


def test_one_batch_of_products():
    H, g = psd(4), normal(4, seed=1)
    asked = []

    def apply(V):
        asked.append(len(V))
        return V @ H

    reference = g.sign()
    run(realised_ratio(g, {"a": g, "b": 2 * g}, {"a": reference, "b": reference}), apply)
    assert asked == [3]  # the shared reference once


@pytest.mark.parametrize(("H", "g", "d", "ratio", "decrease", "step", "word"), [
    ([1.0, 1.0], [1.0, 1.0], [-1.0, -1.0], math.inf, 0.0, 0.0, "descent"),
    ([1.0, 1.0], [1.0, -1.0], [1.0, 1.0], math.inf, 0.0, 0.0, "descent"),
    ([1.0, 1.0], [0.0, 0.0], [1.0, 1.0], math.nan, 0.0, 0.0, "vanishes"),
    ([2.0, -1.0], [1.0, 1.0], [0.0, 1.0], -4.0, math.inf, math.inf, "direction"),
    ([2.0, 0.0], [1.0, 1.0], [0.0, 1.0], 0.0, math.inf, math.inf, "direction"),
    ([1.0, -2.0], [1.0, 1.0], [1.0, 0.0], math.nan, 0.5, 1.0, "reference"),
    ([1.0, 1.0], [1.0, 1.0], [0.0, 0.0], math.inf, 0.0, 0.0, "descent"),
])
def test_degenerate_steps(H, g, d, ratio, decrease, step, word):
    g, d = (torch.tensor(v, dtype=torch.float64) for v in (g, d))
    found = realised(torch.diag(torch.tensor(H, dtype=torch.float64)), g, {"d": d})["d"]
    assert str(found.ratio) == str(ratio) and found.decrease == decrease and found.best_step == step and word in found.note
    json.dumps(found.to_dict(), allow_nan=False)


def test_tiny_gradients_do_not_underflow():
    step = RealisedStep(1e-200, 1.0, 2e-200, 3.0)
    assert step.ratio == pytest.approx(4 / 3) and step.note == ""


def test_realised_ratio_rejects_another_shape():
    with pytest.raises(ValueError, match="'bad'"):
        realised(psd(3), normal(3), {"bad": normal(4)})
    assert realised(psd(3), normal(3), {}) == {}


# ---- the plotted sums -------------------------------------------------------------------------------------------


def test_gamma_sums_bracket_the_box_constant():
    H, gamma = symmetric(5, 2), normal(5, seed=3).abs()
    sums = run(gamma_sums(block_of(5), {"x": gamma}), against(H))
    weights = gamma[:, None] * gamma
    assert sums.signed == pytest.approx((H * weights).sum().item(), rel=1e-12)
    assert sums.absolute == pytest.approx((H.abs() * weights).sum().item(), rel=1e-12)
    L = estimate(H, gamma).quadratic
    assert sums.signed <= L.upper * (1 + 1e-9) and L.lower <= sums.absolute * (1 + 1e-9)
    large = run(gamma_sums(block_of(5), {"x": gamma}, dense=4), against(H))
    assert large.absolute is None and large.signed == pytest.approx(sums.signed, rel=1e-12)


def test_gamma_sums_live_in_the_coordinates_of_gamma():
    m, n = 2, 3
    details, H = rotated(normal(m, n).abs()), symmetric(m * n, 1)
    T = torch.stack([(details.basis[0] @ e.reshape(m, n) @ details.basis[1].mT).flatten() for e in torch.eye(m * n, dtype=torch.float64)])
    turned, gamma = T @ H @ T.mT, details.variance_adaptation.flatten()
    sums = run(gamma_sums(block_of(m, n), {"x": details}), against(H))
    assert sums.signed == pytest.approx((gamma @ turned @ gamma).item(), rel=1e-9)
    assert sums.absolute == pytest.approx((gamma @ turned.abs() @ gamma).item(), rel=1e-9)


# ---- a model ----------------------------------------------------------------------------------------------------


class Quadratic(nn.Module):
    """½ Σ L_ij x_ij², a matrix and a vector parameter."""

    def __init__(self, L, l):
        super().__init__()
        self.X = nn.Parameter(normal(*L.shape, seed=1))
        self.v = nn.Parameter(normal(len(l), seed=2))
        self.L, self.l = L, l

    def forward(self, batch):
        return 0.5 * (self.L * self.X**2).sum() + 0.5 * (self.l * self.v**2).sum()


def quadratic():
    return Quadratic(normal(3, 4, seed=5).abs() + 0.1, torch.tensor([1.0, 10.0, 100.0], dtype=torch.float64))


def value(model, batch):
    return model(batch)


DATA = torch.zeros(1, 1)


def test_adapted_smoothness_of_a_block():
    model = quadratic()
    operator = CurvatureOperator(model, value, DATA)
    gamma = normal(3, seed=8).abs()
    found = adapted_smoothness(operator, "v", gamma)
    assert found.norm == "gamma-linf" and found.quadratic.contains((model.l * gamma**2).sum().item(), rtol=1e-9)
    whole = CurvatureOperator(model, value, DATA, blocks="model")
    with pytest.raises(ValueError, match="by parameter name"):
        adapted_smoothness(whole, whole.blocks[0], gamma)
    with pytest.raises(ValueError, match="no block 'w'"):
        adapted_smoothness(operator, "w", gamma)


def test_comparison_on_a_diagonal_quadratic():
    model = quadratic()
    rules = {
        "GD": gradient_descent(), "sign": sign_sgd(), "none": deva_linf(variant="none", betas=(0.0, 0.999)),
        "DeVA": deva_linf(betas=(0.0, 0.9)),
    }
    scaled = [{n: torch.full_like(p, c) for n, p in model.named_parameters()} for c in (0.1, 3.0)]
    result = compare_rules(model, value, DATA, rules, gradients=scaled)
    g = model.l * model.v.detach()
    assert result["v", "GD"].step.ratio == pytest.approx(1.0) == result["v", "sign"].step.ratio
    assert result["v", "none"].step.ratio == pytest.approx(1.0)
    row = result["v", "DeVA"]
    below = torch.sqrt((0.1 * (0.81 * 0.01 + 0.9 * 9) + 0.1 * g**2) / (1 - 0.9**3))
    gamma = g.abs() / below
    truth = (model.l * gamma**2).sum() / (g.abs() * gamma).sum() ** 2 / (model.l.sum() / g.abs().sum() ** 2)
    # Diagonal: the worst case is attained by every corner, the realised one as well.
    for found in (row.step.ratio, row.adapted.ratio, row.worst.lower, row.worst.upper, row.worst_adapted.lower):
        assert found == pytest.approx(truth.item(), rel=1e-9)
    assert row.gamma.median == pytest.approx(gamma.median().item()) and row.gamma.largest == pytest.approx(gamma.max().item())
    assert row.gamma.share_above_one == (gamma > 1).double().mean().item()
    assert row.sums.signed == pytest.approx((model.l * gamma**2).sum().item(), rel=1e-9)
    assert row.sums.signed == pytest.approx(row.sums.absolute, rel=1e-9)
    assert {r.block for r in result} == {"X", "v", "model"} and result["X", "DeVA"].worst is not None
    assert result["model", "DeVA"].worst is None and result["v", "GD"].gamma is None and result["v", "sign"].worst is None


def test_rules_are_routed_and_reset():
    model = quadratic()
    rules = {"Muon": (sign_sgd(), muon(beta1=0.0, polar="svd")), "SOAP": (adam(), soap()), "S": (deva_linf(), deva_spectral())}
    result = compare_rules(model, value, DATA, rules, gradients=3, worst_case=["S"])
    assert [result["X", n].geometry for n in rules] == ["spectral", "linf", "spectral"]
    assert all(result["v", n].geometry == "linf" for n in rules)
    assert result["model", "S"].geometry == "spectral and linf"
    # A constant gradient: Muon's direction is its reference; DeVA's Γ is 1 up to rounding on the diagonal, the only entries that act.
    assert result["X", "Muon"].step.ratio == pytest.approx(1.0) == result["model", "Muon"].step.ratio
    assert result["X", "S"].step.ratio == pytest.approx(1.0, rel=1e-6)
    assert result["v", "S"].worst.lower == pytest.approx(1.0, rel=1e-6)
    first = compare_rules(model, value, DATA, rules, gradients=0, worst_case=False)
    assert any("builds bases" in note for note in first["X", "SOAP"].notes) and first["X", "SOAP"].step.ratio == math.inf


def test_comparison_leaves_the_model_alone():
    model = nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5), nn.BatchNorm1d(3), nn.Linear(3, 2)).double()
    x, y = normal(10, 4), torch.arange(10) % 2
    nn.functional.cross_entropy(model(x), y).backward()
    gradients = gradients_of(model)
    kept = {k: v.clone() for k, v in model.state_dict().items()}
    state = torch.get_rng_state()
    compare_rules(model, nn.CrossEntropyLoss(), (x, y), {"DeVA": (deva_linf(), deva_spectral())}, gradients=[gradients], blocks="layer")
    assert torch.equal(state, torch.get_rng_state()) and all(m.training for m in model.modules())
    assert all(torch.equal(v, kept[k]) for k, v in model.state_dict().items())
    assert all(torch.equal(p.grad, gradients[n]) for n, p in model.named_parameters())


@pytest.mark.parametrize(("options", "message"), [
    ({"rules": {"a": 3}}, "'a' is 3"),
    ({"rules": {"a": muon()}}, "matrices only"),
    ({"last": "first"}, "'first'"),
    ({"gradients": -1}, "-1"),
    ({"gradients": 0, "last": "stream"}, "no gradients"),
    ({"gradients": [{}]}, "no gradient for 'X'"),
    ({"gradients": [{"X": torch.zeros(2)}]}, r"shape \(2,\) for 'X'"),
    ({"gradients": [{"X": torch.full((3, 4), math.nan), "v": torch.zeros(3)}]}, "NaN"),
    ({"worst_case": ["b"]}, "'b'"),
    ({"blocks": [Block("s", (Piece("v", (2,), (slice(0, 2),)),))]}, "slice of 'v'"),
])
def test_comparison_errors(options, message):
    options = {"rules": {"a": sign_sgd()}, **options}
    with pytest.raises(ProbeError, match=message):
        compare_rules(quadratic(), value, DATA, **options)


@pytest.mark.parametrize("name", ["mlp", "cnn", "gpt-tied"])
def test_zoo(name):
    problem = load(name, size="tiny", dtype=torch.float64, batches=2)
    stream = []
    problem.train(4, callback=lambda step, model: stream.append(gradients_of(model)))
    table = default_rules()
    rules = {name: table[name] for name in ("GD", "Muon", "SOAP", "DeVA Sinf", "DeVA Sinf none", "DeVA Sinf snr")}
    last = "full" if name == "mlp" else "stream"
    result = compare_rules(
        problem.model, problem.criterion, list(problem.batches), rules, gradients=stream, last=last, select="weight",
        worst_case=["DeVA Sinf", "DeVA Sinf none"] if name == "mlp" else False, sums=name == "mlp",
    )
    for row in result:
        assert row.step.progress > 0 or row.step.ratio == math.inf or math.isnan(row.step.ratio)
        if row.worst_adapted is not None and row.adapted.progress > 0:
            assert row.worst_adapted.smoothness[0] <= row.worst_adapted.smoothness[1]
            if row.rule.endswith("none"):
                assert row.worst_adapted.lower == row.worst_adapted.upper == pytest.approx(1.0, rel=1e-12)
                assert row.adapted.ratio == 1.0 or "reference" in row.adapted.note
    text = result.summary()
    assert "DeVA Sinf snr" in text and len(text.splitlines()) >= len(result) + 2
    json.dumps(result.to_dict(), allow_nan=False)
    with pytest.raises(KeyError, match="no row"):
        result["nothing", "GD"]


def test_float32():
    problem = load("logistic", size="tiny", dtype=torch.float32, batches=2)
    rules = {name: default_rules()[name] for name in ("Adam", "DeVA Sinf")}
    single = compare_rules(problem.model, problem.criterion, list(problem.batches), rules, gradients=6, curvature="gauss_newton")
    problem = load("logistic", size="tiny", dtype=torch.float64, batches=2)
    double = compare_rules(problem.model, problem.criterion, list(problem.batches), rules, gradients=6, curvature="gauss_newton")
    for a, b in zip(single, double, strict=True):
        assert a.step.ratio == pytest.approx(b.step.ratio, rel=1e-3)
        if a.worst is not None:
            assert (a.worst.lower, a.worst.upper) == pytest.approx((b.worst.lower, b.worst.upper), rel=1e-2)


def test_data_frame():
    pandas = pytest.importorskip("pandas")
    frame = compare_rules(quadratic(), value, DATA, {"sign": sign_sgd()}).to_dataframe()
    assert isinstance(frame, pandas.DataFrame) and set(frame["block"]) == {"X", "v", "model"}

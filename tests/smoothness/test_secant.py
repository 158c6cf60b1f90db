"""Secants along a trajectory: quadratics, (L0, L1) functions, the fit, and a recorder that leaves training alone."""

import copy
import json
import math

import matplotlib
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from deva_theory.problems.zoo import load
from deva_theory.smoothness.curvature.objective import ProbeError
from deva_theory.smoothness.estimators.operator_norms import operator_norm
from deva_theory.smoothness.estimators.programs import run
from deva_theory.smoothness.secant import SecantRecorder
from deva_theory.smoothness.secant_fit import fit_line

matplotlib.use("Agg")


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def symmetric(d, seed=0):
    A = normal(d, d, seed=seed)
    return A + A.mT


class Function(nn.Module):
    """f(X, v) of two parameters, one matrix and one vector; the data do not matter."""

    def __init__(self, f, m=2, n=3, d=2):
        super().__init__()
        self.X, self.v, self.f = nn.Parameter(normal(m, n, seed=1)), nn.Parameter(normal(d, seed=2)), f

    def forward(self, batch):
        return self.f(self.X, self.v)


class Coupled:
    """½ zᵀHz of z = (vec X, v)."""

    def __init__(self, H):
        self.H = H

    def __call__(self, X, v):
        z = torch.cat((X.reshape(-1), v))
        return 0.5 * z @ self.H @ z


DATA = torch.zeros(1, 1)


def value(model, batch):
    return model(batch)


@torch.no_grad()
def move(model, dX=None, dv=None):
    if dX is not None:
        model.X.add_(dX)
    if dv is not None:
        model.v.add_(dv)


# ---- quadratics -------------------------------------------------------------------------------------------------


def test_never_above_the_operator_norm():
    H = symmetric(8, 3)
    model = Function(Coupled(H))
    recorder = SecantRecorder(model, value, DATA, blocks="model")
    recorder.observe(0)
    for step in range(1, 8):
        move(model, normal(2, 3, seed=step), normal(2, seed=step + 50))
        recorder.observe(step)
    result = recorder.result()
    assert len(result.secants) == 3 * 7
    (block,) = recorder._operator.blocks
    upper = {
        "l2": torch.linalg.eigvalsh(H).abs().max().item(),
        **{norm: run(operator_norm(block.ball(norm), norm=norm), lambda V: V @ H).bilinear.upper for norm in ("linf", "spectral")},
    }
    for secant in result.secants:
        assert 0 < secant.value <= upper[secant.norm] * (1 + 1e-9)
        assert secant.value == pytest.approx(secant.change / secant.distance)
        assert 0 < secant.rounding < 1e-10 * secant.value
    assert not any("all blocks" in note for note in result.notes)


def test_exact_when_the_step_is_the_maximiser():
    H = torch.diag(torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 0.0, 0.0], dtype=torch.float64))
    model = Function(Coupled(H))
    recorder = SecantRecorder(model, value, DATA, blocks={"X": "X"})
    recorder.observe(0)
    move(model, torch.tensor([[1.0, -1.0, 1.0], [1.0, 1.0, -1.0]], dtype=torch.float64))
    recorder.observe(1)
    move(model, torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 2.0]], dtype=torch.float64))
    recorder.observe(2)
    result = recorder.result()
    assert result.of("X", "linf")[0].value == pytest.approx(21.0)  # sign vector: Σ L_i
    assert result.of("X", "l2")[1].value == pytest.approx(6.0)  # top eigenvector
    assert result.of("X", "spectral")[1].value == pytest.approx(6.0)  # rank one: nuclear and spectral norms agree
    assert any("fewer than 3" in note for note in result.notes) and result.fits == {}


def test_isolated_blocks_see_their_own_hessian():
    """A coupled Hessian whose diagonal block of v vanishes: the joint secant of v is large, the isolated one 0."""
    H = torch.zeros(8, 8, dtype=torch.float64)
    H[:6, 6:] = 5.0
    H += H.mT.clone()
    H[:6, :6] = torch.eye(6, dtype=torch.float64)
    for isolated in (False, True):
        model = Function(Coupled(H))
        recorder = SecantRecorder(model, value, DATA, norms="l2", isolated=isolated)
        recorder.observe(0)
        storage = {n: p.data_ptr() for n, p in model.named_parameters()}
        move(model, torch.ones(2, 3, dtype=torch.float64), torch.full((2,), 0.1, dtype=torch.float64))
        expected = copy.deepcopy(model.state_dict())
        recorder.observe(1)
        result = recorder.result()
        found = {s.block: s.value for s in result.secants}
        if isolated:
            assert found["v"] == pytest.approx(0.0, abs=1e-9) and found["X"] == pytest.approx(1.0)
        else:
            assert found["v"] > 100 and any("isolated" in note for note in result.notes)
        assert {n: p.data_ptr() for n, p in model.named_parameters()} == storage
        assert all(torch.equal(v, expected[k]) for k, v in model.state_dict().items())


def test_a_block_that_stands_still_is_skipped():
    model = Function(Coupled(symmetric(8)))
    recorder = SecantRecorder(model, value, DATA, norms=("l2",))
    recorder.observe(0)
    move(model, dv=normal(2, seed=9))
    recorder.observe(5)
    result = recorder.result()
    assert [s.block for s in result.secants] == ["v"] and any("'X' did not move between steps 0 and 5" in n for n in result.notes)


# ---- (L0, L1) functions -------------------------------------------------------------------------------------------


def trajectory(f, norms="l2", steps=25):
    """Small steps of v[0] from 0.05 to 3."""
    model = Function(lambda X, v: f(v[0]))
    with torch.no_grad():
        model.v.zero_()
    recorder = SecantRecorder(model, value, DATA, blocks={"v": "v"}, norms=norms)
    for step, x in enumerate(np.linspace(0.05, 3.0, steps)):
        with torch.no_grad():
            model.v[0] = float(x)
        recorder.observe(step)
    return recorder.result()


def test_fit_recovers_an_exponential():
    """f = exp: f'' = f', L0 = 0, L1 = 1."""
    fit = trajectory(torch.exp, norms=("l2", "linf")).fit("v", "l2")
    # The mean of the end slopes is the secant up to h²/12.
    assert fit.L0 == pytest.approx(0.0, abs=1e-2) and fit.L1 == pytest.approx(1.0, abs=5e-3) and fit.r_squared > 0.9999
    assert fit.L1_interval[0] - 1e-9 <= fit.L1 <= fit.L1_interval[1] + 1e-9
    assert fit.envelope[0] + fit.envelope[1] * 20 >= 0.99 * 20


def test_fit_recovers_a_polynomial_line():
    """f' = x + x²... with f'' = 1 + 2 f' solved by f' = (e^{2x} - 1)/2: L0 = 1, L1 = 2."""
    fit = trajectory(lambda x: (torch.exp(2 * x) / 2 - x) / 2, steps=60).fit("v", "l2")
    assert fit.L0 == pytest.approx(1.0, abs=0.1) and fit.L1 == pytest.approx(2.0, abs=0.02)


def test_cosh_lies_below_its_envelope():
    """cosh'' = cosh ≤ 1 + |sinh|: the tightest line above has L0 ≤ 1."""
    result = trajectory(torch.cosh)
    fit = result.fit("v", "l2")
    for s in result.of("v", "l2"):
        assert s.value <= (fit.envelope[0] + fit.envelope[1] * s.gradient_norm) * (1 + 1e-12)
        assert s.value <= math.cosh(3.0)
    assert 0 < fit.envelope[0] <= 1.0 + 1e-6 and 0.9 < fit.envelope[1] <= 1.1


# ---- the fit --------------------------------------------------------------------------------------------------------

pairs = st.lists(st.tuples(st.floats(0, 1e3), st.floats(0, 1e3)), min_size=2, max_size=12)


@given(pairs)
def test_envelope_is_above_and_the_fit_is_optimal(points):
    g, y = (np.array(column) for column in zip(*points, strict=True))
    fit = fit_line(g, y, resamples=0)
    assert fit.L0 >= 0 and fit.L1 >= 0 and min(fit.envelope) >= 0
    assert (y <= fit.envelope[0] + fit.envelope[1] * g + 1e-9 * max(1.0, y.max())).all()

    def loss(L0, L1):
        return ((L0 + L1 * g - y) ** 2).sum()

    best = loss(fit.L0, fit.L1)
    for L0, L1 in ((y.mean(), 0.0), (fit.L0 * 1.01, fit.L1), (fit.L0, fit.L1 * 1.01), (fit.L0 * 0.99, fit.L1), (fit.L0, fit.L1 * 0.99)):
        assert best <= loss(L0, L1) + 1e-6 * (1 + (y**2).sum())


def test_exact_line_in_any_units():
    g = np.array([1.0, 2.0, 5.0, 9.0])
    for g_unit, y_unit in ((1.0, 1.0), (1e-12, 1e9), (1e6, 1e-8)):
        fit = fit_line(g_unit * g, y_unit * (3 + 2 * g))
        assert fit.L0 == pytest.approx(3 * y_unit) and fit.L1 == pytest.approx(2 * y_unit / g_unit)
        assert fit.r_squared == pytest.approx(1.0) and fit.envelope == pytest.approx((fit.L0, fit.L1), rel=1e-6)
        assert fit.L0_interval == pytest.approx((fit.L0, fit.L0), rel=1e-6)


def test_bootstrap_covers_the_truth():
    rng = np.random.default_rng(0)
    g = rng.uniform(0, 5, 60)
    hits = 0
    for seed in range(40):
        y = 1 + 2 * g + np.random.default_rng(seed).uniform(-0.5, 0.5, len(g))
        low, high = fit_line(g, y, resamples=100, seed=seed).L1_interval
        hits += low <= 2 <= high
    assert hits >= 30  # nominally 36 of 40


def test_negative_slopes_are_cut_off():
    fit = fit_line([1.0, 2.0, 3.0], [3.0, 2.0, 1.0], resamples=0)
    assert fit.L1 == 0.0 and fit.L0 == pytest.approx(2.0) and fit.r_squared == pytest.approx(0.0, abs=1e-12)
    assert math.isnan(fit.L0_interval[0])
    assert fit_line([1.0, 2.0], [0.0, 0.0], resamples=0).r_squared == 1.0


@pytest.mark.parametrize(("g", "y", "level", "message"), [
    ([1.0], [1.0], 0.9, "two or more"),
    ([1.0, 2.0], [1.0], 0.9, "two or more"),
    ([1.0, math.nan], [1.0, 1.0], 0.9, "finite"),
    ([1.0, 2.0], [1.0, -1.0], 0.9, "negative"),
    ([1.0, 2.0], [1.0, 1.0], 1.0, "level"),
])
def test_fit_errors(g, y, level, message):
    with pytest.raises(ValueError, match=message):
        fit_line(g, y, level=level)


# ---- the recorder -------------------------------------------------------------------------------------------------------


def net():
    layers = nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5), nn.BatchNorm1d(3), nn.GELU(), nn.Linear(3, 2)).double()
    with torch.no_grad():
        for k, p in enumerate(layers.parameters()):
            p.copy_(normal(*p.shape, seed=k))
    return layers


def train(model, recorder=None, steps=4):
    torch.manual_seed(7)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
    x, y = normal(12, 4), torch.arange(12) % 2
    model.train()
    for step in range(steps):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        if recorder is not None and step == 2:
            recorder.observe(2 * step)  # between forward and backward: the live graph must survive
        loss.backward()
        optimizer.step()
        if recorder is not None:
            recorder.observe(2 * step + 1)
    return model


@pytest.mark.parametrize("isolated", [False, True])
def test_training_is_not_disturbed(isolated):
    model = net()
    recorder = SecantRecorder(
        model, nn.CrossEntropyLoss(), [(normal(6, 4, seed=k), torch.arange(6) % 2) for k in range(2)], isolated=isolated, norms=("l2",)
    )
    watched, plain = train(model, recorder), train(net())
    for (name, a), (_, b) in zip(watched.state_dict().items(), plain.state_dict().items(), strict=True):
        assert torch.equal(a, b), name
    for a, b in zip(watched.parameters(), plain.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad)
    assert all(module.training for module in watched.modules())
    result = recorder.result()
    assert result.steps == (1, 3, 4, 5, 7) and any("buffers changed" in note for note in result.notes)
    assert any("did not move between steps 3 and 4" in note for note in result.notes)


def test_random_models_are_frozen():
    """A model that draws noise in evaluation mode sees the same noise each time: no secant from noise alone."""
    model = Function(lambda X, v: (X * torch.randn(2, 3, dtype=torch.float64)).sum() + 0.5 * (v**2).sum())
    recorder = SecantRecorder(model, value, DATA, norms=("l2",))
    recorder.observe(0)
    move(model, normal(2, 3), normal(2))
    recorder.observe(1)
    assert {s.block: s.value for s in recorder.result().secants} == {"X": 0.0, "v": pytest.approx(1.0)}


def test_errors():
    model = Function(lambda X, v: (v**2).sum() + torch.log(X[0, 0]))
    with torch.no_grad():
        model.X.fill_(1.0)
    with pytest.raises(ProbeError, match="'l3'"):
        SecantRecorder(model, value, DATA, norms=("l2", "l3"))
    recorder = SecantRecorder(model, value, DATA, norms=("l2",))
    with pytest.raises(ProbeError, match="0 observation"):
        recorder.result()
    recorder.observe(0)
    with pytest.raises(ProbeError, match="needs two"):
        recorder.result()
    with pytest.raises(ProbeError, match="must increase"):
        recorder.observe(0)
    move(model, dv=torch.ones(2, dtype=torch.float64))
    recorder.observe(1)
    with torch.no_grad():
        model.X.fill_(-1.0)
    with pytest.raises(ProbeError, match=r"step 2: .*nan"):
        recorder.observe(2)
    assert len(recorder.result().secants) == 1
    with pytest.raises(KeyError, match="none"):
        recorder.result().fit("v", "l2")


@pytest.mark.parametrize("name", ["mlp", "cnn", "gpt-tied"])
def test_zoo(name):
    problem = load(name, size="tiny", dtype=torch.float64, batches=2)
    recorder = SecantRecorder(problem.model, problem.criterion, list(problem.batches), blocks="tensor", select="weight")
    recorder.observe(0)
    problem.train(5, callback=lambda step, model: recorder.observe(step))
    result = recorder.result(resamples=20)
    assert result.steps == tuple(range(6)) and len(result.losses) == 6
    assert {s.norm for s in result.secants} == {"l2", "linf", "spectral"}
    for s in result.secants:
        assert s.value > s.rounding > 0
    assert len(result.summary().splitlines()) > len(result.fits)
    json.dumps(result.to_dict(), allow_nan=False)


def test_plot_and_frame():
    result = trajectory(torch.cosh)
    axes = result.plot()
    assert axes.get_xscale() == "log" and len(axes.lines) == 2
    import matplotlib.pyplot as plt

    assert trajectory(torch.cosh).plot(axes) is axes
    plt.close("all")
    pandas = pytest.importorskip("pandas")
    assert isinstance(result.to_dataframe(), pandas.DataFrame) and len(result.to_dataframe()) == 24

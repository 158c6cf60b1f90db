"""What the presets promise: the printed formulas, scale invariance, sizes of steps, known rules as limits."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from deva_theory.linalg import polar_factor
from deva_theory.rules import PRESETS, VARIANTS, StepScale, adam, deva_linf, deva_spectral, muon, rmsprop
from tests.oracles import scalar_matrix as sm
from tests.oracles.corrected import NaiveCorrectedLinf, NaiveCorrectedSpectral
from tests.oracles.paper_spectral import NaivePaperSpectral
from tests.oracles.reference_linf import NaivePaperLinf
from tests.oracles.scalar_matrix import Replay
from tests.rules.streams import (
    diagnosed,
    directions,
    gapped,
    noisy,
    run_oracle,
    run_rule,
    shared,
    stationary,
    worst,
)

SHAPES = [(5, 3), (3, 5), (4, 4), (1, 4), (4, 1)]
WITHOUT_SIGN = [v for v in VARIANTS if v != "sign"]


def spectral(**options):
    return deva_spectral(**options)


def linf(**options):
    return deva_linf(**({"event_ndim": 2} | options))


BOTH = {"linf": linf, "spectral": spectral}


@pytest.fixture
def resolved_sign(monkeypatch):
    """Let the oracles' sign, too, take entries below √eps of the largest for zeros."""

    def sign(A):
        floor = 2.0**-26 * max(abs(a) for row in A for a in row)
        return [[(a > floor) - (a < -floor) + 0.0 for a in row] for row in A]

    monkeypatch.setattr(sm, "sign", sign)


# ---- the formulas --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options", [{}, {"nesterov": True, "betas": (0.9, 0.8), "beta3": 0.7, "refresh_every": 4}], ids=str
)
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("shape", SHAPES)
def test_paper_spectral(recorded, resolved_sign, shape, variant, options):
    grads = noisy(shape)
    ours = run_rule(spectral(preset="paper", variant=variant, **options), grads)
    oracle = NaivePaperSpectral(**oracle_options(options), variant=variant, eigh=Replay(recorded["eigh"]))
    assert worst(ours, run_oracle(oracle, grads)) < 1e-9


@pytest.mark.parametrize(
    "options", [{}, {"nesterov": True, "betas": (0.9, 0.8), "beta3": 0.7, "refresh_every": 4}], ids=str
)
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("shape", SHAPES)
def test_corrected_spectral(recorded, resolved_sign, shape, variant, options):
    grads = noisy(shape)
    rule = spectral(variant=variant, **options)
    ours = run_rule(rule, grads)
    # The first basis is eigh's with a canonical null space: the oracle takes the finished one.
    G = torch.from_numpy(grads[0])
    _, state, _ = rule.update(G, rule.init(G))
    oracle = NaiveCorrectedSpectral(
        **oracle_options(options),
        variant=variant,
        eps=1e-16,
        carry="permute",
        **(
            shared(recorded, first_qr=2)
            | {"eigh": Replay([(None, state[f"Q_{s}"].flip(-1).numpy()) for s in "LR"])}
        ),
    )
    assert worst(ours, run_oracle(oracle, grads)) < 1e-9


def oracle_options(options):
    rest = {k: v for k, v in options.items() if k != "betas"}
    beta1, beta2 = options.get("betas", (0.95, 0.95))
    return rest | {"beta1": beta1, "beta2": beta2}


@pytest.mark.parametrize("variant", WITHOUT_SIGN)
@pytest.mark.parametrize("turn", [None, 12], ids=["steady", "order of the basis changes"])
def test_corrected_spectral_with_independent_bases(variant, turn):
    grads = gapped((4, 4), turn=turn)
    oracle = NaiveCorrectedSpectral(variant=variant, eps=1e-16, carry="permute")
    assert worst(run_rule(spectral(variant=variant), grads), run_oracle(oracle, grads)) < 1e-9


@pytest.mark.parametrize(
    "options",
    [
        {"carry": "overlap"},
        {"eps": 1e-2},
        {"nesterov": True},
        {"beta3": 0.9},
        {"refresh_every": 9},
        {"variant": "instantaneous"},
        {"variant": "memory"},
    ],
    ids=str,
)
def test_twin_another_rule_is_told_apart_from_corrected(options):
    grads = gapped((4, 4), turn=12)
    oracle = NaiveCorrectedSpectral(**({"eps": 1e-16, "carry": "permute"} | options))
    assert worst(run_rule(spectral(), grads), run_oracle(oracle, grads)) > 1e-3


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.0, 0.9), (0.95, 0.5)])
@pytest.mark.parametrize(
    "preset, oracle, eps",
    [
        ("paper", NaivePaperLinf, 1e-8),
        ("paper", NaivePaperLinf, 1e-2),
        ("corrected", NaiveCorrectedLinf, 1e-16),
        ("corrected", NaiveCorrectedLinf, 1e-2),
    ],
)
def test_linf(preset, oracle, eps, betas, nesterov):
    grads = noisy((3, 4))
    ours = run_rule(linf(preset=preset, betas=betas, nesterov=nesterov, eps=eps), grads)
    assert worst(ours, run_oracle(oracle(*betas, eps=eps, nesterov=nesterov), grads)) < 1e-12
    assert worst(ours, run_oracle(oracle(*betas, eps=eps + 1e-3, nesterov=nesterov), grads)) > 1e-5


def test_linf_variants():
    """On vectors `memory` and `sign` are `full`; `none` is the sign of the momentum; `snr` is Adam."""
    grads = stationary(20, (3, 4), seeds=1)[:, 0]
    full = directions(linf(), grads)
    for variant in ("memory", "sign"):
        assert torch.equal(directions(linf(variant=variant), grads), full)
    assert torch.equal(directions(linf(variant="none"), grads), torch.sign(full))
    ours, theirs = directions(linf(variant="snr", eps=0.0), grads), directions(adam(eps=0.0), grads)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    g = linf(variant="instantaneous", eps=0.0, betas=(0.5, 0.9))
    size = directions(g, grads).abs()
    torch.testing.assert_close(
        size, directions(rmsprop(beta2=0.9, eps=0.0, bias_correction=True), grads).abs()
    )


# ---- A3: the scale of the gradients --------------------------------------------------------------


@pytest.mark.parametrize("scale", [1e-6, 1e-3, 1e3, 1e-20, 1e15, 1e-30, 1e30])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("kind", BOTH)
def test_corrected_steps_do_not_see_the_scale(kind, variant, dtype, scale):
    rule = BOTH[kind](variant=variant)
    for shape in [(4, 4), (8, 3), (3, 8)]:
        grads = stationary(35, shape, seeds=2, dtype=dtype)
        assert worst(directions(rule, grads * scale), directions(rule, grads)) < 1e-4


RELATIVE_SIZES = {  # of the last of 60 steps, against those at scale 1: 1e-3, 1e-4, 1e-5
    ("linf", "reference"): (0.067, 0.0068, 0.00068),
    ("linf", "paper"): (0.84, 0.205, 0.0214),
    ("spectral", "reference"): (0.996, 0.80, 0.17),
    ("spectral", "paper"): (1.01, 1.7, 13.0),
}


@pytest.mark.parametrize("kind, preset", RELATIVE_SIZES)
def test_reference_and_paper_steps_do(kind, preset):
    options = {"polar": "svd"} if kind == "spectral" else {}
    rule = BOTH[kind](preset=preset, **options)
    grads = torch.from_numpy(np.stack(noisy((5, 5), steps=60)))
    size = directions(rule, grads)[-20:].flatten(1).norm(dim=1).mean()
    found = [
        float(directions(rule, grads * s)[-20:].flatten(1).norm(dim=1).mean() / size)
        for s in (1e-3, 1e-4, 1e-5)
    ]
    np.testing.assert_allclose(found, RELATIVE_SIZES[kind, preset], rtol=0.3)


# ---- A1: the first steps -------------------------------------------------------------------------


def sizes(rule, grads):
    """Norm of every step, averaged over the seeds, and the norms themselves."""
    found = directions(rule, grads).flatten(2).norm(dim=2)
    return found.mean(1), found


@pytest.mark.parametrize("noise", [0.0, 0.1, 0.3, 1.0, 3.0, 10.0])
@pytest.mark.parametrize("variant", ["full", "memory", "none"])
@pytest.mark.parametrize("shape", [(4, 4), (16, 6), (16, 16)])
def test_corrected_spectral_starts_with_steps_of_the_final_size(shape, variant, noise):
    mean, runs = sizes(spectral(variant=variant), stationary(200, shape, noise=noise, seeds=24))
    assert float(mean[:100].max() / mean[120:].mean()) < 1.1
    # One run fluctuates also later: its largest early step is near its largest late one.
    assert float((runs[:100].max(0).values / runs[100:].max(0).values).max()) < 1.2


@pytest.mark.parametrize("noise", [0.0, 0.1, 1.0, 10.0])
def test_corrected_linf_starts_with_steps_of_the_final_size(noise):
    """The final size is reached after several 1/(1-β2) = 1000 steps."""
    mean, runs = sizes(linf(), stationary(4000, (12, 12), noise=noise, seeds=4))
    assert float(mean[:100].max() / mean[3000:].mean()) < 1.1
    assert float((runs[:100].max(0).values / runs[3000:].mean(0)).max()) < 1.1


@pytest.mark.parametrize("kind", BOTH)
def test_snr_starts_large_where_there_is_noise(kind):
    """Its first Γ is 1, its last the signal-to-noise ratio of the momentum: A1 is not for this variant."""
    mean, _ = sizes(BOTH[kind](variant="snr"), stationary(200, (16, 16), noise=10.0, seeds=4))
    assert float(mean[0] / mean[150:].mean()) > 3.5


@pytest.mark.parametrize("noise, expected", [(0.0, (18.6, 12.0, 8.9)), (1.0, (18.8, 11.7, 8.5))])
def test_reference_spectral_starts_too_large(noise, expected):
    """Norm over that of an exact msign step; the iteration's own factor is about .94."""
    rule = spectral(preset="reference", polar_dtype=torch.float32)
    mean, _ = sizes(rule, stationary(400, (6, 6), noise=noise, seeds=12))
    np.testing.assert_allclose(mean[1:4] / (0.2 * math.sqrt(6) * math.sqrt(6)), expected, rtol=0.08)
    assert float(mean[1] / mean[300:].mean()) > 18
    assert float(mean[30] / mean[300:].mean()) > 1.1


def test_reference_spectral_factors_in_closed_form():
    """Constant gradient, exact msign, ε = 0: √(1-β^t)/√((1-β) Σ β^{t-s} (1-β^s)²)."""
    beta, G = 0.95, torch.diag(torch.tensor([4.0, 3.0, 2.0, 1.0], dtype=torch.float64))
    rule = spectral(preset="reference", polar="svd", eps=0.0)
    found = directions(rule, [G] * 40).flatten(1).norm(dim=1) / (0.2 * math.sqrt(4) * math.sqrt(4))
    V, expected = 0.0, [0.0]
    for t in range(1, 40):
        V = beta * V + (1 - beta) * (1 - beta**t) ** 2
        expected.append(math.sqrt(1 - beta**t) / math.sqrt(V))
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(expected[1:4], [20.0, 12.811, 9.497], rtol=1e-4)


@pytest.mark.parametrize("kind, beta2", [("linf", 0.999), ("spectral", 0.95)])
def test_paper_starts_at_the_inverse_root(kind, beta2):
    G = stationary(1, (4, 4))[0]
    D = directions(BOTH[kind](preset="paper", eps=0.0), [G])[0]
    unit = torch.sign(G) if kind == "linf" else 0.2 * 2.0 * polar_factor(G)
    torch.testing.assert_close(D, unit / math.sqrt(1 - beta2), rtol=1e-9, atol=1e-9)


# ---- A2: Γ and the noise -------------------------------------------------------------------------

NOISES = (0.0, 0.3, 1.0, 3.0, 10.0)


def adaptation_and_cosine(rule, shape, noise):
    """Median Γ on the support and mean cosine with Muon's step, over steps 60 to 120."""
    grads = stationary(120, shape, noise=noise, seeds=4)
    lagged = rule.basis.lagged
    steps = diagnosed(rule, grads)[60:]
    plain = directions(muon(polar="svd", nesterov=rule.moment.nesterov), grads[1:] if lagged else grads)[60:]
    k = min(shape)
    gamma = torch.stack([d.variance_adaptation[..., :k, :k].flatten() for _, d in steps]).median()
    found = torch.stack([D for D, _ in steps])
    return float(gamma), float(torch.cosine_similarity(found.flatten(2), plain.flatten(2), dim=-1).mean())


@pytest.mark.parametrize("preset", ["reference", "corrected"])
@pytest.mark.parametrize("shape", [(12, 12), (16, 8)])
def test_full_rule_does_not_see_the_noise(preset, shape):
    rule = spectral(preset=preset, polar="svd")
    for noise in NOISES:
        gamma, cosine = adaptation_and_cosine(rule, shape, noise)
        assert 0.9 < gamma < 1.05
        assert cosine > 0.99


@pytest.mark.parametrize("preset", ["reference", "corrected"])
@pytest.mark.parametrize("shape", [(12, 12), (16, 8)])
def test_snr_does(preset, shape):
    """Γ falls with the noise; the direction stays near Muon's: a size, hardly a direction."""
    rule = spectral(preset=preset, polar="svd", variant="snr")
    found = [adaptation_and_cosine(rule, shape, noise) for noise in NOISES]
    gammas = [g for g, _ in found]
    assert gammas == sorted(gammas, reverse=True)
    assert gammas[0] == pytest.approx(1.0, abs=0.01) and gammas[2] < 0.8 and gammas[4] < 0.25
    assert all(cosine > 0.9 for _, cosine in found)


def test_paper_loses_the_momentum_at_a_refresh():
    """M' stays in the old basis: its steps are far from Muon's once there is noise."""
    gamma, cosine = adaptation_and_cosine(spectral(preset="paper"), (12, 12), 1.0)
    assert 0.9 < gamma < 1.1 and cosine < 0.7


# ---- constant gradients --------------------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("shape", [(4, 4), (5, 3), (3, 5), (1, 4), (4, 1)])
@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-6), (torch.float32, 2e-3)])
@pytest.mark.parametrize("kind", BOTH)
def test_constant_gradient_gives_gamma_one_at_every_step(kind, shape, variant, dtype, tolerance):
    """On the support of M': rows and columns of the null space hold rounding noise only."""
    G = stationary(1, shape, dtype=dtype)[0, 0]
    k, scale = min(shape), 0.2 * math.sqrt(max(shape))
    unit = torch.sign(G) if kind == "linf" else scale * polar_factor(G)
    for D, details in diagnosed(BOTH[kind](variant=variant), [G] * 25):
        gamma = details.variance_adaptation
        gamma = gamma[:k, :k] if kind == "spectral" else gamma
        torch.testing.assert_close(gamma, torch.ones_like(gamma), rtol=tolerance, atol=0)
        if variant != "sign":
            assert float((D - unit).norm()) < 5 * tolerance * float(unit.norm())


@pytest.mark.parametrize("kind", BOTH)
def test_small_entries_beside_large_ones_are_adapted_too(kind):
    """The relative ε, 1e-16 of the largest V, leaves six decades of gradients alone."""
    G = torch.diag(torch.tensor([1.0, 1e-3, 1e-6], dtype=torch.float64))
    for _, details in diagnosed(BOTH[kind](), [G] * 12):
        gamma = torch.diagonal(details.variance_adaptation)
        torch.testing.assert_close(gamma, torch.ones_like(gamma), rtol=1e-6, atol=0)
    coarse = diagnosed(BOTH[kind](eps=1e-6), [G] * 12)[-1][1].variance_adaptation
    assert float(torch.diagonal(coarse).min()) < 0.01


@pytest.mark.parametrize("preset", ["paper", "reference"])
@pytest.mark.parametrize("kind", BOTH)
def test_twin_the_other_presets_do_not(kind, preset):
    steps = diagnosed(BOTH[kind](preset=preset), [stationary(1, (4, 4))[0, 0]] * 5)
    assert all(float(d.variance_adaptation.median()) > 1.5 for _, d in steps)


# ---- known rules as limits -----------------------------------------------------------------------


@pytest.mark.parametrize("preset", ["paper", "reference"])
@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-12), (torch.float32, 1e-6)])
def test_linf_without_momentum_is_rmsprop(preset, dtype, tolerance):  # D5
    grads = stationary(30, (3, 4), dtype=dtype)[:, 0]
    options = {"preset": preset, "betas": (0.0, 0.9)}
    inside = rmsprop(beta2=0.9, eps=1e-5 if preset == "reference" else 1e-8, eps_mode="inside")
    assert worst(directions(linf(**options), grads), directions(inside, grads)) < tolerance
    p = torch.zeros(3, 4, dtype=dtype, requires_grad=True)
    optimizer = torch.optim.RMSprop([p], lr=1.0, alpha=0.9, eps=0.0)
    theirs = []
    for G in grads:
        with torch.no_grad():
            p.zero_()
        p.grad = G.clone()
        optimizer.step()
        theirs.append(-p.detach().clone())
    assert worst(directions(linf(**options, eps=0.0), grads), theirs) < 1e-6
    assert worst(directions(linf(preset=preset, betas=(0.1, 0.9), eps=0.0), grads), theirs) > 1e-2


@pytest.mark.parametrize("refresh", ["qr", "eigh", "rotation"])
@pytest.mark.parametrize("refresh_every", [1, 4])
@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("shape", [(5, 3), (3, 5), (4, 4)])
def test_spectral_without_adaptation_is_muon(shape, nesterov, refresh_every, refresh):
    grads = stationary(25, shape)[:, 0]
    options = {"variant": "none", "betas": (0.9, 0.9), "refresh_every": refresh_every, "nesterov": nesterov}
    theirs = directions(muon(beta1=0.9, nesterov=nesterov, polar="svd", coefficient=0.2), grads)
    assert worst(directions(spectral(**options, refresh=refresh), grads), theirs) < 1e-6
    # Twins: M' is not carried; the other Nesterov setting.
    assert worst(directions(spectral(preset="paper", **options), grads), theirs) > 1e-2
    assert worst(directions(spectral(**(options | {"nesterov": not nesterov})), grads), theirs) > 1e-2


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("shape", [(5, 3), (3, 5)])
def test_reference_without_adaptation_is_muon_up_to_its_bias_factor(shape, nesterov):
    grads = stationary(26, shape)[:, 0]
    rule = spectral(preset="reference", variant="none", polar="svd", nesterov=nesterov, refresh_every=4)
    bias = [math.sqrt(1 - 0.95**t) / (1 - 0.95**t) for t in range(1, 26)]
    theirs = directions(muon(nesterov=nesterov, polar="svd", coefficient=0.2), grads[1:])
    assert worst(directions(rule, grads)[1:], theirs * torch.tensor(bias)[:, None, None]) < 1e-6


@pytest.mark.parametrize("variant", WITHOUT_SIGN)
def test_spectral_on_diagonal_matrices_is_linf(variant):  # M7
    g = stationary(25, (5,), noise=2.0)[:, 0]
    betas = (0.9, 0.99)
    matrices = replace(
        deva_spectral(variant=variant, betas=betas, eps=0.0, refresh_every=4), step_scale=StepScale()
    )
    vectors = torch.diag_embed(directions(deva_linf(variant=variant, betas=betas, eps=0.0), g))
    assert worst(directions(matrices, torch.diag_embed(g)), vectors) < 1e-9
    other = torch.diag_embed(directions(deva_linf(variant=variant, betas=(0.8, 0.9), eps=0.0), g))
    assert worst(directions(matrices, torch.diag_embed(g)), other) > 1e-2


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("kind", BOTH)
def test_default_hyper_parameters(kind, preset):
    rule = BOTH[kind](preset=preset)
    assert (rule.moment.beta, rule.adaptation.beta) == ((0.9, 0.999) if kind == "linf" else (0.95, 0.95))
    assert rule.moment.nesterov == (kind == "spectral" and preset == "reference")
    assert rule.decay == ("after" if kind == "spectral" and preset == "reference" else "before")
    if kind == "spectral":
        assert rule.basis.beta == 0.95 and rule.basis.refresh_every == 10


@pytest.mark.parametrize("shape, rank", [((64, 64), 4), ((20, 20), 1), ((32, 16), 1), ((64, 32), 4), ((3, 12), 1)])
def test_corrected_does_not_see_the_scale_of_low_rank_gradients(shape, rank):
    """Past several refreshes: L has fewer directions than rows for a long time."""
    generator = torch.Generator().manual_seed(1)
    m, n = shape

    def normal(*size):
        return torch.randn(size, generator=generator, dtype=torch.float64)

    grads = [normal(m, rank) @ normal(rank, n) for _ in range(45)]
    rule = deva_spectral()
    runs = []
    for scale in (1.0, 3.0):
        state, out = rule.init(grads[0]), []
        for G in grads:
            D, state, _ = rule.update(G * scale, state)
            out.append(D)
        runs.append(torch.stack(out))
    assert float((runs[0] - runs[1]).norm(dim=(1, 2)).max() / runs[0].norm(dim=(1, 2)).max()) < 1e-9


def test_a_spike_is_forgotten():
    torch.manual_seed(0)
    D = torch.tensor([1.0, 0.3, 0.1, 0.03])[:, None]
    rule = deva_spectral(betas=(0.5, 0.5))
    state = rule.init(torch.zeros(4, 4))
    for t in range(800):
        _, state, _ = rule.update(torch.randn(4, 4) * 1e25 if t == 0 else D * torch.randn(4, 4), state)
    assert 1e-3 < float(state["L"].max()) < 10
    C = state["Q_L"].T @ torch.diag(D[:, 0] ** 2) @ state["Q_L"]
    assert float((C - torch.diag(C.diag())).norm() / C.norm()) < 0.4


def test_a_gradient_that_overflows_inside_changes_nothing():
    rule = deva_spectral()
    state = rule.init(torch.zeros(64, 64))
    before = {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in state.items()}
    with pytest.raises(ValueError, match="overflow"):
        rule.update(torch.full((64, 64), 1e37), state)
    assert all(torch.equal(v, before[k]) if isinstance(v, torch.Tensor) else v == before[k] for k, v in state.items())


@pytest.mark.parametrize("variant", ["full", "memory", "snr"])
def test_squared_overlaps_carry_v(variant):
    grads = gapped((4, 4), turn=12)
    rule = spectral(variant=variant)
    rule = replace(rule, basis=replace(rule.basis, carry_adaptation="overlap"))
    # Squared overlaps of V itself; for `memory` of the mean squares of row and column norms.
    exponent = 2.0 if variant == "memory" else 1.0
    oracle = NaiveCorrectedSpectral(variant=variant, eps=1e-16, carry="overlap", carry_exponent=exponent)
    assert worst(run_rule(rule, grads), run_oracle(oracle, grads)) < 1e-9
    assert worst(run_rule(spectral(variant=variant), grads), run_oracle(
        NaiveCorrectedSpectral(variant=variant, eps=1e-16, carry="overlap", carry_exponent=exponent), grads)) > 1e-6

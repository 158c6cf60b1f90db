"""How close the S∞ rule is to Muon: A2, what Γ sees of the noise, and what a refresh of the bases carries over."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from deva_theory.certify import Case, at_most, equal
from deva_theory.claims.model import Evidence, Run, Verdict
from deva_theory.problems import TraceQuadratic
from deva_theory.rules import PRESETS, Rule, deva_linf, deva_spectral, muon
from experiments._trace_quadratic_runs import HESSIANS, Config, Instances, schedule
from experiments._trace_quadratic_summary import win_fraction
from paper_checks.entrywise_formula import SHAPES, Subject, conformity, spectral_run
from paper_checks.gradient_streams import directions, networks, stationary
from paper_checks.verdicts import proved, refutation

_NOISES = (0.0, 0.3, 1.0, 3.0, 10.0)


@lru_cache
def beside_muon(preset: str, variant: str, shape: tuple[int, int], run: Run) -> tuple[list[float], list[float]]:
    """Return, for each noise level, the median Γ on the support and the mean cosine with Muon's step, past the first steps."""
    steps, seeds = run.count(160, 300), run.count(4, 8)
    rule = deva_spectral(preset=preset, variant=variant, polar=None if preset == "paper" else "svd")
    gradients = stationary(run, 11, shape, steps=steps, noise=_NOISES, seeds=seeds)
    return _beside_muon(rule, gradients, 100)


def _beside_muon(rule: Rule, gradients: Tensor, start: int) -> tuple[list[float], list[float]]:
    """Return median Γ and mean cosine for each entry of the first batch dimension, from step `start` on."""
    plain = muon(beta1=rule.moment.beta, nesterov=rule.moment.nesterov, polar="svd")
    state, other, k = rule.init(gradients[0]), plain.init(gradients[0]), min(gradients.shape[-2:])
    gammas, cosines = [], []
    for t, G in enumerate(gradients):
        builds = rule.only_builds(state)
        D, state, details = rule.update(G, state, diagnostics=t >= start)
        if builds:
            continue
        P, other, _ = plain.update(G, other)
        if details is not None:
            gammas.append(details.variance_adaptation[..., :k, :k].flatten(1))
            cosines.append(torch.cosine_similarity(D.flatten(-2), P.flatten(-2), dim=-1).flatten(1))
    return torch.cat(gammas, dim=1).median(dim=1).values.tolist(), torch.cat(cosines, dim=1).mean(dim=1).tolist()


def _shapes(run: Run) -> tuple[tuple[int, int], ...]:
    return ((12, 12), (16, 8), (8, 16), (24, 24))[: run.count(2, 4)]


def _same_stream(run: Run) -> Run:
    """Return the run as `beside_muon` is called with: a control changes the rule, not the stream."""
    return replace(run, twin=False)


_STATIONARY = "stationary streams, sides 8 to 24, steps 100 on"


def _by_noise(found: Mapping[tuple[int, int], Sequence[float]]) -> dict[str, float]:
    return {f"{m}x{n}, noise {z:g}": x for (m, n), row in found.items() for z, x in zip(_NOISES, row, strict=True)}


def constant_direction(run: Run) -> Evidence:
    """A2-constant: on a constant gradient Γ is the same in every entry, so the step is parallel to Muon's; the control adds ε."""
    eps = " + e" if run.twin else ""
    case = Case(
        "entries with amplitude² p and q", positive=("p", "q", "w", "v", "e"),
        steps=[equal(f"(w*p)/(v*p{eps})", f"(w*q)/(v*q{eps})")],
    )
    return proved([case], "Γ_ij² = w/v with weights of the two averages only", covers="constant gradient, ε = 0, msign(M') of full support")


def window(run: Run) -> Evidence:
    """A2-window: amplitudes² within [lo, hi] give Γ² within [lo/hi, hi/lo]; the control claims Γ ≤ 1."""
    mean = Case(
        "the mean stays in the range", nonnegative=("b", "a", "x", "y"), positive=("lo",), definitions={"a": "1 - b"},
        steps=[
            at_most("lo", "b*(lo + x) + a*(lo + y)", because="b*x + a*y"),
            at_most("b*(lo - x) + a*(lo - y)", "lo", because="b*x + a*y"),
        ],
    )
    most = "1" if run.twin else "hi/lo"
    ratio = Case(
        "now and mean within [lo, hi]", positive=("lo", "hi", "now", "mean"), nonnegative=("s", "p", "t", "r"),
        definitions={"now": "lo + s", "mean": "lo + p", "t": "hi - now", "r": "hi - mean"},
        steps=[
            at_most("lo/hi", "now/mean", because="(s*hi + lo*r)/(mean*hi)"),
            at_most("now/mean", most, because="(hi*p + lo*t)/(lo*mean)"),
        ],
    )
    return proved([mean, ratio], "Γ² = now/mean lies within [lo/hi, hi/lo]", covers="bias-corrected averages, ε = 0, entry by entry")


def gamma_near_one(run: Run) -> Evidence:
    """A2-gamma: the reference's median Γ is within 5% of 1 at every noise level; the control takes `snr`."""
    found = {s: beside_muon("reference", "snr" if run.twin else "full", s, _same_stream(run))[0] for s in _shapes(run)}
    values = [x for row in found.values() for x in row]
    off = max(abs(x - 1.0) for x in values)
    return Evidence(
        Verdict.SUPPORTED if off <= 0.05 else Verdict.REFUTED, "statistics",
        f"median Γ {min(values):.3f} to {max(values):.3f} over noise/signal 0 to 10", covers=_STATIONARY, numbers=_by_noise(found),
        margin=0.05 - off, budget={"streams": len(values) * run.count(4, 8)}, seed=run.seed,
    )


def near_muon(run: Run) -> Evidence:
    """A2-muon: the reference's steps have mean cosine ≥ .99 with Muon's at every noise level; the control takes the printed rule."""
    found = {s: beside_muon("paper" if run.twin else "reference", "full", s, _same_stream(run))[1] for s in _shapes(run)}
    values = [x for row in found.values() for x in row]
    return Evidence(
        Verdict.SUPPORTED if min(values) >= 0.99 else Verdict.REFUTED, "statistics",
        f"mean cosine {min(values):.4f} to {max(values):.4f} over noise/signal 0 to 10", covers=_STATIONARY, numbers=_by_noise(found),
        margin=min(values) - 0.99, budget={"streams": len(values) * run.count(4, 8)}, seed=run.seed,
    )


def near_muon_on_network(run: Run) -> Evidence:
    """A2-network: on a network's gradients median Γ is within .1 of 1 and the mean cosine ≥ .95; the control takes the printed rule."""
    rule = deva_spectral(preset="paper") if run.twin else deva_spectral(preset="reference", polar="svd")
    gammas, cosines = [], []
    for gradients in networks(run, run.count(1, 4)):
        gamma, cosine = _beside_muon(rule, gradients[:, None, None], run.count(100, 150))
        gammas += gamma
        cosines += cosine
    off, least = max(abs(x - 1.0) for x in gammas), min(cosines)
    return Evidence(
        Verdict.SUPPORTED if off <= 0.1 and least >= 0.95 else Verdict.REFUTED, "statistics",
        f"median Γ {min(gammas):.3f} to {max(gammas):.3f}, mean cosine {least:.4f} to {max(cosines):.4f}, {len(gammas)} layers and runs",
        covers="a character-level network, batches of 4 to 256", numbers={"gamma off": off, "least cosine": least},
        margin=min(0.1 - off, least - 0.95), budget={"layers": len(gammas)}, seed=run.seed,
    )


def muon_distance(
    gradients: Sequence[Sequence[Sequence[float]]], betas: Sequence[float], preset: str, carry_momentum: bool, cosine: float
) -> float:
    """Return `cosine` minus the cosine of the S∞ rule's last step with Muon's (ε = 0, bases refreshed at every step)."""
    history = torch.tensor(gradients, dtype=torch.float64)
    rule = deva_spectral(preset=preset, betas=(betas[0], betas[1]), eps=0.0, refresh_every=1)
    assert rule.basis is not None
    rule = replace(rule, basis=replace(rule.basis, carry_momentum=carry_momentum))
    plain = muon(beta1=betas[0], nesterov=False, polar="svd")
    ours, theirs = (directions(r, history)[-1].flatten() for r in (rule, plain))
    return cosine - float(torch.cosine_similarity(ours, theirs, dim=0))


def always_near_muon(run: Run) -> Evidence:
    """A2-always: the S∞ rule is within cosine .95 of Muon on every stream; the control's stream keeps its second direction alive."""
    data = {
        "gradients": [[[2, 0], [0, 1]], [[2, 0], [0, 0]], [[2, 0], [0, 0]], [[2, 0], [0, 0]]], "betas": [0.5, 0.5], "preset": "corrected",
        "carry_momentum": True, "cosine": 0.95,
    }
    return refutation(
        run, "a2-dying-direction",
        "The S∞ rule is almost Muon (cosine ≥ .95) on every stream. False where the gradient of a direction dies out: Muon goes on with "
        "full steps along what is left of the momentum, Γ falls with it; violation: .95 minus the cosine.",
        muon_distance, data, margin=0.05, repair={"gradients": [[[2, 0], [0, 1]]] * 4}, summary="cosine {:.4f} below .95",
    )


def printed_near_muon(run: Run) -> Evidence:
    """A2-paper: the printed rule is almost Muon, too; the control carries M' into the refreshed bases."""
    gradients = [[[10, 0], [0, 9]], [[0, 3], [5, 0]]]
    data = {"gradients": gradients, "betas": [0.5, 0.5], "preset": "paper", "carry_momentum": False, "cosine": 0.95}
    measured = beside_muon("paper", "full", (12, 12), _same_stream(run))[1]
    listing = ", ".join(f"{c:.2f}" for c in measured)
    return refutation(
        run, "a2-printed-rule-loses-the-momentum",
        "The S∞ rule as printed is almost Muon (cosine ≥ .95). False where the bases turn: M' keeps its old coordinates, so that the "
        "momentum turns with the bases, here the left one by a right angle; violation: .95 minus the cosine.",
        muon_distance, data, margin=0.5, repair={"carry_momentum": True},
        summary=f"cosine {{:.3f}} below .95; mean over 12×12 streams at noise/signal 0, .3, 1, 3, 10: {listing}",
    )


def snr_sees_noise(run: Run) -> Evidence:
    """A2-snr: with `snr` the median Γ falls from 1 to below .25 as noise/signal grows from 0 to 10; the control takes the full rule."""
    found = {s: beside_muon("reference", "full" if run.twin else "snr", s, _same_stream(run)) for s in _shapes(run)}
    ok = all(g == sorted(g, reverse=True) and abs(g[0] - 1.0) < 0.01 and g[-1] < 0.25 for g, _ in found.values())
    gammas, least = next(iter(found.values()))[0], min(c for _, row in found.values() for c in row)
    return Evidence(
        Verdict.SUPPORTED if ok else Verdict.REFUTED, "statistics",
        f"median Γ {', '.join(f'{x:.2f}' for x in gammas)}; mean cosine with Muon from {least:.3f}", covers=_STATIONARY,
        numbers=_by_noise({s: g for s, (g, _) in found.items()}), margin=0.25 - max(g[-1] for g, _ in found.values()),
        budget={"streams": len(found) * len(_NOISES) * run.count(4, 8)}, seed=run.seed,
    )


def snr_without_momentum(run: Run) -> Evidence:
    """A2-snr-e1: at β1 = 0, E1's setting, `snr` is the full rule to the last bit; the control has β1 = ½."""
    betas, different, count = (0.5 if run.twin else 0.0, 0.9), 0, 0
    for i, (preset, shape) in enumerate(itertools.product(PRESETS, ((4, 4), (5, 3), (3, 5), (6, 1)))):
        gradients = stationary(run, 40 + i, shape, steps=run.count(15, 40), seeds=2)
        for build in (deva_spectral, deva_linf):
            a, b = (directions(build(preset=preset, variant=v, betas=betas), gradients) for v in ("full", "snr"))
            different += not torch.equal(a, b)
            count += 1
    return Evidence(
        Verdict.SUPPORTED if different == 0 else Verdict.REFUTED, "equality to the last bit", f"{different} of {count} runs differ",
        numbers={"different": different}, budget={"runs": count}, seed=run.seed,
    )


@lru_cache
def _tuned_on_e1(variant: str, seeds: int, lrs: tuple[float, ...], constant: bool) -> np.ndarray:
    """Return the final losses of odd seeds in E1 (β1 = .9) at the learning rate that is best on the even ones, ``(hessian, seed)``."""
    config = Config(beta1=0.9)
    instances = Instances.draw(config, seeds).repeated(len(lrs))
    rule = deva_spectral(variant=variant, betas=(0.9, 0.99), polar="newton_schulz", polar_dtype=torch.float32)
    lr = torch.tensor(lrs).repeat_interleave(2 * seeds)[:, None, None]
    factors = np.ones(config.steps) if constant else schedule(config)
    X, state = instances.X0, rule.init(instances.X0)
    for step in range(config.steps):
        gradient = TraceQuadratic.row_gradient(instances.A, X, instances.rows[step], squared=False)
        direction, state, _ = rule.update(gradient, state, check_finite=False)
        X = X - lr * factors[step] * direction
    values = TraceQuadratic(instances.H.double()).value(X.double()).reshape(len(lrs), len(HESSIANS), seeds).numpy()
    best = np.median(values[:, :, ::2], axis=2).argmin(axis=0)
    return np.stack([values[best[h], h, 1::2] for h in range(len(HESSIANS))])


def snr_helps(run: Run) -> Evidence:
    """A2-snr-helps: at a constant, tuned learning rate `snr` ends below the full rule on both Hessians; the control exchanges them."""
    seeds, lrs = run.count(20, 80), (0.0316, 0.1, 0.316)
    a, b = ("full", "snr") if run.twin else ("snr", "full")
    ours, theirs = (_tuned_on_e1(v, seeds, lrs, True) for v in (a, b))
    wins = [win_fraction(ours[h], theirs[h]) for h in range(len(HESSIANS))]
    worst = min(low for _, low, _ in wins)
    text = "; ".join(
        f"{name}: {share:.0%} of the seeds, medians {np.median(ours[h]):.3g} and {np.median(theirs[h]):.3g}"
        for h, (name, (share, _, _)) in enumerate(zip(HESSIANS, wins, strict=True))
    )
    if run.full:
        decayed = [_tuned_on_e1(v, seeds, lrs, False) for v in (a, b)]
        shares = [win_fraction(x, y) for x, y in zip(*decayed, strict=True)]
        text += "; with E1's decaying schedule: " + ", ".join(f"{share:.0%} (interval from {low:.2f})" for share, low, _ in shares)
    return Evidence(
        Verdict.SUPPORTED if worst > 0.5 else Verdict.REFUTED, "paired Wilson intervals", f"{a} below {b}: {text}",
        covers="E1 with β1 = .9 and a constant learning rate chosen on even seeds", numbers={"interval from": worst}, margin=worst - 0.5,
        budget={"seeds": seeds // 2, "runs": 4 * seeds * len(lrs)},
    )


def refresh_carries(run: Run) -> Evidence:
    """A2-refresh-code: a refresh carries M' exactly and V with its columns; the control's rules leave both as they are.

    M': without adaptation the rule is Muon, here an EMA and NumPy's SVD. V: diagonal gradients whose order turns.
    """
    rng = run.rng(5)

    def subjects() -> Iterator[Subject]:
        for preset, shape, refresh in itertools.product(("corrected", "reference"), ((4, 4), (5, 3), (3, 5)), ("qr", "eigh", "rotation")):
            rule = deva_spectral(preset=preset, variant="none", polar="svd", refresh=refresh, refresh_every=3, betas=(0.9, 0.8))
            if run.twin and rule.basis is not None:
                rule = replace(rule, basis=replace(rule.basis, carry_momentum=False))
            gradients = rng.standard_normal((run.count(10, 30), *shape))
            gap, m, t = 0.0, np.zeros(shape), 0
            found = directions(rule, torch.from_numpy(gradients)).numpy()
            for i, G in enumerate(gradients):
                if preset == "reference" and i == 0:
                    continue
                t += 1
                m = 0.9 * m + 0.1 * G
                U, _, Vt = np.linalg.svd(0.1 * G + 0.9 * m if preset == "reference" else m, full_matrices=False)
                bias = math.sqrt(1 - 0.8**t) / (1 - 0.9**t) if preset == "reference" else 1.0
                expected = bias * 0.2 * math.sqrt(max(shape)) * U @ Vt
                gap = max(gap, float(np.linalg.norm(found[i] - expected) / np.linalg.norm(expected)))
            yield f"none {preset} {shape} {refresh}", gap
        sizes = np.array([8.0, 4.0, 2.0, 1.0])
        turning = np.stack([(sizes if t < 6 else sizes[::-1]) * (1 + 0.1 * rng.standard_normal(4)) for t in range(run.count(16, 45))])
        for preset, variant, shape in itertools.product(("corrected", "reference"), ("full", "memory", "instantaneous", "snr"), SHAPES):
            if (preset, variant) == ("reference", "memory"):
                continue  # its literal sign turns an entry of 5e-16 beside the diagonal into ±1
            carry = "none" if run.twin else None
            yield spectral_run(turning, shape, preset, variant, (0.9, 0.8), carry=carry, refresh_every=4)

    return conformity(subjects(), "after refreshes", run.seed)

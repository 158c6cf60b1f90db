"""Whether the library computes D1 to D6 and the ℓ∞ rule of section 3: γ, sign and step against `Formula` and closed forms."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import mpmath
import numpy as np
import torch
from torch import Tensor

from deva_theory.claims.model import Evidence, Run, Verdict
from deva_theory.decomposition import decompose
from deva_theory.rules import Rule, adagrad, adam, deva_linf, rmsprop
from paper_checks.vector_formula import BITS, ROUNDING, Case, Formula, conformity, histories, number


def adagrad_split(run: Run) -> Evidence:
    """D1-code: `decompose("adagrad")` and the rule against ``|g|/√Σg²``; the control leaves the present square out."""

    def cases() -> Iterator[Case]:
        for h in histories(run, 1, run.count(20, 300)):
            yield "decompose", h, decompose(h, kind="adagrad"), Formula()
            yield "decompose, NumPy", h, decompose(h.numpy(), kind="adagrad"), Formula()
            if h.ndim > 1:
                yield "rule", h, decompose(h, kind=adagrad(eps=0.0)), Formula()
                yield "rule, eps", h, decompose(h, kind=adagrad(eps=0.01)), Formula(eps=0.01, mode="outside")

    return conformity(run, cases(), lambda f: replace(f, lagged=True), "AdaGrad's split")


def scale_invariance(run: Run) -> Evidence:
    """D2-code: no bit of γ and sign changes under powers of two per coordinate; the control changes them from step to step."""
    rng = run.rng(2)
    betas = ((0.0, 0.9), (0.9, 0.99), (0.9, 0.999), (0.95, 0.95))
    changed = compared = 0
    for i, h in enumerate(histories(run, 3, run.count(40, 400))):
        b = betas[i % len(betas)]
        subjects: list[tuple[str | Rule, dict[str, Any]]] = [
            ("adagrad", {}),
            ("rmsprop", {"beta2": b[1]}),
            ("rmsprop", {"beta2": b[1], "bias_correction": True}),
            ("adam", {"betas": b}),
            ("adam", {"betas": b, "bias_correction": False}),
        ]
        if h.ndim > 1:
            subjects += [("deva_linf", {"preset": p, "betas": b, "eps": 0.0}) for p in ("paper", "reference", "corrected")]
        D = torch.as_tensor(np.exp2(rng.integers(-25, 26, h.shape[1:])), dtype=h.dtype)
        growth = 2.0 ** torch.arange(len(h), dtype=h.dtype).reshape(-1, *(1,) * (h.ndim - 1)) if run.twin else 1.0
        for kind, options in subjects:
            a, b_ = decompose(h, kind=kind, **options), decompose(h * D * growth, kind=kind, **options)
            same = torch.equal(a.variance_adaptation, b_.variance_adaptation) and torch.equal(a.scale_invariant, b_.scale_invariant)
            changed += not same
            compared += 1
    # ε of `corrected` is relative to the event: one factor for all coordinates changes nothing there either.
    h = next(histories(run, 4, 2)).new_tensor(rng.standard_normal((6, 5)))
    relative = [decompose(h * c, kind="deva_linf", eps=1e-2).update for c in (1.0, 2.0**-60, 2.0**60)]
    changed += not all(torch.equal(relative[0], x) for x in relative)
    return Evidence(
        Verdict.SUPPORTED if changed == 0 else Verdict.REFUTED,
        "equality to the last bit",
        f"γ or sign changed in {changed} of {compared + 1} comparisons",
        numbers={"changed": changed},
        budget={"comparisons": compared + 1},
        seed=run.seed,
    )


def ranges(run: Run) -> Evidence:
    """D3-code: γ of the library attains the bounds on a zero past, stays below otherwise, and ε only lowers it.

    The control exchanges the bounds with and without bias correction.
    """
    attained = above = 0.0
    count = 0

    def subjects(beta2: float) -> Iterator[tuple[str, dict[str, Any], bool]]:
        for correct in (False, True):
            yield "rmsprop", {"beta2": beta2, "bias_correction": correct}, correct
        for preset in ("paper", "reference", "corrected"):
            for beta1 in (0.0, 0.9):
                yield "deva_linf", {"preset": preset, "betas": (beta1, beta2), "eps": 0.0}, preset == "corrected"

    def bound(beta2: float, t: int, correct: bool) -> float:
        with mpmath.workprec(200):
            full = 1 - mpmath.mpf(beta2) ** t if correct != run.twin else mpmath.mpf(1)
            return float(mpmath.sqrt(full / (1 - mpmath.mpf(beta2))))

    samples = list(histories(run, 5, run.count(6, 60)))
    for beta2, past in itertools.product((0.0, 0.5, 0.9, 0.999), (0, 1, 7)):
        for dtype in (torch.float64, torch.float32):
            h = torch.zeros(past + 1, 3, dtype=dtype)
            h[-1] = torch.tensor([1.0, -3e-10, 2e10])
            for kind, options, correct in subjects(beta2):
                gamma = decompose(h, kind=kind, **options).variance_adaptation[-1].double() / bound(beta2, past + 1, correct)
                attained = max(attained, float((gamma - 1.0).abs().max()) / ROUNDING[dtype])
                count += 1
    for h, beta2 in itertools.product(samples, (0.5, 0.999)):
        for kind, options, correct in subjects(beta2):
            if kind == "deva_linf" and h.ndim == 1:
                continue
            gamma = decompose(h, kind=kind, **options).variance_adaptation.double()
            for t, row in enumerate(gamma, start=1):
                above = max(above, (float(row.max()) / bound(beta2, t, correct) - 1.0) / ROUNDING[h.dtype])
            count += 1
    raised = 0
    for h in samples:
        if h.ndim == 1:
            continue
        for make in (
            lambda e: rmsprop(beta2=0.9, eps=e),
            lambda e: rmsprop(beta2=0.9, eps=e, eps_mode="inside"),
            lambda e: rmsprop(beta2=0.9, eps=e, eps_mode="relative"),
            lambda e: deva_linf(preset="paper", betas=(0.9, 0.99), eps=e),
            lambda e: deva_linf(betas=(0.9, 0.99), eps=e),
            lambda e: adam(betas=(0.9, 0.99), eps=e),
            lambda e: adagrad(eps=e),
        ):
            plain, lowered = (decompose(h, kind=make(e)).variance_adaptation.double() for e in (0.0, 1e-2))
            raised += bool((lowered > plain * (1 + 2 * ROUNDING[h.dtype])).any())
            count += 1
    holds = attained <= 8.0 and above <= 8.0 and raised == 0
    return Evidence(
        Verdict.SUPPORTED if holds else Verdict.REFUTED,
        "closed forms",
        f"bounds attained to {attained:.3g} roundings, exceeded by {above:.3g}, raised by ε {raised} times, {count} histories",
        numbers={"attained to, roundings": attained, "exceeded by, roundings": above, "raised by eps": raised},
        margin=8.0 - max(attained, above),
        budget={"histories": count},
        seed=run.seed,
    )


BETAS = ((0.9, 0.999), (0.9, 0.99), (0.5, 0.25), (0.95, 0.95), (0.0, 0.9), (0.99, 0.9))


def textbook_adam(run: Run) -> Evidence:
    """D4-code: `decompose("adam")` and the rule against ``|m̂|/√v̂``; the control exchanges β1 and β2."""

    def cases() -> Iterator[Case]:
        for i, h in enumerate(histories(run, 6, run.count(18, 240))):
            b = BETAS[i % len(BETAS)]
            for correct in (True, False):
                formula = Formula(*b, correct=correct)
                yield f"decompose {b} {correct}", h, decompose(h, kind="adam", betas=b, bias_correction=correct), formula
                if h.ndim > 1:
                    for eps in (0.0, 1e-2):
                        split = decompose(h, kind=adam(betas=b, eps=eps, bias_correction=correct))
                        yield f"rule {b} {correct} eps {eps}", h, split, replace(formula, eps=eps, mode="outside")
            if i < 4:
                yield "defaults", h, decompose(h, kind="adam"), Formula(0.9, 0.999, correct=True)
        for b, t in itertools.product(BETAS[:3], (2, 12, run.count(24, 60))):  # where Cauchy-Schwarz is an equality
            h = torch.tensor([(b[0] / b[1]) ** (t - s) for s in range(1, t + 1)], dtype=torch.float64)
            yield f"maximiser {b} {t}", h, decompose(h, kind="adam", betas=b), Formula(b[0], b[1], correct=True)

    def exchanged(f: Formula) -> Formula:
        assert f.beta2 is not None
        return replace(f, beta1=f.beta2, beta2=f.beta1)

    return conformity(run, cases(), exchanged, "textbook Adam")


def torch_rmsprop(history: Tensor, beta2: float, eps: float) -> Tensor:
    """Return the steps of `torch.optim.RMSprop` at learning rate 1, whose ε stands outside the root."""
    p = torch.nn.Parameter(torch.zeros_like(history[0]))
    optimizer = torch.optim.RMSprop([p], lr=1.0, alpha=beta2, eps=eps)
    steps = []
    for g in history:
        p.grad = g.clone()
        optimizer.step()
        steps.append(-p.detach().clone())
        with torch.no_grad():
            p.zero_()
    return torch.stack(steps)


def without_momentum(run: Run) -> Evidence:
    """D5-code: with β1 = 0 the ℓ∞ rule, and RMSprop in every ε mode; the control puts every ε outside the root."""

    def cases() -> Iterator[Case]:
        for i, h in enumerate(histories(run, 7, run.count(14, 140))):
            beta2, eps = (0.5, 0.9, 0.99, 0.999)[i % 4], (0.0, 1e-8, 1e-2)[i % 3]
            formula = Formula(0.0, beta2, eps=eps)
            for correct in (False, True):
                yield "rmsprop", h, decompose(h, kind="rmsprop", beta2=beta2, bias_correction=correct), Formula(0.0, beta2, correct=correct)
            if h.ndim == 1:
                continue
            for preset in ("paper", "reference"):
                yield preset, h, decompose(h, kind="deva_linf", preset=preset, betas=(0.0, beta2), eps=eps), formula
            for mode, correct in itertools.product(("inside", "outside", "numerator", "relative"), (False, True)):
                rule = rmsprop(beta2=beta2, eps=eps, eps_mode=mode, bias_correction=correct)
                yield f"rmsprop {mode} {correct}", h, decompose(h, kind=rule), replace(formula, mode=mode, correct=correct)

    evidence = conformity(run, cases(), lambda f: replace(f, mode="outside"), "the ℓ∞ rule with β1 = 0, RMSprop")
    gap = 0.0
    for h in histories(run, 8, run.count(8, 40)):
        if h.ndim > 1:
            live = (h != 0).cummax(0).values  # torch divides 0 by 0 before the first gradient
            other = torch.where(live, torch_rmsprop(h, 0.9, 0.0), 0.0)
            own = decompose(h, kind="deva_linf", preset="paper", betas=(0.0, 0.9), eps=0.0).update
            gap = max(gap, float((own - other).abs().max()) / ROUNDING[h.dtype])
    # torch's own squares may underflow in float32; the histories' scales keep it away from that.
    agrees = gap <= 8.0 * 6 * math.sqrt(10.0)
    return replace(
        evidence,
        verdict=evidence.verdict if agrees else Verdict.REFUTED,
        summary=evidence.summary + f"; torch's RMSprop {gap:.3g} roundings away",
        numbers={**evidence.numbers, "torch RMSprop, roundings": gap},
    )


def presets(run: Run) -> Evidence:
    """D5-presets-code: every preset and variant of `deva_linf` against section 3; the control tracks g² where the rule tracks m²."""
    printed = {"paper": ("inside", False), "reference": ("inside", False), "corrected": ("relative", True)}
    of_gradient = {"instantaneous": ("gradient", "gradient"), "snr": ("momentum", "gradient"), "none": ("none", "momentum")}

    def cases() -> Iterator[Case]:
        sample = [h for h in histories(run, 9, run.count(16, 120)) if h.ndim > 1]
        options = itertools.product(printed, ("full", "memory", "sign", "instantaneous", "none", "snr"), (0.0, 1e-2, 1e-10), (False, True))
        for i, (preset, variant, eps, nesterov) in enumerate(options):
            h, b = sample[i % len(sample)], BETAS[i % len(BETAS)]
            (mode, correct), (numerator, tracked) = printed[preset], of_gradient.get(variant, ("momentum", "momentum"))
            event_ndim = 1 + (h.ndim > 2 and i % 2)
            formula = Formula(*b, numerator, tracked, correct, eps, mode, nesterov, event_ndim)
            split = decompose(
                h, kind="deva_linf", preset=preset, variant=variant, betas=b, eps=eps, nesterov=nesterov, event_ndim=event_ndim
            )
            yield f"{preset}, {variant}, {b}, eps {eps}", h, split, formula
        for h in sample:  # the defaults: corrected, full, (.9, .999)
            yield (
                "defaults",
                h,
                decompose(h, kind="deva_linf"),
                Formula(0.9, 0.999, tracked="momentum", correct=True, eps=1e-16, mode="relative"),
            )
            for preset, eps in (("reference", 1e-5), ("paper", 1e-8)):
                yield (
                    f"{preset}, defaults",
                    h,
                    decompose(h, kind="deva_linf", preset=preset),
                    Formula(0.9, 0.999, tracked="momentum", eps=eps),
                )

    return conformity(run, cases(), lambda f: replace(f, tracked="gradient"), "presets and variants of the ℓ∞ rule")


def potential(run: Run) -> Evidence:
    """D6-code: both potential inequalities on the library's γ; the control has 0.9 of each constant."""
    share = 0.9 if run.twin else 1.0
    logarithm = root = -math.inf
    count = 0
    constant = (torch.ones(64, 1, dtype=torch.float64), torch.ones(run.count(256, 4096), 1, dtype=torch.float64))
    for h in itertools.chain(histories(run, 10, run.count(40, 400), length=12), constant):
        flat = h.reshape(len(h), -1)
        gamma = number(decompose(flat, kind="adagrad").variance_adaptation.double().numpy())
        g = number(flat.double().numpy())
        for x, y in zip(g.T, gamma.T, strict=True):
            with mpmath.workprec(BITS):
                S = [s for s in np.cumsum(x * x) if s > 0]
            if not S:
                continue
            with mpmath.workprec(200):
                logarithm = max(logarithm, float((y * y).sum() / (share * (1 + mpmath.log(S[-1] / S[0]))) - 1))
                root = max(root, float((abs(x) * y).sum() / (2 * share * mpmath.sqrt(S[-1])) - 1))
            count += 1
    # Each γ is right to 2t + 4 roundings (D8-growth), which sums of at most 4096 of them cannot exceed relatively.
    allowed = (2 * max(len(h) for h in constant) + 4) * ROUNDING[torch.float32]
    holds = max(logarithm, root) <= allowed
    return Evidence(
        Verdict.SUPPORTED if holds else Verdict.REFUTED,
        "800-bit arithmetic",
        f"Σγ² reaches {100 * share * (1 + logarithm):.4g} % of its bound, Σg²/√S {100 * share * (1 + root):.4g} %, {count} histories",
        numbers={"log bound, relative excess": logarithm, "root bound, relative excess": root},
        margin=allowed - max(logarithm, root),
        budget={"coordinates": count},
        seed=run.seed,
    )

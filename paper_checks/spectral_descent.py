"""Whether the S∞ direction descends for its own momentum (SPEC M10)."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deva_theory.certify import Case, SearchProblem, at_most, cite, equal
from deva_theory.claims.model import Counterexample, Evidence, Run, Verdict
from deva_theory.linalg import polar_factor
from deva_theory.problems import SPECTRA, TraceQuadratic, block_hessian
from deva_theory.rules import Rule, deva_spectral
from paper_checks.arrays import tensor
from paper_checks.verdicts import proved

Measured = tuple[Tensor, Tensor, Tensor]


def diagonal_descends(run: Run) -> Evidence:
    """<M, direction> ≥ 0 for diagonal M'. Control: Γ of either sign."""
    declared = {"real": ("G",)} if run.twin else {"nonnegative": ("G",)}
    cases = [
        Case(name, positive=names, **declared, steps=[
            cite("msign(diag m) = diag(sign m): only Γ_ii acts, and <M, Q_L(Γ ⊙ O)Q_Rᵀ> = <M', Γ ⊙ O> = Σ Γ_ii m_i sign(m_i)"),
            equal(f"G*({m})*({sign})", f"G*{size}"), at_most("0", f"G*({m})*({sign})", because=f"G*{size}"),
        ])
        for name, names, m, sign, size in (
            ("m > 0", ("p",), "p", "1", "p"), ("m = 0", (), "0", "0", "0"), ("m < 0", ("p",), "-p", "-1", "p"),
        )
    ]
    return proved(cases, "<M, direction> = Σ Γ_ii |m_i| ≥ 0", "every size")


# ---- counter-examples ----------------------------------------------------------------------------


def negative_entry(*, momentum: Any) -> float:
    """Return minus the least entry of ``M' ⊙ msign(M')``."""
    M = tensor(momentum)
    return -float((M * polar_factor(M)).min())


def ascent(*, momentum: Any, gamma: Any) -> float:
    """Return ``-<M', Γ ⊙ msign(M')>``."""
    M = tensor(momentum)
    return -float((M * tensor(gamma) * polar_factor(M)).sum())


def ascent_of_rule(*, gradients: Any, seen: str = "polar", **options: Any) -> float:
    """Return minus the last inner product of momentum and direction along a stream, over ``‖M‖_*`` and the step's scale."""
    return -float(descent_along(deva_spectral(**options), tensor(gradients), seen)[-1])


def _momenta(largest: int, diagonal: bool) -> Tensor:
    """Return all 2×2 matrices with integer entries up to `largest`, small ones first."""
    grid = list(itertools.product(range(-largest, largest + 1), repeat=4))
    if diagonal:
        grid = [g for g in grid if g[1] == g[2] == 0]
    grid.sort(key=lambda g: (max(map(abs, g)), sum(map(abs, g)), sum(x < 0 for x in g), [-x for x in g]))
    return tensor(grid).reshape(-1, 2, 2)


def _smallest(run: Run, gammas: Tensor, name: str, statement: str, replay: Callable[..., float], margin: float) -> Evidence:
    """Find the first matrix, in the order of `_momenta`, and the Γ with the least <M', Γ ⊙ msign(M')>; the control is diagonal M'."""
    momenta = _momenta(2, run.twin)
    values = torch.einsum("kij,gij->kg", momenta * polar_factor(momenta), gammas)
    below = (values < -margin).any(1)
    budget = {"matrices": len(momenta), "adaptations": len(gammas)}
    if not below.any():
        return Evidence(Verdict.SUPPORTED, "enumeration", f"no negative product: {len(momenta)} M', {len(gammas)} Γ", budget=budget)
    k = int(below.nonzero()[0])
    data = {"momentum": momenta[k].tolist()}
    if replay is ascent:
        data["gamma"] = gammas[int(values[k].argmin())].tolist()
    violation = replay(**data)
    return Evidence(
        Verdict.REFUTED if violation > margin else Verdict.INCONCLUSIVE, "enumeration",
        f"{-violation:.4g} at M' = {momenta[k].int().tolist()}; no example with entries 0, ±1 only", margin=violation - margin,
        numbers={"violation": violation}, budget=budget, counterexample=Counterexample(
            name, f"{statement}; violation: minus the least product.", f"paper_checks.spectral_descent:{replay.__name__}", data, margin
        ),
    )


def entries_nonnegative(run: Run) -> Evidence:
    """M' ⊙ msign(M') ≥ 0 entrywise, as m ⊙ sign(m). Control: diagonal M'."""
    units = torch.eye(4, dtype=torch.float64).reshape(4, 2, 2)
    statement = "The entries of M' ⊙ msign(M') are nonnegative, as those of m ⊙ sign(m). False for 2×2 matrices"
    return _smallest(run, units, "M10-negative-entry", statement, negative_entry, 0.2)


def always_descends(run: Run) -> Evidence:
    """<M, direction> ≥ 0 for every Γ ≥ 0. Control: diagonal M'."""
    gammas = tensor(list(itertools.product((0.0, 1.0), repeat=4))).reshape(-1, 2, 2)
    statement = "Γ ⊙ msign(M') descends for M' whatever Γ ≥ 0. False for a Γ of one entry, at a negative entry of M' ⊙ msign(M')"
    return _smallest(run, gammas, "M10-any-adaptation", statement, ascent, 0.2)


def separable_descends(run: Run) -> Evidence:
    """<M, direction> ≥ 0 for separable 0 < Γ ≤ 1. Control: diagonal M'."""
    pairs = itertools.product((1.0, 0.1, 0.01), repeat=4)
    gammas = torch.stack([torch.outer(tensor(p[:2]), tensor(p[2:])) for p in pairs])
    statement = "Γ ⊙ msign(M') descends for M' if 0 < Γ ≤ 1 is separable. False: rows and columns weighted 1 and .01"
    return _smallest(run, gammas, "M10-ascent", statement, ascent, 0.1)


_ASCENDING = [[[100, 0], [0, 0]], [[0, 0], [100, 100]], [[2, 1], [3, 2]]]
"""The first gradient fixes the bases and makes V_11 large, the second V_21 and V_22; Γ_12 is as large as it can be."""


def rule_descends(run: Run) -> Evidence:
    """<M, direction> ≥ 0 for the Γ that the rule makes. Control: streams of diagonal matrices."""
    options = {"betas": (0.0, 0.95), "eps": 0.0}
    mask = torch.eye(2, dtype=torch.float64) if run.twin else torch.ones(2, 2, dtype=torch.float64)
    data = {"gradients": (tensor(_ASCENDING) * mask).tolist()} | {"betas": list(options["betas"]), "eps": 0.0}
    statement = (
        "Along every stream the S∞ direction (corrected, β1 = 0, ε = 0) descends for its own momentum. False for three 2×2 gradients: the "
        "first two leave V_12 small and the rest of V large, so that Γ magnifies the negative entry of M' ⊙ msign(M'), M' = [[2,1],[3,2]]"
    )
    size = (4, run.count(200, 5000), 2, 2)
    drawn = torch.randn(size, generator=run.generator(), dtype=torch.float64)
    drawn = drawn * torch.exp(2 * torch.randn(*size[:2], 1, 1, generator=run.generator(1), dtype=torch.float64)) * mask
    return _along(run, "M10-rule", statement, data, drawn, options, "polar")


def nesterov_descends(run: Run) -> Evidence:
    """<M, direction> ≥ 0 for the momentum M of the reference, on 1×1 matrices. Control: Nesterov off."""
    options = {"preset": "reference", "polar": "svd", "nesterov": not run.twin}
    data = {"gradients": [[[1]], [[1]], [[-0.5]]], "seen": "momentum"} | options
    statement = (
        "With Nesterov the direction descends for the momentum M when M is diagonal, as without. False for 1×1 matrices: after 1, 1 (the "
        "first only builds the bases), -1/2 the average is still positive, what msign takes is not"
    )
    drawn = torch.randn(8, run.count(200, 5000), 1, 1, generator=run.generator(), dtype=torch.float64)
    return _along(run, "M10-nesterov", statement, data, drawn, options, "momentum")


def _along(
    run: Run, name: str, statement: str, data: dict[str, Any], drawn: Tensor, options: dict[str, Any], seen: str
) -> Evidence:
    """Refute by one stream; say how often random streams do the same."""
    violation = ascent_of_rule(**data)
    found = descent_along(deva_spectral(**options), drawn, seen)
    negative = int((found < -1e-12).sum())
    refuted = violation > 0.1
    standing = Verdict.SUPPORTED if max(violation, 0.0) <= 1e-12 and negative == 0 else Verdict.INCONCLUSIVE
    return Evidence(
        Verdict.REFUTED if refuted else standing, "replay",
        (f"{-violation:.4g} ‖M‖_* at the last step; " if refuted else "") + f"negative in {negative} of {found.numel()} random steps",
        margin=violation - 0.1 if refuted else None, budget={"random steps": found.numel()}, seed=run.seed,
        counterexample=Counterexample(
            name, f"{statement}; violation: minus the product over ‖M‖_*.", "paper_checks.spectral_descent:ascent_of_rule", data, 0.1
        ) if refuted else None,
    )


def sufficient(run: Run) -> Evidence:
    """Min Γ · Σ(M'⊙O)_+ ≥ max Γ · Σ(M'⊙O)_- implies <M, direction> ≥ 0. Control: the condition relaxed by a factor 3."""
    factor = 3 if run.twin else 1
    cases = [
        Case(name, positive=("p",), nonnegative=("l", "h", "g", "u", "w"), definitions={"u": "g - l", "w": "h - g"}, steps=[
            cite("x = M'_ij O_ij, l = min Γ, h = max Γ: Γ_ij x ≥ l x_+ - h x_- entry by entry; under the condition the sum is ≥ 0"),
            at_most(bound, f"g*({x})", because=gap),
        ])
        for name, x, bound, gap in (("x > 0", "p", f"{factor}*l*p", "p*u"), ("x < 0", "-p", "-(h*p)", "p*w"))
    ]
    return proved(cases, "<M, direction> ≥ min Γ Σ(M'⊙O)_+ - max Γ Σ(M'⊙O)_-", "every size, entry by entry")


# ---- along runs ----------------------------------------------------------------------------------


def descent_along(rule: Rule, gradients: Tensor, seen: str = "polar") -> Tensor:
    """Return ``<M, direction>`` over ``‖M‖_*`` and the step's scale, for every step; shape ``(T, ...)``."""
    return torch.stack([product for product, _, _ in measure(rule, gradients[0], iter(gradients), seen)])


def measure(
    rule: Rule, start: Tensor, source: Iterable[Tensor], seen: str = "polar", told: Callable[[Tensor], object] = id
) -> Iterator[Measured]:
    """Yield what the steps of a rule look like.

    Parameters
    ----------
    source : iterable of Tensor
        Gradients; asked for one at a time, after the previous direction.
    seen : {"polar", "momentum"}
        M: what msign takes, or the momentum (the same without Nesterov).
    told : callable
        Gets every direction.

    Yields
    ------
    tuple of Tensor
        ``<M, direction>`` over ``‖M‖_*`` and the scale; whether the sufficient condition holds; the least entry of
        ``M' ⊙ O`` over ``‖M‖_*``.
    """
    state = rule.init(start)
    for G in source:
        D, state, details = rule.update(G, state, diagnostics=True)
        told(D)
        if details.skipped:
            continue
        Q_L, Q_R = details.basis
        # The state may be in refreshed bases already; without momentum M is the gradient.
        M = state["Q_L"] @ state["momentum"] @ state["Q_R"].mT if "momentum" in state else G
        M = rule.moment.lookahead(M, G) if seen == "polar" else M
        nuclear = torch.linalg.svdvals(M).sum(-1).clamp_min(torch.finfo(M.dtype).tiny)
        x = (Q_L.mT @ M @ Q_R) * (Q_L.mT @ details.scale_invariant @ Q_R)
        gamma, up, down = details.variance_adaptation, x.clamp_min(0).sum((-2, -1)), (-x).clamp_min(0).sum((-2, -1))
        enough = gamma.amin((-2, -1)) * up >= gamma.amax((-2, -1)) * down
        yield (M * D).sum((-2, -1)) / (nuclear * details.scale), enough, x.amin((-2, -1)) / nuclear


def quadratic_run(rule: Rule, run: Run, spectrum: str, seeds: int, steps: int) -> Iterator[Measured]:
    """Follow E1's stochastic quadratic (squared loss, lr .1)."""
    H = torch.from_numpy(np.stack([block_hessian(SPECTRA[spectrum], run.rng(k)) for k in range(seeds)]))
    problem, generator = TraceQuadratic(H), run.generator()
    A, X = problem.root(), torch.randn(seeds, 9, 9, generator=generator, dtype=torch.float64)

    def gradients() -> Iterator[Tensor]:
        for _ in range(steps):
            yield problem.row_gradient(A, X, torch.randint(0, 9, (seeds, 3), generator=generator), squared=True)

    yield from measure(rule, X, gradients(), told=lambda D: X.sub_(0.1 * D))


def network_run(rule: Rule, run: Run, steps: int) -> Iterator[Measured]:
    """Follow both layers of a tanh network that learns a noisy tanh teacher: batches of 8, lr .02."""
    g = run.generator(1)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    teacher, layers = normal(4, 8), [(normal(10, 8) / 3).requires_grad_(), (normal(4, 10) / 3).requires_grad_()]

    def gradients(layer: Tensor) -> Iterator[Tensor]:
        while True:
            assert layer.grad is not None
            yield layer.grad

    followed = [measure(rule, W, gradients(W), told=lambda D, W=W: W.data.sub_(0.02 * D)) for W in layers]
    for _ in range(steps):
        x = normal(8, 8)
        y = torch.tanh(x @ teacher.mT) + 0.1 * normal(8, 4)
        for W in layers:
            W.grad = None
        (torch.tanh(x @ layers[0].mT) @ layers[1].mT - y).square().mean().backward()
        yield from map(next, followed)


def _runs(run: Run, rules: Sequence[Rule]) -> tuple[Tensor, Tensor, Tensor]:
    """Return products, conditions and least entries of all steps of all runs, flat."""
    seeds, steps = run.count(4, 30), run.count(40, 300)
    found = [
        [x.reshape(-1) for x in part]
        for rule in rules
        for source in (*(quadratic_run(rule, run, s, seeds, steps) for s in SPECTRA), network_run(rule, run, steps))
        for part in source
    ]
    products, enough, least = (torch.cat(x) for x in zip(*found, strict=True))
    return products, enough, least


def frequency(run: Run) -> Evidence:
    """Along E1 and a small network <M, direction> never turns negative. Control: that no entry of M' ⊙ msign(M') does."""
    rules = [deva_spectral(), deva_spectral(preset="paper"), deva_spectral(preset="reference", polar="svd"), deva_spectral(variant="snr")]
    products, _, entries = _runs(run, rules)
    counted = entries if run.twin else products
    negative, least = int((counted < -1e-12).sum()), float(counted.min())
    return Evidence(
        Verdict.SUPPORTED if negative == 0 else Verdict.REFUTED, "statistics",
        f"{negative} of {len(counted)} steps negative, least {least:.2g} ‖M‖_*",
        covers="corrected (full and snr), paper, reference (M: what msign takes), β1 = .95; E1 with squared loss, a two-layer tanh network",
        numbers={"negative": negative, "steps": len(counted), "least": float(f"{least:.2g}")}, margin=abs(least),
        budget={"steps": len(counted)}, seed=run.seed,
    )


def condition_certifies(run: Run) -> Evidence:
    """At β1 = .95 the sufficient condition holds in at least nine of ten steps. Control: β1 = .01."""
    _, enough, _ = _runs(run, [deva_spectral(betas=(0.01 if run.twin else 0.95, 0.95))])
    share = float(enough.double().mean())
    return Evidence(
        Verdict.SUPPORTED if share >= 0.9 else Verdict.REFUTED, "statistics", f"the condition holds in {share:.1%} of {len(enough)} steps",
        covers="corrected preset; E1 with squared loss, a two-layer tanh network", numbers={"share": round(share, 3)},
        margin=abs(share - 0.9), budget={"steps": len(enough)}, seed=run.seed,
    )


def ascent_attack() -> SearchProblem:
    """Look for M' and separable 0 < Γ ≤ 1 with <M', Γ ⊙ msign(M')> < 0."""
    def violation(x: Tensor) -> Tensor:
        M, gamma = x[:, 0], x[:, 1, :1].mT * x[:, 1, 1:]
        O = polar_factor(M)
        return -(M * gamma * O).sum((-2, -1)) / (M * O).sum((-2, -1))

    return SearchProblem(
        (2, 2, 2), violation, project=lambda x: torch.stack([x[:, 0], x[:, 1].clamp(0.01, 1.0)], dim=1), differentiable=False,
        name="M10-ascent", statement="Γ ⊙ msign(M') descends for M' if 0 < Γ ≤ 1 is separable.", margin=1e-3,
        replay="paper_checks.spectral_descent:ascent",
        data=lambda x: {"momentum": x[0].tolist(), "gamma": torch.outer(x[1, 0], x[1, 1]).tolist()},
    )


def ascents_in_spite(x: Tensor) -> Tensor:
    """Return how far <M, Γ ⊙ msign M> is below 0, NaN where the condition fails; x stacks M and Γ, for a batch."""
    M, gamma = x[:, 0], x[:, 1].abs()
    product = M * polar_factor(M)
    up, down = product.clamp_min(0).sum((-2, -1)), (-product).clamp_min(0).sum((-2, -1))
    enough = gamma.amin((-2, -1)) * up >= gamma.amax((-2, -1)) * down
    return torch.where(enough, -(gamma * product).sum((-2, -1)) / (gamma.amax((-2, -1)) * up), torch.nan)


def ascent_in_spite(*, x: Any) -> float:
    """Return how far <M, Γ ⊙ msign M> is below 0, NaN where the condition fails; x stacks M and Γ, for one point."""
    return float(ascents_in_spite(tensor(x)[None])[0])


def sufficient_attack() -> SearchProblem:
    """Look for M' and Γ > 0 that satisfy the sufficient condition and have a negative product."""
    return SearchProblem(
        (2, 3, 3), ascents_in_spite, differentiable=False, name="M10-sufficient", statement="The condition implies descent.",
        replay="paper_checks.spectral_descent:ascent_in_spite", margin=1e-9
    )

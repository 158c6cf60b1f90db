"""The rate with momentum: R5, the variance and the drift of the average, the order in T, and the plateau without it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction

from deva_theory.certify import Case, at_most, cite, equal, prove
from deva_theory.claims.model import Counterexample, Evidence, Run, Verdict
from paper_checks.inductions import telescoped
from paper_checks.rates_descent import sign
from paper_checks.rates_noise import walk, wrong_sign_cases
from paper_checks.verdicts import conclude, refutation


def averaged_noise(run: Run) -> Evidence:
    """R5: EMA of independent noise has variance (1-β)/(1+β) (1-β^{2t}) σ².  Twin: bounded by (1-β)/2 σ²."""
    limit = "(1 - b)/2" if run.twin else "(1 - b)/(1 + b)"
    proof = prove([Case("induction on t, p = β^{2t}", nonnegative=["b", "p", "a"], definitions={"a": "1 - b"}, steps=[
        cite("the noises are orthogonal, so v_{t+1} = β² v_t + (1-β)² σ², v_0 = 0"),
        equal("(1 - b)/(1 + b)*(1 - 1)", "0"),
        equal("b**2*((1 - b)/(1 + b)*(1 - p)) + (1 - b)**2", "(1 - b)/(1 + b)*(1 - b**2*p)"),
        at_most("(1 - b)/(1 + b)*(1 - p)", limit, "a*p/(1 + b)" + (" - a**2/(2*(1 + b))" if run.twin else "")),
    ])])
    violation, count = Fraction(-1), 0
    for beta in (Fraction(0), Fraction(1, 2), Fraction(9, 10)):
        ceiling = (1 - beta) / 2 if run.twin else (1 - beta) / (1 + beta)
        for t in (1, 2, 5, 40):
            weights = [(1 - beta) * beta**k for k in range(t)]
            violation, count = max(violation, sum(w * w for w in weights) - ceiling), count + 1
    return conclude(proof, violation, summary="Σ ((1-β)β^k)² = (1-β)/(1+β)(1-β^{2t})", covers="every t and 0 ≤ β < 1",
        budget={"instances": count})


def drift(run: Run) -> Evidence:
    """R5: the bias of m is at most β^{t+1}‖∇f(x_0)‖_1 + ηLγ_max β(1-β^t)/(1-β).  Twin: 1-β^{t-1} in place of 1-β^t."""
    # z_t bounds ‖E-part of m_t - ∇f(x_t)‖_1:  z_{t+1} ≤ β z_t + β s, s = ηLγ_max;  p = β^t.
    lead = "1" if not run.twin else "0"
    proof = prove([
        Case("first step", nonnegative=["b", "g"], steps=[
            cite("m_0 - ∇f(x_0) = -β∇f(x_0) + (1-β) noise"), equal("b*1*g + s*b*(1 - 1)/room", "b*g"),
        ], real=["s"], positive=["room"], definitions={"room": "1 - b"}),
        Case("recursion", nonnegative=["b", "g", "s", "p", "z", "slack"], positive=["room"],
             definitions={"room": "1 - b", "slack": "b*p*g + s*b*(1 - p)/room - z"}, steps=[
                 cite("m_t - ∇f(x_t) = β(m_{t-1} - ∇f(x_{t-1})) + β(∇f(x_{t-1}) - ∇f(x_t)) + (1-β) noise, ‖∇f(x)-∇f(y)‖_1 <= L‖x-y‖_∞ "
                     "<= s"),
                 at_most("b*z + b*s", f"b*(b*p)*g + s*b*(1 - {'b*p' if lead == '1' else 'p'})/room",
                     "b*slack" + ("" if lead == "1" else " - b*s*p")),
             ]),
    ])
    violation, count = Fraction(-1), 0
    for beta, t in itertools.product((Fraction(1, 2), Fraction(9, 10)), (0, 1, 2, 10)):
        g, s, z = Fraction(1), Fraction(1, 3), Fraction(0)
        z = beta * g
        for _ in range(t):
            z = beta * z + beta * s
        power = beta ** max(t - 1, 0) if run.twin else beta**t
        violation, count = max(violation, z - (beta ** (t + 1) * g + s * beta * (1 - power) / (1 - beta))), count + 1
    return conclude(proof, violation, summary="β^{t+1}‖∇f(x_0)‖_1 + ηLγ_max β(1-β^t)/(1-β)", covers="every t and 0 ≤ β < 1",
        budget={"instances": count})


NOISE_SHARE = {Fraction(0): Fraction(1), Fraction(9, 41): Fraction(4, 5), Fraction(3, 5): Fraction(1, 2)}
"""β to √((1-β)/(1+β)), where both are rational."""


def with_momentum(
    L: Sequence[Fraction], x0: Sequence[Fraction], beta: Fraction, eta: Fraction, noise: Sequence[int] | int, sigma: Fraction,
    least: Fraction = Fraction(1),
) -> Fraction:
    """Run ``x ← x - ηγ sign(m)`` on ½ΣL_ix_i² and return the sum of γ‖∇f‖_1; the gradients are off by ±σ, as `noise` has the signs.

    γ is 1 where the noise is against the derivative, `least` elsewhere.
    """
    signs = [0] * noise if isinstance(noise, int) else noise
    x, m, reached = list(x0), [Fraction(0)] * len(x0), Fraction(0)
    for s in signs:
        slope = [b * p for b, p in zip(L, x, strict=True)]
        m = [beta * old + (1 - beta) * (g + s * sigma) for old, g in zip(m, slope, strict=True)]
        gamma = [Fraction(1) if s * g < 0 else least for g in slope]
        reached += sum((c * abs(g) for c, g in zip(gamma, slope, strict=True)), Fraction(0))
        x = [p - eta * c * sign(y) for p, c, y in zip(x, gamma, m, strict=True)]
    return reached


def momentum_bound(L: Sequence[Fraction], x0: Sequence[Fraction], beta: Fraction, eta: Fraction, T: int, *, drift: int = 1) -> Fraction:
    """Return R5's bound on ½ΣL_ix_i² without its noise term, γ_max = 1, the drift term times `drift`."""
    gap = sum((b * x * x for b, x in zip(L, x0, strict=True)), Fraction(0)) / 2
    first, smooth = sum((abs(b * x) for b, x in zip(L, x0, strict=True)), Fraction(0)), sum(L, Fraction(0))
    return gap / (eta * T) + eta * smooth / 2 + 2 * (first / (T * (1 - beta)) + drift * beta * eta * smooth / (1 - beta))


def exact_runs(run: Run) -> tuple[Fraction, int]:
    """Return the largest excess over R5's bound on exact runs, without noise, and averaged over all signs of a noise ±σ.

    In the control the noise term is left out of the bound.
    """
    worst, count, eta = Fraction(-10), 0, Fraction(1, 4)
    one, two = [Fraction(1)], [Fraction(2), Fraction(1)]
    for beta, share in NOISE_SHARE.items():
        for start, L, T in itertools.product((0, Fraction(1, 16), 1), (one, two), (1, 3, 12, 40)):
            x0 = [Fraction(start)] * len(L)
            worst = max(worst, with_momentum(L, x0, beta, eta, T, Fraction(0)) / T - momentum_bound(L, x0, beta, eta, T))
            count += 1
        noisy = [(1, two), (2, two), (run.count(8, 10), one)]
        for start, (T, L), least in itertools.product((0, Fraction(1, 16)), noisy, (Fraction(1), Fraction(1, 2))):
            x0, sigma, paths = [Fraction(start)] * len(L), Fraction(4), list(itertools.product((1, -1), repeat=T))
            mean = sum((with_momentum(L, x0, beta, eta, path, sigma, least) for path in paths), Fraction(0)) / (len(paths) * T)
            bound = momentum_bound(L, x0, beta, eta, T) + (0 if run.twin else 2 * share * sigma * len(L))
            worst, count = max(worst, mean - bound), count + len(paths)
    return worst, count


def momentum(run: Run) -> Evidence:
    """R5: the bound with momentum, batch 1.  Twin: without its noise term."""
    # So far, after k steps: p = β^k, E = Σ e_t, short of its bound by W; Σ β^{t+1} = β(1-β^k)/(1-β) and 1-β^t ≤ 1.
    each, names = "(t*l*c*b/room + r*sigma)", {"positive": ["t", "room"], "nonnegative": ["b", "c", "g", "l", "r", "sigma", "p"]}
    so_far = f"g*b*(1 - p)/room + k*{each} - E"
    errors = Case(
        "one more error", positive=names["positive"], nonnegative=[*names["nonnegative"], "w", "W"], real=["k"], definitions={
            "room": "1 - b", "E": f"g*b*(1 - p)/room + k*{each} - W", "e": "b*p*g + t*l*c*b*(1 - p)/room + r*sigma - w",
        }, steps=[
            cite("e_t = E‖m_t - ∇f(x_t)‖_1, split into drift (R5-drift) and noise (R5-noise, Jensen): r = √((1-β)/(1+β)), sigma = Σσ_i"),
            equal(f"g*b*(1 - 1)/room + 0*{each}", "0"),
            at_most("E + e", f"g*b*(1 - b*p)/room + (k + 1)*{each}", "W + w + t*l*c*b*p/room"),
        ],
    )
    claimed = "gap/(t*k) + t*l*c**2/2 + 2*c*(g/(k*room) + b*t*l*c/room" + (")" if run.twin else " + r*sigma)")
    because = "(q + below + above)/(t*k) + 2*c*W/k + 2*c*g*(room + b*p)/(k*room)" + (" - 2*c*r*sigma" if run.twin else "")
    steps = telescoped(
        lambda n, e, one: f"t*({n}) - 2*t*c*({e}) - t**2*l*c**2/2*({one})", {"n": "N", "e": "E", "1": "k"}, ("N/k", claimed, because),
        given={"W": so_far}, definitions={"room": "1 - b"}, **names,
    )
    cited = cite("descent with steps of max-norm at most ηγ_max; |∂f| 1{sign m ≠ sign ∂f} <= |m - ∂f| times γ <= γ_max, over coordinates")
    steps[1] = replace(steps[1], steps=[cited, *steps[1].steps])
    proof = prove([*wrong_sign_cases(Fraction(1)), errors, *steps])
    # Beside exact runs with β > 0, at β = 0 the walk in which half of the signs are wrong.
    found, (exact, runs) = walk(400, 1, 2.0, 60), exact_runs(run)
    violation = found.norm - found.progress - found.smooth - (0.0 if run.twin else 2 * found.noise)
    return conclude(
        proof, max(violation, float(exact)), margin=1e-3, summary="signs, drift, noise and a telescoping sum",
        budget={"processes": 1, "exact runs": runs},
        covers="every T and dimension, by induction on the sums; orthogonality of the noises, Jensen and the descent lemma in expectation "
            "are cited; exact runs with β = 0, 9/41, 3/5, with and without noise",
    )


def drift_excess(L: float, x0: float, beta: str, eta: float, steps: int, drift: int) -> float:
    """Return avg |f'| of sign descent with momentum on ½Lx², without noise, minus R5's bound with its drift term times `drift`."""
    settings = [Fraction(L)], [Fraction(x0)], Fraction(beta), Fraction(eta)
    return float(with_momentum(*settings, steps, Fraction(0)) / steps - momentum_bound(*settings, steps, drift=drift))


def drift_needed(run: Run) -> Evidence:
    """R6: R5's bound holds without the term of the drift.  Twin: with it."""
    return refutation(
        run, "R6-drift",
        "R5 holds without the term 2βηLγ_max²/(1-β). False without any noise on ½x² at β = .9: the average turns its sign late, and x "
        "swings around 0 far beyond η; violation: avg |f'| minus the bound without that term.",
        drift_excess, {"L": 1.0, "x0": 0.25, "beta": "9/10", "eta": 1.0, "steps": 40, "drift": 0}, margin=0.3, repair={"drift": 1},
        summary="avg |f'| minus the bound {:+.4f}",
    )


def momentum_order(run: Run) -> Evidence:
    """R5: with β = 1-T^{-1/2}, η = T^{-3/4} every term of the bound is O(T^{-1/4}).  Twin: O(T^{-1/3})."""
    # T = y^12: T^{1/4} = y³, T^{1/3} = y⁴.
    rate = "y**4" if run.twin else "y**3"
    missing = {name: f" - ({term})*(y - 1)" if run.twin else "" for name, term in (("gap", "gap/y**4"), ("drift", "l*c/y**4"))}
    proof = prove([Case("terms, T = y^12, y >= 1", positive=["y", "sum"], nonnegative=["gap", "l", "c", "g", "s", "more", "b"],
                        definitions={"more": "y - 1", "b": "1 - 1/y**6", "sum": "2 - 1/y**6"}, steps=[
        at_most("gap*y**9/y**12", f"gap/{rate}", "0" + missing["gap"]),
        at_most("l*c**2/(2*y**9)", "l*c**2/(2*y**3)", "l*c**2/(2*y**9)*more*(y**5 + y**4 + y**3 + y**2 + y + 1)"),
        at_most("2*c*g*y**6/y**12", "2*c*g/y**3", "2*c*g/y**6*more*(y**2 + y + 1)"),
        at_most("b*l*c/y**9*y**6", f"l*c/{rate}", "l*c/y**9" + missing["drift"]),
        at_most("(1/y**6)/sum", "1/y**6", "b/(y**6*sum)"),
        cite("the root of the last line is the noise factor, at most T^{-1/4}"),
    ])])

    def right(T: float) -> float:
        beta, eta = 1 - T**-0.5, T**-0.75
        return 1 / (eta * T) + eta / 2 + 2 * (1 / (T * (1 - beta)) + beta * eta / (1 - beta) + math.sqrt((1 - beta) / (1 + beta)))

    exponent = 1 / 3 if run.twin else 1 / 4
    grown = [right(T) * T**exponent for T in (1e4, 1e8, 1e12)]
    return conclude(proof, grown[-1] / grown[0] - 1, margin=0.5,
        summary=f"bound × T^{exponent:.3g} at T = 1e4, 1e8, 1e12: {', '.join(f'{x:.3g}' for x in grown)}",
                    covers="the bound of R5 with constants of order 1", budget={"evaluations": 3})


def plateau_excess(steps: list[int], start: float) -> float:
    """Return avg E|∂f| at the largest T over that at the smallest, minus ½, where noise turns every second sign and η = 1/√T."""
    averages = [walk(T, 1, 2.0, round(start * math.sqrt(T))).plain for T in steps]
    return averages[-1] / averages[0] - 0.5


def plateau(run: Run) -> Evidence:
    """R5: with β fixed (here 0), batch 1 and η = T^{-1/2}, avg E‖∇f‖ falls to nothing as T grows.  Twin: with batch T."""
    steps, start = [25, 100, 400, 1600], 2.0
    averages = []
    for T in steps:
        flips = 0.5 / T if run.twin else 0.5  # one sample: wrong with probability ½; the mean of T: by Cantelli at most σ²/T
        averages.append(walk(T, 1, 2.0, round(start * math.sqrt(T)), flips=flips, even=True).plain)
    # 'Falls to nothing' is tested as: from T = 25 to 1600 it halves at least.
    excess = averages[-1] / averages[0] - 0.5
    return Evidence(
        Verdict.REFUTED if excess > 0 else Verdict.SUPPORTED, "exact law of a walk",
        f"avg E|∂f| at T = {', '.join(map(str, steps))}: {', '.join(f'{x:.4f}' for x in averages)}",
        covers="β = 0, the Huber function, η = T^{-1/2}",
        numbers={f"T{T}": x for T, x in zip(steps, averages, strict=True)}, margin=abs(excess), budget={"processes": len(steps)},
        counterexample=Counterexample(
            "R5-plateau",
            "With one sample per step and β fixed, avg E‖∇f‖ falls to nothing as T grows. False at β = 0: noise that turns every second "
            "sign makes the run a martingale on a slope of 1, for every T; violation: the ratio of the averages at T = 1600 and 25, "
            "minus ½.",
            "paper_checks.rates_momentum:plateau_excess", {"steps": steps, "start": start}, margin=0.3,
        ) if excess > 0 else None,
    )

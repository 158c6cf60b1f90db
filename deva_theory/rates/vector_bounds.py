r"""R1 and R2: what steps ``x⁺ = x - η Γ ⊙ sign(ĝ)`` guarantee for the average of ``‖∇f‖_{1,Γ} = Σ_i γ_i |∂_i f|``.

Throughout, f is bounded below by f*, Δ = f(x_0) - f*, η is constant, averages run over t = 0 … T-1, and L_{Γ_t} is the supremum of
uᵀ∇²f(y)u over |u_i| ≤ γ_{t,i} and over y on the segment from x_t to x_{t+1}.  All bounds start from the **descent lemma** for the
direction d_t = Γ_t ⊙ sign(ĝ_t),

    f(x_{t+1}) ≤ f(x_t) - η <∇f(x_t), d_t> + ½ η² L_{Γ_t} ,                                               (D)

which is Taylor's formula with integral remainder, ``∫_0^1 (1-s) η² dᵀ∇²f(x - sηd) d ds ≤ ½ η² L_Γ``, because |d_i| ≤ γ_i.  Functions
that are smooth without second derivatives are covered as well: (D) is all that the proofs use.
"""

from __future__ import annotations

from torch import Tensor

from deva_theory.rates.statement import Bound, Numbers, balanced_terms, descent_terms, finite, inputs, summed, total

BELOW = "f is bounded below, Δ ≥ f(x_0) - f*"
DESCENT = "f(x - ηd) ≤ f(x) - η<∇f(x), d> + ½η²L along every step, L the average over the steps (expected, if they are random)"
VARIANCE = "E(ĝ_i - ∂_i f)² ≤ σ_i²/B given the past (B i.i.d. unbiased samples of variance ≤ σ_i² each)"
EXACT = "exact gradients, x⁺ = x - ηΓ⊙sign(∇f)"
FREE = "Γ ≥ 0 may depend on the past and on the current noise"


def deterministic(gap: Numbers, steps: Numbers, eta: Numbers, L: Numbers) -> Bound:
    r"""R1: ``(1/T) Σ_t ‖∇f(x_t)‖_{1,Γ_t} ≤ Δ/(ηT) + (η/2) avg L_{Γ_t}`` for exact gradients.

    Parameters
    ----------
    gap : number or array
        Δ, a bound on f(x_0) - f*, in units of f.
    steps : number or array
        T.
    eta : number or array
        η, in units of x (Γ has none).
    L : number or array
        (1/T) Σ L_{Γ_t}, or a bound on it.

    Returns
    -------
    Bound
        Terms ``initial`` and ``smoothness``.

    Notes
    -----
    SPEC R1.  Proof.  With ĝ = ∇f, coordinate by coordinate, ∂_i γ_i sign(∂_i) = γ_i |∂_i| (also where ∂_i = 0), so <∇f, d> =
    ‖∇f‖_{1,Γ} and (D) reads η‖∇f(x_t)‖_{1,Γ_t} ≤ f(x_t) - f(x_{t+1}) + ½η²L_{Γ_t}.  Sum over t: the differences telescope to
    f(x_0) - f(x_T) ≤ Δ.  Divide by ηT.  ∎

    The proof never uses how Γ_t was made, and holds with Δ replaced by f(x_0) - f(x_T).  Attained: f = ½Lx², Γ = 1, x_0 = Tη, where
    x_t = (T-t)η, the average of L|x_t| is Lη(T+1)/2, and so is the right side ½L(Tη)²/(ηT) + ½ηL.

    The same proof with ``‖·‖`` for max-norm and its dual for the left side covers steepest descent in any norm.
    """
    gap, steps, eta, L = inputs("R1", gap=gap, steps=steps, eta=eta, L=L)
    return total(
        "R1: avg ‖∇f‖_{1,Γ} ≤ Δ/(ηT) + (η/2) avg L_Γ", (BELOW, DESCENT, EXACT), "l1_weighted", **descent_terms(gap, steps, eta, L),
    )


def best_step(gap: Numbers, steps: Numbers, L: Numbers) -> Tensor:
    """Return η* = √(2Δ/(LT)), at which R1's bound is least; L bounds avg L_Γ before the run is made.

    Parameters
    ----------
    gap, steps, L : number or array
        Δ > 0, T and L > 0.

    Notes
    -----
    SPEC R1.  Δ/(ηT) + ηL/2 is convex in η > 0; its derivative -Δ/(η²T) + L/2 is 0 at η*.
    """
    gap, steps, L = inputs("R1 at its best η", distance=gap, steps=steps, curvature=L)
    # Three roots, and 2√(Δ/2): 2Δ, the product LT or the quotient may leave the range of float64 where η* does not.
    return finite("R1 at its best η", 2 * (gap / 2).sqrt() / (L.sqrt() * steps.sqrt()))


def deterministic_best(gap: Numbers, steps: Numbers, L: Numbers) -> Bound:
    r"""R1 at η* = √(2Δ/(LT)): ``(1/T) Σ_t ‖∇f(x_t)‖_{1,Γ_t} ≤ √(2ΔL/T)``, L an a-priori bound on avg L_Γ.

    Parameters
    ----------
    gap, steps, L : number or array
        Δ > 0, T, and L > 0 with avg L_Γ ≤ L on the run with η*.  The average along a run depends on η, so it cannot be put here
        after a run with another η.

    Returns
    -------
    Bound
        Terms ``initial`` and ``smoothness``, equal: each √(ΔL/(2T)).

    Notes
    -----
    SPEC R1.  Proof.  By the inequality of the means, Δ/(ηT) + ηL/2 ≥ 2√(Δ/(ηT) · ηL/2) = √(2ΔL/T), with equality where the two terms
    are equal, at η*; and at η* R1 holds.  ∎
    """
    gap, steps, L = inputs("R1 at its best η", distance=gap, steps=steps, curvature=L)
    return total(
        "R1, best η: avg ‖∇f‖_{1,Γ} ≤ √(2ΔL/T)", (BELOW, DESCENT, EXACT, "avg L_Γ ≤ L, known beforehand", "η = √(2Δ/(LT))"),
        "l1_weighted", **balanced_terms(gap, steps, L),
    )


def noise_moment(sigma: Numbers, gamma_rms: Numbers = 1.0) -> Tensor:
    """Return ``Σ_i σ_i √(E γ_i²)``, summed over the last axis: the `noise` of the stochastic bounds.

    Parameters
    ----------
    sigma : number or array (…, d)
        σ_i, the root of a bound on the variance of one unbiased sample, in units of ∇f.  A number beside factors of shape (d,) is the σ_i
        of every coordinate (dσ for Γ ≡ 1); two numbers are one coordinate, d = 1.
    gamma_rms : number or array (…, d)
        (1/T) Σ_t √(E γ_{t,i}²); 1 for Γ ≡ 1, where the result is ‖σ‖_1.

    Notes
    -----
    SPEC R2.  Where σ_i changes along the run, average the result over t instead.
    """
    statement = "the noise Σ σ_i √(E γ_i²)"
    sigma, gamma_rms = inputs(statement, sigma=sigma, gamma_rms=gamma_rms)
    return summed(statement, sigma * gamma_rms)


def stochastic(gap: Numbers, steps: Numbers, eta: Numbers, L: Numbers, noise: Numbers, *, batch: Numbers = 1) -> Bound:
    r"""R2 with any η and B: ``(1/T) Σ_t E‖∇f(x_t)‖_{1,Γ_t} ≤ Δ/(ηT) + (η/2) avg E L_{Γ_t} + (2/√B) avg Σ_i σ_i √(E γ_{t,i}²)``.

    Parameters
    ----------
    gap, steps, eta : number or array
        Δ, T and η, see `deterministic`.
    L : number or array
        (1/T) Σ E L_{Γ_t}.
    noise : number or array
        (1/T) Σ_t Σ_i σ_i √(E γ_{t,i}²), see `noise_moment`; it may be replaced by (√B/T) Σ_t Σ_i E γ_{t,i}|ĝ_i - ∂_i f|, which is
        smaller.
    batch : number or array
        B, the number of i.i.d. unbiased samples whose mean is ĝ.  For any other ĝ use 1, with σ_i² a bound on E(ĝ_i - ∂_i f)² itself.

    Returns
    -------
    Bound
        Terms ``initial``, ``smoothness`` and ``noise``.

    Notes
    -----
    SPEC R2.  Proof.  Write n = ĝ - ∇f(x_t).

    1. *Wrong signs.* |∂_i| 1{sign ĝ_i ≠ sign ∂_i} ≤ |n_i|: if the signs differ, 0 lies between ĝ_i and ∂_i (ends included).
    2. Hence -∂_i sign(ĝ_i) ≤ -|∂_i| + 2|n_i|: equality of signs gives -|∂_i|; otherwise -∂_i sign(ĝ_i) ≤ |∂_i| = -|∂_i| + 2|∂_i|,
       and step 1 bounds |∂_i|.
    3. Times γ_i ≥ 0, summed: -<∇f, d> ≤ -‖∇f‖_{1,Γ} + 2 Σ γ_i |n_i|.  Γ may depend on n: nothing was averaged yet.
    4. (D) in expectation, with step 3: η E‖∇f(x_t)‖_{1,Γ_t} ≤ E f(x_t) - E f(x_{t+1}) + ½η² E L_{Γ_t} + 2η Σ E γ_i|n_i|.
    5. Cauchy-Schwarz: E γ_i|n_i| ≤ √(E γ_i²) √(E n_i²) ≤ √(E γ_i²) σ_i/√B.
    6. Sum over t, E f(x_T) ≥ f*, divide by ηT.  ∎

    Only the second moment of the error ĝ - ∇f was used.  That it falls as 1/B is due to samples without bias: the error of a mean of B
    biased ones falls to their bias, whatever B is, and the bound with σ_i² the second moment of one sample's error is violated (a test).
    The factor 2 is the best possible for Γ that depends on the noise
    (the ledger's R6-noise).  If γ_i and n_i are independent, step 5 is E γ_i E|n_i| and E γ_i may stand for the root.
    """
    gap, steps, eta, L, noise, batch = inputs("R2", gap=gap, steps=steps, eta=eta, L=L, noise=noise, batch=batch)
    return total(
        "R2: avg E‖∇f‖_{1,Γ} ≤ Δ/(ηT) + (η/2) avg E L_Γ + (2/√B) avg Σ σ_i√(E γ_i²)", (BELOW, DESCENT, VARIANCE, FREE), "l1_weighted",
        **descent_terms(gap, steps, eta, L), noise=2 * (noise / batch.sqrt()),
    )


def stochastic_paper_setting(gap: Numbers, steps: Numbers, L: Numbers, noise: Numbers) -> Bound:
    r"""R2 with B = T, η = 1/√T: ``(1/T) Σ_t E‖∇f(x_t)‖_{1,Γ_t} ≤ (1/√T)[Δ + ½ avg E L_{Γ_t} + 2 avg Σ_i σ_i √(E γ_{t,i}²)]``.

    Parameters
    ----------
    gap, steps, L, noise : number or array
        As in `stochastic`.

    Returns
    -------
    Bound
        Terms ``initial``, ``smoothness`` and ``noise``, each T^{-1/2} times a constant if `L` and `noise` are constant.

    Notes
    -----
    SPEC R2; the setting of the paper's Theorems 4.12 and 4.15 (no momentum, unbiased gradients of bounded variance, batch = T,
    η = 1/√T), whose wording is not known to us.  Proof: `stochastic` with Δ/(ηT) = Δ/√T, η/2 = 1/(2√T) and 2/√B = 2/√T.  ∎

    The run costs T² samples, so that in samples N the rate is N^{-1/4}, that of R5.
    """
    gap, steps, L, noise = inputs("R2", gap=gap, steps=steps, L=L, noise=noise)
    root = steps.sqrt()
    return total(
        "R2, B = T, η = 1/√T: avg E‖∇f‖_{1,Γ} ≤ (1/√T)[Δ + ½ avg E L_Γ + 2 avg Σ σ_i√(E γ_i²)]",
        (BELOW, DESCENT, VARIANCE, FREE, "B = T, η = 1/√T"), "l1_weighted",
        initial=gap / root, smoothness=L / (2 * root), noise=2 * (noise / root),
    )


def stochastic_best(gap: Numbers, steps: Numbers, L: Numbers, noise: Numbers, *, batch: Numbers = 1) -> Bound:
    r"""R2 at η = √(2Δ/(LT)): ``(1/T) Σ_t E‖∇f(x_t)‖_{1,Γ_t} ≤ √(2ΔL/T) + (2/√B) avg Σ_i σ_i √(E γ_{t,i}²)``.

    Parameters
    ----------
    gap, steps, L : number or array
        Δ > 0, T, and an a-priori bound L > 0 on avg E L_Γ.
    noise, batch : number or array
        As in `stochastic`.

    Notes
    -----
    SPEC R2.  Proof: the noise term of `stochastic` does not depend on η, the others are R1's, see `deterministic_best`.  ∎
    """
    gap, steps, L, noise, batch = inputs("R2 at its best η", distance=gap, steps=steps, curvature=L, noise=noise, batch=batch)
    return total(
        "R2, best η: avg E‖∇f‖_{1,Γ} ≤ √(2ΔL/T) + (2/√B) avg Σ σ_i√(E γ_i²)",
        (BELOW, DESCENT, VARIANCE, FREE, "avg E L_Γ ≤ L, known beforehand", "η = √(2Δ/(LT))"), "l1_weighted",
        **balanced_terms(gap, steps, L), noise=2 * (noise / batch.sqrt()),
    )


def signs_in_expectation(gap: Numbers, steps: Numbers, eta: Numbers, L: Numbers, wrong: Numbers) -> Bound:
    r"""R2 before its Cauchy-Schwarz step: the noise term is ``2 avg Σ_i E γ_i |∂_i f| 1{sign ĝ_i ≠ sign ∂_i f}``.

    Parameters
    ----------
    gap, steps, eta, L : number or array
        As in `stochastic`.
    wrong : number or array
        The average of Σ_i E γ_i |∂_i f| 1{wrong sign}, known where the law of ĝ is; finite also for noise of infinite variance.

    Notes
    -----
    SPEC R2, steps 1-4 of `stochastic` with -∂_i sign(ĝ_i) ≤ -|∂_i| + 2|∂_i| 1{wrong sign}.  Exact up to (D): with ĝ_i ≠ 0 everywhere
    the inequality is an equality.  It tells how much of R2's slack is due to its noise term.
    """
    gap, steps, eta, L, wrong = inputs("R2 by signs", gap=gap, steps=steps, eta=eta, L=L, wrong=wrong)
    return total(
        "R2 by signs: avg E‖∇f‖_{1,Γ} ≤ Δ/(ηT) + (η/2) avg E L_Γ + 2 avg Σ E γ_i|∂_i f|1{wrong sign}", (BELOW, DESCENT, FREE),
        "l1_weighted", **descent_terms(gap, steps, eta, L), noise=2 * wrong,
    )

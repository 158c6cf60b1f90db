"""The split entrywise in a rotated basis, proved: SPEC M4 and M6, and M7 on diagonal matrices.

As in `matrix`: the algebra of one or two singular values, and exact instances of the whole statement that could say otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction

from deva_theory.certify import Case, RationalMatrix, at_most, cite, equal, positive, prove, psd_certificate, random_orthogonal, sign_cases
from deva_theory.claims.model import Evidence, Run
from paper_checks.matrix import SHAPES, Instances, judged, products, psd, pseudo_inverse

ANY_HISTORY = "any number of samples of any shape and rank, any weights, σ ≥ 0 in any order"


# ---- M4: a fixed eigenbasis --------------------------------------------------------------------------------


@dataclass(frozen=True)
class CommonBasis:
    """A history ``G_s = U diag(σ_s) Vᵀ`` with weights; the last sample is the present one."""

    U: RationalMatrix
    V: RationalMatrix
    sigma: list[list[Fraction]]
    weights: list[Fraction]

    @property
    def shape(self) -> tuple[int, int]:
        """``(m, n)``."""
        return self.U.shape[0], self.V.shape[0]

    @property
    def W(self) -> RationalMatrix:
        """``V ⊗ U``."""
        return self.V.kron(self.U)

    def gradient(self, s: int) -> RationalMatrix:
        """Return G_s."""
        return self.U @ RationalMatrix.diagonal(self.sigma[s], self.shape) @ self.V.T

    def preconditioner(self, s: int) -> RationalMatrix:
        """Return P_s; the roots in it are recognised by their squares."""
        G, k = self.gradient(s), min(self.shape)
        left, right = (Q @ RationalMatrix.diagonal(self.sigma[s], Q.shape) @ Q.T for Q in (self.U, self.V))
        if not (len(self.sigma[s]) == k and left @ left == G @ G.T and right @ right == G.T @ G and psd(left) and psd(right)):
            raise ArithmeticError("an instance's roots are not the roots of its Gram matrices")
        return right.kron(left)

    def average(self) -> RationalMatrix:
        """Return ``Σ w_s P_s``."""
        total = self.weights[0] * self.preconditioner(0)
        for s in range(1, len(self.sigma)):
            total = total + self.weights[s] * self.preconditioner(s)
        return total

    def mean(self, i: int) -> Fraction:
        """Return ``Σ w_s σ_i(s)``."""
        return sum((w * s[i] for w, s in zip(self.weights, self.sigma, strict=True)), Fraction(0))

    def moment(self, i: int, j: int) -> Fraction:
        """Return ``Σ w_s σ_i(s) σ_j(s)``."""
        return sum((w * s[i] * s[j] for w, s in zip(self.weights, self.sigma, strict=True)), Fraction(0))

    def diagonal(self, entry: Callable[[int, int], Fraction]) -> RationalMatrix:
        """Return diag(entry(i, j)) in the order of vec, 0 beyond the singular values."""
        (m, n), k = self.shape, min(self.shape)
        return RationalMatrix.diagonal([entry(i, j) if i < k and j < k else Fraction(0) for j in range(n) for i in range(m)])


def histories(run: Run, stream: int, count: int) -> Iterator[CommonBasis]:
    """Draw histories of three samples in a common basis; zeros and any order of the σ included."""
    rng = run.rng(stream)
    for i in range(count):
        m, n = SHAPES[i % len(SHAPES)]
        sigma = [[Fraction(int(x), 2) for x in rng.integers(0, 7, min(m, n))] for _ in range(3)]
        weights = [Fraction(int(x)) for x in rng.integers(1, 5, 3)]
        yield CommonBasis(random_orthogonal(rng, m), random_orthogonal(rng, n), sigma, [w / sum(weights) for w in weights])


def expectation(run: Run) -> Evidence:
    """``E[P] = (V⊗U) diag(E[σ_j σ_i]) (V⊗U)ᵀ``; twin: ``E[σ_j] E[σ_i]``."""
    proof = prove([
        Case("one more sample", nonnegative=["a", "b", "e", "x", "y", "k", "w"], squares={"p": "a**2", "q": "b**2"}, steps=[
            cite("GᵀG and GGᵀ have the eigenvectors v_j, u_i with σ_j², σ_i²: P has v_j ⊗ u_i with the product of the nonnegative roots"),
            equal("(p*q)**2", "(a*b)**2"),
            cite("so V⊗U diagonalises every sample, hence every average; the average so far has e at (i, j), the averages of σ_j, σ_i so "
                 "far are x, y, the new sample comes with weight w"),
            equal("k*e + w*(a*b)", "(k*x + w*a)*(k*y + w*b)" if run.twin else "k*e + w*a*b"),
        ]),
    ])
    exact = Instances()
    for h in histories(run, 8, run.count(36, 180)):
        W, mean = h.W, h.average()
        D = h.diagonal((lambda i, j, h=h: h.mean(i) * h.mean(j)) if run.twin else h.moment)
        exact.add(W @ D @ W.T == mean, lambda W=W, D=D, mean=mean: [
            products("E[P] in the common eigenbasis", {"W": W, "D": D, "P": mean}, ("W*W.T", "I"), ("W*D*W.T", "P")),
        ])
    return judged(run, proof, exact, "E[P] = (V⊗U) diag(E[σ_j σ_i]) (V⊗U)ᵀ", covers=ANY_HISTORY)


def adaptation(run: Run) -> Evidence:
    """The bracket is diagonal in V⊗U with ``Γ_ij = √(σ_i σ_j/E[σ_i σ_j])``; twin: ``√(E[σ_i²] E[σ_j²])`` below."""
    claimed = "a*b/f" if run.twin else "a*b/e"
    proof = prove([
        Case("σ_i σ_j > 0", positive=["a", "b", "w"], nonnegative=["rest", "p", "q"],
             definitions={"e": "w*a*b + rest"}, squares={"root": "e", "half": "a*b", "f": "(w*a**2 + p)*(w*b**2 + q)"}, steps=[
            cite("by M4-expectation (E P)^{†1/2}, P_t^{1/2} are diagonal in V⊗U with 1/√e and √(σ_i σ_j); w > 0 weighs the present sample"),
            equal("(half/root)**2", claimed),
            cite("both sides are squares of nonnegative numbers"),
        ]),
        Case("σ_i σ_j = 0", real=["x"], steps=[cite("P_t^{1/2} is 0 there, and Γ_ij = 0 (0/0 := 0 where e = 0)"), equal("x*0", "0")]),
    ])
    exact = Instances()
    for h in histories(run, 9, run.count(36, 180)):
        def fourth_power(i: int, j: int, h: CommonBasis = h) -> Fraction:
            below = h.moment(i, i) * h.moment(j, j) if run.twin else h.moment(i, j) ** 2
            return (h.sigma[-1][i] * h.sigma[-1][j]) ** 2 * _inverse(below)

        W, mean, P = h.W, h.average(), h.preconditioner(-1)
        inverse = W @ h.diagonal(lambda i, j, h=h: _inverse(h.moment(i, j))) @ W.T
        if not pseudo_inverse(mean, inverse):
            raise ArithmeticError("an instance's pseudo-inverse is none")
        # The factors commute, so the bracket's square is (E P)^† P_t; that and its square are rational where the roots are not.
        square, D = inverse @ P, h.diagonal(fourth_power)
        exact.add(square @ square == W @ D @ W.T, lambda W=W, D=D, A=mean, K=inverse, P=P: [products(
            "the bracket in the common eigenbasis, to the fourth power", {"W": W, "D": D, "A": A, "K": K, "P": P},
            ("W*W.T", "I"), ("A*K*A", "A"), ("K*A*K", "K"), ("A*K", "(A*K).T"), ("K*P", "P*K"), ("K*P*K*P", "W*D*W.T"),
        )])
    return judged(run, proof, exact, "the bracket acts entrywise, by √(σ_i σ_j/E[σ_i σ_j])", covers=ANY_HISTORY)


def _inverse(x: Fraction) -> Fraction:
    return 1 / x if x else Fraction(0)


def update(run: Run) -> Evidence:
    """The update is ``U diag(σ_i/√E[σ_i²]) Vᵀ``; twin: the plain mean below."""
    proof = prove([
        Case("σ_i > 0", positive=["s", "w"], nonnegative=["rest", "mean"], definitions={"e": "w*s**2 + rest", "m": "w*s + mean"},
             squares={"root": "e", "gamma": "s*s/e"}, steps=[
            cite("in the bases U, V the polar factor is diagonal, 1 for σ_i > 0, and Γ_ii = √(σ_i σ_i/E[σ_i σ_i]); σ_i = 0 gives 0 twice"),
            equal("gamma**2", "s**2/m**2" if run.twin else "s**2/e"),
            equal("(s/root)**2", "gamma**2"),
        ]),
    ])
    exact, rng = Instances(), run.rng(10)
    for i in range(run.count(36, 160)):
        m, n = SHAPES[i % 4]
        # (3, 4) and (24, 18): Σσ_1² = 5², Σσ_2² = 30² and Σσ_1σ_2 = 12² are squares, and stay so when a row is scaled by a square.
        a, b = (Fraction(int(x), int(y)) ** 2 for x, y in rng.integers(1, 4, (2, 2)))
        sigma = [[x * y for x, y in zip((a, b), row, strict=True)][: min(m, n)] for row in ((3, 24), (4, 18))]
        h = CommonBasis(random_orthogonal(rng, m), random_orthogonal(rng, n), sigma, [Fraction(1), Fraction(1)])
        total, W = h.average(), h.W
        root = W @ h.diagonal(lambda i, j, h=h: _inverse(rational_root(h.moment(i, j)))) @ W.T
        if not (pseudo_inverse(total, root @ root) and psd(root)):
            raise ArithmeticError("an instance's root is not the root of the sum")
        below = [h.mean(i) if run.twin else rational_root(h.moment(i, i)) for i in range(min(m, n))]
        step = h.U @ RationalMatrix.diagonal([s / x for s, x in zip(sigma[-1], below, strict=True)], (m, n)) @ h.V.T
        g, x = h.gradient(-1).vec(), step.vec()
        exact.add(root @ g == x, lambda S=total, K=root, g=g, x=x: [
            products(
                "(ΣP)^{†1/2} vec G_t is AdaGrad on the singular values, K = (ΣP)^{†1/2}", {"S": S, "K": K, "g": g, "x": x},
                ("S*K*K*S", "S"), ("K*K*S*K*K", "K*K"), ("S*K*K", "(S*K*K).T"), ("K", "K.T"), ("K*g", "x"),
            ),
            psd_certificate(K, name="K"),
        ])
    return judged(run, proof, exact, "the update is U diag(σ_i/√E[σ_i²]) Vᵀ", covers=ANY_HISTORY)


def off_diagonal(run: Run) -> Evidence:
    """Γ_ij with i ≠ j acts on nothing: any other values give the same update; twin: any other Γ_ii."""
    proof = prove([
        Case("an entry of Γ", positive=["d"], real=["g"], steps=[
            cite("in the bases U, V the polar factor is diagonal: 0 where i ≠ j, 1 where i = j and σ_i > 0"),
            equal("(g + d)*1", "g*1") if run.twin else equal("(g + d)*0", "g*0"),
        ]),
    ])
    exact, rng = Instances(), run.rng(15)
    for h in histories(run, 16, run.count(24, 96)):
        m, n = h.shape
        polar = h.U @ RationalMatrix.diagonal([Fraction(x > 0) for x in h.sigma[-1]], h.shape) @ h.V.T
        gamma = RationalMatrix(rng.integers(1, 6, (m, n)).tolist())
        change = RationalMatrix([[int(rng.integers(1, 6)) if (i == j) == run.twin else 0 for j in range(n)] for i in range(m)])
        first, second = (h.U @ A.hadamard(h.U.T @ polar @ h.V) @ h.V.T for A in (gamma, gamma + change))
        exact.add(first == second, lambda h=h, polar=polar: [
            products("the polar factor is diagonal in the common basis", {"U": h.U, "V": h.V, "O": polar, "D": h.U.T @ polar @ h.V},
                     ("U*D*V.T", "O"), ("U*U.T", "I"), ("V*V.T", "I")),
        ])
    return judged(run, proof, exact, "only the diagonal of Γ acts", covers=ANY_HISTORY)


def rational_root(x: Fraction) -> Fraction:
    """Return the root of a square."""
    root = Fraction(round(float(x.numerator) ** 0.5), round(float(x.denominator) ** 0.5))
    if root * root != x:
        raise ArithmeticError(f"{x} is no square")
    return root


# ---- M6: covariance against marginals ----------------------------------------------------------------------

_SUMS = {"positive": ["A", "w"], "nonnegative": ["D", "k"], "definitions": {"B": "(D + C**2)/A"}}
"""Averages so far: A of a², B of b², C of ab, with D = AB - C² ≥ 0; the next sample is k·old + w·new."""


def _moments(run: Run, stream: int, count: int, proportional: Callable[[int], bool]) -> Iterator[list[tuple[Fraction, Fraction]]]:
    """Draw histories of (r_i, c_j), some of them proportional."""
    rng = run.rng(stream)
    for i in range(count):
        factor = Fraction(int(rng.integers(1, 5)), int(rng.integers(1, 5)))
        first = [Fraction(int(x), 2) for x in rng.integers(0, 7, int(rng.integers(2, 6)))]
        second = [factor * x for x in first] if proportional(i) else [Fraction(int(x), 2) for x in rng.integers(0, 7, len(first))]
        yield list(zip(first, second, strict=True))


def _averages(history: Iterable[tuple[Fraction, Fraction]]) -> tuple[Fraction, Fraction, Fraction]:
    """Return the EMAs with factor 2/3 of a², b² and ab."""
    A = B = C = Fraction(0)
    for a, b in history:
        A, B, C = (Fraction(2, 3) * old + Fraction(1, 3) * new for old, new in ((A, a * a), (B, b * b), (C, a * b)))
    return A, B, C


def covariance(run: Run) -> Evidence:
    """``E[r_i c_j]² ≤ E[r_i²] E[c_j²]``, hence Γ from the covariance is entrywise the larger; twin: the smaller."""
    order = ("x/C", "x/R") if run.twin else ("x/R", "x/C")
    proof = prove([
        Case("one more sample, A > 0", **_SUMS, real=["C", "a", "b"], steps=[
            cite("EMA: k = β, w = 1-β; sum: k = w = 1. First sample: A = a², B = b², C = ab, D = 0"),
            equal("A*B - C**2", "D"),
            at_most("(k*C + w*a*b)**2", "(k*A + w*a**2)*(k*B + w*b**2)", because="k**2*D + k*w*((A*b - C*a)**2 + D*a**2)/A"),
        ]),
        Case("one more sample, A = 0", positive=["w"], nonnegative=["B", "k"], real=["a", "b"], steps=[
            cite("all r_i so far are 0, hence C = 0"),
            at_most("(w*a*b)**2", "(w*a**2)*(k*B + w*b**2)", because="k*w*B*a**2"),
        ]),
        Case("Γ", positive=["x", "C"], nonnegative=["D"], squares={"R": "D + C**2", "u": "x/C", "v": "x/R"}, steps=[
            cite("x = r_i c_j now, R = √(E[r_i²] E[c_j²]), u and v the two Γ_ij; C = 0 means x = 0, and both Γ_ij are 0"),
            at_most(*order, because="x*D/((R + C)*R*C)"),
            at_most(*(("u", "v") if run.twin else ("v", "u")), because="(x*D/((R + C)*R*C))/(u + v)"),
        ]),
    ])
    exact = Instances()
    for history in _moments(run, 11, run.count(100, 1000), lambda i: i % 5 == 0):
        A, B, C = _averages(history)
        exact.add(C * C >= A * B if run.twin else C * C <= A * B, lambda A=A, B=B, C=C: [
            {"type": "values", "show": [[f"({C})**2", "<=", f"({A})*({B})"]]},
        ])
    return judged(run, proof, exact, "E[r_i c_j] ≤ √(E[r_i²] E[c_j²])", covers="any number of samples, sums and EMAs")


def proportional(run: Run) -> Evidence:
    """Equal where ``c_j = κ r_i`` throughout (κ = 1: SPEC's case); twin: the last sample breaks the proportion."""
    b = "q*a + e" if run.twin else "q*a"
    proof = prove([
        Case("one more sample", positive=["A", "w", "q", "e", "a"], nonnegative=["k"],
             definitions={"C": "q*A", "B": "q**2*A", "b": b}, steps=[
            cite("c = q r so far: C = q A, B = q² A"),
            equal("(k*A + w*a**2)*(k*B + w*b**2) - (k*C + w*a*b)**2", "0"),
            cite("so E[r c] and √(E[r²] E[c²]), both nonnegative, have the same square"),
        ]),
    ])
    exact = Instances()
    for history in _moments(run, 12, run.count(100, 1000), lambda i: True):
        if not any(a for a, _ in history):
            continue
        row, column = history[-1]
        changed = [*history[:-1], (row, column + 1)] if run.twin else history
        A, B, C = _averages(changed)
        # Changing the last sample breaks the proportion only if an earlier one sets it.
        if run.twin and not any(x for x, _ in history[:-1]):
            continue
        exact.add(A * B == C * C, lambda A=A, B=B, C=C: [{"type": "values", "show": [[f"({C})**2", "==", f"({A})*({B})"]]}])
    return judged(run, proof, exact, "E[r_i c_j] = √(E[r_i²] E[c_j²]) where c_j = κ r_i", covers="any number of samples, sums and EMAs")


def strict(run: Run) -> Evidence:
    """Equal only where c_j is proportional to r_i; twin: only where they are equal."""
    premise = {"b": "a + d"} if run.twin else {"b": "(C*a + d)/A"}
    proof = prove([
        Case(f"a sample out of proportion, {side}", positive=["A", "k", "w", "d"], nonnegative=["D"], real=["C", "a"],
             definitions={"B": "(D + C**2)/A", "b": next(iter(premise.values())).replace("d", sign + "d")}, steps=[
            cite("r, c so far with A > 0; A b - C a = ±d ≠ 0 says that the sample (a, b) is not in the proportion C : A of the others"),
            equal("(k*A + w*a**2)*(k*B + w*b**2) - (k*C + w*a*b)**2", "k**2*D + k*w*((A*b - C*a)**2 + D*a**2)/A"),
            positive("k**2*D + k*w*((A*b - C*a)**2 + D*a**2)/A"),
            cite("and D > 0 stays: the next difference is at least k² D"),
        ])
        for side, sign in (("above", ""), ("below", "-1*"))
    ] + [
        Case("r_i = 0 so far, c_j not: A = C = 0 < B", positive=["B", "k", "w", "a"], real=["b"], steps=[
            cite("the first case with r and c exchanged: B a - C b = B a ≠ 0, a first r_i = a ≠ 0 is in no proportion with the c_j so far"),
            equal("(k*0 + w*a**2)*(k*B + w*b**2) - (k*0 + w*a*b)**2", "k*w*B*a**2"),
            positive("k*w*B*a**2"),
        ]),
    ])
    exact = Instances()
    for history in _moments(run, 13, run.count(100, 1000), lambda i: i % 2 == 0):
        A, B, C = _averages(history)
        if A == 0 or B == 0 or A * B != C * C:
            continue  # no equality, or a side that is 0 throughout
        tied = all(x == y for x, y in history) if run.twin else all(x * C == y * A for x, y in history)
        exact.add(tied)
    covers = "any number of samples, sums and EMAs, r_i and c_j not 0 throughout"
    return judged(run, proof, exact, "equality needs c_j = κ r_i throughout", covers=covers)


# ---- M7: vectors as diagonal matrices ----------------------------------------------------------------------


def diagonal(run: Run) -> Evidence:
    """The S∞ rule on diag(g) is the ℓ∞ rule on g under M7's conditions; twin: ε where each rule prints it."""
    above, below = ("abs(m)*abs(m) + eps", "v + eps") if run.twin else ("abs(m)*abs(m)", "v")
    proof = prove(sign_cases(
        [
            cite("M' = diag(m): row i and column i have the norm |m_i| = r_i = c_i, so r_i c_i is what ℓ∞ averages"),
            equal("abs(m)*abs(m)", "m**2"),
            cite("V_ii and v_i start at 0 and take the same step; bias corrections are the same factor on both; v = 0 means m = 0 so far: "
                 "both Γ are 0"),
            equal("k*v + w*(abs(m)*abs(m))", "k*v + w*m**2"),
            equal(f"({above})/v", f"m**2/({below})"),
            cite("m_i = sign(m_i)·|m_i|: singular value |m_i|, polar factor diag(sign m) (0 at 0)"),
            equal("sign(m)*abs(m)", "m"),
            cite("off the diagonal the polar factor is 0: Γ_ij, i ≠ j, multiplies 0"),
        ],
        signed=["m"], positive=["v", "w", "eps"], nonnegative=["k"],
    ))
    exact, rng = Instances(), run.rng(14)
    for _ in range(run.count(40, 400)):
        betas = [Fraction(int(rng.integers(0, 4)), 4) for _ in range(2)]
        history = [[Fraction(int(x), 2) for x in rng.integers(-3, 4, 3)] for _ in range(4)]
        eps = Fraction(1, 10**8) if run.twin else Fraction(0)
        exact.add(_spectral_squares(history, *betas, eps) == _linf_squares(history, *betas, eps))
    return judged(run, proof, exact, "S∞ on diag(g) = ℓ∞ on g", covers="every history; one entry at a time, by induction over the steps")


def _linf_squares(history: list[list[Fraction]], beta1: Fraction, beta2: Fraction, eps: Fraction) -> list[list[Fraction]]:
    """Return ``sign(m) Γ²`` of every step of the ℓ∞ rule."""
    m = [Fraction(0)] * len(history[0])
    v, out = m, []
    for g in history:
        m = [beta1 * x + (1 - beta1) * y for x, y in zip(m, g, strict=True)]
        v = [beta2 * x + (1 - beta2) * y * y for x, y in zip(v, m, strict=True)]
        out.append([((x > 0) - (x < 0)) * x * x / (y + eps) if y + eps else Fraction(0) for x, y in zip(m, v, strict=True)])
    return out


def _spectral_squares(history: list[list[Fraction]], beta1: Fraction, beta2: Fraction, eps: Fraction) -> list[list[Fraction]]:
    """Return the diagonal of ``msign(M') ⊙ Γ²`` of every step of the S∞ rule on diag(g), as a rule on whole matrices."""
    d = len(history[0])
    M, V, out = RationalMatrix.zeros(d, d), RationalMatrix.zeros(d, d), []
    for g in history:
        M = beta1 * M + (1 - beta1) * RationalMatrix.diagonal(g)
        # Norms from the Gram matrices: MMᵀ and MᵀM have the squares r² and c² on their diagonals.
        r = [rational_root((M @ M.T)[i, i]) for i in range(d)]
        c = [rational_root((M.T @ M)[j, j]) for j in range(d)]
        product = RationalMatrix([[x * y for y in c] for x in r])
        V = beta2 * V + (1 - beta2) * product
        gamma = RationalMatrix([[(product[i, j] + eps) / V[i, j] if V[i, j] else 0 for j in range(d)] for i in range(d)])
        O = RationalMatrix.diagonal([(M[i, i] > 0) - (M[i, i] < 0) for i in range(d)])
        H = O.T @ M
        # msign: a partial isometry with M = O H, H psd, that is 0 where M is.
        if not (O @ O.T @ O == O and O @ H == M and psd(H) and all(bool(M[i, i]) == bool(O[i, i]) for i in range(d))):
            raise ArithmeticError("the sign matrix is not the polar factor")
        step = gamma.hadamard(O)
        if any(step[i, j] for i in range(d) for j in range(d) if i != j):
            raise ArithmeticError("the step is not diagonal")
        out.append([step[i, i] for i in range(d)])
    return out

"""The matrix decomposition, proved: SPEC M1 to M3; M4, M6 and M7 are in `matrix_basis`.

In the bases of the singular vectors every one of these statements falls apart into statements about one or two singular values,
which are algebra.  The reduction is cited in the proof; so that a wrong one is noticed, each statement is also decided exactly, without
it, on rational instances of every shape and rank.  A verdict needs both: proved, and no instance that says otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from deva_theory.certify import (
    Case,
    Proof,
    RationalMatrix,
    RationalSVD,
    at_most,
    cite,
    equal,
    positive,
    prove,
    psd_certificate,
    random_orthogonal,
    rational_svd,
)
from deva_theory.claims.model import Evidence, Run, Verdict

SHAPES = ((2, 2), (3, 2), (2, 3), (1, 2), (2, 1), (1, 1))
"""Square, tall, wide, row, column and number."""

QUARTER, HALF = Fraction(1, 4), Fraction(1, 2)
EVERY_MATRIX = "every real matrix, by its singular value decomposition"


@dataclass
class Instances:
    """Exact instances of a statement.

    Attributes
    ----------
    held, failed : int
    certificates : list of dict
        Of a few that held.
    """

    held: int = 0
    failed: int = 0
    certificates: list[Mapping[str, Any]] = field(default_factory=list)

    def add(self, holds: bool, certificates: Callable[[], Iterable[Mapping[str, Any] | None]] = tuple) -> None:
        """Count one instance; some of the first that hold, of different shapes and ranks, leave their certificates, too."""
        if not holds:
            self.failed += 1
            return
        self.held += 1
        if self.held in (1, 2, 5, 7):
            self.certificates += [c for c in certificates() if c is not None]


def judged(run: Run, proof: Proof | None, exact: Instances, summary: str, *, covers: str = "") -> Evidence:
    """Refute by an exact instance, prove by the proof when no instance objects; support by instances alone where no proof is meant."""
    verdict = Verdict.INCONCLUSIVE
    if exact.failed:
        verdict = Verdict.REFUTED
    elif exact.held and proof is None:
        verdict = Verdict.SUPPORTED
    elif exact.held and proof is not None and proof.holds:
        verdict = Verdict.PROVED
    found = f"{exact.held} of {exact.held + exact.failed} exact instances hold"
    if proof is not None:
        found += f"; {'proof complete' if proof.holds else 'proof fails: ' + proof.failure}"
    return Evidence(
        verdict,
        method="exact rationals" if proof is None else "symbolic",
        summary=f"{summary}: {found}",
        covers=covers,
        numbers={"instances": exact.held + exact.failed, "violated": exact.failed},
        budget={"instances": exact.held + exact.failed},
        seed=run.seed,
        certificates=[*([proof.certificate] if proof is not None and proof.holds else []), *exact.certificates],
        steps=proof.lines if proof is not None else (),
    )


def products(statement: str, matrices: Mapping[str, RationalMatrix], *show: tuple[str, str]) -> dict[str, Any]:
    """Return a certificate of exact matrix identities."""
    strings = {name: A.strings() for name, A in matrices.items()}
    return {"type": "products", "statement": statement, "matrices": strings, "show": [list(pair) for pair in show]}


def instances(run: Run, count: int, *, fourth_roots: bool = True, stream: int = 0) -> Iterator[RationalSVD]:
    """Draw matrices of every shape and rank from 0 up, in turn."""
    rng = run.rng(stream)
    kinds = [(m, n, rank) for m, n in SHAPES for rank in range(min(m, n), -1, -1)]
    for i in range(count):
        m, n, rank = kinds[i % len(kinds)]
        yield rational_svd(rng, m, n, rank, fourth_roots=fourth_roots, distinct=i % 3 != 1)


def power(A: RationalMatrix, k: int) -> RationalMatrix:
    """Return A^k for k ≥ 1."""
    return A if k == 1 else A @ power(A, k - 1)


def psd(A: RationalMatrix) -> bool:
    """Whether a symmetric matrix is positive semidefinite."""
    return psd_certificate(A) is not None


def pseudo_inverse(A: RationalMatrix, B: RationalMatrix) -> bool:
    """Whether ``B = A^†``: Penrose's four conditions."""
    return A @ B @ A == A and B @ A @ B == B and (A @ B).T == A @ B and (B @ A).T == B @ A


# ---- M1: one sample ----------------------------------------------------------------------------------------


def one_sample(run: Run) -> Evidence:
    """``(GGᵀ)^{†1/4} G (GᵀG)^{†1/4} = msign G``; twin: exponent 1/2 on the right."""
    k = 2 if run.twin else 1
    proof = prove([
        Case("σ > 0", positive=["s"], squares={"q": "s"}, steps=[
            cite("G = U Σ Vᵀ: GGᵀ = U ΣΣᵀ Uᵀ and GᵀG = V ΣᵀΣ Vᵀ, so in the bases U and V both sides are diagonal, one entry per σ"),
            equal("q**4", "s**2"),
            cite("q is nonnegative: it is the fourth root of the eigenvalue σ² of both Gram matrices"),
            equal(f"(1/q)*s*(1/q**{k})", "1"),
        ]),
        Case("entries of Σ that are 0", real=["x", "y"], steps=[
            cite("σ = 0 and entries off the diagonal: the factors x, y stand on both sides, pseudo-inverse roots, whatever they are"),
            equal("x*0*y", "0"),
        ]),
    ])
    exact = Instances()
    for G in instances(run, run.count(60, 480)):
        left, right = G.power_left(-QUARTER), G.power_right(-k * QUARTER)
        exact.add(left @ G.matrix() @ right == G.msign())
    return judged(run, proof, exact, "one-sample Shampoo is the polar factor", covers=EVERY_MATRIX)


def one_sample_exact(run: Run) -> Evidence:
    """The same on instances, roots and polar factor recognised by what defines them, not by the decomposition; twin: 1/2 on the right."""
    exact = Instances()
    for svd in instances(run, run.count(60, 480), stream=1):
        G, A, B, O = svd.matrix(), svd.power_left(-QUARTER), svd.power_right((-2 if run.twin else -1) * QUARTER), svd.msign()
        C = svd.power_right(-QUARTER)
        H = O.T @ G
        # A, C: the psd fourth roots of the pseudo-inverses. O: the partial isometry with G = O H, H psd, on the range of GᵀG.
        recognised = (
            pseudo_inverse(G @ G.T, power(A, 4)) and pseudo_inverse(G.T @ G, power(C, 4)) and O @ O.T @ O == O and O @ H == G
            and power(C, 4) @ G.T @ G == O.T @ O and all(map(psd, (A, C, H)))
        )
        if not recognised:
            raise ArithmeticError("an instance's roots or polar factor are not what they should be")
        exact.add(A @ G @ B == O, lambda G=G, A=A, B=B, O=O, H=H: [
            products(
                "one-sample Shampoo is the polar factor", {"G": G, "A": A, "B": B, "O": O},
                ("A*A*A*A*(G*G.T)*A*A*A*A", "A*A*A*A"), ("(G*G.T)*A*A*A*A*(G*G.T)", "G*G.T"), ("A", "A.T"),
                ("B*B*B*B*(G.T*G)*B*B*B*B", "B*B*B*B"), ("(G.T*G)*B*B*B*B*(G.T*G)", "G.T*G"), ("B", "B.T"),
                ("O*O.T*O", "O"), ("O*O.T*G", "G"), ("B*B*B*B*(G.T*G)", "O.T*O"), ("A*G*B", "O"),
            ),
            psd_certificate(A, name="A, so that it is the root"), psd_certificate(B, name="B"), psd_certificate(H, name="O.T*G"),
        ])
    return judged(run, None, exact, "(GGᵀ)^{†1/4} G (GᵀG)^{†1/4} = msign G", covers="random rational matrices of six shapes and every rank")


def one_sample_kronecker(run: Run) -> Evidence:
    """``P^{†1/2} vec G = vec msign G``; twin: the whole pseudo-inverse in place of its root."""
    k = 2 if run.twin else 1
    proof = prove([
        Case("direction v_i ⊗ u_i, σ_i > 0", positive=["s"], squares={"p": "s*s"}, steps=[
            cite("(GᵀG)^{1/2} = V diag(σ) Vᵀ and (GGᵀ)^{1/2} = U diag(σ) Uᵀ: P has the eigenvalue σ_j σ_i at v_j ⊗ u_i"),
            cite("vec G = Σ_i σ_i v_i ⊗ u_i and vec msign G = Σ_{σ_i > 0} v_i ⊗ u_i, because vec(u vᵀ) = v ⊗ u"),
            equal("p**2", "s*s"),
            equal(f"(s/p**{k})**2", "1"),
            cite("s/p is nonnegative, hence 1"),
        ]),
        Case("other directions", real=["x"], steps=[
            cite("v_j ⊗ u_i with i ≠ j or σ_i = 0: vec G has no component there"),
            equal("x*0", "0"),
        ]),
    ])
    exact = Instances()
    for svd in instances(run, run.count(60, 480), stream=2):
        G, O = svd.matrix(), svd.msign()
        P = svd.power_right(HALF).kron(svd.power_left(HALF))
        root = svd.power_right(-QUARTER).kron(svd.power_left(-QUARTER))
        if not (pseudo_inverse(P, root @ root) and psd(root)):
            raise ArithmeticError("an instance's Kronecker root is not the root of the pseudo-inverse")
        K = power(root, k)
        exact.add(K @ G.vec() == O.vec(), lambda P=P, K=K, G=G, O=O: [
            products(
                "P^{†1/2} vec G = vec msign G, K = P^{†1/2}", {"P": P, "K": K, "g": G.vec(), "o": O.vec()},
                ("P*K*K*P", "P"), ("K*K*P*K*K", "K*K"), ("P*K*K", "(P*K*K).T"), ("K", "K.T"), ("K*g", "o"),
            ),
            psd_certificate(K, name="K"),
        ])
    return judged(run, proof, exact, "P^{†1/2} vec G = vec msign G", covers=EVERY_MATRIX)


# ---- M2: domination ----------------------------------------------------------------------------------------


def domination(run: Run) -> Evidence:
    """``vec G vec Gᵀ ≼ r P``; twin: ``(r - 1/100) P``."""
    shift = "1/100" if run.twin else "0"
    proof = prove([
        Case("rank 1", real=["y"], steps=[
            cite("on v_j ⊗ u_i, i ≠ j or σ_i = 0, r P has an eigenvalue ≥ 0 and vec G no component; on the r directions v_i ⊗ u_i "
                 "the statement at z is (Σ σ_i z_i)² ≤ r Σ σ_i² z_i²; write y_i = σ_i z_i, S = Σ y_i, N = Σ y_i²"),
            at_most("y**2", f"(1 - {shift})*y**2", because="0"),
        ]),
        Case("from rank r to r + 1", positive=["r"], nonnegative=["D"], real=["S", "y"], definitions={"N": "(D + S**2)/r"}, steps=[
            cite("the hypothesis for r terms is D = r N - S² ≥ 0"),
            equal("r*N - S**2", "D"),
            at_most("(S + y)**2", f"(r + 1 - {shift})*(N + y**2)", because="D + (D + (r*y - S)**2)/r"),
        ]),
    ])
    exact = Instances()
    for svd in instances(run, run.count(60, 480), fourth_roots=False, stream=3):
        P, g = svd.power_right(HALF).kron(svd.power_left(HALF)), svd.matrix().vec()
        gap = (Fraction(svd.rank) - Fraction(shift)) * P - g @ g.T
        name = f"r P - vec G vec Gᵀ, {svd.shape[0]}×{svd.shape[1]}, rank {svd.rank}"
        exact.add(psd(gap), lambda gap=gap, name=name: [psd_certificate(gap, name=name)])
    return judged(run, proof, exact, "vec G vec Gᵀ ≼ r P", covers="every real matrix, by induction on the rank")


def best_constant(run: Run) -> Evidence:
    """``vec Gᵀ P^† vec G = r``: no constant below r will do; twin: min(m, n) in place of r."""
    zero = "1" if run.twin else "0"
    proof = prove([
        Case("a pair with σ > 0 counts 1", positive=["s"], steps=[
            cite("at v_i ⊗ u_i: vec G has σ_i, P has σ_i²"),
            equal("s*(1/(s*s))*s", "1"),
        ]),
        Case("a pair with σ = 0 counts 0", real=["x"], steps=[equal("0*x*0", zero)]),
        Case("a constant c = r - d fails at z = P^† vec G", positive=["r", "d"], definitions={"c": "r - d"}, steps=[
            cite("zᵀ(c P - vec G vec Gᵀ)z = c vec Gᵀ P^† vec G - (vec Gᵀ P^† vec G)² = c r - r²"),
            equal("c*r - r**2", "-(d*r)"),
            positive("d*r"),
        ]),
    ])
    exact = Instances()
    for svd in instances(run, run.count(60, 480), fourth_roots=False, stream=4):
        P = svd.power_right(HALF).kron(svd.power_left(HALF))
        inverse = svd.power_right(-HALF).kron(svd.power_left(-HALF))
        if not pseudo_inverse(P, inverse):
            raise ArithmeticError("an instance's pseudo-inverse is none")
        g, count = svd.matrix().vec(), RationalMatrix([[min(svd.shape) if run.twin else svd.rank]])
        exact.add(g.T @ inverse @ g == count, lambda P=P, K=inverse, g=g, count=count: [products(
            "vec Gᵀ P^† vec G is the rank", {"P": P, "K": K, "g": g, "r": count},
            ("P*K*P", "P"), ("K*P*K", "K"), ("P*K", "(P*K).T"), ("K*P", "(K*P).T"), ("g.T*K*g", "r"),
        )])
    return judged(run, proof, exact, "vec Gᵀ P^† vec G = rank G", covers="every real matrix G ≠ 0; with M2 the least constant is r exactly")


# ---- M3: the exact split -----------------------------------------------------------------------------------


def split(run: Run) -> Evidence:
    """``P^{1/2} vec msign G = vec G``, ``(GGᵀ)^{1/4} msign(G) (GᵀG)^{1/4} = G``; twin: P and (GGᵀ)^{1/2} without root."""
    k = 2 if run.twin else 1
    proof = prove([
        Case("σ > 0", positive=["s"], squares={"q": "s"}, steps=[
            cite("(ΣP)^{†1/2} vec G_t = (ΣP)^{†1/2} P_t^{1/2} vec msign G_t follows from vec G_t = P_t^{1/2} vec msign G_t, "
                 "whatever the sum is; for the Shampoo factors from G_t = (G_tG_tᵀ)^{1/4} msign(G_t) (G_tᵀG_t)^{1/4}"),
            equal("(q*q)**2", "s*s"),
            cite("P_t^{1/2} has the root q·q of σ·σ at v_i ⊗ u_i; the fourth roots of the Gram matrices have q"),
            equal(f"(q*q)**{k}*1", "s"),
            equal(f"q**{k}*1*q", "s"),
        ]),
        Case("other directions", real=["x", "y"], steps=[cite("msign G_t and G_t are both 0 there"), equal("x*0*y", "0")]),
    ])
    exact = Instances()
    for svd in instances(run, run.count(60, 480), stream=5):
        G, O = svd.matrix(), svd.msign()
        left, right = svd.power_left(k * QUARTER), svd.power_right(QUARTER)
        outer = svd.power_right(k * QUARTER).kron(left)
        exact.add(left @ O @ right == G and outer @ O.vec() == G.vec(), lambda left=left, right=right, O=O, G=G: [products(
            "G = (GGᵀ)^{1/4} msign(G) (GᵀG)^{1/4}", {"A": left, "B": right, "O": O, "G": G},
            ("A*A*A*A", "G*G.T"), ("B*B*B*B", "G.T*G"), ("A*O*B", "G"),
        )])
    return judged(run, proof, exact, "vec G = P^{1/2} vec msign G", covers="every history: the sum does not enter")


def bracket_instances(
    run: Run, k: int, count: int, *, include: bool, stream: int
) -> Iterator[tuple[RationalMatrix, RationalMatrix, RationalMatrix]]:
    """Yield psd Y, Z and Z^†, where ``Z^k = Y^k + (something psd)`` if `include`, otherwise Z^k without Y^k.

    For k = 2: Y² = P_t, Z² = ΣP; for k = 4: Y⁴ = G_tG_tᵀ, Z⁴ = L.  The bracket is ``Z^† Y``.
    """
    rng = run.rng(stream)
    for i in range(count):
        d, dead = (2, 3, 2, 1)[i % 4], i % 3 == 2
        Y = rational_svd(rng, d, d, d - (i % 2 if d > 1 else 0)).power_left(QUARTER)
        Q = random_orthogonal(rng, d)
        Z = Q @ RationalMatrix.diagonal([Fraction(int(x), 6) for x in rng.integers(1, 18, d)]) @ Q.T
        # The smallest multiple by quarters that holds the present sample: close to the boundary.
        scale = Fraction(1, 4)
        while include and not psd(power(scale * Z, k) - power(Y, k)):
            scale += Fraction(1, 4)
        Z = scale * Z
        inverse = Z.inverse()
        if dead:  # directions that no sample has
            W = random_orthogonal(rng, d + 1)
            Y, Z, inverse = (W @ RationalMatrix([*([*row, 0] for row in A.tolist()), [0] * (d + 1)]) @ W.T for A in (Y, Z, inverse))
        yield Y, Z, inverse


def _bracket_norms(run: Run, k: int, stream: int) -> Instances:
    exact = Instances()
    for Y, Z, inverse in bracket_instances(run, k, run.count(48, 320), include=not run.twin, stream=stream):
        if not (pseudo_inverse(Z, inverse) and psd(Z) and psd(Y)):
            raise ArithmeticError("an instance's roots are not what they should be")
        F = inverse @ Y
        gap = RationalMatrix.identity(F.shape[0]) - F @ F.T
        exact.add(psd(gap), lambda gap=gap, Y=Y, Z=Z: [
            psd_certificate(power(Z, k) - power(Y, k), name="sum minus present sample"),
            psd_certificate(gap, name="1 - F Fᵀ, F the bracket"),
        ])
    return exact


def _norm_lemma(premise: str) -> Case:
    return Case(
        "B ≼ A gives ‖A^{†1/2} B^{1/2}‖ ≤ 1", nonnegative=["b", "away"] + ([premise] if premise == "rest" else []),
        real=[] if premise == "rest" else [premise], definitions={"a": f"b + {premise}", "z": "a + away"}, steps=[
            cite("‖A^{†1/2} B^{1/2}‖² is the largest xᵀBx over x = A^{†1/2} z, ‖z‖ = 1; write b = xᵀBx, rest = xᵀ(A - B)x, a = xᵀAx"),
            cite("xᵀAx = zᵀΠz with Π the projector on the range of A, and away = ‖z‖² - zᵀΠz ≥ 0"),
            at_most("b", "z", because=f"{premise} + away"),
        ],
    )


def brackets(run: Run) -> Evidence:
    """``‖(ΣP)^{†1/2} P_t^{1/2}‖ ≤ 1``; twin: the present sample left out of the sum."""
    proof = prove([_norm_lemma("any" if run.twin else "rest")])
    covers = (
        "all psd matrices P_t ≼ ΣP, Kronecker products or not; cited: the norm as a largest quadratic form, the projector "
        "A^{†1/2}AA^{†1/2}"
    )
    return judged(run, proof, _bracket_norms(run, 2, 6), "‖(ΣP)^{†1/2} P_t^{1/2}‖ ≤ 1", covers=covers)


def shampoo_brackets(run: Run) -> Evidence:
    """``‖L^{†1/4} (G_tG_tᵀ)^{1/4}‖ ≤ 1``, the same on the right; twin: the present sample left out of the sum."""
    premise = "any" if run.twin else "rest"
    proof = prove([
        Case("X² ≽ Y² gives X ≽ Y", positive=["w"], real=["l", "y"] + ([] if premise == "rest" else [premise]),
             nonnegative=[premise] if premise == "rest" else [], definitions={"least": f"{premise}/w"}, steps=[
            cite("X = L^{1/2}, Y = (G_tG_tᵀ)^{1/2}: X² - Y² ≽ 0 is the sum of the other samples. Let (X - Y)u = l u, ‖u‖ = 1, y = uᵀYu, "
                 "uᵀXu = y + l; then uᵀ(X² - Y²)u = ‖Yu + l u‖² - ‖Yu‖² = 2 l y + l²"),
            equal("2*l*y + l**2", "l*((y + l) + y)"),
            cite("so l·w = rest with w = uᵀ(X + Y)u ≥ 0; if w = 0 then Xu = Yu = 0 and l = 0, otherwise l = rest/w"),
            at_most("0", "least", because=f"{premise}/w"),
        ]),
        _norm_lemma(premise),
    ])
    covers = (
        "every history; the right bracket is the left one of the transposes; cited: eigenvectors, the norm as a largest quadratic form, "
        "the projector A^{†1/2}AA^{†1/2}"
    )
    return judged(run, proof, _bracket_norms(run, 4, 7), "‖L^{†1/4} (G_tG_tᵀ)^{1/4}‖ ≤ 1", covers=covers)

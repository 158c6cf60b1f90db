"""The stochastic gradient of E1's unsquared loss: A5, it is homogeneous of degree 0, biased, and does not vanish."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from deva_theory.certify import Case, equal, positive
from deva_theory.claims.model import Evidence, Run, Verdict
from deva_theory.problems import SPECTRA, TraceQuadratic, block_hessian
from experiments._trace_quadratic_runs import HESSIANS, Config, Instances, trajectory
from paper_checks.entrywise_formula import Subject, conformity
from paper_checks.recorded_runs import HETEROGENEOUS
from paper_checks.verdicts import proved, refutation


def expected_gradient(A: Tensor, X: Tensor, rows: int, *, squared: bool = False) -> Tensor:
    """Return E ĝ exactly: the mean over all ``m^rows`` draws, grouped by which rows they contain."""
    m = A.shape[-1]
    draws = list(itertools.combinations_with_replacement(range(m), rows))
    weight = [math.factorial(rows) / math.prod(math.factorial(draw.count(i)) for i in set(draw)) / m**rows for draw in draws]
    index = torch.tensor(draws).expand(*A.shape[:-2], -1, -1)
    gradients = TraceQuadratic.row_gradient(A.unsqueeze(-3), X.unsqueeze(-3), index, squared=squared)
    return (gradients * torch.tensor(weight, dtype=A.dtype)[:, None, None]).sum(-3)


def homogeneous_gradient(run: Run) -> Evidence:
    """A5-homogeneous: ĝ(cX) = ĝ(X) for c > 0; the control takes the squared loss.

    Residual entries e1, e2 (the others alike), r their 2-norm; every entry of ĝ is a sum of terms k·e/r.
    """
    over, over_scaled = ("", "") if run.twin else ("/r", "/(c*r)")
    case = Case(
        "e1 ≠ 0, its sign absorbed in k", positive=("c", "e1", "r"), real=("e2", "k"), squares={"r": "e1**2 + e2**2"},
        steps=[
            equal("(c*e1)**2 + (c*e2)**2", "(c*r)**2"), positive("c*r"),
            equal(f"k*(c*e1){over_scaled}", f"k*e1{over}"), equal(f"k*(c*e2){over_scaled}", f"k*e2{over}"),
        ],
    )
    return proved([case], "the residual A_bX and its norm scale alike, so ĝ has degree 0 in X", covers="A_bX ≠ 0, every draw of rows")


def euler(run: Run) -> Evidence:
    """A5-loss: <ĝ, X> is the sampled loss itself, degree 1, so ‖ĝ‖ ≥ loss/‖X‖; the control takes the squared loss's gradient."""
    over = "" if run.twin else "/r"
    case = Case(
        "k = ½ m/b, residual entries e1, e2", positive=("e1", "r", "k"), real=("e2",), squares={"r": "e1**2 + e2**2"},
        steps=[equal(f"k*(e1*e1 + e2*e2){over}", "k*r"), positive("k*r")],
    )
    summary = "<ĝ, X> = ½ (m/b) ‖A_bX‖_F > 0: ĝ does not vanish near the minimum"
    return proved([case], summary, covers="A_bX ≠ 0; <A_bᵀA_bX, X> = ‖A_bX‖² written in entries")


def expected_norm(run: Run) -> Evidence:
    """A5-scale: ‖E ĝ‖ is 45 to 65 at N(0,1) entries times 1, 1e-4, 1e-8, all draws enumerated; the control takes the squared loss."""
    low, high, ratio, count = math.inf, 0.0, 0.0, 0
    for name, seed in itertools.product(SPECTRA, range(run.count(4, 40))):
        rng = run.rng(100 + seed)
        H = torch.from_numpy(block_hessian(SPECTRA[name], rng))
        problem, X = TraceQuadratic(H), torch.from_numpy(rng.standard_normal((9, 9)))
        A = problem.root()
        for scale in (1.0, 1e-4, 1e-8):
            size = float(torch.linalg.matrix_norm(expected_gradient(A, scale * X, 3, squared=run.twin)))
            low, high, count = min(low, size), max(high, size), count + 1
            ratio = max(ratio, float(torch.linalg.matrix_norm(problem.gradient(scale * X))) if scale == 1e-8 else 0.0)
    return Evidence(
        Verdict.SUPPORTED if low >= 45.0 and high <= 65.0 else Verdict.REFUTED, "exact expectation, 729 draws",
        f"‖E ĝ‖ {low:.4g} to {high:.4g} at all scales of X; ‖∇f‖ at most {ratio:.2g} at 1e-8",
        covers="E1's Hessians and starting points, b = 3", numbers={"least": low, "most": high, "true gradient": ratio},
        margin=min(low - 45.0, 65.0 - high), budget={"expectations": count}, seed=run.seed,
    )


def norm_shortfall(eigenvalues: Sequence[float], X: Sequence[Sequence[float]], rows: int) -> float:
    """Return 25 minus ‖E ĝ‖ at X for the diagonal Hessian with these eigenvalues."""
    A = torch.diag(torch.tensor(eigenvalues, dtype=torch.float64).sqrt())
    return 25.0 - float(torch.linalg.matrix_norm(expected_gradient(A, torch.tensor(X, dtype=torch.float64), rows)))


def everywhere(run: Run) -> Evidence:
    """A5-everywhere: ‖E ĝ‖ is at least 25 at every X ≠ 0; the control takes the all-ones column, which has every eigenvector."""
    spectrum = [x for block in SPECTRA[HETEROGENEOUS] for x in block]
    data = {"eigenvalues": spectrum, "X": [[float(i == 0)] for i in range(len(spectrum))], "rows": 3}
    return refutation(
        run, "a5-small-at-an-eigenvector",
        "‖E ĝ‖ stays near 50 (at least 25) wherever X ≠ 0. False: at an eigenvector of the smallest eigenvalue of E1's Hessian (blocks "
        "diagonal) it is below 1; violation: 25 minus ‖E ĝ‖.",
        norm_shortfall, data, margin=20.0, repair={"X": [[1.0] for _ in spectrum]}, summary="25 - ‖E ĝ‖ = {:.3f}",
    )


def along_runs(run: Run) -> Evidence:
    """A5-runs: over E1's runs ‖∇f‖ falls to under 1/50 and ‖E ĝ‖ keeps over 1/20; the control runs on the squared loss."""
    config, seeds = Config(), run.count(4, 20)
    instances = Instances.draw(config, seeds)
    A, problem = instances.A.double(), TraceQuadratic(instances.H.double())

    def sizes(X: Tensor) -> tuple[Tensor, Tensor]:
        mean, true = expected_gradient(A, X.double(), config.rows, squared=run.twin), problem.gradient(X.double())
        return torch.linalg.matrix_norm(mean), torch.linalg.matrix_norm(true)

    start, kept, fallen, text = sizes(instances.X0), math.inf, 0.0, []
    for method in ("adam", "deva_linf", "deva_spectral"):
        *_, (_, X, _) = trajectory(method, instances, config.lr, config, squared=run.twin, matched=False)
        now = sizes(X)
        mean, true = ((a / b).reshape(len(HESSIANS), seeds).median(dim=1).values for a, b in zip(now, start, strict=True))
        kept, fallen = min(kept, float(mean.min())), max(fallen, float(true.max()))
        text.append(f"{method} {float(mean.min()):.2f}")
    return Evidence(
        Verdict.SUPPORTED if kept >= 0.05 and fallen <= 0.02 else Verdict.REFUTED, "statistics, exact expectation",
        f"‖∇f‖ falls to {fallen:.2g} of its first value or less, ‖E ĝ‖ keeps {kept:.2g} or more ({', '.join(text)})",
        covers="E1, last step, median over seeds",
        numbers={"kept": kept, "fallen": fallen}, margin=min(kept - 0.05, 0.02 - fallen), budget={"runs": 6 * seeds},
    )


def bias_of_gradient(root: Sequence[Sequence[float]], X: Sequence[Sequence[float]], rows: int, squared: bool) -> float:
    """Return ``‖E ĝ - ∇f‖/‖∇f‖`` for H = AᵀA, A the root, all draws enumerated."""
    A, point = (torch.tensor(x, dtype=torch.float64) for x in (root, X))
    true = A.mT @ (A @ point)
    return float(torch.linalg.matrix_norm(expected_gradient(A, point, rows, squared=squared) - true) / torch.linalg.matrix_norm(true))


def unbiased(run: Run) -> Evidence:
    """A5-unbiased: the published stochastic gradient is an unbiased gradient of f; the control squares the loss."""
    data = {"root": [[1.0, 0.0], [0.0, 2.0]], "X": [[2.0], [1.0]], "rows": 1, "squared": False}
    return refutation(
        run, "a5-biased",
        "The stochastic gradient of E1 is an unbiased gradient of ½tr(XᵀHX). False: it is that of the unsquared loss; H = diag(1, 4), "
        "X = (2, 1)ᵀ, one row: E ĝ = (½, 1)ᵀ, ∇f = (2, 4)ᵀ; violation: relative distance.",
        bias_of_gradient, data, margin=0.5, repair={"squared": True}, summary="‖E ĝ - ∇f‖/‖∇f‖ = {:.4f}",
    )


def sampled_gradients(run: Run) -> Evidence:
    """A5-code: `row_gradient` is the derivative of the sampled loss, and the squared one's mean is HX; the control swaps the losses."""
    rng = run.rng(7)

    def subjects() -> Iterator[Subject]:
        for m, n, b, squared in itertools.product((2, 9), (1, 4), (1, 3), (False, True)):
            root = rng.standard_normal((m, m))
            A, X = torch.from_numpy(root + root.T), torch.from_numpy(rng.standard_normal((m, n)))
            for _ in range(run.count(2, 20)):
                draw = torch.from_numpy(rng.integers(0, m, b))
                leaf = X.clone().requires_grad_()
                norm = (A[draw] @ leaf).square().sum()
                loss = 0.5 * m / b * (norm if squared else norm.sqrt())
                (expected,) = torch.autograd.grad(loss, leaf)
                found = TraceQuadratic.row_gradient(A, X, draw, squared=squared != run.twin)
                yield f"{m}×{n}, {b} rows, squared {squared}", float((found - expected).norm() / expected.norm())
            true = A.mT @ A @ X
            yield f"mean, {m}×{n}, {b} rows", float((expected_gradient(A, X, b, squared=not run.twin) - true).norm() / true.norm())

    return conformity(subjects(), "sampled gradients", run.seed)

"""Mutation test of the claim ledger: break the library's formulas one at a time and see which claim notices.

A mutant replaces a piece of text that stands exactly once in one file of the library. A fresh child process imports the library
with that one module changed (nothing is written to disk) and runs the related claims, quickest first, until one of them returns
another verdict than expected, raises, or reports a problem. What no claim notices is listed in `SURVIVORS`, each with its reason.

    python -m tests.claims.mutants               examine all, write benchmarks/results/mutants.txt
    python -m tests.claims.mutants NAME ...      examine some, print only
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import spec_from_file_location
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import CodeType
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
RESULT = ROOT / "benchmarks" / "results" / "mutants.txt"
PATIENCE = 120.0
"""Seconds after which a child is ended; the slowest claim takes a few."""


@dataclass(frozen=True)
class Mutant:
    """One changed formula.

    Attributes
    ----------
    name : str
        What is wrong, in a few words.
    file : str
        Below ``deva_theory``.
    old, new : str
        The text, which stands exactly once in the file, and what takes its place.
    claims : tuple of str
        Claims about this formula, in the order in which they are asked.
    """

    name: str
    file: str
    old: str
    new: str
    claims: tuple[str, ...]

    @property
    def path(self) -> Path:
        """The file."""
        return ROOT / "deva_theory" / self.file

    @property
    def module(self) -> str:
        """The module's dotted name."""
        parts = Path(self.file).with_suffix("").parts
        return ".".join(("deva_theory", *parts[: -1 if parts[-1] == "__init__" else None]))

    def source(self) -> str:
        """Return the changed file.

        Raises
        ------
        ValueError
            If the old text does not stand there exactly once: the mutant is stale.
        """
        text = self.path.read_text(encoding="utf-8")
        if text.count(self.old) != 1:
            raise ValueError(f"mutant {self.name!r}: the old text stands {text.count(self.old)} times in {self.file}, not once")
        return text.replace(self.old, self.new)


@dataclass(frozen=True)
class Finding:
    """What became of one mutant.

    Attributes
    ----------
    name : str
    claim : str
        The claim that noticed, "" for a survivor.
    how : str
        "REFUTED" or another verdict, "problem", the name of an exception, "no answer" (the process died or ran out of time).
    """

    name: str
    claim: str = ""
    how: str = ""


# ---- the mutants ---------------------------------------------------------------------------------

MUTANTS: tuple[Mutant, ...] = (
    # Averages and exact scaling.
    Mutant("bias correction is 1", "linalg/floating.py", "return -math.expm1(step * math.log(beta))", "return 1.0", ("M6-code",)),
    Mutant(
        "average with its weights exchanged", "linalg/floating.py",
        "return (beta * mean).add_(x, alpha=1.0 - beta)", "return ((1.0 - beta) * mean).add_(x, alpha=beta)", ("M7-code",),
    ),
    Mutant(
        "in-place average with its weights exchanged", "linalg/floating.py",
        "return mean.mul_(beta).add_(x, alpha=1.0 - beta)", "return mean.mul_(1.0 - beta).add_(x, alpha=beta)", ("Sinf-donate-code",),
    ),
    Mutant(
        "root mean square: new weight without its root", "linalg/floating.py",
        "new = x.abs() * math.sqrt(weight)", "new = x.abs() * weight", ("M7-code",),
    ),
    Mutant(
        "root mean square: decay without its root", "linalg/floating.py",
        "return torch.hypot(rms * math.sqrt(decay), new)", "return torch.hypot(rms * decay, new)", ("M7-code",),
    ),
    Mutant(
        "in-place root mean square: decay without its root", "linalg/floating.py",
        "torch.hypot(rms.mul_(math.sqrt(decay)), new, out=rms)", "torch.hypot(rms.mul_(decay), new, out=rms)", ("Sinf-donate-code",),
    ),
    Mutant(
        "scaled γ: 0/0 is 1", "linalg/floating.py",
        "torch.where(numerator.mantissa == 0, 0.0, quotient * factor)", "torch.where(numerator.mantissa == 0, 1.0, quotient * factor)",
        ("D1-code",),
    ),
    Mutant(
        "scaled root mean square: new weight without its root", "linalg/floating.py",
        ".aligned(_times(x, math.sqrt(weight)))", ".aligned(_times(x, weight))", ("D3-code",),
    ),
    Mutant(
        "scaled average with β for 1-β", "linalg/floating.py",
        ".aligned(_times(x, 1.0 - beta))", ".aligned(_times(x, beta))", ("D4-code",),
    ),
    Mutant(
        "mantissas aligned to the smaller exponent", "linalg/floating.py",
        "top = torch.maximum(self.exponent, other.exponent)", "top = torch.minimum(self.exponent, other.exponent)", ("D8-code",),
    ),
    Mutant(
        "zero has the exponent 0", "linalg/floating.py",
        "return mantissa, torch.where(x == 0, _EXPONENT_OF_ZERO, exponent)", "return mantissa, exponent", ("A3-range-code",),
    ),
    Mutant("power of two in one factor", "linalg/floating.py", "for _ in range(3):", "for _ in range(1):", ("D8-code",)),
    Mutant(
        "events scaled the wrong way", "linalg/floating.py",
        "return x * power_of_two(-exponent, x.dtype), exponent", "return x * power_of_two(exponent, x.dtype), exponent", ("M8-code",),
    ),
    # Powers and polar factors.
    Mutant(
        "power: the pseudo-inverse of 0 is 1", "linalg/powers.py",
        "torch.where(kept, eigenvalues, 1.0).pow(p), 0.0)", "torch.where(kept, eigenvalues, 1.0).pow(p), 1.0)", ("M1-code-powers",),
    ),
    Mutant(
        "power: no rank tolerance", "linalg/powers.py",
        "kept = eigenvalues > rtol * eigenvalues[..., -1:].clamp_min(0)", "kept = eigenvalues > 0", ("M1-code", "M3-code"),
    ),
    Mutant(
        "power: scaled back by the reciprocal", "linalg/powers.py",
        "total = exponent.to(torch.float64) * p", "total = exponent.to(torch.float64) * -p", ("M1-code", "M3-code"),
    ),
    Mutant("Gram power: a root dropped", "linalg/powers.py", ".pow(2.0 * p), 0.0)", ".pow(p), 0.0)", ("M1-code",)),
    Mutant("Gram power: the pseudo-inverse of 0 is 1", "linalg/powers.py", ".pow(2.0 * p), 0.0)", ".pow(2.0 * p), 1.0)", ("M1-code",)),
    Mutant("Gram power: no rank tolerance", "linalg/powers.py", "kept = S > rtol * S[..., :1]", "kept = S > 0", ("M1-code",)),
    Mutant(
        "polar factor: zero singular values kept", "linalg/polar.py",
        "kept = (S > rtol * S[..., :1]).to(X.dtype)", "kept = torch.ones_like(S)", ("M8-code",),
    ),
    Mutant(
        "polar iteration on the larger Gram matrix", "linalg/polar.py",
        "tall = X.shape[-2] > X.shape[-1]", "tall = X.shape[-2] < X.shape[-1]", ("M12-code", "Sinf-msign-code"),
    ),
    Mutant(
        "polar iteration of a tall matrix stays transposed", "linalg/polar.py",
        "if tall:\n        X = X.mT\n    return", "if tall:\n        X = X.mT.mT\n    return", ("M12-code",),
    ),
    Mutant(
        "Newton-Schulz: first bound with the wrong root", "linalg/polar.py",
        "keepdim=True).pow(0.25)", "keepdim=True).pow(0.5)", ("M12-code",),
    ),
    Mutant(
        "Newton-Schulz: Gram powers re-normalised once too little", "linalg/polar.py",
        "powers = [p / bound ** (2 * (k + 1))", "powers = [p / bound ** (2 * k + 1)", ("M12-code",),
    ),
    Mutant("Newton-Schulz: six steps", "linalg/polar.py", "count = 5 if steps is None", "count = 6 if steps is None", ("M12-code",)),
    Mutant("Polar Express: no cushion in the norm", "linalg/polar.py", "keepdim=True) * cushion\n", "keepdim=True)\n", ("M12-code",)),
    Mutant(
        "Polar Express: cushion in every polynomial as in the linear term", "linalg/polar.py",
        "safe = [[a / c ** (2 * k + 1)", "safe = [[a / c", ("M12-code",),
    ),
    Mutant(
        "Polar Express: seven steps", "linalg/polar.py",
        "polar_express_coefficients(steps or 8)", "polar_express_coefficients(steps or 7)", ("M12-code",),
    ),
    Mutant(
        "odd polynomial: linear coefficient 1", "linalg/polar.py",
        "return X * coefficients[0] + mixed @ X", "return X + mixed @ X", ("M12-code",),
    ),
    Mutant("wrong quintic", "linalg/coefficients.py", "(3.4445, -4.7750, 2.0315)", "(3.4445, -4.7750, 2.0351)", ("Sinf-msign-code", "M12")),
    Mutant("wrong cubic", "linalg/coefficients.py", "(1.5, -0.5)", "(1.5, -0.4)", ("M12-cubic",)),
    Mutant("wrong Padé quintic", "linalg/coefficients.py", "(1.875, -1.25, 0.375)", "(1.875, -1.25, 0.385)", ("M12-pade",)),
    Mutant("minimax quintic: wrong critical points", "linalg/coefficients.py", "/ (10 * c))", "/ (11 * c))", ("M12-minimax",)),
    Mutant(
        "Polar Express: not centred around 1", "linalg/coefficients.py",
        "factor = 2.0 / float(ends.sum())", "factor = 1.0", ("M12-express-centred",),
    ),
    Mutant("Polar Express: upper end 1", "linalg/coefficients.py", "high = 2.0 - low", "high = 1.0", ("M12-polar-express",)),
    Mutant(
        "Polar Express: default lower end .01", "linalg/coefficients.py",
        "POLAR_EXPRESS_LOWER = 1e-3", "POLAR_EXPRESS_LOWER = 1e-2", ("M12-polar-express",),
    ),
    # Eigenbases.
    Mutant(
        "eigenvalues ascending", "linalg/eigenbasis.py",
        ".eigenvectors.flip(-1)", ".eigenvectors", ("Sinf-paper-code", "Sinf-reference-code"),
    ),
    Mutant(
        "refresh: sorted ascending", "linalg/eigenbasis.py",
        "descending=True, stable=True)", "descending=False, stable=True)", ("Sinf-reference-code",),
    ),
    Mutant(
        "refresh: half a power iteration", "linalg/eigenbasis.py",
        "basis, triangle = torch.linalg.qr(image)", "basis, triangle = torch.linalg.qr(Q + image)", ("Sinf-reference-code",),
    ),
    Mutant(
        "refresh: images left unsorted", "linalg/eigenbasis.py",
        "dim=-1) for x in (Q, image))\n    if method", "dim=-1) for x in (Q, Q))\n    if method", ("Sinf-reference-code",),
    ),
    Mutant(
        "rotation: twice the Jacobi angle", "linalg/eigenbasis.py",
        "K = 0.5 * torch.atan2(2.0 * B, gap.abs())", "K = torch.atan2(2.0 * B, gap.abs())", ("A2-basis-code",),
    ),
    Mutant(
        "rotation: orthogonality not restored", "linalg/eigenbasis.py",
        "return matrix_polynomial(Q @ _plus_identity(turn), QUINTIC)", "return Q @ _plus_identity(turn)", ("A2-refresh-code",),
    ),
    Mutant(
        "null space: signs left to LAPACK", "linalg/eigenbasis.py",
        "return Q * torch.where(torch.diagonal(triangle, dim1=-2, dim2=-1) < 0, -1.0, 1.0).unsqueeze(-2)", "return Q",
        ("Sinf-corrected-code", "M9", "A3-corrected-code"),
    ),
    # The parts of the rules.
    Mutant(
        "momentum: Nesterov weights exchanged", "rules/parts.py",
        "return ema_update(m, g, self.beta) if", "return ema_update(g, m, self.beta) if", ("Sinf-msign-code", "Sinf-reference-code"),
    ),
    Mutant(
        "momentum: Nesterov ignored", "rules/parts.py",
        "return ema_update(m, g, self.beta) if self.nesterov and self.beta > 0.0 else m", "return m",
        ("Sinf-msign-code", "Sinf-reference-code"),
    ),
    Mutant(
        "momentum: multiplied by its correction", "rules/parts.py",
        "return 1.0 / bias_correction(self.beta, step) if self.bias_correction",
        "return bias_correction(self.beta, step) if self.bias_correction", ("M7-code", "D5-presets-code"),
    ),
    Mutant(
        "sign(0) is 1", "rules/parts.py",
        '"""Return sign(x), 0 at 0."""\n        return torch.sign(x)',
        '"""Return sign(x), 0 at 0."""\n        return torch.where(x < 0, -1.0, 1.0)', ("M7-code",),
    ),
    Mutant(
        "sign variant: sign dropped", "rules/parts.py",
        "x = torch.sign(x) if self.of_sign else x", "x = x * 1.0", ("Sinf-msign-code", "Sinf-reference-code"),
    ),
    Mutant(
        "sign variant: rounding not taken for 0", "rules/parts.py",
        "x = torch.where(x.abs() > noise, x, 0.0)", "x = x * 1.0", ("Sinf-corrected-code",),
    ),
    Mutant(
        "shape factor: min(m, n)", "rules/parts.py",
        'math.sqrt(max(m, n) if self.shape == "sqrt_max"', 'math.sqrt(min(m, n) if self.shape == "sqrt_max"', ("M4-code",),
    ),
    Mutant(
        "shape factor: max(m, n) without its root", "rules/parts.py",
        'math.sqrt(max(m, n) if self.shape == "sqrt_max"', 'math.sqrt(max(m, n) ** 2 if self.shape == "sqrt_max"', ("M4-code",),
    ),
    Mutant("shape factor: 0.2 missing", "rules/parts.py", "factor = self.coefficient\n", "factor = 1.0\n", ("M4-code",)),
    Mutant(
        "shape factor: √max(1, m/n) without its root", "rules/parts.py",
        "max(1.0, m / max(n, 1)))", "max(1.0, m / max(n, 1)) ** 2)", ("E1-peers-code",),
    ),
    Mutant(
        "unit root mean square: mn for √(mn)", "rules/parts.py",
        "return factor * math.sqrt(size) / ", "return factor * size / ", ("E1-peers-code",),
    ),
    Mutant(
        "reference's bias factor: root dropped", "rules/parts.py",
        "factor *= math.sqrt(bias_correction(self.beta2, step)) / bias_correction(beta1, step)",
        "factor *= bias_correction(self.beta2, step) / bias_correction(beta1, step)", ("Sinf-msign-code", "Sinf-reference-code"),
    ),
    Mutant(
        "reference's bias factor: β1 and β2 exchanged", "rules/parts.py",
        "factor *= math.sqrt(bias_correction(self.beta2, step)) / bias_correction(beta1, step)",
        "factor *= math.sqrt(bias_correction(beta1, step)) / bias_correction(self.beta2, step)", ("Sinf-msign-code", "Sinf-reference-code"),
    ),
    Mutant("Γ: new weight 1 for 1-β2", "rules/parts.py", "else (self.beta, 1.0 - self.beta)", "else (self.beta, 1.0)", ("M7-code",)),
    Mutant(
        "Γ: V from r only", "rules/parts.py",
        '_product(below), decay, weight', "below[0] * below[0] ** (len(below) - 1), decay, weight", ("M6-code",),
    ),
    Mutant(
        "Γ: r twice for r and c", "rules/parts.py",
        "factors[0] if len(factors) == 1 else factors[0] * factors[1]",
        "factors[0] if len(factors) == 1 else factors[0] * factors[0] * torch.ones_like(factors[1])", ("M6-code",),
    ),
    Mutant(
        "Γ: product of means for root mean squares", "rules/parts.py",
        'power = 2.0 if self.factored == "root_mean_square" else 1.0', "power = 1.0", ("M6-code",),
    ),
    Mutant("Γ: factored moment without its root", "rules/parts.py", "root = 1.0 / power", "root = 1.0", ("M6-code",)),
    Mutant(
        "Γ: bias correction of V without its root", "rules/parts.py",
        "rms = rms / math.sqrt(bias_correction(self.beta, step))", "rms = rms / bias_correction(self.beta, step)", ("M7-code",),
    ),
    Mutant(
        "Γ: V never corrected", "rules/parts.py",
        "rms = rms / math.sqrt(bias_correction(self.beta, step))", "rms = rms / 1.0", ("M7-code",),
    ),
    Mutant(
        "Γ: correction of the marginals without its root", "rules/parts.py",
        "root = math.sqrt(correction)", "root = correction", ("M6-code", "M4-code"),
    ),
    Mutant("Γ: r c for √(r c)", "rules/parts.py", "tuple(side.sqrt() * root for side", "tuple(side * root for side", ("M6-code",)),
    Mutant(
        "ε outside, added to v", "rules/parts.py",
        "below = rms + self.eps", "below = torch.hypot(rms, rms.new_full((), math.sqrt(self.eps)))", ("M6-code",),
    ),
    Mutant(
        "ε inside, added to the root", "rules/parts.py",
        "below = torch.hypot(rms, rms.new_full((), math.sqrt(self.eps)))", "below = rms + math.sqrt(self.eps)", ("M6-code",),
    ),
    Mutant(
        "ε of the numerator beside the root", "rules/parts.py",
        "above = torch.hypot(above, above.new_full((), math.sqrt(self.eps)))", "above = above + math.sqrt(self.eps)", ("M6-code",),
    ),
    Mutant(
        "ε of the numerator dropped", "rules/parts.py",
        "above = torch.hypot(above, above.new_full((), math.sqrt(self.eps)))", "above = above * 1.0", ("M6-code",),
    ),
    Mutant(
        "ε relative, without its root", "rules/parts.py",
        "torch.maximum(rms, math.sqrt(self.eps) * rms", "torch.maximum(rms, self.eps * rms", ("M6-code",),
    ),
    Mutant(
        "ε relative, added", "rules/parts.py",
        "below = torch.maximum(rms, math.sqrt(self.eps) * rms.amax(dim=dims, keepdim=True))",
        "below = rms + math.sqrt(self.eps) * rms.amax(dim=dims, keepdim=True)", ("M6-code",),
    ),
    Mutant(
        "Γ: 0/0 is 1", "rules/parts.py",
        "return torch.where(below == 0, 0.0, above / below)", "return torch.where(below == 0, 1.0, above / below)", ("M6-code",),
    ),
    Mutant(
        "refresh: permutation of V dropped", "rules/parts.py",
        "state[key] = torch.take_along_dim(state_tensor(state, key), index, dim=dim)", "state[key] = state_tensor(state, key)",
        ("A2-refresh-code",),
    ),
    Mutant(
        "refresh: inverse permutation of V", "rules/parts.py",
        "index = order.unsqueeze(", "index = order.argsort(-1).unsqueeze(", ("A2-refresh-code", "Sinf-reference-code"),
    ),
    Mutant(
        "refresh: V mixed by overlaps, not squared", "rules/parts.py",
        "A, B = left.square(), right.square()", "A, B = left.abs(), right.abs()", ("A2-basis-code",),
    ),
    Mutant(
        "row norms in ℓ1", "rules/parts.py",
        "rows = torch.linalg.vector_norm(scaled, dim=-1", "rows = torch.linalg.vector_norm(scaled, ord=1, dim=-1", ("M6-code",),
    ),
    # Presets and variants.
    Mutant(
        "ℓ∞: V of the gradient", "rules/deva.py",
        'tracked="gradient" if variant in ("instantaneous", "snr") else "momentum"', 'tracked="gradient"', ("M7-code", "D5-presets-code"),
    ),
    Mutant(
        "ℓ∞: snr is full", "rules/deva.py",
        'tracked="gradient" if variant in ("instantaneous", "snr") else', 'tracked="gradient" if variant in ("instantaneous",) else',
        ("M7-code",),
    ),
    Mutant(
        "ℓ∞: ε outside the root", "rules/deva.py",
        'eps_mode="relative" if corrected else "inside"', 'eps_mode="relative" if corrected else "outside"', ("A1-linf-code",),
    ),
    Mutant(
        "ℓ∞: momentum with β2", "rules/deva.py",
        "moment=Moment(beta1, nesterov=False if", "moment=Moment(beta2, nesterov=False if", ("M7-code",),
    ),
    Mutant(
        "ℓ∞: Nesterov on", "rules/deva.py",
        "nesterov=False if nesterov is None", "nesterov=True if nesterov is None", ("M7-code", "D5-presets-code"),
    ),
    Mutant("ℓ∞: reference's ε is 1e-6", "rules/deva.py", '"reference": 1e-5}', '"reference": 1e-6}', ("A1-linf-code",)),
    Mutant("relative ε is 1e-14", "rules/deva.py", "_RELATIVE_EPS = 1e-16", "_RELATIVE_EPS = 1e-14", ("D5-presets-code", "A3-code")),
    Mutant(
        "S∞: ε modes of paper and reference exchanged", "rules/deva.py",
        '"paper": "numerator", "reference": "inside"}', '"paper": "inside", "reference": "numerator"}', ("Sinf-reference-code",),
    ),
    Mutant(
        "S∞: printed ε is 1e-7", "rules/deva.py",
        '"paper": 1e-8, "reference": 1e-8}', '"paper": 1e-7, "reference": 1e-8}', ("Sinf-paper-code", "A3-code"),
    ),
    Mutant("S∞: 0.25 for 0.2", "rules/deva.py", 'StepScale("sqrt_max", 0.2,', 'StepScale("sqrt_max", 0.25,', ("M4-code",)),
    Mutant(
        "S∞: momentum with β2", "rules/deva.py",
        "moment=Moment(beta1, nesterov=reference if", "moment=Moment(beta2, nesterov=reference if", ("M4-code",),
    ),
    Mutant(
        "S∞: second moment with β1", "rules/deva.py",
        "1e-8}[preset]\n    adaptation = Adaptation(\n        beta=beta2",
        "1e-8}[preset]\n    adaptation = Adaptation(\n        beta=beta1",
        ("M4-code",),
    ),
    Mutant("S∞: β3 is β1", "rules/deva.py", "beta=beta2 if beta3 is None", "beta=beta1 if beta3 is None", ("Sinf-reference-code",)),
    Mutant(
        "S∞: β3 ignored", "rules/deva.py",
        "beta=beta2 if beta3 is None else beta3", "beta=beta2", ("Sinf-reference-code", "Sinf-paper-code"),
    ),
    Mutant(
        "S∞: Nesterov off in reference", "rules/deva.py",
        "nesterov=reference if nesterov is None", "nesterov=False if nesterov is None", ("Sinf-msign-code",),
    ),
    Mutant("S∞: reference skips no call", "rules/deva.py", "lagged=reference", "lagged=False", ("Sinf-msign-code",)),
    Mutant("S∞: printed rule carries M'", "rules/deva.py", 'carry_momentum=preset != "paper"', "carry_momentum=True", ("Sinf-paper-code",)),
    Mutant(
        "S∞: corrected and reference leave M'", "rules/deva.py",
        'carry_momentum=preset != "paper"', "carry_momentum=False", ("A2-refresh-code",),
    ),
    Mutant(
        "S∞: V stays at a refresh", "rules/deva.py",
        'carry_adaptation="none" if preset == "paper" else "permute"', 'carry_adaptation="none"', ("A2-refresh-code",),
    ),
    Mutant(
        "S∞: null spaces left to rounding", "rules/deva.py",
        "canonical=corrected", "canonical=False", ("Sinf-corrected-code", "A3-corrected-code", "A3-float32"),
    ),
    Mutant(
        "S∞: memory variants exchanged", "rules/deva.py",
        'factored = "mean" if preset == "paper" else "root_mean_square"', 'factored = "root_mean_square" if preset == "paper" else "mean"',
        ("M4-code",),
    ),
    Mutant(
        "S∞: reference's memory from the momentum", "rules/deva.py",
        'from_gradient = variant == "instantaneous" or (variant == "memory" and reference)', 'from_gradient = variant == "instantaneous"',
        ("M4-code", "Sinf-reference-code"),
    ),
    Mutant(
        "S∞: reference's memory without sign", "rules/deva.py",
        'of_sign=variant == "sign" or (variant == "memory" and reference)', 'of_sign=variant == "sign"',
        ("Sinf-msign-code", "Sinf-reference-code"),
    ),
    Mutant(
        "S∞: snr is full", "rules/deva.py",
        'tracked="gradient" if from_gradient or variant == "snr" else', 'tracked="gradient" if from_gradient else', ("M4-code",),
    ),
    Mutant("S∞: bias factor in every preset", "rules/deva.py", 'bias="adam" if reference else "none"', 'bias="adam"', ("M4-code",)),
    Mutant(
        "S∞: reference in float32", "rules/deva.py",
        "polar_dtype = torch.bfloat16", "polar_dtype = torch.float32", ("Sinf-msign-code",),
    ),
    Mutant(
        "S∞: reference decays before the update", "rules/deva.py",
        'decay="after" if reference else "before"', 'decay="before"', ("Sinf-optimizer-code",),
    ),
    Mutant("S∞: first version rotated back as well", "rules/deva.py", "restores=False)", "restores=True)", ("M9-no-rotation-back",)),
    # The Kronecker basis.
    Mutant(
        "not rotated back", "rules/basis.py",
        'return state_tensor(state, "Q_L") @ X @ state_tensor(state, "Q_R").mT', "return X", ("M4-code",),
    ),
    Mutant(
        "rotated back with Q_R for its transpose", "rules/basis.py",
        '@ X @ state_tensor(state, "Q_R").mT', '@ X @ state_tensor(state, "Q_R")', ("M4-code",),
    ),
    Mutant(
        "projected with Q_L for its transpose", "rules/basis.py",
        'return state_tensor(state, "Q_L").mT @ G', 'return state_tensor(state, "Q_L") @ G', ("M4-code",),
    ),
    Mutant(
        "M' carried the wrong way", "rules/basis.py",
        'left @ state_tensor(state, "momentum") @ right.mT', 'left.mT @ state_tensor(state, "momentum") @ right', ("A2-refresh-code",),
    ),
    Mutant(
        "L and R learn with 1-β3", "rules/basis.py",
        "ema_update(average, gram, self.beta, donate=True)", "ema_update(average, gram, 1.0 - self.beta, donate=True)",
        ("Sinf-reference-code",),
    ),
    Mutant(
        "L and R keep old units", "rules/basis.py",
        "power_of_two((2 * (old - exponent)).clamp(-limit, limit), G.dtype)", "power_of_two(0 * exponent, G.dtype)",
        ("Sinf-reference-code", "Sinf-paper-code", "Sinf-corrected-code"),
    ),
    # The update.
    Mutant(
        "refresh one step late", "rules/rule.py",
        "due = (step - 1) % basis.refresh_every == 0", "due = step % basis.refresh_every == 0", ("Sinf-paper-code",),
    ),
    Mutant(
        "lagged refresh one step early", "rules/rule.py",
        "due = step % basis.refresh_every == 0", "due = (step + 1) % basis.refresh_every == 0", ("Sinf-reference-code",),
    ),
    Mutant("Γ times |s|", "rules/rule.py", "D = gamma * s\n", "D = gamma * s.abs()\n", ("M7-code",)),
    Mutant("Γ not applied", "rules/rule.py", "D = gamma * s\n", "D = s\n", ("M7-code",)),
    Mutant(
        "Γ from the uncorrected momentum", "rules/rule.py",
        '{"momentum": self.moment.correction(step)', '{"momentum": 1.0', ("M7-code", "M4-code"),
    ),
    Mutant(
        "decay before taken for after", "rules/rule.py",
        "return shrink * params - lr * direction", "return shrink * (params - lr * direction)", ("Sinf-optimizer-code",),
    ),
    Mutant(
        "decay without the learning rate", "rules/rule.py",
        "shrink = 1.0 - lr * weight_decay", "shrink = 1.0 - weight_decay", ("Sinf-optimizer-code",),
    ),
    Mutant(
        "Γ applied without rotation", "rules/rule.py",
        "return Q_L @ (self.variance_adaptation * (Q_L.mT @ x @ Q_R)) @ Q_R.mT", "return Q_L @ (self.variance_adaptation * x) @ Q_R.mT",
        ("M4-code", "M10-rule"),
    ),
    # The other methods.
    Mutant(
        "AdaGrad is an average", "rules/baselines.py",
        'Adaptation(None, numerator="gradient"', 'Adaptation(0.99, numerator="gradient"', ("D1-code",),
    ),
    Mutant(
        "Adam averages m²", "rules/baselines.py",
        'adaptation = Adaptation(betas[1], tracked="gradient", eps', 'adaptation = Adaptation(betas[1], tracked="momentum", eps',
        ("D4-code",),
    ),
    Mutant(
        "Adam with β1 and β2 exchanged", "rules/baselines.py",
        'Rule("adam", moment=Moment(betas[0]', 'Rule("adam", moment=Moment(betas[1]', ("D4-code",),
    ),
    Mutant("RMSprop's ε always outside", "rules/baselines.py", "eps=eps, eps_mode=eps_mode", "eps=eps", ("D5-code",)),
    Mutant(
        "SOAP averages with β1", "rules/baselines.py",
        'Sign(),\n        Adaptation(betas[1]', 'Sign(),\n        Adaptation(betas[0]', ("E1-code",),
    ),
    Mutant("SOAP keeps V at a refresh", "rules/baselines.py", 'carry_adaptation="permute"', 'carry_adaptation="none"', ("E1-soap-code",)),
    Mutant(
        "Muon without Nesterov", "rules/baselines.py",
        '"muon", 2, Moment(beta1, nesterov=nesterov)', '"muon", 2, Moment(beta1)', ("A2-refresh-code", "A2-muon", "A4-code", "E1-code"),
    ),
    Mutant(
        "Muon without the shape factor", "rules/baselines.py",
        "step_scale=StepScale(shape, coefficient)", "step_scale=StepScale()", ("A4-code",),
    ),
    Mutant("AdaMuon aligned to .3", "rules/baselines.py", 'StepScale("unit_rms", 0.2)', 'StepScale("unit_rms", 0.3)', ("E1-peers-code",)),
    Mutant(
        "full-matrix AdaGrad: fourth root", "rules/preconditioned.py",
        "power = symmetric_power(_regularised(S, self.eps), -0.5)", "power = symmetric_power(_regularised(S, self.eps), -0.25)",
        ("M3-code",),
    ),
    Mutant(
        "Shampoo: square root on the left", "rules/preconditioned.py",
        "left = symmetric_power(_regularised(L, self.eps), -0.25)", "left = symmetric_power(_regularised(L, self.eps), -0.5)",
        ("M1-code", "M3-code"),
    ),
    Mutant(
        "Shampoo: R summed", "rules/preconditioned.py",
        "_accumulate(R, G.mT @ G, self.beta)", "_accumulate(R, G.mT @ G, None)", ("M1-code", "M3-code"),
    ),
    Mutant("Shampoo: ε times the trace", "rules/preconditioned.py", "dim2=-1).mean(-1)", "dim2=-1).sum(-1)", ("E1-peers-code",)),
    # decompose.
    Mutant(
        "decompose: EMA without 1-β2", "decomposition.py",
        "if beta2 is None else (beta2, 1.0 - beta2)", "if beta2 is None else (beta2, 1.0)", ("D3-code",),
    ),
    Mutant(
        "decompose: Adam's correction of v without its root", "decomposition.py",
        "math.sqrt(bias_correction(beta2, step)) / bias_correction(beta1, step)",
        "bias_correction(beta2, step) / bias_correction(beta1, step)", ("D4-code",),
    ),
    Mutant(
        "decompose: sign of g for m", "decomposition.py",
        "signs.append(mean.mantissa.sign())", "signs.append(g.mantissa.sign())", ("D4-code",),
    ),
    Mutant(
        "decompose: full matrix with a fourth root", "decomposition.py",
        "root = gram_power(factor, -0.5)", "root = gram_power(factor, -0.25)", ("M3-code",),
    ),
    Mutant(
        "decompose: full matrix without ‖g‖", "decomposition.py",
        "root @ (norm * unit) @ unit.mT", "root @ unit @ unit.mT", ("M3-code",),
    ),
    Mutant(
        "decompose: Shampoo's β without its root", "decomposition.py",
        "else (math.sqrt(beta), math.sqrt(1.0 - beta))", "else (beta, 1.0 - beta)", ("M1-code",),
    ),
    Mutant(
        "decompose: Shampoo's left exponent -1/2", "decomposition.py",
        "L, R = gram_power(left, -0.25)", "L, R = gram_power(left, -0.5)", ("M1-code",),
    ),
    Mutant(
        "decompose: Shampoo's right bracket transposed", "decomposition.py",
        "rights.append(gram_power(G.mT, 0.25) @ R)", "rights.append(R @ gram_power(G.mT, 0.25))", ("M3-code",),
    ),
    Mutant(
        "decompose: Kronecker factors exchanged", "decomposition.py",
        "P = _kron(gram_power(G.mT, 0.5), gram_power(G, 0.5))", "P = _kron(gram_power(G, 0.5), gram_power(G.mT, 0.5))", ("M1-code",),
    ),
    Mutant(
        "decompose: a Kronecker factor transposed", "decomposition.py",
        "A[..., :, None, :, None] * B[..., None, :, None, :]", "A.mT[..., :, None, :, None] * B[..., None, :, None, :]",
        ("M1-code", "M3-code"),
    ),
    Mutant(
        "decompose: Kronecker root for fourth root", "decomposition.py",
        "_kron(gram_power(G.mT, 0.25), gram_power(G, 0.25))", "_kron(gram_power(G.mT, 0.5), gram_power(G, 0.5))", ("M1-code",),
    ),
    Mutant(
        "decompose: vec stacks rows", "decomposition.py",
        "return X.mT.reshape(*X.shape[:-2], -1, 1)", "return X.reshape(*X.shape[:-2], -1, 1)", ("M1-code",),
    ),
    Mutant(
        "decompose: recomposed from the left bracket's transpose", "decomposition.py",
        "out = factor[0] @ s @ factor[1]", "out = factor[0].mT @ s @ factor[1]", ("M3-code",),
    ),
    Mutant(
        "decompose: compressed factor with σ²", "decomposition.py",
        "return U * S.unsqueeze(-2)", "return U * S.square().unsqueeze(-2)", ("M3-code",),
    ),
    # Geometries.
    Mutant("ℓ∞'s dual is ℓ∞", "geometry/norms.py", "return L1(self.event_ndim)", "return LInf(self.event_ndim)", ("M8-code",)),
    Mutant(
        "ℓ1 without absolute values", "geometry/norms.py",
        "return x.abs().sum(dim=self._dims)", "return x.sum(dim=self._dims)", ("M8-code",),
    ),
    Mutant(
        "ℓ∞'s steepest direction is g/max|g|", "geometry/norms.py",
        "return torch.sign(g)\n", "return g / g.abs().amax()\n", ("M8-code",),
    ),
    Mutant(
        "Schatten-∞'s dual is Schatten-2", "geometry/norms.py",
        "return Schatten(1.0 if math.isinf(self.p)", "return Schatten(2.0 if math.isinf(self.p)", ("M8-code",),
    ),
    Mutant("Schatten norm of the mean", "geometry/norms.py", ".pow(self.p).sum(dim=-1)", ".pow(self.p).mean(dim=-1)", ("M8-code",)),
    Mutant("linear minimisation without minus", "geometry/norms.py", "return -self.steepest(g)", "return self.steepest(g)", ("M8-code",)),
    Mutant(
        "Schatten-p's steepest direction with exponent 1/p", "geometry/norms.py",
        "ratio.pow(1.0 / (self.p - 1.0))", "ratio.pow(1.0 / self.p)", ("M8-norms-code",),
    ),
    Mutant(
        "ℓ1's steepest direction without sign", "geometry/norms.py",
        "torch.sign(flat).gather(-1, largest)", "torch.ones_like(flat).gather(-1, largest)", ("M8-norms-code",),
    ),
    Mutant("Schatten-p's radius with p for 1/p", "geometry/norms.py", "0.5 - 1.0 / self.p)", "0.5 - 0.5 / self.p)", ("M8-norms-code",)),
    Mutant(
        "product norm: weights not inverted in the dual", "geometry/products.py",
        "self._packed([1.0 / w for w in self._weights()])", "self._packed([1.0 * w for w in self._weights()])", ("M8-norms-code",),
    ),
    Mutant(
        "product norm: dual of max is ℓ2", "geometry/products.py",
        '_OUTER_DUAL = {"max": "l1"', '_OUTER_DUAL = {"max": "l2"', ("M8-norms-code",),
    ),
    # Smoothness.
    Mutant(
        "signed sum with absolute values", "smoothness/estimators/weighted.py",
        "return (H * gamma).sum(dim=(-2, -1))", "return (H * gamma).abs().sum(dim=(-2, -1))", ("S3-code",),
    ),
    Mutant(
        "absolute sum without them", "smoothness/estimators/weighted.py",
        "return (H.abs() * gamma).sum(dim=(-2, -1))", "return (H * gamma).sum(dim=(-2, -1)).abs()", ("S3-code",),
    ),
    Mutant(
        "box with γ²", "geometry/corners.py",
        "corners = signs * gamma.unsqueeze(-2)", "corners = signs * gamma.square().unsqueeze(-2)", ("S7-smaller",),
    ),
    Mutant("box with half the sign vectors", "geometry/corners.py", "2 ** max(size - 1, 0)", "2 ** max(size - 2, 0)", ("S5-code",)),
    Mutant(
        "box without γ", "geometry/corners.py",
        "corners = signs * gamma.unsqueeze(-2)", "corners = signs * torch.ones_like(gamma).unsqueeze(-2)",
        ("S2-above-one",),
    ),
    Mutant(
        "indefinite H accepted", "smoothness/estimators/weighted.py",
        "(eigenvalues[..., 0] < -tolerance).any()", "(eigenvalues[..., 0] < -torch.inf).any()", ("S5-code",),
    ),
    Mutant(
        "spectral smoothness with negative parts", "smoothness/estimators/weighted.py",
        "n) :].clamp_min(0).sum(-1)", "n) :].sum(-1)", ("S5-code",),
    ),
    Mutant(
        "spectral smoothness of all eigenvalues", "smoothness/estimators/weighted.py",
        "eigenvalues[..., -min(H.shape[-1], n) :]", "eigenvalues[..., -H.shape[-1] :]", ("S5-code",),
    ),
    Mutant(
        "weighted spectral form: rotated the wrong way", "smoothness/estimators/weighted.py",
        "(Q_L.mT @ H @ Q_L)", "(Q_L @ H @ Q_L.mT)", ("S2-code",),
    ),
    Mutant(
        "weighted spectral form: γ once", "smoothness/estimators/weighted.py",
        "unsqueeze(-3) * gamma.mT.unsqueeze(-2)  #", "unsqueeze(-3)  #", ("S2-spectral",),
    ),
    Mutant(
        "weighted spectral bound: largest b for their sum", "smoothness/estimators/weighted.py",
        "sum(-1) + b.sum(-1))", "sum(-1) + b.amax(-1))", ("S2-code",),
    ),
    Mutant(
        "weighted spectral bound: A not semidefinite", "smoothness/estimators/weighted.py",
        "A = A - floor.unsqueeze(-1) * torch", "A = A - 0 * floor.unsqueeze(-1) * torch", ("S2-code",),
    ),
    Mutant(
        "weighted spectral bound: half the trace of A", "smoothness/estimators/weighted.py",
        "torch.diagonal(A, dim1=-2, dim2=-1).sum(-1) + b", "0.5 * torch.diagonal(A, dim1=-2, dim2=-1).sum(-1) + b", ("S2-one-sided",),
    ),
)

EQUIVALENT, GAP, CONTROL = "equivalent", "gap", "nothing changed"

SURVIVORS: Mapping[str, tuple[str, str]] = {
    "polar iteration on the larger Gram matrix": (EQUIVALENT, "p(XXᵀ)X = X p(XᵀX): only the cost differs"),
    "null space: signs left to LAPACK": (EQUIVALENT, "signs of basis vectors cancel between projection and rotation back (M9-signs)"),
    "decompose: a Kronecker factor transposed": (EQUIVALENT, "both factors are symmetric"),
}
"""Mutants that no claim notices: (`EQUIVALENT` or `GAP`, why)."""


# ---- the mechanism -------------------------------------------------------------------------------


class _Mutated(SourceFileLoader):
    """Loads a module from a given text: compiled afresh, since cached bytecode would be that of the file."""

    def __init__(self, name: str, path: str, text: str) -> None:
        super().__init__(name, path)
        self.text = text

    def get_code(self, fullname: str) -> CodeType:
        return compile(self.text, self.path, "exec", dont_inherit=True)


class _Finder(MetaPathFinder):
    """Finds the mutated module before the import system finds its file; in the control, all of them, unchanged."""

    def __init__(self, mutant: Mutant) -> None:
        self.mutants = {m.module: replace(m, new=m.old) for m in MUTANTS} if mutant.old == mutant.new else {mutant.module: mutant}

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> ModuleSpec | None:
        mutant = self.mutants.get(fullname)
        if mutant is None:
            return None
        return spec_from_file_location(fullname, mutant.path, loader=_Mutated(fullname, str(mutant.path), mutant.source()))


def examine(mutants: Sequence[Mutant], *, workers: int = 2) -> list[Finding]:
    """Run the related claims of each mutant in a child process of its own.

    Raises
    ------
    RuntimeError
        If this process has already imported one of the mutated modules: a forked child would inherit it unchanged.
    """
    _import_the_unmutated()
    # A fork saves importing torch; where there is none, a fresh process starts from nothing.
    context = multiprocessing.get_context("fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn")
    waiting, running, found = list(mutants), {}, {}
    while waiting or running:
        while waiting and len(running) < workers:
            mutant = waiting.pop(0)
            receiver, sender = context.Pipe(duplex=False)
            process = context.Process(target=_examine_one, args=(mutant, sender), daemon=True)
            process.start()
            sender.close()
            running[receiver] = (mutant, process, time.monotonic() + PATIENCE)
        first = min(end for _, _, end in running.values()) - time.monotonic()
        ready = wait(list(running), timeout=max(first, 0.0))
        for receiver in [r for r, (_, _, end) in running.items() if r in ready or time.monotonic() > end]:
            mutant, process, _ = running.pop(receiver)
            try:
                found[mutant.name] = receiver.recv() if receiver in ready else Finding(mutant.name, mutant.claims[0], "no answer")
            except EOFError:
                found[mutant.name] = Finding(mutant.name, mutant.claims[0], "no answer")
            process.terminate()
            process.join()
            receiver.close()
    return [found[mutant.name] for mutant in mutants]


def control(claims: Iterable[str], count: int = 4) -> list[Mutant]:
    """Return mutants that change nothing and ask all of `claims` between them: none may be noticed."""
    names, first = sorted(set(claims)), MUTANTS[0]
    return [Mutant(f"{CONTROL} {i}", first.file, first.old, first.old, tuple(names[i::count])) for i in range(min(count, len(names)))]


@lru_cache(maxsize=1)
def _import_the_unmutated() -> Any:
    """Return the ledger, once everything is imported that children can share: they come by a fork wherever there is one."""
    import mpmath  # noqa: F401
    import numpy  # noqa: F401
    import scipy.linalg
    import scipy.optimize
    import scipy.stats  # noqa: F401
    import sympy  # noqa: F401
    import torch

    from deva_theory.claims import load_ledger, runner  # noqa: F401

    torch.set_num_threads(1)
    loaded = sorted({mutant.module for mutant in MUTANTS} & set(sys.modules))
    if loaded:
        raise RuntimeError(f"{loaded[0]} is imported already: run `python -m tests.claims.mutants` in a fresh process")
    return load_ledger(ROOT / "paper_checks" / "claims.toml")


def _examine_one(mutant: Mutant, answer: Connection) -> None:
    sys.meta_path.insert(0, _Finder(mutant))
    ledger = _import_the_unmutated()
    from deva_theory.certify import MissingExtra
    from deva_theory.claims import run_claim

    finding = Finding(mutant.name)
    for name in mutant.claims:
        claim = ledger.one(name)
        try:
            result = run_claim(claim, ROOT)
        except MissingExtra:
            continue
        except Exception as error:
            finding = Finding(mutant.name, name, type(error).__name__)
            break
        verdict = result["evidence"]["verdict"]
        if verdict != claim.expected or result["problems"]:
            finding = Finding(mutant.name, name, verdict if verdict != claim.expected else "problem")
            break
    answer.send(finding)
    answer.close()


# ---- the command ---------------------------------------------------------------------------------


def summary(findings: Sequence[Finding]) -> str:
    """Return the text of ``benchmarks/results/mutants.txt``."""
    from deva_theory.report.tables import format_table

    caught = sum(bool(finding.claim) for finding in findings)
    files = {mutant.name: mutant.file for mutant in MUTANTS}
    rows = [(f.name, files[f.name], f.claim or "not caught", f.how or SURVIVORS.get(f.name, ("", ""))[0]) for f in findings]
    left = [(f.name, SURVIVORS.get(f.name, ("unexplained", ""))) for f in findings if not f.claim]
    same = sum(kind == EQUIVALENT for _, (kind, _) in left)
    lines = [
        f"{len(findings)} mutants, each one changed formula in {len({files[f.name] for f in findings})} modules of the library",
        f"{caught} caught by a claim ({caught / len(findings):.1%}), {same} equivalent to the original, {len(left) - same} not caught",
        "",
        format_table(rows, ("mutant", "file", "caught by claim", "how")),
    ]
    if left:
        lines += ["", "Not caught:", "", *(f"{name} ({kind}): {reason}" for name, (kind, reason) in left)]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Examine mutants; the exit status is 1 where `SURVIVORS` lists other ones than survived."""
    parser = argparse.ArgumentParser(prog="python -m tests.claims.mutants", description="Break formulas and see which claim notices.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these mutants; nothing is written")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", action="store_true", help="print findings and those of the control as JSON; nothing is written")
    options = parser.parse_args(arguments)
    known = {mutant.name: mutant for mutant in MUTANTS}
    unknown = [name for name in options.names if name not in known]
    if unknown:
        parser.error(f"unknown mutant {unknown[0]!r}")
    chosen = [known[name] for name in options.names] or list(MUTANTS)
    if options.json:
        unchanged = control(claim for mutant in chosen for claim in mutant.claims)
        findings = examine(unchanged + chosen, workers=options.workers)  # the longest first
        print(json.dumps([asdict(finding) for finding in findings]))
        return 0
    findings = examine(chosen, workers=options.workers)
    text = summary(findings)
    print(text)
    if not options.names:
        RESULT.write_text(text + "\n", encoding="utf-8")
    return int({f.name for f in findings if not f.claim} != set(SURVIVORS) & {f.name for f in findings})


if __name__ == "__main__":
    # Before torch is imported: two children of one thread each.
    os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")
    raise SystemExit(main())

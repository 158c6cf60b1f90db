"""The table of R4: for every method of `experiments._rates_adaptation` the measured ratio, the proved bracket, and S7's ρ."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deva_theory.rates.catalogue import METHODS
from deva_theory.rates.coverage import FixedFactors
from experiments._rates_adaptation import (
    DELTA,
    DIMENSIONS,
    RULES,
    SLOWER,
    Slower,
    adagrad_bound,
    adagrad_floor,
    best_of_factors,
    best_of_rule,
    bracket,
    constant,
    family,
    random_instances,
    smoothness_ratio,
)

Row = dict[str, Any]
COLUMNS = (
    "method", "step_size", "dimension", "instance", "steps", "contrast", "exponent", "rho", "rho_start", "ratio", "proved_low",
    "proved_high",
)  # fmt: skip


def adaptation_rows(
    contrasts: Sequence[float], exponents: Sequence[float], steps: int, scales: Sequence[float], *, instances: int = 150,
    slower: Sequence[Slower] | None = None,
) -> dict[str, np.ndarray | list[str]]:
    """Return the least average ‖∇f‖_1 of adaptations over that of Γ ≡ 1, with what ρ predicts and what is proved.

    Parameters
    ----------
    contrasts, exponents : sequence of float
        Λ and s of the family.
    steps : int
        T ≥ 2.
    scales : sequence of float
        Multiples of `own_step` among which each method has its best.
    instances : int
        Random ones for each of `DIMENSIONS`.
    slower : sequence of Slower, optional
        Instances on which a rule is slower, by default `SLOWER`.

    Returns
    -------
    dict
        Columns ``method`` ("power": Γ ∝ r^s on the family; "random": fixed Γ on random instances; "adagrad", "deva-linf": rules, on the
        family where ``contrast`` has Λ, else on `slower`), ``step_size`` ("best", or "R1": at SignSGD's own η), ``dimension``,
        ``instance`` (a number within method), ``steps`` (T), ``contrast``, ``exponent`` (NaN where there is none), ``rho`` (fixed
        Γ: at r; rules: the average over the run), ``rho_start`` (of the first step, for rules 1), ``ratio`` (measured, over SignSGD),
        ``proved_low``, ``proved_high`` (of the ratio; NaN where nothing is proved).
    """
    made = [
        *_power_rows(contrasts, exponents, steps, scales), *_random_rows(instances, steps, scales), *_rule_rows(contrasts, steps, scales),
        *_slower_rows(SLOWER if slower is None else slower, scales),
    ]  # fmt: skip
    floats = {name: np.asarray([float(row[name]) for row in made]) for name in COLUMNS[5:]}
    whole = {name: np.asarray([int(row[name]) for row in made]) for name in COLUMNS[2:5]}
    return {name: [str(row[name]) for row in made] for name in COLUMNS[:2]} | whole | floats


def _row(method: str, dimension: int, instance: int, steps: int, rho: Any, ratio: Any, **known: Any) -> Row:
    none = {"step_size": "best", "contrast": np.nan, "exponent": np.nan, "rho_start": 1.0, "proved_low": np.nan, "proved_high": np.nan}
    return {
        **none, "method": method, "dimension": dimension, "instance": instance, "steps": steps, "rho": rho, "ratio": ratio, **known,
    }  # fmt: skip


def _proved(L: Tensor, r: Tensor, gamma: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Return the bounds on A_T(Γ)/A_T(1)."""
    (low, high), (plain_low, plain_high) = bracket(L, r, gamma, steps), bracket(L, r, torch.ones_like(gamma), steps)
    return low / plain_high, high / plain_low


def _power_rows(contrasts: Sequence[float], exponents: Sequence[float], steps: int, scales: Sequence[float]) -> Iterable[Row]:
    L, r, gamma = family(contrasts, exponents)
    adapted, _ = best_of_rule(L, r, FixedFactors(gamma, "powers of the distance"), steps, scales, gamma=gamma)
    plain, _ = best_of_rule(L[:, :1], r[:, :1], METHODS["signsgd"].rule(1), steps, scales)
    low, high = _proved(L, r, gamma, steps)
    rho = smoothness_ratio(L, r, gamma)
    for i, Lambda in enumerate(contrasts):
        for j, s in enumerate(exponents):
            yield _row(
                "power", 2, i * len(exponents) + j, steps, rho[i, j], adapted[i, j] / plain[i, 0], contrast=Lambda, exponent=s,
                rho_start=rho[i, j], proved_low=low[i, j], proved_high=high[i, j],
            )  # fmt: skip


def _random_rows(count: int, steps: int, scales: Sequence[float]) -> Iterable[Row]:
    for dimension in DIMENSIONS:
        L, r, gamma = random_instances(count, dimension, dimension)
        ratio = best_of_factors(L, r, gamma, steps, scales) / best_of_factors(L, r, torch.ones_like(gamma), steps, scales)
        (low, high), rho = _proved(L, r, gamma, steps), smoothness_ratio(L, r, gamma)
        for i in range(count):
            yield _row(
                "random", dimension, i, steps, rho[i], ratio[i], rho_start=rho[i], proved_low=low[i], proved_high=high[i],
            )  # fmt: skip


def _rule_rows(contrasts: Sequence[float], steps: int, scales: Sequence[float]) -> Iterable[Row]:
    """Yield the rules on the family: at their best η, where AdaGrad has a bound, and AdaGrad at SignSGD's own η, where it has a floor."""
    L, r, ones = (values[:, 0] for values in family(contrasts, [0.0]))
    plain, _ = best_of_rule(L, r, METHODS["signsgd"].rule(1), steps, scales)
    least, _ = bracket(L, r, ones, steps)
    for name in RULES:
        average, along = best_of_rule(L, r, METHODS[name].rule(1), steps, scales)
        above = adagrad_bound(L, r, steps) / least if name == "adagrad" else torch.full_like(least, torch.nan)
        for i, Lambda in enumerate(contrasts):
            yield _row(name, 2, i, steps, along[i], average[i] / plain[i], contrast=Lambda, proved_high=above[i])
    (same, along), (plain, _) = (best_of_rule(L, r, METHODS[name].rule(1), steps, [1.0]) for name in ("adagrad", "signsgd"))
    most = (1 + DELTA / 2 + DELTA**2 / 6) * constant(L, r, ones) / steps**0.5
    floor = adagrad_floor(L, r) / most
    for i, Lambda in enumerate(contrasts):
        yield _row("adagrad", 2, i, steps, along[i], same[i] / plain[i], step_size="R1", contrast=Lambda, proved_low=floor[i])


def _slower_rows(slower: Sequence[Slower], scales: Sequence[float]) -> Iterable[Row]:
    for i, found in enumerate(slower):
        L, r = torch.tensor([found.L], dtype=torch.float64), torch.tensor([found.r], dtype=torch.float64)
        average, along = best_of_rule(L, r, METHODS[found.method].rule(1), found.steps, scales)
        plain, _ = best_of_rule(L, r, METHODS["signsgd"].rule(1), found.steps, scales)
        yield _row(found.method, len(found.L), i, found.steps, along[0], average[0] / plain[0], proved_low=found.proved)


def summary_lines(table: Mapping[str, Any]) -> list[str]:
    """Return what the table says: factors proved faster and slower, ρ on random factors, rules."""
    columns = {name: np.asarray(column) for name, column in table.items()}

    def chosen(where: np.ndarray) -> dict[str, np.ndarray]:
        return {name: column[where] for name, column in columns.items()}

    def proved(rows: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        return rows["proved_high"] < 1, rows["proved_low"] > 1

    power, T = chosen(columns["method"] == "power"), int(columns["steps"][0])
    faster, slower = proved(power)
    lines = [
        f"R4, T = {T}: of {len(faster)} factors Γ ∝ r^s, {int(faster.sum())} proved faster than none, {int(slower.sum())} proved slower; "
        "that ρ tells the side is a theorem for them (s ≤ 1)"
    ]
    for dimension in np.unique(columns["dimension"][columns["method"] == "random"]):
        rows = chosen((columns["method"] == "random") & (columns["dimension"] == dimension))
        faster, slower = proved(rows)
        promised = rows["rho"] < 1
        misled, missed = slower & promised, faster & ~promised
        lines.append(
            f"    random factors, {dimension} coordinates: {int(faster.sum())} of {len(faster)} proved faster, {int(slower.sum())} slower; "
            f"ρ is on the wrong side in {np.mean(misled | missed):.1%}, in {int(misled.sum())} of the {int(promised.sum())} with ρ < 1"
        )
    on_family = ~np.isnan(columns["contrast"])
    for name in RULES:
        rule = columns["method"] == name
        parts = [_range(chosen(rule & on_family & (columns["step_size"] == "best")), "of SignSGD's least average on the family")]
        if (other := chosen(rule & ~on_family))["ratio"].size:
            parts.append(_range(other, f"on instances found slower, T = {', '.join(str(t) for t in np.unique(other['steps']))}"))
        if (same := chosen(rule & (columns["step_size"] == "R1")))["ratio"].size:
            parts.append(_range(same, f"at SignSGD's own η on the family, proved above {same['proved_low'].min():.3g}"))
        lines.append(f"    {name}: {'; '.join(parts)}")
    return lines


def _range(rows: Mapping[str, np.ndarray], what: str) -> str:
    return f"{rows['ratio'].min():.3g} to {rows['ratio'].max():.3g} {what}"
